//! Images, with news and with what containers use.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;
use std::sync::Arc;

use jiff::Timestamp;
use sampan_images::{
    ContainerUse, Credentials, Damage, Found, HistoryEntry, Image, ImageDiff, ImageStore,
    ImageTree, ImportOptions, Loaded, ProgressSink, Proof, PushOptions, RemoteImage,
    RemoveOptions as Options, Removed, Saved, Space,
};
use sampan_oci::{DiffId, ImageId, Platform, Reference};
use sampan_text::with_causes;

use crate::collector::{Collector, CollectorConfig};
use crate::container::record::Record;
use crate::container::registry::Registry;
use crate::prune::{self, PruneFilter, Pruned};
use crate::{Action, Error, ErrorKind, EventBus, EventKind, Result, glob, moment};

/// Everything that can be done to images. A cheap clone.
#[derive(Debug, Clone)]
pub struct ImageService {
    store: ImageStore,
    bundled: Arc<[Bundled]>,
    pub(crate) collector: Arc<Collector>,
    registry: Registry,
    events: EventBus,
}

/// An image that comes with the engine: to pull it needs no network.
#[derive(Debug, Clone, Copy)]
pub struct Bundled {
    /// The name that pulls it, such as `hello-world:latest`.
    pub name: &'static str,
    /// Makes the archive, in a form that load takes.
    pub archive: fn() -> Vec<u8>,
}

/// Which images a list shows: names are alternatives, everything else must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFilter {
    /// Names with `*`, `?` and `[a-z]`, with or without tag.
    pub references: Vec<String>,
    /// `name` or `name=value`.
    pub labels: Vec<String>,
    /// With or without names.
    pub dangling: Option<bool>,
    /// Made before these images.
    pub before: Vec<String>,
    /// Made after these images.
    pub since: Vec<String>,
    /// Made before this time.
    pub until: Option<Timestamp>,
}

/// Whether a list shows images that others were built on and that have no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intermediate {
    /// Leave them out.
    Hide,
    /// Show them, too.
    Show,
}

impl ImageFilter {
    /// Reads the filters of a request: key to values.
    pub fn parse(filters: &BTreeMap<String, Vec<String>>) -> Result<Self> {
        let mut filter = Self::default();
        for (key, values) in filters {
            match key.as_str() {
                "reference" => filter.references.clone_from(values),
                "label" => filter.labels.clone_from(values),
                "dangling" => filter.dangling = prune::truth(key, values)?,
                "before" => filter.before.clone_from(values),
                "since" => filter.since.clone_from(values),
                "until" => {
                    for value in values {
                        let at = moment::parse(value, Timestamp::now()).ok_or_else(|| {
                            Error::invalid(format!("invalid filter '{key}={value}'"))
                        })?;
                        filter.until = Some(filter.until.map_or(at, |until| until.min(at)));
                    }
                }
                _ => return Err(Error::invalid(format!("invalid filter '{key}'"))),
            }
        }
        for pattern in &filter.references {
            glob::fits(pattern, "")?;
        }
        Ok(filter)
    }
}

impl ImageService {
    pub(crate) fn new(
        store: ImageStore,
        bundled: Vec<Bundled>,
        collector: CollectorConfig,
        registry: Registry,
        events: EventBus,
    ) -> Self {
        Self {
            store,
            bundled: bundled.into(),
            collector: Arc::new(Collector::new(collector)),
            registry,
            events,
        }
    }

    /// Returns the store below, for what needs no news: progress of a pull, bundled images.
    pub fn store(&self) -> &ImageStore {
        &self.store
    }

    /// Checks credentials with a registry. Returns the token to keep in the password's place;
    /// empty where there is none.
    pub async fn log_in(&self, registry: &str, credentials: &Credentials) -> Result<String> {
        Ok(self.store.log_in(registry, credentials).await?)
    }

    /// Installs the image that comes with the engine under this name; `None` where none does.
    pub async fn install_bundled(&self, reference: &Reference) -> Result<Option<Arc<Image>>> {
        let named = |bundled: &&Bundled| {
            bundled
                .name
                .parse()
                .is_ok_and(|name: Reference| name == *reference)
        };
        let Some(bundled) = self.bundled.iter().find(named).copied() else {
            return Ok(None);
        };
        let store = self.store.clone();
        let image =
            crate::blocking(move || Ok(store.install_bundled(bundled.name, &(bundled.archive)())?));
        image.await.map(Some)
    }

