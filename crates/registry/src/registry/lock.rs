//! Who may change a record or a blob.

use std::hash::{BuildHasher, Hash, RandomState};

use sampan_oci::Digest;
use tokio::sync::{Mutex, MutexGuard};

use crate::name::RepositoryName;

/// Enough that two clients rarely meet.
const SHARDS: usize = 256;

/// Locks of names. One that holds a lock of one sort takes none of the same sort or of one
/// further up:
///
/// 1. manifests and tags of a repository,
/// 2. a repository's link to a blob,
/// 3. a blob.
#[derive(Debug)]
pub(super) struct Locks {
    hasher: RandomState,
    repositories: Vec<Mutex<()>>,
    links: Vec<Mutex<()>>,
    blobs: Vec<Mutex<()>>,
}

impl Default for Locks {
    fn default() -> Self {
        let shards = || (0..SHARDS).map(|_| Mutex::new(())).collect();
        Self {
            hasher: RandomState::new(),
            repositories: shards(),
            links: shards(),
            blobs: shards(),
        }
    }
}

impl Locks {
    async fn lock<'a>(&self, shards: &'a [Mutex<()>], key: impl Hash) -> MutexGuard<'a, ()> {
        let hash = self.hasher.hash_one(key);
        let shard = hash % (shards.len() as u64);
        shards[usize::try_from(shard).expect("there are few shards")]
            .lock()
            .await
    }

    pub(super) async fn repository(&self, name: &RepositoryName) -> MutexGuard<'_, ()> {
        self.lock(&self.repositories, name).await
    }

    pub(super) async fn link(&self, name: &RepositoryName, digest: &Digest) -> MutexGuard<'_, ()> {
        self.lock(&self.links, (name, digest)).await
    }

    pub(super) async fn blob(&self, digest: &Digest) -> MutexGuard<'_, ()> {
        self.lock(&self.blobs, digest).await
    }
}
