//! Records: one checksummed JSON file per object, and an index of them in memory.
//!
//! A [`Store`] owns a directory. What was put with [`Sync::Durable`] survives power loss; a
//! record that cannot be read when the store is opened is set aside under the name
//! `<file>.damaged` and reported by [`Store::damaged`], and the rest opens normally. Reads come
//! from memory and wait for no write.
//!
//! This crate knows nothing of what a record says: values are whatever `serde` can carry.
//!
//! On disk, by [`Layout`]:
//!
//! ```text
//! <dir>/<key>.json            Layout::Files
//! <dir>/<key>/record.json     Layout::Directories, beside other files of the object
//! ```
//!
//! Each file holds one JSON object: `{"format":1,"checksum":"sha256:<hex>","record":{...}}`, the
//! checksum being that of the bytes of `record` as they stand in the file.
//!
//! A [`Journal`] owns a directory, too: `<dir>/current` and `<dir>/previous` hold one entry a line,
//! each behind a checksum. It survives the death of the process, not every power cut.

mod envelope;
mod error;
mod journal;
mod store;

pub use envelope::{Unreadable, seal, unseal};
pub use error::{Error, ErrorKind, Result};
pub use journal::{Journal, JournalReader};
pub use sampan_fs::Sync;
pub use store::{Damaged, Layout, Store};
