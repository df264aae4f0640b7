//! Directories that stay with the builder: `RUN --mount=type=cache`.
//!
//! ```text
//! ROOT/build/mounts/<key>.json          what is known of it: crate state
//! ROOT/build/mounts/data/<key>/<n>      its files; more than one where steps wanted their own
//! ```
//!
//! The key is a digest, so that no name from a Dockerfile is ever a path. A directory is filled
//! under another name and renamed: what an engine did not live to fill is not there.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{CWD, Gid, Mode, Uid};
use sampan_archive::{Tree, write_tree};
use sampan_dockerfile::Sharing;
use sampan_state::{Store, Sync};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::cache::{Key, KeyMaker};
use crate::sandbox::Access;
use crate::{Error, Result};

/// How often a step that waits for another one looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(100);
const UNFINISHED: &str = "unfinished-";

/// What is known of a cache mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// As it was asked for.
    id: String,
    /// RFC 3339.
    created: String,
    /// RFC 3339.
    used: String,
    /// Steps that used it.
    uses: u64,
}

/// A cache mount, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMount {
    /// Names it.
    pub key: String,
    /// As a Dockerfile names it.
    pub id: String,
    /// RFC 3339.
    pub created: String,
    /// RFC 3339.
    pub used: String,
    /// Steps that used it.
    pub uses: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Whether a step uses it.
    pub in_use: bool,
}

/// The cache mounts of a builder; clones share them.
#[derive(Clone, Debug)]
pub struct CacheMounts {
    data: PathBuf,
    records: Arc<Store<Record>>,
    users: Arc<Users>,
}

#[derive(Debug, Default)]
struct Users {
    /// By key and number.
    taken: Mutex<HashMap<(String, usize), Taken>>,
    returned: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Shared(usize),
    Alone,
}

/// What a step wants.
pub(crate) struct Wish<'a> {
    /// Of the builder's user.
    pub(crate) namespace: &'a str,
    pub(crate) id: &'a str,
    pub(crate) sharing: Sharing,
    /// Of a new one.
    pub(crate) access: Access,
    /// Names what a new one is filled with.
    pub(crate) seed: Option<Key>,
}

impl Wish<'_> {
    fn key(&self) -> String {
        let mut key = KeyMaker::new("cache mount");
        key.text("namespace", self.namespace);
        key.text("id", self.id);
        if let Some(seed) = self.seed {
            key.text("seed", &seed.0.hex());
        }
        key.key().0.hex()
    }
}

/// A cache mount in use, until this is dropped.
#[derive(Debug)]
pub(crate) struct InUse {
    users: Arc<Users>,
    place: (String, usize),
    pub(crate) directory: PathBuf,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut taken = self.users.taken();
        let left = match taken.get(&self.place) {
            Some(Taken::Shared(count @ 2..)) => Some(Taken::Shared(count - 1)),
            _ => None,
        };
        match left {
            Some(left) => taken.insert(self.place.clone(), left),
            None => taken.remove(&self.place),
        };
        self.users.returned.notify_all();
    }
}

