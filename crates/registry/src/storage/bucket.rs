//! The store in a bucket of an S3-compatible service.
//!
//! ```text
//! <prefix>/records/<name>/_tags/<tag>, ...   records, as files have them
//! <prefix>/blobs/<hex>/<size>-<id>           empty: where the bytes of a blob are
//! <prefix>/data/<id>                         the bytes, as uploaded under this id
//! <prefix>/uploads/<id>/state                how far an upload is
//! <prefix>/uploads/<id>/tail-<size>          its last bytes when it had that size, too few for a part
//! ```
//!
//! A bucket cannot rename, and its copies have a bound; so a blob keeps the name that its upload
//! had, and an empty object says which. An upload is a multipart upload; the state of its hash is
//! kept with it, because parts cannot be read before all of them are there.
//!
//! Several processes must not use the same prefix of a bucket.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};
use sampan_oci::Digest;
use sampan_oci::digest::Hasher;
use serde::{Deserialize, Serialize};

use super::{
    Content, Files, Record, Reply, Storage, StorageError, StoredBlob, StoredUpload, Upload,
};
use crate::config::S3;

/// Bytes of a part, and of those after the first [`SMALL_PARTS`]: a service takes 10,000 parts.
const PART: usize = 8 << 20;
const LARGE_PART: usize = 32 << 20;
const SMALL_PARTS: usize = 2000;
/// Records read at once when the store is loaded.
const READERS: usize = 32;
const STATE: &str = "/state";

/// The store in a bucket; clones share it.
#[derive(Clone, Debug)]
pub struct Bucket(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: AmazonS3,
    prefix: Path,
    /// Where each blob's bytes are.
    places: Mutex<HashMap<Digest, Place>>,
    /// Holds the lock of the local directory.
    _local: Files,
}

#[derive(Clone, Debug)]
struct Place {
    size: u64,
    id: Box<str>,
}

/// How far an upload is, as it is kept in the bucket.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    multipart: Option<String>,
    parts: Vec<String>,
    /// Bytes in parts and tail.
    size: u64,
    tail: u64,
    hash: Vec<u8>,
}

fn failed(action: &'static str) -> impl FnOnce(object_store::Error) -> StorageError {
    move |error| match error {
        object_store::Error::NotFound { path, .. } => StorageError::NotFound(path),
        other => StorageError::failed(action, other),
    }
}

impl Bucket {
    /// Opens the store and tidies up what a kill left. `local` is a directory that this process
    /// owns.
    pub async fn connect(config: &S3, local: Files) -> Result<Self, StorageError> {
        // Of the process: it is no error that somebody else was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&config.bucket)
            .with_region(config.region.as_deref().unwrap_or("us-east-1"))
            .with_allow_http(
                config
                    .endpoint
                    .as_deref()
                    .is_some_and(|endpoint| endpoint.starts_with("http://")),
            );
        if let Some(endpoint) = &config.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(id) = &config.access_key_id {
            builder = builder.with_access_key_id(id);
        }
        if let Some(key) = &config.secret_access_key {
            builder = builder.with_secret_access_key(key);
        }
        let store = builder.build().map_err(failed("use the bucket"))?;
        let bucket = Self(Arc::new(Inner {
            store,
            prefix: Path::from(config.prefix.as_str()),
            places: Mutex::default(),
            _local: local,
        }));
        bucket.0.tidy().await?;
        Ok(bucket)
    }
}

