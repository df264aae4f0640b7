//! Caches of other builders: what steps came to there, in BuildKit's format, and the layers of
//! those steps, which are fetched when somebody needs them.
//!
//! A record of the format stands for a step by its digest. Ours are named by the keys of this
//! builder's cache and have a chain of the one layer that the step made, or of none. What else is
//! in a cache is somebody else's and is not looked at, except that all of it must make sense.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sampan_images::{ArtifactDocument, HeldLayer};
use sampan_oci::{Descriptor, DiffId, Digest, MediaType};
use sampan_text::with_causes;
use serde::{Deserialize, Deserializer, Serialize};

use crate::cache::{Cache, Key, Record};
use crate::{Built, Error, Result};

/// BuildKit's type of a cache: JSON of layers and records.
pub const CACHE_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Our type of what the sources of copies were, by their names: a JSON object of digests.
pub const CACHE_SOURCES: &str = "application/vnd.sampan.cachesources.v1+json";
/// The field of an image's configuration that has the records of its layers.
const INLINE: &str = "moby.buildkit.cache.v0";
/// Records of a cache, and names of sources.
const MOST: usize = 100_000;

#[derive(Debug, Default, Deserialize, Serialize)]
struct Config {
    #[serde(default, deserialize_with = "null_default")]
    layers: Vec<ConfigLayer>,
    #[serde(default, deserialize_with = "null_default")]
    records: Vec<ConfigRecord>,
}

