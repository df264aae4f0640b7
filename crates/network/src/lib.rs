//! Networks of containers: bridges, veth pairs, addresses, ports, firewall.
//!
//! Everything is done by netlink; no program (`ip`, `nft`, `iptables`) is ever
//! run. All calls are synchronous and block only in the kernel: an async
//! caller puts them on a blocking thread.
//!
//! It knows nothing of containers, images or records: the engine hands it
//! plain values and stores what it is given. It never reads the environment
//! and never logs.
//!
//! * [`NetworkNames`]: what an engine's network objects are called;
//! * [`HostNetwork`]: bridges and the veth pairs on them;
//! * [`NetworkNamespace`], [`Pool`]: containers' namespaces, ready-made;
//! * [`Firewall`]: one own nftables table, kept equal to a [`Policy`];
//! * [`PortAllocator`], [`parse_publish`]: host ports and the sockets that hold them;
//! * [`Ipam`], [`Subnet`]: addresses (pure);
//! * [`Hosts`], [`resolv_conf`]: files of a container (pure).
//!
//! The order of a start: [`Pool::take`], [`HostNetwork::connect`],
//! [`PortAllocator::allocate`], [`Firewall::update`]. Every undoing
//! ([`HostNetwork::disconnect`], [`PortAllocator::release`],
//! [`Firewall::update`], [`Ipam::release`]) is idempotent and independent of
//! the others.

mod error;
mod files;
mod firewall;
mod interface;
mod ipam;
mod link;
mod names;
mod namespace;
mod netlink;
mod pool;
mod ports;
mod subnet;

pub use error::{Error, ErrorKind, Fault, Result};
pub use files::{
    DnsOptions, Hosts, RESOLVED_FILE, host_mode_resolv_conf, hostname_file, is_resolved_stub,
    resolv_conf,
};
pub use firewall::{
    Applied, Firewall, FirewallBridge, FirewallWatch, ForwardBlock, Policy, Published,
};
pub use interface::{InterfaceName, MacAddress};
pub use ipam::Ipam;
pub use link::{Bridge, Endpoint, Ensured, HostNetwork, Isolation};
pub use names::NetworkNames;
pub use namespace::NetworkNamespace;
pub use pool::Pool;
pub use ports::{
    HeldPort, HostPort, PortAllocator, PortBinding, PortHolder, PortRequest, Protocol,
    parse_publish,
};
pub use subnet::Subnet;
