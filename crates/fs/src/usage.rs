//! How much a tree of files takes.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::{Error, Result};

/// Length from which on a path is held by a descriptor, so that a tree of any depth is walked.
const LONG: usize = 1024;

/// What a tree of files takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Sum of the lengths of its regular files.
    pub length: u64,
    /// Bytes that the file system has set aside for it, directories included: what `du` says.
    pub disk: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.length += other.length;
        self.disk += other.disk;
    }
}

impl std::iter::Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }
}

/// Adds up a file, or a directory and everything below it. A file with several names counts once.
///
/// Symbolic links and other file systems are not entered. What vanishes meanwhile is not counted;
/// a path that is not there takes nothing.
pub fn usage(path: impl AsRef<Path>) -> Result<Usage> {
    let path = path.as_ref();
    match walk(path) {
        Ok(usage) => Ok(usage),
        Err(Errno::NOENT) => Ok(Usage::default()),
        Err(error) => Err(Error::io("measure", path, error)),
    }
}

/// Bytes that the file system has set aside for one file or directory by itself.
pub fn blocks_of(path: impl AsRef<Path>) -> Result<u64> {
    let path = path.as_ref();
    let mut sum = Sum::default();
    let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW);
    sum.add(&stat.map_err(|error| Error::io("measure", path, error))?);
    Ok(sum.usage.disk)
}

fn walk(path: &Path) -> rustix::io::Result<Usage> {
    let mut sum = Sum::default();
    let top = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    sum.add(&top);
    if !is_directory(&top) {
        return Ok(sum.usage);
    }
    let device = top.st_dev;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = Rc::new(rustix::fs::openat(CWD, path, flags, Mode::empty())?);
    let mut todo = vec![(top, PathBuf::new())];
    while let Some((mut base, mut below)) = todo.pop() {
        let directory = match open(&base, &below) {
            Ok(directory) => directory,
            // Gone or replaced meanwhile, or another file system.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => continue,
            Err(error) => return Err(error),
        };
        let mut entries = Dir::read_from(&directory)?;
        if below.as_os_str().len() > LONG {
            base = Rc::new(directory.try_clone().map_err(|_| Errno::MFILE)?);
            below = PathBuf::new();
        }
        while let Some(entry) = entries.read() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(Errno::NOENT) => break,
                Err(error) => return Err(error),
            };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let found = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
            let stat = match found {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error),
            };
            if stat.st_dev != device {
                continue;
            }
            sum.add(&stat);
            if is_directory(&stat) {
                let name = OsStr::from_bytes(name.to_bytes());
                todo.push((base.clone(), below.join(name)));
            }
        }
    }
    Ok(sum.usage)
}

fn open(base: &Rc<OwnedFd>, below: &Path) -> rustix::io::Result<OwnedFd> {
    let below = if below.as_os_str().is_empty() {
        Path::new(".")
    } else {
        below
    };
    rustix::fs::openat2(
        base.as_fd(),
        below,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

#[derive(Default)]
struct Sum {
    usage: Usage,
    /// Files with several names that were counted.
    seen: HashSet<(u64, u64)>,
}

impl Sum {
    fn add(&mut self, stat: &Stat) {
        let several = !is_directory(stat) && stat.st_nlink > 1;
        if several && !self.seen.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        let unsigned = |number: i64| u64::try_from(number).unwrap_or_default();
        self.usage.disk += unsigned(stat.st_blocks) * 512;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            self.usage.length += unsigned(stat.st_size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn du(path: &Path) -> u64 {
        let said = Command::new("du")
            .args(["--summarize", "--block-size=1"])
            .arg(path)
            .output()
            .unwrap();
        let text = String::from_utf8(said.stdout).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    }

    #[test]
    fn the_sum_is_what_du_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("top");
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        std::fs::write(path.join("a/file"), vec![7; 10_000]).unwrap();
        std::fs::hard_link(path.join("a/file"), path.join("a/b/again")).unwrap();
        std::os::unix::fs::symlink("/", path.join("link")).unwrap();
        let sparse = std::fs::File::create(path.join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        let found = usage(&path).unwrap();
        assert_eq!(found.disk, du(&path));
        assert_eq!(found.length, 10_000 + (1 << 30));
        assert_eq!(usage(path.join("sparse")).unwrap().length, 1 << 30);
        assert_eq!(usage(path.join("none")).unwrap(), Usage::default());
    }

    #[test]
    fn a_tree_of_any_depth_is_measured() {
        let dir = tempfile::tempdir().unwrap();
        let name = "d".repeat(200);
        let mut deepest = crate::open_dir(dir.path()).unwrap();
        for _ in 0..60 {
            rustix::fs::mkdirat(&deepest, &name, Mode::RWXU).unwrap();
            deepest =
                rustix::fs::openat(&deepest, &name, OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let flags = OFlags::CREATE | OFlags::WRONLY;
        let file = rustix::fs::openat(&deepest, "f", flags, Mode::RUSR).unwrap();
        rustix::io::write(&file, b"12345").unwrap();
        assert_eq!(usage(dir.path()).unwrap().length, 5);
        crate::remove_dir_all(dir.path().join(&name)).unwrap();
    }
}
