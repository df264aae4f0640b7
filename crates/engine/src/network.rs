//! Networks: the default bridge, the host's and none.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use jiff::Timestamp;
use sampan_network::{
    Applied, Bridge, Endpoint as Link, Firewall, FirewallBridge, FirewallWatch, HostNetwork,
    HostPort, InterfaceName, Ipam, Isolation, MacAddress, NetworkNames, NetworkNamespace, Policy,
    Pool, PortAllocator, PortBinding, PortRequest, Published,
};
use sampan_text::with_causes;
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::container::config::{ContainerPort, HostConfig, NetworkMode, Protocol};
use crate::container::id::{ContainerId, NetworkId};
use crate::container::record::Record;
use crate::container::registry::Registry;
use crate::container::view::{Endpoint, NetworkState, PublishedPort};
use crate::prune::{PruneFilter, Pruned};
use crate::{Error, ErrorKind, Result};

/// The shortest time between two repairs of the firewall.
const BETWEEN_REPAIRS: std::time::Duration = std::time::Duration::from_millis(50);
/// Namespaces kept ready.
const READY: usize = 3;
/// The default network's name.
pub(crate) const BRIDGE: &str = "bridge";
const PREDEFINED: [(&str, &str); 3] = [(BRIDGE, "bridge"), ("host", "host"), ("none", "null")];

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
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    names: NetworkNames,
    run: PathBuf,
    registry: Registry,
    created: Timestamp,
    host: HostNetwork,
    firewall: Firewall,
    ports: PortAllocator,
    pool: Pool,
    bridge: Mutex<Option<BridgeState>>,
}

#[derive(Debug)]
struct BridgeState {
    bridge: Bridge,
    ipam: Ipam,
}

/// A container's new place in the network.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) namespace: NetworkNamespace,
    pub(crate) state: NetworkState,
    /// Sockets that hold the published ports.
    pub(crate) held: Vec<OwnedFd>,
}

/// A place in the default network that nobody has yet. Dropping it takes it back, which blocks.
#[derive(Debug)]
pub(crate) struct Place {
    namespace: NetworkNamespace,
    bridge: Bridge,
    link: Link,
    undo: Undo,
}

impl NetworkService {
    /// Opens the host's network. Makes nothing yet. Blocks.
    pub(crate) fn open(names: NetworkNames, run: PathBuf, registry: Registry) -> Result<Self> {
        let host = HostNetwork::open()?;
        let firewall = Firewall::open(names.table())?;
        Ok(Self {
            shared: Arc::new(Shared {
                names,
                run,
                registry,
                created: Timestamp::now(),
                host,
                firewall,
                ports: PortAllocator::new(),
                pool: Pool::new(READY),
                bridge: Mutex::default(),
            }),
        })
    }

    /// Returns a network by identity, name or unique prefix of the identity.
    pub async fn inspect(&self, network: &str) -> Result<NetworkView> {
        let views = self.views().await?;
        let named = views
            .iter()
            .find(|v| v.name == network || v.id.as_str() == network);
        let mut prefixed = views
            .iter()
            .filter(|v| !network.is_empty() && v.id.as_str().starts_with(network));
        match (named, prefixed.next(), prefixed.next()) {
            (Some(view), _, _) | (None, Some(view), None) => Ok(view.clone()),
            (None, Some(_), Some(_)) => Err(Error::invalid(format!(
                "network {network} is ambiguous (2 matches found based on ID prefix)"
            ))),
            (None, None, _) => Err(Error::not_found(format!("network {network} not found"))),
        }
    }

    /// Returns all networks. Filters: `id`, `name`, `driver`, `type`, `scope`, `label`, `dangling`.
    pub async fn list(&self, filters: &BTreeMap<String, Vec<String>>) -> Result<Vec<NetworkView>> {
        for key in filters.keys() {
            if !matches!(
                key.as_str(),
                "id" | "name" | "driver" | "type" | "scope" | "label" | "dangling"
            ) {
                return Err(Error::invalid(format!("invalid filter '{key}'")));
            }
        }
        let fits = |view: &NetworkView| {
            filters.iter().all(|(key, values)| {
                values.is_empty()
                    || values.iter().any(|value| match key.as_str() {
                        "id" => view.id.as_str().starts_with(value.as_str()),
                        "name" => view.name.contains(value.as_str()),
                        "driver" => view.driver == *value,
                        "type" => value == "builtin",
                        "scope" => value == "local",
                        "dangling" => matches!(value.as_str(), "false" | "0"),
                        _ => false,
                    })
            })
        };
        Ok(self
            .views()
            .await?
            .into_iter()
            .filter(|v| fits(v))
            .collect())
    }

