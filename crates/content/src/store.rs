//! The directory of blobs.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use sampan_fs::Sync;
use sampan_oci::Digest;
use sampan_oci::digest::Hasher;

use crate::writer::{Keep, Writer};
use crate::{Error, Result};

/// The beginning of a download is kept this long for somebody to go on with it.
const PARTIAL_SECONDS: i64 = 24 * 60 * 60;
const PARTIAL: &str = ".partial";
const SESSION: &str = ".session";

/// A complete blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// A blob in the making under a name of its maker's choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its name.
    pub name: String,
    /// How many bytes there are.
    pub size: u64,
    /// When the last of them came.
    pub modified: SystemTime,
}

/// A directory of blobs; clones share it.
#[derive(Clone, Debug)]
pub struct ContentStore(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    path: PathBuf,
    blobs: OwnedFd,
    ingest: OwnedFd,
    /// Blobs being written under their own digest, so that two writers never share a file.
    pub(crate) writing: Mutex<HashSet<Digest>>,
    counter: AtomicU64,
}

impl ContentStore {
    /// Opens the store below `root`, creating what is missing, and removes what a kill left:
    /// nameless beginnings all, named ones after a day.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let path = root.as_ref().to_path_buf();
        let (blobs, ingest) = (path.join("blobs/sha256"), path.join("ingest"));
        sampan_fs::create_dir_all(&blobs, 0o700)?;
        sampan_fs::create_dir_all(&ingest, 0o700)?;
        let store = Self(Arc::new(Inner {
            blobs: sampan_fs::open_dir(&blobs)?,
            ingest: sampan_fs::open_dir(&ingest)?,
            path,
            writing: Mutex::default(),
            counter: AtomicU64::new(0),
        }));
        store.0.clean()?;
        Ok(store)
    }

    /// Begins a blob whose digest is not known yet. What was written is gone if the writer is
    /// dropped.
    pub fn writer(&self) -> Result<Writer> {
        let name = format!("new-{}", self.0.counter.fetch_add(1, Ordering::Relaxed));
        let file = self.0.create(&name, OFlags::EXCL)?;
        Ok(Writer::new(self.clone(), name, file, Keep::Nothing))
    }

    /// Goes on with the blob of this digest where an earlier writer was dropped, or begins it.
    /// Only one writer may be at it at a time.
    ///
    /// What is there already is hashed; [`Writer::written`] tells how much it is.
    pub fn resume(&self, digest: &Digest) -> Result<Writer> {
        if !self.0.writing().insert(*digest) {
            return Err(Error::Busy(*digest));
        }
        let name = format!("{}{PARTIAL}", digest.hex());
        // The writer gives the digest free, so it exists before anything may fail.
        let opened = self.0.create(&name, OFlags::empty());
        match opened {
            Ok(file) => {
                let keep = Keep::Beginning(*digest);
                let mut writer = Writer::new(self.clone(), name, file, keep);
                writer.take_existing()?;
                Ok(writer)
            }
            Err(error) => {
                self.0.writing().remove(digest);
                Err(error)
            }
        }
    }

    /// Begins a blob under a name of the caller's choice: lower-case letters, digits and `-`. Its
    /// bytes stay until [`ContentStore::remove_session`] or a commit, whatever happens to writer
    /// and process.
    pub fn session(&self, name: &str) -> Result<Writer> {
        let file = self.0.create(&session_file(name)?, OFlags::EXCL)?;
        let name = session_file(name)?;
        Ok(Writer::new(self.clone(), name, file, Keep::Session))
    }

    /// Goes on with a session; none when there is none of this name. The caller sees to it that
    /// there is one writer at a time.
    pub fn resume_session(&self, name: &str) -> Result<Option<Writer>> {
        let name = session_file(name)?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.0.ingest, &name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(self.0.io("open", &name, e)),
        };
        let mut writer = Writer::new(self.clone(), name, file, Keep::Session);
        writer.take_existing()?;
        Ok(Some(writer))
    }

    /// Lists all sessions, in no order.
    pub fn sessions(&self) -> Result<Vec<Session>> {
        let names = self.0.names(&self.0.ingest, "ingest")?;
        let sessions = names.iter().filter_map(|file| {
            let name = file.strip_suffix(SESSION)?;
            let stat = rustix::fs::statat(&self.0.ingest, file, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let since = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or_default());
            Some(Session {
                name: name.to_owned(),
                size: u64::try_from(stat.st_size).unwrap_or_default(),
                modified: SystemTime::UNIX_EPOCH + since,
            })
        });
        Ok(sessions.collect())
    }

    /// Forgets a session and its bytes; it is no error when there is none.
    pub fn remove_session(&self, name: &str) -> Result<()> {
        let name = session_file(name)?;
        match rustix::fs::unlinkat(&self.0.ingest, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.0.io("remove", &name, e)),
        }
    }

    /// Stores these bytes.
    pub fn put(&self, bytes: &[u8], sync: Sync) -> Result<Blob> {
        let digest = Digest::of(bytes);
        if let Some(blob) = self.get(&digest)
            && blob.size == bytes.len() as u64
        {
            return Ok(blob);
        }
        let mut writer = self.writer()?;
        writer
            .write_all(bytes)
            .map_err(|e| self.0.io("write blob", &digest.hex(), e))?;
        writer.commit(Some(&digest), Some(bytes.len() as u64), sync)
    }

    /// Returns the blob of this digest, if it is there. Its bytes are not looked at.
    pub fn get(&self, digest: &Digest) -> Option<Blob> {
        let stat =
            rustix::fs::statat(&self.0.blobs, digest.hex(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let regular = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file();
        regular.then(|| Blob {
            digest: *digest,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
        })
    }

    /// Opens a blob for reading. Its bytes are not verified.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let name = digest.hex();
        rustix::fs::openat(
            &self.0.blobs,
            &name,
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map(File::from)
        .map_err(|e| match e {
            Errno::NOENT => Error::NotFound(*digest),
            e => self.0.io("open blob", &name, e),
        })
    }

    /// Reads a blob of at most `limit` bytes and verifies it. One that is not what its name says
    /// is removed, so that the next who needs it fetches it again.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let file = self.open_blob(digest)?;
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|e| self.0.io("read blob", &digest.hex(), e))?;
        if bytes.len() as u64 > limit {
            return Err(Error::TooLarge {
                digest: *digest,
                size: self.get(digest).map_or(limit + 1, |blob| blob.size),
                limit,
            });
        }
        let actual = Digest::of(&bytes);
        self.expect(digest, actual)?;
        Ok(bytes)
    }

    /// Returns whether the bytes of a blob are those of its name. Changes nothing.
    pub fn is_whole(&self, digest: &Digest) -> Result<bool> {
        let mut file = self.open_blob(digest)?;
        let actual = hash(&mut file).map_err(|e| self.0.io("read blob", &digest.hex(), e))?;
        Ok(actual == *digest)
    }

    /// Returns how many bytes a blob takes on disk; 0 if it is not there.
    pub fn disk_usage(&self, digest: &Digest) -> u64 {
        let name = digest.hex();
        let stat = rustix::fs::statat(&self.0.blobs, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.map_or(0, |stat| {
            u64::try_from(stat.st_blocks).unwrap_or_default() * 512
        })
    }

    /// Reads a whole blob and verifies it; see [`ContentStore::read`].
    pub fn verify(&self, digest: &Digest) -> Result<()> {
        let mut file = self.open_blob(digest)?;
        let actual = hash(&mut file).map_err(|e| self.0.io("read blob", &digest.hex(), e))?;
        self.expect(digest, actual)
    }

    fn expect(&self, digest: &Digest, actual: Digest) -> Result<()> {
        if actual == *digest {
            return Ok(());
        }
        self.remove(digest)?;
        Err(Error::DigestMismatch {
            expected: *digest,
            actual,
        })
    }

    /// Removes a blob; it is no error when there is none. Returns the bytes freed.
    pub fn remove(&self, digest: &Digest) -> Result<u64> {
        let size = self.get(digest).map_or(0, |blob| blob.size);
        self.0.unlink_blob(&digest.hex())?;
        Ok(size)
    }

    /// Lists all blobs, in no order.
    pub fn list(&self) -> Result<Vec<Blob>> {
        let names = self.0.names(&self.0.blobs, "blobs/sha256")?;
        Ok(names
            .iter()
            .filter_map(|name| self.get(&Digest::from_hex(name).ok()?))
            .collect())
    }
}

