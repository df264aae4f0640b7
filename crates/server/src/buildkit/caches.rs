//! What a client asks of caches for other builders: where they are made, and where they are.

use std::collections::HashMap;

use sampan_engine::building::ExportMode;
use sampan_images::Packing;
use sampan_oci::media_type::Compression;
use sampan_oci::{Digest, Reference};
use tonic::Status;

use super::options::{invalid, refused, truth};

type Attributes = HashMap<String, String>;

/// A cache to be made for other builders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CacheTarget {
    /// In the image itself.
    Inline,
    /// By itself.
    Alone {
        place: CachePlace,
        mode: ExportMode,
        packing: Packing,
        /// A failure is told of and is none of the build's.
        ignore_error: bool,
    },
}

/// Where a cache is that is no part of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CachePlace {
    Registry(Reference),
    /// A directory of the client.
    Directory(String),
}

/// A cache of another builder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CacheSource {
    Registry(Reference),
    /// In a directory of the client, by the digest of its manifest.
    Directory(String, Digest),
}

/// What can be said of every cache that is no part of an image.
const ALONE: &[&str] = &[
    "mode",
    "ignore-error",
    "oci-mediatypes",
    "image-manifest",
    "compression",
    "force-compression",
];

impl CacheTarget {
    pub(super) fn read(kind: &str, attributes: &Attributes) -> Result<Self, Status> {
        let of = format!("exporting the cache to type={kind}");
        let is = |name: &str, default: bool| match attributes.get(name) {
            None => Ok(default),
            Some(value) => truth(value).ok_or_else(|| invalid(format!("invalid {name}={value}"))),
        };
        let known = match kind {
            "inline" => &["mode"][..],
            "registry" => &["ref"],
            // The client itself writes its index, and tidies.
            "local" => &["dest", "tag", "reset"],
            _ => return Err(refused(&of)),
        };
        let is_inline = kind == "inline";
        if let Some((name, value)) = attributes.iter().find(|(name, _)| {
            let name = name.as_str();
            !known.contains(&name) && (is_inline || !ALONE.contains(&name))
        }) {
            return Err(refused(&format!("{of} with {name}={value}")));
        }
        let mode = match attributes.get("mode").map(String::as_str) {
            None | Some("" | "min") => ExportMode::Min,
            Some("max") if is_inline => {
                return Err(refused("mode=max of an inline cache: use type=registry"));
            }
            Some("max") => ExportMode::Max,
            Some(other) => return Err(invalid(format!("invalid mode={other}: min or max"))),
        };
        if is_inline {
            return Ok(Self::Inline);
        }
        for name in ["oci-mediatypes", "image-manifest"] {
            if !is(name, true)? {
                return Err(refused(&format!("{of} with {name}=false")));
            }
        }
        let compression = match attributes.get("compression").map_or("", String::as_str) {
            "" | "gzip" => Compression::Gzip,
            "zstd" => Compression::Zstd,
            "uncompressed" => Compression::None,
            other => return Err(refused(&format!("{of} with compression={other}"))),
        };
        Ok(Self::Alone {
            place: match kind {
                "local" => CachePlace::Directory(directory(attributes, "dest")?),
                _ => CachePlace::Registry(reference(attributes)?),
            },
            mode,
            packing: Packing {
                compression,
                force: is("force-compression", false)?,
            },
            ignore_error: is("ignore-error", false)?,
        })
    }
}

impl CacheSource {
    /// Reads where a cache of another builder is.
    pub(super) fn read(kind: &str, attributes: &Attributes) -> Result<Self, Status> {
        match kind {
            "registry" => Ok(Self::Registry(reference(attributes)?)),
            "local" => {
                let digest = attributes.get("digest").map_or("", String::as_str);
                let digest = digest.parse().map_err(|error| {
                    invalid(format!(
                        "the digest {digest:?} of a cache is invalid: {error}"
                    ))
                })?;
                Ok(Self::Directory(directory(attributes, "src")?, digest))
            }
            _ => Err(refused(&format!("importing the cache from type={kind}"))),
        }
    }
}

fn directory(attributes: &Attributes, name: &str) -> Result<String, Status> {
    let path = attributes.get(name).filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| invalid(format!("a cache in a directory needs {name}=PATH")))?;
    Ok(path.clone())
}

fn reference(attributes: &Attributes) -> Result<Reference, Status> {
    let text = attributes.get("ref").filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| invalid("a cache at a registry needs ref=NAME".to_owned()))?;
    let reference: Reference = text
        .parse()
        .map_err(|error| invalid(format!("invalid cache reference {text}: {error}")))?;
    Ok(reference.or_latest())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> Attributes {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    #[test]
    fn caches_in_directories_and_registries_are_read() {
        let read = CacheTarget::read("local", &map("dest=/x,tag=t,mode=max,compression=zstd"));
        let expected = CacheTarget::Alone {
            place: CachePlace::Directory("/x".to_owned()),
            mode: ExportMode::Max,
            packing: Packing {
                compression: Compression::Zstd,
                force: false,
            },
            ignore_error: false,
        };
        assert_eq!(read.unwrap(), expected);
        let read = CacheTarget::read("registry", &map("ref=r.io/x,ignore-error=true"));
        let expected = CacheTarget::Alone {
            place: CachePlace::Registry("r.io/x:latest".parse().unwrap()),
            mode: ExportMode::Min,
            packing: Packing::default(),
            ignore_error: true,
        };
        assert_eq!(read.unwrap(), expected);
        let digest = Digest::of(b"");
        let read = CacheSource::read("local", &map(&format!("src=/x,digest={digest}")));
        let expected = CacheSource::Directory("/x".to_owned(), digest);
        assert_eq!(read.unwrap(), expected);
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (kind, attributes, why) in [
            ("local", "", "needs dest=PATH"),
            ("local", "dest=/x,ref=y", "ref=y"),
            (
                "local",
                "dest=/x,image-manifest=false",
                "image-manifest=false",
            ),
            (
                "local",
                "dest=/x,compression=estargz",
                "compression=estargz",
            ),
            (
                "registry",
                "ref=x,compression-level=9",
                "compression-level=9",
            ),
            ("registry", "mode=max", "needs ref=NAME"),
            ("inline", "mode=max", "mode=max"),
            ("inline", "compression=zstd", "compression=zstd"),
            ("gha", "", "type=gha"),
        ] {
            let error = CacheTarget::read(kind, &map(attributes)).unwrap_err();
            assert!(error.message().contains(why), "{error}");
        }
        for (kind, attributes) in [("local", "src=/x"), ("local", "digest=x"), ("s3", "")] {
            assert!(CacheSource::read(kind, &map(attributes)).is_err());
        }
    }
}
