//! Errors as Docker's clients see them: a status and one sentence.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use sampan_api::types::ErrorResponse;
use sampan_engine::ErrorKind;

use crate::reply::json;

/// An answer that says no.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    hint: Option<String>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    pub(crate) fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// Of a route that is not there.
    pub(crate) fn no_page() -> Self {
        Self::not_found("page not found")
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    fn body(&self) -> ErrorResponse {
        ErrorResponse {
            message: self.message.clone(),
            hint: self.hint.clone(),
        }
    }
}

/// The one place where the engine's kinds of errors become statuses.
impl From<sampan_engine::Error> for ApiError {
    fn from(error: sampan_engine::Error) -> Self {
        let status = match error.kind() {
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::NotModified => StatusCode::NOT_MODIFIED,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if error.kind() == ErrorKind::Internal {
            tracing::error!(message = error.message(), "a request failed");
        }
        Self {
            status,
            message: error.message().to_owned(),
            hint: error.hint().map(str::to_owned),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status == StatusCode::NOT_MODIFIED {
            return self.status.into_response();
        }
        json(self.status, &self.body())
    }
}