impl Inner {
    fn path(&self, rest: &str) -> Path {
        Path::from_iter(self.prefix.parts().chain(Path::from(rest).parts()))
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Digest, Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn put(&self, name: &str, bytes: Bytes) -> Result<(), StorageError> {
        let path = self.path(name);
        let put = self.store.put(&path, PutPayload::from(bytes)).await;
        put.map(drop).map_err(failed("write to the bucket"))
    }

    async fn get(&self, name: &str) -> Result<Bytes, StorageError> {
        let found = self.store.get(&self.path(name)).await;
        let found = found.map_err(failed("read from the bucket"))?;
        found.bytes().await.map_err(failed("read from the bucket"))
    }

    async fn delete(&self, name: &str) -> Result<(), StorageError> {
        match self.store.delete(&self.path(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("remove from the bucket")(error)),
        }
    }

    /// Lists what is in a folder, with its name below the folder.
    async fn list(&self, folder: &str) -> Result<Vec<(String, ObjectMeta)>, StorageError> {
        let path = self.path(folder);
        let found: Vec<ObjectMeta> = self
            .store
            .list(Some(&path))
            .try_collect()
            .await
            .map_err(failed("list the bucket"))?;
        let below = format!("{path}/");
        let named = found.into_iter().filter_map(|object| {
            let name = object.location.as_ref().strip_prefix(&below)?.to_owned();
            Some((name, object))
        });
        Ok(named.collect())
    }

    /// Learns where blobs are, and removes bytes that no blob and no upload has.
    async fn tidy(&self) -> Result<(), StorageError> {
        let mut places = HashMap::new();
        for (name, _) in self.list("blobs").await? {
            let place = name.split_once('/').and_then(|(hex, rest)| {
                let (size, id) = rest.split_once('-')?;
                let digest = Digest::from_hex(hex).ok()?;
                let size = size.parse().ok()?;
                Some((
                    digest,
                    Place {
                        size,
                        id: id.into(),
                    },
                ))
            });
            let Some((digest, place)) = place else {
                tracing::warn!(name, "there is an object that names no blob");
                continue;
            };
            // A second one is of an upload that was told to have failed. Both are whole.
            match places.entry(digest) {
                Entry::Vacant(entry) => {
                    entry.insert(place);
                }
                Entry::Occupied(_) => self.delete(&format!("blobs/{name}")).await?,
            }
        }
        let used: HashSet<&str> = places.values().map(|place| &*place.id).collect();
        let mut uploads = HashSet::new();
        for (name, _) in self.list("uploads").await? {
            let id = name.split('/').next().unwrap_or_default().to_owned();
            // Its blob is there: the upload was finished when it was killed.
            if used.contains(id.as_str()) {
                self.delete(&format!("uploads/{name}")).await?;
            } else {
                uploads.insert(id);
            }
        }
        for (id, _) in self.list("data").await? {
            if !used.contains(id.as_str()) && !uploads.contains(&id) {
                self.delete(&format!("data/{id}")).await?;
            }
        }
        *self.places() = places;
        Ok(())
    }

    async fn save(&self, id: &str, state: &State) -> Result<(), StorageError> {
        let json = serde_json::to_vec(state)
            .map_err(|error| StorageError::failed("note how far an upload is", error))?;
        self.put(&format!("uploads/{id}{STATE}"), json.into()).await
    }

    async fn state(&self, id: &str) -> Result<Option<State>, StorageError> {
        let json = match self.get(&format!("uploads/{id}{STATE}")).await {
            Ok(json) => json,
            Err(StorageError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let state = serde_json::from_slice(&json);
        state.map(Some).map_err(|_| damaged())
    }

    async fn forget(&self, id: &str) -> Result<(), StorageError> {
        for (name, _) in self.list(&format!("uploads/{id}")).await? {
            self.delete(&format!("uploads/{id}/{name}")).await?;
        }
        Ok(())
    }
}

fn damaged() -> StorageError {
    StorageError::failed("go on with an upload", "its state is damaged")
}

fn tail_name(id: &str, size: u64) -> String {
    format!("uploads/{id}/tail-{size}")
}

fn record_name(record: &Record) -> String {
    let (folder, name) = record.path();
    format!("records/{folder}/{name}")
}

/// Reads a name made by [`record_name`].
fn record_of(name: &str) -> Option<Record> {
    let (rest, name) = name.rsplit_once('/')?;
    let (repository, folder) = rest.rsplit_once('/')?;
    Record::parse(repository, folder, name)
}

impl Storage for Bucket {
    fn load<'a>(&'a self, each: &'a mut (dyn FnMut(Record, Bytes) + Send)) -> Reply<'a, ()> {
        Box::pin(async move {
            let records = self.0.list("records").await?;
            let records = records.into_iter().filter_map(|(name, _)| {
                let record = record_of(&name)?;
                Some((name, record))
            });
            let mut reading = stream::iter(records)
                .map(|(name, record)| async move {
                    let bytes = match record {
                        Record::Blob(..) => Ok(Bytes::new()),
                        Record::Manifest(..) | Record::Tag(..) => {
                            self.0.get(&format!("records/{name}")).await
                        }
                    };
                    (record, bytes)
                })
                .buffer_unordered(READERS)
                .boxed();
            while let Some((record, bytes)) = reading.next().await {
                match bytes {
                    Ok(bytes) => each(record, bytes),
                    Err(error @ StorageError::NotFound(_)) => {
                        tracing::error!(?record, %error, "a record cannot be read");
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
    }

    fn put_record(&self, record: &Record, bytes: Bytes) -> Reply<'_, ()> {
        let name = record_name(record);
        Box::pin(async move { self.0.put(&name, bytes).await })
    }

    fn record(&self, record: &Record) -> Reply<'_, Bytes> {
        let name = record_name(record);
        Box::pin(async move { self.0.get(&name).await })
    }

    fn remove_record(&self, record: &Record) -> Reply<'_, ()> {
        let name = record_name(record);
        Box::pin(async move { self.0.delete(&name).await })
    }

    fn blobs(&self) -> Reply<'_, Vec<StoredBlob>> {
        let blobs = self
            .0
            .places()
            .iter()
            .map(|(digest, place)| StoredBlob {
                digest: *digest,
                size: place.size,
            })
            .collect();
        Box::pin(async { Ok(blobs) })
    }

    fn open(&self, digest: &Digest, range: Range<u64>) -> Reply<'_, Content> {
        let digest = *digest;
        Box::pin(async move {
            let place = self.0.places().get(&digest).cloned();
            let place = place.ok_or_else(|| StorageError::NotFound(digest.to_string()))?;
            if range.is_empty() {
                return Ok(Content::Stream(stream::empty().boxed()));
            }
            let path = self.0.path(&format!("data/{}", place.id));
            let options = GetOptions::new().with_range(Some(GetRange::Bounded(range)));
            let found = self.0.store.get_opts(&path, options).await;
            let found = found.map_err(failed("read from the bucket"))?;
            let pieces = found.into_stream().map_err(io::Error::other);
            Ok(Content::Stream(pieces.boxed()))
        })
    }

    fn remove_blob(&self, digest: &Digest) -> Reply<'_, ()> {
        let digest = *digest;
        Box::pin(async move {
            let place = self.0.places().get(&digest).cloned();
            let Some(Place { size, id }) = place else {
                return Ok(());
            };
            self.0
                .delete(&format!("blobs/{}/{size}-{id}", digest.hex()))
                .await?;
            self.0.places().remove(&digest);
            self.0.delete(&format!("data/{id}")).await
        })
    }

    fn begin(&self, id: &str) -> Reply<'_, Box<dyn Upload>> {
        let id: Box<str> = id.into();
        Box::pin(async move {
            let state = State {
                hash: Hasher::new().state(),
                ..State::default()
            };
            self.0.save(&id, &state).await?;
            let upload = BucketUpload {
                bucket: Arc::clone(&self.0),
                id,
                saved: state.clone(),
                state,
                hasher: Hasher::new(),
                tail: Vec::new(),
                tail_size: 0,
                broken: false,
            };
            Ok(Box::new(upload) as Box<dyn Upload>)
        })
    }

    fn resume(&self, id: &str) -> Reply<'_, Option<Box<dyn Upload>>> {
        let id: Box<str> = id.into();
        Box::pin(async move {
            let Some(state) = self.0.state(&id).await? else {
                return Ok(None);
            };
            let hasher = Hasher::from_state(&state.hash).ok_or_else(damaged)?;
            let tail = match state.tail {
                0 => Bytes::new(),
                _ => self.0.get(&tail_name(&id, state.size)).await?,
            };
            if tail.len() as u64 != state.tail {
                return Err(damaged());
            }
            let upload = BucketUpload {
                bucket: Arc::clone(&self.0),
                id,
                hasher,
                tail_size: tail.len(),
                tail: vec![tail],
                saved: state.clone(),
                state,
                broken: false,
            };
            Ok(Some(Box::new(upload) as Box<dyn Upload>))
        })
    }

