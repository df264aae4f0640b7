//! Blobs: streamed, and resumed where a connection broke.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use http::{Method, StatusCode};
use reqwest::Response;
use sampan_oci::Digest;

use crate::client::{Ask, Client, Failure, Source, read_bounded, refusal};
use crate::{Error, Result};

/// Bytes after which a connection counts as one that works, so that the count of attempts starts
/// anew. A server that gives a little each time is given up nevertheless.
const REAL_PROGRESS: u64 = 1 << 20;

/// Something that comes out of a download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The next bytes.
    Bytes(Bytes),
    /// The connection broke; [`Download::next`] goes on after this time.
    Retrying(Duration),
}

/// A blob on its way. It ends after exactly the promised number of bytes; whoever takes the bytes
/// verifies the digest.
#[derive(Debug)]
pub struct Download {
    client: Client,
    source: Source,
    digest: Digest,
    size: u64,
    offset: u64,
    response: Option<Response>,
    /// Bytes at the start of the current answer that came before.
    surplus: u64,
    attempt: u32,
    /// Where the count of attempts last started.
    settled: u64,
    wait: Option<Duration>,
    window: Window,
}

/// How much came in the last stretch of waiting.
#[derive(Debug, Default)]
struct Window {
    waited: Duration,
    bytes: u64,
}

impl Client {
    /// Begins to fetch a blob of `size` bytes from `offset` on. Connects at the first
    /// [`Download::next`].
    pub fn download(&self, source: &Source, digest: Digest, size: u64, offset: u64) -> Download {
        Download {
            client: self.clone(),
            source: source.clone(),
            digest,
            size,
            offset,
            response: None,
            surplus: 0,
            attempt: 1,
            settled: offset,
            wait: None,
            window: Window::default(),
        }
    }

    /// Fetches a small blob whole and verifies it.
    pub async fn blob(
        &self,
        source: &Source,
        digest: Digest,
        size: u64,
        limit: u64,
    ) -> Result<Bytes> {
        if size > limit {
            return Err(Error::TooLarge {
                what: "blob",
                limit,
            });
        }
        let mut download = self.download(source, digest, size, 0);
        let mut bytes = bytes::BytesMut::new();
        while let Some(piece) = download.next().await? {
            if let Piece::Bytes(piece) = piece {
                bytes.extend_from_slice(&piece);
            }
        }
        let actual = Digest::of(&bytes);
        if actual != digest {
            return Err(Error::DigestMismatch {
                expected: digest,
                actual,
            });
        }
        Ok(bytes.freeze())
    }
}

