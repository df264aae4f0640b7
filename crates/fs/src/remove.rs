//! Removal of trees that somebody else may be changing.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::durable::{check_name, open_dir};
use crate::{Error, Result};

/// Directories held open at once. A deeper one is first moved up to the top of
/// the tree, so that a tree of any depth needs this many descriptors.
const DEPTH: usize = 48;

/// How often an emptied directory may turn out to be filled again before the
/// removal gives up.
const ROUNDS: u32 = 100;

/// Removes a directory and everything below it. Missing is success.
///
/// Symbolic links are removed, never followed; entries that vanish meanwhile
/// are fine; entries that appear meanwhile are removed too, for a bounded
/// number of rounds. Does not unmount: a mount point inside is an error, and what is mounted there
/// stays as it is.
pub fn remove_dir_all(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let name = path.file_name().ok_or_else(|| Error::BadName {
        name: path.to_path_buf(),
    })?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match open_dir(parent) {
        Ok(dir) => remove_all_at(&dir, name),
        Err(e) if e.kind() == crate::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Removes the entry `name` of `dir`, whatever it is, with everything below it.
/// Missing is success. See [`remove_dir_all`].
pub fn remove_all_at(dir: impl AsFd, name: impl AsRef<OsStr>) -> Result<()> {
    let (dir, name) = (dir.as_fd(), name.as_ref());
    check_name(name)?;
    let c_name = CString::new(name.as_bytes()).map_err(|_| Error::BadName { name: name.into() })?;
    remove_entry(dir, &c_name, FileType::Unknown).map_err(|e| Error::io("remove", name, e))
}

fn remove_entry(dir: BorrowedFd<'_>, name: &CStr, kind: FileType) -> rustix::io::Result<()> {
    if kind != FileType::Directory {
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // Linux says EISDIR, POSIX says EPERM.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(e) => return Err(e),
        }
    }
    for _ in 0..ROUNDS {
        let top = match open_child(dir, name) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(()),
            // Replaced by something that is no directory.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => return Ok(()),
                    Err(Errno::ISDIR) => continue,
                    Err(e) => return Err(e),
                }
            }
            Err(e) => return Err(e),
        };
        empty(&top)?;
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            Err(e) => return Err(e),
        }
    }
    Err(Errno::NOTEMPTY)
}

/// Empties the tree below `top`, which itself stays.
fn empty(top: &OwnedFd) -> rustix::io::Result<()> {
    let mut moved = 0u64;
    for _ in 0..ROUNDS {
        let before = moved;
        empty_level(top.as_fd(), top.as_fd(), 0, &mut moved)?;
        if moved == before {
            return Ok(());
        }
    }
    Ok(())
}

fn empty_level(
    top: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    depth: usize,
    moved: &mut u64,
) -> rustix::io::Result<()> {
    let mut entries = Dir::read_from(dir)?;
    while let Some(entry) = entries.read() {
        let entry = match entry {
            Ok(entry) => entry,
            // The directory itself was removed meanwhile.
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e),
        };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR | Errno::PERM) => {}
                Err(e) => return Err(e),
            }
        }
        remove_child_dir(top, dir, name, depth, moved)?;
    }
    Ok(())
}

fn remove_child_dir(
    top: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: &CStr,
    depth: usize,
    moved: &mut u64,
) -> rustix::io::Result<()> {
    // Most directories of a layer's work area are empty: try that first.
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(e) => return Err(e),
    }
    if depth >= DEPTH {
        *moved += 1;
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let up = format!(".deep-{moved}-{:x}-{:x}", now.tv_sec, now.tv_nsec);
        return match rustix::fs::renameat(dir, name, top, up) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e),
        };
    }
    for _ in 0..ROUNDS {
        let child = match open_child(dir, name) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(e) => return Err(e),
        };
        empty_level(top, child.as_fd(), depth + 1, moved)?;
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
    }
    Err(Errno::NOTEMPTY)
}

/// Opens a directory, unless something is mounted on it: what is mounted is not part of the tree.
fn open_child(dir: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat2(dir, name, flags, Mode::empty(), ResolveFlags::NO_XDEV) {
        // As rmdir(2) says it.
        Err(Errno::XDEV) => Err(Errno::BUSY),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn links_are_removed_and_not_followed() {
        let tmp = tempfile::tempdir().unwrap();
        let canary = tmp.path().join("canary");
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("file"), b"x").unwrap();
        let tree = tmp.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        symlink(&canary, tree.join("a/link")).unwrap();
        symlink("/", tree.join("a/b/root")).unwrap();
        remove_dir_all(&tree).unwrap();
        assert!(!tree.exists());
        assert!(canary.join("file").exists());
        symlink(&canary, &tree).unwrap();
        remove_dir_all(&tree).unwrap();
        assert!(canary.join("file").exists());
        remove_dir_all(&tree).unwrap();
    }

    #[test]
    fn what_is_mounted_in_a_tree_is_not_emptied() {
        sampan_kernel::requires!(root);
        let tmp = tempfile::tempdir().unwrap();
        let canary = tmp.path().join("canary");
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("file"), b"x").unwrap();
        for place in ["tree", "tree/a/b"] {
            let place = tmp.path().join(place);
            std::fs::create_dir_all(&place).unwrap();
            rustix::mount::mount_bind(&canary, &place).unwrap();
            let removed = remove_dir_all(tmp.path().join("tree"));
            rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH).unwrap();
            removed.unwrap_err();
            assert!(canary.join("file").exists(), "{}", place.display());
        }
        remove_dir_all(tmp.path().join("tree")).unwrap();
        assert!(!tmp.path().join("tree").exists());
    }

    #[test]
    fn a_tree_deeper_than_the_descriptor_limit_goes_away() {
        let tmp = tempfile::tempdir().unwrap();
        let top = tmp.path().join("deep");
        std::fs::create_dir(&top).unwrap();
        let mut dir = open_dir(&top).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
            rustix::fs::openat(
                &dir,
                "f",
                OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC,
                Mode::RUSR,
            )
            .unwrap();
            dir = open_child(dir.as_fd(), c"d").unwrap();
        }
        drop(dir);
        remove_dir_all(&top).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn a_tree_that_grows_meanwhile_goes_away_and_nothing_outside_does() {
        let tmp = tempfile::tempdir().unwrap();
        let canary = tmp.path().join("canary");
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("file"), b"x").unwrap();
        let tree = tmp.path().join("tree");
        let stop = Arc::new(AtomicBool::new(false));
        std::fs::create_dir_all(tree.join("x")).unwrap();
        let writer = std::thread::spawn({
            let (tree, canary, stop) = (tree.clone(), canary.clone(), Arc::clone(&stop));
            move || {
                let mut n = 0u32;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    // Swaps a directory for a link to the canary and back.
                    let _ = std::fs::create_dir(tree.join("x"));
                    let _ = std::fs::write(tree.join(format!("x/{}", n % 50)), b"");
                    let _ = std::fs::rename(tree.join("x"), tree.join("y"));
                    let _ = symlink(&canary, tree.join("x"));
                    let _ = std::fs::remove_file(tree.join("x"));
                }
            }
        });
        for _ in 0..50 {
            // The writer may win a round; that is an error, never damage.
            let _ = remove_dir_all(&tree);
            let _ = std::fs::create_dir_all(tree.join("x"));
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap();
        remove_dir_all(&tree).unwrap();
        assert!(!tree.exists());
        assert!(canary.join("file").exists());
    }
}
