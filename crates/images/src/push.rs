//! `docker push`: an image to a registry, with the digests it came with where they are known.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use sampan_fs::Sync;
use sampan_oci::digest::{DiffId, Digest};
use sampan_oci::manifest::MAX_MANIFEST;
use sampan_oci::media_type::Compression;
use sampan_oci::{Descriptor, Document, Index, Manifest, MediaType, Platform, Reference};
use sampan_registry_client::{Access, Client, Content, Credentials, Source, Target};

use crate::image::{Image, LayerRecord};
use crate::layer_push::{LayerPush, local, mount_from, other_place, places};
use crate::progress::{LayerStatus, Progress, ProgressSink};
use crate::pull::blocking;
use crate::store::{Buffers, ImageStore};
use crate::{Error, Result};

/// How to push.
#[derive(Clone, Debug, Default)]
pub struct PushOptions {
    /// Who pushes.
    pub credentials: Credentials,
    /// Push only the image of this machine, not the index that the name may stand for.
    pub platform: Option<Platform>,
    /// How layers are packed, whatever they came as. Absent keeps what they came as, and packs
    /// the others by gzip.
    pub compression: Option<Compression>,
}

/// A push to one repository.
struct Push<'a> {
    store: &'a ImageStore,
    client: &'a Client,
    source: Source,
    options: &'a PushOptions,
    progress: &'a ProgressSink,
}

/// A manifest or index, byte for byte.
#[derive(Clone, Debug)]
struct Raw {
    descriptor: Descriptor,
    bytes: Bytes,
}

impl Raw {
    fn new(media_type: MediaType, bytes: Vec<u8>) -> Self {
        Self {
            descriptor: Descriptor::of(media_type, &bytes),
            bytes: bytes.into(),
        }
    }
}

impl ImageStore {
    /// Pushes the image that a name means; all tags of the repository when it has no tag.
    ///
    /// Layers go in parallel. What the registry has is not sent, nor what it can take from
    /// another of its repositories. An image whose blobs are known keeps its digests, and so
    /// does one that is pushed again.
    pub async fn push(
        &self,
        reference: &Reference,
        options: &PushOptions,
        progress: &ProgressSink,
    ) -> Result<()> {
        let _buffers = Buffers;
        if reference.digest().is_some() {
            return Err(Error::Invalid("cannot push a digest reference".into()));
        }
        progress.send(Progress::PushRefersTo {
            repository: reference.name(),
        });
        let mut tags: Vec<Reference> = self
            .list()
            .iter()
            .flat_map(|image| image.tags.clone())
            .filter(|tag| tag.same_repository(reference))
            .collect();
        if tags.is_empty() {
            return Err(Error::Invalid(format!(
                "An image does not exist locally with the tag: {}",
                reference.familiar_name()
            )));
        }
        if reference.tag().is_some() {
            tags.retain(|tag| tag.tag() == reference.tag());
            if tags.is_empty() {
                return Err(Error::NotFound(format!(
                    "tag does not exist: {}",
                    reference.familiar()
                )));
            }
        }
        tags.sort_by_cached_key(Reference::familiar);
        let push = Push {
            store: self,
            client: &self.0.registry,
            source: (self.0.registry.origin(reference, &options.credentials))
                .with_access(Access::Push),
            options,
            progress,
        };
        for tag in &tags {
            push.tag(tag).await?;
        }
        Ok(())
    }
}

