//! One layer from the registry into the store, in one pass.
//!
//! The downloading task feeds two threads through bounded queues: one hashes the bytes as they
//! came and keeps them, the other unpacks them into the layer store, which hashes what comes out
//! in a thread of its own. The layer is committed only when the bytes as they came were right.

use std::convert::Infallible;
use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use sampan_content::Writer;
use sampan_fs::Sync;
use sampan_layers::{Ingest, Layer};
use sampan_oci::Descriptor;
use sampan_oci::digest::DiffId;
use sampan_registry_client::{Client, Piece, Source};
use sampan_text::with_causes;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio::task::spawn_blocking;

use crate::progress::{LayerStatus, ProgressSink};
use crate::pull::blocking;
use crate::store::ImageStore;
use crate::unpack::Unpack;
use crate::{Error, Result};

/// Pieces that wait for a thread; a piece is what the connection gave at once, at most some
/// hundred KiB.
const QUEUE: usize = 16;
/// Bytes read at once of what an earlier attempt left.
const EXISTING: usize = 256 << 10;
/// News of a layer at most this often.
const REPORT: Duration = Duration::from_millis(100);
/// When a layer does not unpack, this much more is fetched to find out whether its bytes are the
/// right ones: that decides whose fault it is.
const POST_MORTEM: u64 = 64 << 20;

pub(crate) struct Fetch {
    pub(crate) store: ImageStore,
    pub(crate) client: Client,
    /// Where it may be had, the best place first; at least one.
    pub(crate) sources: Vec<Source>,
    pub(crate) layer: Descriptor,
    pub(crate) diff_id: DiffId,
    pub(crate) progress: ProgressSink,
}

/// What the threads are told.
enum Feed {
    Bytes(Bytes),
    /// All bytes came. A queue that closes without it was given up.
    End,
    /// The bytes are no good.
    Discard,
}

/// How the keeping thread ended.
enum Kept {
    /// Digest and length are right.
    Right,
    /// Given up half-way; what came is there for the next attempt.
    Unfinished,
}

impl Fetch {
    pub(crate) async fn run(self) -> Result<()> {
        let id = self.layer.digest.short();
        let mut sources = self.sources.iter().peekable();
        loop {
            let source = sources.next().expect("a layer has a source");
            match self.run_from(&id, source).await {
                Err(error) if sources.peek().is_some() && error.is_the_registrys() => {
                    tracing::warn!(
                        mirror = source.registry,
                        layer = %self.layer.digest,
                        error = with_causes(&error),
                        "a mirror does not have the layer"
                    );
                }
                other => return other,
            }
        }
    }

    /// Fetches the layer from one source.
    async fn run_from(&self, id: &str, source: &Source) -> Result<()> {
        let guard = self.store.0.under_way.enter(&self.layer.digest).await;
        if self.store.0.layers.get(&self.diff_id).is_some() {
            self.progress.layer(id, LayerStatus::PullComplete);
            return Ok(());
        }
        // A beginning of an earlier attempt may be what is wrong; then once more without it.
        if !self.pass(id, source, guard, true).await? {
            let guard = self.store.0.under_way.enter(&self.layer.digest).await;
            self.pass(id, source, guard, false).await?;
        }
        Ok(())
    }

