//! What a shim leaves on disk: the exit file and the journal.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use sampan_fs::Sync;
use sampan_shim_protocol::{
    EXIT_FILE, Exit, JOURNAL_FILE, JournalEntry, JournalEvent, OLD_JOURNAL_FILE, SHIM_DIRECTORY,
};

/// A journal beyond this size makes room for another one: it is read by an engine that was away for
/// a while, not kept as history.
const JOURNAL_LIMIT: u64 = 1 << 20;

/// The shim's directory of one container.
///
/// What must survive a power cut is synced: the exit file here, and by the engine that a launch
/// was under way. The journal is not: it is for an engine that was killed and comes back. A power
/// cut ends what it tells of, and an engine that finds a launch without an exit after one takes
/// the run for lost.
#[derive(Debug)]
pub(crate) struct Record {
    directory: OwnedFd,
    journal: File,
    length: u64,
    /// Number of the newest entry.
    newest: u64,
    /// The first entry of the present run, with which every further journal begins.
    start: Option<Vec<u8>>,
    sync: Sync,
}

impl Record {
    /// Opens `<container>/shim`, making it where it is missing, and takes away what an earlier run
    /// has left: its exit file would be mistaken for this one's, and its journal has been read,
    /// since the engine takes note of an end before it starts anew.
    pub(crate) fn open(container: &Path, sync: Sync) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let container = rustix::fs::open(container, flags, Mode::empty())?;
        match rustix::fs::mkdirat(&container, SHIM_DIRECTORY, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let flags = flags | OFlags::NOFOLLOW;
        let directory = rustix::fs::openat(&container, SHIM_DIRECTORY, flags, Mode::empty())?;
        for name in [EXIT_FILE, OLD_JOURNAL_FILE] {
            match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        let journal = open_journal(&directory)?;
        Ok(Self {
            directory,
            journal,
            length: 0,
            newest: 0,
            start: None,
            sync,
        })
    }

    /// Adds the entry that a run begins with to the journal.
    pub(crate) fn started(&mut self, pid: i32, at: &str) -> u64 {
        self.newest += 1;
        let entry = encode(&JournalEntry {
            number: self.newest,
            at: at.to_owned(),
            event: JournalEvent::Started { pid },
        });
        self.write(&entry);
        self.start = Some(entry);
        self.newest
    }

    /// Adds an entry to the journal and returns its number. Nobody is held up when it cannot be
    /// written.
    pub(crate) fn note(&mut self, event: JournalEvent) -> u64 {
        if self.length > JOURNAL_LIMIT {
            self.make_room();
        }
        self.newest += 1;
        let entry = encode(&JournalEntry {
            number: self.newest,
            at: now(),
            event,
        });
        self.write(&entry);
        self.newest
    }

    fn write(&mut self, entry: &[u8]) {
        if self.journal.write_all(entry).is_ok() {
            self.length += entry.len() as u64;
        }
    }

    /// Keeps what was written so far under another name and begins anew.
    fn make_room(&mut self) {
        let directory = self.directory.as_fd();
        let renamed =
            rustix::fs::renameat(directory, JOURNAL_FILE, directory, OLD_JOURNAL_FILE).is_ok();
        if renamed && let Ok(journal) = open_journal(&self.directory) {
            self.journal = journal;
            self.length = 0;
            if let Some(start) = self.start.clone() {
                self.write(&start);
            }
        }
    }

    /// Takes the exit file of the run before away: the next one would be mistaken for it.
    pub(crate) fn forget_exit(&self) -> Result<(), Errno> {
        match rustix::fs::unlinkat(&self.directory, EXIT_FILE, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Writes the exit file.
    pub(crate) fn exit(&self, exit: &Exit) -> Result<(), sampan_fs::Error> {
        let mut bytes = serde_json::to_vec(exit).expect("plain data is always JSON");
        bytes.push(b'\n');
        sampan_fs::write_atomic(self.directory.as_fd(), EXIT_FILE, &bytes, self.sync)
    }
}

fn open_journal(directory: &OwnedFd) -> Result<File, Errno> {
    let flags = OFlags::WRONLY
        | OFlags::CREATE
        | OFlags::TRUNC
        | OFlags::APPEND
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW;
    let mode = Mode::from_raw_mode(0o600);
    rustix::fs::openat(directory, JOURNAL_FILE, flags, mode).map(File::from)
}

fn encode(entry: &JournalEntry) -> Vec<u8> {
    let mut line = serde_json::to_vec(entry).expect("plain data is always JSON");
    line.push(b'\n');
    line
}

/// The present time as it is told to others.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_journal_keeps_its_newest_entries_and_the_start() {
        let container = tempfile::tempdir().unwrap();
        let mut record = Record::open(container.path(), Sync::Volatile).unwrap();
        record.started(7, "2026-01-01T00:00:00Z");
        let mut newest = 1;
        for number in 0..60_000 {
            newest = record.note(JournalEvent::ExecExited {
                id: format!("{number:064}"),
                exit_code: 0,
            });
        }
        let directory = container.path().join(SHIM_DIRECTORY);
        let mut numbers = Vec::new();
        for name in [OLD_JOURNAL_FILE, JOURNAL_FILE] {
            let text = std::fs::read_to_string(directory.join(name)).unwrap();
            assert!(text.len() as u64 <= JOURNAL_LIMIT + 1024);
            let mut entries = text
                .lines()
                .map(|line| serde_json::from_str::<JournalEntry>(line).unwrap());
            let first = entries.next().unwrap();
            assert_eq!(
                (first.number, first.at.as_str()),
                (1, "2026-01-01T00:00:00Z")
            );
            numbers.extend(entries.map(|entry| entry.number));
        }
        assert_eq!(numbers.last(), Some(&newest));
        assert!(numbers.is_sorted_by(|a, b| a + 1 == *b));
        // The next run begins anew.
        drop(Record::open(container.path(), Sync::Volatile).unwrap());
        assert_eq!(std::fs::read(directory.join(JOURNAL_FILE)).unwrap(), b"");
        assert!(!directory.join(OLD_JOURNAL_FILE).exists());
    }
}