    /// Returns images, newest first, each with those of its names that the filter asks for.
    pub async fn list(
        &self,
        filter: ImageFilter,
        intermediate: Intermediate,
    ) -> Result<Vec<Arc<Image>>> {
        let times = |names: &[String]| -> Result<Vec<Timestamp>> {
            let found = names
                .iter()
                .map(|name| Ok(created(&*self.store.find(name)?)));
            found.collect()
        };
        let (before, since) = (times(&filter.before)?, times(&filter.since)?);
        let images = self.store.list();
        let parents: HashSet<ImageId> = images.iter().filter_map(|image| image.parent).collect();
        let fits = |image: &Image| {
            let nameless = image.tags.is_empty() && image.digests.is_empty();
            let hidden =
                nameless && intermediate == Intermediate::Hide && parents.contains(&image.id);
            let wanted = match filter.dangling {
                Some(true) => image.tags.is_empty(),
                Some(false) => !nameless,
                None => true,
            };
            let at = created(image);
            !hidden
                && wanted
                && prune::has_all(&image.config.config.labels, &filter.labels)
                && before.iter().all(|before| at < *before)
                && since.iter().all(|since| at > *since)
                && filter.until.is_none_or(|until| at < until)
        };
        Ok(images
            .into_iter()
            .filter(|image| fits(image))
            .filter_map(|image| only_fitting(image, &filter.references))
            .collect())
    }

    /// Returns an image by name, identity or prefix of one.
    pub async fn inspect(&self, image: &str) -> Result<Arc<Image>> {
        Ok(self.store.find(image)?)
    }

    /// Returns how an image was made, newest step first.
    pub async fn history(&self, image: &str) -> Result<Vec<HistoryEntry>> {
        Ok(self.store.find(image)?.history())
    }

    /// Returns how many containers were made of an image.
    pub fn containers_of(&self, id: &ImageId) -> usize {
        self.registry
            .records()
            .iter()
            .filter(|record| record.image_id == *id)
            .count()
    }

    /// Gives an image one more name; another image loses it.
    pub async fn tag(&self, source: &str, target: &str) -> Result<Arc<Image>> {
        let (store, source_name, target_name) =
            (self.store.clone(), source.to_owned(), target.to_owned());
        let image = crate::blocking(move || Ok(store.tag(&source_name, &target_name)?)).await?;
        let name = target
            .parse::<Reference>()
            .map_or_else(|_| target.to_owned(), |name| name.or_latest().familiar());
        self.tell(Action::Tag, &image, &name);
        Ok(image)
    }

    /// Removes a name, and the image with its last one.
    pub async fn remove(&self, image: &str, options: Options) -> Result<Vec<Removed>> {
        let (store, uses, name) = (self.store.clone(), self.uses(), image.to_owned());
        let removed = crate::blocking(move || Ok(store.remove(&name, &options, &uses)?)).await?;
        self.tell_removed(&removed);
        Ok(removed)
    }

    /// Removes images that no container uses: nameless ones, or all where the filter says that
    /// dangling is false.
    pub async fn prune(&self, filter: PruneFilter) -> Result<Pruned<Removed>> {
        let (store, service) = (self.store.clone(), self.clone());
        let all = filter.dangling == Some(false);
        let unwanted = move |image: &Image| {
            (all || image.is_dangling()) && filter.fits(created(image), &image.config.config.labels)
        };
        let pruned = crate::blocking(move || Ok(store.prune(unwanted, || service.uses())?)).await;
        let (removed, freed) = pruned?;
        self.tell_removed(&removed);
        self.tell_pruned(freed.unpacked);
        Ok(Pruned {
            removed,
            reclaimed: freed.unpacked,
        })
    }

    /// Takes images from an archive in the format of `docker save` or of OCI layouts.
    pub async fn load(
        &self,
        reader: impl Read + Send + 'static,
        platform: Option<Platform>,
        progress: ProgressSink,
    ) -> Result<Vec<Loaded>> {
        let store = self.store.clone();
        let loaded =
            crate::blocking(move || Ok(store.load(reader, platform.as_ref(), &progress)?)).await?;
        for one in &loaded {
            self.tell(Action::Load, &one.image, &one.image.id.to_string());
        }
        Ok(loaded)
    }

