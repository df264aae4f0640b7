//! What steps came to, by everything that they depend on.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sampan_images::ImageStore;
use sampan_oci::DiffId;
use sampan_oci::digest::{Digest, Hasher};
use sampan_state::{Store, Sync};
use serde::{Deserialize, Serialize};

use crate::cache_mount::CacheMounts;
use crate::exchange::StepLayer;
use crate::running::Running;
use crate::uses::Uses;
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
pub(crate) struct Record {
    /// None when it changed nothing.
    pub(crate) layer: Option<DiffId>,
    /// RFC 3339.
    pub(crate) created: String,
    /// As the history tells it.
    #[serde(default)]
    pub(crate) description: String,
    /// The step it was done on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<Digest>,
}

/// A step that was done before.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) layer: Option<StepLayer>,
    pub(crate) created: String,
}

/// The steps of all builds, and the files that clients have sent for them; clones share them.
/// Their layers stay as long as their records do.
#[derive(Clone, Debug)]
pub struct Cache {
    pub(crate) root: PathBuf,
    pub(crate) steps: Arc<Store<Record>>,
    pub(crate) sources: Arc<Store<Digest>>,
    pub(crate) contexts: Contexts,
    pub(crate) uses: Arc<Uses>,
    pub(crate) mounts: CacheMounts,
    scratch: PathBuf,
    pub(crate) images: ImageStore,
    running: Running,
}

impl Cache {
    /// Opens the cache below `root`, and has the layers kept that it refers to. A damaged record is
    /// set aside: the step is not known then.
    pub fn open(root: &Path, images: ImageStore) -> Result<Self> {
        let steps = Arc::new(Store::<Record>::open(root.join("build/steps"))?);
        let needed = steps.clone();
        images.keep_layers(move || layers(&needed));
        let uses = Arc::new(Uses::open(root)?);
        let mounts = CacheMounts::open(root)?;
        let scratch = root.join("build/scratch");
        // What an engine did not live to remove.
        sampan_fs::remove_dir_all(&scratch)?;
        sampan_fs::create_dir_all(&scratch, 0o700)?;
        Ok(Self {
            root: root.to_path_buf(),
            steps,
            sources: Arc::new(Store::open(root.join("build/sources"))?),
            contexts: Contexts::open(root, images.clone(), uses.clone())?,
            uses,
            mounts,
            scratch,
            images,
            running: Running::default(),
        })
    }

    /// The files that clients have sent.
    pub fn contexts(&self) -> &Contexts {
        &self.contexts
    }

    /// Removes what builds that have ended have left: these layers, and those of contexts that
    /// took the place of others. Blocks.
    pub fn tidy(
        &self,
        layers: impl IntoIterator<Item = DiffId>,
        in_use: &HashSet<DiffId>,
    ) -> Result<()> {
        self.images.drop_layers(layers, in_use)?;
        self.contexts.tidy(in_use)?;
        Ok(())
    }

    /// What the sources of a copy are, if somebody has looked at them.
    pub(crate) fn content(&self, name: Key) -> Option<Digest> {
        let id = name.0.hex();
        let known = self.sources.get(&id)?;
        self.uses.note(&id);
        Some(*known)
    }

    /// Notes what the sources of a copy are. One that is forgotten is found out again.
    pub(crate) fn note_content(&self, name: Key, content: Digest) -> Result<()> {
        self.uses.note(&name.0.hex());
        Ok(self.sources.put(&name.0.hex(), &content, Sync::Volatile)?)
    }

    /// The steps that run this moment.
    pub(crate) fn running(&self) -> &Running {
        &self.running
    }

    /// A directory for what is removed at the end of a build at the latest.
    pub(crate) fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// The directories that stay between builds.
    pub fn mounts(&self) -> &CacheMounts {
        &self.mounts
    }

    pub(crate) fn find(&self, key: Key) -> Option<Found> {
        let id = key.0.hex();
        let record = self.steps.get(&id)?;
        let layer = match &record.layer {
            // One that is gone was damaged: the step is done again.
            Some(diff_id) => Some(self.images.hold_layer(diff_id)?.into()),
            None => None,
        };
        self.uses.note(&id);
        Some(Found {
            layer,
            created: record.created.clone(),
        })
    }

    /// Notes what a step came to. The layer is held by the caller until this returns. A power cut
    /// may take both; a build that was acknowledged has its layers durable.
    pub(crate) fn note(&self, key: Key, record: &Record) -> Result<()> {
        let id = key.0.hex();
        self.steps.put(&id, record, Sync::Volatile)?;
        self.uses.note(&id);
        Ok(())
    }

    /// Writes down when what it keeps was last used. Blocks.
    pub fn save_uses(&self) -> Result<()> {
        self.uses.save(|id| {
            self.steps.get(id).is_some()
                || self.sources.get(id).is_some()
                || self.contexts.is_known(id)
        })
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
