//! Signals as descriptors (signalfd(2)), and the child of an init process.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::check;

/// Blocks every signal that can be blocked, for the calling thread and what it
/// starts from here on. What it starts has to
/// [`reset`](crate::signals::reset) them.
///
/// # Errors
/// As sigprocmask(2).
pub fn block_all() -> io::Result<()> {
    set_mask(&full_set())
}

/// A descriptor that is readable while one of `signals` (which should be
/// blocked) is pending; close-on-exec and non-blocking.
///
/// # Errors
/// As signalfd(2).
pub fn descriptor(signals: &[i32]) -> io::Result<OwnedFd> {
    let mut set = empty_set();
    for signal in signals {
        // SAFETY: changes the set it is given; wrong numbers are refused.
        check(i64::from(unsafe { libc::sigaddset(&raw mut set, *signal) }))?;
    }
    signal_descriptor(&set)
}

/// As [`descriptor`], for every signal.
///
/// # Errors
/// As signalfd(2).
pub fn descriptor_of_all() -> io::Result<OwnedFd> {
    signal_descriptor(&full_set())
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
    set_mask(&full_set())?;
    // SAFETY: takes nothing.
    let own = unsafe { libc::getpid() };
    // Without a terminal this fails, as it should.
    // SAFETY: plain numbers.
    unsafe { libc::tcsetpgrp(libc::STDIN_FILENO, own) };
    set_mask(&empty_set())
}

fn signal_descriptor(set: &libc::sigset_t) -> io::Result<OwnedFd> {
    // SAFETY: -1 asks for a new descriptor; the set lives through the call.
    let made = unsafe { libc::signalfd(-1, set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check(i64::from(made))?;
    // SAFETY: the kernel just made it and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

fn set_mask(set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: the set lives through the call; nothing is written back.
    let done = unsafe { libc::sigprocmask(libc::SIG_SETMASK, set, std::ptr::null_mut()) };
    check(i64::from(done)).map(drop)
}

fn full_set() -> libc::sigset_t {
    let mut set = empty_set();
    // SAFETY: writes the set it is given.
    unsafe { libc::sigfillset(&raw mut set) };
    set
}

fn empty_set() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: initialises the set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: sigset_t is plain numbers; it was zeroed and then initialised.
    unsafe { set.assume_init() }
}
