//! Host ports: what is asked for, and the sockets that hold what was given.
//!
//! A published port is held by a bound socket (TCP: listening), so that no
//! other program can take it and every clash is found by the kernel. The
//! firewall sends the packets elsewhere before they reach that socket.

mod allocator;
mod holder;
mod spec;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use allocator::PortAllocator;
pub use holder::PortHolder;
pub use spec::parse_publish;

/// Transport protocol of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Returns the number of the protocol in the IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl FromStr for Protocol {
    type Err = Error;

    /// Reads `tcp` or `udp` in any case.
    fn from_str(text: &str) -> Result<Self> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Err(Error::Unsupported {
                what: "publishing sctp ports".to_owned(),
            }),
            _ => Err(Error::InvalidPort {
                reason: format!("invalid proto: {text}"),
            }),
        }
    }
}

/// Which host port is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPort {
    /// Any port of the host's ephemeral range.
    Ephemeral,
    /// This one.
    Exact(u16),
    /// The first free one of these.
    Range(RangeInclusive<u16>),
}

/// One container port that is to be reachable on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRequest {
    /// Address of the host; `None` means all of them.
    pub host_ip: Option<IpAddr>,
    /// Port of the host.
    pub host: HostPort,
    /// Port in the container.
    pub container: u16,
    /// Transport.
    pub protocol: Protocol,
}

impl PortRequest {
    /// Returns the host address to bind: the one asked for, or the wildcard.
    #[must_use]
    pub fn bind_address(&self) -> IpAddr {
        self.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }
}

/// A host port that was given out. Plain data for records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortBinding {
    /// Transport.
    pub protocol: Protocol,
    /// Address of the host, possibly the wildcard.
    pub host_ip: IpAddr,
    /// Port of the host, never 0.
    pub host_port: u16,
    /// Port in the container.
    pub container_port: u16,
}

impl PortBinding {
    /// Returns host address and port together.
    #[must_use]
    pub fn host(&self) -> SocketAddr {
        SocketAddr::new(self.host_ip, self.host_port)
    }
}

/// A host port and the socket that keeps everybody else off it.
///
/// The port stays taken for the kernel as long as any copy of the socket is
/// open (the shim keeps one); for the allocator until it is released there.
#[derive(Debug)]
pub struct HeldPort {
    /// What was given out.
    pub binding: PortBinding,
    /// The bound socket (TCP: listening, never accepted from).
    pub socket: OwnedFd,
}
