//! The members of a tar, forwards only, in bounded memory.
//!
//! Of a member only its path, its length and the target of a link matter here, so this reads
//! less of the format than the layer store must, and what it does not need it skips.

use std::io::{self, BufRead, BufReader, Read};

use sampan_text::path::below_root;

use crate::compression::Decoder;
use crate::{Error, Result};

const BLOCK: usize = 512;
/// Members that an archive may have; an image of a thousand layers has some three thousand.
const MAX_MEMBERS: u64 = 100_000;
/// Bytes that may follow the end. Writers pad to a record, of some KiB or a few MiB.
const MAX_PADDING: u64 = 64 << 20;
/// Bytes that the extended headers of one member may have.
const MAX_EXTENDED: u64 = 64 << 10;

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file of this length, whose bytes the [`Reader`] gives.
    File(u64),
    /// A symbolic or hard link; the target as a path from the top of the archive.
    Link(String),
    /// Anything else.
    Other,
}

/// A member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its path with `.`, `..` and doubled slashes resolved and no slash in front: a key.
    pub path: String,
    /// What it is.
    pub kind: Kind,
}

/// A tar, unpacked on the way. As a [`Read`] it gives the bytes of the current member.
#[derive(Debug)]
pub struct Reader<R: BufRead> {
    inner: BufReader<Decoder<R>>,
    offset: u64,
    members: u64,
    left: u64,
    padding: u64,
}

#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<R: BufRead> Reader<R> {
    /// Looks at the first bytes of the stream to tell how it is packed.
    pub fn new(reader: R) -> Result<Self> {
        Ok(Self {
            inner: BufReader::with_capacity(256 << 10, Decoder::new(reader)?),
            offset: 0,
            members: 0,
            left: 0,
            padding: 0,
        })
    }

    /// Goes to the next member; what was not read of the current one is skipped.
    pub fn next_member(&mut self) -> Result<Option<Member>> {
        self.skip(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let size = number(&header[124..136]).ok_or_else(|| self.malformed("bad size"))?;
            match header[156] {
                b'L' => extended.path = Some(self.text(size)?),
                b'K' => extended.link = Some(self.text(size)?),
                b'x' => {
                    let records = self.body(size)?;
                    pax(&records, &mut extended).ok_or_else(|| self.malformed("bad PAX record"))?;
                }
                b'g' => {
                    self.body(size)?;
                }
                kind => return self.member(&header, kind, size, extended).map(Some),
            }
        }
    }

    fn member(
        &mut self,
        header: &[u8; BLOCK],
        kind: u8,
        size: u64,
        extended: Extended,
    ) -> Result<Member> {
        let path = extended.path.unwrap_or_else(|| name(header));
        let path = String::from_utf8_lossy(&path).into_owned();
        let kind = match kind {
            0 | b'0' | b'7' if path.ends_with('/') => Kind::Other,
            0 | b'0' | b'7' => Kind::File(extended.size.unwrap_or(size)),
            b'1' | b'2' => {
                let target = extended.link.unwrap_or_else(|| field(&header[157..257]));
                let target = String::from_utf8_lossy(&target).into_owned();
                let from = match kind {
                    b'2' if !target.starts_with('/') => path.rsplit_once('/').map_or("", |p| p.0),
                    _ => "",
                };
                Kind::Link(below_root(&format!("{from}/{target}")))
            }
            _ => Kind::Other,
        };
        // Links and directories have no data, whatever their size says.
        let data = match kind {
            Kind::File(size) => size,
            _ if matches!(header[156], b'1'..=b'6') => 0,
            _ => size,
        };
        if let Kind::File(_) = kind {
            self.left = data;
            self.padding = padding(data);
        } else {
            self.skip(data)?;
            self.skip(padding(data))?;
        }
        Ok(Member {
            path: below_root(&path),
            kind,
        })
    }

    /// Reads a header block; none at the end of the archive.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.inner.read(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(self.malformed("it ends in the middle of a header")),
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::Io(e)),
            }
        }
        self.offset += BLOCK as u64;
        if block.iter().all(|b| *b == 0) {
            // One block of zeros ends it; what follows means nothing, but a writer into a pipe
            // wants it read.
            let rest = &mut (&mut self.inner).take(MAX_PADDING + 1);
            if io::copy(rest, &mut io::sink()).map_err(Error::Io)? > MAX_PADDING {
                return Err(Error::Bound("more than 64 MiB behind its end"));
            }
            return Ok(None);
        }
        self.members += 1;
        if self.members > MAX_MEMBERS {
            return Err(Error::Bound("too many members"));
        }
        let sum = number(&block[148..156]).ok_or_else(|| self.malformed("bad checksum"))?;
        let blanked = |(i, b): (usize, &u8)| {
            if (148..156).contains(&i) { b' ' } else { *b }
        };
        let unsigned: u64 = block
            .iter()
            .enumerate()
            .map(|p| u64::from(blanked(p)))
            .sum();
        let signed: i64 = block
            .iter()
            .enumerate()
            .map(|p| i64::from(blanked(p).cast_signed()))
            .sum();
        if sum != unsigned && i64::try_from(sum) != Ok(signed) {
            return Err(self.malformed("bad checksum"));
        }
        Ok(Some(block))
    }

    fn body(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_EXTENDED {
            return Err(Error::Bound("an extended header that is too long"));
        }
        let mut bytes = Vec::new();
        let n = (&mut self.inner)
            .take(size)
            .read_to_end(&mut bytes)
            .map_err(Error::Io)?;
        self.offset += n as u64;
        if (n as u64) < size {
            return Err(self.malformed("it ends in the middle of a header"));
        }
        self.skip(padding(size))?;
        Ok(bytes)
    }

    fn text(&mut self, size: u64) -> Result<Vec<u8>> {
        Ok(field(&self.body(size)?))
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let skipped =
            io::copy(&mut (&mut self.inner).take(bytes), &mut io::sink()).map_err(Error::Io)?;
        self.offset += skipped;
        if skipped < bytes {
            return Err(self.malformed("it ends in the middle of a member"));
        }
        Ok(())
    }

    fn malformed(&self, reason: &'static str) -> Error {
        Error::Tar {
            offset: self.offset,
            reason,
        }
    }
}

