//! A file that is only added to, kept in two generations so that it stays bounded.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::{Error, Result, Sync};

const CURRENT: &str = "current";
const PREVIOUS: &str = "previous";
/// Hexadecimal digits of the checksum before each entry.
const CHECKSUM: usize = 16;

/// A journal in a directory of its own.
///
/// An entry is in the hands of the kernel when [`Journal::append`] returns: it survives the death
/// of the process at any instant. It is not synced: a power cut may take the newest entries, or
/// leave holes among them, which are skipped when they are read.
///
/// When the newest generation [`is_full`](Journal::is_full), [`Journal::renew`] begins another one
/// with an entry that stands for all that went before; the one before the last is dropped.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    dir: OwnedFd,
    file: File,
    /// Bytes of the newest generation.
    length: u64,
    /// Bytes of the entry that it began with.
    base: u64,
    limit: u64,
    is_new: bool,
}

impl Journal {
    /// Opens a journal, making its directory (mode 0700) if needed. An entry that a kill cut short
    /// is taken away. `limit` bounds a generation, in bytes. Only one process may have it open.
    pub fn open(directory: impl AsRef<Path>, limit: u64) -> Result<Self> {
        let path = directory.as_ref().to_path_buf();
        let failed = |action: &'static str| {
            let key = path.display().to_string();
            move |source| Error::Files {
                action,
                key,
                source,
            }
        };
        sampan_fs::create_dir_all(&path, 0o700).map_err(failed("create journal"))?;
        let dir = sampan_fs::open_dir(&path).map_err(failed("open journal"))?;
        let exists =
            |name| rustix::fs::statat(&dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok();
        let is_new = !exists(CURRENT) && !exists(PREVIOUS);
        let file = open_for_appending(&dir)
            .map_err(|errno| io_error(&path.join(CURRENT), "open", errno.into()))
            .map_err(failed("open journal"))?;
        let length = cut_torn_end(&file)
            .map_err(|error| io_error(&path.join(CURRENT), "repair", error))
            .map_err(failed("repair journal"))?;
        Ok(Self {
            path: path.clone(),
            dir,
            file,
            length,
            base: 0,
            limit,
            is_new,
        })
    }

    /// Returns whether there was no journal before it was opened.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Adds an entry, which must not contain a line break. After a failure (a full disk) the
    /// journal is as before. Blocks for the page cache only.
    pub fn append(&mut self, entry: &[u8]) -> Result<()> {
        let line = line(entry);
        if let Err(error) = self.file.write_all(&line) {
            // What was written of it must not stick to the next entry.
            let _ = self.file.set_len(self.length);
            return Err(self.failed("add to journal", CURRENT, error));
        }
        self.length += line.len() as u64;
        Ok(())
    }

    /// Returns whether it is time for [`Journal::renew`].
    pub fn is_full(&self) -> bool {
        self.length.saturating_sub(self.base) >= self.limit
    }

    /// Begins a new generation with `entry`, which stands for all entries so far. A kill in
    /// between leaves the old generation whole.
    pub fn renew(&mut self, entry: &[u8]) -> Result<()> {
        let first = line(entry);
        let failed = |source| Error::Files {
            action: "renew journal",
            key: self.path.display().to_string(),
            source,
        };
        let io = |errno: Errno| failed(io_error(&self.path, "rename in", errno.into()));
        match rustix::fs::renameat(&self.dir, CURRENT, &self.dir, PREVIOUS) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(io(errno)),
        }
        sampan_fs::write_atomic(&self.dir, CURRENT, &first, Sync::Volatile).map_err(failed)?;
        self.file = open_for_appending(&self.dir).map_err(io)?;
        self.length = first.len() as u64;
        self.base = self.length;
        Ok(())
    }

    /// Returns a reader of all entries so far, oldest first. What is added or renewed afterwards
    /// does not concern it.
    pub fn read(&self) -> JournalReader {
        let previous = self.open_to_read(PREVIOUS).map(|file| file.take(u64::MAX));
        let current = self.open_to_read(CURRENT);
        JournalReader {
            files: [previous, current.map(|file| file.take(self.length))]
                .into_iter()
                .flatten()
                .map(BufReader::new)
                .rev()
                .collect(),
        }
    }

    /// Returns a reader of the newest generation only. It begins with the entry that stands for
    /// all before, unless the journal was never renewed or a kill came between.
    pub fn read_newest(&self) -> JournalReader {
        let current = self.open_to_read(CURRENT);
        JournalReader {
            files: current
                .map(|file| BufReader::new(file.take(self.length)))
                .into_iter()
                .collect(),
        }
    }

    fn open_to_read(&self, name: &str) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.dir, name, flags, Mode::empty())
            .ok()
            .map(File::from)
    }

    fn failed(&self, action: &'static str, name: &str, error: std::io::Error) -> Error {
        Error::Files {
            action,
            key: self.path.display().to_string(),
            source: io_error(&self.path.join(name), "write", error),
        }
    }
}

/// Reads the entries of a [`Journal`]. Damaged ones are skipped. Blocks for the disk.
#[derive(Debug)]
pub struct JournalReader {
    /// The next one last.
    files: Vec<BufReader<std::io::Take<File>>>,
}

impl Iterator for JournalReader {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let file = self.files.last_mut()?;
            let mut line = Vec::new();
            match file.read_until(b'\n', &mut line) {
                Ok(read) if read > 0 => {
                    if let Some(entry) = entry(&line) {
                        return Some(entry.to_vec());
                    }
                    tracing::warn!(bytes = read, "skipped a damaged entry of a journal");
                }
                Ok(_) | Err(_) => {
                    self.files.pop();
                }
            }
        }
    }
}

