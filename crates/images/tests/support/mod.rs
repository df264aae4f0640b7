//! A store of its own, and images made by hand.

#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use sampan_images::{ImageStore, Options, Progress, ProgressSink};
use sampan_layers::LayerStore;
use sampan_oci::config::{ImageConfig, RootFs};
use sampan_oci::digest::DiffId;
use sampan_oci::{Descriptor, Digest, Index, Manifest, MediaType};
use sampan_testing::{Answer, Asked, ScriptedServer};

/// Opens a store whose client does not wait long.
pub fn open(root: &Path) -> ImageStore {
    let options = Options {
        registry: sampan_registry_client::Config {
            backoff: Duration::from_millis(5),
            ..sampan_registry_client::Config::default()
        },
        ..Options::default()
    };
    open_with(root, options)
}

pub fn open_with(root: &Path, options: Options) -> ImageStore {
    let layers = LayerStore::open(root, sampan_layers::Options::default()).unwrap();
    ImageStore::open(root, layers, options).unwrap()
}

/// Everything that is told.
pub fn drain(receiver: &mut tokio::sync::mpsc::UnboundedReceiver<Progress>) -> Vec<Progress> {
    let mut all = Vec::new();
    while let Ok(progress) = receiver.try_recv() {
        all.push(progress);
    }
    all
}

pub fn quiet() -> ProgressSink {
    ProgressSink::none()
}

/// A tar of these files.
pub fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        builder.append_data(&mut header, path, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that do not pack.
pub fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

/// A configuration for these uncompressed layers.
pub fn config(layers: &[&[u8]]) -> ImageConfig {
    ImageConfig {
        architecture: sampan_oci::Platform::host().architecture,
        os: "linux".into(),
        created: Some("2024-01-02T03:04:05Z".into()),
        rootfs: RootFs {
            diff_ids: layers.iter().map(|l| DiffId(Digest::of(l))).collect(),
            ..RootFs::default()
        },
        ..ImageConfig::default()
    }
}

/// What a registry holds: documents by tag and digest, blobs by digest.
#[derive(Clone, Default)]
pub struct Repository {
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    blobs: BTreeMap<String, Vec<u8>>,
}

impl Repository {
    pub fn blob(&mut self, media_type: MediaType, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(media_type, bytes);
        self.blobs
            .insert(descriptor.digest.to_string(), bytes.to_vec());
        descriptor
    }

    /// Puts other bytes where a blob should be.
    pub fn forge(&mut self, descriptor: &Descriptor, bytes: &[u8]) {
        self.blobs
            .insert(descriptor.digest.to_string(), bytes.to_vec());
    }

    pub fn document(
        &mut self,
        tag: Option<&str>,
        media_type: MediaType,
        bytes: &[u8],
    ) -> Descriptor {
        let entry = (media_type.to_string(), bytes.to_vec());
        let descriptor = Descriptor::of(media_type, bytes);
        if let Some(tag) = tag {
            self.manifests.insert(tag.to_owned(), entry.clone());
        }
        self.manifests.insert(descriptor.digest.to_string(), entry);
        descriptor
    }

    pub fn manifest(
        &mut self,
        tag: Option<&str>,
        config: &ImageConfig,
        layers: Vec<Descriptor>,
    ) -> Descriptor {
        let config = self.blob(MediaType::OciConfig, &serde_json::to_vec(config).unwrap());
        let manifest = Manifest {
            schema_version: 2,
            media_type: MediaType::OciManifest,
            artifact_type: None,
            config,
            layers,
            annotations: BTreeMap::new(),
        };
        self.document(
            tag,
            MediaType::OciManifest,
            &serde_json::to_vec(&manifest).unwrap(),
        )
    }

    pub fn index(&mut self, tag: Option<&str>, manifests: Vec<Descriptor>) -> Descriptor {
        let index = Index {
            schema_version: 2,
            media_type: MediaType::OciIndex,
            manifests,
            annotations: BTreeMap::new(),
        };
        self.document(
            tag,
            MediaType::OciIndex,
            &serde_json::to_vec(&index).unwrap(),
        )
    }

    /// An image of gzipped layers.
    pub fn image(&mut self, tag: &str, layers: &[&[u8]]) -> Descriptor {
        let descriptors = layers
            .iter()
            .map(|layer| self.blob(MediaType::OciLayerGzip, &gzip(layer)))
            .collect();
        self.manifest(Some(tag), &config(layers), descriptors)
    }

    pub fn serve(self) -> ScriptedServer {
        ScriptedServer::start(move |asked| self.answer(asked))
    }

    pub fn answer(&self, asked: &Asked) -> Answer {
        let Some((_, rest)) = asked.path.split_once("/manifests/") else {
            let digest = asked.path.rsplit('/').next().unwrap();
            return match self.blobs.get(digest) {
                Some(bytes) => Answer::ranged(asked, bytes),
                None => Answer::new(404, ""),
            };
        };
        match self.manifests.get(rest) {
            Some((media_type, bytes)) => {
                Answer::new(200, &bytes[..]).with("content-type", media_type)
            }
            None => Answer::new(404, ""),
        }
    }
}
