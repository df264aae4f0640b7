//! Images, with news and with what containers use.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use jiff::Timestamp;
use sampan_images::{
    ContainerUse, HistoryEntry, Image, ImageStore, ImportOptions, Loaded, ProgressSink,
    RemoveOptions as Options, Removed,
};
use sampan_oci::{ImageId, Platform, Reference};

use crate::container::registry::Registry;
use crate::error::chain;
use crate::{Action, Error, ErrorKind, EventBus, EventKind, Result};

/// Everything that can be done to images. A cheap clone.
#[derive(Debug, Clone)]
pub struct ImageService {
    store: ImageStore,
    bundled: Arc<[Bundled]>,
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

/// Which images a list shows: several values of a field are alternatives, except labels, which
/// must all match; different fields must all match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFilter {
    /// Names with `*` and `?`, with or without tag.
    pub references: Vec<String>,
    /// `name` or `name=value`.
    pub labels: Vec<String>,
    /// With or without names.
    pub dangling: Option<bool>,
    /// Created before this image.
    pub before: Option<String>,
    /// Created after this image.
    pub since: Option<String>,
    /// Created before this time.
    pub until: Option<Timestamp>,
}

impl ImageFilter {
    /// Reads the filters of a request: key to values.
    pub fn parse(filters: &BTreeMap<String, Vec<String>>) -> Result<Self> {
        let mut filter = Self::default();
        for (key, values) in filters {
            for value in values {
                let bad = || Error::invalid(format!("invalid filter '{key}={value}'"));
                match key.as_str() {
                    "reference" => filter.references.push(value.clone()),
                    "label" => filter.labels.push(value.clone()),
                    "dangling" => {
                        filter.dangling = Some(match value.as_str() {
                            "true" | "1" => true,
                            "false" | "0" => false,
                            _ => return Err(bad()),
                        });
                    }
                    "before" => filter.before = Some(value.clone()),
                    "since" => filter.since = Some(value.clone()),
                    "until" => {
                        filter.until = Some(match value.parse::<i64>() {
                            Ok(second) => Timestamp::from_second(second).map_err(|_| bad())?,
                            Err(_) => value.parse().map_err(|_| bad())?,
                        });
                    }
                    _ => return Err(Error::invalid(format!("invalid filter '{key}'"))),
                }
            }
        }
        Ok(filter)
    }
}

impl ImageService {
    pub(crate) fn new(
        store: ImageStore,
        bundled: Vec<Bundled>,
        registry: Registry,
        events: EventBus,
    ) -> Self {
        Self {
            store,
            bundled: bundled.into(),
            registry,
            events,
        }
    }

