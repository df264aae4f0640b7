//! Bridges and veth pairs.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use crate::error::{Error, Fault, Result};
use crate::interface::{InterfaceName, MacAddress, random};
use crate::names::NetworkNames;
use crate::namespace::{NetworkNamespace, write_sysctl};
use crate::netlink::{NetlinkSocket, Request, Subsystem};
use crate::subnet::Subnet;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const BRIDGE_CALLS_NETFILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// A bridge of the host and the subnet behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// Name of the interface.
    pub name: InterfaceName,
    /// The containers' addresses.
    pub subnet: Subnet,
    /// The host's own address in the subnet.
    pub gateway: IpAddr,
    /// Largest packet, in bytes.
    pub mtu: u32,
}

impl Bridge {
    /// Largest packet of a bridge for which nothing else was asked.
    pub const DEFAULT_MTU: u32 = 1500;
}

/// What [`HostNetwork::ensure_bridge`] had to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ensured {
    /// Whether the bridge was made just now.
    pub created: bool,
    /// Whether the host forwarded no packets before and does now. It then
    /// forwards between its other interfaces too, unless its own rules say no.
    pub enabled_forwarding: bool,
}

/// Whether a container's port on the bridge sees its siblings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Containers of the bridge reach each other.
    #[default]
    Open,
    /// They reach the gateway only (inter-container communication off), and
    /// each other's published ports by it; the latter not on a host that
    /// filters bridged packets (`bridge-nf-call-iptables`), where such a
    /// packet never leaves the bridge.
    Isolated,
}

/// One end of a container on a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name of the host's end, such as `veth1a2b3c4`.
    pub host_interface: InterfaceName,
    /// Name in the container, such as `eth0`.
    pub interface: InterfaceName,
    /// The container's address in the bridge's subnet.
    pub address: IpAddr,
    /// The container's hardware address.
    pub mac: MacAddress,
    /// Whether siblings are reachable.
    pub isolation: Isolation,
    /// Next hop of the default route; `None` adds no default route.
    pub default_route: Option<IpAddr>,
}

/// The links of one network namespace, normally the host's: the one that the
/// opening thread was in.
///
/// All calls block for as long as the kernel's routing lock is held by
/// others; there is no other waiting.
#[derive(Debug)]
pub struct HostNetwork {
    route: Mutex<NetlinkSocket>,
    /// Removals have a socket of their own: they take long (some 20 ms), for the most part without
    /// the kernel's routing lock, and shall not hold up those who connect.
    removals: Mutex<NetlinkSocket>,
    queue: Mutex<Queue>,
}

/// Removals that have been asked for. Whoever gets the socket does all that wait, since the kernel
/// takes no longer for many than for one.
#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<InterfaceName>,
    /// Those that could not be removed by somebody else than who asked.
    failed: HashMap<InterfaceName, Fault>,
}

impl HostNetwork {
    /// Opens the calling thread's network namespace.
    ///
    /// # Errors
    /// When there is no netlink.
    pub fn open() -> Result<Self> {
        let socket = || NetlinkSocket::open(Subsystem::Route).map_err(Error::OpenNetlink);
        Ok(Self {
            route: Mutex::new(socket()?),
            removals: Mutex::new(socket()?),
            queue: Mutex::default(),
        })
    }

    /// Returns the bridge that an engine of these names has or should make:
    /// the existing one with its address, else one with a subnet that
    /// overlaps nothing on the host.
    ///
    /// # Errors
    /// When no subnet is left, or the host cannot be asked.
    pub fn plan_default_bridge(&self, names: &NetworkNames) -> Result<Bridge> {
        let mut route = self.lock();
        let existing = match find_link(&mut route, names.bridge())? {
            Some(link) => addresses_of(&mut route, link.header.index)?
                .into_iter()
                .next(),
            None => None,
        };
        let (subnet, gateway) = match existing {
            Some((address, prefix)) => (Subnet::new(address, prefix)?, address),
            None => {
                let subnet = names.choose_subnet(&taken_subnets(&mut route)?)?;
                (subnet, subnet.gateway())
            }
        };
        Ok(Bridge {
            name: names.bridge().clone(),
            subnet,
            gateway,
            mtu: Bridge::DEFAULT_MTU,
        })
    }

