//! What queries see of a container.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use sampan_oci::ImageId;
use sampan_shim_protocol::Health;
use serde::{Deserialize, Serialize};

use super::config::{ContainerConfig, ContainerPort, HostConfig, NetworkMode};
use super::id::{ContainerId, ContainerName, ExecId, NetworkId};
use super::lifecycle::Lifecycle;
use super::mount::MountPoint;

/// A container as it was when it was looked at. Never changes afterwards.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// Identity.
    pub id: ContainerId,
    /// Name.
    pub name: ContainerName,
    /// When it was created.
    pub created: Timestamp,
    /// Image, as it was asked for.
    pub image: String,
    /// Whether that name still leads to the image of the container; where it does not, lists show
    /// the identity.
    pub image_name_is_current: bool,
    /// Identity of the image.
    pub image_id: ImageId,
    /// The program.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// What it was asked to be, completed from the image.
    pub config: Arc<ContainerConfig>,
    /// What it was asked to be on this host.
    pub host: Arc<HostConfig>,
    /// Where in its life it is.
    pub lifecycle: Lifecycle,
    /// Its mounts.
    pub mounts: Vec<MountPoint>,
    /// Its networks.
    pub network: NetworkState,
    /// Automatic restarts.
    pub restart_count: u32,
    /// What its health checks have found, where it has any.
    pub health: Option<Health>,
    /// Execs that run.
    pub execs: Vec<ExecId>,
    /// The container's `resolv.conf`; empty before the first start.
    pub resolv_conf_path: PathBuf,
    /// The container's `hostname`.
    pub hostname_path: PathBuf,
    /// The container's `hosts`.
    pub hosts_path: PathBuf,
    /// The log file; empty where the driver has none.
    pub log_path: PathBuf,
    /// Its profile of AppArmor; empty where the host has no AppArmor.
    pub apparmor_profile: String,
    /// Storage driver.
    pub driver: String,
    /// Sizes, where they were asked for.
    pub sizes: Option<ContainerSizes>,
}

/// Bytes that a container takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContainerSizes {
    /// Of the writable layer.
    pub writable: u64,
    /// Of all layers.
    pub root: u64,
}

/// The networks of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkState {
    /// Identity of the namespace while it exists; empty otherwise.
    pub sandbox_id: String,
    /// File of the namespace while it exists; empty otherwise.
    pub sandbox_key: String,
    /// Places by the name of the network.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Ports that are published at the moment, by container port.
    pub ports: BTreeMap<ContainerPort, Vec<PublishedPort>>,
}

/// A container's place in a network. Addresses are absent while it does not run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// Identity of the network; empty before the first start.
    pub network_id: String,
    /// Identity of this place; empty while it does not exist.
    pub endpoint_id: String,
    /// Address.
    pub address: Option<IpAddr>,
    /// Bits of its prefix.
    pub prefix: u8,
    /// Gateway.
    pub gateway: Option<IpAddr>,
    /// Hardware address; empty while it does not exist.
    pub mac: String,
    /// Hardware address that was asked for; empty for any.
    pub wanted_mac: String,
    /// Address that was asked for.
    pub wanted_address: Option<IpAddr>,
    /// Names in this network that were asked for.
    pub aliases: Vec<String>,
    /// Names by which it is found.
    pub dns_names: Vec<String>,
    /// Options of the driver.
    pub driver_options: BTreeMap<String, String>,
    /// The highest one gives the default route.
    pub gateway_priority: i64,
    /// Interface on the host.
    pub host_interface: String,
}

/// A host address and port that leads to a container's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Host address.
    pub ip: IpAddr,
    /// Host port.
    pub port: u16,
}

impl ContainerView {
    /// Returns the network mode by the name that lists show.
    pub fn network_mode(&self) -> &NetworkMode {
        &self.host.network_mode
    }

    /// Returns program and arguments.
    pub fn command(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.path.as_str()).chain(self.args.iter().map(String::as_str))
    }
}

/// An exec as it was when it was looked at.
#[derive(Debug, Clone)]
pub struct ExecView {
    /// Identity.
    pub id: ExecId,
    /// Its container.
    pub container: ContainerId,
    /// What it runs.
    pub config: super::request::ExecConfig,
    /// Where in its life it is.
    pub state: ExecState,
}

/// Where in its life an exec is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecState {
    /// Not started.
    Created,
    /// Is being started.
    Starting,
    /// Has a process.
    Running {
        /// The process, in the host's numbering.
        pid: i32,
    },
    /// Ended.
    Exited {
        /// The process it was, 0 when it was never started.
        pid: i32,
        /// 128 + n for signal n.
        code: i32,
    },
}

impl NetworkId {
    /// Returns the identity of a predefined network of this engine.
    pub(crate) fn predefined(run_root: &std::path::Path, name: &str) -> Self {
        let text = format!("{}\0{name}", run_root.display());
        let digest = sampan_oci::Digest::of(text.as_bytes());
        match digest.hex().parse() {
            Ok(id) => id,
            // A digest has 64 lower case digits.
            Err(_) => Self::random(),
        }
    }
}
