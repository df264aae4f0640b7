//! What a build copies from: files that a client sends, of which only those are sent again that
//! have changed.
//!
//! A context is one layer or a few: the first with all files, the others with what has changed
//! since, whiteouts for what is gone. Beside its record lies the manifest, which says what the
//! layers come to, with the digest of each file, so that a build that has not changed reads none.
//!
//! ```text
//! ROOT/build/contexts/<digest of key>/record.json    layers, and which manifest: crate state
//! ROOT/build/contexts/<digest of key>/<digest>       the manifest of this digest
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

use rustix::fs::{Mode, OFlags};
use sampan_archive::{Attributes, LayerWriter};
use sampan_images::{HeldLayer, ImageStore, NewLayer};
use sampan_oci::digest::Hasher;
use sampan_oci::{DiffId, Digest};
use sampan_state::{Layout, Store, Sync as Durability};
use serde::{Deserialize, Serialize};

use crate::cache::{Key, KeyMaker};
use crate::files::{Files, Kind, shown};
use crate::manifest::{Item, Manifest, records};
use crate::uses::Uses;
use crate::{Error, Result};

/// Layers of a context; one that would have more is written anew.
const LAYERS: usize = 8;
/// Bytes of changes that are kept whatever the size of the files.
const CHANGES: u64 = 64 << 20;
/// Paths that a context may have.
const MOST: usize = 2_000_000;
/// Files up to this size wait in memory for their turn.
const SMALL: u64 = 1 << 20;
const LONGEST_PATH: usize = 4096;
const LONGEST_NAME: usize = 255;
/// In a layer such a name would remove another file.
const WHITEOUT: &[u8] = b".wh.";

/// Files to build from. As long as it, or a clone, is there, they stay as they are.
#[derive(Clone, Debug)]
pub struct Context(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layers: Vec<HeldLayer>,
    manifest: OnceLock<Arc<Manifest>>,
    name: Option<Key>,
}

impl Context {
    /// The files of a single layer, such as a tar that a client has sent.
    pub fn of_layer(layer: HeldLayer) -> Self {
        Self::of_layers(vec![layer])
    }

    /// The files of layers, bottom first.
    pub fn of_layers(layers: Vec<HeldLayer>) -> Self {
        let mut name = KeyMaker::new("context");
        for layer in &layers {
            name.text("layer", &layer.diff_id().to_string());
        }
        Self(Arc::new(Inner {
            layers,
            manifest: OnceLock::new(),
            name: Some(name.key()),
        }))
    }

    fn of_files(layers: Vec<HeldLayer>, manifest: Arc<Manifest>) -> Self {
        Self(Arc::new(Inner {
            layers,
            manifest: OnceLock::from(manifest),
            // Each file has a digest of its own.
            name: None,
        }))
    }

    /// Its layers, bottom first.
    pub fn layers(&self) -> &[HeldLayer] {
        &self.0.layers
    }

    /// Reads a file of at most so many bytes; `None` where there is none. Links are followed
    /// within the context.
    pub fn read(&self, images: &ImageStore, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        match self.files(images)?.read(path, limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Its files, none of which is looked at yet.
    pub(crate) fn files(&self, images: &ImageStore) -> Result<Files> {
        let files = Files::of(images, &self.0.layers, self.0.name);
        let manifest = match (self.0.manifest.get(), &self.0.layers[..]) {
            (Some(manifest), _) => manifest,
            (None, [layer]) => {
                let entries = images.layers().entries(&layer.diff_id())?;
                let read = || Arc::new(Manifest::of_layer(entries));
                self.0.manifest.get_or_init(read)
            }
            (None, _) => return Ok(files),
        };
        Ok(files.known(manifest.clone()))
    }
}

/// A path of a client's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Below the root, without a slash in front.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Names and values of extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What a path of a client's files is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A file of this size.
    File(u64),
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// One more name of a file that was told before.
    HardLink(Vec<u8>),
    /// A named pipe.
    Fifo,
}

/// What is stored of a context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// What the client calls it.
    pub(crate) key: String,
    /// Bottom first.
    pub(crate) layers: Vec<DiffId>,
    manifest: Digest,
    /// RFC 3339.
    pub(crate) created: String,
}

