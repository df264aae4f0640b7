//! When images were last used, and which are about to be.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use sampan_fs::Sync;
use sampan_oci::digest::ImageId;
use sampan_state::Store;

use crate::store::ImageStore;
use crate::{Error, Image, Result};

/// The one record there is.
const KEY: &str = "last";

/// When images were last used. Kept in memory and written now and then: what a kill forgets makes
/// an image look a little older than it is.
#[derive(Debug)]
pub(crate) struct LastUse {
    store: Store<BTreeMap<ImageId, Timestamp>>,
    times: Mutex<Times>,
}

#[derive(Debug)]
struct Times {
    at: BTreeMap<ImageId, Timestamp>,
    changed: bool,
}

impl LastUse {
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let store: Store<BTreeMap<ImageId, Timestamp>> = Store::open(directory)?;
        let at = store
            .get(KEY)
            .map_or_else(BTreeMap::new, |at| (*at).clone());
        Ok(Self {
            store,
            times: Mutex::new(Times { at, changed: false }),
        })
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps an image from being collected or pruned while somebody begins to use it.
#[derive(Debug)]
#[must_use = "the image is kept only as long as this lives"]
pub struct Hold {
    store: ImageStore,
    id: ImageId,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.store.0.holds();
        if let Some(count) = holds.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                holds.remove(&self.id);
            }
        }
    }
}

impl ImageStore {
    /// Keeps an image for somebody who begins to use it, until the hold is dropped. Waits only
    /// for a collector that removes something this moment. Writes nothing.
    pub fn hold(&self, id: &ImageId) -> Result<Hold> {
        let mut holds = self.0.holds();
        if self.get(id).is_none() {
            return Err(Error::NotFound(id.to_string()));
        }
        *holds.entry(*id).or_default() += 1;
        drop(holds);
        self.note_use(id);
        Ok(Hold {
            store: self.clone(),
            id: *id,
        })
    }

    /// Notes that an image is used now. Writes nothing.
    pub fn note_use(&self, id: &ImageId) {
        let mut times = self.0.last_use.times();
        times.at.insert(*id, Timestamp::now());
        times.changed = true;
    }

    /// Returns when an image was last used, or came here if it never was.
    pub fn last_use(&self, image: &Image) -> Timestamp {
        let came = image.stored.parse().unwrap_or(Timestamp::UNIX_EPOCH);
        let used = self.0.last_use.times().at.get(&image.id).copied();
        used.map_or(came, |used| used.max(came))
    }

    /// Writes down when images were last used, if that changed. Blocks.
    pub fn save_last_use(&self) -> Result<()> {
        let last_use = &self.0.last_use;
        let at = {
            let mut times = last_use.times();
            if !std::mem::take(&mut times.changed) {
                return Ok(());
            }
            let view = self.0.view();
            times.at.retain(|id, _| view.images.contains_key(id));
            times.at.clone()
        };
        Ok(last_use.store.put(KEY, &at, Sync::Volatile)?)
    }
}

impl crate::store::Inner {
    pub(crate) fn holds(&self) -> MutexGuard<'_, HashMap<ImageId, usize>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