    /// Removes the networks that no container uses. Predefined ones stay, and there are no others.
    pub async fn prune(&self, _filter: PruneFilter) -> Result<Pruned<String>> {
        Ok(Pruned {
            removed: Vec::new(),
            reclaimed: 0,
        })
    }

    /// Returns the identity of a predefined network.
    pub(crate) fn id_of(&self, name: &str) -> NetworkId {
        NetworkId::predefined(&self.shared.run, name)
    }

    /// Refuses what names no network of this engine.
    pub(crate) fn check(&self, name: &str) -> Result<()> {
        if PREDEFINED.iter().any(|(known, _)| *known == name) || name == self.id_of(BRIDGE).as_str()
        {
            return Ok(());
        }
        Err(Error::not_found(format!("network {name} not found"))
            .with_hint("networks of one's own come with a later version; use bridge, host, none or container:NAME"))
    }

    async fn views(&self) -> Result<Vec<NetworkView>> {
        let service = self.clone();
        let planned = crate::blocking(move || {
            let shared = &service.shared;
            let known = shared.bridge().as_ref().map(|state| state.bridge.clone());
            Ok(match known {
                Some(bridge) => Some(bridge),
                None => shared.host.plan_default_bridge(&shared.names).ok(),
            })
        })
        .await?;
        let records = self.shared.registry.records();
        Ok(PREDEFINED
            .into_iter()
            .map(|(name, driver)| {
                let bridge = planned.as_ref().filter(|_| name == BRIDGE);
                let mut options = BTreeMap::new();
                if let Some(bridge) = bridge {
                    for (key, value) in [
                        ("com.docker.network.bridge.default_bridge", "true"),
                        ("com.docker.network.bridge.enable_icc", "true"),
                        ("com.docker.network.bridge.enable_ip_masquerade", "true"),
                        ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0"),
                        ("com.docker.network.bridge.name", bridge.name.as_str()),
                        ("com.docker.network.driver.mtu", &bridge.mtu.to_string()),
                    ] {
                        options.insert(key.to_owned(), value.to_owned());
                    }
                }
                NetworkView {
                    id: self.id_of(name),
                    name: name.to_owned(),
                    created: self.shared.created,
                    driver: driver.to_owned(),
                    subnet: bridge.map(|bridge| bridge.subnet.to_string()),
                    gateway: bridge.map(|bridge| bridge.gateway.to_string()),
                    options,
                    labels: BTreeMap::new(),
                    containers: records
                        .iter()
                        .filter(|record| record.lifecycle.is_running())
                        .filter_map(|record| {
                            let endpoint = record.network.endpoints.get(name)?;
                            Some((
                                record.id.clone(),
                                (record.name.to_string(), endpoint.clone()),
                            ))
                        })
                        .collect(),
                }
            })
            .collect())
    }

    /// Takes a namespace with loopback only. Blocks.
    pub(crate) fn isolated(&self) -> Result<NetworkNamespace> {
        Ok(self.shared.pool.take()?)
    }

    /// Gives a container a namespace on the default bridge, its own where it has one already, and
    /// publishes its ports. After a failure nothing is left. Blocks.
    pub(crate) fn connect(
        &self,
        record: &Record,
        wish: &Endpoint,
        own: Option<NetworkNamespace>,
    ) -> Result<Connected> {
        let mac = match wish.wanted_mac.as_str() {
            "" => MacAddress::random(),
            text => text.parse()?,
        };
        let place = self.make_place(own, wish.wanted_address, mac)?;
        self.occupy(place, record, wish)
    }

    /// Makes a place on the default bridge for a container that is not known yet. Blocks.
    pub(crate) fn place(&self) -> Result<Place> {
        self.make_place(None, None, MacAddress::random())
    }

    /// Whether a place is still what it was when it was made. Blocks.
    pub(crate) fn is_whole(&self, place: &Place) -> bool {
        let found = self.shared.host.is_connected(&place.bridge, &place.link);
        found.unwrap_or(false)
    }

