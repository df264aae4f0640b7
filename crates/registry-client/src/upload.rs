//! Blobs on their way to a registry: found there, mounted from another repository, or sent, and
//! resumed where a connection broke.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE};
use http::{Method, StatusCode};
use reqwest::{Response, Url};
use sampan_oci::Digest;

use crate::address::{refuse, same_origin};
use crate::client::{Access, Ask, Client, Failure, Place, Source, refusal};
use crate::payload::Payload;
use crate::{Error, Result};

/// What is no longer goes with the request that ends the upload, which saves a round trip.
const SMALL: u64 = 1 << 20;
/// Bytes after which a connection counts as one that works.
const REAL_PROGRESS: u64 = 1 << 20;
/// The length of a request to a registry that finds a whole layer too long, or that loses it all
/// when the connection breaks.
const CHUNK: u64 = 32 << 20;

/// The bytes of a blob.
#[derive(Clone, Debug)]
pub enum Content {
    /// In memory.
    Bytes(Bytes),
    /// A file of this length.
    File(Arc<File>, u64),
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, size) => *size,
        }
    }

    fn part(&self, offset: u64, length: u64, sent: &Arc<AtomicU64>) -> Payload {
        match self {
            Self::Bytes(bytes) => {
                let end = usize::try_from(offset + length).unwrap_or(bytes.len());
                let start = usize::try_from(offset).unwrap_or(end);
                Payload::Bytes(bytes.slice(start.min(end)..end))
            }
            Self::File(file, _) => Payload::File {
                file: file.clone(),
                offset,
                length,
                sent: sent.clone(),
            },
        }
    }
}

/// An upload that a registry has opened.
#[derive(Clone, Debug)]
pub struct Session {
    /// Where the next request goes; the registry may say another address each time.
    url: Url,
    is_registry: bool,
    /// Bytes that the registry has.
    offset: u64,
}

/// What became of the wish to mount a blob.
#[derive(Clone, Debug)]
pub enum Mounted {
    /// The repository has it.
    Yes,
    /// The registry wants the bytes.
    No(Session),
}

impl Client {
    /// Whether the repository has a blob.
    pub async fn blob_exists(&self, source: &Source, digest: &Digest) -> Result<bool> {
        self.exists(source, format!("blobs/{digest}"), HeaderMap::new())
            .await
    }

    pub(crate) async fn exists(
        &self,
        source: &Source,
        path: String,
        headers: HeaderMap,
    ) -> Result<bool> {
        self.retry(async || {
            let response = self
                .ask(&Ask {
                    headers: headers.clone(),
                    ..Ask::new(source, Method::HEAD, path.clone())
                })
                .await?;
            match response.status() {
                status if status.is_success() => Ok(true),
                StatusCode::NOT_FOUND => Ok(false),
                _ => Err(refusal(self, source, response).await),
            }
        })
        .await
    }

    /// Asks the registry to take a blob from another of its repositories.
    pub async fn mount(&self, source: &Source, digest: &Digest, from: &str) -> Result<Mounted> {
        let source = source.with_access(Access::Mount(from.to_owned()));
        let path = format!("blobs/uploads/?mount={digest}&from={from}");
        self.retry(async || {
            let response = self
                .ask(&Ask::new(&source, Method::POST, path.clone()))
                .await?;
            match response.status() {
                StatusCode::CREATED => Ok(Mounted::Yes),
                StatusCode::ACCEPTED => Ok(Mounted::No(session(&response, None, 0)?)),
                _ => Err(refusal(self, &source, response).await),
            }
        })
        .await
    }

    /// Sends a blob, in the session that a refused mount has left or in a new one. `sent` tells
    /// how far it is.
    ///
    /// When the connection breaks it goes on where the registry says that it stopped.
    pub async fn upload(
        &self,
        source: &Source,
        digest: &Digest,
        content: &Content,
        session: Option<Session>,
        sent: &Arc<AtomicU64>,
    ) -> Result<()> {
        let mut upload = Upload {
            client: self,
            source,
            digest,
            content,
            sent,
            session,
            broke: false,
            chunk: u64::MAX,
        };
        let (mut attempt, mut settled) = (1, 0);
        loop {
            let failure = match upload.run().await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            if is_too_long(&failure.error) && upload.chunk > CHUNK {
                upload.chunk = CHUNK;
                upload.session = None;
                continue;
            }
            let reached = upload.session.as_ref().map_or(0, |session| session.offset);
            // A registry that was there a moment ago is waited for as one that answers.
            let lost = is_lost(&failure.error);
            let known = lost || (upload.session.is_some() && is_broken(&failure.error));
            if lost {
                upload.session = None;
            }
            upload.broke = true;
            if reached >= settled + REAL_PROGRESS {
                settled = reached;
                attempt = 1;
            }
            let config = &self.0.config;
            let may = failure.may_pass(attempt, config) || (known && attempt < config.attempts);
            if !may {
                return Err(failure.error);
            }
            tracing::debug!(error = %failure.error, %digest, offset = reached, attempt, "upload broke");
            let wait = failure.wait.unwrap_or_else(|| self.backoff(attempt));
            tokio::time::sleep(wait).await;
            attempt += 1;
            // The last request may have done its work before its answer was lost.
            if self.blob_exists(source, digest).await.unwrap_or(false) {
                return Ok(());
            }
        }
    }
}

struct Upload<'a> {
    client: &'a Client,
    source: &'a Source,
    digest: &'a Digest,
    content: &'a Content,
    sent: &'a Arc<AtomicU64>,
    session: Option<Session>,
    /// Something went wrong, so that the registry must say how much it has.
    broke: bool,
    /// Bytes of one request.
    chunk: u64,
}

