//! One entry, and its line of JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// An output stream of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output; with a terminal: everything.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// One entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The stream it was written to.
    pub stream: Stream,
    /// When it was read from the container.
    pub time: Timestamp,
    /// The text, with `\n` at its end where it ends a line.
    pub bytes: Vec<u8>,
    /// Attributes (labels, variables, tag) that were asked for when the container was made.
    pub attrs: BTreeMap<String, String>,
}

impl Entry {
    /// Whether this entry ends a line of output.
    pub fn ends_line(&self) -> bool {
        self.bytes.last() == Some(&b'\n')
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    stream: Stream,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
    #[serde(borrow)]
    time: Cow<'a, str>,
}

/// Reads a line of a log file; `None` for anything that is not a whole entry.
pub(crate) fn decode(line: &[u8]) -> Option<Entry> {
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    Some(Entry {
        stream: line.stream,
        time: line.time.parse().ok()?,
        bytes: line.log.into_owned().into_bytes(),
        attrs: line.attrs,
    })
}

/// Appends the line of an entry to `line`. `tail` is what follows the stream's name.
pub(crate) fn encode(line: &mut Vec<u8>, stream: Stream, bytes: &[u8], tail: &str) {
    line.reserve(bytes.len() + tail.len() + 48);
    line.extend_from_slice(b"{\"log\":\"");
    for chunk in bytes.utf8_chunks() {
        escape(line, chunk.valid());
        if !chunk.invalid().is_empty() {
            line.extend_from_slice(b"\\ufffd");
        }
    }
    line.extend_from_slice(b"\",\"stream\":\"");
    line.extend_from_slice(stream.name().as_bytes());
    line.extend_from_slice(tail.as_bytes());
}

/// What follows the stream's name in each line that is written at `time`. `attrs` is a JSON object
/// or empty.
pub(crate) fn line_tail(attrs: &str, time: Timestamp) -> String {
    if attrs.is_empty() {
        format!("\",\"time\":\"{time}\"}}\n")
    } else {
        format!("\",\"attrs\":{attrs},\"time\":\"{time}\"}}\n")
    }
}

/// Escapes what JSON wants escaped and, as Docker does, what HTML and JavaScript stumble over.
fn escape(line: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut done = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let plain = byte >= 0x20 && !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&' | 0xe2);
        if plain {
            continue;
        }
        let mut length = 1;
        let escaped: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            0xe2 => match bytes.get(at + 1..at + 3) {
                Some([0x80, 0xa8]) => {
                    length = 3;
                    b"\\u2028"
                }
                Some([0x80, 0xa9]) => {
                    length = 3;
                    b"\\u2029"
                }
                _ => continue,
            },
            _ => {
                line.extend_from_slice(&bytes[done..at]);
                line.extend_from_slice(b"\\u00");
                line.push(HEX[usize::from(byte >> 4)]);
                line.push(HEX[usize::from(byte & 15)]);
                done = at + 1;
                continue;
            }
        };
        line.extend_from_slice(&bytes[done..at]);
        line.extend_from_slice(escaped);
        done = at + length;
    }
    line.extend_from_slice(&bytes[done..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(bytes: &[u8]) -> String {
        let time = "2026-11-23T10:00:00.5Z".parse().unwrap();
        let mut line = Vec::new();
        encode(&mut line, Stream::Stdout, bytes, &line_tail("", time));
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn lines_are_those_of_docker() {
        for (bytes, log) in [
            (&b"hello\n"[..], r"hello\n"),
            (b"say \"hi\" \\ there\r\n", r#"say \"hi\" \\ there\r\n"#),
            (b"a\tb\x1b[0m\0", r"a\u0009b\u001b[0m\u0000"),
            (
                b"<a href=\"x\">&</a>",
                r#"\u003ca href=\"x\"\u003e\u0026\u003c/a\u003e"#,
            ),
            (
                "caf\u{e9} \u{20ac}\u{2028}\u{2029}".as_bytes(),
                "caf\u{e9} \u{20ac}\\u2028\\u2029",
            ),
            (b"\xff ok \xc3", r"\ufffd ok \ufffd"),
            (b"", ""),
        ] {
            assert_eq!(
                line(bytes),
                format!(
                    "{{\"log\":\"{log}\",\"stream\":\"stdout\",\"time\":\"2026-11-23T10:00:00.5Z\"}}\n"
                )
            );
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let everything: String = (0..0x800_u32).filter_map(char::from_u32).collect();
        for text in [
            everything.as_str(),
            "",
            "\u{2028}x\u{2029}",
            "\u{1f6f6}\n",
            "\u{e2}\u{20ac}",
        ] {
            let entry = decode(line(text.as_bytes()).as_bytes()).unwrap();
            assert_eq!(String::from_utf8(entry.bytes).unwrap(), text);
        }
    }

    #[test]
    fn damaged_lines_are_no_entries() {
        let whole = line(b"hello\n");
        for cut in 0..whole.len() - 2 {
            assert_eq!(decode(&whole.as_bytes()[..cut]), None, "{cut}");
        }
        assert_eq!(decode(&[0; 64]), None);
        assert_eq!(
            decode(br#"{"log":"a","stream":"stdin","time":"2026-11-23T10:00:00Z"}"#),
            None
        );
        assert_eq!(
            decode(br#"{"log":"a","stream":"stdout","time":"yesterday"}"#),
            None
        );
    }

    #[test]
    fn attributes_stand_before_the_time() {
        let time = "2026-11-23T10:00:00Z".parse().unwrap();
        let mut line = Vec::new();
        encode(
            &mut line,
            Stream::Stderr,
            b"x",
            &line_tail(r#"{"a":"b"}"#, time),
        );
        assert_eq!(
            String::from_utf8(line.clone()).unwrap(),
            "{\"log\":\"x\",\"stream\":\"stderr\",\"attrs\":{\"a\":\"b\"},\"time\":\"2026-11-23T10:00:00Z\"}\n"
        );
        assert_eq!(decode(&line).unwrap().attrs["a"], "b");
    }
}
