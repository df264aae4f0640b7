//! What went wrong with which layer.

use std::io;
use std::path::{Path, PathBuf};

use sampan_oci::DiffId;

pub use crate::tar::TarError;
pub use crate::tree::Reason;

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation on a layer or on the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are no well-formed tar.
    #[error("malformed layer archive near byte {offset}")]
    Tar {
        /// Place in the uncompressed tar.
        offset: u64,
        /// What is wrong there.
        #[source]
        source: TarError,
    },
    /// A member of the archive cannot be part of a layer.
    #[error("cannot take {path:?} into the layer")]
    Member {
        /// The path as the archive has it.
        path: String,
        /// Why.
        #[source]
        reason: Reason,
    },
    /// More entries than a layer may have.
    #[error("the layer has more than {limit} entries")]
    TooManyEntries {
        /// The bound.
        limit: u64,
    },
    /// More names, attributes and sparse maps than a layer may have.
    #[error("the names and attributes of the layer exceed {limit} bytes")]
    TooMuchMetadata {
        /// The bound.
        limit: u64,
    },
    /// Sparse files in pieces so small and so many that they had to be copied.
    #[error("the sparse files of the layer are too fragmented")]
    TooFragmented,
    /// Deep paths through many links.
    #[error("the paths of the layer take too many steps to resolve")]
    TooComplex,
    /// The archive is larger than the index can address.
    #[error("the layer archive is larger than 2 TiB")]
    TooLarge,
    /// The bytes are not those that were asked for.
    #[error("layer digest mismatch: expected {expected}, got {actual}")]
    DigestMismatch {
        /// What the image's configuration says.
        expected: DiffId,
        /// What the bytes are.
        actual: DiffId,
    },
    /// The store does not have the layer.
    #[error("no such layer: {0}")]
    NotFound(DiffId),
    /// What is on disk of a layer is not what was stored.
    #[error("layer {diff_id} is damaged: {what}")]
    Damaged {
        /// The layer.
        diff_id: DiffId,
        /// What does not fit.
        what: &'static str,
    },
    /// An overlay of too many layers.
    #[error("{count} layers are more than the {limit} that overlayfs takes")]
    TooManyLayers {
        /// How many were asked for.
        count: usize,
        /// How many are possible.
        limit: usize,
    },
    /// The kernel refused a mount.
    #[error("mount {what}{}", log.as_deref().map(|l| format!(" ({l})")).unwrap_or_default())]
    Mount {
        /// What was to be mounted.
        what: &'static str,
        /// What the kernel said beside the error number.
        log: Option<String>,
        /// The error number.
        #[source]
        source: io::Error,
    },
    /// The kernel cannot show the files of a layer, or of the upper directory, with other owners.
    #[error(
        "users of their own (--userns) take mounts with mapped owners, which this kernel does not have for {}: \
         Linux 6.3 has them for tmpfs, EROFS and the common file systems of disks",
        what.display()
    )]
    FixedOwners {
        /// Whose files.
        what: PathBuf,
    },
    /// A system call failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// An earlier error, which was reported already, ended the ingest.
    #[error("the ingest has failed before")]
    Aborted,
    /// The unpacking child process failed.
    #[error("unpack worker: {0}")]
    Worker(String),
    /// A durable write or rooted open failed.
    #[error(transparent)]
    Fs(#[from] sampan_fs::Error),
}

/// Coarse classes of [`Error`] for callers that decide by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The layer's bytes are at fault; trying again cannot help.
    Invalid,
    /// The store does not have it.
    NotFound,
    /// The store's copy is at fault; fetching it again helps.
    Damaged,
    /// No space, no quota or no inodes left.
    NoSpace,
    /// The machine lacks something that is needed.
    Unsupported,
    /// Somebody else holds the store.
    Busy,
    /// Anything else the system said.
    System,
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

    /// Takes the error out of an [`io::Error`] that writing to an
    /// [`Ingest`](crate::Ingest) gave; any other stays what it is.
    pub fn from_io(error: io::Error) -> std::result::Result<Self, io::Error> {
        error.downcast()
    }

    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Tar { .. }
            | Self::Member { .. }
            | Self::TooManyEntries { .. }
            | Self::TooMuchMetadata { .. }
            | Self::TooFragmented
            | Self::TooComplex
            | Self::TooLarge
            | Self::DigestMismatch { .. }
            | Self::TooManyLayers { .. } => ErrorKind::Invalid,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Damaged { .. } => ErrorKind::Damaged,
            Self::Mount { source, .. } | Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
                io::ErrorKind::Unsupported => ErrorKind::Unsupported,
                _ if source.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
                    ErrorKind::Unsupported
                }
                _ => ErrorKind::System,
            },
            Self::FixedOwners { .. } => ErrorKind::Unsupported,
            Self::Aborted | Self::Worker(_) => ErrorKind::System,
            Self::Fs(source) => match source.kind() {
                sampan_fs::ErrorKind::NoSpace => ErrorKind::NoSpace,
                sampan_fs::ErrorKind::Busy => ErrorKind::Busy,
                _ => ErrorKind::System,
            },
        }
    }

    /// Returns a line a person can act on, where there is one.
    pub fn hint(&self) -> Option<&'static str> {
        if let Self::Mount { log: None, .. } = self {
            return Some("the kernel's log (dmesg) says more");
        }
        match self.kind() {
            ErrorKind::NoSpace => Some("free space on the file system that holds the images"),
            ErrorKind::Damaged => Some("remove the image and pull it again"),
            ErrorKind::Invalid => Some("the image is broken or hostile; ask its author"),
            ErrorKind::NotFound | ErrorKind::Unsupported | ErrorKind::Busy | ErrorKind::System => {
                None
            }
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Invalid | ErrorKind::Damaged => io::ErrorKind::InvalidData,
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::NoSpace => io::ErrorKind::StorageFull,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::Busy => io::ErrorKind::ResourceBusy,
            ErrorKind::System => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

impl From<TarError> for Error {
    fn from(source: TarError) -> Self {
        Self::Tar { offset: 0, source }
    }
}
