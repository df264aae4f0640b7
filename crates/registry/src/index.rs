//! What the registry holds, in memory: who has which blob, who needs it, and until when it must
//! not be collected.
//!
//! Pure: it is told what time it is, does no input or output, and is rebuilt from the records at
//! the start. Two rules keep collecting safe while others push:
//!
//! * what a client was told to be there (uploaded, mounted, answered to HEAD) has a **lease** in
//!   that repository;
//! * a manifest on its way **holds** what it needs before its record is written, and a blob on its
//!   way to a repository is **pinned**.
//!
//! A repository lets go of a blob that none of its manifests needs when the blob's lease and the
//! last upload to the repository are over; a blob that no repository has and nobody pins goes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;

use jiff::Timestamp;
use sampan_oci::{Digest, MediaType};

use crate::name::{RepositoryName, Tag};

/// What is known of a manifest.
#[derive(Clone, Debug)]
pub struct ManifestEntry {
    /// Its type.
    pub media_type: MediaType,
    /// Its length in bytes.
    pub size: u64,
    /// When it was pushed.
    pub pushed: Timestamp,
    /// Who pushed it, if the registry knows its users.
    pub by: Option<String>,
    /// The blobs that it needs here.
    pub blobs: Box<[Digest]>,
    /// The manifests that it lists.
    pub manifests: Box<[Digest]>,
    /// What it says something about.
    pub subject: Option<Digest>,
    /// What kind of artifact it is.
    pub artifact_type: Option<String>,
}

/// What is known of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagEntry {
    /// What it points to.
    pub digest: Digest,
    /// Since when.
    pub pushed: Timestamp,
    /// Who set it.
    pub by: Option<String>,
}

#[derive(Debug)]
struct Repository {
    tags: BTreeMap<Tag, TagEntry>,
    manifests: HashMap<Digest, ManifestEntry>,
    referrers: HashMap<Digest, BTreeSet<Digest>>,
    blobs: HashMap<Digest, Holding>,
    /// Blobs that are linked and that no manifest needs.
    loose: HashSet<Digest>,
    active_until: Instant,
}

/// Why a repository has a blob.
#[derive(Debug)]
struct Holding {
    /// It was uploaded or mounted: there is a record.
    linked: bool,
    /// So many of its manifests, written or on their way, need it.
    needed: u32,
    until: Instant,
}

#[derive(Debug)]
struct BlobEntry {
    /// None while it is not there: a cache may have manifests without their blobs.
    size: Option<u64>,
    /// So many repositories have it.
    holders: u32,
    /// So many operations are about to give it to a repository.
    pins: u32,
}

/// Totals, for people and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Repositories with a manifest.
    pub repositories: usize,
    /// Manifests in all repositories.
    pub manifests: usize,
    /// Tags in all repositories.
    pub tags: usize,
    /// Blobs.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Index {
    repositories: BTreeMap<RepositoryName, Repository>,
    blobs: HashMap<Digest, BlobEntry>,
    /// Blobs that no repository has.
    orphans: HashSet<Digest>,
    bytes: u64,
}

impl Index {
    fn repository(&mut self, name: &RepositoryName, now: Instant) -> &mut Repository {
        if !self.repositories.contains_key(name) {
            let repository = Repository {
                tags: BTreeMap::new(),
                manifests: HashMap::new(),
                referrers: HashMap::new(),
                blobs: HashMap::new(),
                loose: HashSet::new(),
                active_until: now,
            };
            self.repositories.insert(name.clone(), repository);
        }
        self.repositories
            .get_mut(name)
            .expect("it was inserted when it was not there")
    }

    fn blob(&mut self, digest: &Digest) -> &mut BlobEntry {
        self.blobs.entry(*digest).or_insert_with(|| BlobEntry {
            size: None,
            holders: 0,
            pins: 0,
        })
    }

    /// Notes that a blob is in the store.
    pub(crate) fn stored(&mut self, digest: &Digest, size: u64) {
        let blob = self.blob(digest);
        let new = blob.size.is_none();
        blob.size = Some(size);
        if blob.holders == 0 {
            self.orphans.insert(*digest);
        }
        if new {
            self.bytes += size;
        }
    }

    /// Keeps a blob until [`Index::unpin`], whoever has it.
    pub(crate) fn pin(&mut self, digest: &Digest) {
        self.blob(digest).pins += 1;
    }

