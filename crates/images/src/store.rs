//! The records, the snapshot that queries read, and what operations share.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use sampan_content::ContentStore;
use sampan_fs::Sync;
use sampan_layers::LayerStore;
use sampan_oci::digest::{DiffId, Digest, ImageId};
use sampan_oci::{Descriptor, ImageConfig, Platform, Reference};
use sampan_registry_client::Client;
use sampan_state::Store;

use crate::image::{Image, ImageRecord, LayerRecord};
use crate::last_use::LastUse;
use crate::names::Names;
use crate::pull::UnderWay;
use crate::take::Others;
use crate::{Error, Result};

/// Bounds on what strangers may make the host store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Unpacked bytes of one layer.
    pub layer: u64,
    /// Unpacked bytes for each packed byte, beyond [`Limits::free_ratio`].
    pub ratio: u64,
    /// Unpacked bytes that a layer may have whatever its ratio.
    pub free_ratio: u64,
    /// Bytes that must stay free on the file system.
    pub reserve: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer: 1 << 40,
            ratio: 200,
            free_ratio: 1 << 30,
            reserve: 256 << 20,
        }
    }
}

/// How to open an [`ImageStore`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Bounds on images.
    pub limits: Limits,
    /// The machine that images are chosen for.
    pub platform: Platform,
    /// How to reach registries.
    pub registry: sampan_registry_client::Config,
    /// Layers of an image that are fetched at once.
    pub downloads: usize,
    /// Layers of an image that are sent at once.
    pub uploads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            platform: Platform::host(),
            registry: sampan_registry_client::Config::default(),
            downloads: 8,
            uploads: 5,
        }
    }
}

/// All images of an engine; clones share them.
#[derive(Clone, Debug)]
pub struct ImageStore(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) root: std::path::PathBuf,
    pub(crate) layers: LayerStore,
    pub(crate) content: ContentStore,
    pub(crate) options: Options,
    pub(crate) registry: Client,
    pub(crate) under_way: UnderWay,
    /// Layers that are being sent, by registry and repository.
    pub(crate) sending: UnderWay,
    /// Held while a layer is packed: one at a time takes all processors.
    pub(crate) packing: tokio::sync::Semaphore,
    pub(crate) records: Store<ImageRecord>,
    pub(crate) names: Names,
    /// Held while records and names change; never across a download.
    changing: Mutex<()>,
    /// Layers that an operation under way counts on, and how many do.
    pins: Mutex<HashMap<DiffId, usize>>,
    /// Others that need layers.
    pub(crate) others: Others,
    /// Images that somebody is about to use, and how many are. Taken after `changing`.
    pub(crate) holds: Mutex<HashMap<ImageId, usize>>,
    pub(crate) last_use: LastUse,
    view: RwLock<Arc<View>>,
}

/// What queries read.
#[derive(Debug, Default)]
pub(crate) struct View {
    pub(crate) images: BTreeMap<ImageId, Arc<Image>>,
}

/// An image whose layers are stored and whose records are not.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// The configuration, byte for byte.
    pub config: Vec<u8>,
    /// The blob that each layer came as, bottom first; shorter lists say nothing of the rest.
    pub blobs: Vec<Option<Descriptor>>,
    /// The manifest it came by.
    pub manifest: Option<Descriptor>,
    /// The image that it was built on here.
    pub parent: Option<ImageId>,
    /// The names it gets; other images lose them.
    pub names: Vec<Reference>,
}

impl ImageStore {
    /// Opens the images below `root`. Damaged records are set aside.
    pub fn open(root: &Path, layers: LayerStore, options: Options) -> Result<Self> {
        let store = Self(Arc::new(Inner {
            root: root.to_path_buf(),
            layers,
            content: ContentStore::open(root.join("content"))?,
            registry: Client::new(options.registry.clone()),
            under_way: UnderWay::default(),
            sending: UnderWay::default(),
            packing: tokio::sync::Semaphore::new(1),
            options,
            records: Store::open(root.join("images/records"))?,
            names: Names::open(&root.join("images/names"))?,
            changing: Mutex::new(()),
            pins: Mutex::default(),
            others: Others::default(),
            holds: Mutex::default(),
            last_use: LastUse::open(&root.join("images/use"))?,
            view: RwLock::default(),
        }));
        store.0.publish();
        Ok(store)
    }

