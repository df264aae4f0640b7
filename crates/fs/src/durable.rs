//! Writes that are atomic for readers and, where asked, survive power loss.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::{Error, Result};

/// How long a write must live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// On disk before the call returns.
    Durable,
    /// Atomic for readers, but may be lost by a power cut.
    Volatile,
}

/// Opens a directory for use as the base of the `*at` functions here.
pub fn open_dir(path: impl AsRef<Path>) -> Result<OwnedFd> {
    let path = path.as_ref();
    rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| Error::io("open directory", path, e))
}

/// Writes `bytes` to the entry `name` of the directory `dir`, replacing what
/// was there: temporary file, sync, rename, sync directory.
///
/// The file gets mode 0600. Leaves no temporary file behind on failure; one
/// left by a kill starts with `.tmp-` and may be deleted by the owner of the
/// directory at its next start.
pub fn write_atomic(
    dir: impl AsFd,
    name: impl AsRef<OsStr>,
    bytes: &[u8],
    sync: Sync,
) -> Result<()> {
    let (dir, name) = (dir.as_fd(), name.as_ref());
    check_name(name)?;
    let temporary = temporary_name();
    let fd = rustix::fs::openat(
        dir,
        &temporary,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )
    .map_err(|e| Error::io("create", name, e))?;
    fill_and_rename(dir, fd, &temporary, name, bytes, sync).inspect_err(|_| {
        // The first error is the one that matters; a temporary file that cannot
        // be removed either is removed by its directory's owner later.
        let _ = rustix::fs::unlinkat(dir, &temporary, rustix::fs::AtFlags::empty());
    })
}

fn fill_and_rename(
    dir: impl AsFd,
    fd: OwnedFd,
    temporary: &str,
    name: &OsStr,
    bytes: &[u8],
    sync: Sync,
) -> Result<()> {
    let mut file = File::from(fd);
    file.write_all(bytes)
        .map_err(|e| Error::io("write", name, e))?;
    if sync == Sync::Durable {
        file.sync_all().map_err(|e| Error::io("sync", name, e))?;
    }
    rustix::fs::renameat(&dir, temporary, &dir, name)
        .map_err(|e| Error::io("rename to", name, e))?;
    match sync {
        Sync::Durable => sync_dir(dir).map_err(|e| Error::io("sync directory of", name, e)),
        Sync::Volatile => Ok(()),
    }
}

/// Like [`write_atomic`] with a path. The parent directory must exist.
pub fn write_file(path: impl AsRef<Path>, bytes: &[u8], sync: Sync) -> Result<()> {
    let path = path.as_ref();
    let name = path.file_name().ok_or_else(|| Error::BadName {
        name: path.to_path_buf(),
    })?;
    let dir = open_dir(parent_of(path))?;
    write_atomic(&dir, name, bytes, sync)
}

/// Renames and syncs both directories, so that after a power cut the entry is
/// at exactly one of the two places. Replaces an existing file; an existing
/// directory must be empty.
pub fn rename_durable(
    from_dir: impl AsFd,
    from: impl AsRef<OsStr>,
    to_dir: impl AsFd,
    to: impl AsRef<OsStr>,
) -> Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    check_name(from)?;
    check_name(to)?;
    rustix::fs::renameat(&from_dir, from, &to_dir, to).map_err(|e| Error::io("rename", from, e))?;
    sync_dir(&to_dir).map_err(|e| Error::io("sync directory of", to, e))?;
    sync_dir(&from_dir).map_err(|e| Error::io("sync directory of", from, e))
}

/// Makes creations, renames and removals in a directory durable.
pub fn sync_dir(dir: impl AsFd) -> io::Result<()> {
    match rustix::fs::fsync(dir) {
        // A file system that cannot sync a directory keeps no order to lose.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Creates a directory of the store and its missing parents with `mode`, and
/// makes each durable. An existing directory keeps its mode.
pub fn create_dir_all(path: impl AsRef<Path>, mode: u32) -> Result<()> {
    let path = path.as_ref();
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
        Ok(()) => {}
        Err(Errno::EXIST) if path.is_dir() => return Ok(()),
        Err(Errno::NOENT) if path.parent().is_some_and(|p| !p.as_os_str().is_empty()) => {
            create_dir_all(parent_of(path), mode)?;
            match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
                Ok(()) => {}
                Err(Errno::EXIST) if path.is_dir() => return Ok(()),
                Err(e) => return Err(Error::io("create directory", path, e)),
            }
        }
        Err(e) => return Err(Error::io("create directory", path, e)),
    }
    let parent = parent_of(path);
    sync_dir(open_dir(parent)?).map_err(|e| Error::io("sync directory", parent, e))
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ if path.is_absolute() => Path::new("/"),
        _ => Path::new("."),
    }
}

pub(crate) fn check_name(name: &OsStr) -> Result<()> {
    let bytes = name.as_bytes();
    let bad = bytes.is_empty()
        || bytes == b"."
        || bytes == b".."
        || bytes.iter().any(|b| matches!(b, b'/' | 0));
    if bad {
        return Err(Error::BadName { name: name.into() });
    }
    Ok(())
}

/// A name no other writer of this host uses: process ids differ between
/// processes, the counter within one. A file left over by a dead process of the
/// same id makes the exclusive creation fail, hence the clock.
fn temporary_name() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    format!(
        ".tmp-{}-{}-{:x}{:x}",
        rustix::process::getpid(),
        COUNTER.fetch_add(1, Ordering::Relaxed),
        now.tv_sec,
        now.tv_nsec
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn entries(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn write_replaces_and_leaves_no_temporary() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = open_dir(tmp.path()).unwrap();
        write_atomic(&dir, "record", b"one", Sync::Durable).unwrap();
        write_atomic(&dir, "record", b"two", Sync::Volatile).unwrap();
        assert_eq!(std::fs::read(tmp.path().join("record")).unwrap(), b"two");
        assert_eq!(entries(tmp.path()), ["record"]);
    }

    #[test]
    fn failed_rename_removes_the_temporary() {
        let tmp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tmp.path().join("taken/child")).unwrap();
        let error = write_file(tmp.path().join("taken"), b"x", Sync::Durable).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(entries(tmp.path()), ["taken"]);
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = open_dir(tmp.path()).unwrap();
        for name in ["", ".", "..", "a/b", "/x", "a\0b"] {
            let error = write_atomic(&dir, name, b"", Sync::Volatile).unwrap_err();
            assert!(matches!(error, Error::BadName { .. }), "{name:?}");
        }
    }

    #[test]
    fn directories_are_created_with_parents() {
        let tmp = tempfile::tempdir().unwrap();
        create_dir_all(tmp.path().join("a/b/c"), 0o700).unwrap();
        create_dir_all(tmp.path().join("a/b/c"), 0o700).unwrap();
        assert!(tmp.path().join("a/b/c").is_dir());
        std::fs::write(tmp.path().join("file"), b"").unwrap();
        assert!(create_dir_all(tmp.path().join("file"), 0o700).is_err());
    }
}