    /// Takes back what [`Index::pin`] did.
    pub(crate) fn unpin(&mut self, digest: &Digest) {
        if let Some(blob) = self.blobs.get_mut(digest) {
            blob.pins -= 1;
            self.forget_if_nothing(digest);
        }
    }

    /// Forgets a blob that is neither there nor wanted.
    fn forget_if_nothing(&mut self, digest: &Digest) {
        let nothing = |blob: &BlobEntry| blob.size.is_none() && blob.holders == 0 && blob.pins == 0;
        if self.blobs.get(digest).is_some_and(nothing) {
            self.blobs.remove(digest);
        }
    }

    /// Returns the length of a blob that the store has, whoever may see it.
    pub(crate) fn stored_size(&self, digest: &Digest) -> Option<u64> {
        self.blobs.get(digest)?.size
    }

    /// Returns the length of a blob that the repository has.
    pub(crate) fn visible(&self, repository: &RepositoryName, digest: &Digest) -> Option<u64> {
        self.repositories.get(repository)?.blobs.get(digest)?;
        self.stored_size(digest)
    }

    /// Returns a repository among these that has the blob.
    pub(crate) fn find(
        &self,
        digest: &Digest,
        may_see: impl Fn(&RepositoryName) -> bool,
    ) -> Option<RepositoryName> {
        self.stored_size(digest)?;
        self.repositories
            .iter()
            .find(|(name, repository)| repository.blobs.contains_key(digest) && may_see(name))
            .map(|(name, _)| name.clone())
    }

    /// Sees to it that the repository keeps a blob, which it has, at least until then.
    pub(crate) fn lease(
        &mut self,
        repository: &RepositoryName,
        digest: &Digest,
        until: Instant,
    ) -> Option<u64> {
        let size = self.stored_size(digest)?;
        let repository = self.repositories.get_mut(repository)?;
        let holding = repository.blobs.get_mut(digest)?;
        holding.until = holding.until.max(until);
        Some(size)
    }

    /// Notes that something is being uploaded to the repository.
    pub(crate) fn active(&mut self, repository: &RepositoryName, until: Instant) {
        if let Some(repository) = self.repositories.get_mut(repository) {
            repository.active_until = repository.active_until.max(until);
        }
    }

    /// Notes that the repository has a record of the blob.
    pub(crate) fn link(&mut self, name: &RepositoryName, digest: &Digest, until: Instant) {
        let repository = self.repository(name, until);
        let mut new = false;
        let holding = repository.blobs.entry(*digest).or_insert_with(|| {
            new = true;
            Holding {
                linked: false,
                needed: 0,
                until,
            }
        });
        holding.linked = true;
        holding.until = holding.until.max(until);
        if holding.needed == 0 {
            repository.loose.insert(*digest);
        }
        if new {
            self.held(digest);
        }
    }

    fn held(&mut self, digest: &Digest) {
        self.blob(digest).holders += 1;
        self.orphans.remove(digest);
    }

    fn let_go(&mut self, digest: &Digest) {
        let Some(blob) = self.blobs.get_mut(digest) else {
            return;
        };
        blob.holders -= 1;
        if blob.holders == 0 && blob.size.is_some() {
            self.orphans.insert(*digest);
        }
        self.forget_if_nothing(digest);
    }

    /// Holds what a manifest needs. Answers what the repository does not have, and then holds
    /// nothing.
    pub(crate) fn hold(
        &mut self,
        repository: &RepositoryName,
        entry: &ManifestEntry,
        now: Instant,
    ) -> Result<(), Digest> {
        let has = self.repositories.get(repository);
        for digest in &entry.blobs {
            if self.visible(repository, digest).is_none() {
                return Err(*digest);
            }
        }
        for digest in &entry.manifests {
            if !has.is_some_and(|has| has.manifests.contains_key(digest)) {
                return Err(*digest);
            }
        }
        self.need(repository, &entry.blobs, now);
        Ok(())
    }

