//! What every container's root has between its image and its own changes:
//! places for mounts. They are no change of the container's and belong to no
//! image.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, chownat, mkdirat, mknodat, statat,
    symlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use sampan_kernel::mount::{MountAttributes, MountChange, Reach, change_mount};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::place::{Kept, Places};

/// So many layers with different attributes are kept for the next container.
const KEPT: usize = 64;

/// One name in an init layer, at the top or in a directory at the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitEntry {
    /// An empty directory.
    Directory(&'static str),
    /// An empty file.
    File(&'static str),
    /// A symbolic link and where it leads.
    Symlink(&'static str, &'static str),
}

impl InitEntry {
    fn path(self) -> &'static str {
        match self {
            Self::Directory(path) | Self::File(path) | Self::Symlink(path, _) => path,
        }
    }

    /// The directory that has the entry, unless that is the top.
    fn parent(self) -> Option<&'static str> {
        self.path().split_once('/').map(|(parent, _)| parent)
    }
}

/// A layer of empty files and directories, read-only and in memory. Clones
/// share it.
#[derive(Debug, Clone)]
pub struct InitLayer(Arc<Kept>);

impl AsFd for InitLayer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What a directory shows of itself. One that an init layer adds to must look
/// as the image has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    modified: (i64, i64),
}

impl Attributes {
    const DEFAULT: Self = Self {
        mode: 0o755,
        uid: 0,
        gid: 0,
        modified: (0, 0),
    };

    /// Of a directory in the topmost of `layers` that has something of that name.
    fn visible(layers: &[BorrowedFd<'_>], name: &str) -> Result<Self> {
        for layer in layers {
            let stat = match statat(layer, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(Error::io("look at", name, e)),
            };
            // A whiteout, a link or a file is hidden by the init layer's directory.
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                break;
            }
            return Ok(Self {
                mode: stat.st_mode & 0o7777,
                uid: stat.st_uid,
                gid: stat.st_gid,
                modified: (stat.st_mtime, stat.st_mtime_nsec.cast_signed()),
            });
        }
        Ok(Self::DEFAULT)
    }
}

/// Directories that entries lie in, as an image has them.
pub(crate) type Parents = Vec<(&'static str, Attributes)>;

/// The init layers that were in use not long ago.
#[derive(Debug, Default)]
pub(crate) struct InitLayers {
    recent: VecDeque<(Vec<InitEntry>, Parents, InitLayer)>,
}

/// Looks at the directories that the entries of an init layer over `layers`, the top first, lie in.
pub(crate) fn parents(entries: &[InitEntry], layers: &[BorrowedFd<'_>]) -> Result<Parents> {
    let mut parents = Parents::new();
    for parent in entries.iter().filter_map(|entry| entry.parent()) {
        if parents.iter().all(|(known, _)| *known != parent) {
            parents.push((parent, Attributes::visible(layers, parent)?));
        }
    }
    Ok(parents)
}

impl InitLayers {
    pub(crate) fn clear(&mut self) {
        self.recent.clear();
    }

    /// The layer that was made for the same entries and directories, or a new one.
    pub(crate) fn get(
        &mut self,
        entries: &[InitEntry],
        parents: Parents,
        places: &Places,
    ) -> Result<InitLayer> {
        let known = self
            .recent
            .iter()
            .find(|(of, below, _)| of == entries && *below == parents);
        if let Some((_, _, layer)) = known {
            return Ok(layer.clone());
        }
        let layer = InitLayer(Arc::new(make(entries, &parents, places)?));
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent
            .push_back((entries.to_vec(), parents, layer.clone()));
        Ok(layer)
    }
}

fn make(entries: &[InitEntry], parents: &Parents, places: &Places) -> Result<Kept> {
    let context = Context::open("tmpfs")?;
    context.string("mode", "0755")?;
    let top = context.mount(MountAttrFlags::MOUNT_ATTR_NOATIME)?;
    let failed = |path: &'static str| move |e| Error::io("create in the init layer", path, e);
    let directory = |path| mkdirat(&top, path, Mode::from_raw_mode(0o755)).map_err(failed(path));
    for (parent, _) in parents {
        directory(parent)?;
    }
    for entry in entries {
        match *entry {
            InitEntry::Directory(path) => directory(path)?,
            InitEntry::File(path) => {
                let mode = Mode::from_raw_mode(0o644);
                mknodat(&top, path, FileType::RegularFile, mode, 0).map_err(failed(path))?;
            }
            InitEntry::Symlink(path, target) => {
                symlinkat(target, &top, path).map_err(failed(path))?;
            }
        }
    }
    for (parent, attributes) in parents {
        attributes
            .set(top.as_fd(), parent)
            .map_err(failed(parent))?;
    }
    let read_only = MountChange {
        set: MountAttributes::READ_ONLY,
        ..MountChange::default()
    };
    change_mount(top.as_fd(), &read_only, Reach::Mount)
        .map_err(|e| Error::io("make read-only", "init layer", e))?;
    places.keep(top)
}

impl Attributes {
    /// Sets these, the time last since the others touch it.
    fn set(&self, top: BorrowedFd<'_>, name: &str) -> rustix::io::Result<()> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        chownat(top, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::chmodat(top, name, Mode::from_raw_mode(self.mode), AtFlags::empty())?;
        let time = Timespec {
            tv_sec: self.modified.0,
            tv_nsec: self.modified.1,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(top, name, &times, AtFlags::SYMLINK_NOFOLLOW)
    }
}
