//! What can go wrong, sorted by what a caller does about it.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::interface::InterfaceName;
use crate::ports::{PortHolder, Protocol};
use crate::subnet::Subnet;

/// Result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Class of an [`Error`]; an edge maps it to an HTTP status or an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request itself is malformed or asks for something impossible.
    Invalid,
    /// Something else holds what was asked for.
    Conflict,
    /// The named object does not exist.
    NotFound,
    /// A pool (addresses, ports, subnets) has nothing left.
    Exhausted,
    /// The kernel or this version cannot do it.
    Unsupported,
    /// The caller lacks the privilege.
    Forbidden,
    /// The kernel refused for another reason.
    System,
}

/// A failure of one network operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that no interface can have.
    #[error("invalid interface name {name:?}")]
    InvalidInterfaceName {
        /// The refused name.
        name: String,
    },
    /// Not six hexadecimal octets, or a multicast address.
    #[error("invalid MAC address: {text}")]
    InvalidMac {
        /// The refused text.
        text: String,
    },
    /// Not `address/prefix`.
    #[error("invalid subnet: {text}")]
    InvalidSubnet {
        /// The refused text.
        text: String,
    },
    /// Every default subnet overlaps a route or an address of the host.
    #[error(
        "could not find an available, non-overlapping IPv4 address pool for the default bridge"
    )]
    SubnetsExhausted,
    /// All addresses of a subnet are in use.
    #[error("no available IPv4 addresses on this network's address pools: {subnet}")]
    AddressesExhausted {
        /// The full subnet.
        subnet: Subnet,
    },
    /// A requested address is held by another endpoint.
    #[error("Address already in use")]
    AddressInUse {
        /// The requested address.
        address: IpAddr,
    },
    /// A requested address lies outside the subnet, or is one of its reserved ones.
    #[error("invalid address {address}: it does not belong to any of this network's subnets")]
    AddressOutside {
        /// The requested address.
        address: IpAddr,
        /// The subnet it should be in.
        subnet: Subnet,
    },
    /// The port is published already, by this engine.
    #[error(
        "Bind for {address} failed: port is already allocated{}",
        by_container(owner)
    )]
    PortAllocated {
        /// Host address and port that were asked for.
        address: SocketAddr,
        /// Who of this engine's containers holds it.
        owner: Option<String>,
    },
    /// The port is in use by a process that is none of ours.
    #[error(
        "failed to bind host port {address}/{protocol}: address already in use{}",
        by_program(holder)
    )]
    PortInUse {
        /// Host address and port that were asked for.
        address: SocketAddr,
        /// Transport of the port.
        protocol: Protocol,
        /// The program that holds it, where it can be seen.
        holder: Option<PortHolder>,
    },
    /// The host port could not be bound for another reason.
    #[error("failed to bind host port {address}/{protocol}")]
    PortBind {
        /// Host address and port that were asked for.
        address: SocketAddr,
        /// Transport of the port.
        protocol: Protocol,
        /// The kernel's answer.
        source: io::Error,
    },
    /// No port of a range (or of the ephemeral range) is free.
    #[error("all ports of {first}-{last} on {address} are allocated")]
    PortsExhausted {
        /// Host address that was asked for.
        address: IpAddr,
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u16,
    },
    /// A `-p` specification that does not parse.
    #[error("{reason}")]
    InvalidPort {
        /// Docker's wording of what is wrong.
        reason: String,
    },
    /// Something that is not there yet, named.
    #[error("{what} is not supported")]
    Unsupported {
        /// What was asked for.
        what: String,
    },
    /// No netlink socket could be opened.
    #[error("could not open a netlink socket")]
    OpenNetlink(#[source] io::Error),
    /// An operation on a bridge failed.
    #[error("could not {step} bridge {bridge}")]
    Bridge {
        /// What was being done.
        step: &'static str,
        /// The bridge.
        bridge: InterfaceName,
        /// The kernel's answer.
        source: Fault,
    },
    /// An operation on a container's interface failed.
    #[error("could not {step} interface {interface}")]
    Endpoint {
        /// What was being done.
        step: &'static str,
        /// The interface.
        interface: InterfaceName,
        /// The kernel's answer.
        source: Fault,
    },
    /// The host's interfaces, addresses or routes could not be listed.
    #[error("could not list the host's {what}")]
    List {
        /// What was being listed.
        what: &'static str,
        /// The kernel's answer.
        source: Fault,
    },
    /// A network namespace could not be made, opened or set up.
    #[error("could not {step} network namespace")]
    Namespace {
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A kernel setting could not be written.
    #[error("could not set {name}")]
    Sysctl {
        /// Path of the setting.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The firewall could not be read or changed.
    #[error("could not {step} nftables table {table}")]
    Firewall {
        /// What was being done.
        step: &'static str,
        /// The engine's own table.
        table: String,
        /// The kernel's answer.
        source: Fault,
    },
}

impl Error {
    /// Returns the class of this error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidInterfaceName { .. }
            | Self::InvalidMac { .. }
            | Self::InvalidSubnet { .. }
            | Self::AddressOutside { .. }
            | Self::InvalidPort { .. } => ErrorKind::Invalid,
            Self::SubnetsExhausted
            | Self::AddressesExhausted { .. }
            | Self::PortsExhausted { .. } => ErrorKind::Exhausted,
            Self::AddressInUse { .. } | Self::PortAllocated { .. } | Self::PortInUse { .. } => {
                ErrorKind::Conflict
            }
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::OpenNetlink(source)
            | Self::PortBind { source, .. }
            | Self::Namespace { source, .. }
            | Self::Sysctl { source, .. } => kind_of(source),
            Self::Bridge { source, .. }
            | Self::Endpoint { source, .. }
            | Self::List { source, .. }
            | Self::Firewall { source, .. } => kind_of(&source.error),
        }
    }

    /// Returns one line that a person can act on, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::PortAllocated { .. } => {
                Some("stop that container, or publish another port of the host".into())
            }
            Self::PortInUse { .. } => {
                Some("stop that program, or publish another port of the host".into())
            }
            Self::SubnetsExhausted => {
                Some("the host's routes cover all default subnets; give the bridge an address range of its own".into())
            }
            Self::PortBind { source, .. } if source.raw_os_error() == Some(EADDRNOTAVAIL) => {
                Some("the address must belong to one of the host's interfaces".into())
            }
            Self::Firewall { .. } if self.kind() == ErrorKind::Unsupported => {
                Some("the kernel needs nf_tables with nat, masquerade and fib support".into())
            }
            _ if self.kind() == ErrorKind::Forbidden => Some("the engine needs CAP_NET_ADMIN and CAP_SYS_ADMIN".into()),
            _ => None,
        }
    }
}

