//! The writing side: output in, entries out, files rotated.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::entry::{encode, line_tail};
use crate::local::Parts;
use crate::packed::packed_name;
use crate::{CHUNK, Error, Format, Stream, local, packed};

/// Lines are gathered up to about this many bytes before they are written.
const BATCH: usize = 64 << 10;

/// How a log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How entries are written.
    pub format: Format,
    /// Whether rotated files are packed.
    pub compress: bool,
    /// Bytes after which the file is rotated; absent never rotates.
    pub max_size: Option<u64>,
    /// Number of files kept, the current one included. With 1 a full file is dropped.
    pub max_file: u32,
    /// Attributes added to each entry.
    pub attrs: BTreeMap<String, String>,
}

impl Default for Options {
    /// Bounded: three files of 10 MB.
    fn default() -> Self {
        Self {
            format: Format::JsonFile,
            compress: false,
            max_size: Some(10_000_000),
            max_file: 3,
            attrs: BTreeMap::new(),
        }
    }
}

/// Makes records of output.
#[derive(Debug)]
enum Encoder {
    Json {
        attrs: String,
        /// What follows the stream's name in the lines of one write.
        tail: String,
    },
    Local {
        attrs: BTreeMap<String, String>,
        time: Timestamp,
        parts: [Parts; 2],
    },
}

impl Encoder {
    fn new(options: &Options) -> Self {
        let time = Timestamp::now();
        match options.format {
            Format::JsonFile => {
                let attrs = if options.attrs.is_empty() {
                    String::new()
                } else {
                    serde_json::to_string(&options.attrs).expect("a map of strings is always JSON")
                };
                Self::Json {
                    tail: String::new(),
                    attrs,
                }
            }
            Format::Local => Self::Local {
                attrs: options.attrs.clone(),
                time,
                parts: Default::default(),
            },
        }
    }

    /// What follows was read at this time.
    fn at(&mut self, now: Timestamp) {
        match self {
            Self::Json { attrs, tail } => *tail = line_tail(attrs, now),
            Self::Local { time, .. } => *time = now,
        }
    }

    fn encode(&mut self, out: &mut Vec<u8>, stream: Stream, bytes: &[u8]) {
        match self {
            Self::Json { tail, .. } => encode(out, stream, bytes, tail),
            Self::Local { attrs, time, parts } => {
                let parts = &mut parts[stream as usize];
                local::encode(out, stream, bytes, *time, attrs, parts);
            }
        }
    }

    fn format(&self) -> Format {
        match self {
            Self::Json { .. } => Format::JsonFile,
            Self::Local { .. } => Format::Local,
        }
    }
}

/// Writes one container's log.
#[derive(Debug)]
pub struct Writer {
    directory: OwnedFd,
    name: String,
    compress: bool,
    max_size: Option<u64>,
    max_file: u32,
    encoder: Encoder,
    file: File,
    size: u64,
    /// Output that does not end a line yet, per stream.
    pending: [Vec<u8>; 2],
    batch: Vec<u8>,
}

impl Writer {
    /// Opens the log `name` in `directory`, to be appended to.
    pub fn open(directory: &Path, name: &str, options: &Options) -> Result<Self, Error> {
        let descriptor = rustix::fs::open(
            directory,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| Error::Directory {
            directory: directory.to_owned(),
            source: errno.into(),
        })?;
        Self::open_at(descriptor, name, options)
    }

    /// As [`Writer::open`], in a directory that is open already.
    pub fn open_at(directory: OwnedFd, name: &str, options: &Options) -> Result<Self, Error> {
        let (file, size) = open_file(&directory, name, options.format)?;
        Ok(Self {
            directory,
            name: name.to_owned(),
            compress: options.compress,
            max_size: options.max_size,
            max_file: options.max_file.max(1),
            encoder: Encoder::new(options),
            file,
            size,
            pending: [Vec::new(), Vec::new()],
            batch: Vec::new(),
        })
    }