/// The contexts that clients have sent; clones share them. Their layers stay as long as their
/// records do.
#[derive(Clone, Debug)]
pub struct Contexts {
    shared: Arc<Shared>,
    images: ImageStore,
    uses: Arc<Uses>,
}

#[derive(Debug)]
struct Shared {
    records: Store<Record>,
    root: PathBuf,
    /// Held while a record takes another's place.
    changing: Mutex<()>,
    /// Layers that no record needs any more, although a build may.
    retired: Mutex<HashSet<DiffId>>,
}

impl Contexts {
    /// Opens the contexts below `root`, and has the layers kept that they refer to. A damaged
    /// record is set aside: its files are sent again then.
    pub(crate) fn open(root: &Path, images: ImageStore, uses: Arc<Uses>) -> Result<Self> {
        let root = root.join("build/contexts");
        let records = Store::<Record>::open_as(&root, Layout::Directories)?;
        // What a kill has left of a context that was never complete.
        for entry in std::fs::read_dir(&root).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let known = name.to_str().is_some_and(|id| records.get(id).is_some());
            if !known && !entry.path().join("record.json.damaged").exists() {
                let _ = sampan_fs::remove_dir_all(entry.path());
            }
        }
        let shared = Arc::new(Shared {
            records,
            root,
            changing: Mutex::default(),
            retired: Mutex::default(),
        });
        let needed = shared.clone();
        images.keep_layers(move || {
            let records = needed.records.iter();
            records.flat_map(|(_, r)| r.layers.clone()).collect()
        });
        Ok(Self {
            shared,
            images,
            uses,
        })
    }

    /// Begins to take the files that a client calls `key`, which others may do at the same time.
    /// Blocks, as all that follows.
    pub fn begin(&self, key: &str) -> Result<Sync> {
        let id = Digest::of(key.as_bytes()).hex();
        let base = self.base(&id).unwrap_or_else(|reason| {
            tracing::debug!(key, reason, "a context is taken as a whole");
            Base {
                layers: Vec::new(),
                manifest: Arc::new(Manifest(BTreeMap::new())),
            }
        });
        Ok(Sync {
            contexts: self.clone(),
            key: key.to_owned(),
            id,
            base,
            told: Mutex::default(),
            changes: Mutex::default(),
        })
    }

    /// What there is of a context, or why there is nothing.
    fn base(&self, id: &str) -> Result<Base, &'static str> {
        let record = self.shared.records.get(id).ok_or("not known")?;
        let path = self.shared.root.join(id).join(record.manifest.hex());
        let bytes = std::fs::read(path).map_err(|_| "no manifest")?;
        if Digest::of(&bytes) != record.manifest {
            return Err("damaged manifest");
        }
        let manifest = Manifest::from_bytes(&bytes).ok_or("unknown manifest")?;
        let layers = record.layers.iter().map(|id| self.images.hold_layer(id));
        Ok(Base {
            layers: layers.collect::<Option<_>>().ok_or("a layer is gone")?,
            manifest: Arc::new(manifest),
        })
    }

    /// All records, by identity.
    pub(crate) fn records(&self) -> impl Iterator<Item = (String, Arc<Record>)> {
        self.shared.records.iter()
    }

    pub(crate) fn is_known(&self, id: &str) -> bool {
        self.shared.records.get(id).is_some()
    }

    /// Forgets a context; answers its layers, for removal.
    pub(crate) fn forget(&self, id: &str) -> Result<BTreeSet<DiffId>> {
        let _changing = lock(&self.shared.changing);
        let Some(record) = self.shared.records.get(id) else {
            return Ok(BTreeSet::new());
        };
        self.shared.records.remove(id, Durability::Volatile)?;
        sampan_fs::remove_dir_all(self.shared.root.join(id))?;
        Ok(record.layers.iter().copied().collect())
    }

    /// Removes layers that no context needs any more, once no build does. Blocks.
    pub(crate) fn tidy(&self, in_use: &HashSet<DiffId>) -> Result<u64> {
        let retired = lock(&self.shared.retired).clone();
        if retired.is_empty() {
            return Ok(0);
        }
        let freed = self.images.drop_layers(retired, in_use)?;
        let store = self.images.layers();
        lock(&self.shared.retired).retain(|layer| store.get(layer).is_some());
        Ok(freed.disk)
    }

    pub(crate) fn retire(&self, layers: impl IntoIterator<Item = DiffId>) {
        lock(&self.shared.retired).extend(layers);
    }
}

