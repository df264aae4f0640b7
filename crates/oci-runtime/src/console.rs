//! Terminals: handed to whoever listens at a console socket.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use sampan_kernel::ancillary::send_with_descriptors;

/// What runc sends as the name of the terminal, which readers want to be there.
const NAME: &[u8] = b"/dev/ptmx";

/// Hands the caller's end of a terminal over.
pub(crate) fn hand_over(socket: &Path, terminal: &OwnedFd) -> Result<()> {
    let send = || -> std::io::Result<()> {
        let stream = UnixStream::connect(socket)?;
        send_with_descriptors(stream.as_fd(), NAME, &[terminal.as_fd()])?;
        Ok(())
    };
    send().with_context(|| format!("cannot hand the terminal over at {}", socket.display()))
}

/// Refuses what cannot go together, in runc's words.
pub(crate) fn check(terminal: bool, detached: bool, socket: Option<&Path>) -> Result<()> {
    ensure!(
        !(terminal && detached && socket.is_none()),
        "cannot allocate tty if runc will detach without setting console socket"
    );
    ensure!(
        (terminal && detached) || socket.is_none(),
        "cannot use console socket if runc will not detach or allocate tty"
    );
    Ok(())
}
