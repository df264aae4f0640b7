//! The contract of a store, checked for each.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use sampan_oci::Digest;
use sampan_registry::RepositoryName;
use sampan_registry::storage::{Content, Files, Record, Storage, StorageError};

/// Makes stores on the same medium, one after the other.
pub trait Medium {
    /// Opens the store; the one before is gone.
    fn open(&self) -> Arc<dyn Storage>;
}

struct Directory(tempfile::TempDir);

impl Medium for Directory {
    fn open(&self) -> Arc<dyn Storage> {
        Arc::new(Files::open(self.0.path()).unwrap())
    }
}

#[test]
fn files_keep_the_contract() {
    conform(&Directory(tempfile::tempdir().unwrap()));
}

/// A bucket, with a directory for what is not in it.
#[cfg(feature = "s3")]
struct InBucket {
    bucket: sampan_testing::Bucket,
    directory: tempfile::TempDir,
    /// Connections belong to the runtime that made them.
    runtime: tokio::runtime::Runtime,
}

#[cfg(feature = "s3")]
impl Medium for InBucket {
    fn open(&self) -> Arc<dyn Storage> {
        let config = sampan_registry::config::S3 {
            bucket: sampan_testing::Bucket::NAME.to_owned(),
            endpoint: Some(self.bucket.endpoint()),
            region: None,
            prefix: "a/b".to_owned(),
            access_key_id: Some("id".to_owned()),
            secret_access_key: Some("key".to_owned()),
            secret_access_key_file: None,
        };
        let local = Files::open(self.directory.path()).unwrap();
        let bucket = sampan_registry::storage::Bucket::connect(&config, local);
        Arc::new(self.runtime.block_on(bucket).unwrap())
    }
}

#[cfg(feature = "s3")]
#[test]
fn buckets_keep_the_contract() {
    conform(&InBucket {
        bucket: sampan_testing::Bucket::start(),
        directory: tempfile::tempdir().unwrap(),
        runtime: runtime(),
    });
}

#[test]
fn a_directory_has_one_owner() {
    let directory = tempfile::tempdir().unwrap();
    let first = Files::open(directory.path()).unwrap();
    assert!(Files::open(directory.path()).is_err());
    drop(first);
    Files::open(directory.path()).unwrap();
}

#[test]
fn what_a_kill_leaves_of_a_record_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = runtime();
    let store = Files::open(directory.path()).unwrap();
    let record = Record::Blob(name("a"), Digest::of(b"x"));
    runtime
        .block_on(store.put_record(&record, Bytes::new()))
        .unwrap();
    let folder = directory.path().join("repositories/a/_blobs");
    std::fs::write(folder.join(".tmp-1-2"), b"half").unwrap();
    std::fs::write(folder.join("nonsense"), b"").unwrap();
    assert_eq!(records(&runtime, &store).len(), 1);
    assert!(!folder.join(".tmp-1-2").exists());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn name(text: &str) -> RepositoryName {
    text.parse().unwrap()
}

fn records(runtime: &tokio::runtime::Runtime, store: &dyn Storage) -> Vec<(Record, Bytes)> {
    let mut records = Vec::new();
    runtime
        .block_on(store.load(&mut |record, bytes| records.push((record, bytes))))
        .unwrap();
    records.sort();
    records
}

fn read(
    runtime: &tokio::runtime::Runtime,
    store: &dyn Storage,
    digest: &Digest,
    size: u64,
) -> Vec<u8> {
    runtime.block_on(async {
        match store.open(digest, 0..size).await.unwrap() {
            Content::File(mut file) => {
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
                bytes
            }
            Content::Stream(pieces) => {
                let pieces: Vec<_> = pieces.map(Result::unwrap).collect().await;
                pieces.concat()
            }
        }
    })
}

const ID: &str = "0123456789abcdef";

