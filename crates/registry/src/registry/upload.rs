//! Blobs on their way to a repository.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use sampan_oci::Digest;
use tokio_util::sync::CancellationToken;

use super::blob::Pin;
use super::{Registry, now};
use crate::error::{Error, Invalid, Result};
use crate::name::RepositoryName;
use crate::storage::{Storage, StorageError, StoredBlob, Upload};

/// A body of a request.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// Bytes that are handed to the store at once. While it hashes and writes them, the next come.
const BATCH: usize = 256 << 10;

/// Names an upload to one repository. It cannot be guessed, and tells no other repository's
/// upload: the repository is part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UploadId(Box<str>);

const RANDOM_DIGITS: usize = 32;
const REPOSITORY_DIGITS: usize = 16;

impl UploadId {
    /// Makes a new one.
    pub(super) fn new(repository: &RepositoryName) -> Result<Self> {
        let mut random = [0; RANDOM_DIGITS / 2];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
            .map_err(|error| StorageError::failed("name an upload", error))?;
        let mut id = String::with_capacity(RANDOM_DIGITS + REPOSITORY_DIGITS);
        for byte in random {
            // Writing to a String cannot fail.
            let _ = fmt::Write::write_fmt(&mut id, format_args!("{byte:02x}"));
        }
        id.push_str(&mark(repository));
        Ok(Self(id.into()))
    }

    /// Reads an id that a client gave for an upload to this repository.
    pub fn parse(text: &str, repository: &RepositoryName) -> Result<Self> {
        let digits = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let right = text.len() == RANDOM_DIGITS + REPOSITORY_DIGITS
            && digits(text)
            && text[RANDOM_DIGITS..] == mark(repository);
        if !right {
            return Err(Error::UploadUnknown);
        }
        Ok(Self(text.into()))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn mark(repository: &RepositoryName) -> String {
    let mut hex = Digest::of(repository.as_str().as_bytes()).hex();
    hex.truncate(REPOSITORY_DIGITS);
    hex
}

/// How far an upload is.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The upload.
    pub id: UploadId,
    /// How many bytes there are.
    pub size: u64,
}

/// All uploads of this process, and those that earlier ones left.
#[derive(Debug)]
pub(super) struct Uploads(Mutex<HashMap<Box<str>, Arc<Session>>>);

/// An upload that may be in use.
#[derive(Debug)]
pub(super) struct Session {
    /// Held by the request that writes. None when what there is must be looked up in the store.
    upload: tokio::sync::Mutex<Option<Box<dyn Upload>>>,
    touched: Mutex<Instant>,
}

impl Session {
    fn new(upload: Option<Box<dyn Upload>>, touched: Instant) -> Arc<Self> {
        Arc::new(Self {
            upload: tokio::sync::Mutex::new(upload),
            touched: Mutex::new(touched),
        })
    }

    fn touch(&self) {
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = now();
    }