    /// Returns the subnets in use on the host: of its addresses and routes.
    ///
    /// # Errors
    /// When the host cannot be asked.
    pub fn taken_subnets(&self) -> Result<Vec<Subnet>> {
        taken_subnets(&mut self.lock())
    }

    /// Makes the bridge, or makes an existing one right. Idempotent.
    ///
    /// # Errors
    /// When the kernel refuses, or something else has the name.
    pub fn ensure_bridge(&self, bridge: &Bridge) -> Result<Ensured> {
        let mut route = self.lock();
        let (_, created) = ensure_link(&mut route, bridge)?;
        drop(route);
        let enabled_forwarding = configure(bridge)?;
        Ok(Ensured {
            created,
            enabled_forwarding,
        })
    }

    /// Removes a bridge; one that is not there is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_bridge(&self, name: &InterfaceName) -> Result<()> {
        delete_link(&mut self.removals(), name).map_err(|source| Error::Bridge {
            step: "remove",
            bridge: name.clone(),
            source,
        })
    }

    /// Connects a namespace to a bridge: one message makes the veth pair with
    /// both ends in place, one send sets the container's side up. When this
    /// returns packets flow, and the neighbours know a changed MAC address.
    /// After a failure nothing is left.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn connect(
        &self,
        namespace: &NetworkNamespace,
        bridge: &Bridge,
        endpoint: &Endpoint,
    ) -> Result<()> {
        let first_port = self.make_pair(namespace, bridge, endpoint)?;
        let connected = namespace.with_route(|route| {
            let index = set_up_inside(route, bridge, endpoint)?;
            self.settle(&endpoint.host_interface)?;
            if first_port {
                self.settle(&bridge.name)?;
            }
            announce(route, endpoint, index)
        });
        namespace.close_route();
        if let Err(error) = connected {
            // The first error is the one to tell; a pair that cannot be
            // removed either is found by the next teardown of orphans.
            let _ = self.disconnect(&endpoint.host_interface);
            return Err(error);
        }
        Ok(())
    }

    /// Whether what [`HostNetwork::connect`] has made is still there: nobody has removed the bridge
    /// or the pair meanwhile.
    ///
    /// # Errors
    /// When the host cannot be asked.
    pub fn is_connected(&self, bridge: &Bridge, endpoint: &Endpoint) -> Result<bool> {
        let mut route = self.lock();
        let Some(link) = find_link(&mut route, &endpoint.host_interface)? else {
            return Ok(false);
        };
        let bridge = find_link(&mut route, &bridge.name)?;
        Ok(bridge.is_some_and(|bridge| controller(&link) == Some(bridge.header.index)))
    }

    /// Waits until an interface whose other side has come up sends packets.
    /// The kernel finds that out in the background, within a second, and
    /// drops what is sent until then: a first packet lost costs a program a
    /// second. Asking for the link makes it look at once (Linux 6.8).
    fn settle(&self, interface: &InterfaceName) -> Result<()> {
        find_link(&mut self.lock(), interface).map(|_| ())
    }

    /// Removes a container's veth pair by its host end. One that is not there
    /// (its namespace has ended) is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn disconnect(&self, host_interface: &InterfaceName) -> Result<()> {
        self.queue().waiting.push(host_interface.clone());
        let mut route = self.removals();
        let batch = std::mem::take(&mut self.queue().waiting);
        if delete_links(&mut route, &batch).is_err() {
            for interface in &batch {
                if let Err(fault) = delete_link(&mut route, interface) {
                    self.queue().failed.insert(interface.clone(), fault);
                }
            }
        }
        match self.queue().failed.remove(host_interface) {
            None => Ok(()),
            Some(source) => Err(Error::Endpoint {
                step: "remove",
                interface: host_interface.clone(),
                source,
            }),
        }
    }

    /// Lists the interfaces on a bridge; none when there is no such bridge.
    ///
    /// # Errors
    /// When the host cannot be asked.
    pub fn interfaces_of(&self, bridge: &InterfaceName) -> Result<Vec<InterfaceName>> {
        let mut route = self.lock();
        let Some(link) = find_link(&mut route, bridge)? else {
            return Ok(Vec::new());
        };
        let index = link.header.index;
        let links = dump_links(&mut route, index)?;
        Ok(links
            .iter()
            .filter(|link| controller(link) == Some(index))
            .filter_map(name_of)
            .collect())
    }

    /// Removes several veth pairs by their host ends. Those that are not there
    /// are no error. Takes no longer than one alone: what the kernel waits
    /// for at a removal (some 20 ms) it waits for once.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn disconnect_all(&self, host_interfaces: &[InterfaceName]) -> Result<()> {
        let Some(first) = host_interfaces.first() else {
            return Ok(());
        };
        delete_links(&mut self.removals(), host_interfaces).map_err(|source| Error::Endpoint {
            step: "remove",
            interface: first.clone(),
            source,
        })
    }

    /// Removes every interface on the bridge that no live endpoint owns
    /// (what a killed engine left) and returns their names.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_orphans(
        &self,
        bridge: &InterfaceName,
        live: &HashSet<InterfaceName>,
    ) -> Result<Vec<InterfaceName>> {
        let mut orphans = self.interfaces_of(bridge)?;
        orphans.retain(|interface| !live.contains(interface));
        self.disconnect_all(&orphans)?;
        Ok(orphans)
    }

    /// Makes the pair; returns whether the bridge had no port that works.
    fn make_pair(
        &self,
        namespace: &NetworkNamespace,
        bridge: &Bridge,
        endpoint: &Endpoint,
    ) -> Result<bool> {
        let mut route = self.lock();
        let (bridge_index, running) = match find_link(&mut route, &bridge.name)? {
            Some(link) => (
                link.header.index,
                link.header.flags.contains(LinkFlags::Running),
            ),
            None => {
                let (index, _) = ensure_link(&mut route, bridge)?;
                configure(bridge)?;
                (index, false)
            }
        };
        let settings = port_settings(endpoint);
        let requests = pair_requests(namespace, bridge, endpoint, bridge_index, settings);
        match route.execute(requests) {
            Ok(()) => Ok(!running),
            Err(refusal) => {
                if refusal.index > 0 {
                    let _ = delete_link(&mut route, &endpoint.host_interface);
                }
                Err(Error::Endpoint {
                    step: if refusal.index == 0 {
                        "create"
                    } else {
                        "set the bridge port of"
                    },
                    interface: endpoint.host_interface.clone(),
                    source: refusal.fault,
                })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, NetlinkSocket> {
        self.route.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn removals(&self) -> MutexGuard<'_, NetlinkSocket> {
        self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes interfaces. Those that are not there are no error.
fn delete_links(route: &mut NetlinkSocket, interfaces: &[InterfaceName]) -> Result<(), Fault> {
    let [_, _, ..] = interfaces else {
        return interfaces
            .iter()
            .try_for_each(|interface| delete_link(route, interface));
    };
    // A whole group of interfaces can be removed in one message; nobody
    // else's interface is in a group of a random number.
    let group = random_group();
    for interface in interfaces {
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(interface.to_string()),
            LinkAttribute::Group(group),
        ];
        match route.execute(vec![(RouteNetlinkMessage::SetLink(link), 0)]) {
            Err(refusal) if refusal.fault.is(Errno::NODEV) => {}
            other => other.map_err(|refusal| refusal.fault)?,
        }
    }
    let mut all = LinkMessage::default();
    all.attributes.push(LinkAttribute::Group(group));
    match route.execute(vec![(RouteNetlinkMessage::DelLink(all), 0)]) {
        Err(refusal) if refusal.fault.is(Errno::NODEV) => Ok(()),
        other => other.map_err(|refusal| refusal.fault),
    }
}

fn pair_requests(
    namespace: &NetworkNamespace,
    bridge: &Bridge,
    endpoint: &Endpoint,
    bridge_index: u32,
    settings: Vec<InfoBridgePort>,
) -> Vec<Request<RouteNetlinkMessage>> {
    // The peer may not be up in this message: the kernel answers ENOTCONN,
    // because its other end is not there yet.
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(endpoint.interface.to_string()),
        LinkAttribute::NetNsFd(namespace.as_fd().as_raw_fd()),
        LinkAttribute::Address(endpoint.mac.octets().to_vec()),
        LinkAttribute::Mtu(bridge.mtu),
    ];
    let mut host = LinkMessage::default();
    host.header.flags = LinkFlags::Up;
    host.header.change_mask = LinkFlags::Up;
    host.attributes = vec![
        LinkAttribute::IfName(endpoint.host_interface.to_string()),
        LinkAttribute::Mtu(bridge.mtu),
        LinkAttribute::Controller(bridge_index),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    let mut requests = vec![(
        RouteNetlinkMessage::NewLink(host),
        NLM_F_CREATE | NLM_F_EXCL,
    )];
    if !settings.is_empty() {
        let mut port = LinkMessage::default();
        port.attributes = vec![
            LinkAttribute::IfName(endpoint.host_interface.to_string()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(InfoPortData::BridgePort(settings)),
            ]),
        ];
        requests.push((RouteNetlinkMessage::NewLink(port), 0));
    }
    requests
}

/// Chooses the settings of the bridge port that differ from the kernel's own.
fn port_settings(endpoint: &Endpoint) -> Vec<InfoBridgePort> {
    let mut settings = Vec::new();
    if endpoint.isolation == Isolation::Isolated {
        settings.push(InfoBridgePort::Isolated(true));
    }
    // Where bridged packets pass the firewall as well, one that a container
    // sends to its own published port is turned round inside the bridge and
    // must leave by the port it came from.
    if fs::read(BRIDGE_CALLS_NETFILTER).is_ok_and(|value| value.starts_with(b"1")) {
        settings.push(InfoBridgePort::HairpinMode(true));
    }
    settings
}

/// Gives the container's end its address and brings it up; returns its index.
/// That is asked for: the kernel takes a chosen one for both ends of a pair
/// or for neither.
fn set_up_inside(route: &mut NetlinkSocket, bridge: &Bridge, endpoint: &Endpoint) -> Result<u32> {
    let failed = |step, source| Error::Endpoint {
        step,
        interface: endpoint.interface.clone(),
        source,
    };
    let link = find_link(route, &endpoint.interface)?;
    let index = link
        .ok_or_else(|| failed("find", Errno::NODEV.into()))?
        .header
        .index;
    route
        .execute(inner_requests(bridge, endpoint, index))
        .map_err(|refusal| {
            let steps = ["add an address to", "bring up", "add a default route by"];
            failed(
                steps.get(refusal.index).copied().unwrap_or("set up"),
                refusal.fault,
            )
        })?;
    Ok(index)
}

/// Sets the MAC address once more, at which the kernel announces the address
/// to the neighbours (`arp_notify`); what it sent when the interface came up
/// was too early for the bridge.
fn announce(route: &mut NetlinkSocket, endpoint: &Endpoint, index: u32) -> Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes
        .push(LinkAttribute::Address(endpoint.mac.octets().to_vec()));
    route
        .execute(vec![(RouteNetlinkMessage::SetLink(link), 0)])
        .map_err(|refusal| Error::Endpoint {
            step: "announce",
            interface: endpoint.interface.clone(),
            source: refusal.fault,
        })
}

fn inner_requests(
    bridge: &Bridge,
    endpoint: &Endpoint,
    index: u32,
) -> Vec<Request<RouteNetlinkMessage>> {
    let create = NLM_F_CREATE | NLM_F_EXCL;
    let address = address_message(index, endpoint.address, bridge.subnet);
    let mut up = LinkMessage::default();
    up.header.index = index;
    up.header.flags = LinkFlags::Up;
    up.header.change_mask = LinkFlags::Up;
    let mut requests = vec![
        (RouteNetlinkMessage::NewAddress(address), create),
        (RouteNetlinkMessage::SetLink(up), 0),
    ];
    if let Some(gateway) = endpoint.default_route {
        let mut route = RouteMessage::default();
        route.header.address_family = family(gateway);
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.protocol = RouteProtocol::Boot;
        route.header.scope = RouteScope::Universe;
        route.header.kind = RouteType::Unicast;
        route.attributes = vec![
            RouteAttribute::Gateway(RouteAddress::from(gateway)),
            RouteAttribute::Oif(index),
        ];
        requests.push((RouteNetlinkMessage::NewRoute(route), create));
    }
    requests
}

fn address_message(index: u32, address: IpAddr, subnet: Subnet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = subnet.prefix();
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    match subnet.last() {
        IpAddr::V4(broadcast) if subnet.prefix() < 31 => {
            message
                .attributes
                .push(AddressAttribute::Broadcast(broadcast));
        }
        IpAddr::V4(_) => {}
        // Nobody else can have it: a duplicate check would only hold it up.
        IpAddr::V6(_) => message.header.flags = AddressHeaderFlags::Nodad,
    }
    message
}

/// Makes the bridge's link and address right; returns its index and whether it was made.
fn ensure_link(route: &mut NetlinkSocket, bridge: &Bridge) -> Result<(u32, bool)> {
    let failed = |step| {
        move |source| Error::Bridge {
            step,
            bridge: bridge.name.clone(),
            source,
        }
    };
    let (link, created) = match find_link(route, &bridge.name)? {
        Some(link) => (link, false),
        None => {
            let mut link = LinkMessage::default();
            link.attributes = vec![
                LinkAttribute::IfName(bridge.name.to_string()),
                LinkAttribute::Mtu(bridge.mtu),
                // A bridge without an address of its own takes the lowest of
                // its ports, and changes it as containers come and go.
                LinkAttribute::Address(MacAddress::random().octets().to_vec()),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
            ];
            match route.execute(vec![(
                RouteNetlinkMessage::NewLink(link),
                NLM_F_CREATE | NLM_F_EXCL,
            )]) {
                Ok(()) => {}
                Err(refusal) if refusal.fault.is(Errno::EXIST) => {}
                Err(refusal) => return Err(failed("create")(refusal.fault)),
            }
            let link = find_link(route, &bridge.name)?;
            (
                link.ok_or_else(|| failed("find")(Errno::NODEV.into()))?,
                true,
            )
        }
    };
    if !is_bridge(&link) {
        let taken = Fault {
            error: Errno::EXIST.into(),
            detail: Some("another kind of interface has this name".into()),
        };
        return Err(failed("use")(taken));
    }

    let index = link.header.index;
    let present = addresses_of(route, index)?;
    let wanted = (bridge.gateway, bridge.subnet.prefix());
    let mut requests: Vec<Request<_>> = Vec::new();
    for (address, prefix) in present.iter().filter(|present| **present != wanted) {
        let subnet = Subnet::new(*address, *prefix)?;
        requests.push((
            RouteNetlinkMessage::DelAddress(address_message(index, *address, subnet)),
            0,
        ));
    }
    if !present.contains(&wanted) {
        let address = address_message(index, bridge.gateway, bridge.subnet);
        requests.push((
            RouteNetlinkMessage::NewAddress(address),
            NLM_F_CREATE | NLM_F_REPLACE,
        ));
    }
    if !link.header.flags.contains(LinkFlags::Up) {
        let mut up = LinkMessage::default();
        up.header.index = index;
        up.header.flags = LinkFlags::Up;
        up.header.change_mask = LinkFlags::Up;
        requests.push((RouteNetlinkMessage::SetLink(up), 0));
    }
    if !requests.is_empty() {
        route
            .execute(requests)
            .map_err(|refusal| failed("set up")(refusal.fault))?;
    }
    Ok((index, created))
}

/// Writes the settings of a bridge; returns whether the host forwarded nothing before.
fn configure(bridge: &Bridge) -> Result<bool> {
    let name = &bridge.name;
    // Lets answers come back to connections that begin at 127.0.0.1 and go to
    // a published port. The firewall drops what else could use it.
    set_if_different(
        &format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"),
        "1",
    )?;
    for (setting, value) in [("disable_ipv6", "1"), ("accept_ra", "0")] {
        match set_if_different(&format!("/proc/sys/net/ipv6/conf/{name}/{setting}"), value) {
            // A kernel without IPv6.
            Err(Error::Sysctl { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => {
                other?;
            }
        }
    }
    set_if_different(IP_FORWARD, "1")
}

/// Writes a setting unless it is so already (writing may be forbidden, and
/// takes the routing lock); returns whether it was written.
fn set_if_different(path: &str, value: &str) -> Result<bool> {
    let present = fs::read_to_string(path).map_err(|source| Error::Sysctl {
        name: path.to_owned(),
        source,
    })?;
    if present.trim_end() == value {
        return Ok(false);
    }
    write_sysctl(path, value).map(|()| true)
}

fn find_link(route: &mut NetlinkSocket, name: &InterfaceName) -> Result<Option<LinkMessage>> {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::IfName(name.to_string()),
        LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
    ];
    match route.get(RouteNetlinkMessage::GetLink(link)) {
        Ok(RouteNetlinkMessage::NewLink(link)) => Ok(Some(link)),
        Ok(_) => Err(Error::List {
            what: "interfaces",
            source: Fault::malformed("another object than a link"),
        }),
        Err(fault) if fault.is(Errno::NODEV) => Ok(None),
        Err(source) => Err(Error::List {
            what: "interfaces",
            source,
        }),
    }
}

fn dump_links(route: &mut NetlinkSocket, controller: u32) -> Result<Vec<LinkMessage>> {
    let mut link = LinkMessage::default();
    link.attributes = vec![
        LinkAttribute::Controller(controller),
        LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
    ];
    let objects = dump(route, "interfaces", || {
        RouteNetlinkMessage::GetLink(link.clone())
    })?;
    Ok(objects
        .into_iter()
        .filter_map(|object| match object {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        })
        .collect())
}

fn addresses_of(route: &mut NetlinkSocket, index: u32) -> Result<Vec<(IpAddr, u8)>> {
    let addresses = dump_addresses(route)?;
    Ok(addresses
        .into_iter()
        .filter(|message| message.header.index == index)
        .filter_map(|message| Some((address_of(&message)?, message.header.prefix_len)))
        .collect())
}

fn dump_addresses(route: &mut NetlinkSocket) -> Result<Vec<AddressMessage>> {
    let objects = dump(route, "addresses", || {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        RouteNetlinkMessage::GetAddress(message)
    })?;
    Ok(objects
        .into_iter()
        .filter_map(|object| match object {
            RouteNetlinkMessage::NewAddress(address) => Some(address),
            _ => None,
        })
        .collect())
}

fn taken_subnets(route: &mut NetlinkSocket) -> Result<Vec<Subnet>> {
    let mut taken = Vec::new();
    for message in dump_addresses(route)? {
        if let Some(address) = address_of(&message) {
            taken.push(Subnet::new(address, message.header.prefix_len)?);
        }
    }
    let routes = dump(route, "routes", || {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        RouteNetlinkMessage::GetRoute(message)
    })?;
    for object in routes {
        let RouteNetlinkMessage::NewRoute(message) = object else {
            continue;
        };
        let destination = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                    Some(IpAddr::V4(*address))
                }
                _ => None,
            });
        // Without a destination it is the default route, which overlaps all.
        if let Some(destination) = destination {
            taken.push(Subnet::new(
                destination,
                message.header.destination_prefix_length,
            )?);
        }
    }
    Ok(taken)
}