    fn make_place(
        &self,
        own: Option<NetworkNamespace>,
        wanted: Option<IpAddr>,
        mac: MacAddress,
    ) -> Result<Place> {
        let shared = &self.shared;
        let namespace = own.map_or_else(|| shared.pool.take(), Ok)?;
        let (bridge, address) = shared.take_address(wanted)?;
        let mut undo = Undo {
            shared: Arc::downgrade(shared),
            address: Some(address),
            interface: None,
            ports: Vec::new(),
        };
        let link = Link {
            host_interface: InterfaceName::random_veth(),
            interface: InterfaceName::numbered("eth", 0)?,
            address,
            mac,
            isolation: Isolation::Open,
            default_route: Some(bridge.gateway),
        };
        undo.interface = Some(link.host_interface.clone());
        shared.host.connect(&namespace, &bridge, &link)?;
        Ok(Place {
            namespace,
            bridge,
            link,
            undo,
        })
    }

    /// Gives a place to a container and publishes its ports. After a failure nothing is left.
    /// Blocks.
    pub(crate) fn occupy(
        &self,
        place: Place,
        record: &Record,
        wish: &Endpoint,
    ) -> Result<Connected> {
        let shared = &self.shared;
        let Place {
            namespace,
            bridge,
            link,
            mut undo,
        } = place;
        let requests = port_requests(&record.host, &record.config.exposed_ports)?;
        let held = shared
            .ports
            .allocate(record.name.as_str(), &requests)
            .map_err(port_error)?;
        undo.ports = held.iter().map(|port| port.binding).collect();
        shared.publish(&bridge, &undo.ports, link.address)?;
        let mut endpoint = Endpoint {
            network_id: self.id_of(BRIDGE).to_string(),
            endpoint_id: crate::container::id::random_hex(),
            address: Some(link.address),
            prefix: bridge.subnet.prefix(),
            gateway: Some(bridge.gateway),
            mac: link.mac.to_string(),
            host_interface: link.host_interface.to_string(),
            ..wish.clone()
        };
        endpoint.dns_names.clear();
        let sandbox_id = crate::container::id::random_hex();
        let state = NetworkState {
            sandbox_key: format!("/var/run/docker/netns/{}", &sandbox_id[..12]),
            sandbox_id,
            endpoints: BTreeMap::from([(BRIDGE.to_owned(), endpoint)]),
            ports: published(&undo.ports, &record.host, &record.config.exposed_ports),
        };
        undo.disarm();
        Ok(Connected {
            namespace,
            state,
            held: held.into_iter().map(|port| port.socket).collect(),
        })
    }

    /// Takes everything back that a container has in the network: on failed starts, at its end
    /// and at recovery. Idempotent. Blocks.
    pub(crate) fn disconnect(&self, state: &NetworkState) -> Result<()> {
        for endpoint in state.endpoints.values() {
            let Some(address) = endpoint.address else {
                continue;
            };
            let undo = Undo {
                shared: Arc::downgrade(&self.shared),
                address: Some(address),
                interface: endpoint.host_interface.parse().ok(),
                ports: bindings(state),
            };
            undo.run()?;
        }
        Ok(())
    }

    /// Takes note of what running containers have, and removes what nobody has. Blocks.
    pub(crate) fn recover(&self, running: &[Arc<Record>]) -> Result<()> {
        let shared = &self.shared;
        let on_bridge: Vec<(&Record, &Endpoint, IpAddr)> = running
            .iter()
            .filter_map(|record| {
                let endpoint = record.network.endpoints.get(BRIDGE)?;
                Some((record.as_ref(), endpoint, endpoint.address?))
            })
            .collect();
        let exists = PathBuf::from("/sys/class/net")
            .join(shared.names.bridge().as_str())
            .exists();
        if !exists && on_bridge.is_empty() {
            return Ok(());
        }
        let mut state = shared.bridge();
        // Its rules are applied with those of all ports, which must not be missing for a moment.
        let opened = match state.take() {
            Some(opened) => opened,
            None => shared.make_bridge()?,
        };
        let opened = state.insert(opened);
        let mut live = HashSet::new();
        let mut policy = Policy::default();
        policy.add_bridge(firewall_bridge(&opened.bridge));
        for (record, endpoint, address) in on_bridge {
            if let Err(error) = opened.ipam.adopt(address) {
                tracing::warn!(container = %record.id, %address, error = with_causes(&error), "an address is in use twice");
            }
            if let Ok(interface) = endpoint.host_interface.parse() {
                live.insert(interface);
            }
            for binding in bindings(&record.network) {
                shared.ports.adopt(record.name.as_str(), &binding);
                policy.publish(&Published {
                    binding,
                    container: address,
                });
            }
        }
        shared.host.remove_orphans(&opened.bridge.name, &live)?;
        shared.firewall.apply(policy)?;
        Ok(())
    }