#[derive(Debug, Deserialize, Serialize)]
struct ConfigLayer {
    blob: Digest,
    /// The one below by its number; -1 for none.
    #[serde(default)]
    parent: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    annotations: Option<Annotations>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Annotations {
    media_type: String,
    #[serde(rename = "diffID", skip_serializing_if = "Option::is_none")]
    diff_id: Option<DiffId>,
    size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    created_at: String,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct ConfigRecord {
    /// Layers that stand for all below them, too.
    #[serde(
        rename = "layers",
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    results: Vec<ConfigResult>,
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    chains: Vec<Chain>,
    digest: String,
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    inputs: Vec<Vec<Link>>,
}

#[derive(Debug, Deserialize, Serialize)]
struct ConfigResult {
    layer: i64,
}

/// Layers that stand for themselves.
#[derive(Debug, Deserialize, Serialize)]
struct Chain {
    #[serde(deserialize_with = "null_default")]
    layers: Vec<i64>,
    #[serde(rename = "createdAt", default)]
    created: String,
}

#[derive(Debug, Deserialize, Serialize)]
struct Link {
    link: i64,
}

fn null_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Config {
    /// What is wrong with it, if something is.
    fn check(&self) -> std::result::Result<(), String> {
        if self.records.len() > MOST {
            return Err(format!("it has more than {MOST} records"));
        }
        let layers = |index: i64| usize::try_from(index).is_ok_and(|i| i < self.layers.len());
        for record in &self.records {
            let results = record.results.iter().map(|result| result.layer);
            let chained = record.chains.iter().flat_map(|chain| &chain.layers);
            for index in results.chain(chained.copied()) {
                if !layers(index) {
                    return Err(format!("it has no layer {index}, which a record names"));
                }
            }
        }
        let parents = self.layers.iter().map(|layer| match layer.parent {
            -1 => Vec::new(),
            parent => vec![parent],
        });
        acyclic("layers", &parents.collect::<Vec<_>>())?;
        let links = self.records.iter().map(|record| {
            let links = record.inputs.iter().flatten();
            links.map(|link| link.link).collect()
        });
        acyclic("records", &links.collect::<Vec<_>>())
    }
}

/// Fails where things of a list that refer to others of it do so in a circle.
fn acyclic(what: &str, refers: &[Vec<i64>]) -> std::result::Result<(), String> {
    let mut needed = vec![0usize; refers.len()];
    for to in refers.iter().flatten() {
        let to = usize::try_from(*to).ok().and_then(|to| needed.get_mut(to));
        *to.ok_or_else(|| format!("one of its {what} refers to one that it does not have"))? += 1;
    }
    let mut free: Vec<usize> = (0..refers.len()).filter(|i| needed[*i] == 0).collect();
    let mut seen = 0;
    while let Some(next) = free.pop() {
        seen += 1;
        for to in refers[next]
            .iter()
            .filter_map(|to| usize::try_from(*to).ok())
        {
            needed[to] -= 1;
            if needed[to] == 0 {
                free.push(to);
            }
        }
    }
    match seen == refers.len() {
        true => Ok(()),
        false => Err(format!("its {what} refer to each other in a circle")),
    }
}

/// Fetches a layer of a cache, which must be the one that is named.
pub type FetchLayer = dyn Fn(&Descriptor, &DiffId) -> Result<HeldLayer> + Send + Sync;

/// The cache of another builder.
pub struct Import {
    name: String,
    steps: HashMap<Digest, Known>,
    sources: HashMap<Digest, Digest>,
    fetch: Box<FetchLayer>,
    /// Why it is not looked at any more.
    broken: OnceLock<String>,
}

impl std::fmt::Debug for Import {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Import")
            .field("name", &self.name)
            .field("steps", &self.steps.len())
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Known {
    layer: Option<(DiffId, Descriptor)>,
    created: String,
}

impl Import {
    /// Reads a cache: its configuration, the descriptors beside it, and what was said of sources.
    pub fn read(
        name: &str,
        config: &[u8],
        parts: &[Descriptor],
        sources: Option<&[u8]>,
        fetch: Box<FetchLayer>,
    ) -> Result<Self> {
        let wrong = |why: String| Error::Step(format!("the cache {name} cannot be used: {why}"));
        let config: Config =
            serde_json::from_slice(config).map_err(|error| wrong(error.to_string()))?;
        config.check().map_err(wrong)?;
        let parts: HashMap<Digest, &Descriptor> =
            parts.iter().map(|part| (part.digest, part)).collect();
        let layer = |layer: &ConfigLayer| {
            let diff_id = layer.annotations.as_ref()?.diff_id?;
            let part = parts.get(&layer.blob)?;
            is_layer(part).then(|| (diff_id, (*part).clone()))
        };
        let layers: Vec<Option<(DiffId, Descriptor)>> = config.layers.iter().map(layer).collect();
        let sources: HashMap<Digest, Digest> = match sources {
            Some(json) => serde_json::from_slice(json).map_err(|error| wrong(error.to_string()))?,
            None => HashMap::new(),
        };
        if sources.len() > MOST {
            return Err(wrong(format!("it has more than {MOST} sources")));
        }
        Ok(Self {
            name: name.to_owned(),
            steps: known(&config.records, &layers),
            sources,
            fetch,
            broken: OnceLock::new(),
        })
    }

    /// Reads the cache that lies in an image's configuration, whose layers `parts` describes.
    /// `None` where it has none.
    pub fn inline(
        name: &str,
        config: &[u8],
        parts: &[Descriptor],
        fetch: Box<FetchLayer>,
    ) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Image {
            #[serde(rename = "moby.buildkit.cache.v0", default)]
            cache: Option<String>,
            #[serde(default)]
            rootfs: Layers,
        }
        #[derive(Default, Deserialize)]
        struct Layers {
            #[serde(default, deserialize_with = "null_default")]
            diff_ids: Vec<DiffId>,
        }
        let wrong = |why: String| Error::Step(format!("the cache {name} cannot be used: {why}"));
        let image: Image =
            serde_json::from_slice(config).map_err(|error| wrong(error.to_string()))?;
        let Some(cache) = image.cache else {
            return Ok(None);
        };
        let records = STANDARD.decode(cache);
        let records = records.map_err(|error| wrong(error.to_string()))?;
        let records: Option<Vec<ConfigRecord>> =
            serde_json::from_slice(&records).map_err(|error| wrong(error.to_string()))?;
        let diff_ids = &image.rootfs.diff_ids;
        if diff_ids.len() != parts.len() {
            return Err(wrong(format!(
                "its configuration names {} layers but its manifest {}",
                diff_ids.len(),
                parts.len()
            )));
        }
        let config = Config {
            layers: (-1..)
                .zip(parts)
                .map(|(parent, part)| ConfigLayer {
                    blob: part.digest,
                    parent,
                    annotations: None,
                })
                .collect(),
            records: records.unwrap_or_default(),
        };
        config.check().map_err(wrong)?;
        let pairs = diff_ids.iter().zip(parts);
        let layers = pairs.map(|(diff_id, part)| is_layer(part).then(|| (*diff_id, part.clone())));
        Ok(Some(Self {
            name: name.to_owned(),
            steps: known(&config.records, &layers.collect::<Vec<_>>()),
            sources: HashMap::new(),
            fetch,
            broken: OnceLock::new(),
        }))
    }

    /// Why it is not looked at any more, if that is so.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }
}

fn is_layer(part: &Descriptor) -> bool {
    let kind = &part.media_type;
    kind.layer_compression().is_some() && !kind.is_foreign_layer()
}

/// The records that are ours.
fn known(
    records: &[ConfigRecord],
    layers: &[Option<(DiffId, Descriptor)>],
) -> HashMap<Digest, Known> {
    let read = |record: &ConfigRecord| {
        let (true, [chain]) = (record.inputs.is_empty(), record.chains.as_slice()) else {
            return None;
        };
        let layer = match chain.layers.as_slice() {
            [] => None,
            [index] => Some(layers.get(usize::try_from(*index).ok()?)?.clone()?),
            _ => return None,
        };
        // It gets into the configurations of images.
        chain.created.parse::<jiff::Timestamp>().ok()?;
        let created = chain.created.clone();
        Some((record.digest.parse().ok()?, Known { layer, created }))
    };
    records.iter().filter_map(read).collect()
}

/// What other builders know, for one build.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Imports<'a>(pub(crate) &'a [Arc<Import>]);

impl Imports<'_> {
    fn usable(&self) -> impl Iterator<Item = &Arc<Import>> {
        self.0.iter().filter(|import| import.broken().is_none())
    }

    /// How many are not looked at any more.
    pub(crate) fn broken(&self) -> usize {
        self.0.len() - self.usable().count()
    }

    /// What the sources of a copy are.
    pub(crate) fn content(&self, name: Key) -> Option<Digest> {
        self.usable()
            .find_map(|import| import.sources.get(&name.0).copied())
    }

    /// What a step came to, and when.
    pub(crate) fn find(
        &self,
        cache: &Cache,
        key: Key,
        record: impl Fn(Option<DiffId>, &str) -> Record,
    ) -> Result<Option<(Option<StepLayer>, String)>> {
        for import in self.usable() {
            let Some(known) = import.steps.get(&key.0) else {
                continue;
            };
            let created = known.created.clone();
            let layer = known.layer.as_ref();
            let held = layer.map(|(diff_id, _)| (diff_id, cache.images.hold_layer(diff_id)));
            let record = record(held.as_ref().map(|(diff_id, _)| **diff_id), &created);
            let layer = match (held, layer) {
                (Some((_, None)), Some((diff_id, descriptor))) => {
                    StepLayer::Elsewhere(Arc::new(Elsewhere {
                        diff_id: *diff_id,
                        descriptor: descriptor.clone(),
                        import: Arc::clone(import),
                        cache: cache.clone(),
                        key,
                        record,
                        held: Mutex::default(),
                    }))
                }
                (held, _) => {
                    let held = held.and_then(|(_, held)| held);
                    cache.note(key, &record)?;
                    match held {
                        Some(held) => StepLayer::Here(held),
                        None => return Ok(Some((None, created))),
                    }
                }
            };
            return Ok(Some((Some(layer), created)));
        }
        Ok(None)
    }
}

/// A layer that a step is on.
#[derive(Clone, Debug)]
pub(crate) enum StepLayer {
    /// It is in the store.
    Here(HeldLayer),
    /// It can be fetched.
    Elsewhere(Arc<Elsewhere>),
}

/// A layer in a cache of another builder.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    diff_id: DiffId,
    descriptor: Descriptor,
    import: Arc<Import>,
    cache: Cache,
    key: Key,
    record: Record,
    held: Mutex<Option<HeldLayer>>,
}

