//! The store in a directory.
//!
//! ```text
//! <root>/blobs/sha256/, <root>/ingest/          blobs and uploads: crate content
//! <root>/repositories/<name>/_blobs/<hex>       empty
//! <root>/repositories/<name>/_manifests/<hex>   a line about the manifest, then its bytes
//! <root>/repositories/<name>/_tags/<tag>        what the tag points to
//! <root>/lock                                   held while the store is open
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;
use sampan_content::{ContentStore, Sync, Writer};
use sampan_fs::{DirLock, Root};
use sampan_oci::Digest;
use sampan_text::with_causes;

use super::{Content, Record, Reply, Storage, StorageError, StoredBlob, StoredUpload, Upload};

/// The largest record that is read: a manifest and what is noted about it.
const MAX_RECORD: u64 = (4 << 20) + (64 << 10);
/// Records read and handed over at once when the store is loaded.
const BATCH: usize = 256;

/// The store in a directory; clones share it.
#[derive(Clone, Debug)]
pub struct Files(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    content: ContentStore,
    repositories: Root,
    path: PathBuf,
    _lock: DirLock,
}

impl Files {
    /// Opens the store in `root`, creating what is missing. Fails while another process has it.
    pub fn open(root: impl AsRef<Path>) -> Result<Self, StorageError> {
        let root = root.as_ref();
        let path = root.join("repositories");
        sampan_fs::create_dir_all(&path, 0o700).map_err(of_files)?;
        let lock = DirLock::try_acquire(root, "lock").map_err(of_files)?;
        Ok(Self(Arc::new(Inner {
            content: ContentStore::open(root).map_err(of_content)?,
            repositories: Root::open(&path).map_err(of_files)?,
            path,
            _lock: lock,
        })))
    }

    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StorageError> + Send + 'static,
    ) -> Reply<'static, T> {
        let inner = Arc::clone(&self.0);
        Box::pin(blocking(move || work(&inner)))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StorageError::failed("work in the store", error)),
    }
}

fn of_content(error: sampan_content::Error) -> StorageError {
    use sampan_content::{Error, ErrorKind};
    match (error.kind(), &error) {
        (_, Error::DigestMismatch { expected, actual }) => StorageError::DigestMismatch {
            expected: *expected,
            actual: *actual,
        },
        (ErrorKind::NotFound, _) => StorageError::NotFound(error.to_string()),
        (ErrorKind::NoSpace, _) => StorageError::NoSpace,
        _ => StorageError::failed("store content", with_causes(&error)),
    }
}

fn of_files(error: sampan_fs::Error) -> StorageError {
    use sampan_fs::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound => StorageError::NotFound(error.to_string()),
        ErrorKind::NoSpace => StorageError::NoSpace,
        _ => StorageError::failed("use the store", with_causes(&error)),
    }
}

impl Inner {
    fn put_record(&self, record: &Record, bytes: &[u8]) -> Result<(), StorageError> {
        let (folder, name) = record.path();
        let folder = match self.repositories.open_dir(&folder) {
            Ok(folder) => folder,
            Err(error) if error.kind() == sampan_fs::ErrorKind::NotFound => {
                // Durable: the parents are synced too.
                sampan_fs::create_dir_all(self.path.join(&folder), 0o700).map_err(of_files)?;
                self.repositories.open_dir(&folder).map_err(of_files)?
            }
            Err(error) => return Err(of_files(error)),
        };
        sampan_fs::write_atomic(&folder, name, bytes, Sync::Durable).map_err(of_files)
    }

    fn record(&self, record: &Record) -> Result<Bytes, StorageError> {
        let (folder, name) = record.path();
        let bytes = self
            .repositories
            .read(format!("{folder}/{name}"), MAX_RECORD)
            .map_err(of_files)?;
        Ok(bytes.into())
    }