impl Inner {
    pub(crate) fn io(
        &self,
        action: &'static str,
        name: &str,
        source: impl Into<io::Error>,
    ) -> Error {
        Error::Io {
            action,
            path: self.path.join(name),
            source: source.into(),
        }
    }

    pub(crate) fn writing(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(&self, name: &str, flags: OFlags) -> Result<File> {
        rustix::fs::openat(
            &self.ingest,
            name,
            OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags,
            Mode::RUSR | Mode::WUSR,
        )
        .map(File::from)
        .map_err(|e| self.io("create", name, e))
    }

    /// Moves a finished file among the blobs.
    pub(crate) fn publish(&self, name: &str, digest: &Digest, sync: Sync) -> Result<()> {
        let hex = digest.hex();
        match sync {
            Sync::Durable => Ok(sampan_fs::rename_durable(
                &self.ingest,
                name,
                &self.blobs,
                &hex,
            )?),
            Sync::Volatile => rustix::fs::renameat(&self.ingest, name, &self.blobs, &hex)
                .map_err(|e| self.io("rename", name, e)),
        }
    }

    pub(crate) fn sync_ingest(&self) -> Result<()> {
        sampan_fs::sync_dir(&self.ingest).map_err(|e| self.io("sync", "ingest", e))
    }

    pub(crate) fn discard(&self, name: &str) {
        // What cannot be removed now is removed at the next start.
        let _ = rustix::fs::unlinkat(&self.ingest, name, AtFlags::empty());
    }

    fn unlink_blob(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.blobs, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(self.io("remove blob", name, e)),
        }
    }

