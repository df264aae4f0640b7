//! What builds came to, after they have ended.
//!
//! ```text
//! ROOT/build/history/<digest of name>/record.json    crate state
//! ROOT/build/history/<digest of name>/progress       what was told while it ran, as it was given
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sampan_oci::Digest;
use sampan_state::{Layout, Store, Sync};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Builds that are kept; of more the oldest are forgotten, unless they are pinned.
const KEPT: usize = 100;

/// A build that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// The name that the client gave it.
    pub name: String,
    /// What read the description of the build; empty where the client did.
    pub frontend: String,
    /// What was asked of it.
    pub options: BTreeMap<String, String>,
    /// What was to be made of it, each by kind and attributes.
    pub outputs: Vec<(String, BTreeMap<String, String>)>,
    /// RFC 3339.
    pub created: String,
    /// RFC 3339.
    pub completed: String,
    /// Code and message, if it failed.
    pub error: Option<(i32, String)>,
    /// What the client was told of the outputs.
    pub told: BTreeMap<String, String>,
    /// How many steps there were.
    pub total: usize,
    /// How many of them were done.
    pub done: usize,
    /// How many were known.
    pub cached: usize,
    /// How many warnings were told.
    pub warnings: usize,
    /// It is not forgotten by itself.
    pub pinned: bool,
}

/// The builds that have ended; clones share them.
#[derive(Clone, Debug)]
pub struct History(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    records: Store<BuildRecord>,
    root: PathBuf,
    /// Held while records change.
    changing: Mutex<()>,
}

fn key(name: &str) -> String {
    Digest::of(name.as_bytes()).hex()
}

impl History {
    /// Opens the history below `root`. A damaged record is set aside.
    pub fn open(root: &Path) -> Result<Self> {
        let root = root.join("build/history");
        let records = Store::open_as(&root, Layout::Directories)?;
        let changing = Mutex::default();
        Ok(Self(Arc::new(Shared {
            records,
            root,
            changing,
        })))
    }

    /// All builds, the newest first.
    pub fn list(&self) -> Vec<Arc<BuildRecord>> {
        let records = self.0.records.iter();
        let mut all: Vec<_> = records.map(|(_, record)| record).collect();
        all.sort_by(|a, b| b.created.cmp(&a.created));
        all
    }

    /// The build of this name.
    pub fn get(&self, name: &str) -> Option<Arc<BuildRecord>> {
        self.0.records.get(&key(name))
    }

    /// What was told while it ran. Blocks.
    pub fn progress(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.0.root.join(key(name)).join("progress");
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read.map_err(Error::io("read what a build told")),
        }
    }

    /// Notes a build with what it told, and forgets old ones. A power cut may take it. Blocks.
    pub fn note(&self, record: &BuildRecord, progress: &[u8]) -> Result<()> {
        let _changing = self.changing();
        let key = key(&record.name);
        self.0.records.put(&key, record, Sync::Volatile)?;
        let path = self.0.root.join(&key).join("progress");
        sampan_fs::write_file(&path, progress, Sync::Volatile)?;
        let unpinned = self.list().into_iter().filter(|record| !record.pinned);
        for old in unpinned.skip(KEPT) {
            self.forget(&old.name)?;
        }
        Ok(())
    }

    /// Keeps a build from being forgotten, or lets it be. Answers whether there is one. Blocks.
    pub fn pin(&self, name: &str, pinned: Pinned) -> Result<bool> {
        let _changing = self.changing();
        let Some(record) = self.get(name) else {
            return Ok(false);
        };
        let mut record = BuildRecord::clone(&record);
        record.pinned = pinned == Pinned::Yes;
        self.0.records.put(&key(name), &record, Sync::Volatile)?;
        Ok(true)
    }

    /// Forgets a build. Answers whether there was one. Blocks.
    pub fn remove(&self, name: &str) -> Result<bool> {
        let _changing = self.changing();
        self.forget(name)
    }

    fn forget(&self, name: &str) -> Result<bool> {
        let key = key(name);
        let was = self.0.records.remove(&key, Sync::Volatile)?;
        let directory = self.0.root.join(key);
        if directory.exists() {
            sampan_fs::remove_dir_all(directory)?;
        }
        Ok(was)
    }

    fn changing(&self) -> std::sync::MutexGuard<'_, ()> {
        self.0
            .changing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a build is kept from being forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// It stays.
    Yes,
    /// It may go.
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: usize) -> BuildRecord {
        BuildRecord {
            name: format!("build {number}"),
            created: format!("2026-01-01T00:00:00.{number:06}Z"),
            ..BuildRecord::default()
        }
    }

    #[test]
    fn old_builds_are_forgotten_and_pinned_ones_stay() {
        let root = tempfile::tempdir().unwrap();
        let history = History::open(root.path()).unwrap();
        history.note(&record(0), b"first").unwrap();
        assert!(history.pin("build 0", Pinned::Yes).unwrap());
        for number in 1..=KEPT + 3 {
            history.note(&record(number), b"x").unwrap();
        }
        let history = History::open(root.path()).unwrap();
        assert_eq!(history.list().len(), KEPT + 1);
        assert_eq!(history.progress("build 0").unwrap(), b"first");
        assert!(history.get("build 3").is_none());
        assert!(history.get("build 4").is_some());
        assert!(history.remove("build 4").unwrap());
        assert!(!history.remove("build 4").unwrap());
        assert_eq!(history.progress("build 4").unwrap(), b"");
        assert!(!history.pin("build 4", Pinned::No).unwrap());
        let directories = std::fs::read_dir(root.path().join("build/history")).unwrap();
        assert_eq!(directories.count(), KEPT);
    }
}