    /// Holds blobs whether they are there or not.
    pub(crate) fn need(&mut self, name: &RepositoryName, digests: &[Digest], now: Instant) {
        for digest in digests {
            let repository = self.repository(name, now);
            let mut new = false;
            let holding = repository.blobs.entry(*digest).or_insert_with(|| {
                new = true;
                Holding {
                    linked: false,
                    needed: 0,
                    until: now,
                }
            });
            holding.needed += 1;
            repository.loose.remove(digest);
            if new {
                self.held(digest);
            }
        }
    }

    /// Lets go of what [`Index::need`] holds.
    pub(crate) fn release(&mut self, name: &RepositoryName, digests: &[Digest]) {
        for digest in digests {
            let Some(repository) = self.repositories.get_mut(name) else {
                return;
            };
            let Some(holding) = repository.blobs.get_mut(digest) else {
                continue;
            };
            holding.needed -= 1;
            if holding.needed > 0 {
                continue;
            }
            if holding.linked {
                repository.loose.insert(*digest);
            } else {
                repository.blobs.remove(digest);
                self.let_go(digest);
            }
        }
        self.forget_if_empty(name);
    }

    /// Adds a manifest whose blobs are held already.
    pub(crate) fn add_manifest(
        &mut self,
        name: &RepositoryName,
        digest: Digest,
        entry: ManifestEntry,
        now: Instant,
    ) {
        let repository = self.repository(name, now);
        if let Some(subject) = entry.subject {
            repository
                .referrers
                .entry(subject)
                .or_default()
                .insert(digest);
        }
        if let Some(former) = repository.manifests.insert(digest, entry) {
            self.release(name, &former.blobs);
        }
    }

    /// Removes a manifest and answers whether it was there.
    pub(crate) fn remove_manifest(&mut self, name: &RepositoryName, digest: &Digest) -> bool {
        let Some(repository) = self.repositories.get_mut(name) else {
            return false;
        };
        let Some(entry) = repository.manifests.remove(digest) else {
            return false;
        };
        if let Some(subject) = entry.subject
            && let Some(referrers) = repository.referrers.get_mut(&subject)
        {
            referrers.remove(digest);
            if referrers.is_empty() {
                repository.referrers.remove(&subject);
            }
        }
        self.release(name, &entry.blobs);
        self.forget_if_empty(name);
        true
    }

    /// Points a tag to a manifest.
    pub(crate) fn set_tag(
        &mut self,
        name: &RepositoryName,
        tag: Tag,
        entry: TagEntry,
        now: Instant,
    ) {
        self.repository(name, now).tags.insert(tag, entry);
    }

    /// Removes a tag and answers whether it was there.
    pub(crate) fn remove_tag(&mut self, name: &RepositoryName, tag: &Tag) -> bool {
        let removed = self
            .repositories
            .get_mut(name)
            .is_some_and(|repository| repository.tags.remove(tag).is_some());
        self.forget_if_empty(name);
        removed
    }

    fn forget_if_empty(&mut self, name: &RepositoryName) {
        let empty = self.repositories.get(name).is_some_and(|repository| {
            repository.tags.is_empty()
                && repository.manifests.is_empty()
                && repository.blobs.is_empty()
        });
        if empty {
            self.repositories.remove(name);
        }
    }

    /// Whether there is such a repository.
    pub(crate) fn has_repository(&self, name: &RepositoryName) -> bool {
        self.repositories.contains_key(name)
    }

    /// Returns what a tag points to.
    pub(crate) fn tag(&self, name: &RepositoryName, tag: &Tag) -> Option<&TagEntry> {
        self.repositories.get(name)?.tags.get(tag)
    }

