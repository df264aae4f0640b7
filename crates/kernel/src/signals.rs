//! The calling thread's signal mask and the process' handlers.

use std::io;

use crate::check;

/// A mask to go back to.
pub(crate) struct Mask(libc::sigset_t);

/// Blocks every signal that can be blocked.
pub(crate) fn block_all() -> io::Result<Mask> {
    let mut all = empty_set();
    // SAFETY: writes the set it is given.
    unsafe { libc::sigfillset(&raw mut all) };
    let mut before = empty_set();
    // SAFETY: both sets live through the call.
    let done = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) };
    check(-i64::from(done)).map(|_| Mask(before))
}

impl Mask {
    pub(crate) fn restore(&self) {
        // SAFETY: the set lives through the call; nothing is written back.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut())
        };
    }
}

/// Unblocks every signal. Does not allocate.
pub(crate) fn unblock_all() {
    Mask(empty_set()).restore();
}

/// Child code: gives a program the signals that it expects to find, all
/// unblocked and with their default effect. Ignored signals and the mask would
/// otherwise be inherited through execve.
pub fn reset() {
    set_default_handlers();
    unblock_all();
}

/// A child's table of handlers is its own copy; a handler of the caller's must
/// not run in a child that shares the caller's memory.
pub(crate) fn set_default_handlers() {
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        // SAFETY: installs the default action, no code of ours. glibc refuses
        // the numbers that it keeps to itself, harmlessly.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

fn empty_set() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: initialises the set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: sigset_t is plain numbers; it was zeroed and then initialised.
    unsafe { set.assume_init() }
}
