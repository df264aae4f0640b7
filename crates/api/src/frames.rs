//! Docker's frames: several output streams in one connection.
//!
//! A frame is a header of eight bytes, `[stream, 0, 0, 0, length as 32 bits big-endian]`, and
//! that many bytes. Streams with a terminal are not framed.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a frame's header.
pub const HEADER: usize = 8;

/// Which stream a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Input, shown as output.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// The payload is the text of an error that ended the stream.
    SystemError,
}

impl Stream {
    fn number(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::SystemError => 3,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Stdin),
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            3 => Some(Self::SystemError),
            _ => None,
        }
    }
}

/// The header of a frame.
#[must_use]
pub fn header(stream: Stream, length: u32) -> [u8; HEADER] {
    let [a, b, c, d] = length.to_be_bytes();
    [stream.number(), 0, 0, 0, a, b, c, d]
}

/// A piece of a frame's payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where it belongs.
    pub stream: Stream,
    /// Its bytes; a long frame comes in several pieces.
    pub bytes: Bytes,
}

/// The bytes are not frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unrecognized stream: {0}")]
pub struct UnknownStream(u8);

/// Takes frames apart, however the bytes were cut on their way.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: BytesMut,
    current: Option<(Stream, usize)>,
}

impl Decoder {
    /// Adds bytes as they come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next piece, or none until more bytes are pushed. Long frames are not collected.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, UnknownStream> {
        loop {
            let Some((stream, left)) = self.current else {
                let Some(&[number, _, _, _, a, b, c, d]) = self.pending.first_chunk::<HEADER>()
                else {
                    return Ok(None);
                };
                let stream = Stream::from_number(number).ok_or(UnknownStream(number))?;
                self.pending.advance(HEADER);
                let length =
                    usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                self.current = Some((stream, length));
                continue;
            };
            if left == 0 {
                self.current = None;
                continue;
            }
            if self.pending.is_empty() {
                return Ok(None);
            }
            let bytes = self.pending.split_to(left.min(self.pending.len())).freeze();
            self.current = Some((stream, left - bytes.len()));
            return Ok(Some(Frame { stream, bytes }));
        }
    }

    /// Whether the stream ended between two frames.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.pending.is_empty() && self.current.is_none_or(|(_, left)| left == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let mut wire = Vec::new();
        for (stream, text) in [
            (Stream::Stdout, "hello "),
            (Stream::Stderr, ""),
            (Stream::Stderr, "oops"),
            (Stream::Stdout, "world"),
        ] {
            wire.extend(header(stream, u32::try_from(text.len()).unwrap()));
            wire.extend(text.as_bytes());
        }
        for size in 1..wire.len() {
            let mut decoder = Decoder::default();
            let (mut out, mut err) = (Vec::new(), Vec::new());
            for piece in wire.chunks(size) {
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    match frame.stream {
                        Stream::Stdout => out.extend(frame.bytes),
                        _ => err.extend(frame.bytes),
                    }
                }
            }
            assert!(decoder.is_complete());
            assert_eq!(
                (out.as_slice(), err.as_slice()),
                (&b"hello world"[..], &b"oops"[..])
            );
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let mut decoder = Decoder::default();
        decoder.push(b"HTTP/1.1 400");
        assert_eq!(decoder.next_frame(), Err(UnknownStream(b'H')));
    }
}
