//! Signals as descriptors (signalfd(2)), and the child of an init process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::check;
use crate::signals::{self, SignalSet};

/// A descriptor that is readable while one of `signals` (which should be
/// blocked) is pending; close-on-exec and non-blocking.
///
/// # Errors
/// As signalfd(2).
pub fn descriptor(signals: &[i32]) -> io::Result<OwnedFd> {
    signal_descriptor(&SignalSet::of(signals)?)
}

/// As [`descriptor`], for every signal.
///
/// # Errors
/// As signalfd(2).
pub fn descriptor_of_all() -> io::Result<OwnedFd> {
    signal_descriptor(&SignalSet::full())
}

/// Takes the next pending signal's number from a [`descriptor`]; `None` where
/// there is none.
///
/// # Errors
/// As read(2).
pub fn take(descriptor: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(descriptor.as_fd(), &mut info) {
        // The number is the first field.
        Ok(read) if read == info.len() => {
            let [a, b, c, d, ..] = info;
            Ok(Some(i32::from_ne_bytes([a, b, c, d])))
        }
        Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes the command a process group of its own that is in the foreground of
/// the terminal on standard input, where there is one.
pub fn in_foreground(command: &mut Command) -> &mut Command {
    command.process_group(0);
    // SAFETY: the closure makes system calls only.
    unsafe { command.pre_exec(take_foreground) }
}

fn take_foreground() -> io::Result<()> {
    // A process of the background that asks for the terminal is stopped by
    // SIGTTOU unless it blocks it.
    signals::block_all()?;
    // SAFETY: takes nothing.
    let own = unsafe { libc::getpid() };
    // Without a terminal this fails, as it should.
    // SAFETY: plain numbers.
    unsafe { libc::tcsetpgrp(libc::STDIN_FILENO, own) };
    SignalSet::empty().mask().map(drop)
}

fn signal_descriptor(set: &SignalSet) -> io::Result<OwnedFd> {
    // SAFETY: -1 asks for a new descriptor; the set lives through the call.
    let made = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check(i64::from(made))?;
    // SAFETY: the kernel just made it and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}
