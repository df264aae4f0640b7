//! Headers of tar members, as POSIX has them: ustar, and PAX records for what does not fit.

use std::io::{self, Write};

const BLOCK: usize = 512;
const NAME: usize = 100;
/// What seven, and what eleven octal digits hold.
const MAX_ID: u64 = 0o7_777_777;
const MAX_SIZE: u64 = 0o77_777_777_777;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Type {
    File = b'0',
    HardLink = b'1',
    Symlink = b'2',
    CharacterDevice = b'3',
    BlockDevice = b'4',
    Directory = b'5',
    Fifo = b'6',
    Extended = b'x',
}

/// What is said of a member. Everything that is not said is zero.
#[derive(Clone, Debug)]
pub(crate) struct Header<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) kind: Type,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bytes that follow.
    pub(crate) size: u64,
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
    pub(crate) link: &'a [u8],
    pub(crate) device: (u32, u32),
    /// Further records, key and value.
    pub(crate) records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Header<'a> {
    pub(crate) fn new(path: &'a [u8], kind: Type, mode: u32, size: u64) -> Self {
        Self {
            path,
            kind,
            mode,
            uid: 0,
            gid: 0,
            size,
            seconds: 0,
            nanoseconds: 0,
            link: b"",
            device: (0, 0),
            records: Vec::new(),
        }
    }

    /// Writes the header, with an extended one before it where it takes one.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut records = Vec::new();
        if !fits(self.path) {
            record(&mut records, b"path", self.path);
        }
        if self.link.len() > NAME {
            record(&mut records, b"linkpath", self.link);
        }
        for (key, number, most) in [
            (&b"uid"[..], u64::from(self.uid), MAX_ID),
            (b"gid", u64::from(self.gid), MAX_ID),
            (b"size", self.size, MAX_SIZE),
        ] {
            if number > most {
                record(&mut records, key, number.to_string().as_bytes());
            }
        }
        let plain_time = u64::try_from(self.seconds).is_ok_and(|s| s <= MAX_SIZE);
        if self.nanoseconds != 0 || !plain_time {
            record(&mut records, b"mtime", self.time().as_bytes());
        }
        for (key, value) in &self.records {
            record(&mut records, key, value);
        }
        if !records.is_empty() {
            let name = self
                .path
                .rsplit(|b| *b == b'/')
                .find(|part| !part.is_empty());
            let mut path = b"PaxHeaders.0/".to_vec();
            path.extend_from_slice(name.unwrap_or_default());
            path.truncate(NAME);
            let extended = Header::new(&path, Type::Extended, 0o644, records.len() as u64);
            out.write_all(&extended.block())?;
            out.write_all(&records)?;
            pad(out, records.len() as u64)?;
        }
        out.write_all(&self.block())
    }

    /// Seconds with the fraction, which counts upwards also before 1970.
    fn time(&self) -> String {
        let total = i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanoseconds);
        let (sign, total) = if total < 0 {
            ("-", -total)
        } else {
            ("", total)
        };
        let text = format!(
            "{sign}{}.{:09}",
            total / 1_000_000_000,
            total % 1_000_000_000
        );
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }

    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let (prefix, name) = split(self.path).unwrap_or_else(|| {
            // The record says it right; this is for readers that do not know records.
            (&[][..], &self.path[..self.path.len().min(NAME)])
        });
        put(&mut block[0..100], name);
        octal(&mut block[100..108], u64::from(self.mode & 0o7777));
        octal(&mut block[108..116], within(self.uid.into(), MAX_ID));
        octal(&mut block[116..124], within(self.gid.into(), MAX_ID));
        octal(&mut block[124..136], within(self.size, MAX_SIZE));
        let seconds = u64::try_from(self.seconds).unwrap_or(0);
        octal(&mut block[136..148], within(seconds, MAX_SIZE));
        block[156] = self.kind as u8;
        put(
            &mut block[157..257],
            &self.link[..self.link.len().min(NAME)],
        );
        block[257..265].copy_from_slice(b"ustar\x0000");
        if matches!(self.kind, Type::CharacterDevice | Type::BlockDevice) {
            octal(&mut block[329..337], u64::from(self.device.0));
            octal(&mut block[337..345], u64::from(self.device.1));
        }
        put(&mut block[345..500], prefix);
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
        octal(&mut block[148..155], sum);
        block
    }
}

