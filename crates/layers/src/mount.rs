//! One layer, mounted read-only and detached.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use sampan_kernel::mount::{MountAttributes, MountChange, Reach, change_mount};
use sampan_oci::DiffId;

use crate::context::{Context, descriptor_path};
use crate::error::{Error, Result};
use crate::place::Kept;

/// A mounted layer. Clones share the mount; it goes away with the last of them,
/// and where the kernel can do without, it appears in no mount table.
#[derive(Debug, Clone)]
pub struct LayerMount(pub(crate) Arc<Mounted>);

#[derive(Debug)]
pub(crate) struct Mounted {
    pub(crate) diff_id: DiffId,
    pub(crate) opaque: bool,
    pub(crate) mount: Kept,
}

impl LayerMount {
    /// Returns which layer this is.
    pub fn diff_id(&self) -> &DiffId {
        &self.0.diff_id
    }

    /// Says whether the layer hides everything in the layers below it.
    pub fn is_opaque(&self) -> bool {
        self.0.opaque
    }
}

/// The top directory of the layer.
impl AsFd for LayerMount {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.mount.as_fd()
    }
}

/// Mounts an index of ours with the tar it points into.
pub(crate) fn mount_index(index: &File, tar: &File) -> Result<OwnedFd> {
    let context = Context::open("erofs")?;
    context.string("source", &descriptor_path(index))?;
    context.string("device", &descriptor_path(tar))?;
    context.flag("ro")?;
    // Device nodes and set-user-id programs of an image must work in its
    // containers; what holds them back is the container's confinement.
    context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOATIME)
}

/// Makes a detached mount of an unpacked tree.
pub(crate) fn mount_directory(tree: &OwnedFd) -> Result<OwnedFd> {
    let failed = |source| Error::Mount {
        what: "directory",
        log: None,
        source,
    };
    let mount = open_tree(
        tree,
        "",
        OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH,
    )
    .map_err(|e| failed(e.into()))?;
    let read_only = MountChange {
        set: MountAttributes::READ_ONLY | MountAttributes::NO_ACCESS_TIME,
        ..MountChange::default()
    };
    change_mount(mount.as_fd(), &read_only, Reach::Mount).map_err(failed)?;
    Ok(mount)
}
