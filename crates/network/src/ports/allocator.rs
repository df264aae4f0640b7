//! Giving out host ports.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use super::{HeldPort, HostPort, PortBinding, PortHolder, PortRequest, Protocol};
use crate::error::{Error, Result};

const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// The kernel's own default, for a /proc that does not tell.
const DEFAULT_RANGE: RangeInclusive<u16> = 32768..=60999;

/// Gives out host ports and remembers whose they are.
///
/// The kernel decides whether a port is free; the table only names the owner
/// in an error and keeps the ephemeral ports rotating.
#[derive(Debug, Default)]
pub struct PortAllocator {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    owners: BTreeMap<(Protocol, u16, IpAddr), String>,
    next_ephemeral: u16,
}

impl PortAllocator {
    /// Makes an allocator that has given out nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes all the requested ports for `owner` (a name for people), or none.
    ///
    /// # Errors
    /// When a port is taken, a range is full, or an address cannot be bound.
    pub fn allocate(&self, owner: &str, requests: &[PortRequest]) -> Result<Vec<HeldPort>> {
        let mut table = self.lock();
        // Exact ports first: an ephemeral or ranged one must not take what
        // another line of the same request names.
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|&index| match &requests[index].host {
            HostPort::Exact(_) => 0,
            HostPort::Range(_) => 1,
            HostPort::Ephemeral => 2,
        });
        let mut held: Vec<(usize, HeldPort)> = Vec::with_capacity(requests.len());
        for index in order {
            match table.take(owner, &requests[index]) {
                Ok(port) => held.push((index, port)),
                Err(error) => {
                    for (_, port) in &held {
                        table.forget(&port.binding);
                    }
                    return Err(error);
                }
            }
        }
        held.sort_by_key(|(index, _)| *index);
        Ok(held.into_iter().map(|(_, port)| port).collect())
    }

    /// Records a port whose socket a running shim holds already (recovery).
    pub fn adopt(&self, owner: &str, binding: &PortBinding) {
        self.lock().owners.insert(key(binding), owner.to_owned());
    }

    /// Gives a port back. One that was never given out is no error. The
    /// kernel frees it when the last copy of its socket is closed.
    pub fn release(&self, binding: &PortBinding) {
        self.lock().forget(binding);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn take(&mut self, owner: &str, request: &PortRequest) -> Result<HeldPort> {
        let address = request.bind_address();
        if address.is_ipv6() {
            return Err(Error::Unsupported {
                what: format!("publishing on the IPv6 address {address}"),
            });
        }
        let (protocol, container) = (request.protocol, request.container);
        match &request.host {
            HostPort::Exact(port) => {
                let address = SocketAddr::new(address, *port);
                // Looked for here alone: of a range the next one is taken.
                self.take_one(owner, protocol, address, container)
                    .map_err(|error| match error {
                        Error::PortInUse { .. } => Error::PortInUse {
                            address,
                            protocol,
                            holder: PortHolder::find(protocol, address),
                        },
                        other => other,
                    })
            }
            HostPort::Range(range) => {
                let candidates = range.clone();
                self.take_first(owner, protocol, address, container, range, candidates)
            }
            HostPort::Ephemeral => {
                let range = ephemeral_range();
                let reserved = reserved_ports();
                let start = if range.contains(&self.next_ephemeral) {
                    self.next_ephemeral
                } else {
                    *range.start()
                };
                let candidates = (start..=*range.end())
                    .chain(*range.start()..start)
                    .filter(|port| !reserved.iter().any(|reserved| reserved.contains(port)));
                let held =
                    self.take_first(owner, protocol, address, container, &range, candidates)?;
                self.next_ephemeral = held
                    .binding
                    .host_port
                    .checked_add(1)
                    .unwrap_or(*range.start());
                Ok(held)
            }
        }
    }

    fn take_first(
        &mut self,
        owner: &str,
        protocol: Protocol,
        address: IpAddr,
        container: u16,
        range: &RangeInclusive<u16>,
        candidates: impl Iterator<Item = u16>,
    ) -> Result<HeldPort> {
        for port in candidates {
            match self.take_one(owner, protocol, SocketAddr::new(address, port), container) {
                Err(Error::PortAllocated { .. } | Error::PortInUse { .. }) => {}
                other => return other,
            }
        }
        Err(Error::PortsExhausted {
            address,
            first: *range.start(),
            last: *range.end(),
        })
    }

    fn take_one(
        &mut self,
        owner: &str,
        protocol: Protocol,
        address: SocketAddr,
        container: u16,
    ) -> Result<HeldPort> {
        if let Some(other) = self.owner_of(protocol, address) {
            return Err(Error::PortAllocated {
                address,
                owner: Some(other.to_owned()),
            });
        }
        let socket = hold(protocol, address).map_err(|errno| match errno {
            Errno::ADDRINUSE => Error::PortInUse {
                address,
                protocol,
                holder: None,
            },
            errno => Error::PortBind {
                address,
                protocol,
                source: io::Error::from(errno),
            },
        })?;
        let binding = PortBinding {
            protocol,
            host_ip: address.ip(),
            host_port: address.port(),
            container_port: container,
        };
        self.owners.insert(key(&binding), owner.to_owned());
        Ok(HeldPort { binding, socket })
    }

    /// Finds who holds the address, or a wildcard that covers or is covered by it.
    fn owner_of(&self, protocol: Protocol, address: SocketAddr) -> Option<&str> {
        let lowest = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        self.owners
            .range((protocol, address.port(), lowest)..)
            .take_while(|((other, port, _), _)| *other == protocol && *port == address.port())
            .find(|((_, _, ip), _)| {
                ip.is_ipv4() == address.is_ipv4()
                    && (*ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified())
            })
            .map(|(_, owner)| owner.as_str())
    }

    fn forget(&mut self, binding: &PortBinding) {
        self.owners.remove(&key(binding));
    }
}

