//! Collecting what nobody needs, while others push.

use std::time::Duration;

use sampan_oci::Digest;

use super::{Registry, now};
use crate::error::Result;
use crate::name::RepositoryName;
use crate::storage::Record;

/// What a collection gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Manifests that no tag, index or referrer needed for long.
    pub manifests: usize,
    /// Links of repositories to blobs.
    pub links: usize,
    /// Blobs.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Uploads to which nothing came.
    pub uploads: usize,
}

impl Registry {
    /// Removes what nobody needs and nobody leased. May be dropped at any time.
    ///
    /// Each removal first decides in the index, under the lock that a push of the same thing
    /// takes, and then acts; so that a kill in between leaves something that is found again.
    pub async fn collect(&self) -> Result<Collected> {
        let mut collected = Collected::default();
        let life = self.0.settings.upload_life;
        for id in self.0.uploads.idle(life) {
            let this = self.clone();
            let expired = self
                .change(async move { this.expire_upload(&id, life).await })
                .await?;
            collected.uploads += usize::from(expired);
        }
        if let Some(life) = self.0.settings.untagged_life {
            collected.manifests = self.collect_untagged(life).await?;
        }
        let loose = self.0.index().loose(now());
        for (repository, digest) in loose {
            let this = self.clone();
            let gone = self
                .change(async move { this.collect_link(&repository, &digest).await })
                .await?;
            collected.links += usize::from(gone);
        }
        let orphans = self.0.index().orphans();
        for digest in orphans {
            let this = self.clone();
            let bytes = self
                .change(async move { this.collect_blob(&digest).await })
                .await?;
            if let Some(bytes) = bytes {
                collected.blobs += 1;
                collected.bytes += bytes;
            }
        }
        Ok(collected)
    }

    async fn collect_link(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
        let _lock = self.0.locks.link(repository, digest).await;
        if !self.0.index().unlink(repository, digest, now()) {
            return Ok(false);
        }
        let record = Record::Blob(repository.clone(), *digest);
        self.0.storage.remove_record(&record).await?;
        Ok(true)
    }

    async fn collect_blob(&self, digest: &Digest) -> Result<Option<u64>> {
        let _lock = self.0.locks.blob(digest).await;
        let Some(bytes) = self.0.index().forget(digest) else {
            return Ok(None);
        };
        if let Err(error) = self.0.storage.remove_blob(digest).await {
            // Still there, so that it is tried again.
            self.0.index().stored(digest, bytes);
            return Err(error.into());
        }
        Ok(Some(bytes))
    }

    /// Removes manifests that no tag points to, that no index lists and that say nothing about a
    /// manifest that is there.
    async fn collect_untagged(&self, life: Duration) -> Result<usize> {
        let mut count = 0;
        let names = self.repositories(None, usize::MAX, |_| true);
        for repository in names {
            for digest in self.0.untagged(&repository, life) {
                let (this, repository) = (self.clone(), repository.clone());
                let gone = self
                    .change(async move {
                        let _lock = this.0.locks.repository(&repository).await;
                        // A tag may have come in between.
                        if !this.0.untagged(&repository, life).contains(&digest) {
                            return Ok(false);
                        }
                        this.remove_manifest(&repository, &digest).await?;
                        Ok(true)
                    })
                    .await?;
                count += usize::from(gone);
            }
        }
        Ok(count)
    }
}

impl super::Inner {
    fn untagged(&self, repository: &RepositoryName, life: Duration) -> Vec<Digest> {
        let index = self.index();
        let mut needed: std::collections::HashSet<Digest> = index
            .tags(repository, None)
            .map(|(_, entry)| entry.digest)
            .collect();
        for (_, entry) in index.manifests(repository) {
            needed.extend(entry.manifests.iter().copied());
        }
        let age =
            |pushed: jiff::Timestamp| super::timestamp().duration_since(pushed).unsigned_abs();
        index
            .manifests(repository)
            .filter(|(digest, entry)| {
                let speaks = entry
                    .subject
                    .is_some_and(|subject| index.manifest(repository, &subject).is_some());
                !needed.contains(*digest) && !speaks && age(entry.pushed) > life
            })
            .map(|(digest, _)| *digest)
            .collect()
    }
}