fn conform(medium: &dyn Medium) {
    let runtime = runtime();
    let store = medium.open();

    // Records: whole, replaced, removed, and there for the next process.
    let tag = Record::Tag(name("a/b"), "v1".parse().unwrap());
    let manifest = Record::Manifest(name("a"), Digest::of(b"m"));
    let blob = Record::Blob(name("a/b/c"), Digest::of(b"b"));
    for (record, bytes) in [
        (&tag, "old"),
        (&tag, "new"),
        (&manifest, "{}\n{}"),
        (&blob, ""),
    ] {
        let put = store.put_record(record, Bytes::from_static(bytes.as_bytes()));
        runtime.block_on(put).unwrap();
    }
    assert_eq!(runtime.block_on(store.record(&tag)).unwrap(), "new");
    drop(store);
    let store = medium.open();
    let mut expected = vec![
        (tag.clone(), Bytes::from_static(b"new")),
        (manifest.clone(), Bytes::from_static(b"{}\n{}")),
        (blob.clone(), Bytes::new()),
    ];
    expected.sort();
    assert_eq!(records(&runtime, &*store), expected);
    for record in [&tag, &tag, &manifest, &blob] {
        runtime.block_on(store.remove_record(record)).unwrap();
    }
    assert!(records(&runtime, &*store).is_empty());
    let absent = runtime.block_on(store.record(&tag)).unwrap_err();
    assert!(matches!(absent, StorageError::NotFound(_)), "{absent}");

    // Uploads: in pieces of all sizes, across processes, several at a time.
    let bytes: Vec<u8> = (0..13_000_000_u32).map(|i| (i % 253) as u8).collect();
    let digest = Digest::of(&bytes);
    let piece = |range: std::ops::Range<usize>| vec![Bytes::copy_from_slice(&bytes[range])];
    runtime.block_on(async {
        let mut upload = store.begin(ID).await.unwrap();
        assert_eq!(upload.size(), 0);
        upload.write(piece(0..1)).await.unwrap();
        upload.write(piece(1..6_000_000)).await.unwrap();
        upload.checkpoint().await.unwrap();
        assert_eq!(upload.size(), 6_000_000);
    });
    drop(store);
    let store = medium.open();
    runtime.block_on(async {
        assert_eq!(store.uploads().await.unwrap()[0].id, ID);
        let mut upload = store.resume(ID).await.unwrap().unwrap();
        assert_eq!(upload.size(), 6_000_000, "what was acknowledged is there");
        upload.write(piece(6_000_000..6_000_010)).await.unwrap();
        upload.checkpoint().await.unwrap();
        drop(upload);
        let mut upload = store.resume(ID).await.unwrap().unwrap();
        assert_eq!(upload.size(), 6_000_010);
        upload.write(piece(6_000_010..13_000_000)).await.unwrap();
        let blob = upload.commit(digest).await.unwrap();
        assert_eq!((blob.digest, blob.size), (digest, 13_000_000));
        assert!(store.resume(ID).await.unwrap().is_none());
        assert!(store.uploads().await.unwrap().is_empty());
        assert_eq!(store.blobs().await.unwrap(), [blob]);
    });
    assert_eq!(read(&runtime, &*store, &digest, 13_000_000), bytes);

    // The same again, nothing at all, and what is not what it says.
    runtime.block_on(async {
        let mut again = store.begin("aa").await.unwrap();
        again.write(piece(0..13_000_000)).await.unwrap();
        again.commit(digest).await.unwrap();
        let empty = store.begin("bb").await.unwrap();
        empty.commit(Digest::of(b"")).await.unwrap();
        let mut wrong = store.begin("cc").await.unwrap();
        wrong.write(piece(0..10)).await.unwrap();
        let refused = wrong.commit(digest).await.unwrap_err();
        assert!(
            matches!(refused, StorageError::DigestMismatch { .. }),
            "{refused}"
        );
        assert!(store.resume("cc").await.unwrap().is_none());
        drop(store.begin("dd").await.unwrap());
        assert!(store.resume("dd").await.unwrap().is_some());
        store.remove_upload("dd").await.unwrap();
        store.remove_upload("dd").await.unwrap();
        assert!(store.uploads().await.unwrap().is_empty());
        assert_eq!(store.blobs().await.unwrap().len(), 2);
    });
    drop(store);
    let store = medium.open();
    assert_eq!(read(&runtime, &*store, &digest, 13_000_000), bytes);
    assert_eq!(read(&runtime, &*store, &Digest::of(b""), 0), b"");
    runtime.block_on(async {
        store.remove_blob(&digest).await.unwrap();
        store.remove_blob(&digest).await.unwrap();
        let absent = store.open(&digest, 0..1).await.unwrap_err();
        assert!(matches!(absent, StorageError::NotFound(_)), "{absent}");
        assert_eq!(store.blobs().await.unwrap().len(), 1);
    });
}
