//! Which image a name means.
//!
//! One record for each repository, so that a tag and a digest, or a tag that moves from one
//! image to another, change in a single atomic write.

use std::collections::BTreeMap;

use sampan_fs::Sync;
use sampan_oci::Reference;
use sampan_oci::digest::{Digest, ImageId};
use sampan_state::Store;
use serde::{Deserialize, Serialize};

use crate::Result;

/// The names of one repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Repository {
    /// Registry and repository, with neither tag nor digest.
    pub(crate) name: Reference,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) tags: BTreeMap<String, ImageId>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) digests: BTreeMap<Digest, ImageId>,
}

#[derive(Debug)]
pub(crate) struct Names(Store<Repository>);

fn key(name: &Reference) -> String {
    Digest::of(name.name().as_bytes()).hex()
}

impl Names {
    pub(crate) fn open(dir: &std::path::Path) -> Result<Self> {
        Ok(Self(Store::open(dir)?))
    }

    fn repository(&self, reference: &Reference) -> Repository {
        match self.0.get(&key(reference)) {
            Some(repository) => (*repository).clone(),
            None => Repository {
                name: reference.bare(),
                tags: BTreeMap::new(),
                digests: BTreeMap::new(),
            },
        }
    }

    fn put(&self, repository: &Repository) -> Result<()> {
        let key = key(&repository.name);
        if repository.tags.is_empty() && repository.digests.is_empty() {
            self.0.remove(&key, Sync::Durable)?;
        } else {
            self.0.put(&key, repository, Sync::Durable)?;
        }
        Ok(())
    }

    /// Returns the image that a name means: by the digest if it has one, else by the tag.
    pub(crate) fn get(&self, reference: &Reference) -> Option<ImageId> {
        let repository = self.0.get(&key(reference))?;
        match (reference.digest(), reference.tag()) {
            (Some(digest), _) => repository.digests.get(digest).copied(),
            (None, Some(tag)) => repository.tags.get(tag).copied(),
            (None, None) => None,
        }
    }

    /// Lets names of any repositories mean `image`; one write for each repository. Whether that
    /// changes anything.
    pub(crate) fn set(&self, references: &[Reference], image: ImageId) -> Result<bool> {
        let mut changed: BTreeMap<String, Repository> = BTreeMap::new();
        for reference in references {
            let repository = changed
                .entry(key(reference))
                .or_insert_with(|| self.repository(reference));
            match (reference.digest(), reference.tag()) {
                (Some(digest), _) => {
                    repository.digests.insert(*digest, image);
                }
                (None, Some(tag)) => {
                    repository.tags.insert(tag.to_owned(), image);
                }
                (None, None) => {}
            }
        }
        let mut any = false;
        for repository in changed.values() {
            if *repository != self.repository(&repository.name) {
                self.put(repository)?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Takes names of any repositories away; one write for each repository.
    pub(crate) fn remove(&self, references: &[Reference]) -> Result<()> {
        let mut changed: BTreeMap<String, Repository> = BTreeMap::new();
        for reference in references {
            let repository = changed
                .entry(key(reference))
                .or_insert_with(|| self.repository(reference));
            match (reference.digest(), reference.tag()) {
                (Some(digest), _) => repository.digests.remove(digest),
                (None, Some(tag)) => repository.tags.remove(tag),
                (None, None) => None,
            };
        }
        changed.values().try_for_each(|r| self.put(r))
    }

    /// Lists every name with its image.
    pub(crate) fn all(&self) -> Vec<(Reference, ImageId)> {
        let mut all = Vec::new();
        for (_, repository) in self.0.iter() {
            for (tag, image) in &repository.tags {
                if let Ok(reference) = repository.name.with_tag(tag) {
                    all.push((reference, *image));
                }
            }
            for (digest, image) in &repository.digests {
                all.push((repository.name.with_digest(*digest), *image));
            }
        }
        all
    }
}
