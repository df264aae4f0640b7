//! What a registry said, in Docker's words.

use std::fmt;

use sampan_oci::Digest;

/// One entry of a registry's `errors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The code, as in `MANIFEST_UNKNOWN`.
    pub code: String,
    /// What the registry adds.
    pub message: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.to_lowercase().replace('_', " ");
        if self.message.is_empty() {
            f.write_str(&code)
        } else {
            write!(f, "{code}: {}", self.message)
        }
    }
}

/// A failure to get something from a registry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository has no such tag or digest.
    #[error("manifest for {image} not found: {cause}")]
    ManifestNotFound {
        /// The name asked for.
        image: String,
        /// The registry's words.
        cause: Cause,
    },
    /// The registry has no such repository.
    #[error("repository {repository} not found: {cause}")]
    RepositoryNotFound {
        /// The name asked for.
        repository: String,
        /// The registry's words.
        cause: Cause,
    },
    /// The repository does not exist or is not for everybody.
    #[error(
        "pull access denied for {repository}, repository does not exist or may require 'docker login': {cause}"
    )]
    Denied {
        /// The name asked for.
        repository: String,
        /// The registry's words.
        cause: Cause,
    },
    /// The registry wants to know who asks, and nobody said.
    #[error("{method} {url:?}: no basic auth credentials")]
    NoCredentials {
        /// The request's method, as in `Head`.
        method: &'static str,
        /// What was asked for.
        url: String,
    },
    /// The token service does not accept the credentials.
    #[error("{method} {url:?}: unauthorized: {message}")]
    TokenRefused {
        /// The request's method.
        method: &'static str,
        /// The token service.
        url: String,
        /// Its words.
        message: String,
    },
    /// The registry does not accept the credentials.
    #[error("login attempt to {url} failed with status: {status}")]
    LoginRefused {
        /// What was asked for.
        url: String,
        /// The HTTP status with its phrase.
        status: String,
    },
    /// The registry answered with one of its errors.
    #[error("{cause}")]
    Api {
        /// The HTTP status.
        status: u16,
        /// The registry's words.
        cause: Cause,
    },
    /// The registry answered with a status that means nothing here.
    #[error("received unexpected HTTP status: {status}")]
    Status {
        /// The HTTP status with its phrase.
        status: String,
        /// The number alone.
        code: u16,
    },
    /// The registry could not be reached or the connection broke, again and again.
    #[error("{method} {url:?}: {reason}")]
    Transport {
        /// The request's method.
        method: &'static str,
        /// What was asked for.
        url: String,
        /// The innermost reason.
        reason: String,
        /// Whether there was a connection at all.
        connected: bool,
    },
    /// Nothing came for too long.
    #[error("{method} {url:?}: no data for {seconds} s")]
    Stalled {
        /// The request's method.
        method: &'static str,
        /// What was asked for.
        url: String,
        /// The patience.
        seconds: u64,
    },
    /// The registry sent the client somewhere it must not go.
    #[error("{url:?} is refused: {reason}")]
    Unsafe {
        /// Where to.
        url: String,
        /// Why not.
        reason: &'static str,
    },
    /// The registry names a token service that may not have its credentials.
    #[error(
        "registry {registry} wants its credentials sent to {service}, which is of another site: they were not sent"
    )]
    ForeignService {
        /// The registry.
        registry: String,
        /// The host that it names.
        service: String,
    },
    /// The bytes are not those of the digest.
    #[error("manifest verification failed for digest {expected}: got {actual}")]
    DigestMismatch {
        /// The digest asked for or announced.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// A blob has more bytes than its descriptor says.
    #[error("blob {digest} is longer than the {size} bytes that its manifest says")]
    TooLong {
        /// The blob.
        digest: Digest,
        /// The length that was promised.
        size: u64,
    },
    /// An answer is longer than any real one.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What was read.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// The answer breaks the protocol.
    #[error("unexpected answer of the registry: {0}")]
    Protocol(String),
    /// The client could not be set up.
    #[error("registry client: {0}")]
    Setup(String),
}

/// Coarse classes of [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such thing, or it is hidden.
    NotFound,
    /// The registry does not know who asks.
    Unauthorized,
    /// The registry knows who asks and refuses.
    Forbidden,
    /// The registry cannot be reached or is busy.
    Unavailable,
    /// The registry's answers are wrong.
    Invalid,
    /// Anything else.
    Internal,
}

impl Error {
    /// Returns the class of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::ManifestNotFound { .. }
            | Self::RepositoryNotFound { .. }
            | Self::Denied { .. } => ErrorKind::NotFound,
            Self::NoCredentials { .. } | Self::TokenRefused { .. } | Self::LoginRefused { .. } => {
                ErrorKind::Unauthorized
            }
            Self::Api { status, .. } | Self::Status { code: status, .. } => match status {
                401 => ErrorKind::Unauthorized,
                403 => ErrorKind::Forbidden,
                404 => ErrorKind::NotFound,
                429 | 500..=599 => ErrorKind::Unavailable,
                _ => ErrorKind::Internal,
            },
            Self::Transport { .. } | Self::Stalled { .. } => ErrorKind::Unavailable,
            Self::Unsafe { .. }
            | Self::ForeignService { .. }
            | Self::DigestMismatch { .. }
            | Self::TooLong { .. }
            | Self::TooLarge { .. }
            | Self::Protocol(_) => ErrorKind::Invalid,
            Self::Setup(_) => ErrorKind::Internal,
        }
    }

    /// Returns a line a person can act on, where there is one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoCredentials { .. } | Self::TokenRefused { .. } => {
                Some("log in to the registry first")
            }
            Self::ForeignService { .. } => Some(
                "if that is right, name it in token-services of the registry's host in registries.toml",
            ),
            Self::ManifestNotFound { .. } => Some("check the tag"),
            Self::Transport { .. } | Self::Stalled { .. } => {
                Some("check the registry's name, the network and the proxy")
            }
            _ => None,
        }
    }
}
