//! Docker's `local` format: records of protocol buffers, each between two copies of its length.
//!
//! `u32 length, LogEntry, u32 length`, big-endian. `LogEntry` has 1 `source`, 2 `time_nano`,
//! 3 `line`, 4 `partial`, 5 `partial_log_metadata` (1 `last`, 2 `id`, 3 `ordinal`) and 6 `attrs`
//! (1 `key`, 2 `value`). A line that is whole, or the last part of one, is stored without its `\n`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use jiff::Timestamp;

use crate::{Entry, Stream};

const LENGTH: usize = 4;
/// A longer record is none (Docker's bound).
const RECORD_MAX: usize = 1_000_000;

/// The parts of one line that have been written so far.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    id: String,
    count: u64,
}

/// What is at the start of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A record at this place; the next one starts at its second length's end.
    Whole(Range<usize>),
    /// The start of one.
    Short,
    /// None.
    Damaged,
}

/// Finds the record at the start of `bytes`.
pub(crate) fn frame(bytes: &[u8]) -> Frame {
    let Some(length) = length_at(bytes, 0) else {
        return Frame::Short;
    };
    if length > RECORD_MAX {
        return Frame::Damaged;
    }
    match length_at(bytes, LENGTH + length) {
        None => Frame::Short,
        Some(second) if second == length => Frame::Whole(LENGTH..LENGTH + length),
        Some(_) => Frame::Damaged,
    }
}

/// Where the record after one starts.
pub(crate) fn end_of(record: &Range<usize>) -> usize {
    record.end + LENGTH
}

fn length_at(bytes: &[u8], at: usize) -> Option<usize> {
    let four = bytes.get(at..at.checked_add(LENGTH)?)?;
    let four = four.try_into().ok()?;
    usize::try_from(u32::from_be_bytes(four)).ok()
}

/// Appends a record. `parts` are those of the line that `bytes` may go on with.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    stream: Stream,
    bytes: &[u8],
    time: Timestamp,
    attrs: &BTreeMap<String, String>,
    parts: &mut Parts,
) {
    let (line, ends) = match bytes.strip_suffix(b"\n") {
        Some(line) => (line, true),
        None => (bytes, false),
    };
    let mut record = Vec::with_capacity(line.len() + 64);
    text(&mut record, 1, stream.name().as_bytes());
    let nanoseconds = i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX);
    number(&mut record, 2, nanoseconds.cast_unsigned());
    text(&mut record, 3, line);
    if !ends || parts.count > 0 {
        if parts.count == 0 {
            parts.id = random_id();
        }
        parts.count += 1;
        number(&mut record, 4, 1);
        let mut metadata = Vec::new();
        if ends {
            number(&mut metadata, 1, 1);
        }
        text(&mut metadata, 2, parts.id.as_bytes());
        number(&mut metadata, 3, parts.count);
        text(&mut record, 5, &metadata);
    }
    if ends {
        parts.count = 0;
    }
    for (key, value) in attrs {
        let mut attr = Vec::new();
        text(&mut attr, 1, key.as_bytes());
        text(&mut attr, 2, value.as_bytes());
        text(&mut record, 6, &attr);
    }
    let length = u32::try_from(record.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&record);
    out.extend_from_slice(&length);
}

