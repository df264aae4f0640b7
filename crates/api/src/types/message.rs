//! The messages of pull, push, load, import and build: JSON objects, one after the other.

use serde_json::Value;

use crate::wire;

wire! {
    /// One message.
    pub struct Message {
        /// Text to print as it is.
        omitempty "stream" stream: String,
        /// What is happening, or the final word.
        omitempty "status" status: String,
        /// How far it is.
        omitempty "progressDetail" progress: Option<Progress>,
        /// What it is about, such as the first 12 digits of a layer.
        omitempty "id" id: String,
        /// The end of it.
        omitempty "errorDetail" error: Option<ErrorDetail>,
        /// The same as text.
        omitempty "error" error_message: String,
        /// What programs want to know, such as the identity of a built image.
        omitempty "aux" aux: Option<Value>,
    }

    /// How far something is. All zero when that is not known.
    pub struct Progress {
        /// Done.
        omitempty "current" current: i64,
        /// Of so many, 0 when unknown.
        omitempty "total" total: i64,
        /// Seconds since 1970.
        omitempty "start" start: i64,
        /// Do not show numbers.
        omitempty "hidecounts" hide_counts: bool,
        /// Empty for bytes.
        omitempty "units" units: String,
    }

    /// The end of it.
    pub struct ErrorDetail {
        /// Exit code or HTTP status.
        omitempty "code" code: i64,
        /// One sentence.
        omitempty "message" message: String,
    }
}

impl Message {
    /// A status that is about nothing in particular.
    #[must_use]
    pub fn status(status: impl Into<String>) -> Self {
        Self {
            status: status.into(),
            ..Self::default()
        }
    }

    /// A status of one part, with or without knowledge of how far it is.
    #[must_use]
    pub fn progress(id: impl Into<String>, status: impl Into<String>, progress: Progress) -> Self {
        Self {
            id: id.into(),
            status: status.into(),
            progress: Some(progress),
            ..Self::default()
        }
    }

    /// Text to print as it is.
    #[must_use]
    pub fn stream(text: impl Into<String>) -> Self {
        Self {
            stream: text.into(),
            ..Self::default()
        }
    }

    /// The end of it.
    #[must_use]
    pub fn error(message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            error: Some(ErrorDetail {
                code: 0,
                message: message.clone(),
            }),
            error_message: message,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(message: &Message) -> String {
        serde_json::to_string(message).unwrap()
    }

    #[test]
    fn messages_look_as_dockers() {
        assert_eq!(
            json(&Message::progress(
                "abc",
                "Pulling fs layer",
                Progress::default()
            )),
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"abc"}"#
        );
        assert_eq!(
            json(&Message::error("no such thing")),
            r#"{"errorDetail":{"message":"no such thing"},"error":"no such thing"}"#
        );
    }
}