impl From<HeldLayer> for StepLayer {
    fn from(layer: HeldLayer) -> Self {
        Self::Here(layer)
    }
}

impl StepLayer {
    pub(crate) fn diff_id(&self) -> DiffId {
        match self {
            Self::Here(layer) => layer.diff_id(),
            Self::Elsewhere(layer) => layer.diff_id,
        }
    }

    /// Holds the layer, which is fetched if it must be. Blocks.
    pub(crate) fn here(&self) -> Result<HeldLayer> {
        match self {
            Self::Here(layer) => Ok(layer.clone()),
            Self::Elsewhere(layer) => layer.here(),
        }
    }
}

impl Elsewhere {
    fn here(&self) -> Result<HeldLayer> {
        // Held meanwhile: who wants the same waits for it.
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = &*held {
            return Ok(layer.clone());
        }
        let import = &self.import;
        match (import.fetch)(&self.descriptor, &self.diff_id) {
            Ok(layer) => {
                self.cache.note(self.key, &self.record)?;
                *held = Some(layer.clone());
                Ok(layer)
            }
            Err(error) => {
                let why = format!(
                    "the cache {} cannot be used: layer {}: {}",
                    import.name,
                    self.descriptor.digest.short(),
                    with_causes(&error)
                );
                let why = import.broken.get_or_init(|| why);
                Err(Error::Step(why.clone()))
            }
        }
    }
}

