//! An image as it is stored, and as it is asked for.

use std::sync::Arc;

use sampan_oci::config::RootFs;
use sampan_oci::digest::{ChainId, DiffId, Digest, ImageId};
use sampan_oci::media_type::Compression;
use sampan_oci::{Descriptor, ImageConfig, Reference};
use serde::{Deserialize, Serialize};

/// The durable part of an image; everything else follows from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// The configuration, byte for byte: the ID is its digest.
    pub(crate) config: String,
    /// The layers, bottom first.
    pub(crate) layers: Vec<LayerRecord>,
    /// The manifest the image was pulled by, if it was; its bytes may be in the content store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) manifest: Option<Descriptor>,
    /// The image that this one was built on, if it was built here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<ImageId>,
    /// When the image came to this host, RFC 3339.
    #[serde(default)]
    pub(crate) stored: String,
}

/// One layer of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Names the layer in the layer store.
    pub diff_id: DiffId,
    /// Sum of the sizes of its files.
    pub size: u64,
    /// The blob it came as, for a push that keeps digests; the bytes may be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<Descriptor>,
    /// Other blobs that unpack to it, such as what it was packed to for a push.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Descriptor>,
}

impl LayerRecord {
    /// Returns every blob that unpacks to the layer, the one it came as first.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.blob.iter().chain(&self.others)
    }

    /// Notes a blob that unpacks to the layer. A layer that came as none is what it was packed to
    /// by gzip, which all registries and clients know; anything else was somebody's wish.
    pub(crate) fn note(&mut self, blob: &Descriptor) {
        if self.blobs().any(|known| known.digest == blob.digest) {
            return;
        }
        let usual = blob.media_type.layer_compression() == Some(Compression::Gzip);
        match &self.blob {
            None if usual => self.blob = Some(blob.clone()),
            _ => self.others.push(blob.clone()),
        }
    }
}

/// An image. Plain data: a snapshot of the time it was asked for.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of the configuration.
    pub id: ImageId,
    /// The configuration.
    pub config: Arc<ImageConfig>,
    /// The bytes that `id` is the digest of.
    pub config_bytes: Arc<str>,
    /// The layers, bottom first.
    pub layers: Arc<[LayerRecord]>,
    /// Names with a tag, sorted.
    pub tags: Vec<Reference>,
    /// Names with a digest, sorted.
    pub digests: Vec<Reference>,
    /// Sum of the layers' sizes.
    pub size: u64,
    /// The manifest it was pulled by.
    pub manifest: Option<Descriptor>,
    /// The image that this one was built on, if it was built here.
    pub parent: Option<ImageId>,
    /// When the image came to this host, RFC 3339.
    pub stored: String,
}

/// A line of `docker history`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image's ID for the newest line, none for the others.
    pub id: Option<ImageId>,
    /// When, RFC 3339.
    pub created: Option<String>,
    /// By which command.
    pub created_by: String,
    /// Sum of the sizes of the layer's files, 0 for steps that made none.
    pub size: u64,
    /// Anything else.
    pub comment: String,
    /// The image's tags, on the newest line.
    pub tags: Vec<String>,
}

impl Image {
    /// Layers, bottom first, in the form of an image that no store knows.
    pub fn of_layers(diff_ids: impl Iterator<Item = DiffId>) -> Self {
        let diff_ids: Vec<DiffId> = diff_ids.collect();
        let layers = diff_ids.iter().map(|diff_id| LayerRecord {
            diff_id: *diff_id,
            size: 0,
            blob: None,
            others: Vec::new(),
        });
        Self {
            id: ImageId(Digest::of(b"layers of no image")),
            layers: layers.collect(),
            config: Arc::new(ImageConfig {
                rootfs: RootFs {
                    diff_ids,
                    ..RootFs::default()
                },
                ..ImageConfig::default()
            }),
            config_bytes: Arc::from(""),
            tags: Vec::new(),
            digests: Vec::new(),
            size: 0,
            manifest: None,
            parent: None,
            stored: String::new(),
        }
    }

    /// Returns the layers' diff IDs, bottom first.
    pub fn diff_ids(&self) -> Vec<DiffId> {
        self.layers.iter().map(|layer| layer.diff_id).collect()
    }

    /// Returns the names with a tag as people write them, as in `busybox:latest`.
    pub fn repo_tags(&self) -> Vec<String> {
        self.tags.iter().map(Reference::familiar).collect()
    }

    /// Returns the names with a digest as people write them, as in `busybox@sha256:...`.
    pub fn repo_digests(&self) -> Vec<String> {
        self.digests.iter().map(Reference::familiar).collect()
    }

    /// Whether the image has no name with a tag.
    pub fn is_dangling(&self) -> bool {
        self.tags.is_empty()
    }

    /// Returns when the image was made, RFC 3339.
    pub fn created(&self) -> Option<&str> {
        self.config.created.as_deref()
    }

    /// Returns the name of the whole stack of layers.
    pub fn chain_id(&self) -> Option<ChainId> {
        ChainId::of(&self.diff_ids())
    }

    /// Returns the digest of the manifest it was pulled by.
    pub fn manifest_digest(&self) -> Option<Digest> {
        self.manifest.as_ref().map(|descriptor| descriptor.digest)
    }

    /// Returns the digests of everything it came by: layers' blobs and manifests.
    pub fn blobs(&self) -> Vec<Digest> {
        let layers = self.layers.iter().flat_map(LayerRecord::blobs);
        let descriptors = layers.chain(self.manifest.as_ref()).map(|d| d.digest);
        let digests = self.digests.iter().filter_map(|d| d.digest().copied());
        descriptors.chain(digests).collect()
    }

    /// Returns how the image was made, newest step first.
    ///
    /// Steps with layers take the layers in order; an image whose history does not say enough
    /// shows its unexplained layers as steps without a command.
    pub fn history(&self) -> Vec<HistoryEntry> {
        let mut layers = self.layers.iter();
        let mut entries: Vec<HistoryEntry> = self
            .config
            .history
            .iter()
            .map(|step| HistoryEntry {
                id: None,
                created: step.created.clone(),
                created_by: step.created_by.clone(),
                size: if step.empty_layer {
                    0
                } else {
                    layers.next().map_or(0, |layer| layer.size)
                },
                comment: step.comment.clone(),
                tags: Vec::new(),
            })
            .collect();
        entries.extend(layers.map(|layer| HistoryEntry {
            id: None,
            created: None,
            created_by: String::new(),
            size: layer.size,
            comment: String::new(),
            tags: Vec::new(),
        }));
        entries.reverse();
        if let Some(newest) = entries.first_mut() {
            newest.id = Some(self.id);
            newest.tags = self.repo_tags();
        }
        entries
    }
}