    /// Returns the layers that the images are made of.
    pub fn layers(&self) -> &LayerStore {
        &self.0.layers
    }

    /// Returns the cache of manifests and compressed layers.
    pub fn content(&self) -> &ContentStore {
        &self.0.content
    }

    /// Returns what is said of registries now.
    pub fn registry_settings(&self) -> Arc<sampan_registry_client::settings::Settings> {
        self.0.registry.settings()
    }

    /// Checks credentials with a registry. Returns the token to keep in the password's place;
    /// empty where there is none.
    pub async fn log_in(
        &self,
        registry: &str,
        credentials: &sampan_registry_client::Credentials,
    ) -> Result<String> {
        Ok(self.0.registry.log_in(registry, credentials).await?)
    }

    /// Lists all images, newest first.
    pub fn list(&self) -> Vec<Arc<Image>> {
        let mut images: Vec<_> = self.0.view().images.values().cloned().collect();
        images.sort_by_cached_key(|image| {
            let created = image
                .created()
                .and_then(|t| t.parse::<jiff::Timestamp>().ok());
            (std::cmp::Reverse(created), image.id)
        });
        images
    }

    /// Returns the image of this ID.
    pub fn get(&self, id: &ImageId) -> Option<Arc<Image>> {
        self.0.view().images.get(id).cloned()
    }

    /// Returns the image that a name means; `latest` where it has neither tag nor digest.
    pub fn resolve(&self, reference: &Reference) -> Option<Arc<Image>> {
        let id = self.0.names.get(&reference.clone().or_latest())?;
        self.get(&id)
    }

    /// Finds an image by name, ID or the beginning of an ID, in this order.
    pub fn find(&self, text: &str) -> Result<Arc<Image>> {
        self.find_how(text).map(|found| found.image)
    }

    pub(crate) fn find_how(&self, text: &str) -> Result<Found> {
        let whole_id = text
            .parse::<Digest>()
            .or_else(|_| Digest::from_hex(text))
            .ok();
        if let Some(id) = whole_id {
            return match self.get(&ImageId(id)) {
                Some(image) => Ok(Found { image, name: None }),
                None => Err(Error::NotFound(id.to_string())),
            };
        }
        let reference = text.parse::<Reference>()?.or_latest();
        if let Some(image) = self.resolve(&reference) {
            return Ok(Found {
                image,
                name: Some(reference),
            });
        }
        match self.by_prefix(text)? {
            Some(image) => Ok(Found { image, name: None }),
            None => Err(Error::NotFound(reference.familiar())),
        }
    }

    fn by_prefix(&self, text: &str) -> Result<Option<Arc<Image>>> {
        let prefix = text.strip_prefix("sha256:").unwrap_or(text);
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if prefix.is_empty() || prefix.len() > 64 || !prefix.bytes().all(hex) {
            return Ok(None);
        }
        let view = self.0.view();
        let mut matches = view
            .images
            .values()
            .filter(|image| image.id.hex().starts_with(prefix));
        let Some(first) = matches.next() else {
            return Ok(None);
        };
        let others: Vec<ImageId> = matches.map(|image| image.id).collect();
        if others.is_empty() {
            return Ok(Some(first.clone()));
        }
        Err(Error::Ambiguous {
            prefix: text.to_owned(),
            ids: [vec![first.id], others].concat(),
        })
    }

    /// Gives an image one more name; another image loses it. Returns the image.
    pub fn tag(&self, source: &str, target: &str) -> Result<Arc<Image>> {
        let image = self.find(source)?;
        let target: Reference = target.parse()?;
        if target.digest().is_some() {
            return Err(Error::Invalid(
                "refusing to create a tag with a digest reference".into(),
            ));
        }
        if target.familiar_name() == "sha256" {
            return Err(Error::Invalid(
                "refusing to create an ambiguous tag using digest algorithm as name".into(),
            ));
        }
        let _changing = self.0.changing();
        if self.get(&image.id).is_none() {
            return Err(Error::NotFound(source.to_owned()));
        }
        self.0.names.set(&[target.or_latest()], image.id)?;
        self.0.publish();
        self.get(&image.id)
            .ok_or_else(|| Error::NotFound(source.to_owned()))
    }