/// Holds layers, in their order; those that are elsewhere are fetched, all at once. Blocks.
pub(crate) fn here(layers: &[StepLayer]) -> Result<Vec<HeldLayer>> {
    std::thread::scope(|scope| {
        let fetching: Vec<_> = layers
            .iter()
            .filter(|layer| matches!(layer, StepLayer::Elsewhere(_)))
            .map(|layer| scope.spawn(|| layer.here()))
            .collect();
        for fetch in fetching {
            fetch.join().unwrap_or(Err(Error::Panicked))?;
        }
        Ok::<_, Error>(())
    })?;
    layers.iter().map(StepLayer::here).collect()
}

/// A step that a build has passed.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    pub(crate) key: Key,
    pub(crate) created: String,
    pub(crate) layer: Option<StepLayer>,
}

/// What a build has passed, for caches that other builders read.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    /// To the image.
    pub(crate) image: Vec<Passed>,
    /// In all stages.
    pub(crate) all: Vec<Passed>,
    pub(crate) sources: BTreeMap<Digest, Digest>,
    /// The layers that the image had before its first step.
    pub(crate) inherited: usize,
}

/// What a cache is made of that other builders shall read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExportMode {
    /// The steps of the image.
    #[default]
    Min,
    /// The steps of all stages.
    Max,
}

/// A cache for other builders.
#[derive(Debug)]
pub struct Export {
    /// Its layers.
    pub layers: Vec<HeldLayer>,
    records: Vec<ConfigRecord>,
    sources: BTreeMap<Digest, Digest>,
}

impl Built {
    /// Makes a cache of what was built. Blocks.
    pub fn export(&self, mode: ExportMode) -> Result<Export> {
        let trail = &self.trail;
        let steps = match mode {
            ExportMode::Min => &trail.image,
            ExportMode::Max => &trail.all,
        };
        let mut layers: Vec<StepLayer> = Vec::new();
        let mut index = HashMap::new();
        let mut records = BTreeMap::new();
        for step in steps {
            let chain = step.layer.iter().map(|layer| {
                *index.entry(layer.diff_id()).or_insert_with(|| {
                    layers.push(layer.clone());
                    layers.len() as i64 - 1
                })
            });
            let record = record(step, chain.collect());
            records.insert(step.key.0, record);
        }
        let sources = match mode {
            ExportMode::Min => BTreeMap::new(),
            ExportMode::Max => trail.sources.clone(),
        };
        Ok(Export {
            layers: here(&layers)?,
            records: records.into_values().collect(),
            sources,
        })
    }

    /// The same image with the cache of its steps in its configuration.
    pub fn with_inline_cache(&self) -> Result<Self> {
        let mut index = self.trail.inherited as i64;
        let records = self.trail.image.iter().map(|step| {
            let layer = step.layer.iter().map(|_| {
                index += 1;
                index - 1
            });
            record(step, layer.collect())
        });
        let records: Vec<ConfigRecord> = records.collect();
        let failed = |error| Error::Step(format!("write the cache: {error}"));
        let records = serde_json::to_vec(&records).map_err(failed)?;
        let mut config: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&self.image.config).map_err(failed)?;
        config.insert(INLINE.to_owned(), STANDARD.encode(records).into());
        let mut built = self.clone();
        built.image.config = serde_json::to_vec(&config).map_err(failed)?;
        Ok(built)
    }
}

