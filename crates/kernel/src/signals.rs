//! Sets of signals, the calling thread's mask and the process' handlers.

use std::io;
use std::mem::MaybeUninit;

use crate::check;

/// A set of signals.
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    /// No signal.
    #[must_use]
    pub fn empty() -> Self {
        let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: initialises the set it is given.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: sigset_t is plain numbers; it was zeroed and then initialised.
        Self(unsafe { set.assume_init() })
    }

    /// Every signal.
    #[must_use]
    pub fn full() -> Self {
        let mut set = Self::empty();
        // SAFETY: writes the set it is given.
        unsafe { libc::sigfillset(&raw mut set.0) };
        set
    }

    /// The signals with these numbers.
    ///
    /// # Errors
    /// `EINVAL` for a number that is no signal's.
    pub fn of(signals: &[i32]) -> io::Result<Self> {
        let mut set = Self::empty();
        for signal in signals {
            // SAFETY: changes the set it is given; wrong numbers are refused.
            check(i64::from(unsafe {
                libc::sigaddset(&raw mut set.0, *signal)
            }))?;
        }
        Ok(set)
    }

    /// Makes this the calling thread's mask; the mask until now. Does not allocate.
    ///
    /// # Errors
    /// As `pthread_sigmask(3)`.
    pub fn mask(&self) -> io::Result<Self> {
        let mut before = Self::empty();
        // SAFETY: both sets live through the call.
        let error = unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, &raw mut before.0)
        };
        match error {
            0 => Ok(before),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sigset_t {
        &raw const self.0
    }
}

/// Blocks every signal that can be blocked, for the calling thread and what it starts from here
/// on (which has to [`reset`] them); the mask until now.
///
/// # Errors
/// As `pthread_sigmask(3)`.
pub fn block_all() -> io::Result<SignalSet> {
    SignalSet::full().mask()
}

/// Child code: gives a program the signals that it expects to find, all
/// unblocked and with their default effect. Ignored signals and the mask would
/// otherwise be inherited through execve.
pub fn reset() {
    set_default_handlers();
    // It fails for an unknown operation only.
    let _ = SignalSet::empty().mask();
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