    /// Notes blobs that layers of an image unpack to, its manifest if none is known, and one more
    /// name. Blocks.
    pub(crate) fn note(
        &self,
        id: &ImageId,
        blobs: &[(DiffId, Descriptor)],
        manifest: Option<&Descriptor>,
        name: Option<Reference>,
    ) -> Result<()> {
        let _changing = self.0.changing();
        let Some(known) = self.0.records.get(&id.hex()) else {
            // Removed meanwhile.
            return Ok(());
        };
        let mut record = (*known).clone();
        for layer in &mut record.layers {
            let diff_id = layer.diff_id;
            for (_, blob) in blobs.iter().filter(|(of, _)| *of == diff_id) {
                layer.note(blob);
            }
        }
        if record.manifest.is_none() {
            record.manifest = manifest.cloned();
        }
        if record != *known {
            self.0.records.put(&id.hex(), &record, Sync::Durable)?;
        }
        self.0.names.set(name.as_slice(), *id)?;
        self.0.publish();
        Ok(())
    }

    /// Records an image whose layers are in the layer store, and names it. Blocks.
    ///
    /// An image that is there already keeps what is known of it and gets the new names.
    pub fn add(&self, new: &NewImage) -> Result<Arc<Image>> {
        let config = ImageConfig::parse(&new.config)?;
        let id = ImageConfig::id(&new.config);
        let invalid = |reason: String| Error::InvalidImage {
            image: new
                .names
                .first()
                .map_or_else(|| id.to_string(), Reference::familiar),
            reason,
        };
        let text = std::str::from_utf8(&new.config)
            .map_err(|_| invalid("its configuration is not UTF-8".into()))?;
        let synced = self.0.layers.sync_layers(&config.rootfs.diff_ids);
        synced.map_err(|source| Error::Layer {
            layer: id.0,
            source,
        })?;
        let _changing = self.0.changing();
        let known = self.0.records.get(&id.hex());
        let mut layers = Vec::with_capacity(config.rootfs.diff_ids.len());
        for (i, diff_id) in config.rootfs.diff_ids.iter().enumerate() {
            let layer = self
                .0
                .layers
                .get(diff_id)
                .ok_or_else(|| invalid(format!("its layer {diff_id} is missing")))?;
            let known = known.as_ref().and_then(|record| record.layers.get(i));
            layers.push(LayerRecord {
                diff_id: *diff_id,
                size: layer.size,
                blob: new
                    .blobs
                    .get(i)
                    .cloned()
                    .flatten()
                    .or_else(|| known.and_then(|layer| layer.blob.clone())),
                others: known.map_or_else(Vec::new, |layer| layer.others.clone()),
            });
            // What it came as before may be what a registry has.
            let before = known.and_then(|layer| layer.blob.as_ref());
            if let (Some(layer), Some(before)) = (layers.last_mut(), before) {
                layer.note(before);
            }
        }
        let record = ImageRecord {
            config: text.to_owned(),
            layers,
            manifest: new
                .manifest
                .clone()
                .or_else(|| known.as_ref().and_then(|record| record.manifest.clone())),
            parent: new
                .parent
                .or_else(|| known.as_ref().and_then(|record| record.parent)),
            stored: known
                .as_ref()
                .map_or_else(|| jiff::Timestamp::now().to_string(), |r| r.stored.clone()),
        };
        let is_known = known.as_deref() == Some(&record);
        if !is_known {
            self.0.records.put(&id.hex(), &record, Sync::Durable)?;
        }
        let named = self.0.names.set(&new.names, id)?;
        if named || !is_known {
            self.0.publish();
        }
        self.get(&id)
            .ok_or_else(|| invalid("its record is damaged".into()))
    }
}

/// What a removal gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Sum of the sizes of the files in layers that are gone, as lists count them.
    pub unpacked: u64,
    /// Bytes on disk, of layers and blobs.
    pub disk: u64,
}

impl std::ops::AddAssign for Freed {
    fn add_assign(&mut self, other: Self) {
        self.unpacked += other.unpacked;
        self.disk += other.disk;
    }
}

/// An image, and the name by which it was found if it was by name.
pub(crate) struct Found {
    pub(crate) image: Arc<Image>,
    pub(crate) name: Option<Reference>,
}

