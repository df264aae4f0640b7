//! Opens paths inside a root that may be hostile, and makes what is missing.
//!
//! Child code: nothing here allocates.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, mkdirat, mknodat, openat2, readlinkat_raw};
use rustix::io::Errno;

/// How many dangling links creation follows before it gives up, as many as
/// the kernel follows itself.
const MAX_LINKS: usize = 40;

const PATH_MAX: usize = 4096;

/// What is made where nothing is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Missing {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

/// Whether symbolic links inside the root are followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Links {
    /// They are, and stay inside.
    Follow,
    /// `ELOOP`.
    Refuse,
}

/// Opens `path` for reference (`O_PATH`). Absolute paths and links and `..`
/// stay inside `root`; the links of /proc that lead anywhere are refused.
pub(crate) fn open(root: BorrowedFd<'_>, path: &CStr, links: Links) -> Result<OwnedFd, Errno> {
    open_with(root, path, links, OFlags::PATH)
}

/// As [`open`], with flags of the caller's.
pub(crate) fn open_with(
    root: BorrowedFd<'_>,
    path: &CStr,
    links: Links,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    if links == Links::Refuse {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    // EAGAIN: a rename elsewhere made a `..` undecidable for the moment.
    for _ in 0..128 {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// As [`open`]; what is missing of the path is made, owned by the caller.
pub(crate) fn open_or_create(
    root: BorrowedFd<'_>,
    path: &CStr,
    links: Links,
    missing: Missing,
) -> Result<OwnedFd, Errno> {
    match open(root, path, links) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let mut wanted = PathBuffer::default();
    wanted.push(path.to_bytes())?;
    for _ in 0..MAX_LINKS {
        match create(root, &wanted, links, missing)? {
            Outcome::Opened(descriptor) => return Ok(descriptor),
            Outcome::Rewritten(path) => wanted = path,
        }
    }
    Err(Errno::LOOP)
}

#[allow(clippy::large_enum_variant)] // a box would allocate
enum Outcome {
    Opened(OwnedFd),
    /// A dangling link was met; this is the path with its target in its place.
    Rewritten(PathBuffer),
}

fn create(
    root: BorrowedFd<'_>,
    wanted: &PathBuffer,
    links: Links,
    missing: Missing,
) -> Result<Outcome, Errno> {
    let bytes = wanted.bytes();
    let mut parent = open(root, c"/", links)?;
    let mut at = 0;
    // A component takes at most two rounds: one to make it, one to open it.
    for _ in 0..PATH_MAX {
        let start = at + bytes[at..].iter().take_while(|b| **b == b'/').count();
        if start == bytes.len() {
            return Ok(Outcome::Opened(parent));
        }
        let end = start + bytes[start..].iter().take_while(|b| **b != b'/').count();
        let last = bytes[end..].iter().all(|b| *b == b'/');
        let mut prefix = PathBuffer::default();
        prefix.push(&bytes[..end])?;
        match open(root, prefix.as_c_str()?, links) {
            Ok(found) => {
                parent = found;
                at = end;
                continue;
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let mut name = PathBuffer::default();
        name.push(&bytes[start..end])?;
        let name = name.as_c_str()?;
        let made = if last && missing == Missing::File {
            mknodat(
                &parent,
                name,
                FileType::RegularFile,
                Mode::from_raw_mode(0o644),
                0,
            )
        } else {
            mkdirat(&parent, name, Mode::from_raw_mode(0o755))
        };
        match made {
            Ok(()) => {}
            Err(Errno::EXIST) if links == Links::Follow => {
                if let Some(target) = dangling_link(parent.as_fd(), name)? {
                    let mut path = PathBuffer::default();
                    if target.bytes().first() != Some(&b'/') {
                        path.push(&bytes[..start])?;
                    }
                    path.push(target.bytes())?;
                    path.push(&bytes[end..])?;
                    return Ok(Outcome::Rewritten(path));
                }
            }
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::LOOP)
}

/// Where a link leads; `None` where there is none, because something else has
/// appeared there meanwhile.
fn dangling_link(parent: BorrowedFd<'_>, name: &CStr) -> Result<Option<PathBuffer>, Errno> {
    let mut target = PathBuffer::default();
    match readlinkat_raw(parent, name, &mut target.bytes[..PATH_MAX - 1]) {
        Ok(length) => {
            target.length = length;
            Ok(Some(target))
        }
        Err(Errno::INVAL | Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A path without heap memory.
struct PathBuffer {
    bytes: [u8; PATH_MAX],
    length: usize,
}

impl Default for PathBuffer {
    fn default() -> Self {
        Self {
            bytes: [0; PATH_MAX],
            length: 0,
        }
    }
}

impl PathBuffer {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Appends, leaving room for the final NUL.
    fn push(&mut self, more: &[u8]) -> Result<(), Errno> {
        let end = self.length + more.len();
        if end >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        self.bytes[self.length..end].copy_from_slice(more);
        self.bytes[end] = 0;
        self.length = end;
        Ok(())
    }

    fn as_c_str(&self) -> Result<&CStr, Errno> {
        CStr::from_bytes_with_nul(&self.bytes[..=self.length]).map_err(|_| Errno::INVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root_of(directory: &std::path::Path) -> OwnedFd {
        fs::File::open(directory).unwrap().into()
    }

    #[test]
    fn links_stay_inside_and_dangling_ones_are_made_good() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("root");
        fs::create_dir_all(inner.join("etc")).unwrap();
        symlink("/run", inner.join("var")).unwrap();
        symlink("../../../../../../canary/x", inner.join("etc/up")).unwrap();
        symlink("loop2", inner.join("loop1")).unwrap();
        symlink("loop1", inner.join("loop2")).unwrap();
        let root = root_of(&inner);
        let root = root.as_fd();
        let make = |path: &CStr, missing| open_or_create(root, path, Links::Follow, missing);

        make(c"/var/lock/file", Missing::File).unwrap();
        assert!(inner.join("run/lock/file").is_file());
        make(c"/etc/up/deep", Missing::Directory).unwrap();
        assert!(inner.join("canary/x/deep").is_dir());
        assert!(!outer.path().join("canary").exists());
        assert_eq!(make(c"/loop1/x", Missing::File).unwrap_err(), Errno::LOOP);
        make(c"/../../../a/../b", Missing::Directory).unwrap();
        assert!(inner.join("b").is_dir());
        assert_eq!(open(root, c"/var", Links::Refuse).unwrap_err(), Errno::LOOP);
        assert!(make(c"/proc", Missing::Directory).is_ok());
    }

    #[test]
    fn magic_links_are_refused() {
        let root = root_of(std::path::Path::new("/"));
        let found = open(root.as_fd(), c"/proc/self/fd/0", Links::Follow);
        assert_eq!(found.unwrap_err(), Errno::LOOP);
    }
}
