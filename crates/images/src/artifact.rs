//! Documents with layers that are no images, such as caches of builds: to registries and from them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::{Buf, Bytes};
use futures_util::{StreamExt, TryStreamExt, stream};
use sampan_fs::Sync;
use sampan_layers::Ingest;
use sampan_oci::digest::{DiffId, Digest};
use sampan_oci::media_type::Compression;
use sampan_oci::{Descriptor, Document, Manifest, MediaType, Reference};
use sampan_registry_client::{Access, Content, Credentials, Source, Target};

use crate::fetch::Fetch;
use crate::image::Image;
use crate::layer_push::{LayerPush, local, pack_layer};
use crate::progress::ProgressSink;
use crate::store::{Buffers, ImageStore};
use crate::take::HeldLayer;
use crate::unpack::{Unpack, check_space};
use crate::{Error, Result};

/// The largest document of an artifact that is read, in bytes.
pub const MAX_DOCUMENT: u64 = 16 << 20;
/// The file system is asked for its free space each time this much was taken.
const SPACE_CHECK: u64 = 64 << 20;
/// Bytes read at once.
const BUFFER: usize = 256 << 10;

/// A document in bytes, with its type.
#[derive(Clone, Debug)]
pub struct ArtifactDocument {
    /// What it is.
    pub media_type: MediaType,
    /// It.
    pub bytes: Vec<u8>,
}

/// How the layers of an artifact are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Those that are not packed yet.
    pub compression: Compression,
    /// Those, too, that are packed in another way.
    pub force: bool,
}

impl Default for Packing {
    fn default() -> Self {
        Self {
            compression: Compression::Gzip,
            force: false,
        }
    }
}

impl Packing {
    /// The blob to take for a layer, if it is packed as is wanted.
    fn blob_of(self, store: &ImageStore, layer: &HeldLayer) -> Option<Descriptor> {
        let blob = store.blob_of(&layer.diff_id())?;
        let packed = blob.media_type.layer_compression();
        (!self.force || packed == Some(self.compression)).then_some(blob)
    }
}

/// A packed layer, and its bytes.
#[derive(Clone, Debug)]
pub struct PackedLayer {
    /// What describes it.
    pub descriptor: Descriptor,
    content: Content,
}

impl PackedLayer {
    /// Reads it from its beginning.
    pub fn open(&self) -> Box<dyn Read + Send> {
        match &self.content {
            Content::Bytes(bytes) => Box::new(bytes.clone().reader()),
            Content::File(file, _) => Box::new(FromStart {
                file: Arc::clone(file),
                offset: 0,
            }),
        }
    }
}

/// Reads a file that others read, too.
struct FromStart {
    file: Arc<File>,
    offset: u64,
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// The documents of an artifact, and its manifest.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The configuration, then more.
    pub documents: Vec<(Descriptor, Bytes)>,
    /// What names all of it.
    pub manifest: (Descriptor, Bytes),
}

impl Artifact {
    /// Makes one of packed layers and documents: the configuration first, then more, which stand
    /// behind the layers in the manifest.
    pub fn new(packed: &[Descriptor], documents: Vec<ArtifactDocument>) -> Result<Self> {
        let describe = |document: ArtifactDocument| {
            let descriptor = Descriptor::of(document.media_type, &document.bytes);
            (descriptor, Bytes::from(document.bytes))
        };
        let documents: Vec<_> = documents.into_iter().map(describe).collect();
        let mut described = documents.iter().map(|(descriptor, _)| descriptor.clone());
        let manifest = Manifest {
            schema_version: 2,
            media_type: MediaType::OciManifest,
            artifact_type: None,
            config: described
                .next()
                .ok_or_else(|| Error::Invalid("an artifact needs a configuration".into()))?,
            layers: packed.iter().cloned().chain(described).collect(),
            annotations: BTreeMap::new(),
        };
        let bytes = serde_json::to_vec(&manifest).map_err(|source| Error::Io {
            action: "write a manifest",
            source: source.into(),
        })?;
        let bytes = Bytes::from(bytes);
        let described = Descriptor::of(manifest.media_type, &bytes);
        Ok(Self {
            documents,
            manifest: (described, bytes),
        })
    }
}

