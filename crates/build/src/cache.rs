//! What steps came to, by everything that they depend on.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use sampan_images::{HeldLayer, ImageStore};
use sampan_oci::DiffId;
use sampan_oci::digest::{Digest, Hasher};
use sampan_state::{Store, Sync};
use serde::{Deserialize, Serialize};

use crate::{Contexts, Result};

/// Names all that a step depends on, and with it what it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(pub(crate) Digest);

/// Collects what a step depends on. Each part has a name and a length in front, so that different
/// parts never look the same together.
pub(crate) struct KeyMaker(Hasher);

impl Key {
    /// Names what is on other files.
    pub(crate) fn on(self, below: Self) -> Self {
        let mut key = KeyMaker::new("on");
        key.text("below", &below.0.hex());
        key.text("above", &self.0.hex());
        key.key()
    }
}

impl KeyMaker {
    pub(crate) fn new(what: &str) -> Self {
        let mut maker = Self(Hasher::new());
        maker.text("sampan build step", "1");
        maker.text("what", what);
        maker
    }

    pub(crate) fn bytes(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), value] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) {
        self.bytes(name, value.as_bytes());
    }

    pub(crate) fn number(&mut self, name: &str, value: u64) {
        self.bytes(name, &value.to_le_bytes());
    }

    pub(crate) fn texts<'t>(&mut self, name: &str, values: impl IntoIterator<Item = &'t String>) {
        let values: Vec<_> = values.into_iter().collect();
        self.number(name, values.len() as u64);
        for value in values {
            self.text("", value);
        }
    }

    pub(crate) fn key(self) -> Key {
        Key(self.0.finish())
    }
}

/// What a step came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// None when it changed nothing.
    layer: Option<DiffId>,
    /// RFC 3339.
    created: String,
}

/// A step that was done before, with its layer held.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) layer: Option<HeldLayer>,
    pub(crate) created: String,
}

/// What a prune took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The keys of the steps.
    pub steps: Vec<String>,
    /// Bytes on disk.
    pub bytes: u64,
}

/// The steps of all builds; clones share them. Their layers stay as long as their records do.
#[derive(Clone, Debug)]
pub struct Cache {
    steps: Arc<Store<Record>>,
    sources: Arc<Store<Digest>>,
    contexts: Contexts,
    images: ImageStore,
}

impl Cache {
    /// Opens the cache below `root`, and has the layers kept that it refers to. A damaged record is
    /// set aside: the step is not known then.
    pub fn open(root: &Path, images: ImageStore) -> Result<Self> {
        let steps = Arc::new(Store::<Record>::open(root.join("build/steps"))?);
        let needed = steps.clone();
        images.keep_layers(move || layers(&needed));
        Ok(Self {
            steps,
            sources: Arc::new(Store::open(root.join("build/sources"))?),
            contexts: Contexts::open(root, images.clone())?,
            images,
        })
    }

    /// The files that clients have sent.
    pub fn contexts(&self) -> &Contexts {
        &self.contexts
    }

    /// What the sources of a copy are, if somebody has looked at them.
    pub(crate) fn content(&self, name: Key) -> Option<Digest> {
        self.sources.get(&name.0.hex()).map(|digest| *digest)
    }

    /// Notes what the sources of a copy are. One that is forgotten is found out again.
    pub(crate) fn note_content(&self, name: Key, content: Digest) -> Result<()> {
        Ok(self.sources.put(&name.0.hex(), &content, Sync::Volatile)?)
    }

    pub(crate) fn find(&self, key: Key) -> Option<Found> {
        let record = self.steps.get(&key.0.hex())?;
        let layer = match &record.layer {
            // One that is gone was damaged: the step is done again.
            Some(diff_id) => Some(self.images.hold_layer(diff_id)?),
            None => None,
        };
        Some(Found {
            layer,
            created: record.created.clone(),
        })
    }

    /// Notes what a step came to. The layer is held by the caller until this returns.
    pub(crate) fn note(&self, key: Key, layer: Option<&HeldLayer>, created: &str) -> Result<()> {
        let record = Record {
            layer: layer.map(HeldLayer::diff_id),
            created: created.to_owned(),
        };
        Ok(self.steps.put(&key.0.hex(), &record, Sync::Durable)?)
    }

    /// Forgets the steps that `unwanted` picks by when they were done (RFC 3339), and removes the
    /// layers that only they needed. Blocks.
    pub fn prune(
        &self,
        unwanted: impl Fn(&str) -> bool,
        in_use: &HashSet<DiffId>,
    ) -> Result<Pruned> {
        let mut candidates = HashSet::new();
        let mut pruned = Pruned::default();
        for (key, record) in self.steps.iter() {
            if unwanted(&record.created) {
                self.steps.remove(&key, Sync::Volatile)?;
                candidates.extend(record.layer);
                pruned.steps.push(key);
            }
        }
        pruned.bytes = self.images.drop_layers(candidates, in_use)?.disk;
        Ok(pruned)
    }
}

fn layers(steps: &Store<Record>) -> HashSet<DiffId> {
    steps
        .iter()
        .filter_map(|(_, record)| record.layer)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_key_do_not_run_together() {
        let key = |parts: &[(&str, &str)]| {
            let mut maker = KeyMaker::new("x");
            for (name, value) in parts {
                maker.text(name, value);
            }
            maker.key()
        };
        assert_ne!(key(&[("a", "bc")]), key(&[("ab", "c")]));
        assert_ne!(key(&[("a", "")]), key(&[]));
        assert_ne!(key(&[("a", "1"), ("b", "2")]), key(&[("a", "1b2")]));
        let list = |values: &[&str]| {
            let mut maker = KeyMaker::new("x");
            let values: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
            maker.texts("l", &values);
            maker.texts("m", &[]);
            maker.key()
        };
        assert_ne!(list(&["a", "b"]), list(&["ab"]));
        assert_ne!(list(&["a"]), list(&["a", ""]));
    }
}
