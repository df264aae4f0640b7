//! What went wrong with which blob.

use std::io;
use std::path::PathBuf;

use sampan_oci::Digest;

/// A failed operation on a blob.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such blob.
    #[error("no blob {0}")]
    NotFound(Digest),
    /// The bytes are not those that the digest names.
    #[error("content does not match its digest: expected {expected}, got {actual}")]
    DigestMismatch {
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// There are too few or too many bytes.
    #[error("content has {actual} bytes instead of {expected}")]
    SizeMismatch {
        /// The length that was promised.
        expected: u64,
        /// The length of what came.
        actual: u64,
    },
    /// The blob is longer than the caller is ready to read.
    #[error("blob {digest} has {size} bytes, more than {limit}")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its length.
        size: u64,
        /// The caller's bound.
        limit: u64,
    },
    /// The same blob is being written by somebody else.
    #[error("blob {0} is being written already")]
    Busy(Digest),
    /// A session cannot have this name.
    #[error("{0:?} is no name for a session")]
    SessionName(String),
    /// The system refused.
    #[error("{action} {}", path.display())]
    Io {
        /// What was being done, as in "open".
        action: &'static str,
        /// The file it was done to.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The system refused a durable write.
    #[error("content store")]
    Files(#[from] sampan_fs::Error),
}

/// Coarse classes of [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such blob.
    NotFound,
    /// The content is not what was promised.
    Corrupt,
    /// Somebody else is at it.
    Busy,
    /// The file system is full.
    NoSpace,
    /// Anything else.
    Other,
}

impl Error {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::DigestMismatch { .. } | Self::SizeMismatch { .. } | Self::TooLarge { .. } => {
                ErrorKind::Corrupt
            }
            Self::Busy(_) => ErrorKind::Busy,
            Self::SessionName(_) => ErrorKind::Other,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
                _ => ErrorKind::Other,
            },
            Self::Files(error) => match error.kind() {
                sampan_fs::ErrorKind::NoSpace => ErrorKind::NoSpace,
                _ => ErrorKind::Other,
            },
        }
    }
}
