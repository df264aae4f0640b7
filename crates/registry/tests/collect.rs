//! Collecting while others push, mount, look and delete: random interleavings against a model.
//!
//! The store is a map whose every operation lets others go first a random number of times, so
//! that each seed is another order of events. What the model says:
//!
//! * a client that was told, within the time of a lease, that all blobs of a manifest are there
//!   can push the manifest;
//! * the blobs of a manifest that was pushed and not deleted can be read at every moment;
//! * when all is quiet and the leases are over, the store holds what manifests need and no more.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use sampan_oci::{Digest, MediaType};
use sampan_registry::storage::{
    Content, Record, Reply, Storage, StorageError, StoredBlob, StoredUpload, Upload,
};
use sampan_registry::{Error, Registry, RepositoryName, Settings, Target};

const LEASE: Duration = Duration::from_millis(150);
const CLIENTS: usize = 6;
const ROUNDS: usize = 25;

/// A generator of numbers that are the same for the same seed.
#[derive(Debug)]
struct Dice(AtomicU64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }

    fn roll(&self, sides: u64) -> u64 {
        let mut x = self.0.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.store(x, Ordering::Relaxed);
        (x >> 11) % sides
    }
}

#[derive(Debug, Default)]
struct Kept {
    records: BTreeMap<Record, Bytes>,
    blobs: HashMap<Digest, Bytes>,
    uploads: HashMap<String, Vec<u8>>,
}

/// A store in memory.
#[derive(Clone, Debug)]
struct Memory {
    kept: Arc<Mutex<Kept>>,
    dice: Arc<Dice>,
}

impl Memory {
    fn new(seed: u64) -> Self {
        Self {
            kept: Arc::default(),
            dice: Arc::new(Dice::new(seed)),
        }
    }

    /// Does something after others had their turn, and lets them have another.
    fn act<T: Send + 'static>(
        &self,
        action: impl FnOnce(&mut Kept) -> Result<T, StorageError> + Send + 'static,
    ) -> Reply<'static, T> {
        let this = self.clone();
        Box::pin(async move {
            this.wait().await;
            let done = action(&mut this.kept.lock().unwrap());
            this.wait().await;
            done
        })
    }

    async fn wait(&self) {
        for _ in 0..self.dice.roll(6) {
            tokio::task::yield_now().await;
        }
    }

    fn readable(&self, digest: &Digest) -> bool {
        self.kept.lock().unwrap().blobs.contains_key(digest)
    }
}

impl Storage for Memory {
    fn load<'a>(&'a self, each: &'a mut (dyn FnMut(Record, Bytes) + Send)) -> Reply<'a, ()> {
        let records = self.kept.lock().unwrap().records.clone();
        for (record, bytes) in records {
            each(record, bytes);
        }
        Box::pin(async { Ok(()) })
    }

    fn put_record(&self, record: &Record, bytes: Bytes) -> Reply<'_, ()> {
        let record = record.clone();
        self.act(move |kept| {
            kept.records.insert(record, bytes);
            Ok(())
        })
    }

    fn record(&self, record: &Record) -> Reply<'_, Bytes> {
        let record = record.clone();
        self.act(move |kept| {
            let found = kept.records.get(&record).cloned();
            found.ok_or_else(|| StorageError::NotFound("record".into()))
        })
    }

    fn remove_record(&self, record: &Record) -> Reply<'_, ()> {
        let record = record.clone();
        self.act(move |kept| {
            kept.records.remove(&record);
            Ok(())
        })
    }

    fn blobs(&self) -> Reply<'_, Vec<StoredBlob>> {
        self.act(|kept| {
            let stored = |(digest, bytes): (&Digest, &Bytes)| StoredBlob {
                digest: *digest,
                size: bytes.len() as u64,
            };
            Ok(kept.blobs.iter().map(stored).collect())
        })
    }

    fn open(&self, digest: &Digest, range: Range<u64>) -> Reply<'_, Content> {
        let digest = *digest;
        self.act(move |kept| {
            let bytes = kept.blobs.get(&digest).cloned();
            let bytes = bytes.ok_or_else(|| StorageError::NotFound("blob".into()))?;
            let part = bytes.slice(range.start as usize..range.end as usize);
            Ok(Content::Stream(stream::iter([Ok(part)]).boxed()))
        })
    }

    fn remove_blob(&self, digest: &Digest) -> Reply<'_, ()> {
        let digest = *digest;
        self.act(move |kept| {
            kept.blobs.remove(&digest);
            Ok(())
        })
    }

    fn begin(&self, id: &str) -> Reply<'_, Box<dyn Upload>> {
        let (this, id) = (self.clone(), id.to_owned());
        self.act(move |kept| {
            kept.uploads.insert(id.clone(), Vec::new());
            Ok(Box::new(MemoryUpload {
                store: this,
                id,
                size: 0,
            }) as Box<dyn Upload>)
        })
    }

    fn resume(&self, id: &str) -> Reply<'_, Option<Box<dyn Upload>>> {
        let (store, id) = (self.clone(), id.to_owned());
        self.act(move |kept| {
            let size = kept.uploads.get(&id).map(|bytes| bytes.len() as u64);
            Ok(size.map(|size| Box::new(MemoryUpload { store, id, size }) as Box<dyn Upload>))
        })
    }

    fn uploads(&self) -> Reply<'_, Vec<StoredUpload>> {
        self.act(|kept| {
            let stored = |id: &String| StoredUpload {
                id: id.clone(),
                modified: SystemTime::now(),
            };
            Ok(kept.uploads.keys().map(stored).collect())
        })
    }

    fn remove_upload(&self, id: &str) -> Reply<'_, ()> {
        let id = id.to_owned();
        self.act(move |kept| {
            kept.uploads.remove(&id);
            Ok(())
        })
    }
}

