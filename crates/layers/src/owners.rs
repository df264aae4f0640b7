//! Layers whose owners are shown as others: id-mapped mounts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use sampan_kernel::mount::{Reach, map_owners};

use crate::error::{Error, Result};
use crate::place::{Kept, Places};

/// Whose files those of a layer are shown as.
#[derive(Clone, Copy, Debug)]
pub struct Owners<'a> {
    /// A namespace of users: what is stored as its user 0 is shown as the one outside that stands
    /// for it.
    pub users: BorrowedFd<'a>,
    /// The user and the group that stand for 0.
    pub root: (u32, u32),
}

impl Owners<'_> {
    /// A copy of the mount that has `path` below `directory` at its top.
    pub(crate) fn map(
        &self,
        directory: BorrowedFd<'_>,
        path: &Path,
        places: &Places,
    ) -> Result<Kept> {
        let what = match path.as_os_str().is_empty() {
            true => Path::new("one of its layers"),
            false => path,
        };
        let failed = |errno: Errno| Error::io("map the owners of", what, errno);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        let copy: OwnedFd = open_tree(directory, path, flags).map_err(failed)?;
        map_owners(copy.as_fd(), self.users, Reach::Mount).map_err(|error| {
            match error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) {
                true => Error::FixedOwners {
                    what: what.to_owned(),
                },
                false => Error::io("map the owners of", what, error),
            }
        })?;
        places.keep(copy)
    }
}
