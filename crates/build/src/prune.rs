//! What the cache keeps, and what of it goes.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;
use rustix::fs::StatVfs;
use sampan_oci::DiffId;
use sampan_state::Sync;

use crate::{Cache, Error, Result};

/// Something that the cache keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheRecord {
    /// Names it.
    pub id: String,
    /// The record it was made on, if that is there.
    pub parent: Option<String>,
    /// What kind of record it is.
    pub kind: CacheKind,
    /// What it came from, for a person.
    pub description: String,
    /// A build uses it this moment.
    pub in_use: bool,
    /// An image has its layer, too.
    pub shared: bool,
    /// The layers that it needs.
    pub layers: Vec<DiffId>,
    /// Bytes on disk.
    pub size: u64,
    /// When it was made.
    pub created: Timestamp,
    /// When a build used it last, as far as that is known.
    pub last_used: Option<Timestamp>,
    /// So many builds used it, as far as that is known.
    pub uses: u64,
}

/// What kind of record something is, in BuildKit's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CacheKind {
    /// What a step has changed.
    Regular,
    /// Files that a client has sent.
    Local,
    /// A directory that commands share: `RUN --mount=type=cache`.
    CacheMount,
}

impl CacheKind {
    /// BuildKit's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Local => "source.local",
            Self::CacheMount => "exec.cachemount",
        }
    }
}

/// What a prune takes, of the records that it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrunePolicy {
    /// Also records whose layers images have.
    pub all: bool,
    /// Only what was not used since.
    pub unused_since: Option<Timestamp>,
    /// Bytes that stay in any case; 0 for none.
    pub reserved: u64,
    /// Bytes that the cache may have; 0 says nothing of it.
    pub max_used: u64,
    /// Bytes that shall be free on the file system; 0 says nothing of it.
    pub min_free: u64,
}

/// What a prune took away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The records, as they were.
    pub records: Vec<CacheRecord>,
    /// Bytes on disk that came back.
    pub bytes: u64,
}

/// What a record that is gone leaves.
struct Forgotten {
    /// Layers that it has needed.
    layers: BTreeSet<DiffId>,
    /// Bytes on disk that came back.
    bytes: u64,
}

impl PrunePolicy {
    /// How much of the cache may stay, if that is limited at all: as much as is wanted, less where
    /// that leaves too little free, but what is reserved in any case.
    fn keep(&self, total: u64, free: u64) -> Option<u64> {
        if self.reserved == 0 && self.max_used == 0 && self.min_free == 0 {
            return None;
        }
        let missing = self.min_free.saturating_sub(free);
        let for_free = total.saturating_sub(missing);
        let keep = match (self.max_used, missing) {
            (0, _) if self.min_free > 0 => for_free,
            (0, _) => 0,
            (limit, 0) => limit,
            (limit, _) => limit.min(for_free),
        };
        Some(keep.max(self.reserved))
    }

    fn takes(&self, record: &CacheRecord) -> bool {
        let used = record.last_used.unwrap_or(record.created);
        !record.in_use
            && (self.all || !record.shared)
            && self.unused_since.is_none_or(|since| used < since)
    }
}

impl Cache {
    /// Lists what it keeps, oldest first. Looks at the files' sizes. Blocks.
    pub fn records(&self) -> Vec<CacheRecord> {
        let images = self.images.list();
        let of_images: HashSet<DiffId> = images.iter().flat_map(|i| i.diff_ids()).collect();
        let store = self.images.layers();
        let time = |text: &str| text.parse().unwrap_or(Timestamp::UNIX_EPOCH);
        let steps = self.steps.iter().map(|(id, record)| {
            let parent = record.parent.map(|parent| parent.hex());
            let layer = record.layer.as_ref();
            CacheRecord {
                parent: parent.filter(|id| self.steps.get(id).is_some()),
                kind: CacheKind::Regular,
                description: record.description.clone(),
                in_use: layer.is_some_and(|layer| self.images.is_held(layer)),
                shared: layer.is_some_and(|layer| of_images.contains(layer)),
                size: layer.map_or(0, |layer| store.disk_usage(layer)),
                layers: layer.copied().into_iter().collect(),
                created: time(&record.created),
                last_used: None,
                uses: 0,
                id,
            }
        });
        let contexts = self.contexts.records().map(|(id, record)| CacheRecord {
            parent: None,
            kind: CacheKind::Local,
            description: format!("local source for {}", record.key),
            in_use: record.layers.iter().any(|layer| self.images.is_held(layer)),
            shared: false,
            size: record.layers.iter().map(|l| store.disk_usage(l)).sum(),
            layers: record.layers.clone(),
            created: time(&record.created),
            last_used: None,
            uses: 0,
            id,
        });
        let mut records: Vec<CacheRecord> = steps.chain(contexts).collect();
        for record in &mut records {
            if let Some(used) = self.uses.get(&record.id) {
                record.last_used = Some(used.last);
                record.uses = used.count;
            }
        }
        let mounts = self.mounts.list().unwrap_or_else(|error| {
            tracing::warn!(%error, "could not look at the cache mounts");
            Vec::new()
        });
        records.extend(mounts.into_iter().map(|mount| CacheRecord {
            id: mount.key,
            parent: None,
            kind: CacheKind::CacheMount,
            description: format!("cached mount {}", mount.id),
            in_use: mount.in_use,
            shared: false,
            layers: Vec::new(),
            size: mount.bytes,
            created: time(&mount.created),
            last_used: Some(time(&mount.used)),
            uses: mount.uses,
        }));
        records.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        records
    }