#[derive(Debug)]
struct MemoryUpload {
    store: Memory,
    id: String,
    size: u64,
}

impl Upload for MemoryUpload {
    fn size(&self) -> u64 {
        self.size
    }

    fn write(&mut self, pieces: Vec<Bytes>) -> Reply<'_, ()> {
        let id = self.id.clone();
        self.size += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
        self.store.act(move |kept| {
            kept.uploads.entry(id).or_default().extend(pieces.concat());
            Ok(())
        })
    }

    fn reader(&self) -> Option<std::fs::File> {
        None
    }

    fn checkpoint(&mut self) -> Reply<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn commit(self: Box<Self>, digest: Digest) -> Reply<'static, StoredBlob> {
        self.store.clone().act(move |kept| {
            let bytes = kept.uploads.remove(&self.id).unwrap_or_default();
            let actual = Digest::of(&bytes);
            if actual != digest {
                return Err(StorageError::DigestMismatch {
                    expected: digest,
                    actual,
                });
            }
            let size = bytes.len() as u64;
            kept.blobs.insert(digest, bytes.into());
            Ok(StoredBlob { digest, size })
        })
    }
}

type Alive = Arc<Mutex<HashMap<(RepositoryName, Digest), Vec<Digest>>>>;

struct World {
    registry: Registry,
    store: Memory,
    alive: Alive,
    over: AtomicBool,
    pushed: AtomicU64,
}

fn content(number: u64) -> Bytes {
    Bytes::from(format!("content {number}").into_bytes())
}

