//! Ranges of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// An address range written `address/prefix`, with the host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// Makes the subnet of `prefix` bits that `address` lies in.
    ///
    /// # Errors
    /// When the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self> {
        let width = width(address);
        if prefix > width {
            return Err(Error::InvalidSubnet {
                text: format!("{address}/{prefix}"),
            });
        }
        let network = from_bits(to_bits(address) & mask(width, prefix), address.is_ipv4());
        Ok(Self { network, prefix })
    }

    pub(crate) const fn v4(network: Ipv4Addr, prefix: u8) -> Self {
        Self {
            network: IpAddr::V4(network),
            prefix,
        }
    }

    /// Returns the first address, whose host bits are zero.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// Returns the number of network bits.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Returns the netmask as an address, such as `255.255.0.0`.
    #[must_use]
    pub fn netmask(&self) -> IpAddr {
        from_bits(
            mask(width(self.network), self.prefix),
            self.network.is_ipv4(),
        )
    }

    /// Returns the last address (the broadcast address of IPv4).
    #[must_use]
    pub fn last(&self) -> IpAddr {
        let host = !mask(width(self.network), self.prefix) & all(width(self.network));
        from_bits(to_bits(self.network) | host, self.network.is_ipv4())
    }

    /// Returns the address `offset` above the network address, if it is inside.
    #[must_use]
    pub fn nth(&self, offset: u128) -> Option<IpAddr> {
        let bits = to_bits(self.network).checked_add(offset)?;
        (bits <= to_bits(self.last())).then(|| from_bits(bits, self.network.is_ipv4()))
    }

    /// Returns how far `address` lies above the network address, if it is inside.
    #[must_use]
    pub fn offset_of(&self, address: IpAddr) -> Option<u128> {
        self.contains(address)
            .then(|| to_bits(address) - to_bits(self.network))
    }

    /// Tells whether the address lies inside.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.network.is_ipv4()
            && to_bits(address) & mask(width(address), self.prefix) == to_bits(self.network)
    }

    /// Tells whether the two share an address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// Returns the address that the bridge takes when none is asked for: the first one after the network's.
    #[must_use]
    pub fn gateway(&self) -> IpAddr {
        self.nth(1).unwrap_or(self.network)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn all(width: u8) -> u128 {
    u128::MAX >> (128 - u32::from(width))
}

fn mask(width: u8, prefix: u8) -> u128 {
    let host = u32::from(width - prefix);
    all(width) & u128::MAX.checked_shl(host).unwrap_or(0)
}

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn from_bits(bits: u128, v4: bool) -> IpAddr {
    if v4 {
        IpAddr::V4(Ipv4Addr::from_bits(
            u32::try_from(bits).expect("IPv4 bits are masked to 32"),
        ))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(bits))
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::InvalidSubnet {
            text: text.to_owned(),
        };
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address = address.parse().map_err(|_| invalid())?;
        let prefix = prefix.parse().map_err(|_| invalid())?;
        Self::new(address, prefix).map_err(|_| invalid())
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_holds_at_the_edges() {
        let subnet: Subnet = "172.17.5.9/16".parse().unwrap();
        assert_eq!(subnet.to_string(), "172.17.0.0/16");
        assert_eq!(subnet.last().to_string(), "172.17.255.255");
        assert_eq!(subnet.gateway().to_string(), "172.17.0.1");
        assert_eq!(subnet.netmask().to_string(), "255.255.0.0");
        assert_eq!(subnet.nth(65535).unwrap(), subnet.last());
        assert_eq!(subnet.nth(65536), None);
        let everything: Subnet = "0.0.0.0/0".parse().unwrap();
        assert!(everything.contains("255.255.255.255".parse().unwrap()));
        assert!(!everything.contains("::1".parse().unwrap()));
        let six: Subnet = "fd00::1/64".parse().unwrap();
        assert_eq!(six.to_string(), "fd00::/64");
        assert_eq!(six.last().to_string(), "fd00::ffff:ffff:ffff:ffff");
        let one: Subnet = "10.0.0.1/32".parse().unwrap();
        assert_eq!(one.last(), one.network());
        assert_eq!(one.gateway(), one.network());
    }

    #[test]
    fn overlap_is_symmetric() {
        let wide: Subnet = "172.16.0.0/12".parse().unwrap();
        let narrow: Subnet = "172.17.0.0/16".parse().unwrap();
        let other: Subnet = "192.168.0.0/20".parse().unwrap();
        assert!(wide.overlaps(&narrow) && narrow.overlaps(&wide));
        assert!(!wide.overlaps(&other) && !other.overlaps(&wide));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "x/8",
            "10.0.0.0/-1",
            "::/129",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }
}
