//! Fills a new tmpfs with what the image has at its place (`tmpcopyup`).
//!
//! The image's files are hostile: every directory is opened by a descriptor of the one above it
//! and no link is followed.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, fchown, fstat, mkdirat,
    mknodat, openat, readlinkat, statat, symlinkat,
};
use rustix::io::Errno;

use crate::command::c_string;
use crate::resolve::{Links, open_with};

/// How deep a tree is copied.
const DEEPEST: usize = 256;

/// Copies what is at `destination` of the image into `into`, with owners and modes. What is not
/// there, or is no directory, leaves it empty.
pub(crate) fn copy_up(
    image: BorrowedFd<'_>,
    destination: &str,
    into: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let path = c_string(destination).map_err(|_| Errno::INVAL)?;
    // The descriptor of a new mount is one for reference only.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let into = openat(into, c".", flags, Mode::empty())?;
    let into = into.as_fd();
    match open_with(
        image,
        &path,
        Links::Follow,
        OFlags::RDONLY | OFlags::DIRECTORY,
    ) {
        Ok(from) => {
            copy_directory(&from, into, DEEPEST)?;
            give(into, &fstat(&from)?)
        }
        // It is the container's root's all the same, whoever that is outside.
        Err(Errno::NOENT | Errno::NOTDIR) => {
            let (user, group) = owner(&fstat(image)?);
            fchown(into, Some(user), Some(group))
        }
        Err(errno) => Err(errno),
    }
}

fn copy_directory(from: &OwnedFd, into: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
    if depth == 0 {
        return Err(Errno::LOOP);
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        copy_entry(from.as_fd(), into, name, depth)?;
    }
    Ok(())
}

fn copy_entry(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    name: &CStr,
    depth: usize,
) -> Result<(), Errno> {
    let status = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let only = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => {
            let directory = openat(from, name, only | OFlags::DIRECTORY, Mode::empty())?;
            mkdirat(into, name, Mode::RWXU)?;
            let made = openat(into, name, only | OFlags::DIRECTORY, Mode::empty())?;
            copy_directory(&directory, made.as_fd(), depth - 1)?;
            give(made.as_fd(), &status)
        }
        FileType::RegularFile => {
            // What has become something else since must not be waited for.
            let file = openat(from, name, only | OFlags::NONBLOCK, Mode::empty())?;
            let new = only | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let made = openat(into, name, new, Mode::RUSR | Mode::WUSR)?;
            let (mut file, mut made) = (File::from(file), File::from(made));
            std::io::copy(&mut file, &mut made)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            give(made.as_fd(), &status)
        }
        FileType::Symlink => {
            let target = readlinkat(from, name, Vec::new())?;
            symlinkat(target.as_c_str(), into, name)?;
            own_entry(into, name, &status)
        }
        kind => {
            mknodat(into, name, kind, mode(&status), status.st_rdev)?;
            own_entry(into, name, &status)
        }
    }
}

/// Owner first: to change it clears the set-user-ID bits.
fn give(made: BorrowedFd<'_>, status: &Stat) -> Result<(), Errno> {
    let (user, group) = owner(status);
    fchown(made, Some(user), Some(group))?;
    fchmod(made, mode(status))
}

fn own_entry(into: BorrowedFd<'_>, name: &CStr, status: &Stat) -> Result<(), Errno> {
    let (user, group) = owner(status);
    chownat(
        into,
        name,
        Some(user),
        Some(group),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

fn owner(status: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid))
}

fn mode(status: &Stat) -> Mode {
    Mode::from_raw_mode(status.st_mode & 0o7777)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_tree_is_copied_and_nothing_beside_it() {
        let image = tempfile::tempdir().unwrap();
        let place = image.path().join("var/lib");
        fs::create_dir_all(place.join("deep/er")).unwrap();
        fs::write(place.join("deep/file"), "words").unwrap();
        fs::set_permissions(place.join("deep/file"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("/etc/passwd", place.join("link")).unwrap();
        fs::write(image.path().join("secret"), "no").unwrap();
        let made = tempfile::tempdir().unwrap();
        let open = |path: &std::path::Path| OwnedFd::from(File::open(path).unwrap());
        let (from, into) = (open(image.path()), open(made.path()));
        copy_up(from.as_fd(), "/var/lib", into.as_fd()).unwrap();
        assert_eq!(
            fs::read_to_string(made.path().join("deep/file")).unwrap(),
            "words"
        );
        let mode = fs::metadata(made.path().join("deep/file"))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o640);
        assert!(made.path().join("deep/er").is_dir());
        assert_eq!(
            fs::read_link(made.path().join("link")).unwrap(),
            std::path::Path::new("/etc/passwd")
        );
        assert_eq!(fs::read_dir(made.path()).unwrap().count(), 2);
        copy_up(from.as_fd(), "/nothing", into.as_fd()).unwrap();
        copy_up(from.as_fd(), "/secret", into.as_fd()).unwrap();
    }
}
