//! Archives of images: `docker save` of all ages and OCI layouts, packed or not, from any stream.
//!
//! Reads only, and only forwards: an archive may come from a pipe. Names inside an archive are
//! keys of a table and never become paths. Knows nothing of where blobs and layers are kept: the
//! caller takes the data of each member as it passes.
//!
//! * [`Decoder`]: unpacks gzip and zstd, told by their first bytes. Also used for layers.
//! * [`Reader`]: the members of a tar, in order.
//! * [`Contents`]: what was seen in the archive; [`Contents::images`] says which images that makes.

mod compression;
mod error;
mod layout;
mod reader;

pub use compression::{Decoder, detect};
pub use error::{Error, ErrorKind};
pub use layout::{ArchivedImage, ArchivedLayer, Contents, MAX_DOCUMENT};
pub use reader::{Kind, Member, Reader};

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;