impl<R: BufRead> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let n = self.inner.read(&mut buffer[..want])?;
        if n == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive ends in the middle of a member",
            ));
        }
        self.left -= n as u64;
        self.offset += n as u64;
        Ok(n)
    }
}

impl<R: BufRead> BufRead for Reader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let bytes = self.inner.fill_buf()?;
        if bytes.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive ends in the middle of a member",
            ));
        }
        let want = bytes
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        Ok(&bytes[..want])
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
        self.left -= amount as u64;
        self.offset += amount as u64;
    }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

/// Bytes up to the first NUL.
fn field(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes[..end].to_vec()
}

fn name(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = field(&header[..100]);
    // GNU's own format has other things where POSIX has the prefix.
    if &header[257..263] == b"ustar\0" && header[345] != 0 {
        let mut path = field(&header[345..500]);
        path.push(b'/');
        path.extend(name);
        return path;
    }
    name
}

/// Reads octal digits or GNU's base 256; negative numbers and those beyond 63 bits are refused.
fn number(bytes: &[u8]) -> Option<u64> {
    if bytes[0] & 0x80 != 0 {
        if bytes[0] != 0x80 {
            return None;
        }
        let (high, low) = bytes[1..].split_at(bytes.len() - 9);
        if high.iter().any(|b| *b != 0) {
            return None;
        }
        let value = u64::from_be_bytes(low.try_into().ok()?);
        return i64::try_from(value).is_ok().then_some(value);
    }
    let text = bytes
        .iter()
        .copied()
        .skip_while(|b| *b == b' ')
        .take_while(|b| *b != 0 && *b != b' ');
    text.into_iter().try_fold(0u64, |value, b| match b {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(b - b'0')),
        _ => None,
    })
}