    /// Lists the tags that a repository has in its registry.
    pub async fn remote_tags(
        &self,
        repository: &Reference,
        credentials: &Credentials,
    ) -> Result<Vec<Reference>> {
        Ok(self.store.remote_tags(repository, credentials).await?)
    }

    /// Looks up what a name stands for in its registry.
    pub async fn remote_image(
        &self,
        reference: &Reference,
        credentials: &Credentials,
    ) -> Result<RemoteImage> {
        Ok(self.store.remote_image(reference, credentials).await?)
    }

    /// Searches for repositories, in the registry that the term begins with or in Docker Hub.
    pub async fn search(
        &self,
        term: &str,
        limit: usize,
        credentials: &Credentials,
    ) -> Result<Vec<Found>> {
        Ok(self.store.search(term, limit, credentials).await?)
    }

    /// Opens a file on another server, for an import.
    pub async fn open_url(&self, url: &str) -> Result<impl Read + Send + use<>> {
        Ok(self.store.open_url(url, None).await?)
    }

    /// Makes an image of a root file system's tar.
    pub async fn import(
        &self,
        reader: impl Read + Send + 'static,
        options: ImportOptions,
        progress: ProgressSink,
    ) -> Result<Arc<Image>> {
        let store = self.store.clone();
        let image = crate::blocking(move || Ok(store.import(reader, &options, &progress)?)).await?;
        self.tell(Action::Import, &image, &image.id.to_string());
        Ok(image)
    }

    /// Pushes the image that a name means, or all tags of a repository. The future cannot move
    /// between threads.
    pub async fn push(
        &self,
        reference: &Reference,
        options: &PushOptions,
        progress: &ProgressSink,
    ) -> Result<()> {
        self.store.push(reference, options, progress).await?;
        if let Some(image) = self.store.resolve(reference) {
            self.tell_named(Action::Push, &image, reference);
        }
        Ok(())
    }

    /// Prepares images for an archive that `docker load` and readers of OCI layouts take.
    pub async fn save(&self, names: Vec<String>, platform: Option<Platform>) -> Result<Saved> {
        let store = self.store.clone();
        let saved = crate::blocking(move || Ok(store.save(&names, platform.as_ref())?)).await?;
        for image in saved.images() {
            self.tell(Action::Save, image, &image.id.to_string());
        }
        Ok(saved)
    }

    /// Tells that an image was pulled.
    pub fn tell_pulled(&self, image: &Image, name: &Reference) {
        self.tell_named(Action::Pull, image, name);
    }

    fn tell_named(&self, action: Action, image: &Image, name: &Reference) {
        let familiar = name.familiar();
        let mut attributes = image.config.config.labels.clone();
        let repository = familiar.split('@').next().unwrap_or(&familiar);
        attributes.insert("name".to_owned(), without_tag(repository).to_owned());
        self.events
            .publish(EventKind::Image, action, familiar, attributes);
        self.collector.nudge();
    }

    pub(crate) fn tell_removed(&self, removed: &[Removed]) {
        for step in removed {
            let (action, id, name) = match step {
                Removed::Untagged { image, .. } => (Action::Untag, image, image.to_string()),
                Removed::Deleted(image) => (Action::Delete, image, image.to_string()),
                Removed::DeletedLayer(_) => continue,
            };
            let attributes = BTreeMap::from([("name".to_owned(), name)]);
            self.events
                .publish(EventKind::Image, action, id.to_string(), attributes);
        }
    }

    fn tell(&self, action: Action, image: &Image, name: &str) {
        let mut attributes = image.config.config.labels.clone();
        attributes.insert("name".to_owned(), name.to_owned());
        self.events
            .publish(EventKind::Image, action, image.id.to_string(), attributes);
        self.collector.nudge();
    }

    pub(crate) fn tell_pruned(&self, reclaimed: u64) {
        prune::tell(&self.events, EventKind::Image, reclaimed);
    }

    /// Measures what images, layers and blobs take.
    pub async fn space(&self) -> Result<Space> {
        let service = self.clone();
        crate::blocking(move || Ok(service.store.space(&service.uses())?)).await
    }

    /// Takes an image apart.
    pub async fn tree(&self, image: &str) -> Result<ImageTree> {
        let (store, image) = (self.store.clone(), image.to_owned());
        crate::blocking(move || Ok(store.tree(&image)?)).await
    }

