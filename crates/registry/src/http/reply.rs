//! Answers, and the one place where errors become status codes.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use sampan_oci::manifest::ManifestError;
use serde::Serialize;

use super::body::{Body, full};
use crate::error::{Error, Invalid};
use crate::storage::StorageError;

pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(crate) const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer in the making.
pub(crate) struct Reply(Response<Body>);

impl Reply {
    pub(crate) fn new(status: StatusCode) -> Self {
        let mut response = Response::new(super::body::empty());
        *response.status_mut() = status;
        Self(response)
    }

    pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Self {
        let bytes = serde_json::to_vec(value).unwrap_or_default();
        Self::new(status)
            .header(CONTENT_TYPE, "application/json")
            .body(bytes)
    }

    /// Adds a header. What is no header value is left out: it can only come from a client.
    pub(crate) fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.0.headers_mut().append(name, value);
        }
        self
    }

    pub(crate) fn body(mut self, bytes: impl Into<Bytes>) -> Self {
        *self.0.body_mut() = full(bytes);
        self
    }

    pub(crate) fn stream(mut self, body: Body) -> Self {
        *self.0.body_mut() = body;
        self
    }

    pub(crate) fn build(self) -> Response<Body> {
        self.0
    }
}

/// The distribution protocol's form of an error.
#[derive(Serialize)]
struct Errors<'a> {
    errors: [Entry<'a>; 1],
}

#[derive(Serialize)]
struct Entry<'a> {
    code: &'a str,
    message: &'a str,
    detail: &'a str,
}

/// Answers an error with this code.
pub(crate) fn refuse(status: StatusCode, code: &str, message: &str, detail: &str) -> Reply {
    let entry = Entry {
        code,
        message,
        detail,
    };
    let errors = Errors { errors: [entry] };
    let bytes = serde_json::to_vec(&errors).unwrap_or_default();
    let mut reply = Reply::new(status).body(bytes);
    reply.0.headers_mut().insert(CONTENT_TYPE, JSON);
    reply
}

/// Answers that something failed.
pub(crate) fn failure(error: &Error) -> Reply {
    let (status, code) = code(error);
    let message = error.to_string();
    let source = std::error::Error::source(error).map(ToString::to_string);
    if status.is_server_error() {
        // Paths and the like are for the log alone.
        tracing::error!(%error, cause = source.as_deref().unwrap_or_default(), "a request failed");
        return refuse(status, code, &message, "");
    }
    refuse(
        status,
        code,
        &message,
        source.as_deref().unwrap_or_default(),
    )
}

fn code(error: &Error) -> (StatusCode, &'static str) {
    match error {
        Error::RepositoryUnknown(_) => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
        Error::ManifestUnknown { .. } | Error::NotAcceptable { .. } => {
            (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN")
        }
        Error::BlobUnknown { .. } => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
        Error::ManifestIncomplete { .. } => (StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN"),
        Error::BlobInUse { .. } => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
        Error::Manifest(ManifestError::TooLarge) => {
            (StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID")
        }
        Error::Manifest(_) => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
        Error::DigestMismatch { .. } => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
        Error::UploadUnknown => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
        Error::UploadBusy => (StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID"),
        Error::OutOfOrder { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
        Error::BodyLength { .. } => (StatusCode::BAD_REQUEST, "SIZE_INVALID"),
        Error::Body(_) => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
        Error::Slow => (StatusCode::REQUEST_TIMEOUT, "BLOB_UPLOAD_INVALID"),
        Error::TooLarge {
            what: "manifest", ..
        } => (StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID"),
        Error::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
        Error::TooManyUploads => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
        Error::Invalid(invalid) => match invalid {
            Invalid::Name(_) => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
            Invalid::Tag(_) => (StatusCode::BAD_REQUEST, "TAG_INVALID"),
            Invalid::Digest(_) | Invalid::NoDigest => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
            Invalid::ContentRange(_) => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
            Invalid::Number(_) => (StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID"),
        },
        Error::ReadOnly(_) => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
        Error::Storage(StorageError::NoSpace) => (StatusCode::INSUFFICIENT_STORAGE, "UNKNOWN"),
        Error::Storage(_) => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
        Error::Upstream(_) => (StatusCode::BAD_GATEWAY, "UNKNOWN"),
        Error::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
    }
}
