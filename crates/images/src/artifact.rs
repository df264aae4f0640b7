//! Documents with layers that are no images, such as caches of builds: to registries and from them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use sampan_oci::digest::{DiffId, Digest};
use sampan_oci::media_type::Compression;
use sampan_oci::{Descriptor, Document, Manifest, MediaType, Reference};
use sampan_registry_client::{Access, Content, Credentials, Source, Target};

use crate::fetch::Fetch;
use crate::image::Image;
use crate::layer_push::LayerPush;
use crate::progress::ProgressSink;
use crate::store::{Buffers, ImageStore};
use crate::take::HeldLayer;
use crate::{Error, Result};

/// The largest document of an artifact that is read, in bytes.
const MAX_DOCUMENT: u64 = 16 << 20;

/// A document in bytes, with its type.
#[derive(Clone, Debug)]
pub struct ArtifactDocument {
    /// What it is.
    pub media_type: MediaType,
    /// It.
    pub bytes: Vec<u8>,
}

/// What a registry has under a name that need not be an image.
#[derive(Clone, Debug)]
pub struct RemoteArtifact {
    source: Source,
    /// What its manifest, or its index, names beside its configuration.
    pub parts: Vec<Descriptor>,
    /// Its configuration, unless it is an index.
    pub config: Option<ArtifactDocument>,
}

impl ImageStore {
    /// Pushes layers, packed, with the documents that `describe` makes of them: the configuration
    /// first, then more, which stand behind the layers in the manifest. What the registry has is
    /// not sent. Answers what describes the manifest.
    pub async fn push_artifact(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        layers: &[HeldLayer],
        describe: impl FnOnce(&[Descriptor]) -> Vec<ArtifactDocument>,
    ) -> Result<Descriptor> {
        let _buffers = Buffers;
        let reference = reference.clone().or_latest();
        let Some(tag) = reference.tag().filter(|_| reference.digest().is_none()) else {
            return Err(Error::Invalid("cannot push a digest reference".into()));
        };
        let client = &self.0.registry;
        let source = client.origin(&reference, credentials);
        let source = source.with_access(Access::Push);
        let (progress, _news) = ProgressSink::channel();
        let image = Arc::new(Image::of_layers(layers.iter().map(HeldLayer::diff_id)));
        let pushes: Vec<LayerPush> = layers
            .iter()
            .enumerate()
            .map(|(layer, held)| LayerPush {
                store: self.clone(),
                client: client.clone(),
                source: source.clone(),
                image: image.clone(),
                layer,
                wanted: self.blob_of(&held.diff_id()),
                compression: Compression::Gzip,
                progress: progress.clone(),
            })
            .collect();
        let mut packed: Vec<Descriptor> = stream::iter(pushes)
            .map(LayerPush::run)
            .buffered(self.0.options.uploads.max(1))
            .try_collect()
            .await?;
        for layer in &mut packed {
            let media_type = match layer.media_type.layer_compression() {
                Some(Compression::None) => MediaType::OciLayer,
                Some(Compression::Zstd) => MediaType::OciLayerZstd,
                _ => MediaType::OciLayerGzip,
            };
            *layer = Descriptor::new(media_type, layer.digest, layer.size);
        }
        let documents = describe(&packed);
        let mut described = Vec::new();
        for document in documents {
            let descriptor = Descriptor::of(document.media_type, &document.bytes);
            if !client.blob_exists(&source, &descriptor.digest).await? {
                let content = Content::Bytes(document.bytes.into());
                let sent = Arc::new(AtomicU64::new(0));
                client
                    .upload(&source, &descriptor.digest, &content, None, &sent)
                    .await?;
            }
            described.push(descriptor);
        }
        let mut described = described.into_iter();
        let manifest = Manifest {
            schema_version: 2,
            media_type: MediaType::OciManifest,
            artifact_type: None,
            config: described
                .next()
                .ok_or_else(|| Error::Invalid("an artifact needs a configuration".into()))?,
            layers: packed.into_iter().chain(described).collect(),
            annotations: BTreeMap::new(),
        };
        let bytes = serde_json::to_vec(&manifest).map_err(|source| Error::InvalidImage {
            image: reference.familiar(),
            reason: format!("its manifest cannot be written: {source}"),
        })?;
        let bytes = Bytes::from(bytes);
        client
            .put_manifest(&source, Some(tag), &manifest.media_type, &bytes)
            .await?;
        Ok(Descriptor::of(manifest.media_type, &bytes))
    }

    /// Asks a registry what it has under a name, and for the configuration of that. Of an index of
    /// images it is the one for this machine.
    pub async fn remote_artifact(
        &self,
        reference: &Reference,
        credentials: &Credentials,
    ) -> Result<RemoteArtifact> {
        let reference = reference.clone().or_latest();
        let client = &self.0.registry;
        let source = client.origin(&reference, credentials);
        let mut target = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => Target::Digest(digest),
            (None, tag) => Target::Tag(tag.unwrap_or("latest")),
        };
        let mut chosen: Digest;
        // An index in an index is nothing that builders make.
        for _ in 0..2 {
            let fetched = client.manifest(&source, target).await?;
            let document = Document::parse(&fetched.bytes, &fetched.media_type);
            let document = document.map_err(|source| Error::Manifest {
                image: reference.familiar(),
                source,
            })?;
            let index = match document {
                Document::Manifest(manifest) => {
                    let config = &manifest.config;
                    let bytes = client
                        .blob(&source, config.digest, config.size, MAX_DOCUMENT)
                        .await?;
                    return Ok(RemoteArtifact {
                        source,
                        config: Some(ArtifactDocument {
                            media_type: config.media_type.clone(),
                            bytes: bytes.to_vec(),
                        }),
                        parts: manifest.layers,
                    });
                }
                Document::Index(index) => index,
            };
            match index.select(&self.0.options.platform) {
                Some(image) if image.media_type.is_manifest() => chosen = image.digest,
                _ => {
                    return Ok(RemoteArtifact {
                        source,
                        config: None,
                        parts: index.manifests,
                    });
                }
            }
            target = Target::Digest(&chosen);
        }
        Err(Error::InvalidImage {
            image: reference.familiar(),
            reason: "its indexes are nested too deeply".into(),
        })
    }

    /// Fetches one of the documents of an artifact.
    pub async fn artifact_document(
        &self,
        artifact: &RemoteArtifact,
        part: &Descriptor,
    ) -> Result<Vec<u8>> {
        let blob = self
            .0
            .registry
            .blob(&artifact.source, part.digest, part.size, MAX_DOCUMENT);
        Ok(blob.await?.to_vec())
    }

    /// Fetches a layer of an artifact, which must unpack to `diff_id`.
    pub async fn artifact_layer(
        &self,
        artifact: &RemoteArtifact,
        layer: &Descriptor,
        diff_id: &DiffId,
    ) -> Result<HeldLayer> {
        let _buffers = Buffers;
        let _pin = self.0.pin(*diff_id);
        if self.0.layers.get(diff_id).is_none() {
            let (progress, _news) = ProgressSink::channel();
            let fetch = Fetch {
                store: self.clone(),
                client: self.0.registry.clone(),
                sources: vec![artifact.source.clone()],
                layer: layer.clone(),
                diff_id: *diff_id,
                progress,
            };
            fetch.run().await?;
        }
        self.hold_layer(diff_id).ok_or(Error::Io {
            action: "keep layer",
            source: std::io::ErrorKind::Interrupted.into(),
        })
    }
}
