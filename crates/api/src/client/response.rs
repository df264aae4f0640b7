//! Reading an answer.

use std::marker::PhantomData;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::Error;
use crate::types::ErrorResponse;

/// An answer whose head has come.
#[derive(Debug)]
pub struct Response(http::Response<Incoming>);

impl Response {
    pub(super) fn new(response: http::Response<Incoming>) -> Self {
        Self(response)
    }

    pub(super) fn into_inner(self) -> http::Response<Incoming> {
        self.0
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status()
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.0.headers()
    }

    /// Whether the body is in Docker's frames, by its content type.
    #[must_use]
    pub fn is_multiplexed(&self) -> bool {
        self.headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind == "application/vnd.docker.multiplexed-stream")
    }

    /// Makes an error of an error status.
    pub(super) async fn or_error(self) -> Result<Self, Error> {
        let status = self.status();
        if !(status.is_client_error()
            || status.is_server_error()
            || status == StatusCode::NOT_MODIFIED)
        {
            return Ok(self);
        }
        let body = self.bytes().await?;
        let (message, hint) = match serde_json::from_slice::<ErrorResponse>(&body) {
            Ok(error) if !error.message.is_empty() => (error.message, error.hint),
            _ if !body.is_empty() => (String::from_utf8_lossy(&body).trim().to_owned(), None),
            _ => (status.to_string(), None),
        };
        Err(Error::Status {
            status: status.as_u16(),
            message,
            hint,
        })
    }

    /// The whole body.
    pub async fn bytes(self) -> Result<Bytes, Error> {
        Ok(self.0.into_body().collect().await?.to_bytes())
    }

    /// The whole body as JSON.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, Error> {
        Ok(serde_json::from_slice(&self.bytes().await?)?)
    }

    /// The body as it comes.
    #[must_use]
    pub fn into_stream(self) -> ByteStream {
        ByteStream {
            multiplexed: self.is_multiplexed(),
            body: self.0.into_body(),
        }
    }

    /// The body as JSON values, one after the other.
    #[must_use]
    pub fn into_json_stream<T: DeserializeOwned>(self) -> JsonStream<T> {
        JsonStream {
            bytes: self.into_stream(),
            pending: BytesMut::new(),
            values: PhantomData,
        }
    }
}

/// A body as it comes.
#[derive(Debug)]
pub struct ByteStream {
    body: Incoming,
    multiplexed: bool,
}

impl ByteStream {
    /// The next piece; none at the end. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Whether the body is in Docker's frames.
    #[must_use]
    pub fn is_multiplexed(&self) -> bool {
        self.multiplexed
    }
}

/// A body of JSON values, one after the other.
#[derive(Debug)]
pub struct JsonStream<T> {
    bytes: ByteStream,
    pending: BytesMut,
    values: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> JsonStream<T> {
    /// The next value; none at the end. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<T>, Error> {
        loop {
            if let Some(value) = take_value(&mut self.pending)? {
                return Ok(Some(value));
            }
            match self.bytes.next().await? {
                Some(more) => self.pending.extend_from_slice(&more),
                // What is left is no value, so the stream was cut.
                None if self.pending.iter().any(|byte| !byte.is_ascii_whitespace()) => {
                    return Ok(Some(serde_json::from_slice(&self.pending)?));
                }
                None => return Ok(None),
            }
        }
    }
}

/// Takes one whole value off the front.
fn take_value<T: DeserializeOwned>(pending: &mut BytesMut) -> Result<Option<T>, Error> {
    let mut values = serde_json::Deserializer::from_slice(pending).into_iter::<T>();
    match values.next() {
        Some(Ok(value)) => {
            let read = values.byte_offset();
            pending.advance(read);
            Ok(Some(value))
        }
        Some(Err(error)) if error.is_eof() => Ok(None),
        Some(Err(error)) => Err(error.into()),
        None => {
            pending.clear();
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::message::Message;

    #[test]
    fn values_are_taken_one_by_one_and_halves_wait() {
        let mut pending =
            BytesMut::from(&b"{\"status\":\"a\"}\r\n{\"status\":\"b\"}\r\n{\"sta"[..]);
        let next = |pending: &mut BytesMut| take_value::<Message>(pending).unwrap();
        assert_eq!(next(&mut pending).unwrap().status, "a");
        assert_eq!(next(&mut pending).unwrap().status, "b");
        assert_eq!(next(&mut pending), None);
        pending.extend_from_slice(b"tus\":\"c\"}");
        assert_eq!(next(&mut pending).unwrap().status, "c");
        assert_eq!(next(&mut pending), None);
    }
}