    /// Repairs the firewall's table whenever somebody else has changed or flushed it. Costs nothing
    /// while nobody does. Ends only when it is dropped.
    pub(crate) async fn keep_firewall(&self) {
        let (watch, readiness) = match self.watch_firewall() {
            Ok(watched) => watched,
            Err(error) => {
                tracing::warn!(error = error.message(), "nobody watches the firewall");
                return;
            }
        };
        while readiness.readable().await.is_ok() {
            let mut concerned = false;
            // Makes the runtime wait for the socket anew.
            let _ = readiness.try_io(Interest::READABLE, || {
                concerned = watch.take();
                Err::<(), _>(std::io::ErrorKind::WouldBlock.into())
            });
            if !concerned {
                continue;
            }
            let shared = self.shared.clone();
            match crate::blocking(move || Ok(shared.firewall.ensure()?)).await {
                Ok(Applied::Unchanged) => continue,
                Ok(_) => tracing::warn!("somebody else changed the firewall's table: repaired"),
                Err(error) => {
                    tracing::error!(error = error.message(), "could not repair the firewall");
                }
            }
            // Somebody who takes it away again and again does not keep the engine busy.
            tokio::time::sleep(BETWEEN_REPAIRS).await;
        }
    }

    /// Returns the watch, and another descriptor of its socket by which the runtime tells when there
    /// is something.
    fn watch_firewall(&self) -> Result<(FirewallWatch, UnixStream)> {
        let watch = self.shared.firewall.watch()?;
        let readiness = || UnixStream::from_std(watch.as_fd().try_clone_to_owned()?.into());
        let readiness = readiness().map_err(|e| Error::because("watch the firewall", &e))?;
        Ok((watch, readiness))
    }

    /// Takes the bridge and the firewall's table away, of which nobody has anything any more.
    /// Idempotent; the next connect makes both anew. Blocks.
    pub(crate) fn remove(&self) -> Result<()> {
        let shared = &self.shared;
        let mut state = shared.bridge();
        let table = shared.firewall.remove();
        let bridge = shared.host.remove_bridge(shared.names.bridge());
        *state = None;
        table?;
        Ok(bridge?)
    }

    /// Returns the host's address on the default bridge, which is made if it is not there.
    pub async fn host_gateway(&self) -> Result<IpAddr> {
        let service = self.clone();
        crate::blocking(move || service.gateway()).await
    }

    /// Returns the host's address on the default bridge, for `host-gateway`. Blocks.
    pub(crate) fn gateway(&self) -> Result<IpAddr> {
        let mut state = self.shared.bridge();
        Ok(self.shared.open_bridge(&mut state)?.bridge.gateway)
    }

    /// Returns the names that are derived from the run root.
    pub(crate) fn names(&self) -> &NetworkNames {
        &self.shared.names
    }
}

impl Shared {
    fn bridge(&self) -> MutexGuard<'_, Option<BridgeState>> {
        self.bridge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the bridge and its rules, at first use.
    fn open_bridge<'a>(&self, state: &'a mut Option<BridgeState>) -> Result<&'a mut BridgeState> {
        if state.is_none() {
            let made = self.make_bridge()?;
            self.firewall
                .update(|policy| policy.add_bridge(firewall_bridge(&made.bridge)))?;
            *state = Some(made);
        }
        state
            .as_mut()
            .ok_or_else(|| Error::internal("the bridge was not opened"))
    }

    /// Makes the bridge, or makes the one that is there right; without its rules.
    fn make_bridge(&self) -> Result<BridgeState> {
        let bridge = self.host.plan_default_bridge(&self.names)?;
        let ensured = self.host.ensure_bridge(&bridge)?;
        if ensured.enabled_forwarding {
            tracing::info!("the host forwards IPv4 packets from now on");
        }
        let ipam = Ipam::new(bridge.subnet, bridge.gateway)?;
        Ok(BridgeState { bridge, ipam })
    }

    fn take_address(&self, wanted: Option<IpAddr>) -> Result<(Bridge, IpAddr)> {
        let mut state = self.bridge();
        let opened = self.open_bridge(&mut state)?;
        let address = match wanted {
            None => opened.ipam.allocate()?,
            Some(address) => {
                opened.ipam.adopt(address)?;
                address
            }
        };
        Ok((opened.bridge.clone(), address))
    }

    fn publish(&self, bridge: &Bridge, ports: &[PortBinding], container: IpAddr) -> Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        self.firewall.update(|policy| {
            policy.add_bridge(firewall_bridge(bridge));
            for binding in ports {
                policy.publish(&Published {
                    binding: *binding,
                    container,
                });
            }
        })?;
        Ok(())
    }
}

