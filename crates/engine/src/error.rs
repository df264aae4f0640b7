//! Failures of the engine's operations, in the wording that users of Docker know.

use std::borrow::Cow;
use std::fmt;

use sampan_text::with_causes;

/// Result of the engine's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Class of an [`Error`]; each edge maps it once (HTTP status, exit code).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such object.
    NotFound,
    /// The request itself is wrong.
    Invalid,
    /// The object's present state or another object stands in the way.
    Conflict,
    /// Nothing to do: the object is as it was asked to be.
    NotModified,
    /// Not allowed.
    Forbidden,
    /// Not now: try again.
    Unavailable,
    /// This version cannot do it.
    NotImplemented,
    /// The engine or the host is at fault.
    Internal,
}

/// A failed operation: class, one message for a person, sometimes a hint.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<Cow<'static, str>>,
    code: Option<i32>,
}

impl Error {
    /// Makes an error.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            code: None,
        }
    }

    /// Adds the exit code of the command that failed.
    #[must_use]
    pub(crate) fn with_code(mut self, code: i32) -> Self {
        self.code = Some(code);
        self
    }

    /// Returns the exit code of the command that failed, if one did.
    pub fn code(&self) -> Option<i32> {
        self.code
    }

    /// Adds a line that a person can act on.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns the class.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the sentence, without the hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns a line that a person can act on, where there is one.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    pub(crate) fn not_modified() -> Self {
        Self::new(ErrorKind::NotModified, "not modified")
    }

    pub(crate) fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotImplemented, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Wraps an unexpected failure: what was being done, then the chain of causes.
    pub(crate) fn because(
        doing: impl fmt::Display,
        cause: &(dyn std::error::Error + 'static),
    ) -> Self {
        Self::internal(format!("{doing}: {}", with_causes(cause)))
    }

    /// Turns the class into "the request is wrong".
    #[must_use]
    pub(crate) fn into_invalid(mut self) -> Self {
        self.kind = ErrorKind::Invalid;
        self
    }

    /// Puts what was being done in front of the message.
    #[must_use]
    /// The same, seen as of another class.
    pub(crate) fn of_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    pub(crate) fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<sampan_fs::Error> for Error {
    fn from(error: sampan_fs::Error) -> Self {
        let converted = Self::internal(with_causes(&error));
        match error.hint() {
            Some(hint) => converted.with_hint(hint),
            None => converted,
        }
    }
}

impl From<sampan_state::Error> for Error {
    fn from(error: sampan_state::Error) -> Self {
        let converted = Self::internal(with_causes(&error));
        match error.hint() {
            Some(hint) => converted.with_hint(hint),
            None => converted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_in_one_line() {
        let inner = std::io::Error::from_raw_os_error(28);
        let outer = sampan_fs::Error::Io {
            action: "write",
            path: "/x".into(),
            source: inner,
        };
        let error = Error::because("saving", &outer);
        assert!(
            error
                .message()
                .starts_with("saving: write /x: No space left")
        );
        assert!(Error::from(outer).hint().is_some());
    }
}