    /// Forgets what the policy takes of the records that are `wanted`: all of it, or where the
    /// policy limits the cache, what was used longest ago until it is kept. Removes the layers that
    /// nothing else needs. Blocks.
    pub fn prune(
        &self,
        policy: &PrunePolicy,
        wanted: impl Fn(&CacheRecord) -> bool,
        in_use: &HashSet<DiffId>,
    ) -> Result<Pruned> {
        let records = self.records();
        let mut total: u64 = records.iter().map(|record| record.size).sum();
        let keep = policy.keep(total, self.free()?);
        let mut taken: Vec<CacheRecord> = records
            .into_iter()
            .filter(|record| policy.takes(record) && wanted(record))
            .collect();
        // Of what was used at once, what was made last: nothing was built on it.
        taken.sort_by_key(|r| (r.last_used.unwrap_or(r.created), Reverse(r.created)));
        let mut pruned = Pruned::default();
        let mut layers = HashSet::new();
        for record in taken {
            if keep.is_some_and(|keep| total <= keep) {
                break;
            }
            let Some(freed) = self.forget(&record)? else {
                continue;
            };
            layers.extend(freed.layers);
            pruned.bytes += freed.bytes;
            total -= record.size.min(total);
            pruned.records.push(record);
        }
        if keep.is_none() && policy.all {
            self.forget_sources(policy.unused_since)?;
        }
        pruned.bytes += self
            .images
            .drop_layers(layers.iter().copied(), in_use)?
            .disk;
        // Those that a build holds go when it has ended.
        self.contexts.retire(layers);
        Ok(pruned)
    }

    /// Forgets a record; `None` where a step has begun to use it.
    fn forget(&self, record: &CacheRecord) -> Result<Option<Forgotten>> {
        let layers = match record.kind {
            CacheKind::Local => self.contexts.forget(&record.id)?,
            CacheKind::Regular => {
                let layer = self.steps.get(&record.id).and_then(|step| step.layer);
                self.steps.remove(&record.id, Sync::Volatile)?;
                layer.into_iter().collect()
            }
            CacheKind::CacheMount => {
                let bytes = self.mounts.remove(&record.id)?;
                return Ok(bytes.map(|bytes| Forgotten {
                    layers: BTreeSet::new(),
                    bytes,
                }));
            }
        };
        Ok(Some(Forgotten { layers, bytes: 0 }))
    }

    fn forget_sources(&self, unused_since: Option<Timestamp>) -> Result<()> {
        for (id, _) in self.sources.iter() {
            let used = self.uses.get(&id).map(|used| used.last);
            let is_newer = |since| used.is_some_and(|used| used >= since);
            if !unused_since.is_some_and(is_newer) {
                self.sources.remove(&id, Sync::Volatile)?;
            }
        }
        Ok(())
    }

    /// So many hundredths of its file system, in bytes.
    pub fn share(&self, percent: u8) -> Result<u64> {
        let found = self.measure()?;
        Ok(found.f_blocks * found.f_frsize / 100 * u64::from(percent))
    }

    /// Bytes that are free on its file system.
    fn free(&self) -> Result<u64> {
        let found = self.measure()?;
        Ok(found.f_bavail * found.f_frsize)
    }

    fn measure(&self) -> Result<StatVfs> {
        let found = rustix::fs::statvfs(&self.root);
        found.map_err(|e| Error::io("measure the file system")(e.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_weighed_as_buildkit_does() {
        let policy = |reserved, max_used, min_free| PrunePolicy {
            reserved,
            max_used,
            min_free,
            ..PrunePolicy::default()
        };
        for (policy, total, free, keep) in [
            (policy(0, 0, 0), 100, 0, None),
            (policy(30, 0, 0), 100, 50, Some(30)),
            (policy(0, 60, 0), 100, 50, Some(60)),
            (policy(30, 60, 0), 100, 50, Some(60)),
            (policy(80, 60, 0), 100, 50, Some(80)),
            (policy(0, 0, 70), 100, 50, Some(80)),
            (policy(0, 90, 70), 100, 50, Some(80)),
            (policy(0, 60, 70), 100, 50, Some(60)),
            (policy(85, 60, 70), 100, 50, Some(85)),
            (policy(0, 0, 500), 100, 50, Some(0)),
            // BuildKit takes everything here, although enough is free.
            (policy(0, 0, 40), 100, 50, Some(100)),
        ] {
            assert_eq!(policy.keep(total, free), keep, "{policy:?}");
        }
    }
}
