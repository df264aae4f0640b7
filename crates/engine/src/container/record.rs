//! What is stored of a container.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use sampan_oci::{DiffId, ImageId};
use sampan_shim_protocol::{Health, HealthStatus};
use sampan_systemd::Slice;
use serde::{Deserialize, Serialize};

use super::config::{ContainerConfig, HostConfig};
use super::id::{ContainerId, ContainerName};
use super::lifecycle::Lifecycle;
use super::mount::MountPoint;
use super::view::NetworkState;
use crate::users::IdMaps;

/// What is stored of a container: plain data, complete enough to start it without its image's
/// record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: ContainerId,
    pub(crate) name: ContainerName,
    pub(crate) created: Timestamp,
    /// As it was asked for.
    pub(crate) image: String,
    pub(crate) image_id: ImageId,
    /// Bottom first.
    pub(crate) layers: Vec<DiffId>,
    pub(crate) path: String,
    pub(crate) args: Vec<String>,
    #[serde(with = "shared")]
    pub(crate) config: Arc<ContainerConfig>,
    #[serde(with = "shared")]
    pub(crate) host: Arc<HostConfig>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) mounts: Vec<MountPoint>,
    /// Its users, where they are not the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) users: Option<IdMaps>,
    /// Where systemd makes its scope, if systemd makes its control groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) slice: Option<Slice>,
    pub(crate) network: NetworkState,
    #[serde(default)]
    pub(crate) restart_count: u32,
    /// What its health checks have found, where it has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<Health>,
    /// Set by a stop, cleared by a start.
    #[serde(default)]
    pub(crate) stopped_by_hand: bool,
    /// Set from before a launch until its outcome is stored: after a power cut the run is lost.
    #[serde(default)]
    pub(crate) launching: bool,
    /// It runs a step of a build, and goes with it: one that an engine finds at its start is
    /// removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) of_build: bool,
}

impl Record {
    /// Returns what is known of its health when a run begins.
    pub(crate) fn health_at_start(&self) -> Option<Health> {
        super::health::is_checked(&self.config).then(|| Health {
            status: HealthStatus::Starting,
            failing_streak: 0,
            log: self
                .health
                .as_ref()
                .map_or_else(Vec::new, |health| health.log.clone()),
        })
    }

    /// Returns what is known of its health when a run has ended: nothing works any more.
    pub(crate) fn health_at_end(&self) -> Option<Health> {
        self.health.clone().map(|health| Health {
            status: HealthStatus::Unhealthy,
            ..health
        })
    }

    /// Whether nothing of it needs to be left after a power cut.
    pub(crate) fn is_fleeting(&self) -> bool {
        self.host.auto_remove || self.of_build
    }
}

/// Serde for shared parts: each is stored in its place.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Arc<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<T>, D::Error> {
        T::deserialize(deserializer).map(Arc::new)
    }
}

/// Where the files of containers are.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    root: PathBuf,
    run: PathBuf,
}

impl Paths {
    pub(crate) fn new(root: &Path, run: &Path) -> Self {
        Self {
            root: root.to_path_buf(),
            run: run.to_path_buf(),
        }
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// What has been told.
    pub(crate) fn events(&self) -> PathBuf {
        self.root.join("events")
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// Directories that are only waiting for their removal.
    pub(crate) fn trash(&self) -> PathBuf {
        self.root.join("trash")
    }

    pub(crate) fn run(&self) -> &Path {
        &self.run
    }

    pub(crate) fn shims(&self) -> PathBuf {
        self.run.join("shims")
    }

    pub(crate) fn container(&self, id: &ContainerId) -> PathBuf {
        self.containers().join(id.as_str())
    }

    pub(crate) fn shim(&self, id: &ContainerId) -> PathBuf {
        self.shims().join(id.as_str())
    }
}