    /// Compares the files of two images.
    pub async fn diff(&self, old: &str, new: &str) -> Result<ImageDiff> {
        let (store, old, new) = (self.store.clone(), old.to_owned(), new.to_owned());
        crate::blocking(move || Ok(store.diff(&old, &new)?)).await
    }

    /// Proves that images are whole; all of them, and what was set aside before, when none is
    /// named.
    pub async fn verify(&self, images: Vec<String>) -> Result<(Vec<Proof>, Vec<Damage>)> {
        let store = self.store.clone();
        crate::blocking(move || {
            if images.is_empty() {
                return Ok((store.verify(&store.list()), store.set_aside()));
            }
            let images = store.find_all(images.iter().map(String::as_str))?;
            Ok((store.verify(&images), Vec::new()))
        })
        .await
    }

    /// Returns what the containers need.
    pub(crate) fn uses(&self) -> Vec<ContainerUse> {
        let records = self.registry.records();
        let of = |record: &Record, image, layers: &[DiffId]| ContainerUse {
            container: record.id.to_string(),
            image,
            layers: layers.to_vec(),
            running: record.lifecycle.is_running(),
        };
        let mut uses = Vec::new();
        for record in &records {
            uses.push(of(record, record.image_id, &record.layers));
            let mounts = record.mounts.iter();
            let mounted = mounts.filter_map(|mount| mount.carry_out.image.as_ref());
            uses.extend(mounted.map(|image| of(record, image.id, &image.layers)));
        }
        uses
    }

    /// Returns whether a name still leads to an image.
    pub(crate) fn leads_to(&self, name: &str, id: &ImageId) -> bool {
        self.store.find(name).is_ok_and(|image| image.id == *id)
    }
}

/// When an image was made.
pub(crate) fn created(image: &Image) -> Timestamp {
    let parsed = image.created().and_then(|text| text.parse().ok());
    parsed.unwrap_or(Timestamp::UNIX_EPOCH)
}

fn without_tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// Matches a name against a pattern with and without its tag or digest.
fn fits(name: &Reference, pattern: &str) -> bool {
    let full = name.familiar();
    // Checked when the filter was read.
    let fits = |text: &str| glob::fits(pattern, text).unwrap_or(false);
    fits(&full) || fits(&name.familiar_name())
}

/// The image with only those of its names that were asked for, as Docker lists it; none when
/// there is none of them.
fn only_fitting(image: Arc<Image>, patterns: &[String]) -> Option<Arc<Image>> {
    if patterns.is_empty() {
        return Some(image);
    }
    let asked_for = |name: &Reference| patterns.iter().any(|pattern| fits(name, pattern));
    let mut shown = Image::clone(&image);
    shown.tags.retain(asked_for);
    shown.digests.retain(asked_for);
    (!shown.tags.is_empty() || !shown.digests.is_empty()).then(|| Arc::new(shown))
}

impl From<sampan_images::Error> for Error {
    fn from(error: sampan_images::Error) -> Self {
        use sampan_images::ErrorKind as Images;
        let kind = match error.kind() {
            Images::NotFound => ErrorKind::NotFound,
            Images::Conflict => ErrorKind::Conflict,
            Images::Invalid => ErrorKind::Invalid,
            Images::Unauthorized | Images::Forbidden => ErrorKind::Forbidden,
            Images::Unavailable => ErrorKind::Unavailable,
            Images::NoSpace | Images::Internal => ErrorKind::Internal,
        };
        let hint = error.hint();
        let converted = Self::new(kind, with_causes(&error));
        match hint {
            Some(hint) => converted.with_hint(hint),
            None => converted,
        }
    }
}

impl From<sampan_layers::Error> for Error {
    fn from(error: sampan_layers::Error) -> Self {
        Self::internal(with_causes(&error))
    }
}

#[cfg(test)]
mod tests {
    use sampan_images::NewImage;
    use sampan_oci::ImageConfig;
    use sampan_state::{Layout, Store};

    use super::*;