impl Download {
    /// Returns how many bytes came, those before the start included.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Waits for the next bytes; none when all came.
    ///
    /// Safe to drop and call again, but for bytes that are on their way.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        if let Some(wait) = self.wait.take() {
            tokio::time::sleep(wait).await;
        }
        loop {
            if self.offset == self.size && (self.size > 0 || self.response.is_some()) {
                return self.end().await.map(|()| None);
            }
            match self.step().await {
                Ok(Some(bytes)) => return Ok(Some(Piece::Bytes(bytes))),
                Ok(None) => {}
                Err(failure) => {
                    return self.broken(failure).map(|wait| Some(Piece::Retrying(wait)));
                }
            }
        }
    }

    /// Decides whether to go on after a failure, and when.
    fn broken(&mut self, failure: Failure) -> Result<Duration> {
        self.response = None;
        self.window = Window::default();
        if self.offset - self.settled >= REAL_PROGRESS {
            self.settled = self.offset;
            self.attempt = 1;
        }
        let most = if self.source.is_mirror { 2 } else { u32::MAX };
        if self.attempt >= most || !failure.may_pass(self.attempt, &self.client.0.config) {
            self.client.note_failure(&self.source, &failure.error);
            return Err(failure.error);
        }
        tracing::debug!(error = %failure.error, digest = %self.digest, offset = self.offset, "download broke");
        let wait = failure
            .wait
            .unwrap_or_else(|| self.client.backoff(self.attempt));
        self.attempt += 1;
        self.wait = Some(wait);
        Ok(wait)
    }

    /// Connects or takes what came. None means to call again.
    async fn step(&mut self) -> std::result::Result<Option<Bytes>, Failure> {
        let Some(response) = &mut self.response else {
            self.connect().await?;
            return Ok(None);
        };
        let start = Instant::now();
        let chunk = response.chunk().await;
        let url = response.url().clone();
        let waited = start.elapsed();
        let chunk = chunk.map_err(|e| self.client.transport_error(&Method::GET, &url, &e))?;
        let Some(mut chunk) = chunk else {
            // A clean end before all bytes came is a broken connection all the same.
            return Err(self.failure("unexpected EOF").into());
        };
        if self.surplus > 0 {
            let old = usize::try_from(self.surplus)
                .unwrap_or(usize::MAX)
                .min(chunk.len());
            self.surplus -= old as u64;
            chunk = chunk.split_off(old);
            if chunk.is_empty() {
                return Ok(None);
            }
        }
        let left = self.size - self.offset;
        if chunk.len() as u64 > left {
            return Err(self.too_long().into());
        }
        self.pace(waited, chunk.len() as u64)?;
        self.offset += chunk.len() as u64;
        Ok(Some(chunk))
    }

    /// Gives up a connection that only trickles. Only time spent waiting counts: the taker may
    /// be slow too.
    fn pace(&mut self, waited: Duration, bytes: u64) -> Result<()> {
        self.window.waited += waited;
        self.window.bytes += bytes;
        let config = &self.client.0.config;
        if self.window.waited < config.stall_timeout {
            return Ok(());
        }
        let least = u128::from(config.slowest) * config.stall_timeout.as_millis() / 1000;
        if u128::from(self.window.bytes) < least {
            return Err(self.failure("the registry sends too slowly"));
        }
        self.window = Window::default();
        Ok(())
    }

    async fn connect(&mut self) -> std::result::Result<(), Failure> {
        let mut headers = HeaderMap::new();
        if self.offset > 0 {
            let range = format!("bytes={}-", self.offset);
            headers.insert(
                RANGE,
                HeaderValue::from_str(&range).expect("digits are a header value"),
            );
        }
        let response = self
            .client
            .ask(&Ask {
                headers,
                ..Ask::new(&self.source, Method::GET, format!("blobs/{}", self.digest))
            })
            .await?;
        match response.status() {
            StatusCode::OK => {
                if response.content_length().is_some_and(|n| n > self.size) {
                    return Err(self.too_long().into());
                }
                self.surplus = self.offset;
            }
            StatusCode::PARTIAL_CONTENT if self.offset > 0 => {
                self.check_range(&response)?;
                self.surplus = 0;
            }
            _ => return Err(refusal(&self.client, &self.source, response).await),
        }
        self.response = Some(response);
        Ok(())
    }

    /// The registry must give the bytes that were asked for, of a blob of the right length.
    fn check_range(&self, response: &Response) -> Result<()> {
        let header = response
            .headers()
            .get(CONTENT_RANGE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let range = || {
            let (range, total) = header.strip_prefix("bytes ")?.split_once('/')?;
            let start: u64 = range.split_once('-')?.0.trim().parse().ok()?;
            Some((start, total.trim().parse::<u64>().ok()))
        };
        match range() {
            Some((start, None)) if start == self.offset => Ok(()),
            Some((start, Some(total))) if start == self.offset && total == self.size => Ok(()),
            _ => Err(Error::Protocol(format!(
                "asked for bytes from {} of {}, got {:?}",
                self.offset,
                self.size,
                crate::client::printable(header)
            ))),
        }
    }

    /// All bytes came; anything more makes the blob another one.
    async fn end(&mut self) -> Result<()> {
        let Some(response) = self.response.take() else {
            return Ok(());
        };
        match read_bounded(&self.client, response, "blob", 0).await {
            Err(Error::TooLarge { .. }) => Err(self.too_long()),
            // The bytes are all there; how the connection ends does not matter any more.
            _ => Ok(()),
        }
    }

    fn too_long(&self) -> Error {
        Error::TooLong {
            digest: self.digest,
            size: self.size,
        }
    }

    fn failure(&self, reason: &str) -> Error {
        Error::Transport {
            method: "Get",
            url: format!(
                "{}/v2/{}/blobs/{}",
                self.source.registry, self.source.repository, self.digest
            ),
            reason: reason.to_owned(),
            connected: true,
        }
    }
}