    fn names(&self, dir: &OwnedFd, name: &str) -> Result<Vec<String>> {
        let failed = |e: Errno| self.io("list", name, e);
        let mut names = Vec::new();
        for entry in Dir::read_from(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let Ok(name) = entry.file_name().to_str()
                && !matches!(name, "." | "..")
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn clean(&self) -> Result<()> {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        for name in self.names(&self.ingest, "ingest")? {
            let age = rustix::fs::statat(&self.ingest, &name, AtFlags::SYMLINK_NOFOLLOW)
                .map_or(i64::MAX, |stat| now.saturating_sub(stat.st_mtime));
            let partial = name
                .strip_suffix(PARTIAL)
                .is_some_and(|hex| Digest::from_hex(hex).is_ok());
            let session = name.ends_with(SESSION);
            if !session && (!partial || age > PARTIAL_SECONDS) {
                self.discard(&name);
            }
        }
        Ok(())
    }
}

fn session_file(name: &str) -> Result<String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > 128 || !name.bytes().all(fits) {
        return Err(Error::SessionName(name.to_owned()));
    }
    Ok(format!("{name}{SESSION}"))
}

fn hash(reader: &mut impl Read) -> io::Result<Digest> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn store() -> (tempfile::TempDir, ContentStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path().join("content")).unwrap();
        (dir, store)
    }

    fn ingest_entries(dir: &tempfile::TempDir) -> usize {
        std::fs::read_dir(dir.path().join("content/ingest"))
            .unwrap()
            .count()
    }

    #[test]
    fn sessions_survive_their_writer_and_the_store() {
        let (dir, store) = store();
        let mut writer = store.session("a-1").unwrap();
        writer.write_all(b"hel").unwrap();
        writer.checkpoint().unwrap();
        drop(writer);
        drop(store.session("empty").unwrap());
        assert!(store.session("a-1").is_err(), "a name was given twice");
        let store = ContentStore::open(dir.path().join("content")).unwrap();
        let mut sessions = store.sessions().unwrap();
        sessions.sort_by(|a, b| a.name.cmp(&b.name));
        let seen: Vec<_> = sessions.iter().map(|s| (s.name.as_str(), s.size)).collect();
        assert_eq!(seen, [("a-1", 3), ("empty", 0)]);
        let mut writer = store.resume_session("a-1").unwrap().unwrap();
        assert_eq!(writer.written(), 3);
        writer.write_all(b"lo").unwrap();
        let digest = Digest::of(b"hello");
        writer.commit(Some(&digest), None, Sync::Durable).unwrap();
        assert!(store.resume_session("a-1").unwrap().is_none());
        store.remove_session("empty").unwrap();
        store.remove_session("empty").unwrap();
        assert_eq!(ingest_entries(&dir), 0);
        for bad in ["", "../x", "a/b", "A", "a.b"] {
            assert!(store.session(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_put_is_found_under_its_digest() {
        let (dir, store) = store();
        let blob = store.put(b"hello", Sync::Durable).unwrap();
        assert_eq!(blob.digest, Digest::of(b"hello"));
        assert_eq!(store.get(&blob.digest), Some(blob));
        assert_eq!(store.read(&blob.digest, 5).unwrap(), b"hello");
        assert_eq!(store.list().unwrap(), [blob]);
        assert_eq!(store.put(b"hello", Sync::Volatile).unwrap(), blob);
        assert_eq!(ingest_entries(&dir), 0);
        assert_eq!(store.remove(&blob.digest).unwrap(), 5);
        assert_eq!(store.remove(&blob.digest).unwrap(), 0);
        assert_eq!(
            store.read(&blob.digest, 5).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }

    #[test]
    fn wrong_content_never_becomes_a_blob() {
        let (dir, store) = store();
        let expected = Digest::of(b"right");
        let mut writer = store.writer().unwrap();
        writer.write_all(b"wrong").unwrap();
        let error = writer
            .commit(Some(&expected), None, Sync::Volatile)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let mut writer = store.writer().unwrap();
        writer.write_all(b"right").unwrap();
        let error = writer
            .commit(Some(&expected), Some(6), Sync::Volatile)
            .unwrap_err();
        assert!(matches!(error, Error::SizeMismatch { .. }));
        assert!(store.list().unwrap().is_empty());
        assert_eq!(ingest_entries(&dir), 0);
    }

    #[test]
    fn a_broken_download_goes_on_where_it_stopped() {
        let (dir, store) = store();
        let digest = Digest::of(b"hello world");
        let mut writer = store.resume(&digest).unwrap();
        assert_eq!(writer.written(), 0);
        assert!(matches!(store.resume(&digest), Err(Error::Busy(_))));
        writer.write_all(b"hello ").unwrap();
        drop(writer);
        drop(store);
        let store = ContentStore::open(dir.path().join("content")).unwrap();
        let mut writer = store.resume(&digest).unwrap();
        assert_eq!(writer.written(), 6);
        let mut beginning = String::new();
        writer
            .existing()
            .unwrap()
            .read_to_string(&mut beginning)
            .unwrap();
        assert_eq!(beginning, "hello ");
        writer.write_all(b"world").unwrap();
        writer
            .commit(Some(&digest), Some(11), Sync::Durable)
            .unwrap();
        assert_eq!(store.read(&digest, 100).unwrap(), b"hello world");
        assert_eq!(ingest_entries(&dir), 0);
    }

    #[test]
    fn a_wrong_beginning_is_not_kept() {
        let (dir, store) = store();
        let digest = Digest::of(b"hello world");
        let mut writer = store.resume(&digest).unwrap();
        writer.write_all(b"goodbye world").unwrap();
        assert!(writer.commit(Some(&digest), None, Sync::Volatile).is_err());
        assert_eq!(ingest_entries(&dir), 0);
        assert_eq!(store.resume(&digest).unwrap().written(), 0);
        assert_eq!(ingest_entries(&dir), 0, "an empty beginning is no use");
    }

    #[test]
    fn leftovers_are_removed_at_the_start() {
        let (dir, store) = store();
        let mut writer = store.writer().unwrap();
        writer.write_all(b"x").unwrap();
        let _kept = std::mem::ManuallyDrop::new(writer);
        assert_eq!(ingest_entries(&dir), 1);
        let store = ContentStore::open(dir.path().join("content")).unwrap();
        assert_eq!(ingest_entries(&dir), 0);
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn a_damaged_blob_is_dropped_when_read() {
        let (dir, store) = store();
        let blob = store.put(b"hello", Sync::Volatile).unwrap();
        let path = dir
            .path()
            .join("content/blobs/sha256")
            .join(blob.digest.hex());
        std::fs::write(&path, b"jello").unwrap();
        assert_eq!(
            store.read(&blob.digest, 100).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
        assert_eq!(store.get(&blob.digest), None);
        let blob = store.put(b"hello", Sync::Volatile).unwrap();
        assert!(store.verify(&blob.digest).is_ok());
        assert!(matches!(
            store.read(&blob.digest, 4),
            Err(Error::TooLarge { size: 5, .. })
        ));
    }
}
