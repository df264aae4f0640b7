//! Which images an archive holds.
//!
//! Three generations lie in archives, often side by side: `manifest.json` of Docker since 1.10,
//! `index.json` of the OCI, and `repositories` of Docker before. The first that is there counts,
//! in this order, as with Docker; the last alone is refused, as Docker does since 25.

use std::collections::{BTreeMap, HashMap, HashSet};

use sampan_oci::manifest::{Document, MAX_MANIFEST};
use sampan_oci::{Descriptor, Digest, Index, Manifest, MediaType, Platform, Reference};
use sampan_text::path::below_root;
use serde::Deserialize;

use crate::{Error, Result};

/// The longest member that is kept in memory as a document.
pub const MAX_DOCUMENT: u64 = 8 << 20;
/// All documents of an archive together.
const MAX_DOCUMENTS: usize = 64 << 20;
const MAX_IMAGES: usize = 1000;
/// Links that may lead to one another; loops end here.
const MAX_LINKS: usize = 16;
/// Indexes that may lie in one another.
const MAX_DEPTH: usize = 4;

/// What was seen in an archive.
#[derive(Debug, Default)]
pub struct Contents {
    documents: HashMap<String, Vec<u8>>,
    documents_size: usize,
    blobs: HashSet<String>,
    links: HashMap<String, String>,
}

/// An image of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedImage {
    /// Its names.
    pub names: Vec<Reference>,
    /// The bytes of its configuration.
    pub config: Vec<u8>,
    /// Its layers, bottom first.
    pub layers: Vec<ArchivedLayer>,
    /// Its manifest and the manifest's bytes, where the archive has it.
    pub manifest: Option<(Descriptor, Vec<u8>)>,
}

/// A layer of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedLayer {
    /// The key of the member that holds it, links followed.
    pub path: String,
    /// What a manifest says of it.
    pub descriptor: Option<Descriptor>,
}

