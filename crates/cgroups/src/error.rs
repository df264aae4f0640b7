use std::io;
use std::path::PathBuf;

use crate::Controller;

/// What went wrong with a control group.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mounted hierarchies could not be read.
    #[error("cannot read the mounted cgroup hierarchies")]
    Detect(#[source] io::Error),
    /// No cgroup file system is mounted.
    #[error("no cgroup hierarchy is mounted")]
    NoHierarchy,
    /// A path that is empty, absolute, or has `.`, `..` or empty parts.
    #[error("invalid cgroup path {0:?}")]
    InvalidPath(String),
    /// A limit needs a controller that this host does not offer.
    #[error("this host has no {0} cgroup controller")]
    MissingController(Controller),
    /// A limit that no kernel would take, or that Docker's rules forbid.
    #[error("{0}")]
    InvalidLimit(String),
    /// A cgroup directory could not be made.
    #[error("cannot create the cgroup {path}")]
    Create {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A cgroup directory could not be opened.
    #[error("cannot open the cgroup {path}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A control file could not be written.
    #[error("cannot write {value:?} to {file} of the cgroup{}", why(file, source))]
    Write {
        /// The control file's name.
        file: String,
        /// What was written.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A control file could not be read.
    #[error("cannot read {file} of the cgroup")]
    Read {
        /// The control file's name.
        file: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The device program was refused.
    #[error("cannot set the device rules of the cgroup")]
    Devices(#[source] io::Error),
    /// A cgroup directory stayed busy.
    #[error("cannot remove the cgroup {path}")]
    Remove {
        /// The directory.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// One more clause where the kernel's answer alone would leave a person in the dark.
fn why(file: &str, source: &io::Error) -> &'static str {
    use rustix::io::Errno;
    let Some(errno) = Errno::from_io_error(source) else {
        return "";
    };
    match (file, errno) {
        ("cpu.rt_runtime_us" | "cpu.rt_period_us", Errno::INVAL) => {
            " (the cgroups above it have no share of real time to give: write one to their cpu.rt_runtime_us)"
        }
        ("cpuset.cpus" | "cpuset.mems", Errno::INVAL | Errno::RANGE | Errno::ACCESS) => {
            " (this machine, or the cgroup above it, does not have them all)"
        }
        (_, Errno::OPNOTSUPP) if file.ends_with("weight_device") || file.starts_with("io.") => {
            " (the scheduler of this device does not weigh: choose bfq in its queue/scheduler)"
        }
        (_, Errno::NODEV) => " (it is no whole disk)",
        (_, Errno::BUSY) if file.starts_with("memory.") => " (more is in use)",
        _ => "",
    }
}

/// Who can do something about an [`Error`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorKind {
    /// The request asks for something impossible.
    Invalid,
    /// The host lacks what the request needs.
    Unsupported,
    /// The kernel refused.
    System,
}

impl Error {
    /// The class of the error, for exit and status codes.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidPath(_) | Self::InvalidLimit(_) => ErrorKind::Invalid,
            Self::NoHierarchy | Self::MissingController(_) => ErrorKind::Unsupported,
            Self::Write { source, .. }
                if source.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error())
                    || source.raw_os_error() == Some(rustix::io::Errno::RANGE.raw_os_error()) =>
            {
                ErrorKind::Invalid
            }
            Self::Detect(_)
            | Self::Create { .. }
            | Self::Open { .. }
            | Self::Write { .. }
            | Self::Read { .. }
            | Self::Devices(_)
            | Self::Remove { .. } => ErrorKind::System,
        }
    }
}