    /// Returns what is known of a manifest.
    pub(crate) fn manifest(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Option<&ManifestEntry> {
        self.repositories.get(name)?.manifests.get(digest)
    }

    /// Returns all manifests of a repository.
    pub(crate) fn manifests(
        &self,
        name: &RepositoryName,
    ) -> impl Iterator<Item = (&Digest, &ManifestEntry)> {
        let repository = self.repositories.get(name);
        repository.into_iter().flat_map(|r| r.manifests.iter())
    }

    /// Returns the tags of a repository in order, from the one behind `last` on.
    pub(crate) fn tags<'a>(
        &'a self,
        name: &RepositoryName,
        last: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Tag, &'a TagEntry)> + use<'a> {
        let repository = self.repositories.get(name);
        repository
            .into_iter()
            .flat_map(|repository| repository.tags.iter())
            .filter(move |(tag, _)| last.is_none_or(|last| tag.as_str() > last))
    }

    /// Returns the tags that point to a manifest.
    pub(crate) fn tags_of(&self, name: &RepositoryName, digest: &Digest) -> Vec<Tag> {
        self.tags(name, None)
            .filter(|(_, entry)| entry.digest == *digest)
            .map(|(tag, _)| tag.clone())
            .collect()
    }

    /// Returns what says something about a manifest, which need not be there.
    pub(crate) fn referrers(&self, name: &RepositoryName, subject: &Digest) -> Vec<Digest> {
        let repository = self.repositories.get(name);
        repository
            .and_then(|repository| repository.referrers.get(subject))
            .map(|digests| digests.iter().copied().collect())
            .unwrap_or_default()
    }

    /// Returns a manifest that needs the blob, or none.
    pub(crate) fn user_of(&self, name: &RepositoryName, blob: &Digest) -> Option<Digest> {
        self.repositories
            .get(name)?
            .manifests
            .iter()
            .find(|(_, entry)| entry.blobs.contains(blob))
            .map(|(digest, _)| *digest)
    }

    /// Returns the repositories that have a manifest, in order, from the one behind `last` on.
    pub(crate) fn repositories<'a>(
        &'a self,
        last: Option<&'a str>,
    ) -> impl Iterator<Item = &'a RepositoryName> {
        self.repositories
            .iter()
            .filter(move |(name, repository)| {
                !repository.manifests.is_empty() && last.is_none_or(|last| name.as_str() > last)
            })
            .map(|(name, _)| name)
    }

    /// Returns what repositories could let go of now.
    pub(crate) fn loose(&self, now: Instant) -> Vec<(RepositoryName, Digest)> {
        let mut found = Vec::new();
        for (name, repository) in &self.repositories {
            for digest in &repository.loose {
                if repository.may_let_go(digest, now) {
                    found.push((name.clone(), *digest));
                }
            }
        }
        found
    }

    /// Lets a repository's link to a blob go, if it still may.
    pub(crate) fn unlink(&mut self, name: &RepositoryName, digest: &Digest, now: Instant) -> bool {
        let may = self
            .repositories
            .get(name)
            .is_some_and(|repository| repository.may_let_go(digest, now));
        may && self.unlink_now(name, digest)
    }

    /// Lets a repository's link to a blob go, whatever its lease. Answers whether there was one
    /// that no manifest needs.
    pub(crate) fn unlink_now(&mut self, name: &RepositoryName, digest: &Digest) -> bool {
        let Some(repository) = self.repositories.get_mut(name) else {
            return false;
        };
        if !repository.loose.remove(digest) {
            return false;
        }
        repository.blobs.remove(digest);
        self.let_go(digest);
        self.forget_if_empty(name);
        true
    }

    /// Returns the blobs that could go now.
    pub(crate) fn orphans(&self) -> Vec<Digest> {
        let free = |digest: &&Digest| self.is_free(digest);
        self.orphans.iter().filter(free).copied().collect()
    }

    fn is_free(&self, digest: &Digest) -> bool {
        let free = |blob: &BlobEntry| blob.holders == 0 && blob.pins == 0;
        self.blobs.get(digest).is_some_and(free)
    }

    /// Forgets a blob, if it still may go. Answers its length.
    pub(crate) fn forget(&mut self, digest: &Digest) -> Option<u64> {
        if !self.is_free(digest) {
            return None;
        }
        self.orphans.remove(digest);
        let size = self.blobs.remove(digest)?.size?;
        self.bytes -= size;
        Some(size)
    }

    /// Returns the totals.
    pub(crate) fn totals(&self) -> Totals {
        Totals {
            repositories: self.repositories(None).count(),
            manifests: self.repositories.values().map(|r| r.manifests.len()).sum(),
            tags: self.repositories.values().map(|r| r.tags.len()).sum(),
            blobs: self.blobs.values().filter(|b| b.size.is_some()).count(),
            bytes: self.bytes,
        }
    }
}

impl Repository {
    fn may_let_go(&self, digest: &Digest, now: Instant) -> bool {
        let expired =
            |holding: &Holding| holding.linked && holding.needed == 0 && holding.until <= now;
        self.active_until <= now && self.blobs.get(digest).is_some_and(expired)
    }
}