/// The descriptor of a layer in an OCI manifest.
fn oci_layer(blob: &Descriptor) -> Descriptor {
    let media_type = match blob.media_type.layer_compression() {
        Some(Compression::None) => MediaType::OciLayer,
        Some(Compression::Zstd) => MediaType::OciLayerZstd,
        _ => MediaType::OciLayerGzip,
    };
    Descriptor::new(media_type, blob.digest, blob.size)
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
        packing: Packing,
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
                wanted: packing.blob_of(self, held),
                compression: packing.compression,
                progress: progress.clone(),
            })
            .collect();
        let mut packed: Vec<Descriptor> = stream::iter(pushes)
            .map(LayerPush::run)
            .buffered(self.0.options.uploads.max(1))
            .try_collect()
            .await?;
        for layer in &mut packed {
            *layer = oci_layer(layer);
        }
        let artifact = Artifact::new(&packed, describe(&packed))?;
        for (descriptor, bytes) in artifact.documents {
            if !client.blob_exists(&source, &descriptor.digest).await? {
                let content = Content::Bytes(bytes);
                let sent = Arc::new(AtomicU64::new(0));
                client
                    .upload(&source, &descriptor.digest, &content, None, &sent)
                    .await?;
            }
        }
        let (manifest, bytes) = artifact.manifest;
        client
            .put_manifest(&source, Some(tag), &manifest.media_type, &bytes)
            .await?;
        Ok(manifest)
    }

    /// Packs a layer as artifacts have them, unless it is packed. Blocks.
    pub fn packed_layer(&self, layer: &HeldLayer, packing: Packing) -> Result<PackedLayer> {
        let known = match packing.blob_of(self, layer) {
            Some(blob) => local(self, &blob)?.map(|content| (blob, content)),
            None => None,
        };
        let (blob, content) = match known {
            Some(known) => known,
            None => pack_layer(self, &layer.diff_id(), packing.compression, |_, _| ())?,
        };
        Ok(PackedLayer {
            descriptor: oci_layer(&blob),
            content,
        })
    }

    /// Takes a packed layer, which must be the blob that `layer` describes and unpack to
    /// `diff_id`. Blocks.
    pub fn take_packed_layer(
        &self,
        reader: impl Read,
        layer: &Descriptor,
        diff_id: &DiffId,
    ) -> Result<HeldLayer> {
        let _buffers = Buffers;
        let _pin = self.0.pin(*diff_id);
        if self.0.layers.get(diff_id).is_none() {
            let mut writer = self.0.content.writer()?;
            // One byte more shows that there is too much.
            let mut reader = reader.take(layer.size.saturating_add(1));
            loop {
                check_space(&self.0.root, &self.0.options.limits)?;
                let mut part = reader.by_ref().take(SPACE_CHECK);
                let copied = io::copy(&mut part, &mut writer);
                if copied.map_err(Error::io("read layer"))? == 0 {
                    break;
                }
            }
            writer.commit(Some(&layer.digest), Some(layer.size), Sync::Volatile)?;
            let blob = self.0.content.open_blob(&layer.digest)?;
            let unpack = Unpack {
                layers: &self.0.layers,
                root: &self.0.root,
                limits: &self.0.options.limits,
                layer: layer.digest,
                commit: Ingest::commit_unsynced,
            };
            let blob = BufReader::with_capacity(BUFFER, blob);
            unpack.run(blob, &|| layer.size, Some(diff_id), || Ok(()))?;
        }
        self.hold_layer(diff_id).ok_or(Error::Io {
            action: "keep layer",
            source: io::ErrorKind::Interrupted.into(),
        })
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
            source: io::ErrorKind::Interrupted.into(),
        })
    }
}
