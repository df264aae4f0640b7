//! What a container has changed of its image's files.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::files::Merged;
use super::registry::Container;
use super::service::Inner;
use super::start::INIT_LAYER;
use crate::{Error, Result};

/// Directories may not lie deeper than this.
const DEPTH: usize = 1000;

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileChange {
    /// The image has it, too, and it is different.
    Modified,
    /// The image does not have it.
    Added,
    /// The image alone has it.
    Deleted,
}

/// A path that differs from the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedPath {
    /// From the root, with a slash in front.
    pub path: String,
    /// How it differs.
    pub change: FileChange,
}

impl Inner {
    /// Compares a container's files with its image's, in the order of their paths. Blocks.
    pub(crate) fn changes(&self, container: &Container) -> Result<Vec<ChangedPath>> {
        let record = container.record();
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Error::because("compare the container's files with its image's", error)
        };
        let layers = self.mount_layers(&record.layers)?;
        let store = self.images.store().layers();
        let image = store
            .init_layer(&layers, &INIT_LAYER)
            .and_then(|init| {
                let how = sampan_layers::Durability::Volatile;
                store.overlay(&layers, Some(&init), None, how)
            })
            .map_err(|error| failed(&error))?;
        let upper = self.paths.container(&record.id).join("upper");
        let upper = match sampan_fs::open_dir(&upper) {
            Ok(upper) => upper,
            Err(error) if error.kind() == sampan_fs::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(&error)),
        };
        let mut comparison = Comparison {
            merged: &|path| {
                self.merged(&record).and_then(|merged: Merged| {
                    merged.directory(path).map_err(|error| failed(&error))
                })
            },
            changes: Vec::new(),
        };
        let image = sampan_fs::Root::from_fd(image)
            .open_dir("/")
            .map_err(|error| failed(&error))?;
        comparison
            .directory(upper.as_fd(), Some(image.as_fd()), b"", Seen::Changed, 0)
            .map_err(|error| failed(&error))?;
        Ok(comparison.changes)
    }
}

/// What is in a directory that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// What has changed only.
    Changed,
    /// All: what is missing has been deleted.
    All,
}

struct Comparison<'a> {
    /// Opens a directory of the merged view: one that was renamed is whole only there.
    merged: &'a dyn Fn(&[u8]) -> Result<OwnedFd>,
    changes: Vec<ChangedPath>,
}

impl Comparison<'_> {
    fn directory(
        &mut self,
        new: BorrowedFd<'_>,
        old: Option<BorrowedFd<'_>>,
        path: &[u8],
        seen: Seen,
        depth: usize,
    ) -> io::Result<()> {
        if depth > DEPTH {
            return Err(io::Error::other("directories are nested too deeply"));
        }
        let mut all = names(new)?;
        if let (Seen::All, Some(old)) = (seen, old) {
            all.extend(names(old)?);
        }
        for name in all {
            let path = [path, b"/", name.to_bytes()].concat();
            self.entry(new, old, &name, &path, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        new: BorrowedFd<'_>,
        old: Option<BorrowedFd<'_>>,
        name: &CStr,
        path: &[u8],
        depth: usize,
    ) -> io::Result<()> {
        let was = match old {
            Some(old) => stat(old, name)?,
            None => None,
        };
        let is = stat(new, name)?.filter(|stat| !is_whiteout(stat));
        let Some(is) = is else {
            if was.is_some() {
                self.note(path, FileChange::Deleted);
            }
            return Ok(());
        };
        let directories =
            |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let at = self.changes.len();
        if directories(&is) {
            let opened = match open(new, name) {
                Ok(opened) => opened,
                // Replaced meanwhile.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            };
            let before = match (&was, old) {
                (Some(was), Some(old)) if directories(was) => Some(open(old, name)?),
                _ => None,
            };
            let before = before.as_ref().map(AsFd::as_fd);
            if has(&opened, c"trusted.overlay.redirect")? {
                let whole = (self.merged)(path.get(1..).unwrap_or_default());
                let whole = whole.map_err(io::Error::other)?;
                self.directory(whole.as_fd(), before, path, Seen::All, depth + 1)?;
            } else {
                let seen = match has(&opened, c"trusted.overlay.opaque")? {
                    true => Seen::All,
                    false => Seen::Changed,
                };
                self.directory(opened.as_fd(), before, path, seen, depth + 1)?;
            }
        }
        let change = match &was {
            None => FileChange::Added,
            // A directory is here for what has changed in it.
            Some(was)
                if directories(was)
                    && directories(&is)
                    && self.changes.len() == at
                    && same(was, &is) =>
            {
                return Ok(());
            }
            Some(_) => FileChange::Modified,
        };
        self.changes.insert(at, changed(path, change));
        Ok(())
    }

    fn note(&mut self, path: &[u8], change: FileChange) {
        self.changes.push(changed(path, change));
    }
}

fn changed(path: &[u8], change: FileChange) -> ChangedPath {
    ChangedPath {
        path: String::from_utf8_lossy(path).into_owned(),
        change,
    }
}

fn same(was: &Stat, is: &Stat) -> bool {
    let about = |stat: &Stat| {
        (
            stat.st_mode,
            stat.st_uid,
            stat.st_gid,
            stat.st_mtime,
            stat.st_mtime_nsec,
        )
    };
    about(was) == about(is)
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn names(directory: BorrowedFd<'_>) -> io::Result<BTreeSet<CString>> {
    let mut names = BTreeSet::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

fn stat(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn open(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

fn has(directory: &OwnedFd, attribute: &CStr) -> io::Result<bool> {
    let mut value = [0_u8; 4096];
    match rustix::fs::fgetxattr(directory, attribute, &mut value[..]) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(false),
        // Long it is, but there.
        Err(Errno::RANGE) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}
