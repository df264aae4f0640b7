//! What a shim leaves on disk: the exit file and the journal.

use std::error::Error;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use sampan_fs::Sync;
use sampan_shim_protocol::{
    EXIT_FILE, Exit, JOURNAL_FILE, JournalEntry, JournalEvent, SHIM_DIRECTORY,
};

/// A journal beyond this size starts anew: it is read by an engine that was away for a while, not
/// kept as history.
const JOURNAL_LIMIT: u64 = 1 << 20;

/// The shim's directory of one container.
#[derive(Debug)]
pub(crate) struct Record {
    directory: OwnedFd,
    journal: File,
    sync: Sync,
}

impl Record {
    /// Opens `<container>/shim`, making it where it is missing, and takes away the exit file of an
    /// earlier run, which would be mistaken for this one's.
    pub(crate) fn open(container: &Path, sync: Sync) -> Result<Self, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let container = rustix::fs::open(container, flags, Mode::empty())?;
        match rustix::fs::mkdirat(&container, SHIM_DIRECTORY, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        let flags = flags | OFlags::NOFOLLOW;
        let directory = rustix::fs::openat(&container, SHIM_DIRECTORY, flags, Mode::empty())?;
        match rustix::fs::unlinkat(&directory, EXIT_FILE, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(0o600);
        let journal = File::from(rustix::fs::openat(&directory, JOURNAL_FILE, flags, mode)?);
        if journal
            .metadata()
            .is_ok_and(|data| data.len() > JOURNAL_LIMIT)
        {
            // A journal that stays long is only long.
            let _ = journal.set_len(0);
        }
        Ok(Self {
            directory,
            journal,
            sync,
        })
    }

    /// Adds a line to the journal. It is for an engine that comes back; nobody is held up when it
    /// cannot be written, and what must survive a power cut is in the exit file.
    pub(crate) fn note(&mut self, event: JournalEvent) {
        let at = now();
        if let Ok(mut line) = serde_json::to_vec(&JournalEntry { at, event }) {
            line.push(b'\n');
            let _ = self.journal.write_all(&line);
        }
    }

    /// Writes the exit file.
    pub(crate) fn exit(&self, exit: &Exit) -> Result<(), sampan_fs::Error> {
        let mut bytes = serde_json::to_vec(exit).expect("plain data is always JSON");
        bytes.push(b'\n');
        sampan_fs::write_atomic(self.directory.as_fd(), EXIT_FILE, &bytes, self.sync)
    }
}

/// The present time as it is told to others.
pub(crate) fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