impl Push<'_> {
    async fn tag(&self, name: &Reference) -> Result<()> {
        let image = self
            .store
            .resolve(name)
            .ok_or_else(|| Error::NotFound(name.familiar()))?;
        if let Some(platform) = &self.options.platform
            && platform.rank(&image.config.platform()).is_none()
        {
            return Err(Error::WrongPlatform {
                image: name.familiar(),
                platform: platform.to_string(),
            });
        }
        let _hold = self.store.hold(&image.id)?;
        let _pins: Vec<_> = image
            .layers
            .iter()
            .map(|layer| self.store.0.pin(layer.diff_id))
            .collect();
        let index = self.index_of(&image).await;
        let manifest = self.image(&image).await?;
        let top = match index {
            Some((raw, index)) if self.whole(&raw, &index, &manifest).await? => raw,
            Some((raw, _)) => {
                self.progress.send(Progress::OnlyManifest {
                    index: Box::new(raw.descriptor),
                    manifest: Box::new(manifest.descriptor.clone()),
                });
                manifest.clone()
            }
            None => manifest.clone(),
        };
        let tag = name.tag().unwrap_or("latest");
        self.client
            .put_manifest(
                &self.source,
                Some(tag),
                &top.descriptor.media_type,
                &top.bytes,
            )
            .await?;
        let digest = top.descriptor.digest;
        self.keep(&image, &manifest, name.with_digest(digest))
            .await?;
        self.progress.send(Progress::Pushed {
            tag: tag.to_owned(),
            digest,
            size: top.descriptor.size,
        });
        Ok(())
    }

    /// Sends everything of an image but its manifest, and returns that.
    async fn image(&self, image: &Arc<Image>) -> Result<Raw> {
        let original = self.original(image).await;
        let compression = self.options.compression.unwrap_or(Compression::Gzip);
        for layer in image.layers.iter().rev() {
            let id = layer.diff_id.0.short();
            self.progress.layer(&id, LayerStatus::Preparing);
        }
        let parallel = self.store.0.options.uploads.max(1);
        for layer in image.layers.iter().rev().skip(parallel) {
            let id = layer.diff_id.0.short();
            self.progress.layer(&id, LayerStatus::Waiting);
        }
        let layers: Vec<LayerPush> = (0..image.layers.len())
            .map(|layer| LayerPush {
                store: self.store.clone(),
                client: self.client.clone(),
                source: self.source.clone(),
                image: image.clone(),
                layer,
                wanted: match &original {
                    Some((_, manifest)) => manifest.layers.get(layer).cloned(),
                    None => self.known_blob(&image.layers[layer].diff_id),
                },
                compression,
                progress: self.progress.clone(),
            })
            .collect();
        let config = image.config_bytes.as_bytes();
        let config_digest = image.id.0;
        let config_content = Content::Bytes(Bytes::copy_from_slice(config));
        let config_push = self.small(config_digest, &config_content);
        // The top layer first, as it is told; the results in the order of the image.
        let layers = stream::iter(layers.into_iter().rev())
            .map(LayerPush::run)
            .buffered(parallel)
            .try_collect::<Vec<Descriptor>>();
        let (mut layers, ()) = tokio::try_join!(layers, config_push)?;
        layers.reverse();
        if let Some((raw, manifest)) = original
            && manifest
                .layers
                .iter()
                .map(|layer| layer.digest)
                .eq(layers.iter().map(|layer| layer.digest))
        {
            return Ok(raw);
        }
        make_manifest(image, layers)
    }

    /// Sends a blob that is in memory, if the registry does not have it.
    async fn small(&self, digest: Digest, content: &Content) -> Result<()> {
        if self.client.blob_exists(&self.source, &digest).await? {
            return Ok(());
        }
        let sent = Arc::new(AtomicU64::new(0));
        self.client
            .upload(&self.source, &digest, content, None, &sent)
            .await?;
        Ok(())
    }

    /// Finds a blob of the wanted kind that is known to unpack to a layer: by default what it came
    /// as somewhere, if that was packed, or what it was packed to before.
    fn known_blob(&self, diff_id: &DiffId) -> Option<Descriptor> {
        let view = self.store.0.view();
        let layers = || {
            let layers = view.images.values().flat_map(|image| image.layers.iter());
            layers.filter(|layer| layer.diff_id == *diff_id)
        };
        let packed_by = |wanted| {
            layers()
                .flat_map(LayerRecord::blobs)
                .find(|blob| blob.media_type.layer_compression() == Some(wanted))
        };
        let as_it_came = || {
            let packed = |blob: &&Descriptor| {
                let compression = blob.media_type.layer_compression();
                compression.is_some_and(|compression| compression != Compression::None)
            };
            layers()
                .filter_map(|layer| layer.blob.as_ref())
                .find(packed)
        };
        match self.options.compression {
            Some(wanted) => packed_by(wanted),
            None => as_it_came().or_else(|| packed_by(Compression::Gzip)),
        }
        .cloned()
    }

    /// Returns the manifest that the image came by, if its bytes can be had.
    async fn original(&self, image: &Image) -> Option<(Raw, Manifest)> {
        if self.options.compression.is_some() {
            return None;
        }
        let descriptor = image.manifest.as_ref()?;
        let raw = self.document(descriptor).await?;
        match Document::parse(&raw.bytes, &descriptor.media_type) {
            Ok(Document::Manifest(manifest))
                if manifest.config.digest == image.id.0
                    && manifest.layers.len() == image.layers.len() =>
            {
                Some((raw, manifest))
            }
            _ => None,
        }
    }

    /// Reads a manifest or index from the cache, or from a registry that is known to have it.
    async fn document(&self, descriptor: &Descriptor) -> Option<Raw> {
        if let Some(raw) = self.cached(descriptor).await {
            return Some(raw);
        }
        self.fetched(descriptor, &places(self.store, &descriptor.digest))
            .await
    }

    async fn cached(&self, descriptor: &Descriptor) -> Option<Raw> {
        let (store, digest) = (self.store.clone(), descriptor.digest);
        let read = blocking(move || Ok(store.0.content.read(&digest, MAX_MANIFEST)?)).await;
        Some(Raw::new(descriptor.media_type.clone(), read.ok()?))
    }

    async fn fetched(&self, descriptor: &Descriptor, places: &[Reference]) -> Option<Raw> {
        let target = Target::Digest(&descriptor.digest);
        for place in places {
            let source = other_place(self.client, &self.source, place);
            if let Ok(fetched) = self.client.manifest(&source, target).await {
                let bytes = fetched.bytes.to_vec();
                return Some(Raw::new(descriptor.media_type.clone(), bytes));
            }
        }
        None
    }

    /// Finds the index that the image was chosen from.
    async fn index_of(&self, image: &Image) -> Option<(Raw, Index)> {
        if self.options.platform.is_some() || self.options.compression.is_some() {
            return None;
        }
        let manifest = image.manifest_digest()?;
        let (store, names) = (self.store.clone(), image.digests.clone());
        let read = blocking(move || {
            for digest in names.iter().filter_map(|name| name.digest()) {
                let Ok(bytes) = store.0.content.read(digest, MAX_MANIFEST) else {
                    continue;
                };
                let document = Document::parse(&bytes, &MediaType::default());
                if let Ok(Document::Index(index)) = document
                    && index.manifests.iter().any(|entry| entry.digest == manifest)
                {
                    return Ok(Some((Raw::new(index.media_type.clone(), bytes), index)));
                }
            }
            Ok(None)
        });
        read.await.ok().flatten()
    }

    /// Brings all manifests of an index to the registry but the index itself. False when one of
    /// them is neither here nor there.
    async fn whole(&self, top: &Raw, index: &Index, sent: &Raw) -> Result<bool> {
        // What is elsewhere at the same registry need not come here.
        let neighbours: Vec<Reference> = places(self.store, &top.descriptor.digest)
            .into_iter()
            .filter(|place| place.registry() == self.source.registry)
            .collect();
        let mut children = Vec::new();
        for entry in &index.manifests {
            let known = entry.digest == sent.descriptor.digest;
            if known
                || self
                    .client
                    .manifest_exists(&self.source, &entry.digest)
                    .await?
            {
                continue;
            }
            let raw = match self.cached(entry).await {
                Some(raw) => Some(raw),
                None => self.fetched(entry, &neighbours).await,
            };
            let Some(raw) = raw else { return Ok(false) };
            match Document::parse(&raw.bytes, &entry.media_type) {
                Ok(Document::Manifest(manifest)) => children.push((raw, manifest)),
                _ => return Ok(false),
            }
        }
        for (raw, manifest) in &children {
            for blob in manifest.layers.iter().chain([&manifest.config]) {
                if !self.blob(blob, &neighbours).await? {
                    return Ok(false);
                }
            }
            self.put_by_digest(raw).await?;
        }
        self.put_by_digest(sent).await?;
        Ok(true)
    }

    async fn put_by_digest(&self, raw: &Raw) -> Result<()> {
        let media_type = &raw.descriptor.media_type;
        self.client
            .put_manifest(&self.source, None, media_type, &raw.bytes)
            .await?;
        Ok(())
    }

    /// Brings a blob of another machine's image to the registry, if that is possible.
    async fn blob(&self, blob: &Descriptor, neighbours: &[Reference]) -> Result<bool> {
        if self.client.blob_exists(&self.source, &blob.digest).await? {
            return Ok(true);
        }
        let mut session = None;
        let mounted = mount_from(
            self.client,
            &self.source,
            &blob.digest,
            neighbours,
            &mut session,
        );
        if mounted.await.is_some() {
            return Ok(true);
        }
        let config = self.store.get(&blob.digest.into());
        let content = match config {
            Some(image) => Some(Content::Bytes(Bytes::copy_from_slice(
                image.config_bytes.as_bytes(),
            ))),
            None => {
                let (store, blob) = (self.store.clone(), blob.clone());
                blocking(move || local(&store, &blob)).await?
            }
        };
        let Some(content) = content else {
            return Ok(false);
        };
        let sent = Arc::new(AtomicU64::new(0));
        self.client
            .upload(&self.source, &blob.digest, &content, session, &sent)
            .await?;
        Ok(true)
    }

    /// Notes what the registry has now.
    async fn keep(&self, image: &Image, manifest: &Raw, name: Reference) -> Result<()> {
        let (store, id, manifest) = (self.store.clone(), image.id, manifest.clone());
        // What was packed on request does not become what the image is.
        let usual = self.options.compression.is_none();
        blocking(move || {
            store.0.content.put(&manifest.bytes, Sync::Volatile)?;
            let manifest = usual.then_some(&manifest.descriptor);
            store.note(&id, &[], manifest, Some(name))
        })
        .await
    }
}