    /// Takes output of the container. Whole lines, and parts of a line of 16 KiB, are in the file
    /// when this returns; the rest waits for the end of its line or for [`Writer::finish`].
    ///
    /// After an error the entries in question are lost and the file ends with a whole line.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8]) -> Result<(), Error> {
        self.encoder.at(Timestamp::now());
        // Taken out so that it can be filled while entries are made of it.
        let mut pending = std::mem::take(&mut self.pending[stream as usize]);
        let mut result = Ok(());
        while !bytes.is_empty() {
            if pending.is_empty() {
                let Some(length) = entry_length(bytes) else {
                    pending.extend_from_slice(bytes);
                    break;
                };
                result = result.and(self.push(stream, &bytes[..length]));
                bytes = &bytes[length..];
                continue;
            }
            let window = &bytes[..bytes.len().min(CHUNK - pending.len())];
            let taken = memchr::memchr(b'\n', window).map_or(window.len(), |at| at + 1);
            pending.extend_from_slice(&window[..taken]);
            bytes = &bytes[taken..];
            if let Some(length) = entry_length(&pending) {
                result = result.and(self.push(stream, &pending[..length]));
                pending.drain(..length);
            }
        }
        if pending.is_empty() && pending.capacity() > 1024 {
            pending = Vec::new();
        }
        self.pending[stream as usize] = pending;
        result.and(self.flush())
    }

    /// Writes what the stream's last, unfinished line holds: the stream has ended.
    pub fn finish(&mut self, stream: Stream) -> Result<(), Error> {
        let pending = std::mem::take(&mut self.pending[stream as usize]);
        if pending.is_empty() {
            return Ok(());
        }
        self.encoder.at(Timestamp::now());
        let pushed = self.push(stream, &pending);
        pushed.and(self.flush())
    }

    /// Output that has been taken but is not in the file yet, because its line has not ended.
    pub fn pending(&self, stream: Stream) -> &[u8] {
        &self.pending[stream as usize]
    }

    /// Opens the file anew, after somebody else moved or removed it.
    pub fn reopen(&mut self) -> Result<(), Error> {
        let format = self.encoder.format();
        (self.file, self.size) = open_file(&self.directory, &self.name, format)?;
        Ok(())
    }

    fn push(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), Error> {
        let full = self
            .max_size
            .is_some_and(|max| self.size + self.batch.len() as u64 >= max);
        let mut result = Ok(());
        if full || self.batch.len() >= BATCH {
            result = self.flush();
        }
        if full {
            result = result.and(self.rotate());
        }
        self.encoder.encode(&mut self.batch, stream, bytes);
        result
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&self.batch);
        if written.is_ok() {
            self.size += self.batch.len() as u64;
        }
        self.batch.clear();
        self.batch.shrink_to(2 * BATCH);
        written.map_err(|source| {
            // Part of it may be there: the file shall end with a whole line.
            let _ = self.file.set_len(self.size);
            Error::Write {
                name: self.name.clone(),
                source,
            }
        })
    }

    fn rotate(&mut self) -> Result<(), Error> {
        let failed = |errno: Errno| Error::Rotate {
            name: self.name.clone(),
            source: errno.into(),
        };
        let directory = self.directory.as_fd();
        if self.max_file == 1 {
            // Removed, not truncated: whoever reads it reads it to its end.
            match rustix::fs::unlinkat(directory, &self.name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(errno)),
            }
        } else {
            for number in (1..self.max_file).rev() {
                let from = rotated_name(&self.name, number - 1);
                let to = rotated_name(&self.name, number);
                for (from, to) in [(&from, &to), (&packed_name(&from), &packed_name(&to))] {
                    match rustix::fs::renameat(directory, from, directory, to) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(errno) => return Err(failed(errno)),
                    }
                }
            }
        }
        self.reopen()?;
        if self.compress && self.max_file > 1 {
            // One that stays unpacked is read as it is.
            let packed = packed::pack(self.directory.as_fd(), &rotated_name(&self.name, 1));
            return packed.map_err(|source| Error::Rotate {
                name: self.name.clone(),
                source,
            });
        }
        Ok(())
    }
}

/// The name of a log's file: 0 is the current one.
pub(crate) fn rotated_name(name: &str, number: u32) -> String {
    if number == 0 {
        name.to_owned()
    } else {
        format!("{name}.{number}")
    }
}

/// Opens the current file; a line that a crash has torn is ended first, and a torn record removed.
fn open_file(directory: &OwnedFd, name: &str, format: Format) -> Result<(File, u64), Error> {
    let open = || -> io::Result<(File, u64)> {
        let file = File::from(rustix::fs::openat(
            directory,
            name,
            OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::from_raw_mode(0o640),
        )?);
        let mut size = file.metadata()?.len();
        if format == Format::Local {
            let whole = local::whole_length(&file, size)?;
            if whole < size {
                file.set_len(whole)?;
            }
            return Ok((file, whole));
        }
        let mut last = [b'\n'];
        if size > 0 {
            rustix::io::pread(&file, &mut last, size - 1)?;
        }
        if last != [b'\n'] {
            (&file).write_all(b"\n")?;
            size += 1;
        }
        Ok((file, size))
    };
    open().map_err(|source| Error::Open {
        name: name.to_owned(),
        source,
    })
}

