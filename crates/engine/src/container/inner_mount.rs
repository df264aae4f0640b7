//! Mounts of what has no path of its own on the host: a directory in a volume, the content of an
//! image. They are attached below the shim's directory for as long as the container runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
};
use sampan_fs::Root;
use sampan_layers::{Bindable, Durability, LayerMount};

use super::end::detach;
use super::mount::{MountKind, MountPoint};
use super::record::Record;
use super::service::Inner;
use crate::{Error, Result};

/// Name of the directory beside a shim's socket in which they are attached.
const PLACE: &str = "mounts";

/// A mount that is attached nowhere yet, and what it must not outlive while it is not.
#[derive(Debug)]
pub(crate) struct Loose {
    pub(crate) tree: OwnedFd,
    _whole: Option<Bindable>,
    _layers: Vec<LayerMount>,
}

/// Looks at a directory in a volume or an image, as it was asked for.
pub(crate) fn check(subpath: &str, kind: &str) -> Result<()> {
    let path = Path::new(subpath);
    let mut depth = 0_i32;
    let local = path.components().all(|part| {
        depth += match part {
            std::path::Component::Normal(_) => 1,
            std::path::Component::ParentDir => -1,
            std::path::Component::CurDir => 0,
            std::path::Component::RootDir | std::path::Component::Prefix(_) => return false,
        };
        depth >= 0
    });
    if local && !subpath.contains('\0') {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "invalid mount config for type \"{kind}\": subpath must be a relative path within the {kind}"
    )))
}

impl Inner {
    /// The source of the mount of this number for the runtime: a path of the host. Blocks.
    pub(crate) fn source_of(
        &self,
        record: &Record,
        number: usize,
        point: &MountPoint,
    ) -> Result<PathBuf> {
        let Some(loose) = self.loose(record, point)? else {
            return Ok(point.source.clone());
        };
        let directory = self.paths.shim(&record.id).join(PLACE);
        let place = directory.join(number.to_string());
        attach(&loose.tree, &directory, &place).map_err(|errno| failed(point, &errno))?;
        Ok(place)
    }

    /// A mount of what has no path of its own; none for what has one. No link in a volume or an
    /// image leads out of it. Blocks.
    pub(crate) fn loose(&self, record: &Record, point: &MountPoint) -> Result<Option<Loose>> {
        let subpath = &point.carry_out.subpath;
        match (point.kind, &point.carry_out.image) {
            (MountKind::Image, Some(image)) => {
                let layers = self.mount_layers(&image.layers)?;
                let users = self.mount_users(record.users.as_ref())?;
                let store = self.images.store().layers();
                let owners = users.as_ref().map(|users| users.owners());
                let whole =
                    store.overlay_owned(&layers, None, None, Durability::Volatile, owners)?;
                let whole = store.bindable(whole)?;
                Ok(Some(Loose {
                    tree: part(point, whole.as_fd(), subpath)?,
                    _whole: Some(whole),
                    _layers: layers,
                }))
            }
            (MountKind::Volume, _) if !subpath.is_empty() => {
                let data = sampan_fs::open_dir(self.volumes.data(&point.name))?;
                Ok(Some(Loose {
                    tree: part(point, data.as_fd(), subpath)?,
                    _whole: None,
                    _layers: Vec::new(),
                }))
            }
            _ => Ok(None),
        }
    }
}

fn failed(point: &MountPoint, error: &dyn std::fmt::Display) -> Error {
    let (kind, subpath) = (point.kind.as_str(), &point.carry_out.subpath);
    Error::invalid(format!(
        "cannot access path {subpath:?} of the {kind} for {}: {error}",
        point.destination
    ))
}

/// A mount of what is at a path below a root.
fn part(point: &MountPoint, root: BorrowedFd<'_>, subpath: &str) -> Result<OwnedFd> {
    let root = root
        .try_clone_to_owned()
        .map_err(|error| failed(point, &error))?;
    let root = Root::from_fd(root);
    let path = if subpath.is_empty() { "." } else { subpath };
    let found = root
        .open_with(path, OFlags::PATH, 0)
        .map_err(|error| match error {
            sampan_fs::Error::Io { source, .. } => failed(point, &source),
            other => failed(point, &other),
        })?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(&found, "", flags).map_err(|errno| failed(point, &errno))
}

/// Attaches a mount at a new place that nobody else's copy of the host's mounts gets.
fn attach(tree: &OwnedFd, directory: &Path, place: &Path) -> rustix::io::Result<()> {
    let made = |result| match result {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    };
    // The shim's own is being made beside this.
    for directory in directory.parent().into_iter().chain([directory]) {
        made(rustix::fs::mkdir(directory, Mode::RWXU))?;
    }
    let stat = rustix::fs::fstat(tree)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        made(rustix::fs::mkdir(place, Mode::RWXU))?;
    } else {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(place, flags, Mode::RUSR | Mode::WUSR)?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(tree, "", CWD, place, flags)?;
    mount_change(place, MountPropagationFlags::PRIVATE)
}

/// Takes away what is attached for a container. `shim` is its shim's directory. Blocks.
pub(crate) fn detach_all(shim: &Path) {
    let entries = std::fs::read_dir(shim.join(PLACE)).into_iter().flatten();
    for entry in entries.flatten() {
        detach(&entry.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subpaths_stay_inside() {
        for good in ["", "a", "a/b", "a/../b", "./a"] {
            assert!(check(good, "volume").is_ok(), "{good}");
        }
        for bad in ["/a", "..", "a/../../b", "../a", "a\0"] {
            assert!(check(bad, "volume").is_err(), "{bad:?}");
        }
    }
}
