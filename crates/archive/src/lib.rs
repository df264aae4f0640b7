//! Archives of images: `docker save` of all ages and OCI layouts, packed or not, from any stream.
//!
//! Reads and writes only forwards: an archive may come from a pipe. Names inside an archive are
//! keys of a table and never become paths. Knows nothing of where blobs and layers are kept: the
//! caller takes or gives the data of each member.
//!
//! * [`Decoder`]: unpacks gzip and zstd, told by their first bytes. Also used for layers.
//! * [`pack`](pack()): packs a layer, on all processors.
//! * [`Reader`]: the members of a tar, in order.
//! * [`ArchiveWriter`]: an archive in the making.
//! * [`write_tree`]: a directory as a tar, also what a container has changed as a layer;
//!   [`write_named`]: a part of a container's files.
//! * [`extract()`]: a tar into a directory.
//! * [`LayerWriter`]: a layer in the making, entry by entry.
//! * [`Contents`]: what was seen in the archive; [`Contents::images`] says which images that makes.

mod compression;
mod error;
mod extract;
mod header;
mod layer;
mod layout;
mod owner_map;
mod pack;
mod peel;
mod reader;
mod tree;
mod writer;

pub use compression::{Decoder, detect};
pub use error::{Error, ErrorKind};
pub use extract::{ExtractError, ExtractOptions, Owner, Replace, extract};
pub use layer::{Attributes, LayerWriter, extended_attributes};
pub use layout::{ArchivedImage, ArchivedLayer, Contents, MAX_DOCUMENT};
pub use owner_map::{OwnerMap, OwnerRange};
pub use pack::pack;
pub use peel::Peeled;
pub use reader::{Kind, Member, Reader};
pub use tree::{OpenMerged, Tree, is_pseudo, write_named, write_tree};
pub use writer::ArchiveWriter;

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;
