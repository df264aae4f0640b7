//! Waits for processes by descriptor (waitid(2)).

use std::io;
use std::os::fd::BorrowedFd;

use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

/// How a process ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// It left with this code.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
}

impl Ending {
    /// The code as shells have it: the exit code, or 128 + the signal.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Killed(signal) => 128 + signal,
        }
    }

    fn of(status: &WaitIdStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Exited(code),
            (None, signal) => Self::Killed(signal.unwrap_or(9)),
        }
    }
}

/// Waits until the child behind `pidfd` has ended, and reaps it.
///
/// # Errors
/// `ECHILD` when it is not a child of the caller or has been reaped.
pub fn wait(pidfd: BorrowedFd<'_>) -> io::Result<Ending> {
    loop {
        match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(Some(status)) => return Ok(Ending::of(&status)),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Reaps the child behind `pidfd` if it has ended; `None` while it runs.
///
/// # Errors
/// As [`wait`].
pub fn try_wait(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ending>> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = waitid(WaitId::PidFd(pidfd), options)?;
    Ok(status.map(|status| Ending::of(&status)))
}

/// Sends `signal` to the process behind `pidfd`. A process that has ended is
/// no error.
///
/// # Errors
/// `EPERM`.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    match pidfd_send_signal(pidfd, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Parses a signal by number, realtime signals included.
#[must_use]
pub fn signal(number: i32) -> Option<Signal> {
    if (34..=64).contains(&number) {
        // SAFETY: 34 to 64 are the realtime signals that glibc leaves to
        // applications; the value is only passed to the kernel.
        return Some(unsafe { Signal::from_raw_unchecked(number) });
    }
    Signal::from_named_raw(number)
}
