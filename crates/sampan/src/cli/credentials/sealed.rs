//! Sealed credentials: one file, `<configuration>/sampan/credentials.json`.
//!
//! It holds an encrypted and authenticated map of servers to credentials, and says how its key
//! is kept ([`super::key`]). Docker knows nothing of it and does not touch it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use sampan_fs::{DirLock, Sync};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::key::{self, Kept, Key, KeyKind};
use super::{Error, Login};

const FILE: &str = "credentials.json";
const LOCK: &str = "credentials.lock";
const VERSION: u32 = 1;

/// The sealed credentials of a configuration directory.
pub(super) struct Sealed {
    directory: PathBuf,
}

#[derive(Debug, Deserialize, Serialize)]
struct File {
    version: u32,
    /// Names the key wherever it is.
    id: String,
    key: Kept,
    sealed: String,
}

#[derive(Default, Deserialize, Serialize)]
struct Entries(BTreeMap<String, Entry>);

#[derive(Deserialize, Serialize)]
struct Entry {
    username: String,
    secret: Zeroizing<String>,
    is_token: bool,
}

impl Sealed {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// What is saved for a server.
    pub(super) fn load(&self, server: &str) -> Result<Option<Login>, Error> {
        let Some(file) = self.read()? else {
            return Ok(None);
        };
        let (_, mut entries) = open(&file)?;
        Ok(entries.0.remove(server).map(|entry| Login {
            username: entry.username,
            secret: entry.secret,
            is_token: entry.is_token,
        }))
    }

    /// Saves credentials for a server. Returns a sentence about how they are protected.
    pub(super) fn save(
        &self,
        server: &str,
        login: &Login,
        chosen: Option<KeyKind>,
    ) -> Result<String, Error> {
        sampan_fs::create_dir_all(&self.directory, 0o700)?;
        let _lock = DirLock::acquire(&self.directory, LOCK)?;
        let before = self.read()?;
        let opened = before.as_ref().map(open).transpose();
        let (data_key, mut entries) = match opened {
            Ok(Some((key, entries))) => (Some(key), entries),
            // What nobody can read any more is dropped.
            Ok(None) | Err(Error::KeyLost(_)) => (None, Entries::default()),
            Err(error) => return Err(error),
        };
        // Another way has another key and another name for it, so that a kill at any point
        // leaves either the old file with its key or the new one with its own.
        let (id, data_key, kept) = match (data_key, &before) {
            (Some(key), Some(file)) if chosen.is_none_or(|kind| file.key.kind() == kind) => {
                (file.id.clone(), key, file.key.clone())
            }
            _ => {
                let id = new_id();
                let (key, kept) = key::create(&id, chosen)?;
                (id, key, kept)
            }
        };
        entries.0.insert(
            server.to_owned(),
            Entry {
                username: login.username.clone(),
                secret: login.secret.clone(),
                is_token: login.is_token,
            },
        );
        self.write(&id, &data_key, &kept, &entries)?;
        if let Some(old) = before.filter(|old| old.id != id)
            && let Err(error) = key::forget(&old.id, &old.key)
        {
            // It opens nothing any more.
            tracing::debug!(%error, "an old key stays");
        }
        Ok(key::describe(&kept, &self.file()))
    }

    /// Forgets a server. With the last one the key goes too.
    pub(super) fn erase(&self, server: &str) -> Result<(), Error> {
        let Some(_) = self.read()? else {
            return Ok(());
        };
        let _lock = DirLock::acquire(&self.directory, LOCK)?;
        let Some(file) = self.read()? else {
            return Ok(());
        };
        let (data_key, mut entries) = match open(&file) {
            Ok(opened) => opened,
            // Whatever is in there, nobody can read it.
            Err(Error::KeyLost(_)) => return self.remove(&file),
            Err(error) => return Err(error),
        };
        if entries.0.remove(server).is_none() {
            return Ok(());
        }
        if entries.0.is_empty() {
            return self.remove(&file);
        }
        self.write(&file.id, &data_key, &file.key, &entries)
    }

    fn file(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    fn read(&self) -> Result<Option<File>, Error> {
        let bad = |reason: String| Error::File {
            file: self.file().display().to_string(),
            reason,
        };
        match std::fs::read(self.file()) {
            Ok(json) => {
                let file: File =
                    serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))?;
                match file.version {
                    VERSION => Ok(Some(file)),
                    other => Err(bad(format!("its version {other} is of a newer sampan"))),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(bad(error.to_string())),
        }
    }

    fn write(&self, id: &str, key: &Key, kept: &Kept, entries: &Entries) -> Result<(), Error> {
        let plain = serde_json::to_vec(entries)
            .map(Zeroizing::new)
            .expect("texts are always valid JSON");
        let file = File {
            version: VERSION,
            id: id.to_owned(),
            key: kept.clone(),
            sealed: key::seal(key, &context(id), &plain),
        };
        let json = serde_json::to_vec_pretty(&file).expect("texts are always valid JSON");
        sampan_fs::write_file(self.file(), &json, Sync::Durable)?;
        Ok(())
    }

    fn remove(&self, file: &File) -> Result<(), Error> {
        key::forget(&file.id, &file.key)?;
        std::fs::remove_file(self.file()).map_err(Error::io("remove the saved credentials"))
    }
}

fn open(file: &File) -> Result<(Key, Entries), Error> {
    let context = context(&file.id);
    let opens = |key: &Key| key::unseal(key, &context, &file.sealed).is_some();
    let key = key::find(&file.id, &file.key, &opens)?;
    let entries = key::unseal(&key, &context, &file.sealed)
        .and_then(|plain| serde_json::from_slice(&plain).ok())
        .ok_or(Error::KeyLost("the file was changed; log in again"))?;
    Ok((key, entries))
}

fn context(id: &str) -> String {
    format!("sampan credentials {id}")
}

fn new_id() -> String {
    use std::fmt::Write as _;
    key::random::<8>()
        .iter()
        .fold(String::new(), |mut id, byte| {
            // Writing to a String cannot fail.
            let _ = write!(id, "{byte:02x}");
            id
        })
}
