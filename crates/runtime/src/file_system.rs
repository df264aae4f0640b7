//! File systems to make, by the new mount interface (fsopen(2)).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, fstat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, open_tree,
};
use sampan_kernel::mount::{MountAttributes, MountChange, Reach, change_mount};

use crate::Error;
use crate::command::c_string;
use crate::options::MountOptions;
use crate::resolve::{Links, open};

/// A file system to make (fsopen(2)).
#[derive(Debug)]
pub(crate) struct FileSystem {
    kind: CString,
    options: Vec<(CString, Option<CString>)>,
    pub(crate) attributes: MountAttrFlags,
}

impl FileSystem {
    /// Child code, and parent code too.
    pub(crate) fn make(&self) -> Result<OwnedFd, Errno> {
        let context = fsopen(self.kind.as_c_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in &self.options {
            match value {
                Some(value) => {
                    fsconfig_set_string(&context, key.as_c_str(), value.as_c_str())?;
                }
                None => fsconfig_set_flag(&context, key.as_c_str())?,
            }
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, self.attributes)
    }

    /// The kernel's name for it.
    pub(crate) fn kind(&self) -> &CStr {
        &self.kind
    }

    /// A /proc of the container's own, for what must be written to a true one.
    pub(crate) fn proc() -> Self {
        Self {
            kind: c"proc".to_owned(),
            options: Vec::new(),
            attributes: MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        }
    }

    /// A small empty tmpfs that nobody can write, for hiding directories.
    pub(crate) fn mask() -> Self {
        Self {
            kind: c"tmpfs".to_owned(),
            options: vec![
                (c"source".to_owned(), Some(c"tmpfs".to_owned())),
                (c"nr_inodes".to_owned(), Some(c"2".to_owned())),
            ],
            attributes: MountAttrFlags::MOUNT_ATTR_RDONLY
                | MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        }
    }
}

/// The mode of a directory of the image, which a tmpfs in its place takes over.
pub(crate) fn mode_of(image: BorrowedFd<'_>, destination: &str) -> Option<String> {
    let path = c_string(destination).ok()?;
    let found = open(image, &path, Links::Follow).ok()?;
    let status = fstat(&found).ok()?;
    let is_directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
    is_directory.then(|| format!("{:o}", status.st_mode & 0o7777))
}

/// The file system of a mount's type and options.
pub(crate) fn file_system(
    kind: &str,
    source: Option<&str>,
    options: &MountOptions,
) -> Result<FileSystem, Error> {
    let mut data = Vec::new();
    // What has no device behind it takes any word as its source.
    let virtual_systems = [
        "proc", "sysfs", "tmpfs", "mqueue", "devpts", "cgroup2", "ramfs",
    ];
    let source = if virtual_systems.contains(&kind) {
        Some(if kind == "cgroup2" { "cgroup" } else { kind })
    } else {
        source
    };
    if let Some(source) = source {
        data.push((c"source".to_owned(), Some(c_string(source)?)));
    }
    for (key, value) in &options.data {
        let value = value.as_deref().map(c_string).transpose()?;
        data.push((c_string(key)?, value));
    }
    let attributes = options.set | options.set_tree;
    let bits = u32::try_from(attributes.bits()).unwrap_or_default();
    Ok(FileSystem {
        kind: c_string(kind)?,
        options: data,
        attributes: MountAttrFlags::from_bits_retain(bits),
    })
}

/// Child code: what the host sees of /sys, with the attributes of `system`.
pub(crate) fn host_sysfs(system: &FileSystem) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, c"/sys", flags)?;
    let change = MountChange {
        set: MountAttributes::from_bits(system.attributes.bits().into()),
        ..MountChange::default()
    };
    change_mount(tree.as_fd(), &change, Reach::Tree)
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(tree)
}