impl Inner {
    pub(crate) fn view(&self) -> Arc<View> {
        self.view
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the snapshot anew from the records and names. A configuration is parsed once.
    pub(crate) fn publish(&self) {
        let old = self.view();
        let mut names: HashMap<ImageId, (Vec<Reference>, Vec<Reference>)> = HashMap::new();
        for (reference, id) in self.names.all() {
            let (tags, digests) = names.entry(id).or_default();
            match reference.digest() {
                Some(_) => digests.push(reference),
                None => tags.push(reference),
            }
        }
        let mut images = BTreeMap::new();
        for (key, record) in self.records.iter() {
            let Ok(id) = Digest::from_hex(&key).map(ImageId) else {
                continue;
            };
            let known = old.images.get(&id);
            let (config, config_bytes): (Arc<ImageConfig>, Arc<str>) = match known {
                Some(image) => (image.config.clone(), image.config_bytes.clone()),
                None => {
                    let bytes = record.config.as_bytes();
                    match ImageConfig::parse(bytes) {
                        Ok(config) if ImageConfig::id(bytes) == id => {
                            (Arc::new(config), Arc::from(record.config.as_str()))
                        }
                        _ => {
                            tracing::warn!(image = %id, "ignoring an image whose record does not fit its ID");
                            continue;
                        }
                    }
                }
            };
            let (mut tags, mut digests) = names.remove(&id).unwrap_or_default();
            tags.sort_by_cached_key(Reference::familiar);
            digests.sort_by_cached_key(Reference::familiar);
            let image = Image {
                id,
                config,
                config_bytes,
                size: record.layers.iter().map(|layer| layer.size).sum(),
                layers: record.layers.clone().into(),
                tags,
                digests,
                manifest: record.manifest.clone(),
                parent: record.parent,
                stored: record.stored.clone(),
            };
            images.insert(id, Arc::new(image));
        }
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(View { images });
    }

    /// Keeps a layer from being removed until the pin is dropped, whether it is there or not.
    pub(crate) fn pin(self: &Arc<Self>, diff_id: DiffId) -> Pin {
        *self.pins().entry(diff_id).or_default() += 1;
        Pin {
            store: self.clone(),
            diff_id,
        }
    }

    pub(crate) fn pins(&self) -> MutexGuard<'_, HashMap<DiffId, usize>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes those of the layers that nobody needs: no image, no operation under way, none of
    /// `in_use`.
    pub(crate) fn remove_layers(
        &self,
        candidates: impl IntoIterator<Item = DiffId>,
        in_use: &HashSet<DiffId>,
    ) -> Result<Freed> {
        let mut freed = Freed::default();
        // Pins are taken before a layer is looked for, so none appears while this is held.
        let pins = self.pins();
        let needed: HashSet<DiffId> = self
            .records
            .iter()
            .flat_map(|(_, record)| record.layers.iter().map(|l| l.diff_id).collect::<Vec<_>>())
            .chain(self.others.needed())
            .collect();
        let mut unneeded = Vec::new();
        for diff_id in candidates {
            let kept = needed.contains(&diff_id)
                || in_use.contains(&diff_id)
                || pins.contains_key(&diff_id)
                // An image may have a layer twice.
                || unneeded.contains(&diff_id);
            if let Some(layer) = self.layers.get(&diff_id).filter(|_| !kept) {
                freed.unpacked += layer.size;
                freed.disk += self.layers.disk_usage(&diff_id);
                unneeded.push(diff_id);
            }
        }
        if let Some(first) = unneeded.first() {
            self.layers
                .remove_all(&unneeded)
                .map_err(|source| Error::Layer {
                    layer: first.0,
                    source,
                })?;
        }
        Ok(freed)
    }
}

/// Gives the buffers of an operation back to the system when it ends, however it ends: an engine
/// that is idle is small.
#[derive(Debug)]
pub(crate) struct Buffers;

impl Drop for Buffers {
    fn drop(&mut self) {
        sampan_kernel::memory::release_unused();
    }
}

/// Keeps a layer from being removed.
#[derive(Debug)]
pub(crate) struct Pin {
    store: Arc<Inner>,
    diff_id: DiffId,
}

impl Pin {
    pub(crate) fn diff_id(&self) -> DiffId {
        self.diff_id
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.store.pins();
        if let Some(count) = pins.get_mut(&self.diff_id) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.diff_id);
            }
        }
    }
}
