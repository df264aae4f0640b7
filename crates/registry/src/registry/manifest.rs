//! Manifests and tags of repositories.

use bytes::Bytes;
use sampan_oci::{Digest, MediaType};

use super::{Registry, now, timestamp};
use crate::error::{Error, Result};
use crate::index::{ManifestEntry, TagEntry};
use crate::manifest::{bytes_of, from_record, parse, to_record, to_tag_record};
use crate::name::{RepositoryName, Tag, Target};
use crate::storage::{Record, StorageError};

/// A manifest of a repository.
#[derive(Clone, Debug)]
pub struct FoundManifest {
    /// Its digest.
    pub digest: Digest,
    /// What is known of it.
    pub entry: ManifestEntry,
}

/// What must be in a repository before a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// All that it names.
    All,
    /// Its blobs, but not the manifests that it lists.
    Blobs,
    /// Nothing: a cache fetches it when it is asked for.
    Nothing,
}

/// A manifest that was stored.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// Its digest.
    pub digest: Digest,
    /// What it says something about.
    pub subject: Option<Digest>,
}

/// Something that a manifest says about another one.
#[derive(Clone, Debug)]
pub struct Referrer {
    /// Its digest.
    pub digest: Digest,
    /// What is known of it.
    pub entry: ManifestEntry,
    /// Its annotations.
    pub annotations: std::collections::BTreeMap<String, String>,
}

impl Registry {
    /// Finds a manifest.
    pub fn manifest(&self, repository: &RepositoryName, target: &Target) -> Result<FoundManifest> {
        let index = self.0.index();
        let digest = match target {
            Target::Digest(digest) => Some(*digest),
            Target::Tag(tag) => index.tag(repository, tag).map(|entry| entry.digest),
        };
        let found = digest.and_then(|digest| {
            let entry = index.manifest(repository, &digest)?.clone();
            Some(FoundManifest { digest, entry })
        });
        found.ok_or_else(|| unknown(repository, target))
    }

