//! What went wrong with which path.

use std::io;
use std::path::{Path, PathBuf};

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation on a file or directory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was being done, as in "open".
        action: &'static str,
        /// The object it was done to.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The name of an entry is empty, `.`, `..` or has a slash or NUL.
    #[error("{name:?} is not the name of a directory entry")]
    BadName {
        /// The refused name.
        name: PathBuf,
    },
    /// A file is longer than the caller is ready to read.
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The caller's bound.
        limit: u64,
    },
    /// Somebody else holds the lock.
    #[error("{} is locked by another process", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
}

/// Coarse classes of [`Error`] for callers that decide by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The object or a parent of it does not exist.
    NotFound,
    /// The object exists already.
    AlreadyExists,
    /// The request itself is wrong (bad name, too many links, not a directory).
    Invalid,
    /// No space, no quota or no inodes left.
    NoSpace,
    /// Somebody else holds it.
    Busy,
    /// Anything else the system said.
    Other,
}

impl Error {
    pub(crate) fn io(
        action: &'static str,
        path: impl AsRef<Path>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io {
            action,
            path: path.as_ref().to_path_buf(),
            source: source.into(),
        }
    }

    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
                io::ErrorKind::InvalidInput
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::IsADirectory
                | io::ErrorKind::InvalidFilename => ErrorKind::Invalid,
                io::ErrorKind::ResourceBusy => ErrorKind::Busy,
                _ => ErrorKind::Other,
            },
            Self::BadName { .. } | Self::TooLarge { .. } => ErrorKind::Invalid,
            Self::Locked { .. } => ErrorKind::Busy,
        }
    }

    /// Returns a line a person can act on, where there is one.
    pub fn hint(&self) -> Option<&'static str> {
        match self.kind() {
            ErrorKind::NoSpace => Some("free space on the file system that holds the store"),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Io { source, .. } => source.kind(),
            Error::BadName { .. } | Error::TooLarge { .. } => io::ErrorKind::InvalidInput,
            Error::Locked { .. } => io::ErrorKind::ResourceBusy,
        };
        Self::new(kind, error)
    }
}