fn by_container(owner: &Option<String>) -> String {
    owner
        .as_ref()
        .map_or_else(String::new, |owner| format!(" by container {owner}"))
}

fn by_program(holder: &Option<PortHolder>) -> String {
    holder
        .as_ref()
        .map_or_else(String::new, |holder| format!(" by {holder}"))
}

const EPERM: i32 = rustix::io::Errno::PERM.raw_os_error();
const EACCES: i32 = rustix::io::Errno::ACCESS.raw_os_error();
const EOPNOTSUPP: i32 = rustix::io::Errno::OPNOTSUPP.raw_os_error();
const EAFNOSUPPORT: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
const EPROTONOSUPPORT: i32 = rustix::io::Errno::PROTONOSUPPORT.raw_os_error();
const EADDRNOTAVAIL: i32 = rustix::io::Errno::ADDRNOTAVAIL.raw_os_error();

fn kind_of(error: &io::Error) -> ErrorKind {
    match error.raw_os_error() {
        Some(EPERM | EACCES) => ErrorKind::Forbidden,
        Some(EOPNOTSUPP | EAFNOSUPPORT | EPROTONOSUPPORT) => ErrorKind::Unsupported,
        Some(EADDRNOTAVAIL) => ErrorKind::Invalid,
        _ if error.kind() == io::ErrorKind::NotFound => ErrorKind::NotFound,
        _ => ErrorKind::System,
    }
}

/// The kernel's answer to a netlink request: an error number and, where the
/// kernel gives one, its sentence (extended acknowledgement).
#[derive(Debug)]
pub struct Fault {
    pub(crate) error: io::Error,
    pub(crate) detail: Option<String>,
}

impl Fault {
    pub(crate) fn malformed(what: &str) -> Self {
        Self {
            error: io::Error::new(
                io::ErrorKind::InvalidData,
                format!("unexpected netlink answer: {what}"),
            ),
            detail: None,
        }
    }

    pub(crate) fn is(&self, errno: rustix::io::Errno) -> bool {
        self.error.raw_os_error() == Some(errno.raw_os_error())
    }

    /// Returns the operating system's error.
    #[must_use]
    pub fn io(&self) -> &io::Error {
        &self.error
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self {
            error,
            detail: None,
        }
    }
}

impl From<rustix::io::Errno> for Fault {
    fn from(errno: rustix::io::Errno) -> Self {
        Self {
            error: errno.into(),
            detail: None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}
