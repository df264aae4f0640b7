//! Reading what a log holds.

use std::path::Path;

use jiff::Timestamp;

use crate::{Cursor, Entry, Error, Format, Stream};

/// Which streams are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streams {
    /// Both.
    #[default]
    Both,
    /// One.
    Only(Stream),
}

/// How far back to start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tail {
    /// At the oldest entry.
    #[default]
    All,
    /// At the last so many entries, counted before any other condition, as Docker does.
    Last(u64),
}

/// Which entries are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// What is in the files.
    pub format: Format,
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// Not newer than this; reading ends at the first entry that is.
    pub until: Option<Timestamp>,
    /// How far back to start.
    pub tail: Tail,
    /// Which streams.
    pub streams: Streams,
}

impl Query {
    pub(crate) fn wants(&self, entry: &Entry) -> bool {
        let stream = match self.streams {
            Streams::Both => true,
            Streams::Only(stream) => entry.stream == stream,
        };
        stream && self.since.is_none_or(|since| entry.time >= since)
    }
}

/// Iterates over the entries that were in a log when it was opened, oldest first.
#[derive(Debug)]
pub struct Reader {
    cursor: Cursor,
}

impl Reader {
    /// Opens the log `name` in `directory`, with its rotated files. One that does not exist is
    /// empty.
    pub fn open(directory: &Path, name: &str, query: &Query) -> Result<Self, Error> {
        let mut cursor = Cursor::open(directory, name, query)?;
        cursor.limit_to_present()?;
        Ok(Self { cursor })
    }
}

impl Iterator for Reader {
    type Item = Result<Entry, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.cursor.next_entry().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Options, Writer};

    fn numbers(directory: &Path, query: &Query) -> Vec<u32> {
        Reader::open(directory, "log", query)
            .unwrap()
            .map(|entry| {
                String::from_utf8(entry.unwrap().bytes)
                    .unwrap()
                    .trim()
                    .parse()
                    .unwrap()
            })
            .collect()
    }

    fn write_numbers(directory: &Path, max_size: u64, count: u32) {
        let options = Options {
            max_size: Some(max_size),
            max_file: 5,
            ..Options::default()
        };
        let mut log = Writer::open(directory, "log", &options).unwrap();
        for number in 0..count {
            log.write(Stream::Stdout, format!("{number}\n").as_bytes())
                .unwrap();
        }
    }

    #[test]
    fn a_tail_reaches_across_rotated_files() {
        let directory = tempfile::tempdir().unwrap();
        write_numbers(directory.path(), 1500, 80);
        assert!(directory.path().join("log.3").exists());
        let all = numbers(directory.path(), &Query::default());
        assert_eq!(all, (0..80).collect::<Vec<_>>());
        for count in [0, 1, 2, 17, 21, 22, 42, 43, 79, 80, 81, u64::MAX] {
            let query = Query {
                tail: Tail::Last(count),
                ..Query::default()
            };
            let start = all.len() - (count.min(80) as usize);
            assert_eq!(numbers(directory.path(), &query), &all[start..], "{count}");
        }
    }

    #[test]
    fn a_tail_of_a_large_file_reads_blocks_from_its_end() {
        let directory = tempfile::tempdir().unwrap();
        write_numbers(directory.path(), u64::MAX, 5000);
        for count in [1, 999, 1000, 4999, 5000, 5001] {
            let query = Query {
                tail: Tail::Last(count),
                ..Query::default()
            };
            let numbers = numbers(directory.path(), &query);
            assert_eq!(numbers.len() as u64, count.min(5000));
            assert_eq!(*numbers.last().unwrap(), 4999);
        }
    }

    #[test]
    fn a_period_is_cut_out() {
        let directory = tempfile::tempdir().unwrap();
        let mut text = String::new();
        for second in 0..10 {
            text += &format!(
                "{{\"log\":\"{second}\\n\",\"stream\":\"{}\",\"time\":\"2026-11-23T10:00:0{second}Z\"}}\n",
                if second % 2 == 0 { "stdout" } else { "stderr" }
            );
        }
        std::fs::write(directory.path().join("log"), text).unwrap();
        let at = |second: u32| Some(format!("2026-11-23T10:00:0{second}Z").parse().unwrap());
        let query = Query {
            since: at(3),
            until: at(6),
            ..Query::default()
        };
        assert_eq!(numbers(directory.path(), &query), [3, 4, 5, 6]);
        let query = Query {
            tail: Tail::Last(5),
            streams: Streams::Only(Stream::Stderr),
            ..query
        };
        assert_eq!(numbers(directory.path(), &query), [5]);
    }

    #[test]
    fn what_cannot_be_read_is_skipped() {
        let directory = tempfile::tempdir().unwrap();
        write_numbers(directory.path(), u64::MAX, 3);
        let path = directory.path().join("log");
        let whole = std::fs::read(&path).unwrap();
        let mut damaged = vec![0; 5000];
        damaged.extend(b"\nnot json\n\n");
        damaged.extend(vec![b'x'; 3 << 20]);
        damaged.push(b'\n');
        damaged.extend(&whole);
        damaged.extend(br#"{"log":"9\n","stream":"stdout","ti"#);
        std::fs::write(&path, damaged).unwrap();
        assert_eq!(numbers(directory.path(), &Query::default()), [0, 1, 2]);
        let query = Query {
            tail: Tail::Last(2),
            ..Query::default()
        };
        assert_eq!(numbers(directory.path(), &query), [1, 2]);
    }

    #[test]
    fn a_missing_log_is_empty_and_a_missing_directory_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(numbers(directory.path(), &Query::default()).is_empty());
        let missing = directory.path().join("missing");
        let error = Reader::open(&missing, "log", &Query::default()).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::NotFound);
    }
}