    /// A service without containers, and a directory that lives as long as it.
    fn service() -> (tempfile::TempDir, ImageService) {
        let root = tempfile::tempdir().unwrap();
        let layers = sampan_layers::LayerStore::open(root.path(), Default::default()).unwrap();
        let store = ImageStore::open(root.path(), layers, Default::default()).unwrap();
        let records = Store::open_as(root.path().join("containers"), Layout::Directories).unwrap();
        let service = ImageService::new(
            store,
            Vec::new(),
            CollectorConfig::default(),
            Registry::new(records),
            EventBus::open(&root.path().join("events")).unwrap(),
        );
        (root, service)
    }

    #[tokio::test]
    async fn intermediate_images_are_hidden_and_kept_while_a_dependant_lives() {
        let (_root, service) = service();
        let add = |step: &str, parent: Option<&Image>, names: &[&str]| {
            let config = ImageConfig {
                os: "linux".to_owned(),
                comment: step.to_owned(),
                ..ImageConfig::default()
            };
            let new = NewImage {
                config: serde_json::to_vec(&config).unwrap(),
                blobs: Vec::new(),
                manifest: None,
                parent: parent.map(|image| image.id),
                names: names.iter().map(|name| name.parse().unwrap()).collect(),
            };
            service.store.add(&new).unwrap()
        };
        let base = add("base", None, &["base:1"]);
        let middle = add("middle", Some(&*base), &[]);
        let top = add("top", Some(&*middle), &["top:1"]);
        let shown = async |intermediate| {
            let listed = service.list(ImageFilter::default(), intermediate).await;
            let mut ids: Vec<ImageId> = listed.unwrap().iter().map(|image| image.id).collect();
            ids.sort();
            ids
        };
        let mut named = vec![base.id, top.id];
        named.sort();
        assert_eq!(shown(Intermediate::Hide).await, named);
        assert_eq!(shown(Intermediate::Show).await.len(), 3);
        let force = Options {
            force: true,
            ..Options::default()
        };
        let id = middle.id.to_string();
        let refused = service.remove(&id, force).await.unwrap_err();
        assert!(
            refused
                .message()
                .ends_with("(cannot be forced) - image has dependent child images"),
            "{refused}"
        );
        let pruned = service.prune(PruneFilter::default()).await.unwrap();
        assert!(pruned.removed.is_empty());
        let removed = service.remove("top:1", Options::default()).await.unwrap();
        let deleted = |id: ImageId| removed.contains(&Removed::Deleted(id));
        assert!(deleted(top.id) && deleted(middle.id) && !deleted(base.id));
    }

    #[tokio::test]
    async fn an_image_that_others_were_built_on_loses_its_name_alone() {
        let (_root, service) = service();
        let add = |step: &str, parent: Option<ImageId>| {
            let config = ImageConfig {
                os: "linux".to_owned(),
                comment: step.to_owned(),
                ..ImageConfig::default()
            };
            let new = NewImage {
                config: serde_json::to_vec(&config).unwrap(),
                blobs: Vec::new(),
                manifest: None,
                parent,
                names: vec![format!("{step}:1").parse().unwrap()],
            };
            service.store.add(&new).unwrap().id
        };
        let base = add("base", None);
        let top = add("top", Some(base));
        let removed = service.remove("base:1", Options::default()).await.unwrap();
        let untagged = Removed::Untagged {
            name: "base:1".to_owned(),
            image: base,
        };
        assert_eq!(removed, [untagged]);
        assert!(service.store.get(&base).is_some());
        // With the last that was built on it, it goes too.
        let removed = service.remove("top:1", Options::default()).await.unwrap();
        assert!(
            removed.contains(&Removed::Deleted(top)) && removed.contains(&Removed::Deleted(base))
        );
    }

    #[test]
    fn patterns_are_dockers() {
        for (pattern, name, wanted) in [
            ("busybox", "busybox:latest", true),
            ("busybox:*", "busybox:latest", true),
            ("busy*", "busybox:1", true),
            ("b?sybox", "busybox:1", true),
            ("b[tu]sybox:[0-9]", "busybox:1", true),
            ("box", "busybox:1", false),
            ("*", "a/b:1", false),
            ("*/b", "a/b:1", true),
        ] {
            assert_eq!(
                fits(&name.parse().unwrap(), pattern),
                wanted,
                "{pattern} {name}"
            );
        }
        let bad = BTreeMap::from([("reference".to_owned(), vec!["[".to_owned()])]);
        assert!(ImageFilter::parse(&bad).is_err());
    }
}