/// Makes a manifest of Docker's kind, or of the OCI's where a part of it is.
fn make_manifest(image: &Image, mut layers: Vec<Descriptor>) -> Result<Raw> {
    let is_oci = |layer: &Descriptor| {
        let packed = layer.media_type.layer_compression();
        packed == Some(Compression::Zstd) || layer.media_type == MediaType::OciLayerGzip
    };
    let oci = layers.iter().any(is_oci);
    for layer in &mut layers {
        let media_type = match (layer.media_type.layer_compression(), oci) {
            (Some(Compression::Zstd), _) => MediaType::OciLayerZstd,
            (Some(Compression::None), true) => MediaType::OciLayer,
            (Some(Compression::None), false) => MediaType::DockerLayer,
            (_, true) => MediaType::OciLayerGzip,
            (_, false) => MediaType::DockerLayerGzip,
        };
        *layer = Descriptor::new(media_type, layer.digest, layer.size);
    }
    let (media_type, config_type) = if oci {
        (MediaType::OciManifest, MediaType::OciConfig)
    } else {
        (MediaType::DockerManifest, MediaType::DockerConfig)
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type.clone(),
        artifact_type: None,
        config: Descriptor::new(config_type, image.id.0, image.config_bytes.len() as u64),
        layers,
        annotations: std::collections::BTreeMap::new(),
    };
    let bytes = serde_json::to_vec(&manifest).map_err(|source| Error::InvalidImage {
        image: image.id.to_string(),
        reason: format!("its manifest cannot be written: {source}"),
    })?;
    Ok(Raw::new(media_type, bytes))
}
