//! Volumes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use crate::{Error, Result};

/// A volume to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateVolume {
    /// Name; empty draws one of 64 digits.
    pub name: String,
    /// Driver; empty for `local`, the only one.
    pub driver: String,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A volume as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeView {
    /// Name.
    pub name: String,
    /// Driver.
    pub driver: String,
    /// Where its content is on the host.
    pub mountpoint: PathBuf,
    /// When it was made.
    pub created: Timestamp,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// How many containers use it, ended ones included.
    pub references: usize,
}

/// Everything that can be done to volumes. A cheap clone.
#[derive(Debug, Clone)]
pub struct VolumeService {
    _inner: Arc<()>,
}

#[allow(clippy::unused_async, clippy::needless_pass_by_value)]
impl VolumeService {
    /// Makes a volume, or returns the one of that name.
    pub async fn create(&self, request: CreateVolume) -> Result<VolumeView> {
        Err(Error::not_implemented(request.name))
    }

    /// Returns a volume.
    pub async fn inspect(&self, name: &str) -> Result<VolumeView> {
        Err(Error::not_implemented(name))
    }

    /// Returns all volumes, by name. Filters: `name` (part), `label`, `driver`, `dangling`.
    pub async fn list(&self, filters: &BTreeMap<String, Vec<String>>) -> Result<Vec<VolumeView>> {
        let _ = filters;
        Err(Error::not_implemented("list"))
    }

    /// Removes a volume that no container uses. With `force` it is no error when there is none.
    pub async fn remove(&self, name: &str, force: bool) -> Result<()> {
        let _ = force;
        Err(Error::not_implemented(name))
    }
}
