//! Identities and names of containers and execs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Draws 32 random bytes as 64 hexadecimal digits. The first twelve are never all decimal
/// digits, since the short form would then look like a number.
pub(crate) fn random_hex() -> String {
    loop {
        let mut bytes = [0_u8; 32];
        let mut filled = 0;
        while filled < bytes.len() {
            match rustix::rand::getrandom(
                &mut bytes[filled..],
                rustix::rand::GetRandomFlags::empty(),
            ) {
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                // The kernel's source of randomness cannot fail otherwise once it is set up.
                Err(error) => unreachable!("getrandom: {error}"),
            }
        }
        let text = hex(&bytes);
        if !text.bytes().take(12).all(|b| b.is_ascii_digit()) {
            return text;
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

fn is_full_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Draws a new one.
            pub fn random() -> Self {
                Self(random_hex())
            }

            /// Returns all 64 digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns the first twelve digits.
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Self::try_from(text.to_owned())
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                if is_full_id(&text) {
                    Ok(Self(text))
                } else {
                    Err(Error::invalid(format!(concat!("invalid ", $what, " ID: {:?}"), text)))
                }
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

identity!(
    /// Identity of a container: 64 hexadecimal digits.
    ContainerId,
    "container"
);
identity!(
    /// Identity of an exec: 64 hexadecimal digits.
    ExecId,
    "exec"
);
identity!(
    /// Identity of a network: 64 hexadecimal digits.
    NetworkId,
    "network"
);

/// Name of a container, without the leading slash that the API shows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName(String);

impl ContainerName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a text is `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, the rule for names of containers and volumes.
pub(crate) fn is_restricted_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.len() >= 2
        && text.len() <= 255
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

impl FromStr for ContainerName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let name = text.strip_prefix('/').unwrap_or(text);
        if is_restricted_name(name) {
            Ok(Self(name.to_owned()))
        } else {
            Err(Error::invalid(format!(
                "Invalid container name ({text}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
            )))
        }
    }
}

impl TryFrom<String> for ContainerName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ContainerName> for String {
    fn from(name: ContainerName) -> Self {
        name.0
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_full_and_lower_case() {
        let id = ContainerId::random();
        assert_eq!(id.as_str().parse::<ContainerId>().unwrap(), id);
        assert_eq!(id.short().len(), 12);
        for text in [
            "",
            "abc",
            &id.as_str().to_uppercase()[..],
            &format!("{id}0"),
            "../../../../etc",
        ] {
            if text != id.as_str() {
                assert!(text.parse::<ContainerId>().is_err(), "{text}");
            }
        }
    }

    #[test]
    fn names_follow_dockers_rule() {
        for name in ["ab", "/ab", "a.b-c_d", "0x", &"x".repeat(255)] {
            assert!(name.parse::<ContainerName>().is_ok(), "{name}");
        }
        for name in [
            "",
            "a",
            "/",
            "-ab",
            ".ab",
            "a b",
            "a/b",
            "ä1",
            "a\0b",
            &"x".repeat(256),
        ] {
            let error = name.parse::<ContainerName>().unwrap_err();
            assert!(
                error.message().starts_with("Invalid container name ("),
                "{name}"
            );
        }
    }
}
