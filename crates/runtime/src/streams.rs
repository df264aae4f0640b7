//! The standard streams of a process.

use std::cell::OnceCell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{FileType, Uid, fchown, fstat, makedev};
use rustix::io::Errno;
use rustix::stdio::{stderr, stdin, stdout};
use sampan_kernel::ancillary::send_with_descriptors;
use sampan_kernel::descriptors::place;

use crate::bundle::Stdio;
use crate::failure::{At, Failure, Report, Step};
use crate::{Error, terminal};

/// Planned down to what the system calls take.
#[derive(Debug)]
pub(crate) enum Streams {
    Inherit,
    Pipes([OwnedFd; 3]),
    Terminal(OwnedFd),
    /// A terminal of an instance of devpts that the child makes itself.
    Inside {
        size: Option<(u16, u16)>,
        peer: OnceCell<OwnedFd>,
    },
}

/// Where terminals come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Terminals<'a> {
    /// This instance of devpts.
    Of(BorrowedFd<'a>),
    /// One that the child will make.
    Inside,
    /// There are none.
    Missing,
}

impl Streams {
    /// The streams, and the caller's end of a terminal that is there already.
    pub(crate) fn plan(
        stdio: Stdio,
        terminals: Terminals<'_>,
        floor: RawFd,
    ) -> Result<(Self, Option<OwnedFd>), Error> {
        Ok(match stdio {
            Stdio::Inherit => (Self::Inherit, None),
            Stdio::Pipes {
                stdin,
                stdout,
                stderr,
            } => {
                let streams = [
                    move_to(stdin, floor)?,
                    move_to(stdout, floor)?,
                    move_to(stderr, floor)?,
                ];
                (Self::Pipes(streams), None)
            }
            Stdio::Terminal { size } => match terminals {
                Terminals::Of(instance) => {
                    let terminal = terminal::open(instance, size)
                        .map_err(Error::step("allocate a terminal"))?;
                    let peer = move_to(terminal.peer, floor)?;
                    (Self::Terminal(peer), Some(terminal.master))
                }
                Terminals::Inside => {
                    let peer = OnceCell::new();
                    (Self::Inside { size, peer }, None)
                }
                Terminals::Missing => {
                    return Err(Error::Unsupported(
                        "a terminal without a devpts mount at /dev/pts".to_owned(),
                    ));
                }
            },
        })
    }

    /// The process' end of its terminal.
    pub(crate) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Terminal(peer) => Some(peer.as_fd()),
            Self::Inside { peer, .. } => peer.get().map(AsFd::as_fd),
            Self::Inherit | Self::Pipes(_) => None,
        }
    }
}

/// Child code.
impl Streams {
    /// Opens the terminal that is to come from the container's own devpts, and gives the parent
    /// its other end.
    pub(crate) fn open_inside(
        &self,
        instance: Option<BorrowedFd<'_>>,
        parent: BorrowedFd<'_>,
    ) -> Result<(), Failure> {
        let Self::Inside { size, peer } = self else {
            return Ok(());
        };
        let instance = instance.ok_or(Errno::NOTTY).at(Step::Terminal)?;
        let made = terminal::open(instance, *size).at(Step::Terminal)?;
        let word = Report::Terminal.to_bytes();
        send_with_descriptors(parent, &word, &[made.master.as_fd()]).at(Step::Terminal)?;
        peer.set(made.peer)
            .map_err(|_| Errno::EXIST)
            .at(Step::Terminal)
    }

    /// Puts the streams where they belong and gives them to the process' user, so that it can
    /// open them again as /dev/stdout.
    pub(crate) fn place(&self, user: Uid) -> Result<(), Failure> {
        match self {
            Self::Inherit => {
                for stream in [stdin(), stdout(), stderr()] {
                    give(stream, user).at(Step::Stdio)?;
                }
            }
            Self::Pipes(streams) => {
                for (number, stream) in (0..).zip(streams) {
                    give(stream.as_fd(), user).at(Step::Stdio)?;
                    place(stream.as_fd(), number).at(Step::Stdio)?;
                }
            }
            Self::Terminal(_) | Self::Inside { .. } => {
                let peer = self.terminal().ok_or(Errno::NOTTY).at(Step::Stdio)?;
                give(peer, user).at(Step::Stdio)?;
                for number in 0..3 {
                    place(peer, number).at(Step::Stdio)?;
                }
            }
        }
        Ok(())
    }
}

/// Child code.
fn give(stream: BorrowedFd<'_>, user: Uid) -> Result<(), Errno> {
    let status = match fstat(stream) {
        // The caller has closed its own.
        Err(Errno::BADF) => return Ok(()),
        other => other?,
    };
    let device = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice;
    let null = device && status.st_rdev == makedev(1, 3);
    if null || status.st_uid == user.as_raw() {
        return Ok(());
    }
    match fchown(stream, Some(user), None) {
        // Sockets, read-only files, mapped ids: not ours to give.
        Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Moves a descriptor out of the way of the numbers below `floor`.
pub(crate) fn move_to(descriptor: OwnedFd, floor: RawFd) -> Result<OwnedFd, Error> {
    if descriptor.as_raw_fd() >= floor {
        return Ok(descriptor);
    }
    rustix::io::fcntl_dupfd_cloexec(&descriptor, floor)
        .map_err(Error::step("duplicate a descriptor"))
}
