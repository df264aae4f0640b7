//! Standard output.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;

use super::terminal;

/// What a shell shows for a command that SIGPIPE ended.
const BROKEN_PIPE: i32 = 128 + 13;

/// Prints text.
pub(crate) fn text(text: &str) {
    let mut out = io::stdout().lock();
    finish(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Prints a line.
pub(crate) fn line(line: &str) {
    text(&format!("{line}\n"));
}

/// Writes a container's bytes to one of our descriptors, without a buffer between.
pub(crate) fn bytes(to: BorrowedFd<'_>, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                // Somebody else made the terminal nonblocking.
                let mut wanted = [rustix::event::PollFd::new(
                    &to,
                    rustix::event::PollFlags::OUT,
                )];
                let _ = rustix::event::poll(&mut wanted, None);
            }
            // Closed on purpose: `>&-`.
            Err(rustix::io::Errno::BADF) => return,
            Err(error) => finish(Err(error.into())),
        }
    }
}

/// Ends the command when nobody reads what it says, as SIGPIPE would (which Rust ignores, for
/// the sake of sockets).
fn finish(result: io::Result<()>) {
    let Err(error) = result else {
        return;
    };
    terminal::restore();
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(BROKEN_PIPE);
    }
    eprintln!("sampan: cannot write the output: {error}");
    std::process::exit(1);
}
