//! Detached mounts: copied, changed, attached.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, fstat, fstatfs};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use sampan_kernel::mount::{MountAttributes, MountChange, Propagation, Reach, change_mount};

use crate::options::MountOptions;

/// A detached copy of the mount at a path of the host.
pub(crate) fn clone_path(path: &PathBuf, reach: Reach) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if reach == Reach::Tree {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags)
}

/// Child code, and parent code too: a detached copy of what a descriptor is
/// open on.
pub(crate) fn clone_descriptor(from: BorrowedFd<'_>, reach: Reach) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if reach == Reach::Tree {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(from, c"", flags)
}

/// Child code: attaches a detached mount where a descriptor is open.
pub(crate) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    match move_mount(tree, c"", target, c"", flags) {
        // What the kernel also says of a directory on a file.
        Err(Errno::INVAL) if is_directory(tree) != is_directory(target) => Err(Errno::NOTDIR),
        other => other,
    }
}

/// Child code.
pub(crate) fn is_directory(of: BorrowedFd<'_>) -> Result<bool, Errno> {
    fstat(of).map(|status| FileType::from_raw_mode(status.st_mode) == FileType::Directory)
}

/// Child code, and parent code too.
pub(crate) fn is_proc(of: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(fstatfs(of)?.f_type == PROC_SUPER_MAGIC)
}

/// Sets what the options ask of a bind mount. Read-only reaches what is mounted
/// below, too: a writable file system below a read-only volume surprises.
pub(crate) fn change_bind(
    tree: BorrowedFd<'_>,
    options: &MountOptions,
    reach: Reach,
) -> std::io::Result<()> {
    let read_only = MountAttributes::READ_ONLY;
    let mut tree_wide = MountChange {
        set: options.set_tree,
        clear: options.clear_tree,
        propagation: Some(Propagation::Private),
    };
    if reach == Reach::Tree && options.set.contains(read_only) {
        tree_wide.set |= read_only;
    }
    let mut top = MountChange {
        set: options.set,
        clear: options.clear,
        propagation: None,
    };
    match options.propagation {
        Some((propagation, Reach::Tree)) => tree_wide.propagation = Some(propagation),
        Some((propagation, Reach::Mount)) => {
            tree_wide.propagation = None;
            top.propagation = Some(propagation);
        }
        None => {}
    }
    // A lone mount needs one call for both.
    if reach == Reach::Mount {
        top.set |= tree_wide.set;
        top.clear |= tree_wide.clear;
        top.propagation = top.propagation.or(tree_wide.propagation);
        return change_mount(tree, &top, Reach::Mount);
    }
    if !tree_wide.is_empty() {
        change_mount(tree, &tree_wide, Reach::Tree)?;
    }
    if !top.is_empty() {
        change_mount(tree, &top, Reach::Mount)?;
    }
    Ok(())
}

/// Opens a directory of the host for lookups inside it.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}
