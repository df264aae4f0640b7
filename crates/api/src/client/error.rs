//! What can go wrong with a request.

use std::io;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens.
    #[error("cannot connect to the engine at {endpoint}")]
    Connect {
        /// Where it should listen.
        endpoint: String,
        /// Why not.
        source: io::Error,
    },
    /// The connection ended, or what came is not HTTP.
    #[error("the connection to the engine failed")]
    Http(#[from] hyper::Error),
    /// The request cannot be written as HTTP.
    #[error("the request cannot be sent")]
    Request(#[from] http::Error),
    /// The engine answered with an error.
    #[error("{message}")]
    Status {
        /// HTTP status.
        status: u16,
        /// The engine's sentence.
        message: String,
        /// What a person can do about it.
        hint: Option<String>,
    },
    /// The engine's answer is not what this request is answered with.
    #[error("the engine's answer cannot be read")]
    Decode(#[from] serde_json::Error),
    /// A hijacked connection was asked for and something else came.
    #[error("unable to upgrade to tcp, received {0}")]
    NotUpgraded(u16),
    /// The connection broke while a stream was read or written.
    #[error("the stream was interrupted")]
    Io(#[from] io::Error),
}

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No engine can be reached.
    Unreachable,
    /// The object is not there.
    NotFound,
    /// The request is wrong.
    Invalid,
    /// The object's state does not allow it.
    Conflict,
    /// It is so already.
    NotModified,
    /// It is not allowed.
    Forbidden,
    /// Credentials are wrong or missing.
    Unauthorized,
    /// The engine cannot do this.
    NotImplemented,
    /// The engine cannot do this now.
    Unavailable,
    /// Anything else.
    Other,
}

impl Error {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Connect { .. } => Kind::Unreachable,
            Self::Status { status, .. } => match status {
                304 => Kind::NotModified,
                400 => Kind::Invalid,
                401 => Kind::Unauthorized,
                403 => Kind::Forbidden,
                404 => Kind::NotFound,
                409 => Kind::Conflict,
                501 => Kind::NotImplemented,
                503 => Kind::Unavailable,
                _ => Kind::Other,
            },
            Self::Http(_)
            | Self::Request(_)
            | Self::Decode(_)
            | Self::NotUpgraded(_)
            | Self::Io(_) => Kind::Other,
        }
    }

    /// What a person can do about it, when the engine said so.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Status { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }

    /// The HTTP status, when the engine answered.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } | Self::NotUpgraded(status) => Some(*status),
            _ => None,
        }
    }
}