#[derive(Debug)]
struct Base {
    layers: Vec<HeldLayer>,
    manifest: Arc<Manifest>,
}

/// Files on their way in. Tell every path in order with [`entry`](Self::entry), hand over the
/// files that are wanted, then [`finish`](Self::finish). Dropped without, it leaves nothing.
/// Threads may share it.
pub struct Sync {
    contexts: Contexts,
    key: String,
    id: String,
    base: Base,
    told: Mutex<Told>,
    changes: Mutex<Changes>,
}

impl fmt::Debug for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sync").field("key", &self.key).finish()
    }
}

#[derive(Default)]
struct Told {
    /// By index. `None` for what is left out.
    paths: Vec<Option<Vec<u8>>>,
    later: Manifest,
    /// The files whose bytes are still to come, by index.
    wanted: HashMap<usize, u64>,
}

/// The layer of what has changed, in the making.
#[derive(Default)]
struct Changes {
    layer: Option<NewLayer>,
    written: HashSet<Vec<u8>>,
}

impl Sync {
    /// Takes the next path; answers whether the bytes of this file are wanted. Its index, by which
    /// they are handed over, is the number of paths before it.
    pub fn entry(&self, entry: Entry) -> Result<bool> {
        check(&entry.path)?;
        let mut told = self.told();
        let index = told.paths.len();
        if index >= MOST {
            return Err(wrong("the context has too many files"));
        }
        if entry
            .path
            .split(|b| *b == b'/')
            .any(|part| part.starts_with(WHITEOUT))
        {
            told.paths.push(None);
            return Ok(false);
        }
        let (item, size) = item(&entry);
        let path = entry.path;
        for (at, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
            let above = &path[..at];
            match told.later.get(above) {
                Some(item) if item.is_directory() => {}
                Some(_) => return Err(wrong(format!("{} is no directory", shown(above)))),
                None => {
                    told.later.0.insert(above.to_vec(), Item::directory());
                }
            }
        }
        if !item.link.is_empty() && !told.later.0.contains_key(&item.link) {
            let what = shown(&item.link);
            return Err(wrong(format!("{} is a link to {what}", shown(&path))));
        }
        let known = self.base.manifest.get(&path);
        let same = known.is_some_and(|known| is_same(known, &item));
        let item = match known.filter(|_| same) {
            Some(known) => known.clone(),
            None => item,
        };
        if let Some(earlier) = told.later.0.get(&path)
            // One that was only implied by what is below it.
            && !(earlier.is_directory() && item.is_directory())
        {
            return Err(wrong(format!("{} was told twice", shown(&path))));
        }
        told.later.0.insert(path.clone(), item);
        told.paths.push(Some(path));
        let size = size.filter(|_| !same);
        if let Some(size) = size {
            told.wanted.insert(index, size);
        }
        Ok(size.is_some())
    }

    /// Takes the bytes of a file that was wanted. Files may come at once, in any order: none waits
    /// for another's bytes.
    pub fn file(&self, index: usize, content: impl Read) -> Result<()> {
        let (path, size, item) = {
            let mut told = self.told();
            let size = told.wanted.remove(&index);
            let path = told.paths.get(index).cloned().flatten();
            let (Some(size), Some(path)) = (size, path) else {
                return Err(wrong(format!("file {index} was not asked for")));
            };
            let item = told.later.0[&path].clone();
            (path, size, item)
        };
        let received = self.receive(&path, size, &item, content);
        let mut told = self.told();
        match received {
            Ok((size, digest)) => {
                if let Some(item) = told.later.0.get_mut(&path) {
                    item.found.kind = Kind::File(size);
                    let _ = item.content.set(digest);
                }
                Ok(())
            }
            Err(error) => {
                // So that this cannot be finished any more.
                told.wanted.insert(index, size);
                Err(error)
            }
        }
    }

