//! The parent's side of the conversation with a child.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};
use sampan_kernel::ancillary::receive_with_descriptors;
use sampan_kernel::clone::Child;
use sampan_kernel::pidfd;

use crate::Error;
use crate::failure::{Failure, REPORT_SIZE, Report};

/// The parent's and the child's end.
pub(crate) fn report_socket() -> Result<(OwnedFd, OwnedFd), Error> {
    socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(Error::step("make a socket pair"))
}

/// What came from the child.
#[derive(Debug)]
pub(crate) enum Answer {
    Ready,
    Spawned(i32),
    /// It waits before it enters its root: hooks may run.
    Hooks,
    /// The other end of its terminal.
    Terminal(OwnedFd),
    /// The number of a descriptor that the agent of its filter is to have; it waits for a word.
    Listener(i32),
    Failed(Failure),
    /// It runs its program, or it has died.
    Closed,
}

/// Waits for the child's next word.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> Result<Answer, Error> {
    let mut bytes = [0; REPORT_SIZE];
    let mut descriptors = Vec::new();
    let mut filled = 0;
    while filled < REPORT_SIZE {
        match receive_with_descriptors(socket, &mut bytes[filled..], &mut descriptors) {
            Ok(0) => return Ok(Answer::Closed),
            Ok(count) => filled += count,
            // A reset is what an end with unread bytes leaves behind.
            Err(error) if error.raw_os_error() == Some(Errno::CONNRESET.raw_os_error()) => {
                return Ok(Answer::Closed);
            }
            Err(error) => return Err(Error::io_step("hear from the container's process")(error)),
        }
    }
    Ok(match Report::from_bytes(bytes) {
        Report::Ready => Answer::Ready,
        Report::Hooks => Answer::Hooks,
        Report::Spawned(pid) => Answer::Spawned(pid),
        Report::Listener(number) => Answer::Listener(number),
        Report::Terminal => descriptors.pop().map_or(Answer::Closed, Answer::Terminal),
        Report::Failed(failure) => Answer::Failed(failure),
    })
}

/// Lets a waiting child go on; false when it has gone.
pub(crate) fn tell(socket: BorrowedFd<'_>) -> bool {
    send(socket, &[1], SendFlags::NOSIGNAL) == Ok(1)
}

/// What became of a child that said nothing.
pub(crate) fn died(child: &Child) -> Error {
    let how = match pidfd::wait(child.pidfd.as_fd()) {
        Ok(pidfd::Ending::Exited(code)) => format!("exit code {code}"),
        Ok(pidfd::Ending::Killed(signal)) => format!("killed by signal {signal}"),
        Err(error) => error.to_string(),
    };
    Error::Died(how)
}
