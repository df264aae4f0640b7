//! What the registry cannot do, with the code that clients read.

use std::fmt;

use sampan_oci::Digest;
use sampan_oci::manifest::ManifestError;

use crate::name::{RepositoryName, Target};
use crate::storage::StorageError;

/// A request that is not fulfilled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such repository, or not for this client.
    #[error("repository {0} is not known to this registry")]
    RepositoryUnknown(RepositoryName),
    /// The repository has no such manifest.
    #[error("manifest {target} is unknown in {repository}")]
    ManifestUnknown {
        /// The repository.
        repository: RepositoryName,
        /// What was asked for.
        target: String,
    },
    /// The repository has the manifest, but the client reads none of its type.
    #[error("manifest {target} is of the type {media_type}, which the client does not accept")]
    NotAcceptable {
        /// What was asked for.
        target: Target,
        /// What it is.
        media_type: String,
    },
    /// The repository has no such blob.
    #[error("blob {digest} is unknown in {repository}")]
    BlobUnknown {
        /// The repository.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
    },
    /// A manifest needs what its repository does not have.
    #[error("the manifest needs {missing}, which is unknown in this repository")]
    ManifestIncomplete {
        /// What is missing.
        missing: Digest,
    },
    /// A manifest of the repository needs the blob.
    #[error("blob {digest} is used by the manifest {manifest}: delete that first")]
    BlobInUse {
        /// The blob.
        digest: Digest,
        /// One that needs it.
        manifest: Digest,
    },
    /// The bytes are no manifest that is stored here.
    #[error("the manifest is not accepted")]
    Manifest(#[from] ManifestError),
    /// The bytes are not those of the digest.
    #[error("the content has the digest {actual}, not {expected}")]
    DigestMismatch {
        /// The digest that was promised.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// There is no such upload.
    #[error("there is no such upload")]
    UploadUnknown,
    /// Another request writes to the upload.
    #[error("another request is writing to this upload")]
    UploadBusy,
    /// The chunk does not begin where the upload ends.
    #[error("the chunk begins at {given}, but the upload has {size} bytes")]
    OutOfOrder {
        /// How much there is.
        size: u64,
        /// Where the chunk begins.
        given: u64,
    },
    /// The body is not of the length that the request gives.
    #[error("the request promised {expected} bytes and brought {actual}")]
    BodyLength {
        /// What was promised.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// The body broke off.
    #[error("the request's body broke off: {0}")]
    Body(String),
    /// The body came too slowly.
    #[error("the request's body comes too slowly")]
    Slow,
    /// There is more of it than is taken.
    #[error("the {what} is larger than {limit} bytes")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// There are as many of them as are allowed.
    #[error("there are too many unfinished uploads; finish or cancel some")]
    TooManyUploads,
    /// The request does not follow the protocol.
    #[error("{0}")]
    Invalid(Invalid),
    /// The repository is a copy of another registry's.
    #[error("{0} is a cache of another registry: push there")]
    ReadOnly(RepositoryName),
    /// The store refused.
    #[error("the registry's store failed")]
    Storage(#[from] StorageError),
    /// The registry that this one copies did not give what was asked for.
    #[error("the upstream registry does not answer: {0}")]
    Upstream(String),
    /// The registry is stopping.
    #[error("the registry is stopping")]
    Stopping,
}

/// What of a request does not follow the protocol.
#[derive(Debug, PartialEq, Eq)]
pub enum Invalid {
    /// A repository's name.
    Name(String),
    /// A tag.
    Tag(String),
    /// A digest.
    Digest(String),
    /// The digest of the whole upload is not given.
    NoDigest,
    /// A `Content-Range`.
    ContentRange(String),
    /// A number in the query.
    Number(&'static str),
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "invalid repository name {name:?}"),
            Self::Tag(tag) => write!(f, "invalid tag {tag:?}"),
            Self::Digest(digest) => write!(f, "invalid or unsupported digest {digest:?}"),
            Self::NoDigest => f.write_str("the digest of the content is not given"),
            Self::ContentRange(range) => write!(f, "invalid Content-Range {range:?}"),
            Self::Number(name) => write!(f, "{name} is no number"),
        }
    }
}

/// Coarse classes of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such thing.
    NotFound,
    /// The request is wrong.
    Invalid,
    /// The request is right, but not now or not here.
    Conflict,
    /// Something is too large, too many or too slow.
    Limit,
    /// The registry cannot do its work.
    Unavailable,
}

impl Error {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::RepositoryUnknown(_)
            | Self::ManifestUnknown { .. }
            | Self::NotAcceptable { .. }
            | Self::BlobUnknown { .. }
            | Self::UploadUnknown => ErrorKind::NotFound,
            Self::ManifestIncomplete { .. }
            | Self::Manifest(_)
            | Self::DigestMismatch { .. }
            | Self::BodyLength { .. }
            | Self::Body(_)
            | Self::Invalid(_) => ErrorKind::Invalid,
            Self::BlobInUse { .. }
            | Self::UploadBusy
            | Self::OutOfOrder { .. }
            | Self::ReadOnly(_) => ErrorKind::Conflict,
            Self::Slow | Self::TooLarge { .. } | Self::TooManyUploads => ErrorKind::Limit,
            Self::Storage(_) | Self::Upstream(_) | Self::Stopping => ErrorKind::Unavailable,
        }
    }
}

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;
