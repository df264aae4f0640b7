//! Failures of reading and writing log files.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// A log file could not be read or written.
#[derive(Debug, Error)]
pub enum Error {
    /// The directory of the log cannot be opened.
    #[error("opening log directory {directory}")]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A log file cannot be opened.
    #[error("opening log file {name}")]
    Open {
        /// Its name in the directory.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A log file cannot be read.
    #[error("reading log file {name}")]
    Read {
        /// Its name in the directory.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Entries cannot be written; they are lost, the file is as it was before them.
    #[error("writing log file {name}")]
    Write {
        /// Its name in the directory.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The files cannot be rotated; writing goes on in the old one.
    #[error("rotating log file {name}")]
    Rotate {
        /// Its name in the directory.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A reader cannot wait for more.
    #[error("waiting for log entries")]
    Wait(#[source] io::Error),
}

/// Classes of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no log.
    NotFound,
    /// The disk is full or over quota.
    NoSpace,
    /// Anything else on the host.
    System,
}

impl Error {
    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        let (Self::Directory { source, .. }
        | Self::Open { source, .. }
        | Self::Read { source, .. }
        | Self::Write { source, .. }
        | Self::Rotate { source, .. }
        | Self::Wait(source)) = self;
        match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::System,
        }
    }
}