/// Lists objects, again when the list changed meanwhile; a host so busy that
/// it never holds still gets the last answer.
fn dump(
    route: &mut NetlinkSocket,
    what: &'static str,
    request: impl Fn() -> RouteNetlinkMessage,
) -> Result<Vec<RouteNetlinkMessage>> {
    let failed = |source| Error::List { what, source };
    for _ in 0..20 {
        if let Some(objects) = route.dump(request()).map_err(failed)? {
            return Ok(objects);
        }
    }
    Err(failed(Errno::INTR.into()))
}

fn delete_link(route: &mut NetlinkSocket, name: &InterfaceName) -> Result<(), Fault> {
    let mut link = LinkMessage::default();
    link.attributes
        .push(LinkAttribute::IfName(name.to_string()));
    match route.execute(vec![(RouteNetlinkMessage::DelLink(link), 0)]) {
        Err(refusal) if refusal.fault.is(Errno::NODEV) => Ok(()),
        other => other.map_err(|refusal| refusal.fault),
    }
}

/// Chooses a group of interfaces that is neither the default one nor small,
/// as those that people choose are.
fn random_group() -> u32 {
    u32::from_ne_bytes(random()) | 0x4000_0000
}

fn is_bridge(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
        _ => false,
    })
}

fn controller(link: &LinkMessage) -> Option<u32> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Controller(index) => Some(*index),
            _ => None,
        })
}

fn name_of(link: &LinkMessage) -> Option<InterfaceName> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => name.parse().ok(),
            _ => None,
        })
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    })
    .or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}
