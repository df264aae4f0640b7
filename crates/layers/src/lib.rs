//! Layers of images: taken in as uncompressed tars, kept, mounted and stacked.
//!
//! The tar *is* the layer. Beside it lies a small EROFS index of our own making
//! which the kernel mounts from the file, with the tar as its extra device, so
//! that nothing an image contains is ever created as a file on the host. A
//! second driver unpacks into a directory where the kernel cannot do that.
//!
//! This crate knows nothing of images, manifests, registries or compression,
//! and never mounts an EROFS image that somebody else made.
//!
//! * [`LayerStore`]: what exists. Opening it repairs what a kill left behind.
//! * [`Ingest`]: takes a tar's bytes; [`Ingest::commit`] makes it a layer.
//! * [`Entry`]: what a layer says about one path, read from its tar.
//! * [`Bindable`]: a mount of which parts are bound into containers.
//! * [`LayerMount`]: a mounted layer, held by descriptor and shared.
//! * [`LayerStore::overlay`]: a root file system of several of them, with an
//!   [`InitLayer`] and a writable directory.
//! * [`worker`]: the confined child process of the directory driver.
//!
//! ```text
//! ROOT/layers/lock
//! ROOT/layers/<diff id>/layer.tar      the bytes, exactly
//!                       meta.json      sizes and digests
//!                       index.erofs    driver "tar-index"
//!                       tree/          driver "directory"
//! ROOT/layers/mounts/*                 mounts in use, on kernels that want them attached
//! ROOT/layers/tmp-*                    being taken in or removed
//! ROOT/layers/quarantine/*             damaged, for a person to look at
//! ```

mod cache;
mod context;
mod directory;
mod erofs;
mod error;
mod ingest;
mod init;
mod limits;
mod listing;
mod mount;
mod overlay;
mod owners;
mod place;
mod record;
mod store;
mod tar;
#[cfg(test)]
#[path = "../tests/tarball/mod.rs"]
mod tarball;
mod tree;
pub mod worker;

pub use error::{Error, ErrorKind, Reason, Result, TarError};
pub use ingest::Ingest;
pub use init::{InitEntry, InitLayer};
pub use limits::Limits;
pub use listing::{Contents, Data, Entry, EntryKind};
pub use mount::LayerMount;
pub use overlay::{Durability, Writable};
pub use owners::Owners;
pub use place::Bindable;
pub use store::{Driver, Layer, LayerStore, Mounts, Options, Quarantined, Worker};
