//! The registry itself, without HTTP: repositories over a store.
//!
//! Every change is made by a task of its own, so that a client that goes away in the middle of a
//! request leaves nothing half done: index and store always end up the same.

mod blob;
mod collect;
mod copy;
mod lock;
mod manifest;
mod upload;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Result;
use crate::index::{Index, Totals};
use crate::name::RepositoryName;
use crate::storage::{Record, Storage, StorageError};

pub use blob::OpenBlob;
pub use collect::Collected;
pub use manifest::{FoundManifest, Pushed, Referrer};
pub(crate) use upload::parse_digest;
pub use upload::{ByteStream, Progress, UploadId};

use lock::Locks;
use upload::Uploads;

/// How a registry works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a blob stays that a client was told to be there and that no manifest needs.
    pub lease: Duration,
    /// How long an upload stays to which nothing comes.
    pub upload_life: Duration,
    /// Unfinished uploads at once.
    pub max_uploads: usize,
    /// Bytes of a blob.
    pub max_blob: u64,
    /// Bytes of a manifest.
    pub max_manifest: u64,
    /// Whether an index may list manifests that are not there.
    pub sparse_indexes: bool,
    /// How long untagged manifests stay that nothing refers to; none for ever.
    pub untagged_life: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(60 * 60),
            upload_life: Duration::from_secs(24 * 60 * 60),
            max_uploads: 4096,
            max_blob: 100 << 30,
            max_manifest: sampan_oci::manifest::MAX_MANIFEST,
            sparse_indexes: false,
            untagged_life: None,
        }
    }
}

/// A registry; clones share it.
#[derive(Clone, Debug)]
pub struct Registry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    storage: Arc<dyn Storage>,
    settings: Settings,
    index: Mutex<Index>,
    uploads: Uploads,
    locks: Locks,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl Registry {
    /// Opens the registry in a store: reads all records. Damaged ones are left out and logged.
    pub async fn open(storage: Arc<dyn Storage>, settings: Settings) -> Result<Self> {
        let index = load(&*storage, &settings).await?;
        let uploads = Uploads::load(&*storage).await?;
        Ok(Self(Arc::new(Inner {
            storage,
            settings,
            index: Mutex::new(index),
            uploads,
            locks: Locks::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        })))
    }

    /// Ends what waits for others, and waits for changes on their way.
    pub async fn close(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Returns how the registry works.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Counts what there is.
    pub fn totals(&self) -> Totals {
        self.0.index().totals()
    }

    /// Lists repositories in order, at most `count`, from the one behind `last` on, that `may_see`
    /// allows.
    pub fn repositories(
        &self,
        last: Option<&str>,
        count: usize,
        may_see: impl Fn(&RepositoryName) -> bool,
    ) -> Vec<RepositoryName> {
        let index = self.0.index();
        let names = index.repositories(last).filter(|name| may_see(name));
        names.take(count).cloned().collect()
    }

    /// Makes a change that goes on when the caller does not.
    async fn change<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.0.tasks.spawn(change).await {
            Ok(result) => result,
            Err(error) => Err(StorageError::failed("make a change", error).into()),
        }
    }
}

impl Inner {
    fn index(&self) -> MutexGuard<'_, Index> {
        // No method of the index leaves it half changed when it panics on a bad argument.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(&self) -> Instant {
        now() + self.settings.lease
    }
}

/// The time, which tests may stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn load(storage: &dyn Storage, settings: &Settings) -> Result<Index> {
    let mut index = Index::default();
    // What was there when the registry stopped may just have been promised to somebody.
    let until = now() + settings.lease;
    for blob in storage.blobs().await? {
        index.stored(&blob.digest, blob.size);
    }
    let mut tags = Vec::new();
    storage
        .load(&mut |record, bytes| match record {
            Record::Blob(repository, digest) => {
                if index.stored_size(&digest).is_some() {
                    index.link(&repository, &digest, until);
                }
            }
            Record::Manifest(repository, digest) => match manifest_record(&bytes, &digest) {
                Some(entry) => {
                    index.need(&repository, &entry.blobs, until);
                    index.add_manifest(&repository, digest, entry, until);
                }
                None => {
                    tracing::error!(%repository, %digest, "the record of a manifest is damaged");
                }
            },
            Record::Tag(repository, tag) => match crate::manifest::from_tag_record(&bytes) {
                Some(entry) => tags.push((repository, tag, entry)),
                None => tracing::error!(%repository, %tag, "the record of a tag is damaged"),
            },
        })
        .await?;
    for (repository, tag, entry) in tags {
        if index.manifest(&repository, &entry.digest).is_some() {
            index.set_tag(&repository, tag, entry, until);
        } else {
            tracing::error!(%repository, %tag, "a tag points to a manifest that is not there");
        }
    }
    Ok(index)
}

fn manifest_record(
    bytes: &bytes::Bytes,
    digest: &sampan_oci::Digest,
) -> Option<crate::index::ManifestEntry> {
    Some(crate::manifest::from_record(bytes, digest)?.1.entry)
}

fn timestamp() -> Timestamp {
    Timestamp::now()
}