    fn uploads(&self) -> Reply<'_, Vec<StoredUpload>> {
        Box::pin(async move {
            let objects = self.0.list("uploads").await?;
            let uploads = objects.into_iter().filter_map(|(name, object)| {
                Some(StoredUpload {
                    id: name.strip_suffix(STATE)?.to_owned(),
                    modified: SystemTime::from(object.last_modified),
                })
            });
            Ok(uploads.collect())
        })
    }

    fn remove_upload(&self, id: &str) -> Reply<'_, ()> {
        let id: Box<str> = id.into();
        Box::pin(async move {
            if let Ok(Some(state)) = self.0.state(&id).await
                && let Some(multipart) = &state.multipart
            {
                let path = self.0.path(&format!("data/{id}"));
                // A service that has forgotten it already has nothing to abort.
                let _ = self.0.store.abort_multipart(&path, multipart).await;
                // It may have been put together, and the note of that been lost.
                let used = self.0.places().values().any(|place| place.id == id);
                if !used {
                    self.0.delete(&format!("data/{id}")).await?;
                }
            }
            self.0.forget(&id).await
        })
    }
}

/// An upload to a bucket. Parts go up as soon as they are full.
#[derive(Debug)]
struct BucketUpload {
    bucket: Arc<Inner>,
    id: Box<str>,
    state: State,
    /// How far it is in the bucket. Parts that went up after that go up again if it is resumed.
    saved: State,
    hasher: Hasher,
    /// Bytes that are in no part yet.
    tail: Vec<Bytes>,
    tail_size: usize,
    /// A part did not go up, so that it is not known here how far the upload is.
    broken: bool,
}

