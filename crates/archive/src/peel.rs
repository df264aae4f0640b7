//! Archives of people, which may be packed by more than layers are.

use std::io::{self, BufRead, Cursor, Read};

use bzip2::bufread::MultiBzDecoder;
use lzma_rust2::XzReader;

use crate::Result;

/// Enough bytes to tell every format.
const MAGIC: usize = 6;
/// What an xz stream may want of memory, in KiB: twice what `xz -9` makes needs.
const XZ_MEMORY: u32 = 128 << 10;

type Looked<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// A reader that takes off bzip2 and xz; anything else it leaves as it is.
pub struct Peeled<R: BufRead>(Inner<Looked<R>>);

enum Inner<R: BufRead> {
    Other(R),
    Bzip2(Box<MultiBzDecoder<R>>),
    Xz(Box<XzReader<R>>),
}

impl<R: BufRead> Peeled<R> {
    /// Looks at the first bytes of the stream; waits for them.
    pub fn new(mut reader: R) -> Result<Self> {
        let mut start = Vec::with_capacity(MAGIC);
        reader
            .by_ref()
            .take(MAGIC as u64)
            .read_to_end(&mut start)
            .map_err(crate::Error::Io)?;
        let is_bzip2 = matches!(start[..], [b'B', b'Z', b'h', b'1'..=b'9', ..]);
        let is_xz = start.starts_with(b"\xfd7zXZ\0");
        let whole = Cursor::new(start).chain(reader);
        Ok(Self(match (is_bzip2, is_xz) {
            (true, _) => Inner::Bzip2(Box::new(MultiBzDecoder::new(whole))),
            (_, true) => Inner::Xz(Box::new(XzReader::new_mem_limit(whole, true, XZ_MEMORY))),
            _ => Inner::Other(whole),
        }))
    }
}

impl<R: BufRead> Read for Peeled<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Other(reader) => reader.read(buffer),
            Inner::Bzip2(reader) => reader.read(buffer),
            Inner::Xz(reader) => reader.read(buffer),
        }
    }
}

impl<R: BufRead> std::fmt::Debug for Peeled<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Inner::Other(_) => "Peeled(other)",
            Inner::Bzip2(_) => "Peeled(bzip2)",
            Inner::Xz(_) => "Peeled(xz)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "peeled\n", packed by bzip2 and by xz.
    const BZIP2: &[u8] = include_bytes!("../tests/packed/peeled.bz2");
    const XZ: &[u8] = include_bytes!("../tests/packed/peeled.xz");

    fn peel(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        Peeled::new(bytes)
            .map_err(io::Error::other)?
            .read_to_end(&mut all)?;
        Ok(all)
    }

    #[test]
    fn bzip2_and_xz_are_taken_off_and_nothing_else() {
        assert_eq!(peel(BZIP2).unwrap(), b"peeled\n");
        assert_eq!(peel(XZ).unwrap(), b"peeled\n");
        assert_eq!(peel(&[BZIP2, BZIP2].concat()).unwrap(), b"peeled\npeeled\n");
        assert_eq!(peel(&[XZ, XZ].concat()).unwrap(), b"peeled\npeeled\n");
        for plain in [&b""[..], b"B", b"BZh", b"plain text", b"\x1f\x8b\x08"] {
            assert_eq!(peel(plain).unwrap(), plain);
        }
    }

    #[test]
    fn what_is_cut_off_or_changed_is_an_error() {
        for whole in [BZIP2, XZ] {
            assert!(peel(&whole[..whole.len() - 5]).is_err());
            let mut changed = whole.to_vec();
            changed[whole.len() / 2] ^= 0x55;
            assert!(peel(&changed).is_err());
        }
    }
}
