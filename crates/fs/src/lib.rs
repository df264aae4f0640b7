//! Durable writes and rooted paths: the two things every store needs and that
//! are easy to get subtly wrong.
//!
//! * [`write_atomic`], [`write_file`], [`rename_durable`], [`sync_dir`]: a
//!   reader sees the old bytes or the new ones, never a mixture, and with
//!   [`Sync::Durable`] what was acknowledged survives power loss.
//! * [`Root`]: opens and creates paths that an image, a container or a request
//!   can influence, without ever leaving a directory.
//! * [`remove_dir_all`], [`remove_all_at`]: removal by descriptor that never
//!   follows a symbolic link and copes with changes made meanwhile.
//! * [`usage`]: how much a tree of files takes.
//! * [`DirLock`]: one process at a time owns a directory.
//!
//! This crate knows nothing of images, containers or of what is stored.

mod durable;
mod error;
mod lock;
mod remove;
mod root;
mod usage;

pub use durable::{
    Sync, create_dir_all, open_dir, rename_durable, sync_dir, write_atomic, write_file,
};
pub use error::{Error, ErrorKind, Result};
pub use lock::DirLock;
pub use remove::{remove_all_at, remove_dir_all};
pub use root::Root;
pub use usage::{Usage, blocks_of, usage};
