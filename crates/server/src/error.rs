//! Errors as Docker's clients see them: a status and one sentence.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use sampan_api::types::ErrorResponse;

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

    /// The whole answer as bytes, for a connection that has left HTTP already.
    pub(crate) fn into_raw(self) -> Vec<u8> {
        let body = crate::reply::line(&self.body());
        let reason = self.status.canonical_reason().unwrap_or("Error");
        let mut raw = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            self.status.as_u16(),
            body.len(),
        )
        .into_bytes();
        raw.extend_from_slice(&body);
        raw
    }

    fn body(&self) -> ErrorResponse {
        ErrorResponse {
            message: self.message.clone(),
            hint: self.hint.clone(),
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