    /// Writes a file; returns its true size and its digest.
    fn receive(
        &self,
        path: &[u8],
        size: u64,
        item: &Item,
        content: impl Read,
    ) -> Result<(u64, Digest)> {
        let failed = || Error::io(format!("receive {}", shown(path)));
        let free = match size > SMALL {
            true => match self.changes.try_lock() {
                Ok(changes) => Some(changes),
                Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            },
            false => None,
        };
        // It goes where it belongs at once.
        if let Some(mut changes) = free {
            let mut content = Digesting::new(content);
            self.write_file(&mut changes, path, item, size, &mut content)?;
            if content.read(&mut [0]).map_err(failed())? > 0 {
                return Err(wrong(format!("{} grew while it was sent", shown(path))));
            }
            return Ok((size, content.hasher.finish()));
        }
        let mut waiting = self.set_aside(content, size).map_err(failed())?;
        let size = waiting.seek(SeekFrom::End(0)).map_err(failed())?;
        waiting.rewind().map_err(failed())?;
        let mut content = Digesting::new(waiting);
        let mut changes = lock(&self.changes);
        self.write_file(&mut changes, path, item, size, &mut content)?;
        Ok((size, content.hasher.finish()))
    }

    /// Reads a file to where it waits for its turn.
    fn set_aside(&self, mut content: impl Read, size: u64) -> io::Result<Box<dyn Waiting>> {
        if size <= SMALL {
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
            content.by_ref().take(SMALL + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 <= SMALL {
                return Ok(Box::new(io::Cursor::new(bytes)));
            }
            let mut file = self.unnamed()?;
            file.write_all(&bytes)?;
            io::copy(&mut content, &mut file)?;
            return Ok(Box::new(file));
        }
        let mut file = self.unnamed()?;
        io::copy(&mut content, &mut file)?;
        Ok(Box::new(file))
    }

    /// A file that is gone when nobody has it open.
    fn unnamed(&self) -> io::Result<std::fs::File> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(rustix::fs::open(&self.contexts.shared.root, flags, mode)?.into())
    }

    fn write_file(
        &self,
        changes: &mut Changes,
        path: &[u8],
        item: &Item,
        size: u64,
        content: impl Read,
    ) -> Result<()> {
        self.above(changes, path)?;
        let attributes = &item.found.attributes;
        changes.write(&self.contexts.images, path, |mut layer| {
            layer.file(path, attributes, size, content)
        })
    }

    /// Writes the directories above a path that are not written yet.
    fn above(&self, changes: &mut Changes, path: &[u8]) -> Result<()> {
        for (at, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
            let above = &path[..at];
            if !changes.written.contains(above) {
                let attributes = match self.told().later.get(above) {
                    Some(item) => item.found.attributes.clone(),
                    None => continue,
                };
                changes.write(&self.contexts.images, above, |mut layer| {
                    layer.directory(above, &attributes)
                })?;
            }
        }
        Ok(())
    }

    /// Ends the transfer: the files as they were told, durable when this returns.
    pub fn finish(self) -> Result<Context> {
        let mut told = std::mem::take(&mut *self.told());
        if let Some(index) = told.wanted.keys().min() {
            let path = told.paths[*index].as_deref().unwrap_or_default();
            return Err(wrong(format!("{} was not sent", shown(path))));
        }
        self.link(&mut told.later);
        self.contexts.uses.note(&self.id);
        if told.later == *self.base.manifest {
            return Ok(Context::of_files(self.base.layers, self.base.manifest));
        }
        // Told again for those above what is written now.
        *self.told() = Told {
            later: told.later.clone(),
            ..Told::default()
        };
        let later = Arc::new(told.later);
        let mut changes = std::mem::take(&mut *lock(&self.changes));
        self.write_rest(&mut changes, &later)?;
        let mut layers = self.base.layers.clone();
        layers.extend(changes.finish()?);
        let mut worn = Vec::new();
        if self.is_worn(&layers, &later) {
            let whole = self.rewrite(&layers, &later)?;
            worn = std::mem::replace(&mut layers, whole);
        }
        self.record(&layers, &later)?;
        self.contexts.retire(worn.iter().map(HeldLayer::diff_id));
        Ok(Context::of_files(layers, later))
    }

