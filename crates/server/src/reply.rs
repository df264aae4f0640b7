//! Answers.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::Stream;
use http::{StatusCode, header};
use serde::Serialize;

/// A value as JSON with status 200.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        json(StatusCode::OK, &self.0)
    }
}

/// A value as JSON, with the newline that Go's encoder writes behind it.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        line(value),
    )
        .into_response()
}

/// A value as JSON and a newline.
pub(crate) fn line(value: &impl Serialize) -> Bytes {
    let mut line = serde_json::to_vec(value).expect("wire types are always valid JSON");
    line.push(b'\n');
    line.into()
}

/// A body that comes piece by piece. The head is sent at once, and each piece when it comes.
pub(crate) fn stream<S>(content_type: &'static str, pieces: S) -> Response
where
    S: Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
{
    (
        [(header::CONTENT_TYPE, content_type)],
        Body::from_stream(pieces),
    )
        .into_response()
}
