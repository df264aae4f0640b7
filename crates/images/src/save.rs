//! `docker save`: images as one archive in Docker's form and as an OCI layout.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use sampan_archive::ArchiveWriter;
use sampan_oci::digest::{ChainId, DiffId, Digest};
use sampan_oci::{Descriptor, ImageConfig, Index, Manifest, MediaType, Platform, Reference};
use serde_json::json;

use crate::image::Image;
use crate::store::{ImageStore, NewImage};
use crate::{Error, Result};

const DIRECTORIES: [&str; 2] = ["blobs/", "blobs/sha256/"];
const NAME: &str = "io.containerd.image.name";
const TAG: &str = "org.opencontainers.image.ref.name";

/// Images on their way into an archive. What it needs is open: their removal does not disturb it.
#[derive(Debug)]
pub struct Saved {
    images: Vec<Arc<Image>>,
    manifests: Vec<Descriptor>,
    blobs: BTreeMap<String, Part>,
    documents: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug)]
enum Part {
    Bytes(Vec<u8>),
    File(File, u64),
}

impl ImageStore {
    /// Prepares the images of these names for an archive. A name without a tag means all tags of
    /// its repository; an ID means the image without a name. Blocks.
    pub fn save(&self, names: &[String], platform: Option<&Platform>) -> Result<Saved> {
        if names.is_empty() {
            return Err(Error::Invalid("no image is named".into()));
        }
        let mut chosen: Vec<(Arc<Image>, Vec<Reference>)> = Vec::new();
        for name in names {
            for (image, tag) in self.meant(name)? {
                if let Some(platform) = platform
                    && platform.rank(&image.config.platform()).is_none()
                {
                    return Err(Error::WrongPlatform {
                        image: name.clone(),
                        platform: platform.to_string(),
                    });
                }
                let at = chosen.iter().position(|(known, _)| known.id == image.id);
                let at = at.unwrap_or_else(|| {
                    chosen.push((image, Vec::new()));
                    chosen.len() - 1
                });
                if let Some(tag) = tag
                    && !chosen[at].1.contains(&tag)
                {
                    chosen[at].1.push(tag);
                }
            }
        }
        let mut saving = Saving::new(self);
        for (image, tags) in &chosen {
            let _hold = self.hold(&image.id)?;
            saving.image(image.config_bytes.as_bytes(), tags)?;
        }
        let images = chosen.into_iter().map(|(image, _)| image).collect();
        saving.finish(images)
    }

    /// Prepares an image for an archive that is not in the store, but its layers are: somebody
    /// holds them. Blocks.
    pub fn save_new(&self, new: &NewImage) -> Result<Saved> {
        let mut saving = Saving::new(self);
        saving.image(&new.config, &new.names)?;
        saving.finish(Vec::new())
    }

    fn meant(&self, name: &str) -> Result<Vec<(Arc<Image>, Option<Reference>)>> {
        let reference = name.parse::<Reference>().ok();
        if let Some(reference) = &reference
            && reference.tag().is_none()
            && reference.digest().is_none()
        {
            let mut all: Vec<(Arc<Image>, Option<Reference>)> = self
                .list()
                .into_iter()
                .flat_map(|image| {
                    let tags = image.tags.clone().into_iter();
                    tags.map(move |tag| (image.clone(), Some(tag)))
                })
                .filter(|(_, tag)| tag.as_ref().is_some_and(|t| t.same_repository(reference)))
                .collect();
            if !all.is_empty() {
                all.sort_by_cached_key(|(_, tag)| tag.as_ref().map(Reference::familiar));
                return Ok(all);
            }
        }
        let found = self.find_how(name)?;
        let tag = found.name.filter(|name| name.digest().is_none());
        Ok(vec![(found.image, tag)])
    }
}

struct Saving<'a> {
    store: &'a ImageStore,
    blobs: BTreeMap<String, Part>,
    manifests: Vec<Descriptor>,
    lines: Vec<serde_json::Value>,
    repositories: BTreeMap<String, BTreeMap<String, String>>,
}

impl<'a> Saving<'a> {
    fn new(store: &'a ImageStore) -> Self {
        Self {
            store,
            blobs: BTreeMap::new(),
            manifests: Vec::new(),
            lines: Vec::new(),
            repositories: BTreeMap::new(),
        }
    }

