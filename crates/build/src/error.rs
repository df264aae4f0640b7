//! Why a build failed.

use std::io;

use sampan_text::with_causes;

use crate::progress::Failure;
use crate::sandbox::SandboxError;

/// Result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed build.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Dockerfile is wrong: the mistake with its place, as a person wants to see it.
    #[error("{0}")]
    Dockerfile(String),
    /// A command of the Dockerfile failed.
    #[error("The command '{command}' returned a non-zero code: {code}")]
    Command {
        /// The command as the history has it.
        command: String,
        /// Its exit code.
        code: i32,
    },
    /// A step cannot be done.
    #[error("{0}")]
    Step(String),
    /// What a client sends is no set of files.
    #[error("{0}")]
    Context(String),
    /// This version cannot do it.
    #[error("{0} is not supported by this version")]
    Unsupported(String),
    /// There is no such cache mount.
    #[error("no such cache mount: {0}")]
    NoMount(String),
    /// Nobody wants it any more.
    #[error("the build was cancelled")]
    Cancelled,
    /// A mistake of this program's.
    #[error("the build broke off: an internal error")]
    Panicked,
    /// The image that a stage begins with cannot be had.
    #[error("{0}")]
    Base(String),
    /// Running a command failed, not the command.
    #[error("{0}")]
    Sandbox(#[from] SandboxError),
    /// The store of images refused.
    #[error(transparent)]
    Images(#[from] sampan_images::Error),
    /// The store of layers refused.
    #[error(transparent)]
    Layers(#[from] sampan_layers::Error),
    /// The cache's records could not be written.
    #[error(transparent)]
    State(#[from] sampan_state::Error),
    /// A file could not be reached.
    #[error(transparent)]
    Files(#[from] sampan_fs::Error),
    /// A file could not be read.
    #[error("{action}")]
    Io {
        /// What was being done.
        action: String,
        /// Why not.
        source: io::Error,
    },
}

/// Class of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The Dockerfile or the context is wrong, or a command failed.
    Invalid,
    /// Something is not there.
    NotFound,
    /// This version cannot do it.
    NotImplemented,
    /// Nobody wants it any more.
    Cancelled,
    /// The host is at fault.
    Internal,
}

impl Error {
    /// Which class it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Dockerfile(_) | Self::Command { .. } | Self::Step(_) | Self::Context(_) => {
                ErrorKind::Invalid
            }
            Self::Base(_) | Self::NoMount(_) => ErrorKind::NotFound,
            Self::Unsupported(_) => ErrorKind::NotImplemented,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Panicked
            | Self::Sandbox(_)
            | Self::Images(_)
            | Self::Layers(_)
            | Self::State(_)
            | Self::Files(_)
            | Self::Io { .. } => ErrorKind::Internal,
        }
    }

    /// The exit code of the command that failed, if one did.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Command { code, .. } => Some(*code),
            _ => None,
        }
    }

    pub(crate) fn to_failure(&self) -> Failure {
        match self {
            Self::Command { command, code } => Failure::Command {
                command: command.clone(),
                code: *code,
            },
            other => Failure::Other(with_causes(other)),
        }
    }

    /// Whether a file is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Files(error) if error.kind() == sampan_fs::ErrorKind::NotFound)
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
