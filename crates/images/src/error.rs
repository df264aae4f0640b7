//! What went wrong with which image.

use std::io;

use sampan_oci::digest::{DiffId, Digest, ImageId};

/// A failed operation on images. Messages follow Docker's wording, on which scripts match.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing here has this name or ID.
    #[error("No such image: {0}")]
    NotFound(String),
    /// More than one ID begins like this.
    #[error("ambiguous image ID prefix {prefix:?}: {} images begin like this", .ids.len())]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// Every ID that begins so.
        ids: Vec<ImageId>,
    },
    /// The name is none.
    #[error(transparent)]
    Reference(#[from] sampan_oci::reference::ReferenceError),
    /// The platform is none.
    #[error(transparent)]
    Platform(#[from] sampan_oci::platform::PlatformError),
    /// The request makes no sense; the text says why.
    #[error("{0}")]
    Invalid(String),
    /// Something else needs what was to be removed; the text is Docker's.
    #[error("{message}")]
    Conflict {
        /// What is in the way.
        message: String,
        /// What a person can do about it.
        hint: &'static str,
    },
    /// A document of the image cannot be used.
    #[error("cannot use the manifest of {image}")]
    Manifest {
        /// The name the image was asked for by.
        image: String,
        /// Why.
        source: sampan_oci::manifest::ManifestError,
    },
    /// The configuration of the image cannot be used.
    #[error(transparent)]
    Config(#[from] sampan_oci::config::ConfigError),
    /// No manifest fits the machine.
    #[error("no matching manifest for {platform} in the manifest list entries")]
    NoPlatform {
        /// The machine.
        platform: String,
    },
    /// The image here is for another machine than the one asked for.
    #[error(
        "image with reference {image} was found but does not provide the specified platform ({platform})"
    )]
    WrongPlatform {
        /// The name the image was asked for by.
        image: String,
        /// The platform asked for.
        platform: String,
    },
    /// The image contradicts itself; the text says how.
    #[error("invalid image {image}: {reason}")]
    InvalidImage {
        /// The name the image was asked for by.
        image: String,
        /// What is wrong.
        reason: String,
    },
    /// A layer's tar is not the one that the configuration names.
    #[error("layer does not match its diff ID: expected {expected}, got {actual}")]
    DiffId {
        /// The one that the configuration names.
        expected: DiffId,
        /// That of the bytes that came.
        actual: DiffId,
    },
    /// A layer unpacks to more than is allowed.
    #[error("layer {layer} is larger than allowed when unpacked: more than {limit} bytes")]
    TooLarge {
        /// The layer's blob or diff ID.
        layer: Digest,
        /// The bound that was met.
        limit: u64,
    },
    /// The registry refused or could not be understood.
    #[error(transparent)]
    Registry(#[from] sampan_registry_client::Error),
    /// An archive cannot be used.
    #[error(transparent)]
    Archive(#[from] sampan_archive::Error),
    /// The layer store refused.
    #[error("store layer {layer}")]
    Layer {
        /// The layer's blob or diff ID.
        layer: Digest,
        /// Why.
        #[source]
        source: sampan_layers::Error,
    },
    /// The content store refused.
    #[error(transparent)]
    Content(#[from] sampan_content::Error),
    /// A record could not be written.
    #[error(transparent)]
    State(#[from] sampan_state::Error),
    /// Bytes could not be read or unpacked.
    #[error("{action}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// Coarse classes of [`Error`], mapped once at each edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such image, here or in the registry.
    NotFound,
    /// The request or the image is wrong.
    Invalid,
    /// Something else needs the object.
    Conflict,
    /// The registry does not know who asks.
    Unauthorized,
    /// The registry knows who asks and refuses.
    Forbidden,
    /// The registry cannot be reached or is busy.
    Unavailable,
    /// The file system is full.
    NoSpace,
    /// Anything else.
    Internal,
}

impl Error {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        use sampan_registry_client::ErrorKind as Registry;
        match self {
            Self::NotFound(_) | Self::NoPlatform { .. } | Self::WrongPlatform { .. } => {
                ErrorKind::NotFound
            }
            Self::Ambiguous { .. }
            | Self::Reference(_)
            | Self::Platform(_)
            | Self::Invalid(_)
            | Self::Manifest { .. }
            | Self::Config(_)
            | Self::InvalidImage { .. }
            | Self::DiffId { .. }
            | Self::TooLarge { .. } => ErrorKind::Invalid,
            Self::Conflict { .. } => ErrorKind::Conflict,
            Self::Registry(error) => match error.kind() {
                Registry::NotFound => ErrorKind::NotFound,
                Registry::Unauthorized => ErrorKind::Unauthorized,
                Registry::Forbidden => ErrorKind::Forbidden,
                Registry::Unavailable => ErrorKind::Unavailable,
                Registry::Invalid => ErrorKind::Invalid,
                Registry::Internal => ErrorKind::Internal,
            },
            Self::Archive(error) => match error.kind() {
                sampan_archive::ErrorKind::Invalid => ErrorKind::Invalid,
                sampan_archive::ErrorKind::Io => ErrorKind::Internal,
            },
            Self::Layer { source, .. } => match source.kind() {
                sampan_layers::ErrorKind::Invalid => ErrorKind::Invalid,
                sampan_layers::ErrorKind::NoSpace => ErrorKind::NoSpace,
                _ => ErrorKind::Internal,
            },
            Self::Content(error) => match error.kind() {
                sampan_content::ErrorKind::Corrupt => ErrorKind::Invalid,
                sampan_content::ErrorKind::NoSpace => ErrorKind::NoSpace,
                _ => ErrorKind::Internal,
            },
            Self::State(_) => ErrorKind::Internal,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
                io::ErrorKind::InvalidData
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::UnexpectedEof => ErrorKind::Invalid,
                _ => ErrorKind::Internal,
            },
        }
    }

    /// Returns a line a person can act on, where there is one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Archive(error) => error.hint(),
            Self::Ambiguous { .. } => Some("give more digits of the ID"),
            Self::Conflict { hint, .. } => Some(hint),
            Self::NoPlatform { .. } | Self::WrongPlatform { .. } => {
                Some("name another platform with --platform")
            }
            _ if self.kind() == ErrorKind::NoSpace => {
                Some("free space on the file system that holds the images, or prune images")
            }
            _ => None,
        }
    }

    /// Whether other bytes from another registry may be better.
    pub(crate) fn is_the_registrys(&self) -> bool {
        matches!(self, Self::Registry(_)) || self.kind() == ErrorKind::Invalid
    }

    pub(crate) fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}
