//! A container's `resolv.conf`: written anew at each start, unless the container has changed it.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, XattrFlags, fgetxattr, fsetxattr, openat};
use rustix::io::Errno;
use sampan_oci::Digest;

/// The mark on a file that says what was written to it. A container cannot set it.
const WRITTEN: &str = "trusted.sampan.written";
/// What a resolver configuration may be long.
pub(super) const LENGTH_MAX: u64 = 64 << 10;

type Mark = [u8; 16];

fn mark_of(content: &[u8]) -> Mark {
    let digest = Digest::of(content);
    let mut mark = Mark::default();
    mark.copy_from_slice(&digest.as_bytes()[..size_of::<Mark>()]);
    mark
}

/// Notes that `content` is what the engine wrote.
pub(super) fn note_written(file: impl AsFd, content: &[u8]) -> rustix::io::Result<()> {
    match fsetxattr(file, WRITTEN, &mark_of(content), XattrFlags::empty()) {
        // Then nobody can say, and it is written at each start.
        Err(Errno::NOTSUP) => Ok(()),
        other => other,
    }
}

/// Whether the file has other content than the engine has written to it.
pub(super) fn is_changed(directory: &OwnedFd, name: &str) -> rustix::io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match openat(directory, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(errno),
    };
    let mut written = Mark::default();
    match fgetxattr(&file, WRITTEN, &mut written[..]) {
        Ok(length) if length == written.len() => {}
        Ok(_) | Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => return Ok(false),
        Err(errno) => return Err(errno),
    }
    let mut content = Vec::new();
    let file = std::fs::File::from(file);
    if file.take(LENGTH_MAX + 1).read_to_end(&mut content).is_err() {
        return Ok(false);
    }
    Ok(mark_of(&content) != written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_by_somebody_else_counts_as_changed() {
        sampan_kernel::requires!(root);
        let temporary = tempfile::tempdir().unwrap();
        let directory = OwnedFd::from(std::fs::File::open(temporary.path()).unwrap());
        let path = temporary.path().join("resolv.conf");
        assert!(!is_changed(&directory, "resolv.conf").unwrap());
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert!(!is_changed(&directory, "resolv.conf").unwrap());
        let file = std::fs::File::open(&path).unwrap();
        note_written(&file, b"nameserver 192.0.2.1\n").unwrap();
        assert!(!is_changed(&directory, "resolv.conf").unwrap());
        std::fs::write(&path, "nameserver 192.0.2.2\n").unwrap();
        assert!(is_changed(&directory, "resolv.conf").unwrap());
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert!(!is_changed(&directory, "resolv.conf").unwrap());
    }
}
