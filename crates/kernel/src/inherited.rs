//! What a program that supervises takes over from whoever started it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::check;

/// Keeps one inherited descriptor and closes all others; standard input,
/// output and error become `/dev/null`. To be called first in `main`: whatever
/// else of this process owns a descriptor loses it.
///
/// # Errors
/// `EBADF` when there is no such descriptor; opening `/dev/null`.
pub fn keep_only(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only makes a new descriptor, away from the standard ones.
    let kept = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    check(i64::from(kept))?;
    // SAFETY: the kernel just made it and nothing else owns it.
    let kept = unsafe { OwnedFd::from_raw_fd(kept) };
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for standard in 0..3 {
        // SAFETY: numbers 0 to 2 are owned by nobody in particular.
        check(i64::from(unsafe { libc::dup2(null.as_raw_fd(), standard) }))?;
    }
    // Its number is none of the standard ones: the library opens those at the
    // start of a program that was given none.
    drop(null);
    let own = kept.as_raw_fd().unsigned_abs();
    close_range(3, own - 1)?;
    close_range(own + 1, u32::MAX)?;
    Ok(kept)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: the caller of `keep_only` has promised that nothing owns these.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    check(done).map(drop)
}

/// Takes over one inherited descriptor and keeps it from programs started
/// later. To be called at most once for a number, early in `main`.
///
/// # Errors
/// `EBADF` when there is no such descriptor.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only makes a new descriptor, away from the standard ones.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    check(i64::from(copy))?;
    // SAFETY: whoever started this program passed the number for this call to
    // take; nothing of this process owns it.
    unsafe { libc::close(number) };
    // SAFETY: the kernel just made it and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}
