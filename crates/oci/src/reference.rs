//! Names of images, with Docker's rules for what may be left out.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;

/// The registry of names that name none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
const OLD_DEFAULT_REGISTRY: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// A normalised name: registry, repository, and a tag or a digest or both or neither.
///
/// Parsing does not add the tag `latest`; [`Reference::or_latest`] does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text names no image, in Docker's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// The repository has capitals.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// It would be taken for the ID of an image.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// It is too long.
    #[error("repository name must not be more than {MAX_REPOSITORY} characters")]
    TooLong,
    /// It is empty.
    #[error("repository name must have at least one component")]
    Empty,
    /// Its digest is not one.
    #[error(transparent)]
    Digest(#[from] crate::digest::DigestError),
}

impl Reference {
    /// Builds a reference of parts that are already in normal form, and checks them.
    pub fn new(
        registry: &str,
        repository: &str,
        tag: Option<&str>,
        digest: Option<Digest>,
    ) -> Result<Self, ReferenceError> {
        if !is_registry(registry) || !is_repository(repository) || !tag.is_none_or(is_tag) {
            return Err(ReferenceError::Format);
        }
        if repository.len() > MAX_REPOSITORY {
            return Err(ReferenceError::TooLong);
        }
        Ok(Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// Returns the registry, as in `docker.io` or `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the repository on the registry, as in `library/ubuntu`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns registry and repository, as in `docker.io/library/ubuntu`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Returns the name as people write it, without tag and digest: `ubuntu`.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        match self.repository.strip_prefix(OFFICIAL) {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.repository.clone(),
        }
    }

    /// Returns the reference as people write it: `ubuntu:22.04`.
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_name())
    }

    /// Adds the tag `latest` where there is neither a tag nor a digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// Returns the same name with neither tag nor digest.
    #[must_use]
    pub fn bare(&self) -> Self {
        Self {
            tag: None,
            digest: None,
            ..self.clone()
        }
    }

    /// Returns the same name with this tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Format);
        }
        Ok(Self {
            tag: Some(tag.to_owned()),
            ..self.bare()
        })
    }

    /// Returns the same name with this digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            digest: Some(digest),
            ..self.bare()
        }
    }

    /// Whether both name the same repository.
    pub fn same_repository(&self, other: &Self) -> bool {
        self.registry == other.registry && self.repository == other.repository
    }

    fn suffixed(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Format);
        }
        if text.len() == 64
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (registry, remainder) = split_registry(text);
        let (rest, digest) = match remainder.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (remainder, None),
        };
        // The registry is already cut off, so the first colon starts the tag.
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("{OFFICIAL}{repository}")
        } else {
            repository.to_owned()
        };
        if repository.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(repository));
        }
        let mut reference = Self::new(registry, &repository, tag, None)?;
        reference.digest = digest.map(str::parse).transpose().map_err(|error| {
            use crate::digest::DigestError;
            match error {
                DigestError::Format => ReferenceError::Format,
                // Too few digits do not even follow the grammar.
                DigestError::Length if digest.is_some_and(|d| d.len() < 7 + 32) => {
                    ReferenceError::Format
                }
                other => ReferenceError::Digest(other),
            }
        })?;
        Ok(reference)
    }
}

/// Tells a registry from the first part of a path: it has a dot, a colon or a capital, or is
/// `localhost`.
fn split_registry(text: &str) -> (&str, &str) {
    let Some((first, rest)) = text.split_once('/') else {
        return (DEFAULT_REGISTRY, text);
    };
    if first == OLD_DEFAULT_REGISTRY {
        return (DEFAULT_REGISTRY, rest);
    }
    let is_registry =
        first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase);
    if is_registry {
        (first, rest)
    } else {
        (DEFAULT_REGISTRY, text)
    }
}

fn is_registry(text: &str) -> bool {
    if text.len() > MAX_REPOSITORY {
        return false;
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else {
            return false;
        };
        if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
            return false;
        }
        match after.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if after.is_empty() => (None, None),
            None => return false,
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(text), None),
        }
    };
    let host_ok = host.is_none_or(|host| {
        host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    });
    let port_ok =
        port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    host_ok && port_ok
}

fn is_repository(text: &str) -> bool {
    text.split('/').all(is_path_component)
}

/// Runs of lower-case letters and digits, separated by one of `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !bytes.first().copied().is_some_and(word) || !bytes.last().copied().is_some_and(word) {
        return false;
    }
    bytes.split(|b| word(*b)).all(|separator| match separator {
        b"" | b"." | b"_" | b"__" => true,
        dashes => dashes.iter().all(|b| *b == b'-'),
    })
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