    fn remove_record(&self, record: &Record) -> Result<(), StorageError> {
        let (folder, name) = record.path();
        let folder = match self.repositories.open_dir(&folder) {
            Ok(folder) => folder,
            Err(error) if error.kind() == sampan_fs::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(of_files(error)),
        };
        match rustix::fs::unlinkat(&folder, &name, AtFlags::empty()) {
            Ok(()) => sampan_fs::sync_dir(&folder)
                .map_err(|error| StorageError::failed("sync a folder of records", error)),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(StorageError::failed("remove a record", error)),
        }
    }

    /// Names of the entries of a folder, directories and files apart.
    fn entries(&self, folder: &str) -> Result<(Vec<String>, Vec<String>), StorageError> {
        let failed = |error: Errno| StorageError::failed("list records", error);
        let opened = self.repositories.open_dir(folder).map_err(of_files)?;
        let (mut folders, mut files) = (Vec::new(), Vec::new());
        for entry in Dir::read_from(&opened).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if matches!(name, "." | "..") {
                continue;
            }
            match entry.file_type() {
                FileType::Directory => folders.push(name.to_owned()),
                // Left by a kill in the middle of a write.
                _ if name.starts_with(".tmp-") => {
                    let _ = rustix::fs::unlinkat(&opened, entry.file_name(), AtFlags::empty());
                }
                _ => files.push(name.to_owned()),
            }
        }
        Ok((folders, files))
    }

    /// Walks through all records; stops when nobody takes them any more.
    fn walk(
        &self,
        hand_over: &mut dyn FnMut(Vec<(Record, Bytes)>) -> bool,
    ) -> Result<(), StorageError> {
        let mut todo = VecDeque::from([String::new()]);
        let mut batch = Vec::new();
        while let Some(repository) = todo.pop_front() {
            let at = if repository.is_empty() {
                "."
            } else {
                &repository
            };
            let (folders, _) = self.entries(at)?;
            for folder in folders {
                let path = match repository.as_str() {
                    "" => folder.clone(),
                    _ => format!("{repository}/{folder}"),
                };
                if !folder.starts_with('_') {
                    todo.push_back(path);
                    continue;
                }
                for name in self.entries(&path)?.1 {
                    let Some(record) = Record::parse(&repository, &folder, &name) else {
                        tracing::warn!(path, name, "there is a file that is no record");
                        continue;
                    };
                    let bytes = match record {
                        Record::Blob(..) => Bytes::new(),
                        Record::Manifest(..) | Record::Tag(..) => match self.record(&record) {
                            Ok(bytes) => bytes,
                            Err(error) => {
                                tracing::error!(path, name, %error, "a record cannot be read");
                                continue;
                            }
                        },
                    };
                    batch.push((record, bytes));
                    if batch.len() == BATCH && !hand_over(std::mem::take(&mut batch)) {
                        return Ok(());
                    }
                }
            }
        }
        hand_over(batch);
        Ok(())
    }
}

impl Storage for Files {
    fn load<'a>(&'a self, each: &'a mut (dyn FnMut(Record, Bytes) + Send)) -> Reply<'a, ()> {
        Box::pin(async move {
            let (sender, mut receiver) = tokio::sync::mpsc::channel(4);
            let walk = self.blocking(move |inner| {
                inner.walk(&mut |batch| sender.blocking_send(batch).is_ok())
            });
            let walk = tokio::spawn(walk);
            while let Some(batch) = receiver.recv().await {
                for (record, bytes) in batch {
                    each(record, bytes);
                }
            }
            walk.await
                .unwrap_or_else(|error| Err(StorageError::failed("load the records", error)))
        })
    }

