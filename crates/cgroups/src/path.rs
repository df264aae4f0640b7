use std::fmt;
use std::str::FromStr;

use crate::Error;

/// The path of a container's cgroup relative to the root of each hierarchy,
/// such as `sampan/<id>`: never absolute, never with `.`, `..` or empty parts.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct CgroupPath(String);

impl CgroupPath {
    /// The path as text, without a leading slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path of the enclosing cgroup, `None` at the first level.
    #[must_use]
    pub fn parent(&self) -> Option<CgroupPath> {
        let (parent, _) = self.0.rsplit_once('/')?;
        Some(CgroupPath(parent.to_owned()))
    }

    /// Every enclosing cgroup from the outermost in, this one included.
    pub(crate) fn ancestors(&self) -> impl Iterator<Item = &str> {
        let ends = self.0.match_indices('/').map(|(at, _)| at);
        ends.chain([self.0.len()]).map(|end| &self.0[..end])
    }
}

impl FromStr for CgroupPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let valid = text.len() <= 2048
            && text.split('/').all(|part| {
                !matches!(part, "" | "." | "..")
                    && part.len() <= 255
                    && !part.contains(|c: char| c.is_control())
            });
        if !valid {
            return Err(Error::InvalidPath(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_or_confuse_are_refused() {
        for bad in [
            "", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\nb", "a\0b",
        ] {
            assert!(bad.parse::<CgroupPath>().is_err(), "{bad:?} was taken");
        }
        assert!("x".repeat(256).parse::<CgroupPath>().is_err());
        assert!("sampan/0123".parse::<CgroupPath>().is_ok());
    }

    #[test]
    fn ancestors_run_from_the_outermost_in() {
        let path: CgroupPath = "a/b/c".parse().unwrap();
        assert_eq!(path.ancestors().collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
        assert_eq!(path.parent().unwrap().as_str(), "a/b");
    }
}
