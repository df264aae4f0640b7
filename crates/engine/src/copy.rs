//! Copies a directory tree by descriptors only: no path is ever followed twice, no link at all.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

/// Directories may not lie deeper than this.
const DEPTH: usize = 256;

/// What has been copied.
#[derive(Debug, Default)]
pub(crate) struct Copier {
    /// First copies of files that have several names: identity to path parts below the target.
    links: HashMap<(u64, u64), OwnedFd>,
    /// Number of entries copied.
    pub(crate) entries: u64,
}

impl Copier {
    /// Copies what is in `source` into the empty directory `target`, with owners, modes, times,
    /// links, device nodes and attributes, and gives `target` those of `source`. Blocks.
    pub(crate) fn copy(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
    ) -> io::Result<()> {
        self.directory(source, target, 0)
    }

    fn directory(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        depth: usize,
    ) -> io::Result<()> {
        if depth > DEPTH {
            return Err(io::Error::other("directories are nested too deeply"));
        }
        for entry in Dir::read_from(source)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                self.entry(source, target, name, depth)?;
                self.entries += 1;
            }
        }
        let stat = rustix::fs::fstat(source)?;
        attributes(source, target)?;
        rustix::fs::fchown(target, owner(&stat), group(&stat))?;
        rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        rustix::fs::futimens(target, &times(&stat))?;
        Ok(())
    }

    fn entry(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &CStr,
        depth: usize,
    ) -> io::Result<()> {
        let stat = rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let from = open_directory(source, name)?;
                rustix::fs::mkdirat(target, name, Mode::RWXU)?;
                let to = open_directory(target, name)?;
                return self.directory(from.as_fd(), to.as_fd(), depth + 1);
            }
            FileType::RegularFile => return self.file(source, target, name),
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(source, name, Vec::new())?;
                rustix::fs::symlinkat(link.as_c_str(), target, name)?;
            }
            kind @ (FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo) => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                rustix::fs::mknodat(target, name, kind, mode, stat.st_rdev)?;
            }
            // A socket without its listener is nothing.
            FileType::Socket | FileType::Unknown => return Ok(()),
        }
        rustix::fs::chownat(
            target,
            name,
            Some(owner_id(&stat)),
            Some(group_id(&stat)),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            rustix::fs::chmodat(
                target,
                name,
                Mode::from_raw_mode(stat.st_mode & 0o7777),
                AtFlags::empty(),
            )?;
        }
        rustix::fs::utimensat(target, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn file(
        &mut self,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        name: &CStr,
    ) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = File::from(rustix::fs::openat(source, name, flags, Mode::empty())?);
        let stat = rustix::fs::fstat(&from)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other(
                "a file was replaced while it was being copied",
            ));
        }
        let identity = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some(first) = self.links.get(&identity)
        {
            return Ok(rustix::fs::linkat(
                first,
                c"",
                target,
                name,
                AtFlags::EMPTY_PATH,
            )?);
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut to = File::from(rustix::fs::openat(
            target,
            name,
            flags,
            Mode::RUSR | Mode::WUSR,
        )?);
        io::copy(&mut &from, &mut to)?;
        rustix::fs::fchown(&to, owner(&stat), group(&stat))?;
        // After the owner, which takes capabilities and set-id bits away.
        attributes(from.as_fd(), to.as_fd())?;
        rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        rustix::fs::futimens(&to, &times(&stat))?;
        if stat.st_nlink > 1 {
            self.links.insert(identity, to.into());
        }
        Ok(())
    }
}

fn open_directory(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// Copies extended attributes, except those that belong to the host.
fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut names = vec![0_u8; 64 << 10];
    let length = match rustix::fs::flistxattr(from, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    for name in names[..length]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
    {
        let hosts = [&b"security.selinux"[..], b"trusted.", b"user.overlay."];
        if hosts.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let name = CString::new(name)?;
        let mut value = vec![0_u8; 64 << 10];
        let length = rustix::fs::fgetxattr(from, &name, &mut value[..])?;
        match rustix::fs::fsetxattr(to, &name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn owner_id(stat: &Stat) -> Uid {
    Uid::from_raw(stat.st_uid)
}

fn group_id(stat: &Stat) -> Gid {
    Gid::from_raw(stat.st_gid)
}

fn owner(stat: &Stat) -> Option<Uid> {
    Some(owner_id(stat))
}

fn group(stat: &Stat) -> Option<Gid> {
    Some(group_id(stat))
}

#[allow(clippy::unnecessary_cast, trivial_numeric_casts)] // the types differ between architectures
fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    Timestamps {
        last_access: time(stat.st_atime as i64, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime as i64, stat.st_mtime_nsec as _),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn trees_are_copied_with_links_and_modes() {
        let tmp = tempfile::tempdir().unwrap();
        let (from, to) = (tmp.path().join("from"), tmp.path().join("to"));
        std::fs::create_dir_all(from.join("a/b")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("a/file"), b"content").unwrap();
        std::fs::hard_link(from.join("a/file"), from.join("a/b/again")).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        std::fs::set_permissions(from.join("a/file"), std::fs::Permissions::from_mode(0o4751))
            .unwrap();
        std::fs::set_permissions(&from, std::fs::Permissions::from_mode(0o1711)).unwrap();
        let open = |path: &std::path::Path| File::open(path).unwrap();
        let mut copier = Copier::default();
        copier.copy(open(&from).as_fd(), open(&to).as_fd()).unwrap();
        assert_eq!(std::fs::read(to.join("a/b/again")).unwrap(), b"content");
        let (one, two) = (
            to.join("a/file").metadata().unwrap(),
            to.join("a/b/again").metadata().unwrap(),
        );
        assert_eq!(one.ino(), two.ino());
        assert_eq!(one.mode() & 0o7777, 0o4751);
        assert_eq!(one.mtime(), from.join("a/file").metadata().unwrap().mtime());
        assert_eq!(
            std::fs::read_link(to.join("link")).unwrap().to_str(),
            Some("/etc/passwd")
        );
        assert_eq!(to.metadata().unwrap().mode() & 0o7777, 0o1711);
        assert_eq!(copier.entries, 5);
    }
}
