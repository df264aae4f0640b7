//! One owner per directory.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::durable::{check_name, open_dir};
use crate::{Error, Result};

/// An exclusive lock on a directory, held until it is dropped or the process
/// ends, however it ends.
///
/// It is a `flock` on a file of its own in the directory. The file stays: to
/// remove it would let two owners hold locks on two different inodes.
#[derive(Debug)]
pub struct DirLock {
    _file: OwnedFd,
    path: PathBuf,
}

impl DirLock {
    /// Takes the lock or fails with [`Error::Locked`] when somebody holds it.
    pub fn try_acquire(dir: impl AsRef<Path>, name: impl AsRef<OsStr>) -> Result<Self> {
        Self::acquire_with(
            dir.as_ref(),
            name.as_ref(),
            FlockOperation::NonBlockingLockExclusive,
        )
    }

    /// Waits for the lock. Blocks the thread for as long as it takes.
    pub fn acquire(dir: impl AsRef<Path>, name: impl AsRef<OsStr>) -> Result<Self> {
        Self::acquire_with(dir.as_ref(), name.as_ref(), FlockOperation::LockExclusive)
    }

    fn acquire_with(dir: &Path, name: &OsStr, operation: FlockOperation) -> Result<Self> {
        check_name(name)?;
        let path = dir.join(name);
        let dir = open_dir(dir)?;
        let file = rustix::fs::openat(
            dir.as_fd(),
            name,
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )
        .map_err(|e| Error::io("open lock file", &path, e))?;
        loop {
            match rustix::fs::flock(&file, operation) {
                Ok(()) => return Ok(Self { _file: file, path }),
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => return Err(Error::Locked { path }),
                Err(e) => return Err(Error::io("lock", &path, e)),
            }
        }
    }

    /// Returns the path of the lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_owner_is_refused_until_the_first_lets_go() {
        let tmp = tempfile::tempdir().unwrap();
        let first = DirLock::try_acquire(tmp.path(), "lock").unwrap();
        let error = DirLock::try_acquire(tmp.path(), "lock").unwrap_err();
        assert!(matches!(error, Error::Locked { .. }));
        drop(first);
        DirLock::acquire(tmp.path(), "lock").unwrap();
    }
}