/// What is taken back when a step of connecting fails, or later.
#[derive(Debug)]
struct Undo {
    /// Containers have places, and the networks know the containers.
    shared: Weak<Shared>,
    address: Option<IpAddr>,
    interface: Option<InterfaceName>,
    ports: Vec<PortBinding>,
}

impl Undo {
    fn disarm(mut self) {
        self.address = None;
        self.interface = None;
        self.ports.clear();
    }

    fn run(mut self) -> Result<()> {
        self.take_back()
    }

    /// Goes on after a failure; returns the first.
    fn take_back(&mut self) -> Result<()> {
        let Some(shared) = self.shared.upgrade() else {
            return Ok(());
        };
        let mut first = Ok(());
        let ports = std::mem::take(&mut self.ports);
        if !ports.is_empty() {
            let unpublished = shared.firewall.update(|policy| {
                for binding in &ports {
                    policy.unpublish(binding);
                }
            });
            first = first.and(unpublished.map(|_| ()));
        }
        for binding in &ports {
            shared.ports.release(binding);
        }
        if let Some(interface) = self.interface.take() {
            first = first.and(shared.host.disconnect(&interface));
        }
        if let Some(address) = self.address.take()
            && let Some(state) = shared.bridge().as_mut()
        {
            state.ipam.release(address);
        }
        Ok(first?)
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Err(error) = self.take_back() {
            tracing::warn!(
                error = error.message(),
                "could not take a network connection back"
            );
        }
    }
}

fn firewall_bridge(bridge: &Bridge) -> FirewallBridge {
    FirewallBridge {
        name: bridge.name.clone(),
        subnet: bridge.subnet,
        masquerade: true,
        inter_container: true,
    }
}

/// What the firewall and the allocator know of published ports.
fn bindings(state: &NetworkState) -> Vec<PortBinding> {
    let ports = state.ports.iter();
    ports
        .flat_map(|(port, published)| {
            let protocol = transport(port.protocol).ok();
            published.iter().filter_map(move |host| {
                Some(PortBinding {
                    protocol: protocol?,
                    host_ip: host.ip,
                    host_port: host.port,
                    container_port: port.port,
                })
            })
        })
        .collect()
}

fn published(
    ports: &[PortBinding],
    host: &HostConfig,
    exposed: &std::collections::BTreeSet<ContainerPort>,
) -> BTreeMap<ContainerPort, Vec<PublishedPort>> {
    let mut shown: BTreeMap<ContainerPort, Vec<PublishedPort>> = BTreeMap::new();
    for port in exposed.iter().chain(host.port_bindings.keys()) {
        shown.entry(*port).or_default();
    }
    for binding in ports {
        let port = ContainerPort {
            port: binding.container_port,
            protocol: match binding.protocol {
                sampan_network::Protocol::Tcp => Protocol::Tcp,
                sampan_network::Protocol::Udp => Protocol::Udp,
            },
        };
        shown.entry(port).or_default().push(PublishedPort {
            ip: binding.host_ip,
            port: binding.host_port,
        });
    }
    shown
}

fn transport(protocol: Protocol) -> Result<sampan_network::Protocol> {
    match protocol {
        Protocol::Tcp => Ok(sampan_network::Protocol::Tcp),
        Protocol::Udp => Ok(sampan_network::Protocol::Udp),
        Protocol::Sctp => Err(Error::not_implemented(
            "publishing sctp ports is not supported",
        )),
    }
}

