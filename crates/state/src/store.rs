//! A directory of records.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::envelope;
use crate::{Error, Result, Sync};

/// Records longer than this are taken for damaged ones.
const LONGEST: u64 = 64 << 20;
/// Writers of different keys rarely meet on one of this many locks.
const STRIPES: usize = 16;
const RECORD: &str = "record.json";
const SUFFIX: &str = ".json";

/// Where the file of a record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `<dir>/<key>.json`.
    Files,
    /// `<dir>/<key>/record.json`; the object keeps other files beside it.
    Directories,
}

/// A record that could not be read when the store was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// The key its file stood for.
    pub key: String,
    /// Where the file lies now.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// A directory of records of one type. Shared by reference between threads.
#[derive(Debug)]
pub struct Store<T> {
    path: PathBuf,
    dir: OwnedFd,
    layout: Layout,
    index: RwLock<BTreeMap<String, Arc<T>>>,
    writers: [Mutex<()>; STRIPES],
    hasher: RandomState,
    damaged: Vec<Damaged>,
}

impl<T: Serialize + DeserializeOwned + Clone> Store<T> {
    /// Opens a store of [`Layout::Files`], creating the directory if needed.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_as(dir, Layout::Files)
    }

    /// Opens a store, creating its directory (mode 0700) if needed: reads every record, sets
    /// damaged ones aside and removes temporary files that a kill left behind.
    pub fn open_as(dir: impl AsRef<Path>, layout: Layout) -> Result<Self> {
        let path = dir.as_ref().to_path_buf();
        let failed = |action| {
            let key = path.display().to_string();
            move |source| Error::Files {
                action,
                key,
                source,
            }
        };
        sampan_fs::create_dir_all(&path, 0o700).map_err(failed("create store"))?;
        let fd = sampan_fs::open_dir(&path).map_err(failed("open store"))?;
        let mut store = Self {
            dir: fd,
            layout,
            index: RwLock::new(BTreeMap::new()),
            writers: [const { Mutex::new(()) }; STRIPES],
            hasher: RandomState::new(),
            damaged: Vec::new(),
            path: path.clone(),
        };
        store.load().map_err(failed("read store"))?;
        Ok(store)
    }

    fn load(&mut self) -> sampan_fs::Result<()> {
        let mut index = BTreeMap::new();
        for entry in names(self.dir.as_fd()).map_err(sampan_fs_error(&self.path))? {
            let (key, dir, file) = match self.layout {
                Layout::Files if entry.starts_with(".tmp-") => {
                    discard(self.dir.as_fd(), &entry);
                    continue;
                }
                Layout::Files => {
                    let Some(key) = entry.strip_suffix(SUFFIX) else {
                        continue;
                    };
                    (key.to_owned(), None, entry.clone())
                }
                Layout::Directories => {
                    let Some(dir) = open_subdir(self.dir.as_fd(), &entry) else {
                        continue;
                    };
                    sweep(&dir);
                    (entry.clone(), Some(dir), RECORD.to_owned())
                }
            };
            if check_key(&key).is_err() {
                continue;
            }
            let base = dir.as_ref().map_or(self.dir.as_fd(), AsFd::as_fd);
            match read(base, &file) {
                Ok(None) => {}
                Ok(Some(value)) => {
                    index.insert(key, Arc::new(value));
                }
                Err(reason) => {
                    let damaged = self.set_aside(base, key, &file, reason);
                    tracing::warn!(key = damaged.key, reason = damaged.reason, path = %damaged.path.display(), "set a damaged record aside");
                    self.damaged.push(damaged);
                }
            }
        }
        self.index = RwLock::new(index);
        Ok(())
    }

    fn set_aside(&self, base: impl AsFd, key: String, file: &str, reason: String) -> Damaged {
        let name = format!("{file}.damaged");
        let moved = rustix::fs::renameat(&base, file, &base, &name).is_ok();
        let name = if moved { name } else { file.to_owned() };
        let path = match self.layout {
            Layout::Files => self.path.join(name),
            Layout::Directories => self.path.join(&key).join(name),
        };
        Damaged { key, path, reason }
    }

    /// Returns the records that could not be read when the store was opened.
    pub fn damaged(&self) -> &[Damaged] {
        &self.damaged
    }

    /// Returns the store's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a record, replacing the one of the same key. With [`Sync::Durable`] it is on disk
    /// when the call returns. Blocks the thread.
    pub fn put(&self, key: &str, value: &T, sync: Sync) -> Result<()> {
        check_key(key)?;
        let bytes = envelope::seal(value).map_err(|source| Error::Encode {
            key: key.to_owned(),
            source,
        })?;
        let _writing = self.writing(key);
        let wrote = match self.layout {
            Layout::Files => {
                sampan_fs::write_atomic(&self.dir, format!("{key}{SUFFIX}"), &bytes, sync)
            }
            Layout::Directories => self.put_in_directory(key, &bytes, sync),
        };
        wrote.map_err(|source| Error::Files {
            action: "write record",
            key: key.to_owned(),
            source,
        })?;
        self.index
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.to_owned(), Arc::new(value.clone()));
        Ok(())
    }

    fn put_in_directory(&self, key: &str, bytes: &[u8], sync: Sync) -> sampan_fs::Result<()> {
        let path = self.path.join(key);
        let io = sampan_fs_error(&path);
        match rustix::fs::mkdirat(&self.dir, key, Mode::RWXU) {
            Ok(()) if sync == Sync::Durable => sampan_fs::sync_dir(&self.dir).map_err(&io)?,
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(io(e.into())),
        }
        let dir = rustix::fs::openat(&self.dir, key, directory(), Mode::empty())
            .map_err(|e| io(e.into()))?;
        sampan_fs::write_atomic(&dir, RECORD, bytes, sync)
    }

    /// Returns a record.
    pub fn get(&self, key: &str) -> Option<Arc<T>> {
        self.index
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    /// Reads a record's file again and says what is wrong with it, if it is not the record that
    /// the store knows. Blocks.
    pub fn check(&self, key: &str) -> std::result::Result<(), String>
    where
        T: PartialEq,
    {
        let file = match self.layout {
            Layout::Files => format!("{key}{SUFFIX}"),
            Layout::Directories => format!("{key}/{RECORD}"),
        };
        check_key(key).map_err(|error| error.to_string())?;
        let _writing = self.writing(key);
        let known = self.get(key);
        match (read::<T>(&self.dir, &file)?, known) {
            (Some(stored), Some(known)) if stored == *known => Ok(()),
            (Some(_), Some(_)) => Err("not what was written".to_owned()),
            (None, Some(_)) => Err("missing".to_owned()),
            (_, None) => Err("not known".to_owned()),
        }
    }

    /// Returns all records, ordered by key.
    pub fn iter(&self) -> impl Iterator<Item = (String, Arc<T>)> + use<T> {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<_> = index.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        all.into_iter()
    }

    /// Returns the number of records.
    pub fn len(&self) -> usize {
        self.index
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Returns whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes a record; it is no error when there is none. Of [`Layout::Directories`] only the
    /// record goes: the directory belongs to the caller. Returns whether there was one.
    pub fn remove(&self, key: &str, sync: Sync) -> Result<bool> {
        check_key(key)?;
        let _writing = self.writing(key);
        let path = match self.layout {
            Layout::Files => format!("{key}{SUFFIX}"),
            Layout::Directories => format!("{key}/{RECORD}"),
        };
        let failed = |source| Error::Files {
            action: "remove record",
            key: key.to_owned(),
            source,
        };
        let io = sampan_fs_error(&self.path);
        match rustix::fs::unlinkat(&self.dir, &path, AtFlags::empty()) {
            Ok(()) if sync == Sync::Durable => {
                let held;
                let dir = match self.layout {
                    Layout::Files => self.dir.as_fd(),
                    Layout::Directories => {
                        held = rustix::fs::openat(&self.dir, key, directory(), Mode::empty())
                            .map_err(|e| failed(io(e.into())))?;
                        held.as_fd()
                    }
                };
                sampan_fs::sync_dir(dir).map_err(|e| failed(io(e)))?;
            }
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(e) => return Err(failed(io(e.into()))),
        }
        let removed = self
            .index
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
        Ok(removed.is_some())
    }

    /// Orders the writers of one key, so that memory and disk agree on who was last.
    fn writing(&self, key: &str) -> MutexGuard<'_, ()> {
        let stripe = (self.hasher.hash_one(key) % STRIPES as u64) as usize;
        self.writers[stripe]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_key(key: &str) -> Result<()> {
    let bad = key.is_empty()
        || key.len() > 240
        || key.starts_with('.')
        || key.bytes().any(|b| b == b'/' || b == 0);
    if bad {
        return Err(Error::BadKey {
            key: key.to_owned(),
        });
    }
    Ok(())
}

fn read<T: DeserializeOwned>(dir: impl AsFd, file: &str) -> std::result::Result<Option<T>, String> {
    use std::io::Read;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(dir, file, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(None),
        Err(e) => return Err(format!("open: {e}")),
    };
    let mut bytes = Vec::new();
    std::fs::File::from(fd)
        .take(LONGEST)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("read: {e}"))?;
    envelope::unseal(&bytes)
        .map(Some)
        .map_err(|e| e.to_string())
}

fn names(dir: impl AsFd) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().to_str()
            && name != "."
            && name != ".."
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn open_subdir(dir: impl AsFd, name: &str) -> Option<OwnedFd> {
    rustix::fs::openat(dir, name, directory(), Mode::empty()).ok()
}

/// Removes temporary files of writes that a kill cut short.
fn sweep(dir: impl AsFd) {
    for name in names(&dir).unwrap_or_default() {
        if name.starts_with(".tmp-") {
            discard(&dir, &name);
        }
    }
}

fn discard(dir: impl AsFd, name: &str) {
    // Left for the next start when it cannot be removed now.
    let _ = rustix::fs::unlinkat(dir, OsStr::new(name), AtFlags::empty());
}

fn directory() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn sampan_fs_error(path: &Path) -> impl Fn(std::io::Error) -> sampan_fs::Error {
    let path = path.to_path_buf();
    move |source| sampan_fs::Error::Io {
        action: "access",
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
    struct Boat {
        planks: u32,
        name: String,
    }

    fn boat(planks: u32) -> Boat {
        Boat {
            planks,
            name: "sanpan \u{1f6f6}".into(),
        }
    }

    #[test]
    fn records_survive_a_reopening_in_both_layouts() {
        for layout in [Layout::Files, Layout::Directories] {
            let tmp = tempfile::tempdir().unwrap();
            let store = Store::open_as(tmp.path(), layout).unwrap();
            store.put("a", &boat(3), Sync::Durable).unwrap();
            store.put("b", &boat(4), Sync::Volatile).unwrap();
            store.put("a", &boat(5), Sync::Durable).unwrap();
            assert!(store.remove("b", Sync::Durable).unwrap());
            assert!(!store.remove("b", Sync::Durable).unwrap());
            assert!(!store.remove("never", Sync::Durable).unwrap());
            let again = Store::<Boat>::open_as(tmp.path(), layout).unwrap();
            assert_eq!(again.get("a").as_deref(), Some(&boat(5)));
            assert_eq!(again.iter().count(), 1);
            assert!(again.damaged().is_empty());
        }
    }

    #[test]
    fn damaged_records_are_set_aside_and_the_others_open() {
        for (layout, file) in [
            (Layout::Files, "bad.json"),
            (Layout::Directories, "bad/record.json"),
        ] {
            for damage in [
                &b""[..],
                b"{}",
                b"\0\0\0\0",
                br#"{"format":1,"checksum":"sha256:00","record":{"planks":1,"name":"x"}}"#,
                br#"{"format":99,"checksum":"","record":{}}"#,
            ] {
                let tmp = tempfile::tempdir().unwrap();
                let store = Store::open_as(tmp.path(), layout).unwrap();
                store.put("good", &boat(1), Sync::Durable).unwrap();
                store.put("bad", &boat(2), Sync::Durable).unwrap();
                std::fs::write(tmp.path().join(file), damage).unwrap();
                let again = Store::<Boat>::open_as(tmp.path(), layout).unwrap();
                assert!(again.get("good").is_some());
                assert!(again.get("bad").is_none());
                assert_eq!(again.damaged().len(), 1);
                assert_eq!(std::fs::read(&again.damaged()[0].path).unwrap(), damage);
                // The key is free again, and a second opening is clean.
                again.put("bad", &boat(3), Sync::Durable).unwrap();
                assert!(
                    Store::<Boat>::open_as(tmp.path(), layout)
                        .unwrap()
                        .damaged()
                        .is_empty()
                );
            }
        }
    }

    #[test]
    fn one_flipped_byte_is_noticed() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(tmp.path()).unwrap();
        store.put("k", &boat(7), Sync::Durable).unwrap();
        let path = tmp.path().join("k.json");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"planks\":7", "\"planks\":8")).unwrap();
        assert_eq!(Store::<Boat>::open(tmp.path()).unwrap().damaged().len(), 1);
    }

    #[test]
    fn half_written_files_are_swept() {
        for layout in [Layout::Files, Layout::Directories] {
            let tmp = tempfile::tempdir().unwrap();
            let store = Store::open_as(tmp.path(), layout).unwrap();
            store.put("k", &boat(7), Sync::Durable).unwrap();
            let dir = match layout {
                Layout::Files => tmp.path().to_path_buf(),
                Layout::Directories => tmp.path().join("k"),
            };
            std::fs::write(dir.join(".tmp-1-2-3"), b"{").unwrap();
            Store::<Boat>::open_as(tmp.path(), layout).unwrap();
            assert!(!dir.join(".tmp-1-2-3").exists());
        }
    }

    #[test]
    fn keys_that_are_no_file_names_are_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let store = Store::open(tmp.path()).unwrap();
        for key in ["", ".", "..", ".hidden", "a/b", "a\0b", &"x".repeat(241)] {
            assert!(matches!(
                store.put(key, &boat(1), Sync::Durable),
                Err(Error::BadKey { .. })
            ));
        }
    }
}
