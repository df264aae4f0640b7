//! Manifests and indexes of Docker and of the OCI, told apart strictly.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::media_type::MediaType;
use crate::null_default;
use crate::platform::Platform;

/// The largest manifest or index that is read.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// The most layers that an image may have.
pub const MAX_LAYERS: usize = 1000;

/// A pointer to content: its type, digest and size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    #[serde(default)]
    pub media_type: MediaType,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Other places to fetch it from; never followed.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub urls: Vec<String>,
    /// Free-form metadata.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
    /// The machines that the content is for, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What kind of artifact the content is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// Describes these bytes.
    pub fn of(media_type: MediaType, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// Describes content without reading it.
    pub fn new(media_type: MediaType, digest: Digest, size: u64) -> Self {
        Self {
            media_type,
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }
}

/// The manifest of one image for one platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Its own type; the OCI lets it be left out.
    #[serde(default, skip_serializing_if = "MediaType::is_unset")]
    pub media_type: MediaType,
    /// What kind of artifact it is; none or empty for images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image's configuration.
    pub config: Descriptor,
    /// The layers, bottom first.
    #[serde(default, deserialize_with = "null_default")]
    pub layers: Vec<Descriptor>,
    /// Free-form metadata.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// A list of manifests, mostly one for each platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Its own type; the OCI lets it be left out.
    #[serde(default, skip_serializing_if = "MediaType::is_unset")]
    pub media_type: MediaType,
    /// The manifests.
    #[serde(default, deserialize_with = "null_default")]
    pub manifests: Vec<Descriptor>,
    /// Free-form metadata.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// What a registry may answer when asked for a manifest.
// One lives for the length of a resolution; a box would only be in the way.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is larger than any real one.
    #[error("manifest is larger than {MAX_MANIFEST} bytes")]
    TooLarge,
    /// It is not the JSON it should be.
    #[error("manifest is not valid")]
    Json(#[source] serde_json::Error),
    /// It is of the retired schema 1.
    #[error(
        "manifests of Docker schema version 1 are not supported: the image must be pushed again by a newer client"
    )]
    Schema1,
    /// `schemaVersion` is neither 1 nor 2.
    #[error("unsupported manifest schema version {0}")]
    SchemaVersion(u64),
    /// It could be read as a manifest and as an index, so that two readers may disagree.
    #[error("manifest is ambiguous: it has both `manifests` and `layers` or `config`")]
    Ambiguous,
    /// Its own type and the one it was served or described as differ.
    #[error("manifest says it is {inside:?} but was given as {outside:?}")]
    TypeMismatch {
        /// The type in the document.
        inside: String,
        /// The type around it.
        outside: String,
    },
    /// It is no manifest at all.
    #[error("unsupported manifest type {0:?}")]
    Unsupported(String),
    /// It has more layers than an image may have.
    #[error("manifest has {0} layers, more than {MAX_LAYERS}")]
    TooManyLayers(usize),
}

/// The fields by which documents are told apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: MediaType,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Parses a document that was served or described as `outside` (unset if nothing was said).
    ///
    /// Refuses what readers could understand in two ways: fields of both kinds, doubled keys,
    /// and a type inside that differs from the one outside.
    pub fn parse(bytes: &[u8], outside: &MediaType) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(ManifestError::TooLarge);
        }
        if outside.is_schema1() {
            return Err(ManifestError::Schema1);
        }
        let outline: Outline = crate::json_object(bytes).map_err(ManifestError::Json)?;
        match outline.schema_version {
            Some(1) => return Err(ManifestError::Schema1),
            Some(2) => {}
            Some(other) => return Err(ManifestError::SchemaVersion(other)),
            None if outline.fs_layers.is_some() => return Err(ManifestError::Schema1),
            None => return Err(ManifestError::SchemaVersion(0)),
        }
        let single = outline.layers.is_some() || outline.config.is_some();
        let several = outline.manifests.is_some();
        if (single && several) || (outline.fs_layers.is_some() && (single || several)) {
            return Err(ManifestError::Ambiguous);
        }
        let inside = &outline.media_type;
        // Registries that serve files without knowing them say json, text or nothing.
        let outside_known = outside.is_manifest() || outside.is_index();
        let media_type = match (inside.is_unset(), outside_known) {
            (false, true) if inside != outside => {
                return Err(ManifestError::TypeMismatch {
                    inside: inside.to_string(),
                    outside: outside.to_string(),
                });
            }
            (false, _) => inside.clone(),
            (true, true) => outside.clone(),
            (true, false) if several => MediaType::OciIndex,
            (true, false) if single => MediaType::OciManifest,
            (true, false) => return Err(ManifestError::Unsupported(outside.to_string())),
        };
        if media_type.is_index() && !single {
            let mut index: Index = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
            index.media_type = media_type;
            Ok(Self::Index(index))
        } else if media_type.is_manifest() && !several {
            let mut manifest: Manifest =
                serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
            if manifest.layers.len() > MAX_LAYERS {
                return Err(ManifestError::TooManyLayers(manifest.layers.len()));
            }
            manifest.media_type = media_type;
            Ok(Self::Manifest(manifest))
        } else if media_type.is_index() || media_type.is_manifest() {
            Err(ManifestError::Ambiguous)
        } else {
            Err(ManifestError::Unsupported(media_type.to_string()))
        }
    }

    /// Returns the type that was found inside or, failing that, outside.
    pub fn media_type(&self) -> &MediaType {
        match self {
            Self::Manifest(manifest) => &manifest.media_type,
            Self::Index(index) => &index.media_type,
        }
    }
}