    /// Gives hard links the content of what they are linked to.
    fn link(&self, later: &mut Manifest) {
        let links: Vec<_> = later
            .0
            .iter()
            .filter(|(_, item)| !item.link.is_empty())
            .map(|(path, item)| (path.clone(), item.link.clone()))
            .collect();
        for (path, target) in links {
            let of = later.get(&target).cloned();
            if let (Some(of), Some(item)) = (of, later.0.get_mut(&path)) {
                *item = Item { link: target, ..of };
            }
        }
    }

    /// Writes what has changed beside the files that were sent.
    fn write_rest(&self, changes: &mut Changes, later: &Manifest) -> Result<()> {
        let images = &self.contexts.images;
        let before = &self.base.manifest;
        for path in before.removed(later) {
            self.above(changes, path)?;
            changes.write(images, path, |mut layer| layer.whiteout(path))?;
        }
        let old = Files::of(images, &self.base.layers, None);
        for (path, item) in &later.0 {
            let known = before.get(path);
            let same = known.is_some_and(|known| known == item);
            if path.is_empty() || same || changes.written.contains(path) {
                continue;
            }
            let attributes = &item.found.attributes;
            self.above(changes, path)?;
            match &item.found.kind {
                Kind::Directory => {
                    changes.write(images, path, |mut layer| layer.directory(path, attributes))?;
                }
                Kind::Symlink(to) => {
                    changes.write(images, path, |mut layer| {
                        layer.symlink(path, attributes, to)
                    })?;
                }
                Kind::Fifo => {
                    changes.write(images, path, |mut layer| layer.fifo(path, attributes))?;
                }
                // Only links come here: other files were sent.
                Kind::File(_) if changes.written.contains(&item.link) => {
                    changes.write(images, path, |mut layer| {
                        layer.hard_link(path, attributes, &item.link)
                    })?;
                }
                Kind::File(size) => {
                    let content = old.open(&item.link)?;
                    changes.write(images, path, |mut layer| {
                        layer.file(path, attributes, *size, content)
                    })?;
                }
                Kind::Device => {}
            }
        }
        Ok(())
    }

    /// Whether the layers are too many, or mostly of files that are no more.
    fn is_worn(&self, layers: &[HeldLayer], later: &Manifest) -> bool {
        let store = self.contexts.images.layers();
        let sizes = layers.iter().filter_map(|l| store.get(&l.diff_id()));
        let taken: u64 = sizes.map(|layer| layer.tar_size).sum();
        let needed: u64 = later
            .0
            .values()
            .map(|item| match item.found.kind {
                Kind::File(size) => size + 1024,
                _ => 512,
            })
            .sum();
        layers.len() > LAYERS || taken > CHANGES + 2 * needed
    }

    /// Makes one layer of all.
    fn rewrite(&self, layers: &[HeldLayer], later: &Manifest) -> Result<Vec<HeldLayer>> {
        let images = &self.contexts.images;
        let files = Files::of(images, layers, None);
        let mut whole = Changes::default();
        for (path, item) in later.0.iter().filter(|(path, _)| !path.is_empty()) {
            let attributes = &item.found.attributes;
            let content = match item.found.kind {
                Kind::File(_) if !whole.written.contains(&item.link) => Some(files.open(path)?),
                _ => None,
            };
            whole.write(images, path, |mut layer| {
                match (&item.found.kind, content) {
                    (Kind::Directory, _) => layer.directory(path, attributes),
                    (Kind::Symlink(to), _) => layer.symlink(path, attributes, to),
                    (Kind::Fifo, _) => layer.fifo(path, attributes),
                    (Kind::Device, _) => Ok(()),
                    (Kind::File(size), Some(content)) => {
                        layer.file(path, attributes, *size, content)
                    }
                    (Kind::File(_), None) => layer.hard_link(path, attributes, &item.link),
                }
            })?;
        }
        Ok(whole.finish()?.into_iter().collect())
    }

