//! Mounts, as they are asked for and as they are.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use sampan_oci::{DiffId, ImageId};
use sampan_text::path::absolute;
use serde::{Deserialize, Serialize};

use super::id::is_restricted_name;
use crate::{Error, Result};

/// Propagation of mounts between host and container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Propagation {
    /// None in either direction; what lies below the source is there at the start.
    #[default]
    RPrivate,
    /// None in either direction, the top mount only.
    Private,
    /// From the host into the container.
    RSlave,
    /// From the host into the container, the top mount only.
    Slave,
    /// Both ways.
    RShared,
    /// Both ways, the top mount only.
    Shared,
}

impl Propagation {
    /// Returns the option of mount(8).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RPrivate => "rprivate",
            Self::Private => "private",
            Self::RSlave => "rslave",
            Self::Slave => "slave",
            Self::RShared => "rshared",
            Self::Shared => "shared",
        }
    }
}

impl FromStr for Propagation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [
            Self::RPrivate,
            Self::Private,
            Self::RSlave,
            Self::Slave,
            Self::RShared,
            Self::Shared,
        ]
        .into_iter()
        .find(|p| p.as_str() == text)
        .ok_or_else(|| Error::invalid(format!("invalid propagation mode: {text}")))
    }
}

/// Where the content of a `-v` comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindSource {
    /// A path of the host, made as a directory when it is missing.
    Path(PathBuf),
    /// A named volume, made when it is missing.
    Volume(String),
    /// A new volume with a random name.
    Anonymous,
}

/// `source:destination[:options]` of `-v`, parsed; shown again as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BindSpec {
    text: String,
    /// Where the content comes from.
    pub source: BindSource,
    /// Absolute path in the container, cleaned.
    pub destination: String,
    /// Whether the container may only read.
    pub read_only: bool,
    /// Whether an empty volume is left empty.
    pub no_copy: bool,
    /// Propagation; absent for the default.
    pub propagation: Option<Propagation>,
    /// The options as written, such as `ro,z`.
    pub mode: String,
}

impl fmt::Display for BindSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for BindSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::invalid(format!("invalid volume specification: '{text}'"));
        let parts: Vec<&str> = text.split(':').collect();
        let (source, destination, mode) = match parts[..] {
            [destination] => (None, destination, ""),
            [source, destination] => (Some(source), destination, ""),
            [source, destination, mode] => (Some(source), destination, mode),
            _ => return Err(invalid()),
        };
        let destination = clean_destination(destination).map_err(|e| e.context(invalid()))?;
        let source = match source {
            None => BindSource::Anonymous,
            Some("") => return Err(invalid()),
            Some(path) if path.starts_with('/') => {
                if path.contains('\0') {
                    return Err(invalid());
                }
                BindSource::Path(absolute(path).into())
            }
            Some(name) => {
                check_volume_name(name)?;
                BindSource::Volume(name.to_owned())
            }
        };
        let mut spec = Self {
            text: text.to_owned(),
            source,
            destination,
            read_only: false,
            no_copy: false,
            propagation: None,
            mode: mode.to_owned(),
        };
        for option in mode.split(',').filter(|option| !option.is_empty()) {
            spec.apply(option).ok_or_else(|| {
                Error::invalid(format!("invalid mode: {mode}")).context(invalid())
            })?;
        }
        if matches!(spec.source, BindSource::Path(_)) && spec.no_copy {
            return Err(Error::invalid(format!("invalid mode: {mode}")).context(invalid()));
        }
        if !matches!(spec.source, BindSource::Path(_)) && spec.propagation.is_some() {
            return Err(Error::invalid(format!("invalid mode: {mode}")).context(invalid()));
        }
        Ok(spec)
    }
}

impl BindSpec {
    fn apply(&mut self, option: &str) -> Option<()> {
        match option {
            "ro" => self.read_only = true,
            "rw" | "z" | "Z" | "consistent" | "cached" | "delegated" => {}
            "nocopy" => self.no_copy = true,
            other => self.propagation = Some(other.parse().ok()?),
        }
        Some(())
    }
}

impl TryFrom<String> for BindSpec {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<BindSpec> for String {
    fn from(spec: BindSpec) -> Self {
        spec.text
    }
}

/// A mount as `--mount` asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    /// What is mounted.
    pub kind: MountRequestKind,
    /// Path in the container.
    pub target: String,
    /// Whether the container may only read.
    pub read_only: bool,
}