/// Turns what was asked for into requests for host ports.
pub(crate) fn port_requests(
    host: &HostConfig,
    exposed: &std::collections::BTreeSet<ContainerPort>,
) -> Result<Vec<PortRequest>> {
    let mut requests = Vec::new();
    for (port, wanted) in &host.port_bindings {
        for binding in wanted {
            requests.push(PortRequest {
                host_ip: match binding.host_ip.as_str() {
                    "" => None,
                    text => Some(
                        text.trim_start_matches('[')
                            .trim_end_matches(']')
                            .parse()
                            .map_err(|_| Error::invalid(format!("invalid IP address: {text}")))?,
                    ),
                },
                host: host_port(&binding.host_port)?,
                container: port.port,
                protocol: transport(port.protocol)?,
            });
        }
    }
    if host.publish_all_ports {
        for port in exposed {
            let asked = host
                .port_bindings
                .get(port)
                .is_some_and(|wanted| !wanted.is_empty());
            if !asked {
                requests.push(PortRequest {
                    host_ip: None,
                    host: HostPort::Ephemeral,
                    container: port.port,
                    protocol: transport(port.protocol)?,
                });
            }
        }
    }
    Ok(requests)
}

fn host_port(text: &str) -> Result<HostPort> {
    let invalid = || Error::invalid(format!("invalid port specification: {text:?}"));
    let number = |text: &str| text.parse::<u16>().map_err(|_| invalid());
    match text.split_once('-') {
        None if text.is_empty() || text == "0" => Ok(HostPort::Ephemeral),
        None => Ok(HostPort::Exact(number(text)?)),
        Some((first, last)) => {
            let (first, last) = (number(first)?, number(last)?);
            if first == 0 || last < first {
                return Err(invalid());
            }
            Ok(HostPort::Range(first..=last))
        }
    }
}

/// The name of the network that a mode connects to, where there is one.
pub(crate) fn network_of(mode: &NetworkMode) -> Option<&str> {
    match mode {
        NetworkMode::Default | NetworkMode::Bridge => Some(BRIDGE),
        NetworkMode::Host => Some("host"),
        NetworkMode::None => Some("none"),
        NetworkMode::Network(name) => Some(name),
        NetworkMode::Container(_) => None,
    }
}

/// Docker fails the start with 500 where a port is taken.
fn port_error(error: sampan_network::Error) -> Error {
    let hint = error.hint();
    let converted = Error::from(error);
    let converted = match converted.kind() {
        ErrorKind::Conflict => Error::internal(format!(
            "failed to set up container networking: driver failed programming external connectivity: {}",
            converted.message()
        )),
        _ => converted,
    };
    match hint {
        Some(hint) => converted.with_hint(hint),
        None => converted,
    }
}

impl From<sampan_network::Error> for Error {
    fn from(error: sampan_network::Error) -> Self {
        use sampan_network::ErrorKind as Network;
        let kind = match error.kind() {
            Network::Invalid => ErrorKind::Invalid,
            Network::Conflict => ErrorKind::Conflict,
            Network::NotFound => ErrorKind::NotFound,
            Network::Unsupported => ErrorKind::NotImplemented,
            Network::Forbidden => ErrorKind::Forbidden,
            Network::Exhausted | Network::System => ErrorKind::Internal,
        };
        let converted = Self::new(kind, with_causes(&error));
        match error.hint() {
            Some(hint) => converted.with_hint(hint),
            None => converted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::config::PortBinding as Wanted;

    #[test]
    fn ports_are_asked_for_as_they_were_written() {
        let port: ContainerPort = "80/tcp".parse().unwrap();
        let wanted = |ip: &str, port: &str| Wanted {
            host_ip: ip.into(),
            host_port: port.into(),
        };
        let host = HostConfig {
            port_bindings: BTreeMap::from([(
                port,
                vec![
                    wanted("", "8080"),
                    wanted("127.0.0.1", ""),
                    wanted("[::1]", "90-95"),
                ],
            )]),
            publish_all_ports: true,
            ..HostConfig::default()
        };
        let exposed = [port, "53/udp".parse().unwrap()].into();
        let requests = port_requests(&host, &exposed).unwrap();
        assert_eq!(requests[0].host, HostPort::Exact(8080));
        assert_eq!(requests[1].host, HostPort::Ephemeral);
        assert_eq!(requests[1].host_ip, Some("127.0.0.1".parse().unwrap()));
        assert_eq!(requests[2].host, HostPort::Range(90..=95));
        assert_eq!(requests[3].protocol, sampan_network::Protocol::Udp);
        assert_eq!(requests.len(), 4);
        for text in ["x", "70000", "95-90", "-", "0-9"] {
            assert!(host_port(text).is_err(), "{text}");
        }
    }
}
