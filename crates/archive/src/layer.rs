//! A layer's tar in the making, entry by entry.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use crate::header::{END, Header, Type, pad};

/// What a tar says of an entry beside its name and content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes as [`extended_attributes`] reads them.
    pub extended: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads the extended attributes of a file that belong to it and not to the host: the keys are
/// those of a tar's records. The descriptor must be open for reading.
pub fn extended_attributes(file: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    crate::tree::attributes(file)
}

/// Writes a layer. Names are paths below the root without a slash in front; parents come before
/// children.
#[derive(Debug)]
pub struct LayerWriter<W> {
    out: W,
    latest: Option<i64>,
}

impl<W: Write> LayerWriter<W> {
    /// Begins a layer.
    pub fn new(out: W) -> Self {
        Self { out, latest: None }
    }

    /// Has later times become this one, in seconds since 1970.
    #[must_use]
    pub fn latest(self, latest: Option<i64>) -> Self {
        Self { latest, ..self }
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &[u8], attributes: &Attributes) -> io::Result<()> {
        let path = [path, b"/"].concat();
        self.header(&path, Type::Directory, attributes, 0, b"")
    }

    /// Adds a file of exactly so many bytes. Fails when there are fewer.
    pub fn file(
        &mut self,
        path: &[u8],
        attributes: &Attributes,
        size: u64,
        content: impl Read,
    ) -> io::Result<()> {
        self.header(path, Type::File, attributes, size, b"")?;
        if io::copy(&mut content.take(size), &mut self.out)? < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        pad(&mut self.out, size)
    }

    /// Adds a symbolic link.
    pub fn symlink(
        &mut self,
        path: &[u8],
        attributes: &Attributes,
        target: &[u8],
    ) -> io::Result<()> {
        self.header(path, Type::Symlink, attributes, 0, target)
    }

    /// Adds a named pipe.
    pub fn fifo(&mut self, path: &[u8], attributes: &Attributes) -> io::Result<()> {
        self.header(path, Type::Fifo, attributes, 0, b"")
    }

    /// Adds one more name of a file that was added before.
    pub fn hard_link(&mut self, path: &[u8], attributes: &Attributes, of: &[u8]) -> io::Result<()> {
        self.header(path, Type::HardLink, attributes, 0, of)
    }

    /// Adds the mark that a path of lower layers is gone.
    pub fn whiteout(&mut self, path: &[u8]) -> io::Result<()> {
        let name = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        let path = [&path[..name], crate::tree::WHITEOUT, &path[name..]].concat();
        self.header(&path, Type::File, &Attributes::default(), 0, b"")
    }

    /// Ends the layer.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&END)?;
        self.out.flush()
    }

    fn header(
        &mut self,
        path: &[u8],
        kind: Type,
        attributes: &Attributes,
        size: u64,
        link: &[u8],
    ) -> io::Result<()> {
        let (seconds, nanoseconds) = crate::tree::no_later(attributes.mtime, self.latest);
        let header = Header {
            uid: attributes.uid,
            gid: attributes.gid,
            seconds,
            nanoseconds,
            link,
            records: attributes.extended.clone(),
            ..Header::new(path, kind, attributes.mode & 0o7777, size)
        };
        header.write(&mut self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_finds_what_was_written() {
        let mut bytes = Vec::new();
        let mut layer = LayerWriter::new(&mut bytes);
        let attributes = Attributes {
            mode: 0o4750,
            uid: 7,
            gid: 3_000_000,
            mtime: (12, 500),
            extended: vec![(b"SCHILY.xattr.user.a".to_vec(), b"1".to_vec())],
        };
        layer.directory(b"d", &attributes).unwrap();
        layer.file(b"d/f", &attributes, 3, &b"abc"[..]).unwrap();
        layer.symlink(b"d/l", &attributes, b"/etc").unwrap();
        assert!(layer.file(b"short", &attributes, 3, &b"ab"[..]).is_err());
        let mut bytes = Vec::new();
        let mut layer = LayerWriter::new(&mut bytes);
        layer.file(b"f", &attributes, 3, &b"abcdef"[..]).unwrap();
        layer.symlink(b"l", &attributes, b"/etc").unwrap();
        layer.finish().unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut entries = archive.entries().unwrap().map(Result::unwrap);
        let mut file = entries.next().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        assert_eq!(file.header().mode().unwrap(), 0o4750);
        assert_eq!(file.header().uid().unwrap(), 7);
        let link = entries.next().unwrap();
        assert_eq!(&*link.link_name_bytes().unwrap(), b"/etc");
        assert!(entries.next().is_none());
    }
}