impl Users {
    fn taken(&self) -> MutexGuard<'_, HashMap<(String, usize), Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one, waiting for others where that is asked for.
    fn take(&self, key: &str, sharing: Sharing, cancel: &CancellationToken) -> Result<usize> {
        let mut taken = self.taken();
        loop {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            match sharing {
                Sharing::Shared => match taken.get(&(key.to_owned(), 0)).copied() {
                    None => {
                        taken.insert((key.to_owned(), 0), Taken::Shared(1));
                        return Ok(0);
                    }
                    Some(Taken::Shared(count)) => {
                        taken.insert((key.to_owned(), 0), Taken::Shared(count + 1));
                        return Ok(0);
                    }
                    Some(Taken::Alone) => {}
                },
                Sharing::Locked => {
                    if let Entry::Vacant(place) = taken.entry((key.to_owned(), 0)) {
                        place.insert(Taken::Alone);
                        return Ok(0);
                    }
                }
                Sharing::Private => {
                    let mut number = 0;
                    while taken.contains_key(&(key.to_owned(), number)) {
                        number += 1;
                    }
                    taken.insert((key.to_owned(), number), Taken::Alone);
                    return Ok(number);
                }
            }
            taken = self
                .returned
                .wait_timeout(taken, LOOK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl CacheMounts {
    /// Opens those below `root` (the engine's). What was not filled to the end, or is not known
    /// any more, is removed.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let place = root.join("build/mounts");
        let data = place.join("data");
        sampan_fs::create_dir_all(&data, 0o700)?;
        let records = Arc::new(Store::<Record>::open(&place)?);
        let mounts = Self {
            data,
            records,
            users: Arc::default(),
        };
        // What cannot be removed takes space and is no reason not to start.
        if let Err(error) = mounts.sweep() {
            tracing::warn!(%error, "could not remove what is left of cache mounts");
        }
        Ok(mounts)
    }

    fn sweep(&self) -> Result<()> {
        for entry in std::fs::read_dir(&self.data).map_err(Error::io("list the cache mounts"))? {
            let entry = entry.map_err(Error::io("list the cache mounts"))?;
            let name = entry.file_name();
            let known = name
                .to_str()
                .is_some_and(|name| self.records.get(name).is_some());
            if !known {
                sampan_fs::remove_dir_all(entry.path())?;
                continue;
            }
            for slot in std::fs::read_dir(entry.path()).map_err(Error::io("list a cache mount"))? {
                let slot = slot.map_err(Error::io("list a cache mount"))?;
                if slot.file_name().to_string_lossy().starts_with(UNFINISHED) {
                    sampan_fs::remove_dir_all(slot.path())?;
                }
            }
        }
        Ok(())
    }

    /// Takes a cache mount for a step; makes it where there is none, and has `fill` put into it
    /// what it begins with. Waits for others, until `cancel` is set. Blocks.
    pub(crate) fn take(
        &self,
        wish: &Wish<'_>,
        fill: impl FnOnce(&OwnedFd) -> Result<()>,
        cancel: &CancellationToken,
    ) -> Result<InUse> {
        let key = wish.key();
        let number = self.users.take(&key, wish.sharing, cancel)?;
        let above = self.data.join(&key);
        let in_use = InUse {
            users: self.users.clone(),
            directory: above.join(number.to_string()),
            place: (key.clone(), number),
        };
        let now = jiff::Timestamp::now().to_string();
        let before = self.records.get(&key);
        let record = match &before {
            Some(before) => Record {
                used: now,
                uses: before.uses + 1,
                ..(**before).clone()
            },
            None => Record {
                id: wish.id.to_owned(),
                created: now.clone(),
                used: now,
                uses: 1,
            },
        };
        let sync = match before {
            Some(_) => Sync::Volatile,
            None => Sync::Durable,
        };
        self.records.put(&key, &record, sync)?;
        if !in_use.directory.exists() {
            sampan_fs::create_dir_all(&above, 0o700)?;
            self.make(&above, number, wish.access, fill)?;
        }
        Ok(in_use)
    }

    fn make(
        &self,
        above: &Path,
        number: usize,
        access: Access,
        fill: impl FnOnce(&OwnedFd) -> Result<()>,
    ) -> Result<()> {
        static COUNTER: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let made = COUNTER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let unfinished = above.join(format!("{UNFINISHED}{made}"));
        sampan_fs::create_dir_all(&unfinished, 0o700)?;
        let directory = sampan_fs::open_dir(&unfinished)?;
        let done = fill(&directory).and_then(|()| {
            let failed = |errno: rustix::io::Errno| Error::io("make a cache mount")(errno.into());
            let (uid, gid) = (Uid::from_raw(access.uid), Gid::from_raw(access.gid));
            let mode = Mode::from_raw_mode(access.mode & 0o7777);
            rustix::fs::fchown(directory.as_fd(), Some(uid), Some(gid)).map_err(failed)?;
            rustix::fs::fchmod(directory.as_fd(), mode).map_err(failed)?;
            let place = above.join(number.to_string());
            match rustix::fs::renameat_with(
                CWD,
                &unfinished,
                CWD,
                &place,
                rustix::fs::RenameFlags::NOREPLACE,
            ) {
                // Two that share it came at the same time.
                Err(rustix::io::Errno::EXIST) => Ok(()),
                renamed => renamed.map_err(failed),
            }
        });
        if unfinished.exists() {
            sampan_fs::remove_dir_all(&unfinished)?;
        }
        done
    }

    /// Finds one by its key, or the beginning of it, or as a Dockerfile names it.
    fn key_of(&self, name: &str) -> Result<String> {
        let named: Vec<String> = self
            .records
            .iter()
            .filter(|(key, record)| record.id == name || key.starts_with(name))
            .map(|(key, _)| key)
            .collect();
        match named.as_slice() {
            [key] => Ok(key.clone()),
            [] => Err(Error::NoMount(name.to_owned())),
            several => Err(Error::Step(format!(
                "{} cache mounts are meant by {name}: say which by its key: {}",
                several.len(),
                several.join(", ")
            ))),
        }
    }

    /// Writes the files of a cache mount as a tar, with those of the steps that wanted their own
    /// left out. Waits for a step that has it alone, until `cancel` is set. Blocks.
    pub fn export(
        &self,
        name: &str,
        cancel: &CancellationToken,
    ) -> Result<impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + use<>> {
        let key = self.key_of(name)?;
        let number = self.users.take(&key, Sharing::Shared, cancel)?;
        let in_use = InUse {
            users: self.users.clone(),
            directory: self.data.join(&key).join(number.to_string()),
            place: (key, number),
        };
        let directory = sampan_fs::open_dir(&in_use.directory)?;
        Ok(move |mut out: &mut dyn Write| {
            let written = write_tree(directory.as_fd(), Tree::Files, &mut out);
            drop(in_use);
            written
        })
    }

    /// Makes a cache mount anew that `fill` fills, in the place of the one that has its name.
    pub(crate) fn replace(
        &self,
        id: &str,
        fill: impl FnOnce(&OwnedFd) -> Result<()>,
    ) -> Result<()> {
        let wish = Wish {
            namespace: "",
            id,
            sharing: Sharing::Locked,
            access: Access {
                mode: 0o755,
                uid: 0,
                gid: 0,
            },
            seed: None,
        };
        let key = wish.key();
        let in_use = || self.users.taken().keys().any(|(taken, _)| *taken == key);
        if self.remove(&key)?.is_none() && (in_use() || self.records.get(&key).is_some()) {
            return Err(Error::Step(format!(
                "the cache mount {id} is in use by a build"
            )));
        }
        self.take(&wish, fill, &CancellationToken::new()).map(drop)
    }

    /// All of them, in no order. Blocks.
    pub fn list(&self) -> Result<Vec<CacheMount>> {
        let in_use = |key: &str| self.users.taken().keys().any(|(taken, _)| taken == key);
        self.records
            .iter()
            .map(|(key, record)| {
                Ok(CacheMount {
                    id: record.id.clone(),
                    created: record.created.clone(),
                    used: record.used.clone(),
                    uses: record.uses,
                    bytes: sampan_fs::usage(self.data.join(&key))?.disk,
                    in_use: in_use(&key),
                    key,
                })
            })
            .collect()
    }

    /// Removes one and says how many bytes on disk it had; none if there is no such cache mount or
    /// a step uses it. Blocks.
    pub fn remove(&self, key: &str) -> Result<Option<u64>> {
        if self.records.get(key).is_none() {
            return Ok(None);
        }
        // Nobody can take it meanwhile.
        let taken = self.users.taken();
        if taken.keys().any(|(taken, _)| taken == key) {
            return Ok(None);
        }
        let directory = self.data.join(key);
        let bytes = sampan_fs::usage(&directory)?.disk;
        self.records.remove(key, Sync::Volatile)?;
        sampan_fs::remove_dir_all(&directory)?;
        drop(taken);
        Ok(Some(bytes))
    }
}