fn key(binding: &PortBinding) -> (Protocol, u16, IpAddr) {
    (binding.protocol, binding.host_port, binding.host_ip)
}

fn hold(protocol: Protocol, address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    match protocol {
        Protocol::Tcp => {
            // Lets the port be taken while old connections of a host program
            // linger in TIME_WAIT; two listeners still exclude each other.
            sockopt::set_socket_reuseaddr(&socket, true)?;
            bind(&socket, &address)?;
            // The smallest queue: nobody ever accepts here.
            listen(&socket, 0)?;
        }
        Protocol::Udp => bind(&socket, &address)?,
    }
    Ok(socket)
}

fn ephemeral_range() -> RangeInclusive<u16> {
    std::fs::read_to_string(RANGE)
        .ok()
        .and_then(|text| parse_ephemeral(&text))
        .unwrap_or(DEFAULT_RANGE)
}

fn parse_ephemeral(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u16>);
    let (first, last) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (0 < first && first <= last).then_some(first..=last)
}

fn reserved_ports() -> Vec<RangeInclusive<u16>> {
    std::fs::read_to_string(RESERVED)
        .map(|text| parse_reserved(&text))
        .unwrap_or_default()
}

fn parse_reserved(text: &str) -> Vec<RangeInclusive<u16>> {
    text.trim()
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse().ok()?..=last.parse().ok()?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(host: HostPort) -> PortRequest {
        PortRequest {
            host_ip: Some("127.0.0.1".parse().unwrap()),
            host,
            container: 80,
            protocol: Protocol::Tcp,
        }
    }

    fn one(allocator: &PortAllocator, owner: &str, host: HostPort) -> Result<HeldPort> {
        Ok(allocator.allocate(owner, &[request(host)])?.remove(0))
    }

    #[test]
    fn ephemeral_ports_rotate() {
        let allocator = PortAllocator::new();
        let first = one(&allocator, "a", HostPort::Ephemeral).unwrap();
        allocator.release(&first.binding);
        drop(first.socket);
        let second = one(&allocator, "a", HostPort::Ephemeral).unwrap();
        assert_ne!(first.binding.host_port, second.binding.host_port);
    }

    #[test]
    fn a_taken_port_names_its_owner() {
        let allocator = PortAllocator::new();
        let held = one(&allocator, "web", HostPort::Ephemeral).unwrap();
        let port = held.binding.host_port;
        let error = one(&allocator, "other", HostPort::Exact(port)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("Bind for 127.0.0.1:{port} failed: port is already allocated by container web")
        );
        let wildcard = PortRequest {
            host_ip: None,
            ..request(HostPort::Exact(port))
        };
        let error = allocator.allocate("other", &[wildcard]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("Bind for 0.0.0.0:{port} failed: port is already allocated by container web")
        );
        allocator.release(&held.binding);
        drop(held);
        one(&allocator, "other", HostPort::Exact(port)).unwrap();
    }

    #[test]
    fn a_foreign_port_is_told_apart() {
        let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = foreign.local_addr().unwrap().port();
        let allocator = PortAllocator::new();
        let error = one(&allocator, "a", HostPort::Exact(port)).unwrap_err();
        assert!(matches!(error, Error::PortInUse { .. }), "{error}");
        let told =
            format!("failed to bind host port 127.0.0.1:{port}/tcp: address already in use by ");
        let own = format!("(process {})", std::process::id());
        let said = error.to_string();
        assert!(said.starts_with(&told) && said.ends_with(&own), "{said}");
    }

    #[test]
    fn a_range_gives_the_first_free_one_and_ends() {
        let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = foreign.local_addr().unwrap().port();
        let allocator = PortAllocator::new();
        let error = one(&allocator, "a", HostPort::Range(port..=port)).unwrap_err();
        assert!(matches!(error, Error::PortsExhausted { .. }));
    }

    #[test]
    fn all_or_nothing() {
        let allocator = PortAllocator::new();
        let free = one(&allocator, "probe", HostPort::Ephemeral)
            .unwrap()
            .binding;
        allocator.release(&free);
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let requests = [
            request(HostPort::Exact(free.host_port)),
            request(HostPort::Exact(taken.local_addr().unwrap().port())),
        ];
        allocator.allocate("a", &requests).unwrap_err();
        one(&allocator, "b", HostPort::Exact(free.host_port)).unwrap();
    }

    #[test]
    fn adopted_ports_count() {
        let allocator = PortAllocator::new();
        let binding = PortBinding {
            protocol: Protocol::Udp,
            host_ip: "0.0.0.0".parse().unwrap(),
            host_port: 5353,
            container_port: 53,
        };
        allocator.adopt("dns", &binding);
        let wanted = PortRequest {
            protocol: Protocol::Udp,
            ..request(HostPort::Exact(5353))
        };
        assert!(matches!(
            allocator.allocate("x", &[wanted]),
            Err(Error::PortAllocated { .. })
        ));
    }

    #[test]
    fn an_address_of_nobody_is_explained() {
        let allocator = PortAllocator::new();
        let wanted = PortRequest {
            host_ip: Some("192.0.2.1".parse().unwrap()),
            ..request(HostPort::Exact(80))
        };
        let error = allocator.allocate("x", &[wanted]).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Invalid);
        assert!(error.hint().unwrap().contains("interfaces"));
    }

    #[test]
    fn proc_texts_are_read() {
        assert_eq!(parse_ephemeral("32768\t60999\n"), Some(32768..=60999));
        assert_eq!(parse_ephemeral("x"), None);
        assert_eq!(
            parse_reserved("8080,9000-9002\n"),
            vec![8080..=8080, 9000..=9002]
        );
        assert_eq!(parse_reserved("\n"), vec![]);
    }
}
