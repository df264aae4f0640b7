//! When what the cache keeps was last used.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use sampan_state::{Store, Sync};
use serde::{Deserialize, Serialize};

use crate::Result;

/// The one record there is.
const KEY: &str = "last";

/// Uses by identity. Kept in memory and written now and then: what a kill forgets makes something
/// look a little older than it is.
#[derive(Debug)]
pub(crate) struct Uses {
    store: Store<BTreeMap<String, Use>>,
    noted: Mutex<Noted>,
}

#[derive(Debug)]
struct Noted {
    by_id: BTreeMap<String, Use>,
    changed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Use {
    pub(crate) last: Timestamp,
    pub(crate) count: u64,
}

impl Uses {
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let store = Store::<BTreeMap<String, Use>>::open(root.join("build/use"))?;
        let by_id = store
            .get(KEY)
            .map_or_else(BTreeMap::new, |by_id| (*by_id).clone());
        Ok(Self {
            store,
            noted: Mutex::new(Noted {
                by_id,
                changed: false,
            }),
        })
    }

    /// Notes a use that happens now. Writes nothing.
    pub(crate) fn note(&self, id: &str) {
        let mut noted = self.noted();
        let now = Use {
            last: Timestamp::now(),
            count: noted.by_id.get(id).map_or(0, |before| before.count) + 1,
        };
        noted.by_id.insert(id.to_owned(), now);
        noted.changed = true;
    }

    pub(crate) fn get(&self, id: &str) -> Option<Use> {
        self.noted().by_id.get(id).copied()
    }

    /// Writes them down, if they have changed, without those of what is not known any more. Blocks.
    pub(crate) fn save(&self, is_known: impl Fn(&str) -> bool) -> Result<()> {
        let by_id = {
            let mut noted = self.noted();
            if !std::mem::take(&mut noted.changed) {
                return Ok(());
            }
            noted.by_id.retain(|id, _| is_known(id));
            noted.by_id.clone()
        };
        Ok(self.store.put(KEY, &by_id, Sync::Volatile)?)
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
