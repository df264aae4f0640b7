//! The descriptor table as a whole.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use crate::check;

const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;

/// Marks all descriptors from `first` on as close-on-exec. Does not allocate.
///
/// # Errors
/// As close_range(2).
pub fn close_from_at_exec(first: u32) -> io::Result<()> {
    close_range(first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC)
}

/// Makes `number` a copy of `descriptor` that stays open through execve. Child
/// code: whatever had the number is closed, so the caller must be a process
/// about to become another program, in which nothing owns that number.
///
/// # Errors
/// As dup2(2); `EINVAL` when both are the same.
pub fn place(descriptor: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: takes an open descriptor; that the other number is free to be
    // taken is what the caller has promised.
    let done = unsafe { libc::dup3(descriptor.as_raw_fd(), number, 0) };
    check(i64::from(done)).map(drop)
}

/// As [`place`], but execve closes the number.
///
/// # Errors
/// As [`place`].
pub fn place_until_exec(descriptor: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: as in `place`.
    let done = unsafe { libc::dup3(descriptor.as_raw_fd(), number, libc::O_CLOEXEC) };
    check(i64::from(done)).map(drop)
}

/// Child code: closes this process' copy of a descriptor that only the parent
/// goes on to use. Values that own it in the copied memory must never be
/// dropped, which in a child that ends by execve or exit they are not.
pub fn close_copy(descriptor: BorrowedFd<'_>) {
    // SAFETY: closes a number of this process' own table; see above for the
    // values that still have it.
    unsafe { libc::close(descriptor.as_raw_fd()) };
}

/// Child code: closes all descriptors from `first` on but `kept`. As for
/// [`close_copy`], values that own them must never be dropped.
///
/// # Errors
/// As close_range(2).
pub fn close_all_from(first: u32, kept: BorrowedFd<'_>) -> io::Result<()> {
    let kept = kept.as_raw_fd().unsigned_abs();
    if kept > first {
        close_range(first, kept - 1, 0)?;
    }
    close_range(first.max(kept + 1), libc::c_uint::MAX, 0)
}

/// Whether the peer of a Unix stream socket has read all that was written (`SIOCOUTQ`, unix(7)).
///
/// # Errors
/// As ioctl(2).
pub fn all_read(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut left: libc::c_int = 0;
    // SAFETY: the request writes one int to where the pointer says.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut left) };
    check(i64::from(done))?;
    Ok(left == 0)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> io::Result<()> {
    // SAFETY: plain numbers; what owns the descriptors is the business of the
    // callers, which are child code where nothing drops them.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    check(done).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_the_peer_has_not_read_is_seen() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert!(all_read(ours.as_fd()).unwrap());
        ours.write_all(b"ab").unwrap();
        theirs.read_exact(&mut [0]).unwrap();
        assert!(!all_read(ours.as_fd()).unwrap());
        theirs.read_exact(&mut [0]).unwrap();
        assert!(all_read(ours.as_fd()).unwrap());
    }
}
