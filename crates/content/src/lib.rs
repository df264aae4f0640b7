//! Blobs by digest: what registries and archives hold, kept byte for byte.
//!
//! Knows nothing of what the bytes mean: not of images, layers or compression, and not of who
//! needs a blob. The owner of the names decides what is removed.
//!
//! * [`ContentStore`]: finds, reads, lists and removes blobs.
//! * [`Writer`]: takes bytes, hashes them on the way, and becomes a blob only when digest and
//!   length are what they should be. One begun by [`ContentStore::resume`] keeps what it has
//!   when it is dropped, so that a broken download goes on where it stopped.
//!
//! On disk:
//!
//! ```text
//! <root>/blobs/sha256/<64 hex>        complete blobs
//! <root>/ingest/<64 hex>.partial      the beginning of the blob of that digest
//! <root>/ingest/<name>.session        a blob in the making under its maker's name
//! <root>/ingest/new-<number>          a blob whose digest is not known yet; removed at the start
//! ```

mod error;
mod store;
mod writer;

pub use error::{Error, ErrorKind};
pub use sampan_fs::Sync;
pub use store::{Blob, ContentStore, Session};
pub use writer::Writer;

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;
