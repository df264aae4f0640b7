//! An archive of images in the making.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use crate::header::{END, Header, Type, pad, padding};

const BLOCK: u64 = 512;
const PIECE: usize = 512 << 10;

/// Writes the members of a tar of few and short names. All times are 0 and all owners root, so
/// that the same members make the same archive.
#[derive(Debug)]
pub struct ArchiveWriter<W> {
    out: W,
    buffer: Vec<u8>,
}

impl<W: Write> ArchiveWriter<W> {
    /// Begins an archive.
    pub fn new(out: W) -> Self {
        Self {
            out,
            buffer: Vec::new(),
        }
    }

    /// Returns how long an archive of so many directories and files of these lengths is.
    pub fn size(directories: u64, files: impl Iterator<Item = u64>) -> u64 {
        let files: u64 = files.map(|size| BLOCK + size + padding(size) as u64).sum();
        directories * BLOCK + files + END.len() as u64
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        Header::new(path.as_bytes(), Type::Directory, 0o755, 0).write(&mut self.out)
    }

    /// Adds a file of these bytes.
    pub fn bytes(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let size = bytes.len() as u64;
        Header::new(path.as_bytes(), Type::File, 0o644, size).write(&mut self.out)?;
        self.out.write_all(bytes)?;
        pad(&mut self.out, size)
    }

    /// Adds the first `size` bytes of a file. Fails when it is shorter.
    pub fn file(&mut self, path: &str, file: &File, size: u64) -> io::Result<()> {
        Header::new(path.as_bytes(), Type::File, 0o644, size).write(&mut self.out)?;
        self.buffer.resize(PIECE, 0);
        let mut offset = 0;
        while offset < size {
            let want = usize::try_from(size - offset).unwrap_or(PIECE).min(PIECE);
            file.read_exact_at(&mut self.buffer[..want], offset)?;
            self.out.write_all(&self.buffer[..want])?;
            offset += want as u64;
        }
        pad(&mut self.out, size)
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<()> {
        self.out.write_all(&END)?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_as_long_as_was_said() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 1_000_000], 0).unwrap();
        let mut bytes = Vec::new();
        let mut archive = ArchiveWriter::new(&mut bytes);
        archive.directory("d/").unwrap();
        archive.bytes("d/a", b"abc").unwrap();
        archive.file("d/b", &file, 999_999).unwrap();
        archive.bytes("empty", b"").unwrap();
        archive.finish().unwrap();
        let size = ArchiveWriter::<io::Sink>::size(1, [3, 999_999, 0].into_iter());
        assert_eq!(bytes.len() as u64, size);
        let mut reader = crate::Reader::new(&bytes[..]).unwrap();
        let mut paths = Vec::new();
        while let Some(member) = reader.next_member().unwrap() {
            paths.push(member.path);
        }
        assert_eq!(paths, ["d", "d/a", "d/b", "empty"]);
    }
}