    /// Fetches the layer, from where an earlier attempt stopped. False when the bytes are wrong
    /// and some of them were from before.
    async fn pass(
        &self,
        id: &str,
        source: &Source,
        guard: OwnedMutexGuard<()>,
        resume: bool,
    ) -> Result<bool> {
        let (store, layer) = (self.store.clone(), self.layer.clone());
        let writer = blocking(move || {
            let mut writer = store.0.content.resume(&layer.digest)?;
            if !resume || writer.written() > layer.size {
                writer.restart()?;
            }
            Ok(writer)
        })
        .await?;
        let offset = writer.written();
        let existing = writer.existing()?;
        let (keep, kept_feed) = mpsc::channel(QUEUE);
        let (unpack, unpack_feed) = mpsc::channel(QUEUE);
        let (verdict, judged) = oneshot::channel();
        let taken = Arc::new(AtomicU64::new(0));
        // Both threads run from here on, whether they are waited for or not.
        // Nobody else may begin with the layer before both are through.
        let guard = Arc::new(guard);
        let (descriptor, held) = (self.layer.clone(), guard.clone());
        let keeper = spawn_blocking(move || {
            let result = keep_bytes(writer, kept_feed, &descriptor);
            drop(held);
            let right = matches!(result, Ok(Kept::Right));
            // The other thread may have failed already.
            let _ = verdict.send(right);
            result
        });
        let unpacker = {
            let reader = Queue {
                existing: (offset > 0).then(|| Box::new(existing) as Box<dyn Read + Send>),
                feed: unpack_feed,
                current: Bytes::new(),
                ended: false,
                taken: taken.clone(),
            };
            let (store, layer, diff_id) = (self.store.clone(), self.layer.clone(), self.diff_id);
            spawn_blocking(move || {
                let result = unpack_layer(&store, &layer, &diff_id, reader, judged);
                drop(guard);
                result
            })
        };
        let downloaded = self.feed((id, source), offset, &taken, keep, unpack).await;
        let joined = async { (join(keeper).await, join(unpacker).await) };
        let (kept, unpacked) = tokio::select! {
            both = joined => both,
            never = self.watch(id, &taken) => match never {},
        };
        downloaded?;
        match (kept, unpacked) {
            (Err(Error::Content(error)), _)
                if offset > 0 && error.kind() == sampan_content::ErrorKind::Corrupt =>
            {
                Ok(false)
            }
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(_), Ok(_)) => {
                self.progress.layer(id, LayerStatus::PullComplete);
                Ok(true)
            }
        }
    }

    /// Downloads and hands over until all bytes came or nobody takes them.
    async fn feed(
        &self,
        (id, source): (&str, &Source),
        offset: u64,
        taken: &AtomicU64,
        keep: mpsc::Sender<Feed>,
        unpack: mpsc::Sender<Feed>,
    ) -> Result<()> {
        let size = self.layer.size;
        let mut download = self
            .client
            .download(source, self.layer.digest, size, offset);
        let mut reported = Instant::now();
        let mut unpack = Some(unpack);
        loop {
            match download.next().await? {
                None => break,
                Some(Piece::Retrying(wait)) => self.progress.layer(
                    id,
                    LayerStatus::Retrying {
                        seconds: wait.as_secs().max(1),
                    },
                ),
                Some(Piece::Bytes(bytes)) => {
                    if keep.send(Feed::Bytes(bytes.clone())).await.is_err() {
                        // Its own error says why.
                        return Ok(());
                    }
                    if let Some(sender) = &unpack
                        && sender.send(Feed::Bytes(bytes)).await.is_err()
                    {
                        unpack = None;
                        if size - download.offset() > POST_MORTEM {
                            let _ = keep.send(Feed::Discard).await;
                            return Ok(());
                        }
                    }
                    if reported.elapsed() >= REPORT {
                        reported = Instant::now();
                        self.progress.layer(
                            id,
                            LayerStatus::Downloading {
                                current: download.offset(),
                                total: size,
                            },
                        );
                    }
                }
            }
        }
        self.progress.layer(id, LayerStatus::DownloadComplete);
        self.progress.layer(
            id,
            LayerStatus::Extracting {
                current: taken.load(Ordering::Relaxed),
                total: size,
            },
        );
        let _ = keep.send(Feed::End).await;
        if let Some(sender) = unpack {
            let _ = sender.send(Feed::End).await;
        }
        Ok(())
    }

    /// Tells how far the unpacking is, for as long as it is polled.
    async fn watch(&self, id: &str, taken: &AtomicU64) -> Infallible {
        let mut last = 0;
        loop {
            tokio::time::sleep(REPORT).await;
            let current = taken.load(Ordering::Relaxed);
            if current != last {
                last = current;
                self.progress.layer(
                    id,
                    LayerStatus::Extracting {
                        current,
                        total: self.layer.size,
                    },
                );
            }
        }
    }
}

async fn join<T>(task: tokio::task::JoinHandle<Result<T>>) -> Result<T> {
    match task.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(Error::Io {
            action: "fetch layer",
            source: io::Error::other(error),
        }),
    }
}

/// Writes and hashes the bytes as they came.
fn keep_bytes(
    mut writer: Writer,
    mut feed: mpsc::Receiver<Feed>,
    layer: &Descriptor,
) -> Result<Kept> {
    loop {
        match feed.blocking_recv() {
            Some(Feed::Bytes(bytes)) => {
                io::Write::write_all(&mut writer, &bytes).map_err(Error::io("keep layer"))?;
            }
            Some(Feed::End) => {
                // A cache: what a power cut spoils is fetched again.
                writer.commit(Some(&layer.digest), Some(layer.size), Sync::Volatile)?;
                return Ok(Kept::Right);
            }
            Some(Feed::Discard) => {
                writer.restart()?;
                return Ok(Kept::Unfinished);
            }
            None => return Ok(Kept::Unfinished),
        }
    }
}

fn unpack_layer(
    store: &ImageStore,
    layer: &Descriptor,
    diff_id: &DiffId,
    reader: Queue,
    judged: oneshot::Receiver<bool>,
) -> Result<Layer> {
    let taken = reader.taken.clone();
    let unpack = Unpack {
        layers: &store.0.layers,
        root: &store.0.root,
        limits: &store.0.options.limits,
        layer: layer.digest,
        commit: Ingest::commit,
    };
    unpack.run(
        reader,
        &|| taken.load(Ordering::Relaxed),
        Some(diff_id),
        || match judged.blocking_recv() {
            Ok(true) => Ok(()),
            // The keeping thread says what is wrong.
            _ => Err(given_up()),
        },
    )
}

fn given_up() -> Error {
    Error::Io {
        action: "fetch layer",
        source: io::Error::new(io::ErrorKind::Interrupted, "given up"),
    }
}

/// Reads what is fed, after what was there before.
struct Queue {
    existing: Option<Box<dyn Read + Send>>,
    feed: mpsc::Receiver<Feed>,
    current: Bytes,
    ended: bool,
    taken: Arc<AtomicU64>,
}

impl Queue {
    fn refill(&mut self) -> io::Result<()> {
        if let Some(existing) = &mut self.existing {
            let mut buffer = vec![0; EXISTING];
            let n = existing.read(&mut buffer)?;
            if n > 0 {
                buffer.truncate(n);
                self.current = buffer.into();
                return Ok(());
            }
            self.existing = None;
        }
        while self.current.is_empty() && !self.ended {
            match self.feed.blocking_recv() {
                Some(Feed::Bytes(bytes)) => self.current = bytes,
                Some(Feed::End) => self.ended = true,
                Some(Feed::Discard) | None => {
                    return Err(io::Error::other(given_up()));
                }
            }
        }
        Ok(())
    }
}

impl BufRead for Queue {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.is_empty() {
            self.refill()?;
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount);
        self.taken.fetch_add(amount as u64, Ordering::Relaxed);
    }
}

impl Read for Queue {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.current[..n]);
        self.consume(n);
        Ok(n)
    }
}