fn manifest(blobs: &[Digest], note: &str) -> Bytes {
    let layers: Vec<String> = blobs
        .iter()
        .map(|digest| format!(r#"{{"mediaType":"x/layer","digest":"{digest}","size":9}}"#))
        .collect();
    let config = &layers[0];
    let text = format!(
        r#"{{"schemaVersion":2,"config":{config},"layers":[{}],"annotations":{{"note":"{note}"}}}}"#,
        layers.join(",")
    );
    Bytes::from(text.into_bytes())
}

impl World {
    /// Sees to it that a repository has a blob, one way or another.
    async fn provide(
        &self,
        repository: &RepositoryName,
        other: &RepositoryName,
        number: u64,
        dice: &Dice,
    ) {
        let bytes = content(number);
        let digest = Digest::of(&bytes);
        if dice.roll(4) > 0 && self.registry.promise_blob(repository, &digest).is_ok() {
            return;
        }
        if dice.roll(2) == 0
            && self
                .registry
                .mount(repository, digest, Some(other), |_| true)
                .await
                .unwrap()
        {
            return;
        }
        let upload = self.registry.begin_upload(repository).await.unwrap();
        let body = stream::iter([Ok(bytes)]).boxed();
        self.registry
            .finish(repository, &upload.id, digest, None, None, body)
            .await
            .unwrap();
    }

    async fn client(self: Arc<Self>, number: usize, seed: u64) {
        let dice = Dice::new(seed * 1000 + number as u64);
        let names: [RepositoryName; 2] = ["a".parse().unwrap(), "b/c".parse().unwrap()];
        let mut own = Vec::new();
        for round in 0..ROUNDS {
            let side = dice.roll(2) as usize;
            let (repository, other) = (&names[side], &names[1 - side]);
            let start = Instant::now();
            let mut blobs = Vec::new();
            for _ in 0..=dice.roll(3) {
                let blob = dice.roll(6);
                self.provide(repository, other, blob, &dice).await;
                blobs.push(Digest::of(&content(blob)));
            }
            let bytes = manifest(&blobs, &format!("{number} {round}"));
            let digest = Digest::of(&bytes);
            let target = match dice.roll(2) {
                0 => Target::Digest(digest),
                _ => Target::Tag(format!("t{}", dice.roll(3)).parse().unwrap()),
            };
            let pushed = self
                .registry
                .put_manifest(repository, &target, &MediaType::OciManifest, bytes, None)
                .await;
            match pushed {
                Ok(_) => {
                    for blob in &blobs {
                        assert!(self.store.readable(blob), "a pushed manifest lacks a blob");
                    }
                    let key = (repository.clone(), digest);
                    self.alive.lock().unwrap().insert(key.clone(), blobs);
                    own.push(key);
                    self.pushed.fetch_add(1, Ordering::Relaxed);
                }
                Err(Error::ManifestIncomplete { .. }) if start.elapsed() >= LEASE => {}
                Err(error) => panic!("{error} after {:?} of {LEASE:?}", start.elapsed()),
            }
            if dice.roll(3) > 0 && !own.is_empty() {
                let key = own.swap_remove(dice.roll(own.len() as u64) as usize);
                self.alive.lock().unwrap().remove(&key);
                let target = Target::Digest(key.1);
                self.registry
                    .delete_manifest(&key.0, &target)
                    .await
                    .unwrap();
            }
            if dice.roll(5) == 0 {
                tokio::time::sleep(LEASE / 2).await;
            }
        }
    }

    async fn collector(self: Arc<Self>) {
        while !self.over.load(Ordering::Relaxed) {
            self.registry.collect().await.unwrap();
            tokio::task::yield_now().await;
        }
    }

    async fn checker(self: Arc<Self>) {
        while !self.over.load(Ordering::Relaxed) {
            {
                let alive = self.alive.lock().unwrap();
                for ((repository, digest), blobs) in alive.iter() {
                    for blob in blobs {
                        assert!(
                            self.store.readable(blob),
                            "{repository}@{digest} lost {blob}"
                        );
                        self.registry.blob_size(repository, blob).unwrap();
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

async fn play(seed: u64) -> u64 {
    let store = Memory::new(seed);
    let settings = Settings {
        lease: LEASE,
        ..Settings::default()
    };
    let registry = Registry::open(Arc::new(store.clone()), settings.clone())
        .await
        .unwrap();
    let world = Arc::new(World {
        registry,
        store: store.clone(),
        alive: Arc::default(),
        over: AtomicBool::new(false),
        pushed: AtomicU64::new(0),
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(Arc::clone(&world).client(number, seed)))
        .collect();
    let others = [
        tokio::spawn(Arc::clone(&world).collector()),
        tokio::spawn(Arc::clone(&world).checker()),
    ];
    for client in clients {
        client
            .await
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    world.over.store(true, Ordering::Relaxed);
    for other in others {
        other
            .await
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }

    tokio::time::sleep(LEASE + Duration::from_millis(20)).await;
    world.registry.collect().await.unwrap();
    let alive = world.alive.lock().unwrap().clone();
    let needed: BTreeSet<Digest> = alive.values().flatten().copied().collect();
    let kept: BTreeSet<Digest> = store.kept.lock().unwrap().blobs.keys().copied().collect();
    assert_eq!(kept, needed, "seed {seed}: what is kept is what is needed");
    assert!(store.kept.lock().unwrap().uploads.is_empty(), "seed {seed}");
    world.registry.close().await;

    // A registry that starts on this store sees the same.
    let again = Registry::open(Arc::new(store.clone()), settings)
        .await
        .unwrap();
    assert_eq!(again.totals(), world.registry.totals(), "seed {seed}");
    for ((repository, digest), blobs) in &alive {
        again
            .manifest(repository, &Target::Digest(*digest))
            .unwrap();
        for blob in blobs {
            again.blob_size(repository, blob).unwrap();
        }
    }
    world.pushed.load(Ordering::Relaxed)
}

#[test]
fn nothing_needed_is_collected_and_nothing_else_is_kept() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut pushed = 0;
    for seed in 1..=16 {
        pushed += runtime.block_on(play(seed));
    }
    // Leases that all ran out before they were used would prove nothing.
    assert!(pushed > 400, "only {pushed} manifests were pushed");
}