impl Upload<'_> {
    async fn run(&mut self) -> std::result::Result<(), Failure> {
        if std::mem::take(&mut self.broke) {
            self.resume().await?;
        }
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.begin().await?,
        };
        self.session = Some(session.clone());
        let size = self.content.size();
        if session.offset > 0 || size > SMALL.min(self.chunk) {
            while session.offset < size {
                session = self.send_chunk(&session).await?;
                self.session = Some(session.clone());
            }
        }
        self.finish(&session).await
    }

    async fn begin(&self) -> std::result::Result<Session, Failure> {
        let response = self
            .client
            .ask(&Ask::new(self.source, Method::POST, "blobs/uploads/"))
            .await?;
        match response.status() {
            StatusCode::ACCEPTED => Ok(session(&response, None, 0)?),
            _ => Err(refusal(self.client, self.source, response).await),
        }
    }

    async fn send_chunk(&self, at: &Session) -> std::result::Result<Session, Failure> {
        let length = (self.content.size() - at.offset).min(self.chunk);
        let end = at.offset + length;
        let mut headers = octets();
        let range = format!("{}-{}", at.offset, end - 1);
        headers.insert(
            CONTENT_RANGE,
            HeaderValue::from_str(&range).expect("digits are a header value"),
        );
        let payload = self.content.part(at.offset, length, self.sent);
        let response = self.ask(Method::PATCH, at, None, headers, payload).await?;
        if !response.status().is_success() {
            return Err(refusal(self.client, self.source, response).await);
        }
        let reached = range_end(response.headers()).unwrap_or(end);
        if reached <= at.offset || reached > end {
            return Err(self.out_of_step().into());
        }
        Ok(session(&response, Some(at), reached)?)
    }

    /// Ends the upload, with the bytes that are left.
    async fn finish(&self, at: &Session) -> std::result::Result<(), Failure> {
        let left = self.content.size() - at.offset;
        let payload = self.content.part(at.offset, left, self.sent);
        let response = self
            .ask(Method::PUT, at, Some(self.digest), octets(), payload)
            .await?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(refusal(self.client, self.source, response).await)
    }

    /// Asks the registry how much it has. One that knows nothing of the upload any more gets a new
    /// one; one that cannot answer now is asked again later.
    async fn resume(&mut self) -> std::result::Result<(), Failure> {
        let Some(session) = self.session.clone() else {
            return Ok(());
        };
        let response = self
            .ask(Method::GET, &session, None, HeaderMap::new(), Payload::None)
            .await?;
        let status = response.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(refusal(self.client, self.source, response).await);
        }
        let offset = range_end(response.headers()).unwrap_or(0);
        let usable = status.is_success() && offset <= self.content.size();
        let kept = if usable { offset } else { 0 };
        if self.sent.load(Ordering::Relaxed).saturating_sub(kept) > CHUNK {
            // It keeps nothing of a request that broke: the next one breaks off less.
            self.chunk = CHUNK;
        }
        self.session = usable
            .then(|| self::session(&response, Some(&session), offset).ok())
            .flatten();
        Ok(())
    }

    async fn ask(
        &self,
        method: Method,
        at: &Session,
        digest: Option<&Digest>,
        headers: HeaderMap,
        payload: Payload,
    ) -> Result<Response> {
        let mut url = at.url.clone();
        if let Some(digest) = digest {
            url.query_pairs_mut()
                .append_pair("digest", &digest.to_string());
        }
        let ask = Ask {
            source: self.source,
            method,
            place: Place::Address {
                url,
                is_registry: at.is_registry,
            },
            headers,
            payload,
        };
        self.client.ask(&ask).await
    }

    fn out_of_step(&self) -> Error {
        Error::Protocol(format!(
            "the upload of {} is not where it should be",
            self.digest
        ))
    }
}

fn octets() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers
}

/// Reads where the upload goes on. A registry that does not say means the same place.
fn session(response: &Response, before: Option<&Session>, offset: u64) -> Result<Session> {
    let asked = response.url();
    let Some(location) = response.headers().get(LOCATION) else {
        return match before {
            Some(before) => Ok(Session {
                offset,
                ..before.clone()
            }),
            None => Err(Error::Protocol("an upload without an address".into())),
        };
    };
    let url = location
        .to_str()
        .ok()
        .and_then(|location| asked.join(location).ok())
        .ok_or_else(|| Error::Protocol("an upload with a bad address".into()))?;
    if let Some(reason) = refuse(asked, &url) {
        return Err(Error::Unsafe {
            url: url.into(),
            reason,
        });
    }
    let is_registry = before.is_none_or(|before| before.is_registry) && same_origin(asked, &url);
    Ok(Session {
        url,
        is_registry,
        offset,
    })
}

/// Reads how many bytes there are from `Range: 0-N`; `0-0` is what registries say of none.
fn range_end(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(RANGE)?.to_str().ok()?;
    let last = text.trim_start_matches("bytes=").split_once('-')?.1;
    let last: u64 = last.trim().parse().ok()?;
    Some(if last == 0 { 0 } else { last + 1 })
}

fn status(error: &Error) -> Option<u16> {
    match error {
        Error::Api { status, .. } | Error::Status { code: status, .. } => Some(*status),
        _ => None,
    }
}

/// Whether there was no answer at all.
fn is_broken(error: &Error) -> bool {
    matches!(error, Error::Transport { .. } | Error::Stalled { .. })
}

/// Whether the registry has lost the upload, so that only a new one helps.
fn is_lost(error: &Error) -> bool {
    matches!(status(error), Some(404 | 416))
}

fn is_too_long(error: &Error) -> bool {
    status(error) == Some(413)
}
