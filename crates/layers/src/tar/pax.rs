//! PAX extended header records.

use super::sparse::{self, PaxSparse};
use super::{TarError, Time, Xattr, number};

/// What the records of one extended header say about the next member.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) sparse: Option<PaxSparse>,
}

/// Prefix of extended attributes with raw values, written by all.
const SCHILY: &[u8] = b"SCHILY.xattr.";
/// Prefix with percent-encoded names and base64 values, written by libarchive.
const LIBARCHIVE: &[u8] = b"LIBARCHIVE.xattr.";

impl Pax {
    /// Parses `length key=value\n` records. Of several with one key the last
    /// counts; an empty value leaves what the header block says.
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, TarError> {
        let mut pax = Self::default();
        let mut sparse = sparse::Keys::default();
        let mut libarchive = Vec::new();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes)?;
            bytes = rest;
            pax.take(key, value, &mut libarchive)?;
            if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                sparse.take(key, value)?;
            }
        }
        for (name, value) in libarchive {
            // The same attribute in both forms: the raw one is exact.
            if !pax.xattrs.iter().any(|(n, _)| *n == name) {
                pax.xattrs.push((name, value));
            }
        }
        pax.sparse = sparse.finish()?;
        Ok(pax)
    }

    fn take(
        &mut self,
        key: &[u8],
        value: &[u8],
        libarchive: &mut Vec<Xattr>,
    ) -> Result<(), TarError> {
        if let Some(name) = key.strip_prefix(SCHILY) {
            set_xattr(&mut self.xattrs, name.into(), value.into());
            return Ok(());
        }
        if let Some(name) = key.strip_prefix(LIBARCHIVE) {
            let name = percent_decode(name).ok_or(TarError::Malformed("PAX record"))?;
            let value = base64_decode(value).ok_or(TarError::Malformed("PAX record"))?;
            set_xattr(libarchive, name.into(), value.into());
            return Ok(());
        }
        let filled = (!value.is_empty()).then_some(value);
        let number = |what| match filled {
            None => Ok(None),
            Some(v) => number::decimal(v).map(Some).ok_or(TarError::Number(what)),
        };
        match key {
            b"path" => self.path = filled.map(<[u8]>::to_vec),
            b"linkpath" => self.link = filled.map(<[u8]>::to_vec),
            b"size" => {
                self.size = number("size")?
                    .map(|n| u64::try_from(n).map_err(|_| TarError::Number("size")))
                    .transpose()?;
            }
            b"uid" => self.uid = number("uid")?,
            b"gid" => self.gid = number("gid")?,
            b"mtime" => {
                self.mtime = filled
                    .map(|v| number::time(v).ok_or(TarError::Number("mtime")))
                    .transpose()?;
            }
            // Not kept by any file system of a layer, but a broken one means
            // a broken archive.
            b"atime" | b"ctime" if filled.is_some_and(|v| number::time(v).is_none()) => {
                return Err(TarError::Number("time"));
            }
            _ => {}
        }
        Ok(())
    }
}

fn set_xattr(xattrs: &mut Vec<Xattr>, name: Box<[u8]>, value: Box<[u8]>) {
    match xattrs.iter_mut().find(|(n, _)| *n == name) {
        Some(slot) => slot.1 = value,
        None => xattrs.push((name, value)),
    }
}

/// Key, value and what follows.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Splits off one record.
fn record(bytes: &[u8]) -> Result<Record<'_>, TarError> {
    const BAD: TarError = TarError::Malformed("PAX record");
    let space = memchr::memchr(b' ', &bytes[..bytes.len().min(20)]).ok_or(BAD)?;
    let length = number::unsigned(&bytes[..space]).ok_or(BAD)?;
    let length = usize::try_from(length).map_err(|_| BAD)?;
    if length < 5 || length > bytes.len() || length < space + 3 {
        return Err(BAD);
    }
    let (record, rest) = bytes.split_at(length);
    let record = record[space + 1..].strip_suffix(b"\n").ok_or(BAD)?;
    let equals = memchr::memchr(b'=', record).ok_or(BAD)?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return Err(BAD);
    }
    // Text fields end up as C strings; binary values are for attributes only.
    let text = matches!(key, b"path" | b"linkpath" | b"uname" | b"gname");
    if text && value.contains(&0) {
        return Err(BAD);
    }
    Ok((key, value, rest))
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            out.push(*first);
            continue;
        }
        let digits = rest.get(..2)?;
        let digit = |b: u8| char::from(b).to_digit(16);
        let byte = digit(digits[0])? * 16 + digit(digits[1])?;
        out.push(u8::try_from(byte).ok()?);
        rest = &rest[2..];
    }
    (!out.contains(&0)).then_some(out)
}

fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0u32);
    for byte in text {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xff) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::{Pax, TarError};
    use crate::tarball::record;

    fn parse(text: &[u8]) -> Result<Pax, TarError> {
        Pax::parse(text)
    }

    #[test]
    fn last_record_of_a_key_counts_and_empty_keeps_the_header() {
        let pax = parse(b"10 path=a\n10 path=b\n10 size=12\n7 uid=\n").unwrap_err();
        assert_eq!(pax, TarError::Malformed("PAX record"));
        let pax = parse(b"10 path=a\n10 path=b\n11 size=12\n8 uid=7\n7 gid=\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"b"[..]));
        assert_eq!((pax.size, pax.uid, pax.gid), (Some(12), Some(7), None));
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"x"[..],
            b"10 path=a",
            b"4 =\n",
            b"6 ab=\n ",
            b"999 path=a\n",
            b"-9 path=a\n",
            b"11 path=a\0\n",
            b"11 size=-1\n",
            b"11 size=1x\n",
            b"9 mtime=\n.",
            b"12 mtime=1.x\n",
            b"99999999999999999999999 path=a\n",
            b"28 size=9999999999999999999\n",
        ] {
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn attributes_in_both_forms() {
        let records = [
            record("SCHILY.xattr.user.a", b"\x00\xffbin"),
            record("LIBARCHIVE.xattr.user.a", b"AAAA"),
            record("LIBARCHIVE.xattr.user.%62", b"aGk="),
        ];
        let pax = parse(&records.concat()).unwrap();
        assert_eq!(pax.xattrs.len(), 2);
        assert_eq!(&*pax.xattrs[0].1, b"\x00\xffbin");
        assert_eq!(
            (&*pax.xattrs[1].0, &*pax.xattrs[1].1),
            (&b"user.b"[..], &b"hi"[..])
        );
    }
}