impl Index {
    /// Picks the manifest that fits the machine best: the first one of the best rank.
    ///
    /// Entries that name no platform, as single-platform indexes do, fit last of all; those of
    /// `unknown/unknown` are attestations and never fit.
    pub fn select(&self, machine: &Platform) -> Option<&Descriptor> {
        self.manifests
            .iter()
            .filter(|entry| entry.media_type.is_manifest() || entry.media_type.is_index())
            .filter_map(|entry| {
                let rank = match &entry.platform {
                    Some(platform) => machine.rank(platform)?,
                    None => u32::MAX,
                };
                Some((rank, entry))
            })
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(media_type: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{D}","size":3}}"#)
    }

    fn manifest(media_type: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{},"layers":[{}]}}"#,
            descriptor("application/vnd.oci.image.config.v1+json"),
            descriptor("application/vnd.oci.image.layer.v1.tar+gzip")
        )
    }

    fn parse(text: &str, outside: &str) -> Result<Document, ManifestError> {
        Document::parse(text.as_bytes(), &MediaType::from(outside))
    }

    #[test]
    fn both_families_are_read() {
        for media_type in [MediaType::DockerManifest, MediaType::OciManifest] {
            let text = manifest(media_type.as_str());
            for outside in [media_type.as_str(), "", "text/plain"] {
                let Document::Manifest(m) = parse(&text, outside).unwrap() else {
                    panic!("not a manifest");
                };
                assert_eq!(m.media_type, media_type);
                assert_eq!(m.layers.len(), 1);
            }
        }
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            descriptor(MediaType::OciManifest.as_str())
        );
        assert!(matches!(parse(&index, "").unwrap(), Document::Index(_)));
    }

    #[test]
    fn confusion_is_refused() {
        let oci = MediaType::OciManifest;
        let both = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}}"#,
            descriptor("x")
        );
        assert!(matches!(
            parse(&both, oci.as_str()),
            Err(ManifestError::Ambiguous)
        ));
        assert!(matches!(
            parse(&manifest(oci.as_str()), MediaType::OciIndex.as_str()),
            Err(ManifestError::TypeMismatch { .. })
        ));
        let untyped = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#,
            descriptor("x")
        );
        assert!(matches!(
            parse(&untyped, MediaType::OciIndex.as_str()),
            Err(ManifestError::Ambiguous)
        ));
        let doubled = format!(
            r#"{{"schemaVersion":2,"config":{c},"layers":[],"layers":[{c}]}}"#,
            c = descriptor("x")
        );
        assert!(matches!(parse(&doubled, ""), Err(ManifestError::Json(_))));
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for text in [
            "",
            "null",
            "[]",
            "{}",
            "{\"schemaVersion\":3}",
            "{\"schemaVersion\":2}",
            "\u{0}",
        ] {
            assert!(parse(text, "").is_err(), "{text:?}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(parse(&deep, ""), Err(ManifestError::Json(_))));
        assert!(matches!(
            parse("{\"schemaVersion\":1,\"fsLayers\":[]}", ""),
            Err(ManifestError::Schema1)
        ));
        let negative = manifest(MediaType::OciManifest.as_str()).replace("3}", "-3}");
        assert!(matches!(parse(&negative, ""), Err(ManifestError::Json(_))));
        let traversal = manifest(MediaType::OciManifest.as_str()).replace(D, "sha256:../../x");
        assert!(matches!(parse(&traversal, ""), Err(ManifestError::Json(_))));
        let many = format!(
            r#"{{"schemaVersion":2,"config":{c},"layers":[{}]}}"#,
            vec![descriptor("x"); MAX_LAYERS + 1].join(","),
            c = descriptor("x")
        );
        assert!(matches!(
            parse(&many, ""),
            Err(ManifestError::TooManyLayers(_))
        ));
        let huge = " ".repeat(MAX_MANIFEST as usize + 1);
        assert!(matches!(parse(&huge, ""), Err(ManifestError::TooLarge)));
    }

    #[test]
    fn selection_prefers_the_best_fit() {
        let entry = |platform: Option<&str>, size| Descriptor {
            platform: platform.map(|p| p.parse().unwrap()),
            ..Descriptor::new(MediaType::OciManifest, Digest::of(b""), size)
        };
        let index = Index {
            schema_version: 2,
            media_type: MediaType::OciIndex,
            manifests: vec![
                entry(Some("unknown/unknown"), 0),
                entry(None, 1),
                entry(Some("linux/386"), 2),
                entry(Some("linux/amd64"), 3),
                entry(Some("linux/amd64"), 4),
                entry(Some("linux/arm64/v8"), 5),
            ],
            annotations: BTreeMap::new(),
        };
        let size = |machine: &str| index.select(&machine.parse().unwrap()).unwrap().size;
        assert_eq!(size("linux/amd64"), 3);
        assert_eq!(size("linux/arm64"), 5);
        assert_eq!(size("linux/386"), 2);
        assert_eq!(size("linux/s390x"), 1);
    }
}
