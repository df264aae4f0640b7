//! Which addresses of a subnet are in use.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::error::{Error, Result};
use crate::subnet::Subnet;

/// Allocator of one subnet's addresses. Pure: the caller stores what it was
/// given and [adopts](Ipam::adopt) it again after a restart.
///
/// Addresses are given out in ascending order and start over at the end, so
/// that a released one is not handed to the next container while neighbours
/// and connections still remember it.
#[derive(Clone, Debug)]
pub struct Ipam {
    subnet: Subnet,
    gateway: IpAddr,
    used: BTreeSet<u128>,
    next: u128,
}

impl Ipam {
    /// Makes an allocator in which only the reserved addresses (network,
    /// broadcast, gateway) are used.
    ///
    /// # Errors
    /// When the gateway is outside the subnet.
    pub fn new(subnet: Subnet, gateway: IpAddr) -> Result<Self> {
        if !subnet.contains(gateway) {
            return Err(Error::AddressOutside {
                address: gateway,
                subnet,
            });
        }
        Ok(Self {
            subnet,
            gateway,
            used: BTreeSet::new(),
            next: 0,
        })
    }

    /// Returns the subnet.
    #[must_use]
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// Returns the gateway's address.
    #[must_use]
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// Takes the next free address.
    ///
    /// # Errors
    /// When the subnet is full.
    pub fn allocate(&mut self) -> Result<IpAddr> {
        let size = self.size();
        // Each used address costs at most one step, so the walk is bounded by
        // their number and not by the subnet's size.
        let steps = (self.used.len() as u128 + RESERVED).min(size);
        for step in 0..=steps {
            let offset = (self.next + step) % size;
            if self.is_free(offset) {
                self.used.insert(offset);
                self.next = (offset + 1) % size;
                return self.subnet.nth(offset).ok_or(Error::AddressesExhausted {
                    subnet: self.subnet,
                });
            }
        }
        Err(Error::AddressesExhausted {
            subnet: self.subnet,
        })
    }

    /// Takes one particular address.
    ///
    /// # Errors
    /// When it is in use, reserved or outside the subnet.
    pub fn adopt(&mut self, address: IpAddr) -> Result<()> {
        let outside = Error::AddressOutside {
            address,
            subnet: self.subnet,
        };
        let offset = self.subnet.offset_of(address).ok_or(outside)?;
        if self.is_reserved(offset) {
            return Err(if address == self.gateway {
                Error::AddressInUse { address }
            } else {
                Error::AddressOutside {
                    address,
                    subnet: self.subnet,
                }
            });
        }
        if !self.used.insert(offset) {
            return Err(Error::AddressInUse { address });
        }
        Ok(())
    }

    /// Gives an address back; one that is not in use is no error.
    pub fn release(&mut self, address: IpAddr) {
        if let Some(offset) = self.subnet.offset_of(address) {
            self.used.remove(&offset);
        }
    }

    /// Returns the number of addresses given out.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.used.len()
    }

    fn size(&self) -> u128 {
        self.subnet
            .offset_of(self.subnet.last())
            .map_or(1, |last| last.saturating_add(1))
    }

    fn is_free(&self, offset: u128) -> bool {
        !self.is_reserved(offset) && !self.used.contains(&offset)
    }

    fn is_reserved(&self, offset: u128) -> bool {
        // The first address names the network (IPv6: any router of it), the
        // last of IPv4 is the broadcast; a subnet of two has neither (RFC 3021).
        let first = offset == 0;
        let broadcast = self.subnet.network().is_ipv4() && offset + 1 == self.size();
        (self.size() > 2 && (first || broadcast)) || self.subnet.nth(offset) == Some(self.gateway)
    }
}

/// Network, broadcast and gateway.
const RESERVED: u128 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(subnet: &str) -> Ipam {
        let subnet: Subnet = subnet.parse().unwrap();
        Ipam::new(subnet, subnet.gateway()).unwrap()
    }

    #[test]
    fn addresses_ascend_and_are_not_reused_at_once() {
        let mut ipam = ipam("172.17.0.0/16");
        let first = ipam.allocate().unwrap();
        assert_eq!(first.to_string(), "172.17.0.2");
        ipam.release(first);
        assert_eq!(ipam.allocate().unwrap().to_string(), "172.17.0.3");
    }

    #[test]
    fn a_full_subnet_says_so_and_wraps() {
        let mut ipam = ipam("10.0.0.0/29");
        let all: Vec<_> = (0..5)
            .map(|_| ipam.allocate().unwrap().to_string())
            .collect();
        assert_eq!(
            all,
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        );
        assert!(matches!(
            ipam.allocate(),
            Err(Error::AddressesExhausted { .. })
        ));
        ipam.release("10.0.0.4".parse().unwrap());
        assert_eq!(ipam.allocate().unwrap().to_string(), "10.0.0.4");
    }

    #[test]
    fn adopted_addresses_are_kept_and_checked() {
        let mut ipam = ipam("10.0.0.0/24");
        ipam.adopt("10.0.0.2".parse().unwrap()).unwrap();
        assert!(matches!(
            ipam.adopt("10.0.0.2".parse().unwrap()),
            Err(Error::AddressInUse { .. })
        ));
        assert!(matches!(
            ipam.adopt("10.0.0.1".parse().unwrap()),
            Err(Error::AddressInUse { .. })
        ));
        for outside in ["10.0.1.1", "10.0.0.0", "10.0.0.255", "::1"] {
            assert!(
                matches!(
                    ipam.adopt(outside.parse().unwrap()),
                    Err(Error::AddressOutside { .. })
                ),
                "{outside}"
            );
        }
        assert_eq!(ipam.allocate().unwrap().to_string(), "10.0.0.3");
        assert_eq!(ipam.in_use(), 2);
    }

    #[test]
    fn ipv6_subnets_are_walked_lazily() {
        let mut ipam = ipam("fd00::/64");
        assert_eq!(ipam.allocate().unwrap().to_string(), "fd00::2");
    }
}