/// Takes what matters from PAX records, each `<length> <key>=<value>\n`.
fn pax(mut records: &[u8], extended: &mut Extended) -> Option<()> {
    while !records.is_empty() {
        let blank = records.iter().position(|b| *b == b' ')?;
        let length: usize = std::str::from_utf8(&records[..blank]).ok()?.parse().ok()?;
        if length <= blank + 1 || length > records.len() || records[length - 1] != b'\n' {
            return None;
        }
        let record = &records[blank + 1..length - 1];
        records = &records[length..];
        let equals = record.iter().position(|b| *b == b'=')?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => extended.path = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            b"size" => {
                let size: u64 = std::str::from_utf8(value).ok()?.parse().ok()?;
                i64::try_from(size).ok()?;
                extended.size = Some(size);
            }
            _ => {}
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>> {
        let mut reader = Reader::new(bytes)?;
        let mut all = Vec::new();
        while let Some(member) = reader.next_member()? {
            let mut data = Vec::new();
            reader.read_to_end(&mut data).map_err(Error::Io)?;
            all.push((member, data));
        }
        Ok(all)
    }

    fn builder() -> tar::Builder<Vec<u8>> {
        tar::Builder::new(Vec::new())
    }

    fn append(builder: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, data).unwrap();
    }

    #[test]
    fn members_come_in_order_with_their_data() {
        let mut tar = builder();
        append(&mut tar, "./a", b"one");
        append(&mut tar, "d/b", &[7; 1024]);
        let long = format!("{}/layer.tar", "x".repeat(150));
        append(&mut tar, &long, b"");
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        tar.append_link(&mut link, "e/layer.tar", "../d/b").unwrap();
        let all = members(&tar.into_inner().unwrap()).unwrap();
        let paths: Vec<_> = all.iter().map(|(m, _)| m.path.as_str()).collect();
        assert_eq!(paths, ["a", "d/b", &long, "e/layer.tar"]);
        assert_eq!(all[0].1, b"one");
        assert_eq!(all[1].1, [7; 1024]);
        assert_eq!(all[3].0.kind, Kind::Link("d/b".into()));
    }

    #[test]
    fn pax_path_and_size_are_used() {
        let mut tar = builder();
        tar.append_pax_extensions([("path", &b"real"[..]), ("size", b"5")])
            .unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_path("stand-in").unwrap();
        header.set_size(5);
        header.set_cksum();
        tar.append(&header, &b"hello"[..]).unwrap();
        let all = members(&tar.into_inner().unwrap()).unwrap();
        assert_eq!(all[0].0.path, "real");
        assert_eq!(all[0].1, b"hello");
    }

    #[test]
    fn unread_data_is_skipped() {
        let mut tar = builder();
        append(&mut tar, "a", &[1; 100_000]);
        append(&mut tar, "b", b"x");
        let bytes = tar.into_inner().unwrap();
        let mut reader = Reader::new(&bytes[..]).unwrap();
        let mut some = [0; 700];
        assert_eq!(reader.next_member().unwrap().unwrap().path, "a");
        reader.read_exact(&mut some).unwrap();
        assert_eq!(reader.next_member().unwrap().unwrap().path, "b");
        assert_eq!(reader.next_member().unwrap(), None);
    }

    #[test]
    fn malformed_archives_are_refused() {
        let mut tar = builder();
        append(&mut tar, "a", &[1; 5000]);
        let good = tar.into_inner().unwrap();
        for cut in [100, 512, 600, 5000] {
            assert!(members(&good[..cut]).is_err(), "{cut}");
        }
        let mut bad = good.clone();
        bad[0] ^= 1;
        assert!(matches!(members(&bad), Err(Error::Tar { .. })));
        assert!(members(b"not a tar at all").is_err());
        assert!(members(&[b'x'; 2048]).is_err());
        assert!(members(b"").unwrap().is_empty());
        let mut endless = tar::Header::new_gnu();
        endless.set_entry_type(tar::EntryType::GNULongName);
        endless.set_size(1 << 40);
        endless.set_cksum();
        assert!(matches!(members(endless.as_bytes()), Err(Error::Bound(_))));
        let end = Reader::new(BufReader::new(io::repeat(0)))
            .unwrap()
            .next_member();
        assert!(matches!(end, Err(Error::Bound(_))), "an end without an end");
        let padded = [&good[..], &vec![0; 4 << 20]].concat();
        assert_eq!(members(&padded).unwrap().len(), 1);
    }

    #[test]
    fn numbers_are_bounded() {
        assert_eq!(number(b"00000000017\0"), Some(15));
        assert_eq!(number(b"   17 \0\0\0\0\0\0"), Some(15));
        assert_eq!(number(b"77777777777 "), Some((1 << 33) - 1));
        assert_eq!(number(b"8          \0"), None);
        assert_eq!(number(b"-1         \0"), None);
        assert_eq!(number(b"\x80\0\0\0\0\0\0\x02\0\0\0\0"), Some(1 << 33));
        assert_eq!(number(&[0xff; 12]), None);
        assert_eq!(number(b"\x80\0\0\0\xff\0\0\0\0\0\0\0"), None);
    }
}
