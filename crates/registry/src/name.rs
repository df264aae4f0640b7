//! What clients name: repositories and tags.

use std::fmt;
use std::str::FromStr;

use sampan_oci::Digest;
use sampan_oci::reference::{Reference, ReferenceError};

/// The registry's own name in references, which only serve to check the grammar.
const HERE: &str = "localhost";

/// A repository, as in `library/busybox`. Safe as a relative path: no part of it starts with
/// `.`, `_` or `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(Box<str>);

impl RepositoryName {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RepositoryName {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Reference::new(HERE, text, None, None)?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tag. Safe as a file name: it starts with a letter, a digit or `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Box<str>);

impl Tag {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Reference::new(HERE, "x", Some(text), None)?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which manifest of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The one that a tag points to.
    Tag(Tag),
    /// The one of a digest.
    Digest(Digest),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_directory_are_none() {
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/..",
            "a//b",
            "/a",
            "a/",
            "_tags",
            "a/_blobs",
            "A",
            "a\0",
            "a b",
            "-a",
            "a\\b",
            "%2e%2e",
            "a:b",
            "a@b",
            &"a".repeat(256),
        ] {
            assert!(bad.parse::<RepositoryName>().is_err(), "{bad:?}");
        }
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "-a",
            "a/b",
            "a b",
            "a\0",
            &"a".repeat(129),
        ] {
            assert!(bad.parse::<Tag>().is_err(), "{bad:?}");
        }
        for good in ["a", "library/busybox", "a/b/c/d", "a.b_c__d--e/0"] {
            assert_eq!(good.parse::<RepositoryName>().unwrap().as_str(), good);
        }
        assert!("_1.2-x".parse::<Tag>().is_ok());
    }
}