    /// Writes down what there is now. The layers are durable, and held.
    fn record(&self, layers: &[HeldLayer], later: &Manifest) -> Result<()> {
        let shared = &self.contexts.shared;
        let bytes = later.to_bytes();
        let record = Record {
            key: self.key.clone(),
            layers: layers.iter().map(HeldLayer::diff_id).collect(),
            manifest: Digest::of(&bytes),
            created: jiff::Timestamp::now().to_string(),
        };
        let _changing = lock(&shared.changing);
        let before = shared.records.get(&self.id);
        let directory = shared.root.join(&self.id);
        sampan_fs::create_dir_all(&directory, 0o700)?;
        let name = record.manifest.hex();
        sampan_fs::write_file(directory.join(&name), &bytes, Durability::Durable)?;
        shared.records.put(&self.id, &record, Durability::Durable)?;
        // Of the record before, or of a kill between the two.
        let kept = BTreeSet::from([name.as_str(), "record.json"]);
        for entry in std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry
                .file_name()
                .to_str()
                .is_some_and(|n| !kept.contains(n))
            {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        let old = before.iter().flat_map(|record| record.layers.iter());
        let old = old.filter(|id| !record.layers.contains(id)).copied();
        self.contexts.retire(old);
        Ok(())
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        lock(&self.told)
    }
}

impl Changes {
    fn write(
        &mut self,
        images: &ImageStore,
        path: &[u8],
        write: impl FnOnce(LayerWriter<&mut NewLayer>) -> io::Result<()>,
    ) -> Result<()> {
        let layer = match &mut self.layer {
            Some(layer) => layer,
            none => none.insert(images.begin_layer()?),
        };
        write(LayerWriter::new(layer)).map_err(NewLayer::failed)?;
        self.written.insert(path.to_vec());
        Ok(())
    }

    fn finish(self) -> Result<Option<HeldLayer>> {
        let Some(mut layer) = self.layer else {
            return Ok(None);
        };
        LayerWriter::new(&mut layer)
            .finish()
            .map_err(NewLayer::failed)?;
        Ok(layer.finish()?)
    }
}

trait Waiting: Read + Seek {}

impl<T: Read + Seek> Waiting for T {}

/// Hashes what is read through it.
struct Digesting<R> {
    inner: R,
    hasher: Hasher,
}

impl<R> Digesting<R> {
    fn new(inner: R) -> Self {
        Self {
            inner,
            hasher: Hasher::new(),
        }
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

/// What is told of a path, and the size of a file.
fn item(entry: &Entry) -> (Item, Option<u64>) {
    let (kind, size, link) = match &entry.kind {
        EntryKind::Directory => (Kind::Directory, None, &[][..]),
        EntryKind::File(size) => (Kind::File(*size), Some(*size), &[][..]),
        EntryKind::Symlink(target) => (Kind::Symlink(target.clone()), None, &[][..]),
        EntryKind::HardLink(of) => (Kind::File(0), None, &of[..]),
        EntryKind::Fifo => (Kind::Fifo, None, &[][..]),
    };
    let attributes = Attributes {
        mode: entry.mode & 0o7777,
        uid: entry.uid,
        gid: entry.gid,
        mtime: entry.mtime,
        extended: records(entry.xattrs.clone()),
    };
    let item = Item {
        link: link.to_vec(),
        ..Item::new(kind, attributes)
    };
    (item, size)
}

/// Whether nothing has changed, as far as that can be seen without the bytes. What is in a
/// directory says when it was changed; its own time is not looked at.
fn is_same(known: &Item, now: &Item) -> bool {
    if known.link != now.link {
        return false;
    }
    // What it is linked to says the rest.
    if !now.link.is_empty() {
        return true;
    }
    let mut attributes = known.found.attributes.clone();
    if now.is_directory() {
        attributes.mtime = now.found.attributes.mtime;
    }
    known.found.kind == now.found.kind && attributes == now.found.attributes
}

/// Only names that stay below the root are taken.
fn check(path: &[u8]) -> Result<()> {
    let is_good = |part: &[u8]| {
        !part.is_empty()
            && part != b"."
            && part != b".."
            && part.len() <= LONGEST_NAME
            && !part.contains(&0)
    };
    match path.len() <= LONGEST_PATH && path.split(|b| *b == b'/').all(is_good) {
        true => Ok(()),
        false => Err(wrong(format!("{} is no path of a context", shown(path)))),
    }
}

fn wrong(what: impl Into<String>) -> Error {
    Error::Context(what.into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
