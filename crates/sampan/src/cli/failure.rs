//! How a command ends when it does not succeed.

use sampan_api::client;
use sampan_text::with_causes;

use super::format::template::TemplateError;

/// Why a command did not succeed, with what is printed about it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong; the message is complete.
    Usage {
        /// All that is printed.
        message: String,
        /// Exit code.
        code: u8,
    },
    /// One sentence.
    Message(String),
    /// One sentence of `run`, `create` and their like, printed with a pointer to help.
    Command {
        /// The sentence.
        message: String,
        /// Exit code.
        code: u8,
    },
    /// Everything was said already.
    Silent(u8),
    /// The engine or the way to it.
    Client(client::Error),
}

impl Failure {
    /// One sentence.
    pub(crate) fn message(message: impl Into<String>) -> Self {
        Self::Message(message.into())
    }

    /// The sentence about it, as Docker would print it.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Usage { message, .. }
            | Self::Message(message)
            | Self::Command { message, .. } => message.clone(),
            Self::Silent(_) => String::new(),
            Self::Client(error) => describe(error),
        }
    }

    /// One line that a person can act on.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Client(error) => error.hint().map(str::to_owned),
            _ => None,
        }
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Usage { code, .. } | Self::Command { code, .. } | Self::Silent(code) => *code,
            Self::Message(_) | Self::Client(_) => 1,
        }
    }

    /// Whether the object that was asked for is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Client(error) if error.kind() == client::Kind::NotFound)
    }
}

impl From<TemplateError> for Failure {
    fn from(error: TemplateError) -> Self {
        match error {
            TemplateError::Parse { .. } => Self::Usage {
                message: format!("template parsing error: {error}"),
                code: 64,
            },
            TemplateError::Execute { .. } => Self::Message(error.to_string()),
        }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        Self::Client(error)
    }
}

/// An error of the client in Docker's words.
fn describe(error: &client::Error) -> String {
    match error {
        client::Error::Status { message, .. } => format!("Error response from daemon: {message}"),
        client::Error::Connect { endpoint, source } => match source.kind() {
            std::io::ErrorKind::PermissionDenied => format!(
                "permission denied while trying to connect to the sampan daemon socket at {endpoint}"
            ),
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => format!(
                "Cannot connect to the sampan daemon at {endpoint}. Is the sampan daemon running?"
            ),
            _ => with_causes(error),
        },
        other => with_causes(other),
    }
}