/// A line of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Contents {
    /// Starts with nothing seen.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a member whose bytes the caller keeps. Of several with the same path the last counts.
    pub fn add_blob(&mut self, path: &str) {
        self.forget(path);
        self.blobs.insert(path.to_owned());
    }

    /// Keeps the bytes of a member.
    pub fn add_document(&mut self, path: &str, bytes: Vec<u8>) -> Result<()> {
        self.forget(path);
        self.documents_size += bytes.len();
        if self.documents_size > MAX_DOCUMENTS {
            return Err(Error::Bound("too many documents"));
        }
        self.documents.insert(path.to_owned(), bytes);
        Ok(())
    }

    /// Notes a link.
    pub fn add_link(&mut self, path: &str, target: &str) {
        self.forget(path);
        self.links.insert(path.to_owned(), target.to_owned());
    }

    fn forget(&mut self, path: &str) {
        self.blobs.remove(path);
        self.links.remove(path);
        if let Some(bytes) = self.documents.remove(path) {
            self.documents_size -= bytes.len();
        }
    }

    /// Returns the bytes of a document.
    pub fn document(&self, path: &str) -> Option<&[u8]> {
        self.documents.get(path).map(Vec::as_slice)
    }

    /// Follows links to the member that a path means.
    fn resolve(&self, path: &str) -> Result<String> {
        let mut path = below_root(path);
        for _ in 0..MAX_LINKS {
            if self.blobs.contains(&path) || self.documents.contains_key(&path) {
                return Ok(path);
            }
            match self.links.get(&path) {
                Some(target) => path.clone_from(target),
                None => break,
            }
        }
        Err(Error::Missing(path))
    }

    fn resolve_document(&self, path: &str) -> Result<&[u8]> {
        let path = self.resolve(path)?;
        self.document(&path).ok_or(Error::Missing(path))
    }

    /// Returns the bytes of a blob that is named by its digest, verified.
    fn blob_document(&self, descriptor: &Descriptor) -> Result<&[u8]> {
        let path = blob_path(&descriptor.digest);
        let bytes = self.resolve_document(&path)?;
        if Digest::of(bytes) != descriptor.digest {
            return Err(Error::Digest(path));
        }
        Ok(bytes)
    }

    /// Says which images were seen; of images for several machines, the one that fits best.
    pub fn images(&self, machine: &Platform) -> Result<Vec<ArchivedImage>> {
        let images = if self.has("manifest.json") {
            self.saved_images()?
        } else if self.has("index.json") {
            self.indexed_images(machine)?
        } else if self.has("repositories") {
            return Err(Error::TooOld);
        } else {
            return Err(Error::NoImages);
        };
        if images.is_empty() {
            return Err(Error::NoImages);
        }
        Ok(images)
    }

    fn has(&self, path: &str) -> bool {
        self.resolve(path).is_ok()
    }

    fn saved_images(&self) -> Result<Vec<ArchivedImage>> {
        let document = "manifest.json";
        let saved: Vec<SavedImage> = json(document, self.resolve_document(document)?)?;
        if saved.len() > MAX_IMAGES {
            return Err(Error::Bound("too many images"));
        }
        let manifests = self.manifests_by_config();
        saved
            .into_iter()
            .map(|image| self.saved_image(image, &manifests))
            .collect()
    }

    fn saved_image(
        &self,
        saved: SavedImage,
        manifests: &BTreeMap<Digest, (Descriptor, Manifest)>,
    ) -> Result<ArchivedImage> {
        let config = self.resolve_document(&saved.config)?.to_vec();
        let names = saved
            .repo_tags
            .unwrap_or_default()
            .into_iter()
            .map(|name| match name.parse::<Reference>() {
                Ok(reference) => Ok(reference.or_latest()),
                Err(source) => Err(Error::Name { name, source }),
            })
            .collect::<Result<_>>()?;
        let paths = saved.layers.unwrap_or_default();
        if paths.len() > sampan_oci::manifest::MAX_LAYERS {
            return Err(Error::Bound("an image with too many layers"));
        }
        // A manifest in the archive says more of the layers, if it is of the very same ones.
        let manifest = manifests
            .get(&Digest::of(&config))
            .filter(|(_, manifest)| manifest.layers.len() == paths.len());
        let layers = paths
            .iter()
            .enumerate()
            .map(|(i, path)| {
                let descriptor = manifest
                    .map(|(_, manifest)| manifest.layers[i].clone())
                    .filter(|descriptor| below_root(path) == blob_path(&descriptor.digest));
                Ok(ArchivedLayer {
                    path: self.resolve(path)?,
                    descriptor,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let whole = layers.iter().all(|layer| layer.descriptor.is_some());
        let manifest = manifest.filter(|_| whole).and_then(|(descriptor, _)| {
            let bytes = self.blob_document(descriptor).ok()?;
            Some((descriptor.clone(), bytes.to_vec()))
        });
        Ok(ArchivedImage {
            names,
            config,
            layers,
            manifest,
        })
    }

    /// Finds the manifests of an OCI layout that lies beside `manifest.json`. What cannot be used
    /// is left out: nothing depends on it.
    fn manifests_by_config(&self) -> BTreeMap<Digest, (Descriptor, Manifest)> {
        let mut found = BTreeMap::new();
        let Ok(index) = self
            .resolve_document("index.json")
            .and_then(|bytes| index("index.json", bytes))
        else {
            return found;
        };
        let mut queue: Vec<(usize, Descriptor)> =
            index.manifests.into_iter().map(|d| (0, d)).collect();
        while let Some((depth, descriptor)) = queue.pop() {
            match self.manifest(&descriptor) {
                Ok(Document::Manifest(manifest)) => {
                    found.insert(manifest.config.digest, (descriptor, manifest));
                }
                Ok(Document::Index(index)) if depth < MAX_DEPTH && queue.len() < MAX_IMAGES => {
                    queue.extend(index.manifests.into_iter().map(|d| (depth + 1, d)));
                }
                _ => {}
            }
            if found.len() > MAX_IMAGES {
                break;
            }
        }
        found
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Document> {
        let bytes = self.blob_document(descriptor)?;
        Document::parse(bytes, &descriptor.media_type).map_err(|source| Error::Manifest {
            document: blob_path(&descriptor.digest),
            source,
        })
    }

    fn indexed_images(&self, machine: &Platform) -> Result<Vec<ArchivedImage>> {
        let top = index("index.json", self.resolve_document("index.json")?)?;
        if top.manifests.len() > MAX_IMAGES {
            return Err(Error::Bound("too many images"));
        }
        let mut images: Vec<ArchivedImage> = Vec::new();
        let mut unfit = 0;
        for entry in &top.manifests {
            if entry
                .platform
                .as_ref()
                .is_some_and(|p| machine.rank(p).is_none())
            {
                unfit += 1;
                continue;
            }
            let Some(image) = self.indexed_image(entry, machine)? else {
                unfit += 1;
                continue;
            };
            // A layout lists an image once for each of its names.
            match images
                .iter_mut()
                .find(|other| other.manifest == image.manifest)
            {
                Some(other) => other.names.extend(image.names),
                None => images.push(image),
            }
        }
        if images.is_empty() && unfit > 0 {
            return Err(Error::NoPlatform(machine.to_string()));
        }
        Ok(images)
    }

    fn indexed_image(
        &self,
        entry: &Descriptor,
        machine: &Platform,
    ) -> Result<Option<ArchivedImage>> {
        let mut descriptor = entry.clone();
        for _ in 0..MAX_DEPTH {
            match self.manifest(&descriptor)? {
                Document::Manifest(manifest) => {
                    return self.image_of(entry, &descriptor, &manifest).map(Some);
                }
                Document::Index(mut index) => {
                    // Layouts are often thinned out: only what is there can be chosen.
                    index.manifests.retain(|d| self.has(&blob_path(&d.digest)));
                    match index.select(machine) {
                        Some(chosen) => descriptor = chosen.clone(),
                        None => return Ok(None),
                    }
                }
            }
        }
        Err(Error::Bound("indexes nested too deeply"))
    }

    fn image_of(
        &self,
        entry: &Descriptor,
        descriptor: &Descriptor,
        manifest: &Manifest,
    ) -> Result<ArchivedImage> {
        let layers = manifest
            .layers
            .iter()
            .map(|layer| {
                Ok(ArchivedLayer {
                    path: self.resolve(&blob_path(&layer.digest))?,
                    descriptor: Some(layer.clone()),
                })
            })
            .collect::<Result<_>>()?;
        Ok(ArchivedImage {
            names: layout_name(entry)?.into_iter().collect(),
            config: self.blob_document(&manifest.config)?.to_vec(),
            layers,
            manifest: Some((descriptor.clone(), self.blob_document(descriptor)?.to_vec())),
        })
    }
}

/// Finds a name in the annotations of an entry of `index.json`. A lone tag names nothing.
fn layout_name(entry: &Descriptor) -> Result<Option<Reference>> {
    let full = entry.annotations.get("io.containerd.image.name");
    let short = entry
        .annotations
        .get("org.opencontainers.image.ref.name")
        .filter(|name| name.contains([':', '/']));
    let Some(name) = full.or(short) else {
        return Ok(None);
    };
    match name.parse::<Reference>() {
        Ok(reference) => Ok(Some(reference.or_latest())),
        Err(source) => Err(Error::Name {
            name: name.clone(),
            source,
        }),
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn json<T: serde::de::DeserializeOwned>(document: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| Error::Json {
        document: document.to_owned(),
        source,
    })
}

fn index(document: &str, bytes: &[u8]) -> Result<Index> {
    if bytes.len() as u64 > MAX_MANIFEST {
        return Err(Error::Bound("an index that is too long"));
    }
    match Document::parse(bytes, &MediaType::default()) {
        Ok(Document::Index(index)) => Ok(index),
        Ok(Document::Manifest(_)) => Err(Error::Missing("index of manifests".into())),
        Err(source) => Err(Error::Manifest {
            document: document.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Platform {
        "linux/amd64".parse().unwrap()
    }

    fn old_save() -> Contents {
        let mut contents = Contents::new();
        contents.add_blob("aaa/layer.tar");
        contents.add_link("bbb/layer.tar", "aaa/layer.tar");
        contents.add_document("conf.json", b"{}".to_vec()).unwrap();
        contents
            .add_document(
                "manifest.json",
                br#"[{"Config":"conf.json","RepoTags":["a:1","b"],"Layers":["aaa/layer.tar","bbb/layer.tar"]}]"#
                    .to_vec(),
            )
            .unwrap();
        contents
    }

    #[test]
    fn linked_layers_lead_to_the_same_member() {
        let images = old_save().images(&machine()).unwrap();
        assert_eq!(images.len(), 1);
        let names: Vec<_> = images[0].names.iter().map(Reference::familiar).collect();
        assert_eq!(names, ["a:1", "b:latest"]);
        assert_eq!(images[0].layers[0], images[0].layers[1]);
        assert_eq!(images[0].config, b"{}");
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut contents = old_save();
        contents.add_link("bbb/layer.tar", "ccc/layer.tar");
        contents.add_link("ccc/layer.tar", "bbb/layer.tar");
        assert!(matches!(
            contents.images(&machine()),
            Err(Error::Missing(_))
        ));
        assert!(matches!(
            Contents::new().images(&machine()),
            Err(Error::NoImages)
        ));
        let mut contents = Contents::new();
        contents
            .add_document("repositories", b"{}".to_vec())
            .unwrap();
        assert!(matches!(contents.images(&machine()), Err(Error::TooOld)));
        let mut contents = Contents::new();
        contents
            .add_document("manifest.json", b"[]".to_vec())
            .unwrap();
        assert!(matches!(contents.images(&machine()), Err(Error::NoImages)));
        for bad in ["{", "{}", "[{}]", "[[[[", "null"] {
            contents
                .add_document("manifest.json", bad.as_bytes().to_vec())
                .unwrap();
            assert!(contents.images(&machine()).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_nobody_are_null() {
        let mut contents = old_save();
        contents
            .add_document(
                "manifest.json",
                br#"[{"Config":"conf.json","RepoTags":null,"Layers":null}]"#.to_vec(),
            )
            .unwrap();
        let images = contents.images(&machine()).unwrap();
        assert!(images[0].names.is_empty() && images[0].layers.is_empty());
    }

    fn layout(platform: &str, name: Option<&str>) -> Contents {
        let mut contents = Contents::new();
        let add = |contents: &mut Contents, bytes: &[u8]| {
            contents
                .add_document(&blob_path(&Digest::of(bytes)), bytes.to_vec())
                .unwrap();
        };
        let layer = Digest::of(b"layer");
        contents.add_blob(&blob_path(&layer));
        add(&mut contents, b"{}");
        let manifest = serde_json::to_vec(&Manifest {
            schema_version: 2,
            media_type: MediaType::OciManifest,
            artifact_type: None,
            config: Descriptor::of(MediaType::OciConfig, b"{}"),
            layers: vec![Descriptor::new(MediaType::OciLayerGzip, layer, 5)],
            annotations: BTreeMap::new(),
        })
        .unwrap();
        add(&mut contents, &manifest);
        let mut entry = Descriptor::of(MediaType::OciManifest, &manifest);
        entry.platform = Some(platform.parse().unwrap());
        let inner = serde_json::to_vec(&Index {
            schema_version: 2,
            media_type: MediaType::OciIndex,
            manifests: vec![entry],
            annotations: BTreeMap::new(),
        })
        .unwrap();
        add(&mut contents, &inner);
        let mut entry = Descriptor::of(MediaType::OciIndex, &inner);
        if let Some(name) = name {
            entry
                .annotations
                .insert("org.opencontainers.image.ref.name".into(), name.into());
        }
        let outer = serde_json::to_vec(&Index {
            schema_version: 2,
            media_type: MediaType::default(),
            manifests: vec![entry],
            annotations: BTreeMap::new(),
        })
        .unwrap();
        contents.add_document("index.json", outer).unwrap();
        contents
    }

    #[test]
    fn layouts_are_read_through_nested_indexes() {
        let images = layout("linux/amd64", Some("busybox:1"))
            .images(&machine())
            .unwrap();
        assert_eq!(images[0].names[0].familiar(), "busybox:1");
        assert_eq!(images[0].layers.len(), 1);
        assert!(images[0].manifest.is_some());
        let images = layout("linux/amd64", Some("latest"))
            .images(&machine())
            .unwrap();
        assert!(images[0].names.is_empty(), "a lone tag names nothing");
        assert!(matches!(
            layout("linux/s390x", None).images(&machine()),
            Err(Error::NoPlatform(_))
        ));
    }

    #[test]
    fn documents_of_a_layout_are_verified() {
        let mut contents = layout("linux/amd64", None);
        contents
            .add_document(&blob_path(&Digest::of(b"{}")), b"[]".to_vec())
            .unwrap();
        assert!(matches!(contents.images(&machine()), Err(Error::Digest(_))));
    }
}