fn line(entry: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(CHECKSUM + entry.len() + 2);
    line.extend(checksum(entry).as_bytes());
    line.push(b' ');
    line.extend(entry);
    line.push(b'\n');
    line
}

fn entry(line: &[u8]) -> Option<&[u8]> {
    let (sum, rest) = line.split_at_checked(CHECKSUM)?;
    let entry = rest.strip_prefix(b" ")?.strip_suffix(b"\n")?;
    (checksum(entry).as_bytes() == sum).then_some(entry)
}

fn checksum(entry: &[u8]) -> String {
    let digest = Sha256::digest(entry);
    digest[..CHECKSUM / 2]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn open_for_appending(dir: &OwnedFd) -> rustix::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, CURRENT, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

/// Takes away what stands behind the last line break; returns what is left.
fn cut_torn_end(file: &File) -> std::io::Result<u64> {
    use std::os::unix::fs::FileExt;
    const STEP: u64 = 64 << 10;
    let length = file.metadata()?.len();
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(STEP);
        let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.read_exact_at(&mut bytes, start)?;
        if let Some(at) = bytes.iter().rposition(|byte| *byte == b'\n') {
            end = start + at as u64 + 1;
            break;
        }
        end = start;
    }
    if end < length {
        file.set_len(end)?;
    }
    Ok(end)
}

fn io_error(path: &Path, action: &'static str, source: std::io::Error) -> sampan_fs::Error {
    sampan_fs::Error::Io {
        action,
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(journal: &Journal) -> Vec<String> {
        let entries = journal.read();
        entries.map(|e| String::from_utf8(e).unwrap()).collect()
    }

    #[test]
    fn entries_survive_a_reopening_in_order() {
        let tmp = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(tmp.path().join("j"), 1 << 20).unwrap();
        assert!(journal.is_new());
        for n in 0..100 {
            journal.append(format!("entry {n}").as_bytes()).unwrap();
        }
        let before = texts(&journal);
        drop(journal);
        let journal = Journal::open(tmp.path().join("j"), 1 << 20).unwrap();
        assert!(!journal.is_new());
        assert_eq!(texts(&journal), before);
        assert_eq!(before.len(), 100);
    }

    #[test]
    fn a_cut_at_any_byte_loses_only_the_entry_that_was_cut() {
        let tmp = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(tmp.path(), 1 << 20).unwrap();
        for text in ["one", "two", "three"] {
            journal.append(text.as_bytes()).unwrap();
        }
        let whole = std::fs::read(tmp.path().join(CURRENT)).unwrap();
        for length in 0..=whole.len() {
            std::fs::write(tmp.path().join(CURRENT), &whole[..length]).unwrap();
            let mut journal = Journal::open(tmp.path(), 1 << 20).unwrap();
            let complete = whole[..length].iter().filter(|b| **b == b'\n').count();
            assert_eq!(texts(&journal), ["one", "two", "three"][..complete]);
            journal.append(b"next").unwrap();
            assert_eq!(texts(&journal).last().unwrap(), "next");
            assert_eq!(texts(&journal).len(), complete + 1);
        }
    }

    #[test]
    fn damage_in_the_middle_is_skipped() {
        let tmp = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(tmp.path(), 1 << 20).unwrap();
        for text in ["one", "two", "three"] {
            journal.append(text.as_bytes()).unwrap();
        }
        let mut bytes = std::fs::read(tmp.path().join(CURRENT)).unwrap();
        let at = bytes.windows(3).position(|w| w == b"two").unwrap();
        bytes[at..at + 3].fill(0);
        std::fs::write(tmp.path().join(CURRENT), bytes).unwrap();
        let journal = Journal::open(tmp.path(), 1 << 20).unwrap();
        assert_eq!(texts(&journal), ["one", "three"]);
    }

    #[test]
    fn two_generations_are_kept_and_a_kill_between_them_loses_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(tmp.path(), 200).unwrap();
        let reader = {
            for n in 0.. {
                if journal.is_full() {
                    break;
                }
                journal.append(format!("old {n}").as_bytes()).unwrap();
            }
            journal.read()
        };
        let old = texts(&journal);
        journal.renew(b"summary").unwrap();
        assert!(!journal.is_full());
        journal.append(b"new").unwrap();
        // A reader sees what was there when it was made.
        assert_eq!(reader.count(), old.len());
        let all = texts(&journal);
        assert_eq!(all[..old.len()], old);
        assert_eq!(all[old.len()..], ["summary", "new"]);
        std::fs::rename(tmp.path().join(CURRENT), tmp.path().join(PREVIOUS)).unwrap();
        let journal = Journal::open(tmp.path(), 200).unwrap();
        assert_eq!(texts(&journal), ["summary", "new"]);
        assert!(!journal.is_new());
    }

    #[test]
    fn a_full_disk_leaves_the_journal_as_it_was() {
        let tmp = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(tmp.path(), 1 << 20).unwrap();
        journal.append(b"one").unwrap();
        let good = std::mem::replace(
            &mut journal.file,
            File::options().write(true).open("/dev/full").unwrap(),
        );
        assert_eq!(
            journal.append(b"two").unwrap_err().kind(),
            crate::ErrorKind::NoSpace
        );
        journal.file = good;
        journal.append(b"three").unwrap();
        assert_eq!(texts(&journal), ["one", "three"]);
    }
}
