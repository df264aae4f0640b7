//! One layer of an image to a registry: found there, mounted, sent as it came, or packed and sent.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sampan_fs::Sync;
use sampan_oci::digest::{DiffId, Digest};
use sampan_oci::media_type::Compression;
use sampan_oci::{Descriptor, MediaType, Reference};
use sampan_registry_client::{Client, Content, Credentials, Mounted, Piece, Session, Source};

use crate::image::Image;
use crate::progress::{LayerStatus, ProgressSink};
use crate::pull::blocking;
use crate::store::ImageStore;
use crate::{Error, Result};

/// News of a layer at most this often.
const REPORT: Duration = Duration::from_millis(100);
/// Repositories from which a mount is tried.
const MOUNTS: usize = 3;

pub(crate) struct LayerPush {
    pub(crate) store: ImageStore,
    pub(crate) client: Client,
    pub(crate) source: Source,
    pub(crate) image: Arc<Image>,
    pub(crate) layer: usize,
    /// The blob to send, if it can be had.
    pub(crate) wanted: Option<Descriptor>,
    /// How to pack the layer where there is none.
    pub(crate) compression: Compression,
    pub(crate) progress: ProgressSink,
}

impl LayerPush {
    /// Returns what the registry has in the end.
    pub(crate) async fn run(self) -> Result<Descriptor> {
        let diff_id = self.diff_id();
        let id = diff_id.0.short();
        // An image may have a layer twice, and two tags of an image most of them.
        let place = format!(
            "{}/{} {diff_id}",
            self.source.registry, self.source.repository
        );
        let _turn = self
            .store
            .0
            .sending
            .enter(&Digest::of(place.as_bytes()))
            .await;
        let mut session = None;
        if let Some(blob) = &self.wanted {
            if self.is_there(blob, &id, &mut session).await? {
                return Ok(blob.clone());
            }
            if let Some(content) = self.content_of(blob).await? {
                match self.send(blob, &content, session.take(), &id).await {
                    Ok(()) => return Ok(blob.clone()),
                    // The cache is not synced, so that a power cut may have spoilt it.
                    Err(error) if self.is_spoilt(blob, &error).await => {
                        tracing::warn!(digest = %blob.digest, "a blob of the cache was damaged");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        let (blob, content) = self.pack(&id).await?;
        if self.is_there(&blob, &id, &mut session).await? {
            return Ok(blob);
        }
        self.send(&blob, &content, session, &id).await?;
        Ok(blob)
    }

    fn diff_id(&self) -> DiffId {
        self.image.layers[self.layer].diff_id
    }

    /// Whether the registry has the blob, or takes it from another of its repositories.
    async fn is_there(
        &self,
        blob: &Descriptor,
        id: &str,
        session: &mut Option<Session>,
    ) -> Result<bool> {
        if self.client.blob_exists(&self.source, &blob.digest).await? {
            self.progress.layer(id, LayerStatus::LayerExists);
            return Ok(true);
        }
        let digest = &blob.digest;
        let places = places(&self.store, digest);
        let from = mount_from(&self.client, &self.source, digest, &places, session);
        if let Some(from) = from.await {
            self.progress.layer(id, LayerStatus::MountedFrom(from));
            return Ok(true);
        }
        Ok(false)
    }

    async fn send(
        &self,
        blob: &Descriptor,
        content: &Content,
        session: Option<Session>,
        id: &str,
    ) -> Result<()> {
        let sent = Arc::new(AtomicU64::new(0));
        let total = blob.size;
        let pushing = |current| LayerStatus::Pushing { current, total };
        self.progress.layer(id, pushing(0));
        let upload = self
            .client
            .upload(&self.source, &blob.digest, content, session, &sent);
        let mut upload = std::pin::pin!(upload);
        let mut last = 0;
        loop {
            tokio::select! {
                result = &mut upload => {
                    result?;
                    break;
                }
                () = tokio::time::sleep(REPORT) => {}
            }
            let current = sent.load(Ordering::Relaxed);
            if current != last {
                last = current;
                self.progress.layer(id, pushing(current));
            }
        }
        self.progress.layer(id, pushing(total));
        self.progress.layer(id, LayerStatus::Pushed);
        Ok(())
    }

    /// Whether a registry refused the blob because what is here is not what its digest says.
    async fn is_spoilt(&self, blob: &Descriptor, error: &Error) -> bool {
        if !matches!(
            error,
            Error::Registry(sampan_registry_client::Error::Api { .. })
        ) {
            return false;
        }
        let (store, digest) = (self.store.clone(), blob.digest);
        let verified = blocking(move || Ok(store.0.content.verify(&digest)?)).await;
        verified.is_err()
    }

    /// Finds the bytes of a blob here, or at a registry that has them.
    async fn content_of(&self, blob: &Descriptor) -> Result<Option<Content>> {
        if let Some(content) = self.local(blob).await? {
            return Ok(Some(content));
        }
        for place in places(&self.store, &blob.digest) {
            let source = other_place(&self.client, &self.source, &place);
            match self.fetch(&source, blob).await {
                Ok(()) => return self.local(blob).await,
                Err(error) => {
                    tracing::debug!(%error, digest = %blob.digest, from = %place, "cannot fetch a blob again");
                }
            }
        }
        Ok(None)
    }

    async fn local(&self, blob: &Descriptor) -> Result<Option<Content>> {
        let (store, blob) = (self.store.clone(), blob.clone());
        blocking(move || local(&store, &blob)).await
    }

    async fn fetch(&self, source: &Source, blob: &Descriptor) -> Result<()> {
        let _turn = self.store.0.under_way.enter(&blob.digest).await;
        let (store, digest, size) = (self.store.clone(), blob.digest, blob.size);
        if store.0.content.get(&digest).is_some() {
            return Ok(());
        }
        let mut writer = blocking(move || {
            let mut writer = store.0.content.resume(&digest)?;
            if writer.written() > size {
                writer.restart()?;
            }
            Ok(writer)
        })
        .await?;
        let mut download = self.client.download(source, digest, size, writer.written());
        while let Some(piece) = download.next().await? {
            if let Piece::Bytes(bytes) = piece {
                writer = blocking(move || {
                    writer.write_all(&bytes).map_err(Error::io("keep layer"))?;
                    Ok(writer)
                })
                .await?;
            }
        }
        blocking(move || {
            writer.commit(Some(&digest), Some(size), Sync::Volatile)?;
            Ok(())
        })
        .await
    }

    /// Packs the layer, keeps the blob and notes it, so that the next push sends the same.
    async fn pack(&self, id: &str) -> Result<(Descriptor, Content)> {
        let _alone = self
            .store
            .0
            .packing
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let (store, diff_id, kind) = (self.store.clone(), self.diff_id(), self.compression);
        let (image, progress, id) = (self.image.id, self.progress.clone(), id.to_owned());
        blocking(move || {
            let mut reported = Instant::now();
            let (blob, content) = pack_layer(&store, &diff_id, kind, |current, total| {
                if reported.elapsed() >= REPORT {
                    reported = Instant::now();
                    progress.layer(&id, LayerStatus::Packing { current, total });
                }
            })?;
            store.note(&image, &[(diff_id, blob.clone())], None, None)?;
            Ok((blob, content))
        })
        .await
    }
}

/// Packs a layer and keeps the blob. `report` hears of the bytes that were packed, and of all.
/// Blocks.
pub(crate) fn pack_layer(
    store: &ImageStore,
    diff_id: &DiffId,
    kind: Compression,
    mut report: impl FnMut(u64, u64) + Send,
) -> Result<(Descriptor, Content)> {
    let failed = |source| Error::Layer {
        layer: diff_id.0,
        source,
    };
    let layers = &store.0.layers;
    let total = layers.get(diff_id).map_or(0, |layer| layer.tar_size);
    let tar = layers.open_tar(diff_id).map_err(failed)?;
    let mut writer = store.0.content.writer()?;
    let mut current = 0;
    sampan_archive::pack(kind, tar, &mut writer, processors(), |read| {
        current += read;
        report(current, total);
    })
    .map_err(Error::io("pack layer"))?;
    // What a power cut spoils packs to the same again.
    let blob = writer.commit(None, None, Sync::Volatile)?;
    let media_type = match kind {
        Compression::None => MediaType::OciLayer,
        Compression::Gzip => MediaType::DockerLayerGzip,
        Compression::Zstd => MediaType::OciLayerZstd,
    };
    let blob = Descriptor::new(media_type, blob.digest, blob.size);
    // Opened at once: the collector may want its space.
    let file = store.0.content.open_blob(&blob.digest)?;
    let content = Content::File(Arc::new(file), blob.size);
    Ok((blob, content))
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Finds the bytes of a blob here: in the cache, or the layer's own tar.
pub(crate) fn local(store: &ImageStore, blob: &Descriptor) -> Result<Option<Content>> {
    let content = &store.0.content;
    if content
        .get(&blob.digest)
        .is_some_and(|found| found.size == blob.size)
    {
        let file = content.open_blob(&blob.digest)?;
        return Ok(Some(Content::File(Arc::new(file), blob.size)));
    }
    let tar = DiffId(blob.digest);
    if let Some(layer) = store.0.layers.get(&tar)
        && layer.tar_size == blob.size
        && let Ok(file) = store.0.layers.open_tar(&tar)
    {
        return Ok(Some(Content::File(Arc::new(file), blob.size)));
    }
    Ok(None)
}

/// Lists the repositories that are known to hold a blob: those by whose digests an image that has
/// it is named.
pub(crate) fn places(store: &ImageStore, digest: &Digest) -> Vec<Reference> {
    let mut places: Vec<Reference> = Vec::new();
    for image in store.0.view().images.values() {
        if !image.blobs().contains(digest) {
            continue;
        }
        for name in &image.digests {
            if !places.iter().any(|known| known.same_repository(name)) {
                places.push(name.clone());
            }
        }
    }
    places
}

/// Has the registry take a blob from another of its repositories; returns that one's name. An
/// upload that the registry opened instead is left in `session`.
pub(crate) async fn mount_from(
    client: &Client,
    source: &Source,
    digest: &Digest,
    places: &[Reference],
    session: &mut Option<Session>,
) -> Option<String> {
    let candidates = places
        .iter()
        .map(|place| other_place(client, source, place))
        .filter(|place| place.registry == source.registry && place.repository != source.repository)
        .take(MOUNTS);
    for place in candidates {
        match client.mount(source, digest, &place.repository).await {
            Ok(Mounted::Yes) => return Some(place.repository),
            Ok(Mounted::No(opened)) => *session = Some(opened),
            // Only a way to save sending it.
            Err(error) => tracing::debug!(%error, from = place.name, "cannot mount a blob"),
        }
    }
    None
}

/// Where another name leads, with the credentials of a push if they are meant for its registry.
pub(crate) fn other_place(client: &Client, source: &Source, place: &Reference) -> Source {
    let other = client.origin(place, &Credentials::default());
    match other.registry == source.registry {
        true => Source {
            credentials: source.credentials.clone(),
            ..other
        },
        false => other,
    }
}
