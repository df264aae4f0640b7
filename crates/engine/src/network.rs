//! Networks.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::container::id::{ContainerId, NetworkId};
use crate::container::view::Endpoint;
use crate::{Error, Result};

/// A network as it was when it was looked at.
#[derive(Debug, Clone)]
pub struct NetworkView {
    /// Identity.
    pub id: NetworkId,
    /// Name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// `bridge`, `host` or `null`.
    pub driver: String,
    /// Address range in CIDR, where it has one.
    pub subnet: Option<String>,
    /// Gateway, where it has one.
    pub gateway: Option<String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Running containers in it, with their names.
    pub containers: BTreeMap<ContainerId, (String, Endpoint)>,
}

/// Everything that can be done to networks: at present to look at the predefined ones. A cheap
/// clone.
#[derive(Debug, Clone)]
pub struct NetworkService {
    _inner: Arc<()>,
}

#[allow(clippy::unused_async)]
impl NetworkService {
    /// Returns a network by identity, name or unique prefix of the identity.
    pub async fn inspect(&self, network: &str) -> Result<NetworkView> {
        Err(Error::not_implemented(network))
    }

    /// Returns all networks. Filters: `id`, `name`, `driver`, `type`, `scope`, `label`, `dangling`.
    pub async fn list(&self, filters: &BTreeMap<String, Vec<String>>) -> Result<Vec<NetworkView>> {
        let _ = filters;
        Err(Error::not_implemented("list"))
    }
}
