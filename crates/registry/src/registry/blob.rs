//! Blobs of repositories.

use std::ops::Range;

use bytes::Bytes;
use sampan_oci::Digest;

use super::Registry;
use crate::error::{Error, Result};
use crate::index::Index;
use crate::name::RepositoryName;
use crate::storage::{Content, Record};

/// Keeps a blob from being collected while it has no repository yet.
#[derive(Debug)]
pub(super) struct Pin {
    registry: Registry,
    digest: Digest,
}

impl Pin {
    /// Pins a blob, with the index locked since it was seen there.
    pub(super) fn new(registry: &Registry, index: &mut Index, digest: Digest) -> Self {
        index.pin(&digest);
        Self {
            registry: registry.clone(),
            digest,
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.registry.0.index().unpin(&self.digest);
    }
}

/// A blob that is being read.
#[derive(Debug)]
pub struct OpenBlob {
    /// Its length in bytes.
    pub size: u64,
    /// Its bytes; a stream has just the range that was asked for.
    pub content: Content,
}

impl Registry {
    /// Returns the length of a blob of the repository, and keeps the blob for the time of a lease:
    /// whoever asks may rely on the answer instead of uploading it.
    pub fn promise_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        let until = self.0.lease();
        self.0
            .index()
            .lease(repository, digest, until)
            .ok_or_else(|| unknown(repository, digest))
    }

    /// Returns the length of a blob of the repository.
    pub fn blob_size(&self, repository: &RepositoryName, digest: &Digest) -> Result<u64> {
        self.0
            .index()
            .visible(repository, digest)
            .ok_or_else(|| unknown(repository, digest))
    }

    /// Opens a blob of the repository. `range` is within its size.
    pub async fn open_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        range: Range<u64>,
    ) -> Result<OpenBlob> {
        let size = self.blob_size(repository, digest)?;
        match self.0.storage.open(digest, range).await {
            Ok(content) => Ok(OpenBlob { size, content }),
            // Collected in between.
            Err(crate::storage::StorageError::NotFound(_)) => Err(unknown(repository, digest)),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a repository a blob that another one has. With no `from`, looks for one that
    /// `may_see` allows. Answers whether it was given.
    pub async fn mount(
        &self,
        repository: &RepositoryName,
        digest: Digest,
        from: Option<&RepositoryName>,
        may_see: impl Fn(&RepositoryName) -> bool,
    ) -> Result<bool> {
        let pin = {
            let mut index = self.0.index();
            let source = match from {
                Some(from) => Some(from.clone()).filter(|from| may_see(from)),
                None => index.find(&digest, may_see),
            };
            let seen = source.is_some_and(|source| index.visible(&source, &digest).is_some());
            if !seen {
                return Ok(false);
            }
            // From here on the blob stays, whatever becomes of the source.
            Pin::new(self, &mut index, digest)
        };
        let (this, repository) = (self.clone(), repository.clone());
        self.change(async move {
            this.link(&repository, &pin).await?;
            Ok(true)
        })
        .await
    }

    /// Notes that a repository has a blob.
    pub(super) async fn link(&self, repository: &RepositoryName, pin: &Pin) -> Result<()> {
        let inner = &self.0;
        let digest = &pin.digest;
        let _lock = inner.locks.link(repository, digest).await;
        let record = Record::Blob(repository.clone(), *digest);
        inner.storage.put_record(&record, Bytes::new()).await?;
        let until = inner.lease();
        let mut index = inner.index();
        index.link(repository, digest, until);
        index.active(repository, until);
        Ok(())
    }

    /// Takes a blob from a repository.
    pub async fn delete_blob(&self, repository: &RepositoryName, digest: Digest) -> Result<()> {
        let (this, repository) = (self.clone(), repository.clone());
        self.change(async move {
            let inner = &this.0;
            let _lock = inner.locks.link(&repository, &digest).await;
            {
                let mut index = inner.index();
                if index.visible(&repository, &digest).is_none() {
                    return Err(unknown(&repository, &digest));
                }
                if let Some(manifest) = index.user_of(&repository, &digest) {
                    return Err(Error::BlobInUse { digest, manifest });
                }
                // A manifest on its way holds it.
                if !index.unlink_now(&repository, &digest) {
                    return Err(Error::UploadBusy);
                }
            }
            let record = Record::Blob(repository.clone(), digest);
            inner.storage.remove_record(&record).await?;
            Ok(())
        })
        .await
    }
}

pub(super) fn unknown(repository: &RepositoryName, digest: &Digest) -> Error {
    Error::BlobUnknown {
        repository: repository.clone(),
        digest: *digest,
    }
}