    /// Reads the bytes of a manifest.
    pub async fn manifest_bytes(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Bytes> {
        let record = Record::Manifest(repository.clone(), *digest);
        let damaged = || StorageError::failed("read a manifest", "its record is damaged");
        match self.0.storage.record(&record).await {
            Ok(record) => Ok(bytes_of(&record).ok_or_else(damaged)?),
            Err(StorageError::NotFound(_)) => Err(unknown(repository, &Target::Digest(*digest))),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores a manifest and points a tag to it, if `target` is one.
    pub async fn put_manifest(
        &self,
        repository: &RepositoryName,
        target: &Target,
        media_type: &MediaType,
        bytes: Bytes,
        by: Option<String>,
    ) -> Result<Pushed> {
        let limit = self.0.settings.max_manifest;
        if bytes.len() as u64 > limit {
            return Err(Error::TooLarge {
                what: "manifest",
                limit,
            });
        }
        let digest = Digest::of(&bytes);
        if let Target::Digest(expected) = target
            && *expected != digest
        {
            return Err(Error::DigestMismatch {
                expected: *expected,
                actual: digest,
            });
        }
        let entry = parse(&bytes, media_type, by, timestamp())?.entry;
        let tag = match target {
            Target::Tag(tag) => Some(tag.clone()),
            Target::Digest(_) => None,
        };
        let (this, repository) = (self.clone(), repository.clone());
        self.change(async move {
            let subject = entry.subject;
            let needs = match this.0.settings.sparse_indexes {
                true => Needs::Blobs,
                false => Needs::All,
            };
            this.store_manifest(&repository, digest, entry, tag, &bytes, needs)
                .await?;
            Ok(Pushed { digest, subject })
        })
        .await
    }

    pub(super) async fn store_manifest(
        &self,
        repository: &RepositoryName,
        digest: Digest,
        entry: ManifestEntry,
        tag: Option<Tag>,
        bytes: &[u8],
        needs: Needs,
    ) -> Result<()> {
        let inner = &self.0;
        let _lock = inner.locks.repository(repository).await;
        let tag = tag.map(|tag| {
            let tagged = TagEntry {
                digest,
                pushed: entry.pushed,
                by: entry.by.clone(),
            };
            (tag, tagged)
        });
        let known = inner.index().manifest(repository, &digest).is_some();
        // The same again only moves the tag: who pushed it first stays noted.
        if !known {
            let held = entry.blobs.clone();
            inner.hold(repository, &entry, needs)?;
            let record = Record::Manifest(repository.clone(), digest);
            let put = inner.storage.put_record(&record, to_record(&entry, bytes));
            let written = put.await;
            let mut index = inner.index();
            match written {
                Ok(()) => index.add_manifest(repository, digest, entry, now()),
                Err(error) => {
                    index.release(repository, &held);
                    return Err(error.into());
                }
            }
        }
        if let Some((tag, entry)) = tag {
            let record = Record::Tag(repository.clone(), tag.clone());
            let put = inner.storage.put_record(&record, to_tag_record(&entry));
            put.await?;
            inner.index().set_tag(repository, tag, entry, now());
        }
        Ok(())
    }

    /// Removes a tag, or a manifest with all tags that point to it.
    pub async fn delete_manifest(
        &self,
        repository: &RepositoryName,
        target: &Target,
    ) -> Result<()> {
        let (this, repository, target) = (self.clone(), repository.clone(), target.clone());
        self.change(async move {
            let _lock = this.0.locks.repository(&repository).await;
            match &target {
                Target::Tag(tag) => this.remove_tag(&repository, tag).await,
                Target::Digest(digest) => this.remove_manifest(&repository, digest).await,
            }
        })
        .await
    }

    async fn remove_tag(&self, repository: &RepositoryName, tag: &Tag) -> Result<()> {
        if self.0.index().tag(repository, tag).is_none() {
            return Err(unknown(repository, &Target::Tag(tag.clone())));
        }
        let record = Record::Tag(repository.clone(), tag.clone());
        self.0.storage.remove_record(&record).await?;
        self.0.index().remove_tag(repository, tag);
        Ok(())
    }

    /// Removes a manifest whose repository is locked. Tags go first: none ever points nowhere.
    pub(super) async fn remove_manifest(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<()> {
        let tags = {
            let index = self.0.index();
            if index.manifest(repository, digest).is_none() {
                return Err(unknown(repository, &Target::Digest(*digest)));
            }
            index.tags_of(repository, digest)
        };
        for tag in tags {
            self.remove_tag(repository, &tag).await?;
        }
        let record = Record::Manifest(repository.clone(), *digest);
        self.0.storage.remove_record(&record).await?;
        self.0.index().remove_manifest(repository, digest);
        Ok(())
    }

    /// Lists tags in order, at most `count`, from the one behind `last` on.
    pub fn tags(
        &self,
        repository: &RepositoryName,
        last: Option<&str>,
        count: usize,
    ) -> Result<Vec<(Tag, TagEntry)>> {
        let index = self.0.index();
        if !index.has_repository(repository) {
            return Err(Error::RepositoryUnknown(repository.clone()));
        }
        let tags = index.tags(repository, last).take(count);
        Ok(tags
            .map(|(tag, entry)| (tag.clone(), entry.clone()))
            .collect())
    }

    /// Lists what says something about a manifest.
    pub async fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
    ) -> Result<Vec<Referrer>> {
        let digests = self.0.index().referrers(repository, subject);
        let mut referrers = Vec::with_capacity(digests.len());
        for digest in digests {
            let record = Record::Manifest(repository.clone(), digest);
            let record = match self.0.storage.record(&record).await {
                Ok(record) => record,
                // Deleted in between.
                Err(StorageError::NotFound(_)) => continue,
                Err(error) => return Err(error.into()),
            };
            if let Some((_, parsed)) = from_record(&record, &digest) {
                referrers.push(Referrer {
                    digest,
                    entry: parsed.entry,
                    annotations: parsed.annotations,
                });
            }
        }
        Ok(referrers)
    }
}

impl super::Inner {
    /// Holds the blobs of a manifest on its way.
    fn hold(&self, repository: &RepositoryName, entry: &ManifestEntry, needs: Needs) -> Result<()> {
        let mut index = self.index();
        let held = match needs {
            Needs::All => index.hold(repository, entry, now()),
            Needs::Blobs => {
                let mut entry = entry.clone();
                entry.manifests = Box::default();
                index.hold(repository, &entry, now())
            }
            Needs::Nothing => {
                index.need(repository, &entry.blobs, now());
                Ok(())
            }
        };
        held.map_err(|missing| Error::ManifestIncomplete { missing })
    }
}

fn unknown(repository: &RepositoryName, target: &Target) -> Error {
    Error::ManifestUnknown {
        repository: repository.clone(),
        target: target.to_string(),
    }
}