/// Writes zeros up to a whole block behind so many bytes.
pub(crate) fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let zeros = [0; BLOCK];
    out.write_all(&zeros[..padding(size)])
}

/// How many zeros follow so many bytes.
pub(crate) fn padding(size: u64) -> usize {
    usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0)
}

/// What ends an archive.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

fn within(number: u64, most: u64) -> u64 {
    if number > most { 0 } else { number }
}

fn put(field: &mut [u8], bytes: &[u8]) {
    field[..bytes.len()].copy_from_slice(bytes);
}

/// Writes octal digits and a NUL.
fn octal(field: &mut [u8], mut number: u64) {
    let digits = field.len() - 1;
    for place in field[..digits].iter_mut().rev() {
        // Three bits are always a digit.
        *place = b'0' + (number & 7) as u8;
        number >>= 3;
    }
    field[digits] = 0;
}

fn fits(path: &[u8]) -> bool {
    split(path).is_some()
}

/// Splits a path into prefix and name as ustar has them.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= NAME {
        return Some((&[], path));
    }
    // A slash at the end belongs to the name.
    let end = path.len() - 1;
    let at = path[..end]
        .iter()
        .enumerate()
        .filter(|(at, byte)| **byte == b'/' && *at > 0 && *at <= 155)
        .map(|(at, _)| at)
        .find(|at| path.len() - at - 1 <= NAME)?;
    Some((&path[..at], &path[at + 1..]))
}

/// Adds `<length> <key>=<value>\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_records_count_themselves() {
        for length in [1, 5, 86, 87, 88, 89, 90, 980, 990, 995, 1000] {
            let mut records = Vec::new();
            record(&mut records, b"k", &vec![b'x'; length]);
            let text = String::from_utf8(records.clone()).unwrap();
            let said: usize = text.split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, records.len());
        }
    }

    #[test]
    fn what_does_not_fit_is_read_back() {
        let long = format!("{}/{}", "d".repeat(160), "n".repeat(120));
        let link = "l".repeat(150);
        let header = Header {
            uid: 3_000_000,
            seconds: -5,
            nanoseconds: 250_000_000,
            link: link.as_bytes(),
            records: vec![(b"SCHILY.xattr.user.x".to_vec(), b"a\0b".to_vec())],
            ..Header::new(long.as_bytes(), Type::Symlink, 0o777, 0)
        };
        assert_eq!(header.time(), "-4.75");
        let mut bytes = Vec::new();
        header.write(&mut bytes).unwrap();
        bytes.extend_from_slice(&END);
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(*entry.path_bytes(), *long.as_bytes());
        assert_eq!(*entry.link_name_bytes().unwrap(), *link.as_bytes());
        let records: Vec<(String, Vec<u8>)> = entry
            .pax_extensions()
            .unwrap()
            .unwrap()
            .map(|r| {
                let r = r.unwrap();
                (r.key().unwrap().to_owned(), r.value_bytes().to_vec())
            })
            .collect();
        assert!(records.contains(&("uid".into(), b"3000000".to_vec())));
        assert!(records.contains(&("mtime".into(), b"-4.75".to_vec())));
        assert!(records.contains(&("SCHILY.xattr.user.x".into(), b"a\0b".to_vec())));
    }

    #[test]
    fn paths_are_split_where_ustar_allows() {
        let path = format!("{}/{}", "d".repeat(90), "n".repeat(90));
        let header = Header::new(path.as_bytes(), Type::File, 0o644, 0);
        let mut bytes = Vec::new();
        header.write(&mut bytes).unwrap();
        assert_eq!(bytes.len(), BLOCK);
        bytes.extend_from_slice(&END);
        let mut archive = tar::Archive::new(&bytes[..]);
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(*entry.path_bytes(), *path.as_bytes());
        assert_eq!(split("x".repeat(101).as_bytes()), None);
    }
}