impl BucketUpload {
    fn part_size(&self) -> usize {
        match self.state.parts.len() < SMALL_PARTS {
            true => PART,
            false => LARGE_PART,
        }
    }

    fn data(&self) -> Path {
        self.bucket.path(&format!("data/{}", self.id))
    }

    /// Sends a part, from the front of the tail.
    async fn send_part(&mut self, size: usize) -> Result<(), StorageError> {
        let path = self.data();
        let multipart = match &self.state.multipart {
            Some(multipart) => multipart.clone(),
            None => {
                let begun = self.bucket.store.create_multipart(&path).await;
                let begun = begun.map_err(failed("begin an upload to the bucket"))?;
                self.state.multipart = Some(begun.clone());
                // Known before there are parts, so that they can be given up.
                self.saved.multipart = Some(begun.clone());
                self.bucket.save(&self.id, &self.saved).await?;
                begun
            }
        };
        let payload = self.take(size);
        let number = self.state.parts.len();
        let sent = self
            .bucket
            .store
            .put_part(&path, &multipart, number, payload);
        let part = sent.await.map_err(failed("write to the bucket"))?;
        self.state.parts.push(part.content_id);
        Ok(())
    }

    fn take(&mut self, size: usize) -> PutPayload {
        let mut pieces = Vec::new();
        let mut left = size.min(self.tail_size);
        self.tail_size -= left;
        let mut tail = std::mem::take(&mut self.tail).into_iter();
        for mut piece in tail.by_ref() {
            if piece.len() > left {
                pieces.push(piece.split_to(left));
                self.tail.push(piece);
                break;
            }
            left -= piece.len();
            pieces.push(piece);
            if left == 0 {
                break;
            }
        }
        self.tail.extend(tail);
        pieces.into_iter().collect()
    }
}

