//! Paths that cannot leave a directory.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::durable::open_dir;
use crate::{Error, Result};

/// Symbolic links followed in one resolution, as many as the kernel does.
const LINKS: u32 = 40;

/// `openat2` says EAGAIN when a rename elsewhere made the safety of `..`
/// undecidable; it is worth asking again this often.
const ATTEMPTS: u32 = 128;

/// A directory that acts as `/` for every path opened through it: absolute
/// paths, absolute links and `..` stay inside, magic links are not followed.
///
/// The tree may be changed by somebody hostile while paths are resolved.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

impl Root {
    /// Opens the directory that becomes the root. `path` itself is trusted.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        open_dir(path).map(Self::from_fd)
    }

    /// Takes an open directory (also one opened with `O_PATH`, or a detached
    /// mount).
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Opens `path` with `flags`; the close-on-exec flag is added. With
    /// `O_CREAT` the file gets `mode`. The general form of the functions below.
    pub fn open_with(&self, path: impl AsRef<Path>, flags: OFlags, mode: u32) -> Result<OwnedFd> {
        let path = path.as_ref();
        self.open_raw(path, flags, mode)
            .map_err(|e| Error::io("open", path, e))
    }

    fn open_raw(&self, path: &Path, flags: OFlags, mode: u32) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let mode = if flags.intersects(OFlags::CREATE | OFlags::TMPFILE) {
            Mode::from_raw_mode(mode)
        } else {
            Mode::empty()
        };
        let mut last = Errno::AGAIN;
        for _ in 0..ATTEMPTS {
            match rustix::fs::openat2(
                &self.fd,
                path,
                flags | OFlags::CLOEXEC,
                mode,
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            ) {
                Err(e @ (Errno::AGAIN | Errno::INTR)) => last = e,
                other => return other,
            }
        }
        Err(last)
    }

    /// Opens an existing regular file for reading. Anything else is refused
    /// without being opened, so that no fifo blocks and no device reacts.
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<File> {
        let path = path.as_ref();
        let found = self.open_with(path, OFlags::PATH, 0)?;
        let stat = rustix::fs::fstat(&found).map_err(|e| Error::io("stat", path, e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::io("open", path, Errno::INVAL));
        }
        // Reopening by descriptor reaches the very inode that was looked at.
        let fd = rustix::fs::open(
            kernel_path(found.as_fd()),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| Error::io("open", path, e))?;
        Ok(File::from(fd))
    }

    /// Reads a regular file of at most `limit` bytes.
    pub fn read(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>> {
        let path = path.as_ref();
        let mut bytes = Vec::new();
        self.open_file(path)?
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::io("read", path, e))?;
        if bytes.len() as u64 > limit {
            return Err(Error::TooLarge {
                path: path.to_path_buf(),
                limit,
            });
        }
        Ok(bytes)
    }

    /// Opens an existing directory for reading.
    pub fn open_dir(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        self.open_with(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)
    }

    /// Opens whatever is at `path`, links followed inside the root, as an
    /// `O_PATH` descriptor.
    pub fn open_path(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        self.open_with(path, OFlags::PATH, 0)
    }

    /// Returns what is known of `path`; a link as last part is not followed.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Stat> {
        let path = path.as_ref();
        let fd = self.open_with(path, OFlags::PATH | OFlags::NOFOLLOW, 0)?;
        rustix::fs::fstat(&fd).map_err(|e| Error::io("stat", path, e))
    }

    /// Opens a regular file for writing, creating it with `mode` or emptying
    /// it. The parent must exist.
    pub fn create_file(&self, path: impl AsRef<Path>, mode: u32) -> Result<File> {
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::TRUNC
            // A fifo without a reader must fail, not block.
            | OFlags::NONBLOCK
            | OFlags::NOCTTY;
        self.open_with(path, flags, mode).map(File::from)
    }

    /// Opens the directory `path`, creating what is missing of it with `mode`
    /// (and the process's umask).
    ///
    /// Links are followed inside the root, dangling ones too: the directory
    /// they name is created, as Docker does for `/var/run -> /run`.
    pub fn create_dir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<OwnedFd> {
        let path = path.as_ref();
        self.walk(path, mode)
            .map_err(|e| Error::io("create directory", path, e))
    }

    /// Walks part by part with descriptors only, so that a tree changed
    /// meanwhile leads to another directory of the tree but never out of it.
    fn walk(&self, path: &Path, mode: u32) -> rustix::io::Result<OwnedFd> {
        let mut stack: Vec<OwnedFd> = vec![
            self.fd
                .as_fd()
                .try_clone_to_owned()
                .map_err(|e| errno(&e))?,
        ];
        let mut todo = parts(path);
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let dir = stack.last().ok_or(Errno::INVAL)?.as_fd();
            let fd = open_or_create(dir, &part, mode)?;
            let stat = rustix::fs::fstat(&fd)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => stack.push(fd),
                FileType::Symlink => {
                    links += 1;
                    if links > LINKS {
                        return Err(Errno::LOOP);
                    }
                    let target = rustix::fs::readlinkat(&fd, "", Vec::new())?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        stack.truncate(1);
                    }
                    todo.extend(parts(&target));
                }
                _ => return Err(Errno::NOTDIR),
            }
        }
        let found = stack.pop().ok_or(Errno::INVAL)?;
        // The walk holds O_PATH descriptors; callers want to list and sync.
        rustix::fs::openat(
            &found,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The parts of a path, last one first.
fn parts(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn open_or_create(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if name.as_bytes().contains(&0) {
        return Err(Errno::INVAL);
    }
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => rustix::fs::openat(dir, name, flags, Mode::empty()),
        Err(e) => Err(e),
    }
}

fn kernel_path(fd: BorrowedFd<'_>) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use std::os::unix::fs::symlink;

    fn hostile_tree() -> (tempfile::TempDir, Root) {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(tmp.path().join("secret"), b"host").unwrap();
        std::fs::write(root.join("secret"), b"inside").unwrap();
        symlink("../../../secret", root.join("etc/up")).unwrap();
        symlink("/secret", root.join("etc/absolute")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        symlink("/run", root.join("etc/run")).unwrap();
        let opened = Root::open(&root).unwrap();
        (tmp, opened)
    }

    #[test]
    fn paths_and_links_stay_inside() {
        let (_tmp, root) = hostile_tree();
        for path in [
            "secret",
            "/secret",
            "../secret",
            "/../../secret",
            "etc/up",
            "/etc/absolute",
            "etc/../../secret",
        ] {
            assert_eq!(root.read(path, 100).unwrap(), b"inside", "{path}");
        }
        assert_eq!(root.open_path("loop").unwrap_err().kind(), ErrorKind::Other);
        assert!(root.open_dir("magic").is_err());
    }

    #[test]
    fn reading_is_bounded_and_only_of_regular_files() {
        let (tmp, root) = hostile_tree();
        assert!(matches!(
            root.read("secret", 3),
            Err(Error::TooLarge { limit: 3, .. })
        ));
        rustix::fs::mknodat(
            rustix::fs::CWD,
            tmp.path().join("root/fifo"),
            FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        assert_eq!(
            root.read("fifo", 10).unwrap_err().kind(),
            ErrorKind::Invalid
        );
        assert!(root.create_file("fifo", 0o600).is_err());
        assert!(root.read("etc", 10).is_err());
    }

    #[test]
    fn directories_are_made_inside_also_through_dangling_links() {
        let (tmp, root) = hostile_tree();
        let made = root.create_dir_all("/etc/run/a/../b/c", 0o755).unwrap();
        rustix::fs::mkdirat(&made, "d", Mode::RWXU).unwrap();
        assert!(tmp.path().join("root/run/b/c/d").is_dir());
        assert!(root.create_dir_all("loop/x", 0o755).is_err());
        assert!(root.create_dir_all("secret/x", 0o755).is_err());
        root.create_dir_all("../../../../out", 0o755).unwrap();
        assert!(tmp.path().join("root/out").is_dir());
        assert!(!tmp.path().join("out").exists());
    }
}