fn random_id() -> String {
    let mut bytes = [0; 32];
    // Without randomness it is still an id: it only tells parts of a line from those of another.
    let _ = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn text(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// A field of a message.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Reads the fields of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    /// `None` at the end, `Some(None)` for what is no message.
    fn next(&mut self) -> Option<Option<(u64, Value<'a>)>> {
        if self.0.is_empty() {
            return None;
        }
        let mut read = || {
            let key = self.varint()?;
            let value = match key & 7 {
                0 => Value::Number(self.varint()?),
                1 => Value::Bytes(self.take(8)?),
                2 => {
                    let length = self.varint()?;
                    Value::Bytes(self.take(length)?)
                }
                5 => Value::Bytes(self.take(4)?),
                _ => return None,
            };
            Some((key >> 3, value))
        };
        Some(read())
    }
}

/// Reads a record; `None` for anything that is no entry.
pub(crate) fn decode(record: &[u8]) -> Option<Entry> {
    let mut fields = Fields(record);
    let mut stream = None;
    let (mut nanoseconds, mut partial, mut last) = (0, false, false);
    let mut bytes = Vec::new();
    let mut attrs = BTreeMap::new();
    while let Some(field) = fields.next() {
        match field? {
            (1, Value::Bytes(b"stdout")) => stream = Some(Stream::Stdout),
            (1, Value::Bytes(b"stderr")) => stream = Some(Stream::Stderr),
            (2, Value::Number(value)) => nanoseconds = value.cast_signed(),
            (3, Value::Bytes(line)) => bytes = line.to_vec(),
            (4, Value::Number(value)) => partial = value != 0,
            (5, Value::Bytes(metadata)) => last = is_last(metadata)?,
            (6, Value::Bytes(attr)) => attrs.extend([pair(attr)?]),
            _ => {}
        }
    }
    if !partial || last {
        bytes.push(b'\n');
    }
    Some(Entry {
        stream: stream?,
        time: Timestamp::from_nanosecond(nanoseconds.into()).ok()?,
        bytes,
        attrs,
    })
}

fn is_last(metadata: &[u8]) -> Option<bool> {
    let mut fields = Fields(metadata);
    let mut last = false;
    while let Some(field) = fields.next() {
        if let (1, Value::Number(value)) = field? {
            last = value != 0;
        }
    }
    Some(last)
}

fn pair(attr: &[u8]) -> Option<(String, String)> {
    let mut fields = Fields(attr);
    let mut pair = (String::new(), String::new());
    while let Some(field) = fields.next() {
        match field? {
            (1, Value::Bytes(key)) => pair.0 = String::from_utf8_lossy(key).into_owned(),
            (2, Value::Bytes(value)) => pair.1 = String::from_utf8_lossy(value).into_owned(),
            _ => {}
        }
    }
    Some(pair)
}

/// Where the last `count` records of a file of this length start, and how many there are, reading
/// backwards. A torn record at the end hides all of them: the writer takes it away.
pub(crate) fn last_records(file: &File, length: u64, count: u64) -> io::Result<(u64, u64)> {
    let (mut start, mut found) = (length, 0);
    while found < count {
        match record_before(file, start)? {
            Some(before) => start = before,
            None => break,
        }
        found += 1;
    }
    Ok((start, found))
}

/// The start of the record that ends at `end`.
fn record_before(file: &File, end: u64) -> io::Result<Option<u64>> {
    let around = 2 * LENGTH as u64;
    if end < around {
        return Ok(None);
    }
    let length = u64::from(read_length(file, end - LENGTH as u64)?);
    let Some(start) = end.checked_sub(length + around) else {
        return Ok(None);
    };
    let same = length <= RECORD_MAX as u64 && u64::from(read_length(file, start)?) == length;
    Ok(same.then_some(start))
}

fn read_length(file: &File, at: u64) -> io::Result<u32> {
    let mut four = [0; LENGTH];
    file.read_exact_at(&mut four, at)?;
    Ok(u32::from_be_bytes(four))
}

/// The length of the whole records that a file begins with.
pub(crate) fn whole_length(file: &File, length: u64) -> io::Result<u64> {
    if length == 0 || record_before(file, length)?.is_some() {
        return Ok(length);
    }
    let mut at = 0;
    loop {
        let around = 2 * LENGTH as u64;
        if at + around > length {
            return Ok(at);
        }
        let record = u64::from(read_length(file, at)?);
        let end = at + record + around;
        if record > RECORD_MAX as u64
            || end > length
            || u64::from(read_length(file, end - LENGTH as u64)?) != record
        {
            return Ok(at);
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(bytes: &[u8], parts: &mut Parts) -> Vec<u8> {
        let time = "2026-11-23T10:00:00.5Z".parse().unwrap();
        let mut out = Vec::new();
        encode(
            &mut out,
            Stream::Stdout,
            bytes,
            time,
            &BTreeMap::new(),
            parts,
        );
        out
    }

    #[test]
    fn records_are_those_of_docker() {
        // `protoc --decode_raw` shows: 1: "stdout", 2: 1795428000500000000, 3: "hi".
        let expected = [
            &[0, 0, 0, 22][..],
            b"\x0a\x06stdout\x10\x80\xca\xde\xec\x8f\x88\xa9\xf5\x18\x1a\x02hi",
            &[0, 0, 0, 22],
        ];
        assert_eq!(record(b"hi\n", &mut Parts::default()), expected.concat());
    }

    #[test]
    fn parts_of_a_line_are_numbered_and_whole_lines_are_not() {
        let mut parts = Parts::default();
        let mut seen = Vec::new();
        for bytes in [&b"one"[..], b"two", b"three\n", b"four\n"] {
            let out = record(bytes, &mut parts);
            let Frame::Whole(range) = frame(&out) else {
                panic!("{out:?}")
            };
            assert_eq!(end_of(&range), out.len());
            let entry = decode(&out[range]).unwrap();
            assert_eq!(entry.bytes, bytes);
            // Its tag is that of the part's number.
            seen.push((entry.ends_line(), out.contains(&0x2a)));
        }
        let expected = [(false, true), (false, true), (true, true), (true, false)];
        assert_eq!(seen, expected);
    }

    #[test]
    fn damaged_records_are_none() {
        let whole = record(b"hello\n", &mut Parts::default());
        for cut in 0..whole.len() {
            assert_eq!(frame(&whole[..cut]), Frame::Short, "{cut}");
            let _ = decode(&whole[..cut]);
        }
        let mut bad = whole.clone();
        *bad.last_mut().unwrap() ^= 1;
        assert_eq!(frame(&bad), Frame::Damaged);
        assert_eq!(frame(&[0xff; 8]), Frame::Damaged);
        assert_eq!(decode(b"\xff"), None);
    }

    #[test]
    fn a_torn_end_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let one = record(b"hello\n", &mut Parts::default());
        let two = [&one[..], &one].concat();
        for cut in 0..two.len() {
            std::fs::write(&path, &two[..cut]).unwrap();
            let file = File::open(&path).unwrap();
            let whole = whole_length(&file, cut as u64).unwrap();
            let expected = if cut < one.len() { 0 } else { one.len() };
            assert_eq!(whole, expected as u64, "{cut}");
        }
        std::fs::write(&path, &two).unwrap();
        let file = File::open(&path).unwrap();
        let length = two.len() as u64;
        assert_eq!(
            last_records(&file, length, 1).unwrap(),
            (one.len() as u64, 1)
        );
        assert_eq!(last_records(&file, length, 9).unwrap(), (0, 2));
    }
}