/// Length of the entry at the start of `bytes`; `None` while it may still grow.
fn entry_length(bytes: &[u8]) -> Option<usize> {
    let window = &bytes[..bytes.len().min(CHUNK)];
    match memchr::memchr(b'\n', window) {
        Some(at) => Some(at + 1),
        None if window.len() == CHUNK => Some(whole_characters(window)),
        None => None,
    }
}

/// Length without a UTF-8 character that is cut by the end.
fn whole_characters(bytes: &[u8]) -> usize {
    let length = bytes.len();
    for back in 1..=length.min(3) {
        let byte = bytes[length - back];
        let needs = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return length,
        };
        return if needs > back { length - back } else { length };
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Query, Reader};

    fn lines(directory: &Path, name: &str) -> Vec<(Stream, String)> {
        Reader::open(directory, name, &Query::default())
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.stream, String::from_utf8(entry.bytes).unwrap())
            })
            .collect()
    }

    fn texts(directory: &Path, name: &str) -> Vec<String> {
        lines(directory, name)
            .into_iter()
            .map(|(_, text)| text)
            .collect()
    }

    #[test]
    fn lines_are_put_together_per_stream() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Writer::open(directory.path(), "log", &Options::default()).unwrap();
        log.write(Stream::Stdout, b"one\ntw").unwrap();
        log.write(Stream::Stderr, b"err").unwrap();
        assert_eq!(log.pending(Stream::Stdout), b"tw");
        assert_eq!(texts(directory.path(), "log"), ["one\n"]);
        log.write(Stream::Stdout, b"o\n\nthree").unwrap();
        log.write(Stream::Stderr, b"or\n").unwrap();
        log.finish(Stream::Stdout).unwrap();
        log.finish(Stream::Stderr).unwrap();
        assert_eq!(
            lines(directory.path(), "log"),
            [
                (Stream::Stdout, "one\n".into()),
                (Stream::Stdout, "two\n".into()),
                (Stream::Stdout, "\n".into()),
                (Stream::Stderr, "error\n".into()),
                (Stream::Stdout, "three".into()),
            ]
        );
    }

    #[test]
    fn long_lines_are_cut_at_16_kib_and_between_characters() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Writer::open(directory.path(), "log", &Options::default()).unwrap();
        let text = format!("{}\n", "x\u{20ac}".repeat(20_000));
        for piece in text.as_bytes().chunks(777) {
            log.write(Stream::Stdout, piece).unwrap();
        }
        log.write(Stream::Stdout, &vec![b'y'; CHUNK]).unwrap();
        log.write(Stream::Stdout, b"\n").unwrap();
        let texts = texts(directory.path(), "log");
        let lengths: Vec<usize> = texts.iter().map(String::len).collect();
        assert_eq!(lengths, [16384, 16384, 16384, 16384, 14465, 16384, 1]);
        assert_eq!(texts[..5].concat(), text);
        assert_eq!(texts[6], "\n");
    }

    #[test]
    fn every_way_of_cutting_the_input_gives_the_same_text() {
        let text: Vec<u8> = (0..200_000_u32)
            .map(|n| {
                if n % 1009 == 0 || n % 65_537 < 3 {
                    b'\n'
                } else {
                    b'a' + (n % 26) as u8
                }
            })
            .collect();
        let mut before = None;
        for size in [1, 100, 4096, 16_384, 16_385, 65_536, 200_000] {
            let directory = tempfile::tempdir().unwrap();
            let mut log = Writer::open(directory.path(), "log", &Options::default()).unwrap();
            let step = if size == 1 { 20_000 } else { text.len() };
            for piece in text[..step].chunks(size).chain(text[step..].chunks(50_000)) {
                log.write(Stream::Stdout, piece).unwrap();
            }
            log.finish(Stream::Stdout).unwrap();
            let texts = texts(directory.path(), "log");
            assert_eq!(texts.concat().as_bytes(), text, "{size}");
            assert_eq!(
                before.get_or_insert_with(|| texts.clone()),
                &texts,
                "{size}"
            );
        }
    }

    #[test]
    fn files_are_rotated_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            max_size: Some(2000),
            max_file: 3,
            ..Options::default()
        };
        let mut log = Writer::open(directory.path(), "log", &options).unwrap();
        for number in 0..200 {
            log.write(Stream::Stdout, format!("line {number}\n").as_bytes())
                .unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["log", "log.1", "log.2"]);
        for name in names {
            let size = std::fs::metadata(directory.path().join(name))
                .unwrap()
                .len();
            assert!(size < 2200, "{size}");
        }
        let texts = texts(directory.path(), "log");
        assert_eq!(texts.last().unwrap(), "line 199\n");
        for (number, text) in (0..200).rev().zip(texts.iter().rev()) {
            assert_eq!(text, &format!("line {number}\n"));
        }
        assert!(texts.len() > 40);
    }

    #[test]
    fn a_single_file_is_dropped_when_full() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            max_size: Some(500),
            max_file: 1,
            ..Options::default()
        };
        let mut log = Writer::open(directory.path(), "log", &options).unwrap();
        for number in 0..100 {
            log.write(Stream::Stdout, format!("line {number}\n").as_bytes())
                .unwrap();
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        assert_eq!(texts(directory.path(), "log").last().unwrap(), "line 99\n");
    }

    #[test]
    fn writing_goes_on_after_a_torn_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = Writer::open(directory.path(), "log", &Options::default()).unwrap();
        log.write(Stream::Stdout, b"one\ntwo\n").unwrap();
        drop(log);
        let size = std::fs::metadata(&path).unwrap().len();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(size - 9)
            .unwrap();
        assert_eq!(texts(directory.path(), "log"), ["one\n"]);
        let mut log = Writer::open(directory.path(), "log", &Options::default()).unwrap();
        log.write(Stream::Stdout, b"three\n").unwrap();
        assert_eq!(texts(directory.path(), "log"), ["one\n", "three\n"]);
    }

    #[test]
    fn a_failed_write_leaves_whole_lines() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Writer::open(directory.path(), "log", &Options::default()).unwrap();
        log.write(Stream::Stdout, b"one\n").unwrap();
        let good = std::mem::replace(
            &mut log.file,
            File::options().write(true).open("/dev/full").unwrap(),
        );
        let error = log.write(Stream::Stdout, b"two\n").unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::NoSpace);
        log.file = good;
        log.write(Stream::Stdout, b"three\n").unwrap();
        assert_eq!(texts(directory.path(), "log"), ["one\n", "three\n"]);
    }

    #[test]
    fn records_are_rotated_packed_and_read_back() {
        for (format, compress) in [
            (Format::Local, true),
            (Format::Local, false),
            (Format::JsonFile, true),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let options = Options {
                format,
                compress,
                max_size: Some(2000),
                max_file: 4,
                attrs: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            };
            let query = Query {
                format,
                ..Query::default()
            };
            let mut log = Writer::open(directory.path(), "log", &options).unwrap();
            let mut reader = crate::Cursor::open(directory.path(), "log", &query).unwrap();
            let mut followed = Vec::new();
            for number in 0..200 {
                log.write(Stream::Stdout, format!("line {number}\n").as_bytes())
                    .unwrap();
                if number % 7 == 0 {
                    while let Some(entry) = reader.next_entry().unwrap() {
                        followed.push(String::from_utf8(entry.bytes).unwrap());
                    }
                }
            }
            log.write(Stream::Stderr, &[b'x'; CHUNK + 5]).unwrap();
            log.finish(Stream::Stderr).unwrap();
            let expected: Vec<_> = (0..=196).map(|number| format!("line {number}\n")).collect();
            assert_eq!(followed, expected, "{format:?} {compress}");
            let rotated = directory.path().join(rotated_name("log", 1));
            let packed = directory.path().join(packed_name("log.1"));
            assert_eq!((rotated.exists(), packed.exists()), (!compress, compress));
            let read = |query: &Query| -> Vec<crate::Entry> {
                let reader = Reader::open(directory.path(), "log", query).unwrap();
                reader.map(Result::unwrap).collect()
            };
            let all = read(&query);
            let last = &all[all.len() - 1];
            assert_eq!((last.stream, last.bytes.len()), (Stream::Stderr, 5));
            assert_eq!(last.attrs["a"], "b");
            assert_eq!(all[all.len() - 3].bytes, b"line 199\n");
            assert!(all.len() > 40);
            for count in [1, 2, 30, 45] {
                let tail = read(&Query {
                    tail: crate::Tail::Last(count),
                    ..query.clone()
                });
                assert_eq!(tail, all[all.len() - count as usize..]);
            }
            // A record that a crash has torn is taken away.
            drop(log);
            let path = directory.path().join("log");
            let length = std::fs::metadata(&path).unwrap().len();
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(length - 3)
                .unwrap();
            let mut log = Writer::open(directory.path(), "log", &options).unwrap();
            log.write(Stream::Stdout, b"again\n").unwrap();
            let again = read(&query);
            assert_eq!(again.len(), all.len());
            assert_eq!(again[again.len() - 1].bytes, b"again\n");
        }
    }
}