    fn touched(&self) -> Instant {
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Uploads {
    pub(super) async fn load(storage: &dyn Storage) -> Result<Self> {
        let (now, clock) = (now(), SystemTime::now());
        let mut sessions = HashMap::new();
        for upload in storage.uploads().await? {
            let age = clock.duration_since(upload.modified).unwrap_or_default();
            let touched = now.checked_sub(age).unwrap_or(now);
            sessions.insert(upload.id.into(), Session::new(None, touched));
        }
        Ok(Self(Mutex::new(sessions)))
    }

    fn map(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Session>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.map().len()
    }

    /// Uploads to which nothing came for so long.
    pub(super) fn idle(&self, life: Duration) -> Vec<Box<str>> {
        let now = now();
        let idle = |session: &Arc<Session>| now.duration_since(session.touched()) > life;
        self.map()
            .iter()
            .filter(|(_, session)| idle(session))
            .map(|(id, _)| id.clone())
            .collect()
    }
}

impl Registry {
    /// Counts uploads that are not finished.
    pub fn uploads(&self) -> usize {
        self.0.uploads.count()
    }

    /// Begins an upload.
    pub async fn begin_upload(&self, repository: &RepositoryName) -> Result<Progress> {
        let id = UploadId::new(repository)?;
        {
            let mut uploads = self.0.uploads.map();
            if uploads.len() >= self.0.settings.max_uploads {
                return Err(Error::TooManyUploads);
            }
            uploads.insert(id.0.clone(), Session::new(None, now()));
        }
        let (this, made) = (self.clone(), id.clone());
        self.change(async move {
            match this.0.storage.begin(made.as_str()).await {
                Ok(upload) => {
                    if let Some(session) = this.session(&made) {
                        *session.upload.lock().await = Some(upload);
                    }
                    Ok(())
                }
                Err(error) => {
                    this.0.uploads.map().remove(made.as_str());
                    Err(error.into())
                }
            }
        })
        .await?;
        self.0.index().active(repository, self.0.lease());
        Ok(Progress { id, size: 0 })
    }

    fn session(&self, id: &UploadId) -> Option<Arc<Session>> {
        self.0.uploads.map().get(id.as_str()).cloned()
    }

    /// Returns how far an upload is.
    pub async fn upload_progress(&self, id: &UploadId) -> Result<Progress> {
        let session = self.session(id).ok_or(Error::UploadUnknown)?;
        let mut upload = session.upload.try_lock().map_err(|_| Error::UploadBusy)?;
        let upload = self.opened(id, &mut upload).await?;
        Ok(Progress {
            id: id.clone(),
            size: upload.size(),
        })
    }

    /// Gives up an upload.
    pub async fn cancel_upload(&self, id: &UploadId) -> Result<()> {
        let (this, id) = (self.clone(), id.clone());
        self.change(async move {
            let session = this.session(&id).ok_or(Error::UploadUnknown)?;
            let mut upload = session.upload.try_lock().map_err(|_| Error::UploadBusy)?;
            this.drop_upload(&id, &mut upload).await
        })
        .await
    }

    async fn drop_upload(&self, id: &UploadId, upload: &mut Option<Box<dyn Upload>>) -> Result<()> {
        *upload = None;
        self.0.storage.remove_upload(id.as_str()).await?;
        self.0.uploads.map().remove(id.as_str());
        Ok(())
    }

    /// Drops an upload to which nothing came for long. Answers whether it did.
    pub(super) async fn expire_upload(&self, id: &str, life: Duration) -> Result<bool> {
        let id = UploadId(id.into());
        let Some(session) = self.session(&id) else {
            return Ok(false);
        };
        let Ok(mut upload) = session.upload.try_lock() else {
            return Ok(false);
        };
        if now().duration_since(session.touched()) <= life {
            return Ok(false);
        }
        self.drop_upload(&id, &mut upload).await?;
        Ok(true)
    }

    /// Opens the upload in a session, if it is not open.
    async fn opened<'s>(
        &self,
        id: &UploadId,
        slot: &'s mut Option<Box<dyn Upload>>,
    ) -> Result<&'s mut Box<dyn Upload>> {
        if slot.is_none() {
            *slot = self.0.storage.resume(id.as_str()).await?;
        }
        slot.as_mut().ok_or(Error::UploadUnknown)
    }

    /// Adds a body to an upload, which must begin at `offset` if that is given and have `length`
    /// bytes if that is. What came stays also when the body breaks off.
    pub async fn append(
        &self,
        repository: &RepositoryName,
        id: &UploadId,
        offset: Option<u64>,
        length: Option<u64>,
        body: ByteStream,
    ) -> Result<Progress> {
        let (this, repository, id) = (self.clone(), repository.clone(), id.clone());
        self.change(async move {
            let session = this.session(&id).ok_or(Error::UploadUnknown)?;
            let mut slot = session.upload.try_lock().map_err(|_| Error::UploadBusy)?;
            let size = this
                .take(
                    &repository,
                    &id,
                    &session,
                    &mut slot,
                    (offset, length),
                    body,
                )
                .await?;
            let upload = this.opened(&id, &mut slot).await?;
            upload.checkpoint().await?;
            Ok(Progress { id, size })
        })
        .await
    }

    /// Adds a body, as [`Registry::append`] does, and makes the upload a blob of the repository.
    pub async fn finish(
        &self,
        repository: &RepositoryName,
        id: &UploadId,
        digest: Digest,
        offset: Option<u64>,
        length: Option<u64>,
        body: ByteStream,
    ) -> Result<StoredBlob> {
        let (this, repository, id) = (self.clone(), repository.clone(), id.clone());
        self.change(async move {
            let session = this.session(&id).ok_or(Error::UploadUnknown)?;
            let mut slot = session.upload.try_lock().map_err(|_| Error::UploadBusy)?;
            this.take(
                &repository,
                &id,
                &session,
                &mut slot,
                (offset, length),
                body,
            )
            .await?;
            this.opened(&id, &mut slot).await?;
            let upload = slot.take().ok_or(Error::UploadUnknown)?;
            let (blob, pin) = match this.commit(upload, digest).await {
                Ok(committed) => committed,
                Err(error) => {
                    if matches!(error, Error::DigestMismatch { .. }) {
                        this.0.uploads.map().remove(id.as_str());
                    }
                    return Err(error);
                }
            };
            this.0.uploads.map().remove(id.as_str());
            this.link(&repository, &pin).await?;
            Ok(blob)
        })
        .await
    }

