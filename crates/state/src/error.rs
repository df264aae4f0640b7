//! What went wrong with which record.

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation on a record or on the store's directory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key that cannot be a file name of its own.
    #[error("{key:?} cannot be the key of a record")]
    BadKey {
        /// The refused key.
        key: String,
    },
    /// A value that does not turn into JSON.
    #[error("encode record {key}")]
    Encode {
        /// Whose record.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The directory or a file of it could not be read or written.
    #[error("{action} {key}")]
    Files {
        /// What was being done.
        action: &'static str,
        /// Whose record, or the directory.
        key: String,
        /// Why.
        #[source]
        source: sampan_fs::Error,
    },
}

/// Coarse classes of [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong.
    Invalid,
    /// No space, no quota or no inodes left.
    NoSpace,
    /// Anything else.
    Other,
}

impl Error {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::BadKey { .. } | Self::Encode { .. } => ErrorKind::Invalid,
            Self::Files { source, .. } => match source.kind() {
                sampan_fs::ErrorKind::NoSpace => ErrorKind::NoSpace,
                _ => ErrorKind::Other,
            },
        }
    }

    /// Returns a line a person can act on, where there is one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Files { source, .. } => source.hint(),
            Self::BadKey { .. } | Self::Encode { .. } => None,
        }
    }
}
