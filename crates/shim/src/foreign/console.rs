//! How a terminal comes from a program: over a socket that it is told of.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::termios::Winsize;
use sampan_kernel::ancillary::receive_with_descriptors;

const NAME: &str = "console.sock";
/// The program has ended by then: what it has sent is there.
const PATIENCE: Duration = Duration::from_secs(5);

/// A socket that waits for one terminal.
#[derive(Debug)]
pub(super) struct Console {
    directory: OwnedFd,
    listener: UnixListener,
}

impl Console {
    /// Makes the socket in `directory`.
    pub(super) fn listen(directory: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory, flags, Mode::empty())?;
        unlink(&directory);
        let listener = UnixListener::bind(path_in(&directory))?;
        Ok(Self {
            directory,
            listener,
        })
    }

    /// Where the program finds it: short, however deep the directory lies.
    pub(super) fn path(&self) -> String {
        path_in(&self.directory)
    }

    /// Takes the terminal, and gives it its size in rows and columns.
    pub(super) fn receive(self, size: Option<(u16, u16)>) -> io::Result<OwnedFd> {
        let wait = |descriptor| {
            let limit = Timespec {
                tv_sec: PATIENCE.as_secs().cast_signed(),
                tv_nsec: 0,
            };
            let mut polled = [PollFd::from_borrowed_fd(descriptor, PollFlags::IN)];
            match poll(&mut polled, Some(&limit)) {
                Ok(0) => Err(io::Error::other("the runtime has sent none")),
                other => other.map(drop).map_err(io::Error::from),
            }
        };
        wait(self.listener.as_fd())?;
        let (stream, _) = self.listener.accept()?;
        wait(stream.as_fd())?;
        let mut descriptors = Vec::new();
        receive_with_descriptors(stream.as_fd(), &mut [0; 4096], &mut descriptors)?;
        let terminal = descriptors
            .into_iter()
            .next()
            .ok_or_else(|| io::Error::other("the runtime has sent none"))?;
        if let Some((rows, columns)) = size {
            let size = Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            rustix::termios::tcsetwinsize(&terminal, size)?;
        }
        Ok(terminal)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        unlink(&self.directory);
    }
}

fn path_in(directory: &OwnedFd) -> String {
    format!(
        "/proc/{}/fd/{}/{NAME}",
        std::process::id(),
        directory.as_raw_fd()
    )
}

fn unlink(directory: &OwnedFd) {
    // Missing is as good; anything else shows when a socket is to be made there.
    let _ = rustix::fs::unlinkat(directory, NAME, AtFlags::empty());
}
