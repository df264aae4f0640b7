//! The engine as a whole: opening, closing, and the services.

use crate::config::Config;
use crate::{
    ContainerService, Error, EventBus, NetworkService, Result, SystemService, VolumeService,
};

/// An open engine. Only one at a time can have a root directory open.
#[derive(Debug)]
pub struct Engine {
    containers: ContainerService,
    volumes: VolumeService,
    networks: NetworkService,
    system: SystemService,
    events: EventBus,
}

impl Engine {
    /// Opens the engine: reads the records, finds the shims, takes away what the last engine left
    /// half done. Needs a tokio runtime. A damaged record does not stop it.
    #[allow(clippy::unused_async)]
    pub async fn open(config: Config) -> Result<Self> {
        drop(config);
        Err(Error::not_implemented("open"))
    }

    /// Containers.
    pub fn containers(&self) -> &ContainerService {
        &self.containers
    }

    /// Volumes.
    pub fn volumes(&self) -> &VolumeService {
        &self.volumes
    }

    /// Networks.
    pub fn networks(&self) -> &NetworkService {
        &self.networks
    }

    /// The engine and its host.
    pub fn system(&self) -> &SystemService {
        &self.system
    }

    /// News.
    pub fn events(&self) -> &EventBus {
        &self.events
    }

    /// Ends the engine's tasks. Containers go on.
    #[allow(clippy::unused_async)]
    pub async fn close(&self) {}
}