    fn image(&mut self, bytes: &[u8], tags: &[Reference]) -> Result<()> {
        let image = ImageConfig::parse(bytes)?;
        let mut layers = Vec::new();
        for diff_id in &image.rootfs.diff_ids {
            layers.push(self.layer(diff_id)?);
        }
        let config = Descriptor::of(MediaType::OciConfig, bytes);
        let manifest = Manifest {
            schema_version: 2,
            media_type: MediaType::OciManifest,
            artifact_type: None,
            config: config.clone(),
            layers: layers.clone(),
            annotations: BTreeMap::new(),
        };
        let manifest_bytes = to_json(&manifest)?;
        let mut descriptor = Descriptor::of(MediaType::OciManifest, &manifest_bytes);
        descriptor.platform = Some(image.platform());
        self.put(&config.digest, bytes.to_vec());
        self.put(&descriptor.digest, manifest_bytes);
        if tags.is_empty() {
            self.manifests.push(descriptor.clone());
        }
        for reference in tags {
            let tag = reference.tag().unwrap_or("latest");
            let mut named = descriptor.clone();
            let full = format!("{}:{tag}", reference.name());
            named.annotations.insert(NAME.to_owned(), full);
            named.annotations.insert(TAG.to_owned(), tag.to_owned());
            self.manifests.push(named);
            if let Some(top) = ChainId::of(&image.rootfs.diff_ids) {
                let repository = self.repositories.entry(reference.familiar_name());
                let top = top.hex();
                repository.or_default().insert(tag.to_owned(), top);
            }
        }
        let names: Vec<String> = tags.iter().map(Reference::familiar).collect();
        let sources: BTreeMap<String, &Descriptor> = layers
            .iter()
            .map(|layer| (layer.digest.to_string(), layer))
            .collect();
        let paths: Vec<String> = layers.iter().map(|layer| path(&layer.digest)).collect();
        self.lines.push(json!({
            "Config": path(&config.digest),
            "RepoTags": if names.is_empty() { None } else { Some(names) },
            "Layers": paths,
            "LayerSources": sources,
        }));
        Ok(())
    }

    fn layer(&mut self, diff_id: &DiffId) -> Result<Descriptor> {
        let failed = |source| Error::Layer {
            layer: diff_id.0,
            source,
        };
        let layers = &self.store.0.layers;
        let layer = layers
            .get(diff_id)
            .ok_or_else(|| failed(sampan_layers::Error::NotFound(*diff_id)))?;
        if let Entry::Vacant(place) = self.blobs.entry(path(&diff_id.0)) {
            let tar = layers.open_tar(diff_id).map_err(failed)?;
            place.insert(Part::File(tar, layer.tar_size));
        }
        Ok(Descriptor::new(
            MediaType::OciLayer,
            diff_id.0,
            layer.tar_size,
        ))
    }

    fn put(&mut self, digest: &Digest, bytes: Vec<u8>) {
        self.blobs.insert(path(digest), Part::Bytes(bytes));
    }

    fn finish(self, images: Vec<Arc<Image>>) -> Result<Saved> {
        let index = Index {
            schema_version: 2,
            media_type: MediaType::OciIndex,
            manifests: self.manifests.clone(),
            annotations: BTreeMap::new(),
        };
        let mut documents = BTreeMap::from([
            ("index.json".to_owned(), to_json(&index)?),
            ("manifest.json".to_owned(), to_json(&self.lines)?),
            (
                "oci-layout".to_owned(),
                br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
            ),
        ]);
        if !self.repositories.is_empty() {
            documents.insert("repositories".to_owned(), to_json(&self.repositories)?);
        }
        Ok(Saved {
            images,
            manifests: self.manifests,
            blobs: self.blobs,
            documents,
        })
    }
}

impl Saved {
    /// Returns the images, each once.
    pub fn images(&self) -> &[Arc<Image>] {
        &self.images
    }

    /// Returns the descriptor of the only image, or of the first.
    pub fn descriptor(&self) -> Option<&Descriptor> {
        self.manifests.first()
    }

    /// Returns how long the archive is.
    pub fn size(&self) -> u64 {
        let blobs = self.blobs.values().map(|part| match part {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::File(_, size) => *size,
        });
        let documents = self.documents.values().map(|bytes| bytes.len() as u64);
        ArchiveWriter::<io::Sink>::size(DIRECTORIES.len() as u64, blobs.chain(documents))
    }

    /// Writes the archive. The same images make the same archive. Blocks.
    pub fn write(self, out: &mut impl Write) -> io::Result<()> {
        let mut archive = ArchiveWriter::new(out);
        for path in DIRECTORIES {
            archive.directory(path)?;
        }
        for (path, part) in self.blobs {
            match part {
                Part::Bytes(bytes) => archive.bytes(&path, &bytes)?,
                Part::File(file, size) => archive.file(&path, &file, size)?,
            }
        }
        for (path, bytes) in &self.documents {
            archive.bytes(path, bytes)?;
        }
        archive.finish()
    }
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|source| Error::Io {
        action: "write a document of the archive",
        source: source.into(),
    })
}