fn record(step: &Passed, layers: Vec<i64>) -> ConfigRecord {
    ConfigRecord {
        digest: step.key.0.to_string(),
        chains: vec![Chain {
            layers,
            created: step.created.clone(),
        }],
        ..ConfigRecord::default()
    }
}

impl Export {
    /// Writes the documents of the cache, whose layers are packed like this.
    pub fn describe(self, packed: &[Descriptor]) -> Vec<ArtifactDocument> {
        let layers = self.layers.iter().zip(packed);
        let layers = layers.map(|(layer, packed)| ConfigLayer {
            blob: packed.digest,
            parent: -1,
            annotations: Some(Annotations {
                media_type: packed.media_type.to_string(),
                diff_id: Some(layer.diff_id()),
                size: packed.size,
                created_at: String::new(),
            }),
        });
        let config = Config {
            layers: layers.collect(),
            records: self.records,
        };
        let json = "digests and texts are always valid JSON";
        let mut documents = vec![ArtifactDocument {
            media_type: MediaType::from(CACHE_CONFIG),
            bytes: serde_json::to_vec(&config).expect(json),
        }];
        if !self.sources.is_empty() {
            documents.push(ArtifactDocument {
                media_type: MediaType::from(CACHE_SOURCES),
                bytes: serde_json::to_vec(&self.sources).expect(json),
            });
        }
        documents
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn read(config: &str, kind: MediaType) -> Result<Import> {
        let part = Descriptor::new(kind, D.parse().unwrap(), 3);
        let fetch = Box::new(|_: &Descriptor, _: &DiffId| Err(Error::Cancelled));
        Import::read("x", config.as_bytes(), &[part], None, fetch)
    }

    fn config(parent: i64, record: &str) -> String {
        format!(
            r#"{{"layers":[{{"blob":"{D}","parent":{parent},"annotations":{{"diffID":"{D}"}}}}],
                "records":[{record}]}}"#
        )
    }

    fn ours(layers: &str) -> String {
        format!(
            r#"{{"digest":"{D}","chains":[{{"layers":{layers},"createdAt":"2026-01-01T00:00:00Z"}}]}}"#
        )
    }

    #[test]
    fn records_of_this_builder_are_read_and_others_passed_over() {
        let import = read(&config(-1, &ours("[0]")), MediaType::OciLayerGzip).unwrap();
        assert!(import.steps[&D.parse().unwrap()].layer.is_some());
        let import = read(&config(-1, &ours("[]")), MediaType::OciLayerGzip).unwrap();
        assert!(import.steps[&D.parse().unwrap()].layer.is_none());
        for other in [
            format!(r#"{{"digest":"{D}","layers":[{{"layer":0}}]}}"#),
            r#"{"digest":"random:abc"}"#.to_owned(),
            ours("[0,0]"),
            ours("[0]").replace("2026", "then"),
        ] {
            let import = read(&config(-1, &other), MediaType::OciLayerGzip).unwrap();
            assert!(import.steps.is_empty(), "{other}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (parent, record, why) in [
            (0, ours("[0]"), "in a circle"),
            (7, ours("[0]"), "does not have"),
            (-2, ours("[0]"), "does not have"),
            (-1, ours("[1]"), "no layer 1"),
            (-1, ours("[-1]"), "no layer -1"),
            (
                -1,
                r#"{"digest":"a","inputs":[[{"link":0}]]}"#.to_owned(),
                "in a circle",
            ),
            (
                -1,
                r#"{"digest":"a","inputs":[[{"link":9}]]}"#.to_owned(),
                "does not have",
            ),
        ] {
            let error = read(&config(parent, &record), MediaType::OciLayerGzip).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        assert!(read("{\"layers\": 7}", MediaType::OciLayerGzip).is_err());
    }

    #[test]
    fn layers_that_registries_may_not_have_are_no_layers() {
        for kind in [MediaType::OciForeignLayerGzip, MediaType::OciConfig] {
            let import = read(&config(-1, &ours("[0]")), kind).unwrap();
            assert!(import.steps.is_empty());
        }
    }
}