impl fmt::Display for Reference {
    /// Writes the full form: `docker.io/library/ubuntu:22.04`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(self.name()))
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::DigestError;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_normalised_as_docker_does() {
        for (text, full, familiar) in [
            ("ubuntu", "docker.io/library/ubuntu", "ubuntu"),
            (
                "ubuntu:22.04",
                "docker.io/library/ubuntu:22.04",
                "ubuntu:22.04",
            ),
            ("docker.io/ubuntu", "docker.io/library/ubuntu", "ubuntu"),
            (
                "docker.io/library/ubuntu",
                "docker.io/library/ubuntu",
                "ubuntu",
            ),
            (
                "index.docker.io/ubuntu",
                "docker.io/library/ubuntu",
                "ubuntu",
            ),
            ("library/ubuntu", "docker.io/library/ubuntu", "ubuntu"),
            ("user/app", "docker.io/user/app", "user/app"),
            ("a/b/c", "docker.io/a/b/c", "a/b/c"),
            ("library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("localhost/ubuntu", "localhost/ubuntu", "localhost/ubuntu"),
            (
                "localhost:5000/x:y",
                "localhost:5000/x:y",
                "localhost:5000/x:y",
            ),
            ("Foo/bar", "Foo/bar", "Foo/bar"),
            ("host.io/a/b:1", "host.io/a/b:1", "host.io/a/b:1"),
            (
                "[::1]:5000/repo:tag",
                "[::1]:5000/repo:tag",
                "[::1]:5000/repo:tag",
            ),
            ("a__b", "docker.io/library/a__b", "a__b"),
            ("a---b", "docker.io/library/a---b", "a---b"),
            (
                "ubuntu:Tag_1.0-x",
                "docker.io/library/ubuntu:Tag_1.0-x",
                "ubuntu:Tag_1.0-x",
            ),
            ("1234:5678", "docker.io/library/1234:5678", "1234:5678"),
        ] {
            let reference: Reference = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(full.parse::<Reference>().unwrap(), reference, "{text}");
            assert_eq!(familiar.parse::<Reference>().unwrap(), reference, "{text}");
        }
    }

    #[test]
    fn digests_stand_beside_tags() {
        let text = format!("host:1/a:b@sha256:{HEX}");
        let reference: Reference = text.parse().unwrap();
        assert_eq!(reference.tag(), Some("b"));
        assert_eq!(reference.digest().unwrap().hex(), HEX);
        assert_eq!(reference.to_string(), text);
        assert_eq!(reference.clone().or_latest(), reference);
        let bare: Reference = "a".parse().unwrap();
        assert_eq!(bare.or_latest().tag(), Some("latest"));
        let by_digest: Reference = format!("a@sha256:{HEX}").parse().unwrap();
        assert_eq!(by_digest.or_latest().tag(), None);
    }

    #[test]
    fn bad_names_are_refused() {
        let format = ReferenceError::Format;
        let long = "a".repeat(256);
        for (text, error) in [
            ("", format.clone()),
            (":tag", format.clone()),
            ("a:", format.clone()),
            ("a:b:c", format.clone()),
            ("/a", format.clone()),
            ("a/", format.clone()),
            ("a//b", format.clone()),
            ("../a", format.clone()),
            ("a/../b", format.clone()),
            ("-a", format.clone()),
            ("a-", format.clone()),
            ("a..b", format.clone()),
            ("a___b", format.clone()),
            ("a._b", format.clone()),
            ("a b", format.clone()),
            ("a\0b", format.clone()),
            ("a\nb", format.clone()),
            ("ä", format.clone()),
            ("a:-x", format.clone()),
            ("a:.x", format.clone()),
            ("a:tag/x", format.clone()),
            ("a@", format.clone()),
            ("a@sha256", format.clone()),
            ("a@sha256:abc", format.clone()),
            ("host:port/a", format.clone()),
            ("host:/a", format.clone()),
            ("-host.io/a", format.clone()),
            ("[::1/a", format.clone()),
            ("[xyz]:1/a", format.clone()),
            ("https://host.io/a", format.clone()),
            ("Ubuntu", ReferenceError::Uppercase("library/Ubuntu".into())),
            ("a/Ubuntu:x", ReferenceError::Uppercase("a/Ubuntu".into())),
            ("host.io/Ubuntu", ReferenceError::Uppercase("Ubuntu".into())),
            (HEX, ReferenceError::LooksLikeId(HEX.into())),
            (&long, ReferenceError::TooLong),
            (
                &format!("a@sha512:{HEX}{HEX}"),
                ReferenceError::Digest(DigestError::Algorithm),
            ),
            (
                &format!("a@sha256:{}", &HEX[..40]),
                ReferenceError::Digest(DigestError::Length),
            ),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap_err(), error, "{text:?}");
        }
        let tag = "t".repeat(129);
        assert!(format!("a:{tag}").parse::<Reference>().is_err());
        assert!(format!("a:{}", &tag[1..]).parse::<Reference>().is_ok());
    }

    #[test]
    fn edits_keep_the_name() {
        let reference: Reference = "user/app:1".parse().unwrap();
        assert_eq!(reference.with_tag("2").unwrap().familiar(), "user/app:2");
        assert!(reference.with_tag("/").is_err());
        let digest = Digest::of(b"");
        assert_eq!(
            reference.with_digest(digest).familiar(),
            format!("user/app@{digest}")
        );
        assert!(reference.same_repository(&reference.bare()));
    }
}
