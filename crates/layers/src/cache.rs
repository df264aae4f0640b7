//! Mounts in use, and a few that were in use not long ago.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use sampan_oci::DiffId;

use crate::mount::Mounted;

/// A mount has a page cache of its own, so all containers of a layer must
/// share one, and a container that follows another should find it warm.
#[derive(Debug)]
pub(crate) struct Cache {
    in_use: HashMap<DiffId, Weak<Mounted>>,
    /// Kept alive, the latest last.
    recent: VecDeque<Arc<Mounted>>,
    keep: usize,
}

impl Cache {
    pub(crate) fn new(keep: usize) -> Self {
        Self {
            in_use: HashMap::new(),
            recent: VecDeque::new(),
            keep,
        }
    }

    pub(crate) fn get(&mut self, diff_id: &DiffId) -> Option<Arc<Mounted>> {
        let mounted = self.in_use.get(diff_id)?.upgrade()?;
        self.touch(&mounted);
        Some(mounted)
    }

    pub(crate) fn insert(&mut self, mounted: &Arc<Mounted>) {
        self.in_use.retain(|_, weak| weak.strong_count() > 0);
        self.in_use.insert(mounted.diff_id, Arc::downgrade(mounted));
        self.touch(mounted);
    }

    /// Lets go of a layer that is to be removed, so that its space returns
    /// with its last user.
    pub(crate) fn forget(&mut self, diff_id: &DiffId) {
        self.in_use.remove(diff_id);
        self.recent.retain(|m| m.diff_id != *diff_id);
    }

    /// Lets go of what is only kept for the next user.
    pub(crate) fn clear(&mut self) {
        self.recent.clear();
    }

    fn touch(&mut self, mounted: &Arc<Mounted>) {
        self.recent.retain(|m| m.diff_id != mounted.diff_id);
        self.recent.push_back(Arc::clone(mounted));
        while self.recent.len() > self.keep {
            self.recent.pop_front();
        }
    }
}