    /// Returns the store below, for what needs no news: progress of a pull, bundled images.
    pub fn store(&self) -> &ImageStore {
        &self.store
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

    /// Returns images, newest first.
    pub async fn list(&self, filter: ImageFilter) -> Result<Vec<Arc<Image>>> {
        let time_of = |name: &Option<String>| -> Result<Option<Timestamp>> {
            let Some(name) = name else { return Ok(None) };
            Ok(Some(created(&*self.store.find(name)?)))
        };
        let (before, since) = (time_of(&filter.before)?, time_of(&filter.since)?);
        let images = self.store.list();
        Ok(images
            .into_iter()
            .filter(|image| {
                let labels = &image.config.config.labels;
                filter
                    .dangling
                    .is_none_or(|wanted| image.is_dangling() == wanted)
                    && filter
                        .labels
                        .iter()
                        .all(|label| match label.split_once('=') {
                            Some((key, value)) => labels.get(key).is_some_and(|v| v == value),
                            None => labels.contains_key(label),
                        })
                    && (filter.references.is_empty()
                        || filter
                            .references
                            .iter()
                            .any(|pattern| image.tags.iter().any(|tag| fits(tag, pattern))))
                    && before.is_none_or(|at| created(image) < at)
                    && since.is_none_or(|at| created(image) > at)
                    && filter.until.is_none_or(|at| created(image) < at)
            })
            .map(|image| only_fitting(image, &filter.references))
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
        self.tell(Action::Tag, &image, target);
        Ok(image)
    }

    /// Removes a name, and the image with its last one.
    pub async fn remove(&self, image: &str, options: Options) -> Result<Vec<Removed>> {
        let (store, uses, name) = (self.store.clone(), self.uses(), image.to_owned());
        let removed = crate::blocking(move || Ok(store.remove(&name, options, &uses)?)).await?;
        self.tell_removed(&removed);
        Ok(removed)
    }

    /// Removes images that no container uses: nameless ones, or all with `all`. Returns the steps
    /// and the bytes freed.
    pub async fn prune(&self, all: bool) -> Result<(Vec<Removed>, u64)> {
        let (store, uses) = (self.store.clone(), self.uses());
        let pruned =
            crate::blocking(move || Ok(store.prune(|image| all || image.is_dangling(), &uses)?))
                .await?;
        self.tell_removed(&pruned.0);
        Ok(pruned)
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

    /// Tells that an image was pulled.
    pub fn tell_pulled(&self, image: &Image, name: &Reference) {
        let familiar = name.familiar();
        let mut attributes = image.config.config.labels.clone();
        let repository = familiar.split('@').next().unwrap_or(&familiar);
        attributes.insert("name".to_owned(), without_tag(repository).to_owned());
        self.events
            .publish(EventKind::Image, Action::Pull, familiar, attributes);
    }

    fn tell_removed(&self, removed: &[Removed]) {
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
    }

    /// Returns what the containers need.
    pub(crate) fn uses(&self) -> Vec<ContainerUse> {
        let records = self.registry.records();
        records
            .iter()
            .map(|record| ContainerUse {
                container: record.id.to_string(),
                image: record.image_id,
                layers: record.layers.clone(),
                running: record.lifecycle.is_running(),
            })
            .collect()
    }

    /// Returns whether a name still leads to an image.
    pub(crate) fn leads_to(&self, name: &str, id: &ImageId) -> bool {
        self.store.find(name).is_ok_and(|image| image.id == *id)
    }
}

fn created(image: &Image) -> Timestamp {
    let parsed = image.created().and_then(|text| text.parse().ok());
    parsed.unwrap_or(Timestamp::UNIX_EPOCH)
}

fn without_tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// Matches a name against a pattern with and without its tag.
fn fits(tag: &Reference, pattern: &str) -> bool {
    let name = tag.familiar();
    glob(pattern.as_bytes(), name.as_bytes())
        || glob(pattern.as_bytes(), without_tag(&name).as_bytes())
}

/// The image with only those of its names that were asked for, as Docker lists it.
fn only_fitting(image: Arc<Image>, patterns: &[String]) -> Arc<Image> {
    if patterns.is_empty() {
        return image;
    }
    let mut shown = Image::clone(&image);
    shown
        .tags
        .retain(|tag| patterns.iter().any(|pattern| fits(tag, pattern)));
    Arc::new(shown)
}

/// Shell patterns of which `*` and `?` stop at a slash.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.first(), text.first()) {
        (None, None) => true,
        (Some(b'*'), _) => {
            glob(&pattern[1..], text)
                || text.first().is_some_and(|b| *b != b'/') && glob(pattern, &text[1..])
        }
        (Some(b'?'), Some(b)) => *b != b'/' && glob(&pattern[1..], &text[1..]),
        (Some(a), Some(b)) => a == b && glob(&pattern[1..], &text[1..]),
        (Some(_), None) | (None, Some(_)) => false,
    }
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
        let converted = Self::new(kind, chain(&error));
        match hint {
            Some(hint) => converted.with_hint(hint),
            None => converted,
        }
    }
}

impl From<sampan_layers::Error> for Error {
    fn from(error: sampan_layers::Error) -> Self {
        Self::internal(chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_dockers() {
        for (pattern, name, wanted) in [
            ("busybox", "busybox:latest", true),
            ("busybox:*", "busybox:latest", true),
            ("busy*", "busybox:1", true),
            ("b?sybox", "busybox:1", true),
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
    }
}
