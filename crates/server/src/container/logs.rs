//! `GET /containers/{id}/logs`.

use std::collections::BTreeMap;

use axum::extract::{Extension, Path, State};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use jiff::Timestamp;
use sampan_api::ApiVersion;
use sampan_api::frames::{self, Stream};
use sampan_engine::{LogEntries, LogEntry, LogOptions, LogStream};

use crate::app::App;
use crate::error::ApiError;
use crate::query::Query;
use crate::{reply, text};

/// Streams a container's log.
pub(super) async fn logs(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, ApiError> {
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(ApiError::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let options = LogOptions {
        follow: query.flag("follow"),
        stdout,
        stderr,
        since: moment(&query, "since")?,
        until: moment(&query, "until")?,
        // What is no number, such as `all`, means everything.
        tail: query.text("tail").and_then(|tail| tail.parse().ok()),
    };
    let logs = app.engine.containers().logs(&id, options).await?;
    let format = Format {
        framed: !logs.tty,
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
    };
    let content_type = if format.framed && version.at_least(42) {
        "application/vnd.docker.multiplexed-stream"
    } else {
        "application/vnd.docker.raw-stream"
    };
    Ok(reply::stream(content_type, pieces(logs.entries, format)))
}

/// A time of the query; zero means none.
fn moment(query: &Query, name: &str) -> Result<Option<Timestamp>, ApiError> {
    match query.text(name) {
        None | Some("0") => Ok(None),
        Some(text) => text::parse_time(text).map(Some),
    }
}

fn pieces(
    entries: LogEntries,
    format: Format,
) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> {
    stream::unfold(Some(entries), move |entries| async move {
        let mut entries = entries?;
        match entries.next().await? {
            Ok(entry) => Some((Ok(format.piece(&entry)), Some(entries))),
            Err(error) => {
                let text = format!("Error grabbing logs: {}\n", error.message());
                Some((Ok(format.frame(Stream::SystemError, text.as_bytes())), None))
            }
        }
    })
}

/// How entries are written.
#[derive(Debug, Clone, Copy)]
struct Format {
    framed: bool,
    timestamps: bool,
    details: bool,
}

impl Format {
    fn piece(self, entry: &LogEntry) -> Bytes {
        let mut line = Vec::with_capacity(entry.bytes.len() + 64);
        if self.timestamps {
            // Always nine digits, so that lines stand below each other.
            line.extend_from_slice(format!("{:.9} ", entry.time).as_bytes());
        }
        if self.details {
            line.extend_from_slice(attributes(&entry.attrs).as_bytes());
            line.push(b' ');
        }
        line.extend_from_slice(&entry.bytes);
        let stream = match entry.stream {
            LogStream::Stdout => Stream::Stdout,
            LogStream::Stderr => Stream::Stderr,
        };
        self.frame(stream, &line)
    }

    fn frame(self, stream: Stream, bytes: &[u8]) -> Bytes {
        let mut piece = BytesMut::with_capacity(frames::HEADER + bytes.len());
        if self.framed {
            let length = u32::try_from(bytes.len()).expect("an entry has at most some KiB");
            piece.extend_from_slice(&frames::header(stream, length));
        }
        piece.extend_from_slice(bytes);
        piece.freeze()
    }
}

/// Attributes as `name=value,name=value`, escaped as in a query.
fn attributes(attributes: &BTreeMap<String, String>) -> String {
    let escape = sampan_api::client::encode_segment;
    let pairs = attributes
        .iter()
        .map(|(name, value)| format!("{}={}", escape(name), escape(value)));
    pairs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> LogEntry {
        LogEntry {
            stream: LogStream::Stderr,
            time: Timestamp::new(1, 500_000_000).unwrap(),
            bytes: b"oops\n".to_vec(),
            attrs: BTreeMap::from([("a".into(), "b c".into()), ("tag".into(), "x".into())]),
        }
    }

    #[test]
    fn lines_are_framed_unless_there_is_a_terminal() {
        let mut format = Format {
            framed: true,
            timestamps: false,
            details: false,
        };
        assert_eq!(
            format.piece(&entry()).as_ref(),
            b"\x02\0\0\0\0\0\0\x05oops\n"
        );
        format.framed = false;
        assert_eq!(format.piece(&entry()).as_ref(), b"oops\n");
    }

    #[test]
    fn time_and_attributes_stand_before_the_line() {
        let format = Format {
            framed: false,
            timestamps: true,
            details: true,
        };
        assert_eq!(
            format.piece(&entry()).as_ref(),
            b"1970-01-01T00:00:01.500000000Z a=b%20c,tag=x oops\n"
        );
    }
}
