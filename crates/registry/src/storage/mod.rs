//! Where a registry keeps what it holds: two stores behind one contract.
//!
//! A store holds three sorts of things:
//!
//! * **records**, small and written whole: what links a repository to its blobs, its manifests and
//!   its tags ([`Record`]);
//! * **blobs** by digest;
//! * **uploads**: blobs in the making.
//!
//! The contract, which `tests/storage.rs` checks for each store:
//!
//! 1. What an operation acknowledged survives a kill and, as far as the medium can, a power cut.
//! 2. A record is the old or the new one, never a mixture.
//! 3. A blob is there whole and with the right digest, or not at all; an upload whose bytes are
//!    not those of its digest is gone.
//! 4. An upload goes on in another process with at least what was acknowledged by
//!    [`Upload::checkpoint`].
//! 5. Removing what is not there is no error.
//!
//! A store knows nothing of who needs what. One process uses it at a time.

#[cfg(feature = "s3")]
mod bucket;
mod files;

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sampan_oci::Digest;

use crate::name::{RepositoryName, Tag};

#[cfg(feature = "s3")]
pub use bucket::Bucket;
pub use files::Files;

/// What a store's operation comes to.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, StorageError>>;

/// A store failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The bytes are not those of the digest.
    #[error("content has the digest {actual} instead of {expected}")]
    DigestMismatch {
        /// The digest that was promised.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// The blob or record is not there.
    #[error("{0} is not there")]
    NotFound(String),
    /// There is no room left.
    #[error("there is no space left")]
    NoSpace,
    /// Anything else.
    #[error("{action}: {reason}")]
    Failed {
        /// What was being done.
        action: &'static str,
        /// Why it did not work.
        reason: String,
    },
}

impl StorageError {
    pub(crate) fn failed(action: &'static str, reason: impl fmt::Display) -> Self {
        Self::Failed {
            action,
            reason: reason.to_string(),
        }
    }
}

/// The name of a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Record {
    /// The repository has the blob. The record is empty.
    Blob(RepositoryName, Digest),
    /// A manifest: a line about it and its bytes.
    Manifest(RepositoryName, Digest),
    /// A tag.
    Tag(RepositoryName, Tag),
}

/// Folders of a repository. No part of a repository's name starts with `_`.
const BLOBS: &str = "_blobs";
const MANIFESTS: &str = "_manifests";
const TAGS: &str = "_tags";

impl Record {
    /// Returns the folder and the name in it, relative to all repositories.
    pub(crate) fn path(&self) -> (String, String) {
        match self {
            Self::Blob(repository, digest) => (format!("{repository}/{BLOBS}"), digest.hex()),
            Self::Manifest(repository, digest) => {
                (format!("{repository}/{MANIFESTS}"), digest.hex())
            }
            Self::Tag(repository, tag) => (format!("{repository}/{TAGS}"), tag.to_string()),
        }
    }

    /// Reads a path made by [`Record::path`]; none for what is no record.
    pub(crate) fn parse(repository: &str, folder: &str, name: &str) -> Option<Self> {
        let repository = repository.parse().ok()?;
        match folder {
            BLOBS => Some(Self::Blob(repository, Digest::from_hex(name).ok()?)),
            MANIFESTS => Some(Self::Manifest(repository, Digest::from_hex(name).ok()?)),
            TAGS => Some(Self::Tag(repository, name.parse().ok()?)),
            _ => None,
        }
    }
}

/// A whole blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// A blob in the making as it lies there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredUpload {
    /// Its name.
    pub id: String,
    /// When something of it came last.
    pub modified: SystemTime,
}

/// The bytes of a blob.
pub enum Content {
    /// In a file.
    File(File),
    /// From elsewhere, piece by piece; only the range that was asked for.
    Stream(BoxStream<'static, io::Result<Bytes>>),
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File(_) => "File",
            Self::Stream(_) => "Stream",
        })
    }
}

/// The contract of a store; see the module.
pub trait Storage: fmt::Debug + Send + Sync {
    /// Hands over the names of all records, and the contents of manifests and tags.
    fn load<'a>(&'a self, each: &'a mut (dyn FnMut(Record, Bytes) + Send)) -> Reply<'a, ()>;
    /// Writes a record.
    fn put_record(&self, record: &Record, bytes: Bytes) -> Reply<'_, ()>;
    /// Reads a record.
    fn record(&self, record: &Record) -> Reply<'_, Bytes>;
    /// Removes a record.
    fn remove_record(&self, record: &Record) -> Reply<'_, ()>;
    /// Lists all blobs.
    fn blobs(&self) -> Reply<'_, Vec<StoredBlob>>;
    /// Opens a blob. A stream has just the range; a file is whole.
    fn open(&self, digest: &Digest, range: Range<u64>) -> Reply<'_, Content>;
    /// Removes a blob.
    fn remove_blob(&self, digest: &Digest) -> Reply<'_, ()>;
    /// Begins an upload under a name that was never used: lower-case hex digits.
    fn begin(&self, id: &str) -> Reply<'_, Box<dyn Upload>>;
    /// Goes on with an upload; none when there is none.
    fn resume(&self, id: &str) -> Reply<'_, Option<Box<dyn Upload>>>;
    /// Lists uploads that are not finished.
    fn uploads(&self) -> Reply<'_, Vec<StoredUpload>>;
    /// Forgets an upload.
    fn remove_upload(&self, id: &str) -> Reply<'_, ()>;
}

/// A blob in the making. Dropped, it stays where it is.
pub trait Upload: fmt::Debug + Send {
    /// How many bytes there are.
    fn size(&self) -> u64;
    /// Adds bytes. After an error, or when dropped before its end, the upload must be resumed.
    fn write(&mut self, pieces: Vec<Bytes>) -> Reply<'_, ()>;
    /// Returns a file in which what was written can be read, where the store has one.
    fn reader(&self) -> Option<File>;
    /// Makes durable what there is.
    fn checkpoint(&mut self) -> Reply<'_, ()>;
    /// Makes it a blob if it has this digest; otherwise it is gone.
    fn commit(self: Box<Self>, digest: Digest) -> Reply<'static, StoredBlob>;
}
