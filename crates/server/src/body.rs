//! Request bodies.

use std::io::{self, Read, Write};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use http::{HeaderMap, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::error::ApiError;

/// Bytes of a JSON body. The largest that real clients send are lists of environment variables
/// and labels, which the kernel bounds to 2 MiB.
const JSON_LIMIT: usize = 4 * 1024 * 1024;

/// Bytes that are read and dropped beyond the limit, so that a client that writes its whole
/// body before it reads gets to see the answer.
const DRAIN_LIMIT: usize = 256 * 1024 * 1024;

/// For a whole JSON body to come.
const JSON_TIMEOUT: Duration = Duration::from_secs(60);

/// A JSON body. An absent or empty body is the default value, as Go's handlers take it.
#[derive(Debug)]
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T, S> FromRequest<S> for JsonBody<T>
where
    T: DeserializeOwned + Default,
    S: Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let empty = body.is_end_stream();
        check_content_type(&parts.headers, empty)?;
        let bytes = read_json(body).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        parse(&bytes).map(Self)
    }
}

/// A JSON body that must be there.
#[derive(Debug)]
pub(crate) struct RequiredJson<T>(pub(crate) T);

impl<T, S> FromRequest<S> for RequiredJson<T>
where
    T: DeserializeOwned,
    S: Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        check_content_type(&parts.headers, body.is_end_stream())?;
        parse(&read_json(body).await?).map(Self)
    }
}

/// Reads one JSON document.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        ApiError::invalid(match error.classify() {
            serde_json::error::Category::Eof if bytes.trim_ascii().is_empty() => {
                "invalid JSON: got EOF while reading request body".to_owned()
            }
            _ if error.to_string().starts_with("trailing characters") => {
                "unexpected content after JSON".to_owned()
            }
            _ => format!("invalid JSON: {error}"),
        })
    })
}

/// Refuses what is not said to be JSON, unless there is nothing.
pub(crate) fn check_content_type(headers: &HeaderMap, empty: bool) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return if empty {
            Ok(())
        } else {
            Err(ApiError::invalid(
                "unsupported Content-Type header (): must be 'application/json'",
            ))
        };
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    let kind = text.split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") || (empty && kind.is_empty()) {
        Ok(())
    } else {
        Err(ApiError::invalid(format!(
            "unsupported Content-Type header ({kind}): must be 'application/json'"
        )))
    }
}

/// Reads a body of at most [`JSON_LIMIT`] bytes.
pub(crate) async fn read_json(body: Body) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(JSON_TIMEOUT, read_bounded(body)).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "the request's body did not come in time",
        )),
    }
}

async fn read_bounded(mut body: Body) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!(
                "the request's body is too large: at most {} MiB of JSON are read",
                JSON_LIMIT / 1024 / 1024
            ),
        )
    };
    let mut kept = BytesMut::new();
    let mut seen = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|error| ApiError::invalid(format!("the request's body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        seen = seen.saturating_add(data.len());
        if seen > DRAIN_LIMIT {
            return Err(too_large());
        }
        if seen > JSON_LIMIT {
            kept = BytesMut::new();
        } else {
            kept.extend_from_slice(&data);
        }
    }
    if seen > JSON_LIMIT {
        return Err(too_large());
    }
    Ok(kept.freeze())
}

/// A body of any length for code that blocks. Must not be read on a thread of the runtime.
pub(crate) struct BlockingBody {
    runtime: Handle,
    body: Body,
    piece: Bytes,
}

impl BlockingBody {
    /// Takes the body. Must be called on the runtime.
    pub(crate) fn new(body: Body) -> Self {
        Self {
            runtime: Handle::current(),
            body,
            piece: Bytes::new(),
        }
    }
}

impl Read for BlockingBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let Some(frame) = self.runtime.block_on(self.body.frame()) else {
                return Ok(0);
            };
            if let Ok(piece) = frame.map_err(io::Error::other)?.into_data() {
                self.piece = piece;
            }
        }
        let length = self.piece.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

/// Bytes that are sent at once.
const WRITTEN_PIECE: usize = 512 * 1024;

/// An answer's body that code which blocks writes, on a thread that may. An error breaks the
/// answer off, so that the client does not take it for whole.
pub(crate) fn written(
    write: impl FnOnce(&mut BodyWriter) -> io::Result<()> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let mut writer = BodyWriter {
            pieces: sender.clone(),
            piece: Vec::new(),
        };
        let result = write(&mut writer).and_then(|()| writer.flush());
        if let Err(error) = result {
            tracing::warn!(%error, "an answer broke off");
            let _ = sender.blocking_send(Err(error));
        }
    });
    stream::unfold(receiver, async |mut receiver| {
        Some((receiver.recv().await?, receiver))
    })
}

/// See [`written`].
pub(crate) struct BodyWriter {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl BodyWriter {
    fn send(&self, piece: Bytes) -> io::Result<()> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has left");
        self.pieces.blocking_send(Ok(piece)).map_err(gone)
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.is_empty() && bytes.len() >= WRITTEN_PIECE {
            self.send(Bytes::copy_from_slice(bytes))?;
            return Ok(bytes.len());
        }
        let taken = bytes.len().min(WRITTEN_PIECE - self.piece.len());
        self.piece.reserve_exact(WRITTEN_PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == WRITTEN_PIECE {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::take(&mut self.piece);
        self.send(piece.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_api::types::exec::ExecStartRequest;

    fn message(text: &str) -> String {
        let error = parse::<ExecStartRequest>(text.as_bytes()).unwrap_err();
        error.message().to_owned()
    }

    #[test]
    fn two_documents_are_refused() {
        assert_eq!(message("{}{}"), "unexpected content after JSON");
        assert!(parse::<ExecStartRequest>(b"{} \n").is_ok());
    }

    #[test]
    fn bad_json_is_said_to_be_so() {
        assert_eq!(
            message(" "),
            "invalid JSON: got EOF while reading request body"
        );
        for text in [
            "{",
            "[]",
            r#"{"Tty":1}"#,
            r#"{"ConsoleSize":[NaN]}"#,
            "{\"\u{0}",
        ] {
            assert!(message(text).starts_with("invalid JSON: "), "{text}");
        }
        assert!(parse::<ExecStartRequest>(b"{\"Tty\":\"\xff\"}").is_err());
    }

    #[test]
    fn deep_json_is_bounded() {
        let deep = format!(r#"{{"x":{}"#, "[".repeat(1_000_000));
        assert!(parse::<ExecStartRequest>(deep.as_bytes()).is_err());
        let closed = format!(r#"{{"x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        // Skipped without recursion, or refused; never a crash.
        let _ = parse::<ExecStartRequest>(closed.as_bytes());
    }

    #[test]
    fn content_type_must_be_json() {
        let check = |value: Option<&str>, empty: bool| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            }
            check_content_type(&headers, empty)
        };
        assert!(check(Some("application/json"), false).is_ok());
        assert!(check(Some("application/json; charset=utf-8"), false).is_ok());
        assert!(check(None, true).is_ok());
        assert!(check(None, false).is_err());
        assert_eq!(
            check(Some("text/plain"), false).unwrap_err().message(),
            "unsupported Content-Type header (text/plain): must be 'application/json'"
        );
    }
}