/// What a `--mount` mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum MountRequestKind {
    /// A path of the host.
    Bind {
        /// Absolute; must exist unless `create` is set.
        source: String,
        /// Propagation; absent for the default.
        propagation: Option<Propagation>,
        /// Leaves out what is mounted below the source.
        non_recursive: bool,
        /// Makes the source when it is missing.
        create: bool,
    },
    /// A volume.
    Volume {
        /// Name; empty for a new one with a random name.
        source: String,
        /// Whether an empty volume is left empty.
        no_copy: bool,
        /// Directory in the volume; empty for its top.
        subpath: String,
        /// Labels of a volume that is made for this mount.
        labels: BTreeMap<String, String>,
        /// Driver of a volume that is made for this mount; empty for `local`.
        driver: String,
        /// Options of that driver.
        driver_options: BTreeMap<String, String>,
    },
    /// Memory.
    Tmpfs {
        /// Bytes; 0 for the kernel's default.
        size: i64,
        /// Mode bits; 0 for 1777.
        mode: u32,
        /// Further options, one or two words each.
        options: Vec<Vec<String>>,
    },
    /// The content of an image, read-only.
    Image {
        /// Image.
        source: String,
        /// Directory in the image; empty for its top.
        subpath: String,
    },
}

/// Kind of a [`MountPoint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A path of the host.
    Bind,
    /// A volume.
    Volume,
    /// Memory.
    Tmpfs,
    /// The content of an image.
    Image,
}

impl MountKind {
    /// Returns Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Volume => "volume",
            Self::Tmpfs => "tmpfs",
            Self::Image => "image",
        }
    }
}

/// A mount that a container has, decided when it was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    /// What it is.
    pub kind: MountKind,
    /// Name of the volume; empty otherwise.
    pub name: String,
    /// Path on the host; empty for memory.
    pub source: PathBuf,
    /// Path in the container.
    pub destination: String,
    /// Driver of the volume; empty otherwise.
    pub driver: String,
    /// Options as they were given.
    pub mode: String,
    /// Whether the container may write.
    pub writable: bool,
    /// Propagation; absent for volumes and memory.
    pub propagation: Option<Propagation>,
    /// What is only needed to carry it out.
    #[serde(default)]
    pub carry_out: MountDetail,
}

/// An image whose content is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountedImage {
    /// Which.
    pub id: ImageId,
    /// Bottom first.
    pub layers: Vec<DiffId>,
}

/// What is needed to carry a mount out and is not shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountDetail {
    /// Makes a missing source as a directory at each start.
    pub create_source: bool,
    /// Leaves an empty volume empty.
    pub no_copy: bool,
    /// Leaves out what is mounted below the source.
    pub non_recursive: bool,
    /// Directory or file in the volume or the image; empty for its top.
    pub subpath: String,
    /// The image that is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<MountedImage>,
    /// Options of a tmpfs.
    pub tmpfs_options: Vec<String>,
    /// Whether the volume was made for this container alone and goes with it.
    pub anonymous: bool,
    /// Whether `--mount` or `--tmpfs` asked for it, which inspect does not repeat as a mount of
    /// its own for memory.
    pub hidden: bool,
}

/// Checks the name of a volume.
pub(crate) fn check_volume_name(name: &str) -> Result<()> {
    if is_restricted_name(name) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "create {name}: {name:?} includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use \
         absolute path"
    )))
}

/// Cleans an absolute path in a container and refuses what nothing can be mounted on.
pub(crate) fn clean_destination(path: &str) -> Result<String> {
    if path.contains('\0') {
        return Err(Error::invalid("invalid mount path: it contains a NUL byte"));
    }
    if !path.starts_with('/') {
        return Err(Error::invalid(format!(
            "invalid mount path: '{path}' mount path must be absolute"
        )));
    }
    let cleaned = absolute(path);
    if cleaned == "/" {
        return Err(Error::invalid(
            "invalid specification: destination can't be '/'",
        ));
    }
    Ok(cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_are_read_as_docker_reads_them() {
        let spec: BindSpec = "/host//a/../b:/in/./side/:ro,z".parse().unwrap();
        assert_eq!(spec.source, BindSource::Path("/host/b".into()));
        assert_eq!(spec.destination, "/in/side");
        assert!(spec.read_only);
        assert_eq!(spec.mode, "ro,z");
        assert_eq!(spec.to_string(), "/host//a/../b:/in/./side/:ro,z");
        let spec: BindSpec = "data:/var/lib:nocopy".parse().unwrap();
        assert_eq!(spec.source, BindSource::Volume("data".into()));
        assert!(spec.no_copy);
        assert_eq!(
            "/only".parse::<BindSpec>().unwrap().source,
            BindSource::Anonymous
        );
        let spec: BindSpec = "/a:/b:rslave".parse().unwrap();
        assert_eq!(spec.propagation, Some(Propagation::RSlave));
    }

    #[test]
    fn bad_binds_are_refused() {
        for text in [
            "",
            ":",
            ":/a",
            "a:",
            "/a:b",
            "/a:/",
            "/a:/b/../..",
            "/a:/b:ro:rw",
            "/a:/b:wx",
            "../a:/b",
            "a/b:/c",
            "x:/c",
            "vol:/c:rshared",
            "/only:ro",
            "/a:/b:nocopy",
            "/a\0:/b",
            "/a:/b\0",
        ] {
            assert!(text.parse::<BindSpec>().is_err(), "{text:?}");
        }
    }
}