    fn put_record(&self, record: &Record, bytes: Bytes) -> Reply<'_, ()> {
        let record = record.clone();
        self.blocking(move |inner| inner.put_record(&record, &bytes))
    }

    fn record(&self, record: &Record) -> Reply<'_, Bytes> {
        let record = record.clone();
        self.blocking(move |inner| inner.record(&record))
    }

    fn remove_record(&self, record: &Record) -> Reply<'_, ()> {
        let record = record.clone();
        self.blocking(move |inner| inner.remove_record(&record))
    }

    fn blobs(&self) -> Reply<'_, Vec<StoredBlob>> {
        self.blocking(|inner| {
            let blobs = inner.content.list().map_err(of_content)?;
            let stored = |blob: sampan_content::Blob| StoredBlob {
                digest: blob.digest,
                size: blob.size,
            };
            Ok(blobs.into_iter().map(stored).collect())
        })
    }

    fn open(&self, digest: &Digest, _: Range<u64>) -> Reply<'_, Content> {
        // Opening is a look into the kernel's cache; a hop to another thread costs more.
        let opened = self.0.content.open_blob(digest);
        Box::pin(async { opened.map(Content::File).map_err(of_content) })
    }

    fn remove_blob(&self, digest: &Digest) -> Reply<'_, ()> {
        let digest = *digest;
        self.blocking(move |inner| inner.content.remove(&digest).map(drop).map_err(of_content))
    }

    fn begin(&self, id: &str) -> Reply<'_, Box<dyn Upload>> {
        let id = id.to_owned();
        self.blocking(move |inner| {
            let writer = inner.content.session(&id).map_err(of_content)?;
            Ok(Box::new(FileUpload::new(writer)) as Box<dyn Upload>)
        })
    }

    fn resume(&self, id: &str) -> Reply<'_, Option<Box<dyn Upload>>> {
        let id = id.to_owned();
        self.blocking(move |inner| {
            let writer = inner.content.resume_session(&id).map_err(of_content)?;
            Ok(writer.map(|writer| Box::new(FileUpload::new(writer)) as Box<dyn Upload>))
        })
    }

    fn uploads(&self) -> Reply<'_, Vec<StoredUpload>> {
        self.blocking(|inner| {
            let sessions = inner.content.sessions().map_err(of_content)?;
            let stored = |session: sampan_content::Session| StoredUpload {
                id: session.name,
                modified: session.modified,
            };
            Ok(sessions.into_iter().map(stored).collect())
        })
    }

    fn remove_upload(&self, id: &str) -> Reply<'_, ()> {
        let id = id.to_owned();
        self.blocking(move |inner| inner.content.remove_session(&id).map_err(of_content))
    }
}

#[derive(Debug)]
struct FileUpload {
    /// Away while a thread works with it.
    writer: Option<Writer>,
    size: u64,
}

impl FileUpload {
    fn new(writer: Writer) -> Self {
        let size = writer.written();
        Self {
            writer: Some(writer),
            size,
        }
    }

    fn take(&mut self) -> Result<Writer, StorageError> {
        let lost = || StorageError::failed("write to an upload", "an earlier write failed");
        self.writer.take().ok_or_else(lost)
    }
}

impl Upload for FileUpload {
    fn size(&self) -> u64 {
        self.size
    }

    fn write(&mut self, pieces: Vec<Bytes>) -> Reply<'_, ()> {
        Box::pin(async move {
            let mut writer = self.take()?;
            let writer = blocking(move || {
                for piece in &pieces {
                    writer
                        .write_all(piece)
                        .map_err(|error| match error.kind() {
                            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                                StorageError::NoSpace
                            }
                            _ => StorageError::failed("write to an upload", error),
                        })?;
                }
                Ok(writer)
            })
            .await?;
            self.size = writer.written();
            self.writer = Some(writer);
            Ok(())
        })
    }

    fn reader(&self) -> Option<File> {
        self.writer.as_ref()?.file().ok()
    }

    fn checkpoint(&mut self) -> Reply<'_, ()> {
        Box::pin(async move {
            let mut writer = self.take()?;
            let writer = blocking(move || {
                writer.checkpoint().map_err(of_content)?;
                Ok(writer)
            })
            .await?;
            self.writer = Some(writer);
            Ok(())
        })
    }

    fn commit(mut self: Box<Self>, digest: Digest) -> Reply<'static, StoredBlob> {
        Box::pin(async move {
            let writer = self.take()?;
            blocking(move || {
                let blob = writer
                    .commit(Some(&digest), None, Sync::Durable)
                    .map_err(of_content)?;
                Ok(StoredBlob {
                    digest: blob.digest,
                    size: blob.size,
                })
            })
            .await
        })
    }
}
