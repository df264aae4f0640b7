//! API versions.

use std::fmt;
use std::str::FromStr;

/// A version of the Engine API, such as 1.51.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    major: u16,
    minor: u16,
}

impl ApiVersion {
    /// The newest version that is answered, and the one of paths without a version.
    pub const NEWEST: Self = Self::new(1, 51);
    /// The oldest version that is answered.
    pub const OLDEST: Self = Self::new(1, 24);

    /// The version `major.minor`.
    #[must_use]
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// Whether this is at least 1.`minor`.
    #[must_use]
    pub fn at_least(self, minor: u16) -> bool {
        self >= Self::new(1, minor)
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The text is not two numbers with a dot between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an API version")]
pub struct InvalidVersion(String);

impl FromStr for ApiVersion {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let number = |digits: &str| -> Option<u16> {
            // `u16::from_str` takes a leading plus sign.
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            digits.parse().ok()
        };
        text.split_once('.')
            .and_then(|(major, minor)| Some(Self::new(number(major)?, number(minor)?)))
            .ok_or_else(|| InvalidVersion(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        let version = |text: &str| text.parse::<ApiVersion>().unwrap();
        assert!(version("1.9") < version("1.24"));
        assert!(version("2.0") > version("1.51"));
        assert_eq!(version("1.51").to_string(), "1.51");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "1", "1.", ".1", "1.+5", "v1.24", "1.24.1", "1.99999"] {
            assert!(text.parse::<ApiVersion>().is_err(), "{text}");
        }
    }
}
