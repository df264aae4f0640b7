//! Terminals of the container's own devpts instance.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// A new terminal: the caller's end and the process'.
pub(crate) struct Terminal {
    pub(crate) master: OwnedFd,
    pub(crate) peer: OwnedFd,
}

/// Child code, and parent code too: opens a terminal through the descriptor of the instance that
/// we mounted; what the container has made of its /dev since does not matter.
pub(crate) fn open(instance: BorrowedFd<'_>, size: Option<(u16, u16)>) -> Result<Terminal, Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let master = openat2(instance, c"ptmx", flags, Mode::empty(), resolve)?;
    unlockpt(&master)?;
    let peer_flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let peer = ioctl_tiocgptpeer(&master, peer_flags)?;
    if let Some((rows, columns)) = size {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&master, size)?;
    }
    Ok(Terminal { master, peer })
}
