//! The media types of manifests, configurations and layers.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How the bytes of a layer are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// A plain tar.
    None,
    /// RFC 1952, one or several members.
    Gzip,
    /// RFC 8878, one or several frames.
    Zstd,
}

macro_rules! media_types {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A media type of Docker or of the OCI, or any other text.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum MediaType {
            $($(#[$doc])* $name,)*
            /// One that means nothing to this crate.
            Other(String),
        }

        impl MediaType {
            /// Returns the text form.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(text) => text,
                }
            }
        }

        impl From<&str> for MediaType {
            fn from(text: &str) -> Self {
                match text {
                    $($text => Self::$name,)*
                    _ => Self::Other(text.to_owned()),
                }
            }
        }
    };
}

media_types! {
    /// Docker's image manifest, version 2 schema 2.
    DockerManifest = "application/vnd.docker.distribution.manifest.v2+json",
    /// Docker's manifest list.
    DockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json",
    /// Docker's manifest of version 2 schema 1, which is refused.
    DockerSchema1 = "application/vnd.docker.distribution.manifest.v1+json",
    /// The same with a signature.
    DockerSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws",
    /// Docker's image configuration.
    DockerConfig = "application/vnd.docker.container.image.v1+json",
    /// Docker's layer without compression.
    DockerLayer = "application/vnd.docker.image.rootfs.diff.tar",
    /// Docker's usual layer.
    DockerLayerGzip = "application/vnd.docker.image.rootfs.diff.tar.gzip",
    /// Docker's layer packed by zstd, as some builders write it.
    DockerLayerZstd = "application/vnd.docker.image.rootfs.diff.tar.zstd",
    /// A layer that its maker does not let registries hold.
    DockerForeignLayer = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    /// The OCI's image manifest.
    OciManifest = "application/vnd.oci.image.manifest.v1+json",
    /// The OCI's index.
    OciIndex = "application/vnd.oci.image.index.v1+json",
    /// The OCI's image configuration.
    OciConfig = "application/vnd.oci.image.config.v1+json",
    /// The OCI's layer without compression.
    OciLayer = "application/vnd.oci.image.layer.v1.tar",
    /// The OCI's layer packed by gzip.
    OciLayerGzip = "application/vnd.oci.image.layer.v1.tar+gzip",
    /// The OCI's layer packed by zstd.
    OciLayerZstd = "application/vnd.oci.image.layer.v1.tar+zstd",
    /// The OCI's layer that registries may not hold.
    OciForeignLayer = "application/vnd.oci.image.layer.nondistributable.v1.tar",
    /// The same packed by gzip.
    OciForeignLayerGzip = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    /// The same packed by zstd.
    OciForeignLayerZstd = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    /// The empty descriptor of artifacts.
    OciEmpty = "application/vnd.oci.empty.v1+json",
}

impl MediaType {
    /// Everything that a client of a registry accepts as a manifest, in the order of the header.
    pub const MANIFESTS: [Self; 4] = [
        Self::OciIndex,
        Self::OciManifest,
        Self::DockerManifestList,
        Self::DockerManifest,
    ];

    /// Parses a `Content-Type` header: parameters and blanks are dropped.
    pub fn from_header(value: &str) -> Self {
        let essence = value.split(';').next().unwrap_or_default();
        Self::from(essence.trim())
    }

    /// Whether it names a manifest of one image.
    pub fn is_manifest(&self) -> bool {
        matches!(self, Self::DockerManifest | Self::OciManifest)
    }

    /// Whether it names a list of manifests.
    pub fn is_index(&self) -> bool {
        matches!(self, Self::DockerManifestList | Self::OciIndex)
    }

    /// Whether it names an image configuration.
    pub fn is_config(&self) -> bool {
        matches!(self, Self::DockerConfig | Self::OciConfig)
    }

    /// Whether it names a manifest of the retired schema 1.
    pub fn is_schema1(&self) -> bool {
        matches!(self, Self::DockerSchema1 | Self::DockerSchema1Signed)
    }

    /// Whether it names a layer whose bytes are elsewhere.
    pub fn is_foreign_layer(&self) -> bool {
        matches!(
            self,
            Self::DockerForeignLayer
                | Self::OciForeignLayer
                | Self::OciForeignLayerGzip
                | Self::OciForeignLayerZstd
        )
    }

    /// Returns how a layer of this type is packed; none when it is no layer.
    pub fn layer_compression(&self) -> Option<Compression> {
        match self {
            Self::DockerLayer | Self::OciLayer | Self::OciForeignLayer => Some(Compression::None),
            Self::DockerLayerGzip
            | Self::OciLayerGzip
            | Self::DockerForeignLayer
            | Self::OciForeignLayerGzip => Some(Compression::Gzip),
            Self::DockerLayerZstd | Self::OciLayerZstd | Self::OciForeignLayerZstd => {
                Some(Compression::Zstd)
            }
            _ => None,
        }
    }

    /// Whether nothing is said.
    pub fn is_unset(&self) -> bool {
        self.as_str().is_empty()
    }
}

impl Default for MediaType {
    fn default() -> Self {
        Self::Other(String::new())
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for MediaType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        Ok(Self::from(text.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_parameters_are_dropped() {
        assert_eq!(
            MediaType::from_header(" application/vnd.oci.image.index.v1+json; charset=utf-8"),
            MediaType::OciIndex
        );
        assert_eq!(
            MediaType::from_header("text/html"),
            MediaType::Other("text/html".into())
        );
    }

    #[test]
    fn compression_follows_the_suffix() {
        for (text, compression) in [
            (MediaType::OciLayer, Some(Compression::None)),
            (MediaType::DockerLayerGzip, Some(Compression::Gzip)),
            (MediaType::OciLayerZstd, Some(Compression::Zstd)),
            (MediaType::OciConfig, None),
        ] {
            assert_eq!(text.layer_compression(), compression);
        }
    }
}
