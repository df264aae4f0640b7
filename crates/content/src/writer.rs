//! A blob in the making.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use sampan_fs::Sync;
use sampan_oci::Digest;
use sampan_oci::digest::Hasher;

use crate::store::{Blob, ContentStore};
use crate::{Error, Result};

/// What becomes of the bytes of a writer that is dropped before its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// They are gone.
    Nothing,
    /// They are the beginning of the blob of this digest.
    Beginning(Digest),
    /// They stay under the name of their session, also when there are none yet.
    Session,
}

/// Takes the bytes of one blob, in order, and hashes them.
///
/// Dropped before [`Writer::commit`], a nameless one leaves nothing; one begun by
/// [`ContentStore::resume`] or [`ContentStore::session`] leaves what it has for the next.
#[derive(Debug)]
pub struct Writer {
    store: ContentStore,
    name: String,
    file: File,
    hasher: Hasher,
    written: u64,
    keep: Keep,
    done: bool,
}

impl Writer {
    pub(crate) fn new(store: ContentStore, name: String, file: File, keep: Keep) -> Self {
        Self {
            store,
            name,
            file,
            hasher: Hasher::new(),
            written: 0,
            keep,
            done: false,
        }
    }

    pub(crate) fn take_existing(&mut self) -> Result<()> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => {
                    self.hasher.update(&buffer[..n]);
                    self.written += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.store.0.io("read", &self.name, e)),
            }
        }
    }

    /// Returns how many bytes there are, those of earlier writers included.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Returns a reader of the bytes that are there now. It has a position of its own.
    pub fn existing(&self) -> Result<impl Read + Send + use<>> {
        let failed = |e: io::Error| self.store.0.io("read", &self.name, e);
        let file = self.file.try_clone().map_err(failed)?;
        Ok(Beginning {
            file,
            position: 0,
            end: self.written,
        })
    }

    /// Returns the file in which the bytes are, to be read at positions of the caller's choice. It
    /// stays the same file when it becomes a blob.
    pub fn file(&self) -> Result<File> {
        let failed = |e: io::Error| self.store.0.io("open", &self.name, e);
        self.file.try_clone().map_err(failed)
    }

    /// Makes what was written so far survive a power cut, its name included.
    pub fn checkpoint(&mut self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|e| self.store.0.io("sync", &self.name, e))?;
        self.store.0.sync_ingest()
    }

    /// Forgets all bytes and starts anew.
    pub fn restart(&mut self) -> Result<()> {
        let failed = |store: &ContentStore, name: &str, e| store.0.io("empty", name, e);
        self.file
            .set_len(0)
            .map_err(|e| failed(&self.store, &self.name, e))?;
        self.file
            .seek(SeekFrom::Start(0))
            .map_err(|e| failed(&self.store, &self.name, e))?;
        self.hasher = Hasher::new();
        self.written = 0;
        Ok(())
    }

    /// Makes the bytes a blob, if digest and length are the expected ones; otherwise they are
    /// gone, resumable or not: what is wrong is no beginning of what is right.
    pub fn commit(
        mut self,
        digest: Option<&Digest>,
        size: Option<u64>,
        sync: Sync,
    ) -> Result<Blob> {
        self.done = true;
        let actual = std::mem::take(&mut self.hasher).finish();
        let result = self.publish(actual, digest, size, sync);
        if result.is_err() {
            self.store.0.discard(&self.name);
        }
        result
    }

    fn publish(
        &self,
        actual: Digest,
        digest: Option<&Digest>,
        size: Option<u64>,
        sync: Sync,
    ) -> Result<Blob> {
        if let Some(expected) = size
            && expected != self.written
        {
            return Err(Error::SizeMismatch {
                expected,
                actual: self.written,
            });
        }
        let beginning = match &self.keep {
            Keep::Beginning(digest) => Some(digest),
            Keep::Nothing | Keep::Session => None,
        };
        for expected in digest.into_iter().chain(beginning) {
            if *expected != actual {
                return Err(Error::DigestMismatch {
                    expected: *expected,
                    actual,
                });
            }
        }
        if sync == Sync::Durable {
            self.file
                .sync_all()
                .map_err(|e| self.store.0.io("sync", &self.name, e))?;
        }
        self.store.0.publish(&self.name, &actual, sync)?;
        Ok(Blob {
            digest: actual,
            size: self.written,
        })
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let useless = match self.keep {
            Keep::Nothing => true,
            Keep::Beginning(_) => self.written == 0,
            Keep::Session => false,
        };
        if !self.done && useless {
            self.store.0.discard(&self.name);
        }
        if let Keep::Beginning(digest) = &self.keep {
            self.store.0.writing().remove(digest);
        }
    }
}

/// Reads the first bytes of a file that goes on being written through the same description.
struct Beginning {
    file: File,
    position: u64,
    end: u64,
}

impl Read for Beginning {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let left = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let want = buffer.len().min(left);
        let n = self.file.read_at(&mut buffer[..want], self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}