impl Upload for BucketUpload {
    fn size(&self) -> u64 {
        self.state.size
    }

    fn write(&mut self, pieces: Vec<Bytes>) -> Reply<'_, ()> {
        Box::pin(async move {
            if std::mem::replace(&mut self.broken, true) {
                return Err(StorageError::failed(
                    "write to an upload",
                    "an earlier write failed",
                ));
            }
            for piece in pieces {
                self.hasher.update(&piece);
                self.state.size += piece.len() as u64;
                self.tail_size += piece.len();
                self.tail.push(piece);
            }
            while self.tail_size >= self.part_size() {
                let size = self.part_size();
                self.send_part(size).await?;
            }
            self.broken = false;
            Ok(())
        })
    }

    fn reader(&self) -> Option<std::fs::File> {
        None
    }

    fn checkpoint(&mut self) -> Reply<'_, ()> {
        Box::pin(async move {
            let mut tail = BytesMut::with_capacity(self.tail_size);
            for piece in &self.tail {
                tail.extend_from_slice(piece);
            }
            let tail = tail.freeze();
            self.tail = vec![tail.clone()];
            self.state.tail = tail.len() as u64;
            self.state.hash = self.hasher.state();
            let (old, new) = (self.saved.size, self.state.size);
            if !tail.is_empty() {
                self.bucket.put(&tail_name(&self.id, new), tail).await?;
            }
            self.bucket.save(&self.id, &self.state).await?;
            if old != new && self.saved.tail > 0 {
                self.bucket.delete(&tail_name(&self.id, old)).await?;
            }
            self.saved = self.state.clone();
            Ok(())
        })
    }

    fn commit(mut self: Box<Self>, digest: Digest) -> Reply<'static, StoredBlob> {
        Box::pin(async move {
            let actual = self.hasher.clone().finish();
            let size = self.state.size;
            let known = self.bucket.places().get(&digest).cloned();
            if actual != digest || known.is_some() {
                if let Some(multipart) = &self.state.multipart {
                    let path = self.data();
                    // What stays is the service's to forget.
                    let _ = self.bucket.store.abort_multipart(&path, multipart).await;
                }
                self.bucket.forget(&self.id).await?;
                if actual != digest {
                    return Err(StorageError::DigestMismatch {
                        expected: digest,
                        actual,
                    });
                }
                return Ok(StoredBlob { digest, size });
            }
            if self.state.multipart.is_some() {
                let rest = self.tail_size;
                if rest > 0 {
                    self.send_part(rest).await?;
                }
                let parts = self.state.parts.iter().map(|part| PartId {
                    content_id: part.clone(),
                });
                let multipart = self.state.multipart.clone().unwrap_or_default();
                let (store, path) = (&self.bucket.store, self.data());
                let complete = store.complete_multipart(&path, &multipart, parts.collect());
                let complete = complete.await;
                complete.map_err(failed("finish an upload to the bucket"))?;
            } else {
                let payload = self.take(usize::MAX);
                let path = self.data();
                let put = self.bucket.store.put(&path, payload).await;
                put.map_err(failed("write to the bucket"))?;
            }
            let place = format!("blobs/{}/{size}-{}", digest.hex(), self.id);
            self.bucket.put(&place, Bytes::new()).await?;
            let id = self.id.clone();
            self.bucket.places().insert(digest, Place { size, id });
            self.bucket.forget(&self.id).await?;
            Ok(StoredBlob { digest, size })
        })
    }
}
