//! What the firewall is to do, in the engine's words.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::interface::InterfaceName;
use crate::link::Bridge;
use crate::ports::{PortBinding, Protocol};
use crate::subnet::Subnet;

/// The rules of one bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirewallBridge {
    /// Name of the interface.
    pub name: InterfaceName,
    /// The containers' addresses.
    pub subnet: Subnet,
    /// Whether packets that leave the bridge for elsewhere take the host's address.
    pub masquerade: bool,
    /// Whether containers of the bridge reach each other directly.
    pub inter_container: bool,
}

impl From<&Bridge> for FirewallBridge {
    /// The rules of a default bridge: masquerade, and containers reach each other.
    fn from(bridge: &Bridge) -> Self {
        Self {
            name: bridge.name.clone(),
            subnet: bridge.subnet,
            masquerade: true,
            inter_container: true,
        }
    }
}

/// A port of a container that is reachable on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The host's side, and the container's port.
    pub binding: PortBinding,
    /// The container's address.
    pub container: IpAddr,
}

/// Everything the firewall of one engine is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    bridges: BTreeMap<InterfaceName, FirewallBridge>,
    published: BTreeMap<(Protocol, IpAddr, u16), SocketAddr>,
}

impl Policy {
    /// Adds a bridge, or replaces the one of the same name.
    pub fn add_bridge(&mut self, bridge: FirewallBridge) {
        self.bridges.insert(bridge.name.clone(), bridge);
    }

    /// Forgets a bridge; an unknown one is no error.
    pub fn remove_bridge(&mut self, name: &InterfaceName) {
        self.bridges.remove(name);
    }

    /// Publishes a port, or points an already published one elsewhere.
    pub fn publish(&mut self, port: &Published) {
        let binding = &port.binding;
        let target = SocketAddr::new(port.container, binding.container_port);
        self.published.insert(
            (binding.protocol, binding.host_ip, binding.host_port),
            target,
        );
    }

    /// Takes a published port back; an unknown one is no error.
    pub fn unpublish(&mut self, binding: &PortBinding) {
        self.published
            .remove(&(binding.protocol, binding.host_ip, binding.host_port));
    }

    /// Returns the bridges by name.
    pub fn bridges(&self) -> impl Iterator<Item = &FirewallBridge> {
        self.bridges.values()
    }

    /// Returns the published ports: protocol, host address, host port, target.
    pub fn published(&self) -> impl Iterator<Item = (Protocol, IpAddr, u16, SocketAddr)> {
        self.published
            .iter()
            .map(|((protocol, ip, port), target)| (*protocol, *ip, *port, *target))
    }
}
