//! Resource limits by Docker's names: `nofile=1024:2048`.

use std::fmt;
use std::str::FromStr;

use crate::runtime::Rlimit;

/// What can be limited.
const NAMES: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// A resource limit of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ulimit {
    name: &'static str,
    soft: i64,
    hard: i64,
}

/// Why something is no limit. The wording is Docker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidUlimit {
    /// There is no `=`.
    Argument(String),
    /// Nothing of that name can be limited.
    Name(String),
    /// More than a soft and a hard value.
    Values(String),
    /// Not a number.
    Number(String),
    /// The soft limit is above the hard one.
    Order {
        /// Soft limit; -1 for none.
        soft: i64,
        /// Hard limit.
        hard: i64,
    },
}

impl Ulimit {
    /// A limit; -1 is no limit.
    ///
    /// # Errors
    /// Where the name is not known or the soft limit is above the hard one.
    pub fn new(name: &str, soft: i64, hard: i64) -> Result<Self, InvalidUlimit> {
        let name = NAMES
            .into_iter()
            .find(|known| *known == name)
            .ok_or_else(|| InvalidUlimit::Name(name.to_owned()))?;
        if number(soft) > number(hard) {
            return Err(InvalidUlimit::Order { soft, hard });
        }
        Ok(Self { name, soft, hard })
    }

    /// Such as `nofile`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Soft limit; -1 for none.
    #[must_use]
    pub fn soft(&self) -> i64 {
        self.soft
    }

    /// Hard limit; -1 for none.
    #[must_use]
    pub fn hard(&self) -> i64 {
        self.hard
    }

    /// The limit as a bundle has it.
    #[must_use]
    pub fn rlimit(&self) -> Rlimit {
        Rlimit {
            kind: format!("RLIMIT_{}", self.name.to_ascii_uppercase()),
            soft: number(self.soft),
            hard: number(self.hard),
        }
    }
}

/// Any negative number is no limit.
fn number(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(u64::MAX)
}

impl FromStr for Ulimit {
    type Err = InvalidUlimit;

    /// Reads `name=soft[:hard]`.
    fn from_str(text: &str) -> Result<Self, InvalidUlimit> {
        let (name, values) = text
            .split_once('=')
            .ok_or_else(|| InvalidUlimit::Argument(text.to_owned()))?;
        if !NAMES.contains(&name) {
            return Err(InvalidUlimit::Name(name.to_owned()));
        }
        let (soft, hard) = values.split_once(':').unwrap_or((values, values));
        if hard.contains(':') {
            return Err(InvalidUlimit::Values(values.to_owned()));
        }
        let number = |text: &str| {
            text.parse::<i64>()
                .map_err(|_| InvalidUlimit::Number(text.to_owned()))
        };
        Self::new(name, number(soft)?, number(hard)?)
    }
}

impl fmt::Display for InvalidUlimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(text) => write!(f, "invalid ulimit argument: {text}"),
            Self::Name(name) => write!(f, "invalid ulimit type: {name}"),
            Self::Values(values) => write!(
                f,
                "too many limit value arguments - {values}, can only have up to two, `soft[:hard]`"
            ),
            Self::Number(text) => {
                write!(f, "strconv.ParseInt: parsing {text:?}: invalid syntax")
            }
            Self::Order { soft, hard } => {
                f.write_str("ulimit soft limit must be less than or equal to hard limit: ")?;
                match soft {
                    -1 => write!(f, "unlimited > {hard}"),
                    soft => write!(f, "{soft} > {hard}"),
                }
            }
        }
    }
}

impl std::error::Error for InvalidUlimit {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_a_soft_and_a_hard_value() {
        for (text, expected) in [
            ("nofile=1024", Some(("nofile", 1024, 1024))),
            ("nofile=1024:2048", Some(("nofile", 1024, 2048))),
            ("core=-1", Some(("core", -1, -1))),
            ("core=0:-1", Some(("core", 0, -1))),
            ("nofile", None),
            ("nofile=", None),
            ("nofile=x", None),
            ("nofile=1:2:3", None),
            ("nofile=2048:1024", None),
            ("nofile=-1:5", None),
            ("foo=1", None),
        ] {
            let parsed = text.parse::<Ulimit>().ok();
            let parsed = parsed.map(|limit| (limit.name(), limit.soft(), limit.hard()));
            assert_eq!(parsed, expected, "{text}");
        }
    }

    #[test]
    fn a_bundle_has_the_specifications_names_and_numbers() {
        let limit = Ulimit::new("nofile", 10, -1).unwrap().rlimit();
        assert_eq!(
            (limit.kind.as_str(), limit.soft, limit.hard),
            ("RLIMIT_NOFILE", 10, u64::MAX)
        );
    }
}
