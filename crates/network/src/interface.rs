//! Names and hardware addresses of interfaces.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Name of a network interface: 1 to 15 bytes, no blank, no slash, not a dot entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(String);

impl InterfaceName {
    /// Longest name the kernel takes (`IFNAMSIZ` less its NUL).
    pub const MAX: usize = 15;

    /// Makes a fresh name for the host's end of a container's veth pair:
    /// `veth` and seven random hexadecimal digits.
    #[must_use]
    pub fn random_veth() -> Self {
        let bytes = random::<4>();
        Self(format!("veth{:07x}", u32::from_le_bytes(bytes) >> 4))
    }

    /// Returns the name `<prefix><number>`, such as `eth0`.
    ///
    /// # Errors
    /// When the result is no interface name.
    pub fn numbered(prefix: &str, number: u32) -> Result<Self> {
        format!("{prefix}{number}").parse()
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let shape = (1..=Self::MAX).contains(&text.len()) && text != "." && text != "..";
        let bytes = text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
        if shape && bytes {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::InvalidInterfaceName {
                name: text.to_owned(),
            })
        }
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<InterfaceName> for String {
    fn from(name: InterfaceName) -> Self {
        name.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Unicast hardware address of an Ethernet interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// Makes a random unicast address with the locally administered bit.
    #[must_use]
    pub fn random() -> Self {
        let mut octets = random::<6>();
        octets[0] = (octets[0] & 0xfc) | 0x02;
        Self(octets)
    }

    /// Returns the six octets.
    #[must_use]
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::InvalidMac {
            text: text.to_owned(),
        };
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(invalid)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        let unicast = octets[0] & 1 == 0 && octets != [0; 6];
        if parts.next().is_none() && unicast {
            Ok(Self(octets))
        } else {
            Err(invalid())
        }
    }
}

impl TryFrom<String> for MacAddress {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        // Fails only before the kernel's generator is seeded, which is over
        // long before an engine runs; and names need no secrecy.
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => panic!("the kernel gives no random bytes: {errno}"),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_are_checked() {
        for good in ["eth0", "sampan-a1b2c3", "veth0123456", "br-0123456789ab"] {
            assert_eq!(good.parse::<InterfaceName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "0123456789abcdef",
            "ä",
            "a:1",
            "a\0",
        ] {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn random_names_are_docker_shaped() {
        let name = InterfaceName::random_veth();
        assert_eq!(name.as_str().len(), 11);
        assert_ne!(name, InterfaceName::random_veth());
    }

    #[test]
    fn mac_addresses_round_trip() {
        let mac: MacAddress = "02:42:ac:11:00:02".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        for bad in [
            "",
            "02:42",
            "01:42:ac:11:00:02",
            "00:00:00:00:00:00",
            "02:42:ac:11:00:02:03",
            "2:42:ac:11:0:2",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
        let random = MacAddress::random().octets();
        assert_eq!(random[0] & 3, 2);
    }
}
