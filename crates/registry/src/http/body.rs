//! Bodies of requests and answers.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use tokio::time::Instant;

use sampan_text::root_cause;

use crate::error::{Error, Result};
use crate::metrics::{Event, Metrics};
use crate::registry::ByteStream;

/// The body of an answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Bytes of a file that are read at once.
const PIECE: u64 = 128 << 10;

/// How slowly a body may come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The longest silence.
    pub(crate) stall: Duration,
    /// Bytes a second on average, after the first `stall`.
    pub(crate) slowest: u64,
}

/// Returns a body of these bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Returns a body of no bytes.
pub(crate) fn empty() -> Body {
    full(Bytes::new())
}

/// Returns a body of a part of a file.
pub(crate) fn file(file: File, range: Range<u64>) -> Body {
    let start = (Arc::new(file), range);
    let pieces = stream::try_unfold(start, |(file, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let length = PIECE.min(range.end - range.start);
        let (reader, offset) = (Arc::clone(&file), range.start);
        let read = move || {
            let mut piece = BytesMut::zeroed(usize::try_from(length).unwrap_or_default());
            reader.read_exact_at(&mut piece, offset)?;
            io::Result::Ok(piece.freeze())
        };
        let piece = tokio::task::spawn_blocking(read)
            .await
            .map_err(io::Error::other)??;
        let rest = range.start + length..range.end;
        Ok(Some((piece, (file, rest))))
    });
    streamed(pieces)
}

/// Returns a body of pieces.
pub(crate) fn streamed(
    pieces: impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Body {
    let frames = pieces.map(|piece| piece.map(Frame::data));
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

/// Returns the pieces of a request's body, which may neither stall nor trickle.
pub(crate) fn pieces(body: Incoming, pace: Pace) -> ByteStream {
    let window = (Instant::now(), 0_u64);
    let pieces = stream::unfold(Some((body, window)), move |state| async move {
        let (mut body, (since, mut came)) = state?;
        loop {
            let frame = match tokio::time::timeout(pace.stall, body.frame()).await {
                Ok(None) => return None,
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    return Some((Err(Error::Body(root_cause(&error).to_string())), None));
                }
                Err(_) => return Some((Err(Error::Slow), None)),
            };
            let Ok(piece) = frame.into_data() else {
                continue;
            };
            came += piece.len() as u64;
            let passed = since.elapsed();
            let window = if passed < pace.stall {
                (since, came)
            } else if u128::from(came) * 1000 < u128::from(pace.slowest) * passed.as_millis() {
                return Some((Err(Error::Slow), None));
            } else {
                (Instant::now(), 0)
            };
            return Some((Ok(piece), Some((body, window))));
        }
    });
    pieces.boxed()
}

/// Counts the bytes of a request's body.
pub(crate) fn counted(body: ByteStream, metrics: Arc<Metrics>) -> ByteStream {
    let count = move |piece: &Result<Bytes>| {
        if let Ok(piece) = piece {
            metrics.note(Event::Received(piece.len() as u64));
        }
    };
    body.inspect(count).boxed()
}

/// Reads a small body whole.
pub(crate) async fn read(mut body: ByteStream, what: &'static str, limit: u64) -> Result<Bytes> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.next().await {
        let piece = piece?;
        if (bytes.len() + piece.len()) as u64 > limit {
            return Err(Error::TooLarge { what, limit });
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}
