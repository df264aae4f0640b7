//! Why an archive cannot be used.

use std::io;

/// A failure to read an archive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream broke or does not unpack.
    #[error("read archive")]
    Io(#[source] io::Error),
    /// The archive is packed in a way that is not supported.
    #[error("{0} compression is not supported")]
    Compression(&'static str),
    /// The tar is malformed.
    #[error("malformed archive at byte {offset}: {reason}")]
    Tar {
        /// Offset in the unpacked archive.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// The archive exceeds a bound.
    #[error("archive has {0}")]
    Bound(&'static str),
    /// The archive holds no image.
    #[error("invalid archive: does not contain a manifest.json or an index.json")]
    NoImages,
    /// The archive was saved by Docker before 1.10.
    #[error("invalid archive: does not contain a manifest.json")]
    TooOld,
    /// The archive refers to a member that it does not have.
    #[error("invalid archive: {0:?} is missing")]
    Missing(String),
    /// A member's bytes are not those that its name says.
    #[error("invalid archive: {0:?} does not match its digest")]
    Digest(String),
    /// A document of the archive is not the JSON it should be.
    #[error("invalid archive: {document}")]
    Json {
        /// The member.
        document: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A manifest in the archive cannot be used.
    #[error("invalid archive: {document}")]
    Manifest {
        /// The member.
        document: String,
        /// Why.
        #[source]
        source: sampan_oci::manifest::ManifestError,
    },
    /// A name in the archive is none.
    #[error("invalid archive: image name {name:?}")]
    Name {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: sampan_oci::reference::ReferenceError,
    },
    /// No image in the archive fits the machine.
    #[error("the archive has no image for {0}")]
    NoPlatform(String),
}

/// Coarse classes of [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The archive is wrong.
    Invalid,
    /// The stream broke.
    Io,
}

impl Error {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io(source)
                if !matches!(
                    source.kind(),
                    io::ErrorKind::InvalidData
                        | io::ErrorKind::InvalidInput
                        | io::ErrorKind::UnexpectedEof
                        | io::ErrorKind::Unsupported
                        | io::ErrorKind::Other
                ) =>
            {
                ErrorKind::Io
            }
            _ => ErrorKind::Invalid,
        }
    }

    /// Returns a line a person can act on, where there is one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Compression(_) => {
                Some("unpack the archive first: plain, gzip and zstd archives are taken")
            }
            Self::TooOld => Some("save the image again with a Docker of this decade"),
            Self::NoImages => {
                Some("a tar of a root file system is taken by `import`, not by `load`")
            }
            _ => None,
        }
    }
}
