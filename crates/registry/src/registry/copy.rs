//! What caches put into a registry.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use sampan_oci::{Digest, MediaType};
use std::collections::HashSet;
use std::future::Future;
use std::io;
use std::ops::Range;

use super::upload::UploadId;
use super::{Registry, timestamp};
use crate::error::{Error, Result};
use crate::manifest::parse;
use crate::name::{RepositoryName, Target};
use crate::storage::{Content, Upload};

/// A blob on its way from another registry.
pub(crate) struct BlobCopy {
    id: UploadId,
    pub(crate) upload: Box<dyn Upload>,
}

impl BlobCopy {
    /// Returns a file in which what came can be read, where the store has one.
    pub(crate) fn reader(&self) -> Option<std::fs::File> {
        self.upload.reader()
    }
}

impl Registry {
    /// Does something that [`Registry::close`] waits for.
    pub(crate) fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn(work);
    }

    /// Waits until the registry is closed.
    pub(crate) async fn closed(&self) {
        self.0.stopping.cancelled().await;
    }

    /// Stores a manifest whose blobs need not be there.
    pub(crate) async fn put_copy(
        &self,
        repository: &RepositoryName,
        target: &Target,
        media_type: &MediaType,
        bytes: Bytes,
    ) -> Result<()> {
        let digest = Digest::of(&bytes);
        let entry = parse(&bytes, media_type, None, timestamp())?.entry;
        let tag = match target {
            Target::Tag(tag) => Some(tag.clone()),
            Target::Digest(_) => None,
        };
        let (this, repository) = (self.clone(), repository.clone());
        self.change(async move {
            let needs = super::manifest::Needs::Nothing;
            this.store_manifest(&repository, digest, entry, tag, &bytes, needs)
                .await
        })
        .await
    }

    /// Begins a blob of so many bytes.
    pub(crate) async fn begin_copy(&self, size: u64) -> Result<BlobCopy> {
        let limit = self.0.settings.max_blob;
        if size > limit {
            return Err(Error::TooLarge {
                what: "blob",
                limit,
            });
        }
        let nowhere: RepositoryName = "cache".parse().map_err(|_| Error::Stopping)?;
        let id = UploadId::new(&nowhere)?;
        let upload = self.0.storage.begin(id.as_str()).await?;
        Ok(BlobCopy { id, upload })
    }

    /// Gives up a blob that does not come.
    pub(crate) async fn drop_copy(&self, copy: BlobCopy) {
        drop(copy.upload);
        if let Err(error) = self.0.storage.remove_upload(copy.id.as_str()).await {
            tracing::warn!(%error, "the beginning of a blob stays until the next start");
        }
    }

    /// Makes it a blob if it is the right one.
    pub(crate) async fn land_copy(&self, copy: BlobCopy, digest: Digest) -> Result<()> {
        self.commit(copy.upload, digest).await.map(drop)
    }

    /// Reads some bytes of a blob, whoever has it.
    pub(crate) async fn read_stored(
        &self,
        digest: &Digest,
        range: Range<u64>,
    ) -> io::Result<Bytes> {
        let content = self.0.storage.open(digest, range.clone()).await;
        match content.map_err(io::Error::other)? {
            Content::File(file) => {
                use std::os::unix::fs::FileExt;
                let length = usize::try_from(range.end - range.start).unwrap_or_default();
                let mut bytes = BytesMut::zeroed(length);
                file.read_exact_at(&mut bytes, range.start)?;
                Ok(bytes.freeze())
            }
            Content::Stream(mut pieces) => {
                let mut bytes = BytesMut::new();
                while let Some(piece) = pieces.next().await {
                    bytes.extend_from_slice(&piece?);
                }
                Ok(bytes.freeze())
            }
        }
    }

    /// Returns a manifest of the repository that needs the blob.
    pub(crate) fn user_of(&self, repository: &RepositoryName, blob: &Digest) -> Option<Digest> {
        self.0.index().user_of(repository, blob)
    }

    /// Lists the manifests of all repositories of some sort.
    pub(crate) fn all_manifests(
        &self,
        wanted: impl Fn(&RepositoryName) -> bool,
    ) -> HashSet<(RepositoryName, Digest)> {
        let index = self.0.index();
        let mut all = HashSet::new();
        for name in index.repositories(None).filter(|name| wanted(name)) {
            all.extend(
                index
                    .manifests(name)
                    .map(|(digest, _)| (name.clone(), *digest)),
            );
        }
        all
    }
}