    /// Makes an upload a blob, which stays for as long as it is pinned.
    pub(super) async fn commit(
        &self,
        upload: Box<dyn Upload>,
        digest: Digest,
    ) -> Result<(StoredBlob, Pin)> {
        let _lock = self.0.locks.blob(&digest).await;
        let blob = match upload.commit(digest).await {
            Ok(blob) => blob,
            Err(StorageError::DigestMismatch { expected, actual }) => {
                return Err(Error::DigestMismatch { expected, actual });
            }
            Err(error) => return Err(error.into()),
        };
        let mut index = self.0.index();
        index.stored(&digest, blob.size);
        let pin = Pin::new(self, &mut index, digest);
        Ok((blob, pin))
    }

    async fn take(
        &self,
        repository: &RepositoryName,
        id: &UploadId,
        session: &Session,
        slot: &mut Option<Box<dyn Upload>>,
        (offset, length): (Option<u64>, Option<u64>),
        body: ByteStream,
    ) -> Result<u64> {
        session.touch();
        let before = self.opened(id, slot).await?.size();
        if let Some(given) = offset
            && given != before
        {
            return Err(Error::OutOfOrder {
                size: before,
                given,
            });
        }
        let limit = self.0.settings.max_blob;
        let too_large = || Error::TooLarge {
            what: "blob",
            limit,
        };
        let promised = length.map_or(Some(before), |length| before.checked_add(length));
        if promised.is_none_or(|size| size > limit) {
            return Err(too_large());
        }
        let upload = self.opened(id, slot).await?;
        let stopping = &self.0.stopping;
        let received = receive(&mut **upload, body, limit, stopping, &|| {
            session.touch();
            self.0.index().active(repository, self.0.lease());
        })
        .await;
        session.touch();
        match received {
            Ok(size) => {
                let actual = size - before;
                match length {
                    Some(expected) if expected != actual => {
                        Err(Error::BodyLength { expected, actual })
                    }
                    _ => Ok(size),
                }
            }
            Err(error) => {
                match error {
                    // It can only grow further.
                    Error::TooLarge { .. } => self.drop_upload(id, slot).await?,
                    // What there is now is known to the store alone.
                    Error::Storage(_) => *slot = None,
                    _ => {}
                }
                Err(error)
            }
        }
    }
}

/// Hands a body over to an upload; answers the upload's size.
async fn receive(
    upload: &mut dyn Upload,
    mut body: ByteStream,
    limit: u64,
    stopping: &CancellationToken,
    progress: &(dyn Fn() + Send + Sync),
) -> Result<u64> {
    let (mut batch, mut end) = collect(&mut body, stopping).await;
    loop {
        let length: u64 = batch.iter().map(|piece| piece.len() as u64).sum();
        if length == 0 {
            break;
        }
        if upload.size().saturating_add(length) > limit {
            return Err(Error::TooLarge {
                what: "blob",
                limit,
            });
        }
        progress();
        if end.is_some() {
            upload.write(batch).await?;
            break;
        }
        let (written, next) = tokio::join!(upload.write(batch), collect(&mut body, stopping));
        written?;
        (batch, end) = next;
    }
    match end {
        Some(Err(error)) => Err(error),
        Some(Ok(())) | None => Ok(upload.size()),
    }
}

/// Gathers pieces of a body; also answers how it ended, if it did.
async fn collect(
    body: &mut ByteStream,
    stopping: &CancellationToken,
) -> (Vec<Bytes>, Option<Result<()>>) {
    let mut batch = Vec::new();
    let mut length = 0;
    while length < BATCH {
        let piece = tokio::select! {
            piece = body.next() => piece,
            // What came is kept: the client goes on with the next process.
            () = stopping.cancelled() => Some(Err(Error::Stopping)),
        };
        match piece {
            Some(Ok(piece)) => {
                length += piece.len();
                batch.push(piece);
            }
            Some(Err(error)) => return (batch, Some(Err(error))),
            None => return (batch, Some(Ok(()))),
        }
    }
    (batch, None)
}

/// Parses a digest that a client gave.
pub(crate) fn parse_digest(text: &str) -> Result<Digest> {
    text.parse()
        .map_err(|_| Error::Invalid(Invalid::Digest(text.chars().take(200).collect())))
}
