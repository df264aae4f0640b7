//! Unpacking, told by the first bytes.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use sampan_oci::media_type::Compression;

use crate::{Error, Result};

/// Streams that want more memory than this to look back are refused: 64 MiB, as with Docker. Several
/// layers are unpacked at once, and no usual level of zstd wants more than 8 MiB.
const ZSTD_WINDOW_LOG: u32 = 26;
/// Packed bytes that may unpack to nothing, one after the other: empty members and frames to be
/// skipped could go on for ever.
const MAX_QUIET: u64 = 16 << 20;
/// Enough bytes to tell every format.
const MAGIC: usize = 6;

/// Tells how a stream that begins like this is packed; what is not known is taken as plain.
pub fn detect(head: &[u8]) -> Result<Compression> {
    match head {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
        // A frame to be skipped, as seekable zstd files may begin.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Err(Error::Compression("bzip2")),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err(Error::Compression("xz")),
        _ => Ok(Compression::None),
    }
}

/// A reader of the unpacked bytes of a stream.
pub struct Decoder<R: BufRead> {
    inner: Inner<Prefixed<R>>,
}

enum Inner<R: BufRead> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, R>>),
}

impl<R: BufRead> Decoder<R> {
    /// Looks at the first bytes of the stream; waits for them.
    pub fn new(mut reader: R) -> Result<Self> {
        let mut prefix = Vec::with_capacity(MAGIC);
        reader
            .by_ref()
            .take(MAGIC as u64)
            .read_to_end(&mut prefix)
            .map_err(Error::Io)?;
        let compression = detect(&prefix)?;
        let reader = Prefixed {
            prefix,
            taken: 0,
            quiet: 0,
            inner: reader,
        };
        let inner = match compression {
            Compression::None => Inner::Plain(reader),
            Compression::Gzip => Inner::Gzip(Box::new(MultiGzDecoder::new(reader))),
            Compression::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(reader).map_err(Error::Io)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(Error::Io)?;
                Inner::Zstd(Box::new(decoder))
            }
        };
        Ok(Self { inner })
    }

    /// Returns how the stream is packed.
    pub fn compression(&self) -> Compression {
        match self.inner {
            Inner::Plain(_) => Compression::None,
            Inner::Gzip(_) => Compression::Gzip,
            Inner::Zstd(_) => Compression::Zstd,
        }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (n, packed) = match &mut self.inner {
            Inner::Plain(reader) => return reader.read(buffer),
            Inner::Gzip(reader) => (reader.read(buffer)?, reader.get_mut()),
            Inner::Zstd(reader) => (reader.read(buffer)?, reader.get_mut()),
        };
        packed.quiet = 0;
        Ok(n)
    }
}

impl<R: BufRead> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder")
            .field("compression", &self.compression())
            .finish_non_exhaustive()
    }
}

/// Puts bytes that were looked at back in front, and counts those that came to nothing.
struct Prefixed<R> {
    prefix: Vec<u8>,
    taken: usize,
    /// Bytes taken by a decoder since it gave some.
    quiet: u64,
    inner: R,
}

impl<R: BufRead> Read for Prefixed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.prefix.len() {
            return self.inner.read(buffer);
        }
        let n = (&self.prefix[self.taken..]).read(buffer)?;
        self.taken += n;
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Prefixed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.quiet > MAX_QUIET {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the compressed stream goes on and unpacks to nothing",
            ));
        }
        if self.taken == self.prefix.len() {
            return self.inner.fill_buf();
        }
        Ok(&self.prefix[self.taken..])
    }

    fn consume(&mut self, amount: usize) {
        self.quiet += amount as u64;
        if self.taken == self.prefix.len() {
            self.inner.consume(amount);
        } else {
            self.taken += amount;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(bytes: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        Decoder::new(bytes)?
            .read_to_end(&mut out)
            .map_err(Error::Io)?;
        Ok(out)
    }

    #[test]
    fn every_form_unpacks_to_the_same() {
        let plain = b"some bytes, and some bytes, and some bytes".repeat(100);
        assert_eq!(unpack(&plain).unwrap(), plain);
        assert_eq!(unpack(&gzip(&plain)).unwrap(), plain);
        assert_eq!(
            unpack(&zstd::encode_all(&plain[..], 3).unwrap()).unwrap(),
            plain
        );
        for short in [&b""[..], b"a", b"\x1f"] {
            assert_eq!(unpack(short).unwrap(), short);
        }
    }

    #[test]
    fn members_and_frames_are_joined() {
        let two = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(unpack(&two).unwrap(), b"one two");
        let frames = [
            zstd::encode_all(&b"one "[..], 1).unwrap(),
            // A frame that is to be skipped: magic, length 3, three bytes.
            vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3],
            zstd::encode_all(&b"two"[..], 1).unwrap(),
        ]
        .concat();
        assert_eq!(unpack(&frames).unwrap(), b"one two");
    }

    #[test]
    fn broken_and_unknown_streams_are_refused() {
        let packed = gzip(&b"x".repeat(10_000));
        assert!(unpack(&packed[..packed.len() - 1]).is_err());
        assert!(unpack(&[&packed[..], b"garbage"].concat()).is_err());
        let packed = zstd::encode_all(&b"x".repeat(10_000)[..], 1).unwrap();
        assert!(unpack(&packed[..packed.len() - 1]).is_err());
        for (bytes, name) in [(&b"BZh91AY&SY"[..], "bzip2"), (b"\xfd7zXZ\0\0", "xz")] {
            let error = unpack(bytes).unwrap_err();
            assert!(matches!(error, Error::Compression(n) if n == name));
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn streams_that_unpack_to_nothing_end() {
        let frame = |length: u32| {
            let head = [[0x50, 0x2a, 0x4d, 0x18], length.to_le_bytes()].concat();
            [head, vec![0; length as usize]].concat()
        };
        for nothing in [
            frame(1 << 20),
            frame(0).repeat(1000),
            gzip(b"").repeat(1000),
        ] {
            let endless = io::BufReader::new(Repeat {
                bytes: &nothing,
                at: 0,
            });
            let mut decoder = Decoder::new(endless).unwrap();
            let error = decoder.read(&mut [0; 10]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
            let some = [nothing.repeat(3), zstd::encode_all(&b"x"[..], 1).unwrap()].concat();
            if detect(&some).unwrap() == Compression::Zstd {
                assert_eq!(unpack(&some).unwrap(), b"x");
            }
        }
        // One whose length is a lie.
        assert!(unpack(&frame(1000)[..500]).is_err());
    }

    /// The same bytes again and again.
    struct Repeat<'a> {
        bytes: &'a [u8],
        at: usize,
    }

    impl Read for Repeat<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = (&self.bytes[self.at..]).read(buffer)?;
            self.at = (self.at + n) % self.bytes.len();
            Ok(n)
        }
    }

    #[test]
    fn a_window_of_gigabytes_is_refused() {
        // Magic, descriptor (no single segment, no size), window of 2^31, one empty last block.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, (31 - 10) << 3, 1, 0, 0];
        assert!(unpack(&frame).is_err());
    }
}
