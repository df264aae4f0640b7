//! The layers that exist.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use sampan_fs::{DirLock, Sync, create_dir_all, open_dir, remove_all_at, rename_durable, sync_dir};
use sampan_oci::{DiffId, Digest};

use crate::cache::Cache;
use crate::erofs;
use crate::error::{Error, ErrorKind, Result};
use crate::ingest::{self, Ingest};
use crate::init::{self, InitEntry, InitLayer, InitLayers};
use crate::limits::Limits;
use crate::mount::{LayerMount, Mounted, mount_directory, mount_index};
use crate::overlay::{self, Durability, Writable};
use crate::owners::Owners;
use crate::place::{self, Bindable, Kept, Place, Places};
use crate::record::{self, Form, Record};
use crate::tree::Tree;

const TEMPORARY: &str = "tmp-";
const QUARANTINE: &str = "quarantine";
/// Layers that are synced at once.
const SYNCING: usize = 8;
const LOCK: &str = "lock";
const MOUNTS: &str = "mounts";
/// How long a new engine waits for the one it replaces to let go.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// How layers are made usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driver {
    /// The index where this kernel can mount it, else directories.
    #[default]
    Auto,
    /// Tar and EROFS index (Linux 6.12).
    TarIndex,
    /// Unpacked directories.
    Directory,
}

/// Who unpacks for the directory driver.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Worker {
    /// This process: for tests and single-threaded tools.
    #[default]
    InProcess,
    /// A child that runs this program, which must call
    /// [`worker::run`](crate::worker::run) when given these arguments.
    Program {
        /// The executable, such as `/proc/self/exe`.
        path: PathBuf,
        /// What makes it a worker.
        arguments: Vec<OsString>,
    },
}

/// Whether mounts of layers are attached somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mounts {
    /// Only where this kernel cannot stack them otherwise.
    #[default]
    Auto,
    /// Never: they are held by descriptors alone (Linux 6.15).
    Detached,
    /// Below the store, from where they are taken away when it is opened or
    /// dropped.
    Attached,
}

/// How to open a [`LayerStore`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How layers are made usable.
    pub driver: Driver,
    /// Who unpacks for the directory driver.
    pub worker: Worker,
    /// Where mounts are.
    pub mounts: Mounts,
    /// Bounds of a layer.
    pub limits: Limits,
    /// Mounts kept for reuse beyond those in use.
    pub mounts_kept: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            driver: Driver::default(),
            worker: Worker::default(),
            mounts: Mounts::default(),
            limits: Limits::default(),
            mounts_kept: 64,
        }
    }
}

/// A complete layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Sum of the sizes of its files, as Docker shows it.
    pub size: u64,
    /// Length of the tar.
    pub tar_size: u64,
    /// Number of inodes.
    pub entries: u64,
}

/// A damaged layer that was put aside when the store was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Which layer.
    pub diff_id: DiffId,
    /// Where its remains are.
    pub path: PathBuf,
    /// What was wrong.
    pub reason: String,
}

/// All layers below one directory. Clones are cheap and share everything; one
/// process at a time may have the store open.
#[derive(Debug, Clone)]
pub struct LayerStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    dir: OwnedFd,
    options: Options,
    driver: OnceLock<Driver>,
    inits: Mutex<InitLayers>,
    records: Mutex<HashMap<DiffId, Record>>,
    mounts: Mutex<Cache>,
    quarantined: Mutex<Vec<Quarantined>>,
    counter: AtomicU64,
    places: Mutex<Option<Places>>,
    /// A program on a file system that is attached, and the file.
    program: Mutex<Option<(Kept, OwnedFd)>>,
    _lock: DirLock,
}

impl LayerStore {
    /// Opens `root/layers`, creating it if need be. Removes what interrupted
    /// ingests and removals left, puts damaged layers aside and rebuilds
    /// indexes that are lost while their tar is whole.
    ///
    /// Waits up to ten seconds for another process that has the store open.
    pub fn open(root: &Path, options: Options) -> Result<Self> {
        let path = root.join("layers");
        create_dir_all(&path, 0o700)?;
        let lock = lock(&path)?;
        let store = Self(Arc::new(Inner {
            dir: open_dir(&path)?,
            path,
            mounts: Mutex::new(Cache::new(options.mounts_kept)),
            options,
            driver: OnceLock::new(),
            inits: Mutex::default(),
            records: Mutex::default(),
            quarantined: Mutex::default(),
            counter: AtomicU64::new(0),
            places: Mutex::default(),
            program: Mutex::default(),
            _lock: lock,
        }));
        // Of an engine that was killed.
        place::clear(&store.0.path.join(MOUNTS))?;
        store.recover()?;
        Ok(store)
    }

    /// Begins to take a layer in. Any number may be under way at once.
    pub fn ingest(&self) -> Result<Ingest> {
        Ingest::new(self.clone())
    }

    /// Returns what is known of a layer, `None` if the store does not have it.
    pub fn get(&self, diff_id: &DiffId) -> Option<Layer> {
        self.records().get(diff_id).map(layer)
    }

    /// Returns all layers, ordered by digest.
    pub fn list(&self) -> Vec<Layer> {
        let mut layers: Vec<_> = self.records().values().map(layer).collect();
        layers.sort_by_key(|layer| layer.diff_id);
        layers
    }

    /// Removes a layer; `false` if the store does not have it. Mounts that are
    /// in use stay whole; its space returns with the last of them.
    pub fn remove(&self, diff_id: &DiffId) -> Result<bool> {
        Ok(self.remove_all(&[*diff_id])? > 0)
    }

    /// Removes several layers as [`remove`](Self::remove) does one, and waits
    /// for the disk once, if a power cut could not take them anyway. Returns
    /// how many of them the store had.
    pub fn remove_all(&self, diff_ids: &[DiffId]) -> Result<usize> {
        // Renamed first: a layer is there or not, never half.
        let mut renamed = Vec::new();
        let mut was_durable = false;
        for diff_id in diff_ids {
            let name = self.temporary_name();
            // With the lock held, so that nobody publishes the same layer
            // between the two and sees it vanish.
            let mut records = self.records();
            let Some(record) = records.get(diff_id) else {
                continue;
            };
            was_durable |= record.unsynced.is_none();
            rustix::fs::renameat(self.dir(), diff_id.hex(), self.dir(), &name)
                .map_err(|e| Error::io("rename", self.0.path.join(diff_id.hex()), e))?;
            records.remove(diff_id);
            drop(records);
            self.mounts().forget(diff_id);
            renamed.push(name);
        }
        if was_durable {
            self.sync()?;
        }
        for name in &renamed {
            remove_all_at(self.dir(), name)?;
        }
        Ok(renamed.len())
    }

    /// Opens the uncompressed tar, exactly the bytes that were ingested.
    pub fn open_tar(&self, diff_id: &DiffId) -> Result<File> {
        let _ = self.record(diff_id)?;
        self.open_file(diff_id, record::TAR)
    }

    /// Bytes that a layer takes on disk, with everything beside its tar; 0 if
    /// the store does not have it.
    pub fn disk_usage(&self, diff_id: &DiffId) -> u64 {
        let path = self.0.path.join(diff_id.hex());
        sampan_fs::usage(path).unwrap_or_default().disk
    }

    /// Reads all of a layer and proves that its tar is the one of its name,
    /// and its index the one that is made of that tar. Blocks for as long as
    /// the disk takes.
    pub fn verify(&self, diff_id: &DiffId) -> Result<()> {
        let record = self.record(diff_id)?;
        let damaged = |what| Error::Damaged {
            diff_id: *diff_id,
            what,
        };
        let tar = self.open_tar(diff_id)?;
        let built =
            ingest::index_digest(self, tar, diff_id).map_err(|error| match error.kind() {
                // Its headers make no sense any more.
                ErrorKind::Invalid => damaged("the tar is not the one that was stored"),
                _ => error,
            })?;
        match record.form {
            Form::TarIndex { index, .. } => {
                let file = self.open_file(diff_id, record::INDEX)?;
                let (digest, _) = ingest::hash(&file, |_| Ok(()))?;
                if digest != index {
                    return Err(damaged("the index is not the one that was stored"));
                }
                if digest != built {
                    return Err(damaged("the index is not the one that its tar makes"));
                }
            }
            // Its files belong to nobody's digest; the tar is the layer.
            Form::Directory => {}
        }
        Ok(())
    }

    /// Mounts a layer, or shares the mount that exists.
    pub fn mount(&self, diff_id: &DiffId) -> Result<LayerMount> {
        if let Some(mounted) = self.mounts().get(diff_id) {
            return Ok(LayerMount(mounted));
        }
        let record = self.record_for_driver(diff_id)?;
        let mount = match record.form {
            Form::TarIndex { .. } => mount_index(
                &self.open_file(diff_id, record::INDEX)?,
                &self.open_file(diff_id, record::TAR)?,
            )?,
            Form::Directory => mount_directory(&self.open_tree(diff_id)?)?,
        };
        let mount = self.places()?.keep(mount)?;
        let mounted = Arc::new(Mounted {
            diff_id: *diff_id,
            opaque: record.opaque,
            mount,
        });
        let mut mounts = self.mounts();
        // Two may have come here at once; one mount must win, or its page
        // cache would be held twice.
        if let Some(first) = mounts.get(diff_id) {
            return Ok(LayerMount(first));
        }
        // Removed meanwhile: whoever asked may use it, but nothing keeps it.
        if self.records().contains_key(diff_id) {
            mounts.insert(&mounted);
        }
        Ok(LayerMount(mounted))
    }

    /// Makes the layer that lies between an image's layers and what a container
    /// changes. Names that are directories at the top of the image and get an
    /// entry keep their owner, mode and time; nothing else of the image matters.
    pub fn init_layer(&self, lowers: &[LayerMount], entries: &[InitEntry]) -> Result<InitLayer> {
        let layers: Vec<_> = overlay::visible(lowers)
            .into_iter()
            .map(AsFd::as_fd)
            .collect();
        let parents = init::parents(entries, &layers)?;
        let places = self.places()?;
        lock_of(&self.0.inits).get(entries, parents, &places)
    }

    /// Stacks layers and returns the root as a detached mount, without a place
    /// in any mount table: it lives as long as the descriptor and its clones.
    ///
    /// `lowers` are in the order of an image's configuration, the bottom first;
    /// a layer that occurs twice counts at its highest place, which shows the
    /// same files. `init` lies above them. Without `writable` the root is
    /// read-only. Directory renames leave `trusted.overlay.redirect` in the
    /// upper.
    ///
    /// `/proc` must be mounted on kernels before 6.13.
    pub fn overlay(
        &self,
        lowers: &[LayerMount],
        init: Option<&InitLayer>,
        writable: Option<&Writable>,
        durability: Durability,
    ) -> Result<OwnedFd> {
        let places = self.places()?;
        overlay::overlay(lowers, init, None, writable, durability, &places, None)
    }

    /// As [`LayerStore::overlay`], with owners that are others outside: each stored owner is shown as
    /// the one that stands for it. What is written is stored with the owners inside. The directories of `writable` lie beside each other.
    ///
    /// # Errors
    /// [`Error::FixedOwners`] before Linux 6.3, where tmpfs has no id-mapped mounts, and where the
    /// file system of `writable` has none.
    pub fn overlay_owned(
        &self,
        lowers: &[LayerMount],
        init: Option<&InitLayer>,
        writable: Option<&Writable>,
        durability: Durability,
        owners: Option<Owners<'_>>,
    ) -> Result<OwnedFd> {
        let places = self.places()?;
        overlay::overlay(lowers, init, None, writable, durability, &places, owners)
    }

    /// Stacks layers and, above them, the directory that has received changes,
    /// which stay as they are. Returns the root as a detached mount.
    pub fn view(
        &self,
        lowers: &[LayerMount],
        init: Option<&InitLayer>,
        changes: &Path,
    ) -> Result<OwnedFd> {
        let places = self.places()?;
        let (changes, durability) = (Some(changes), Durability::Durable);
        overlay::overlay(lowers, init, changes, None, durability, &places, None)
    }

    /// Keeps a detached mount so that parts of it can be bound elsewhere.
    pub fn bindable(&self, mount: OwnedFd) -> Result<Bindable> {
        Ok(Bindable(self.places()?.keep(mount)?))
    }

    /// Returns a copy of `program`, the same for every call, on a read-only
    /// file system from where it can be bound into a container. `None` where
    /// the kernel binds what is attached nowhere: then whoever needs a copy
    /// makes one that goes away with them.
    pub fn attached_program(&self, program: impl AsFd) -> Result<Option<OwnedFd>> {
        let Places::Below(place) = self.places()? else {
            return Ok(None);
        };
        let mut copy = lock_of(&self.0.program);
        let (_, file) = match &mut *copy {
            Some(copy) => copy,
            none => none.insert(place.program(program.as_fd())?),
        };
        let file = file.try_clone();
        file.map(Some)
            .map_err(|e| Error::io("duplicate", "program", e))
    }

    /// Takes the mounts away that are kept for the next container. Those in
    /// use stay with their users.
    pub fn let_go(&self) {
        self.mounts().clear();
        lock_of(&self.0.inits).clear();
        *lock_of(&self.0.program) = None;
        *lock_of(&self.0.places) = None;
    }

    /// Where mounts are, after trying the kernel once for `Auto`.
    fn places(&self) -> Result<Places> {
        let mut places = lock_of(&self.0.places);
        if let Some(places) = &*places {
            return Ok(places.clone());
        }
        let attached = match self.0.options.mounts {
            Mounts::Auto => !overlay::can_stack_detached(),
            Mounts::Detached => false,
            Mounts::Attached => true,
        };
        let found = if attached {
            Places::Below(Place::open(&self.0.path.join(MOUNTS))?)
        } else {
            Places::Nowhere
        };
        Ok(places.insert(found).clone())
    }

    /// Returns the driver in use, after trying the kernel once for `Auto`.
    pub fn driver(&self) -> Result<Driver> {
        if let Some(driver) = self.0.driver.get() {
            return Ok(*driver);
        }
        let driver = match self.0.options.driver {
            Driver::Auto if self.can_mount_index()? => Driver::TarIndex,
            Driver::Auto => Driver::Directory,
            chosen => chosen,
        };
        Ok(*self.0.driver.get_or_init(|| driver))
    }

    /// Returns the damaged layers that opening the store put aside.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        lock_of(&self.0.quarantined).clone()
    }

    pub(crate) fn dir(&self) -> &OwnedFd {
        &self.0.dir
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.options.limits
    }

    pub(crate) fn worker(&self) -> &Worker {
        &self.0.options.worker
    }

    /// Moves a complete temporary directory to its place and makes it known.
    /// `false` if the layer is there already: the directory is then still the
    /// caller's to remove.
    pub(crate) fn publish(&self, temporary: &str, record: &Record) -> Result<bool> {
        let mut records = self.records();
        if records.contains_key(&record.diff_id) {
            return Ok(false);
        }
        rustix::fs::renameat_with(
            self.dir(),
            temporary,
            self.dir(),
            record.diff_id.hex(),
            RenameFlags::NOREPLACE,
        )
        .map_err(|e| Error::io("rename", self.0.path.join(temporary), e))?;
        records.insert(record.diff_id, record.clone());
        Ok(true)
    }

    /// Makes those of the layers durable that are not yet.
    pub fn sync_layers(&self, diff_ids: &[DiffId]) -> Result<()> {
        let unsynced: Vec<Record> = {
            let records = self.records();
            let known = diff_ids.iter().filter_map(|diff_id| records.get(diff_id));
            known.filter(|r| r.unsynced.is_some()).cloned().collect()
        };
        if unsynced.is_empty() {
            return Ok(());
        }
        // Side by side, so that they share the commits of the file system's journal.
        let share = unsynced.len().div_ceil(SYNCING);
        std::thread::scope(|scope| {
            let syncing: Vec<_> = unsynced
                .chunks(share)
                .map(|part| scope.spawn(|| part.iter().try_for_each(|r| self.sync_layer(r))))
                .collect();
            // All are waited for, whatever the first says.
            let ended: Vec<Result<()>> = syncing
                .into_iter()
                .map(|thread| thread.join().unwrap_or(Err(Error::Aborted)))
                .collect();
            ended.into_iter().collect::<Result<()>>()
        })?;
        self.sync()?;
        let mut records = self.records();
        for record in &unsynced {
            if let Some(known) = records.get_mut(&record.diff_id) {
                known.unsynced = None;
            }
        }
        Ok(())
    }

    fn sync_layer(&self, record: &Record) -> Result<()> {
        match self.sync_files(record) {
            // Removed meanwhile.
            Err(_) if self.get(&record.diff_id).is_none() => Ok(()),
            done => done,
        }
    }

    fn sync_files(&self, record: &Record) -> Result<()> {
        let dir = self.open_child(&record.diff_id.hex())?;
        let failed = |name| move |e: rustix::io::Errno| Error::io("sync", name, e);
        self.open_file(&record.diff_id, record::TAR)
            .and_then(|tar| rustix::fs::fsync(tar).map_err(failed(record::TAR)))?;
        match record.form {
            Form::TarIndex { .. } => {
                let index = self.open_file(&record.diff_id, record::INDEX)?;
                rustix::fs::fsync(index).map_err(failed(record::INDEX))?;
            }
            Form::Directory => rustix::fs::syncfs(&dir).map_err(failed(record::TREE))?,
        }
        // One that does not reach the disk has the layer proved after a power cut, no more.
        let synced = Record {
            unsynced: None,
            ..record.clone()
        };
        ingest::write_record(&dir, &synced, Sync::Volatile)?;
        sync_dir(&dir).map_err(|e| Error::io("sync", record::FILE, e))
    }

    /// Makes renames in the store durable.
    pub(crate) fn sync(&self) -> Result<()> {
        sync_dir(self.dir()).map_err(|e| Error::io("sync", &self.0.path, e))
    }

    /// A name that no ingest or removal of this process has had; others have
    /// been cleared away while nobody else held the lock.
    pub(crate) fn temporary_name(&self) -> String {
        let number = self.0.counter.fetch_add(1, Ordering::Relaxed);
        format!("{TEMPORARY}{number}")
    }

    pub(crate) fn create_temporary(&self, name: &str) -> Result<OwnedFd> {
        rustix::fs::mkdirat(self.dir(), name, Mode::RWXU)
            .map_err(|e| Error::io("create directory", self.0.path.join(name), e))?;
        self.open_child(name)
    }

    fn open_child(&self, name: &str) -> Result<OwnedFd> {
        open_at(self.dir(), name, OFlags::DIRECTORY)
            .map_err(|e| Error::io("open directory", self.0.path.join(name), e))
    }

    fn open_file(&self, diff_id: &DiffId, name: &str) -> Result<File> {
        let dir = self.open_child(&diff_id.hex())?;
        open_at(&dir, name, OFlags::empty())
            .map(File::from)
            .map_err(|e| Error::io("open", self.0.path.join(diff_id.hex()).join(name), e))
    }

    fn open_tree(&self, diff_id: &DiffId) -> Result<OwnedFd> {
        let dir = self.open_child(&diff_id.hex())?;
        open_at(&dir, record::TREE, OFlags::DIRECTORY).map_err(|e| {
            let path = self.0.path.join(diff_id.hex()).join(record::TREE);
            Error::io("open directory", path, e)
        })
    }

    fn record(&self, diff_id: &DiffId) -> Result<Record> {
        let record = self.records().get(diff_id).cloned();
        record.ok_or(Error::NotFound(*diff_id))
    }

    /// A layer that the other driver took in is made usable for this one.
    fn record_for_driver(&self, diff_id: &DiffId) -> Result<Record> {
        let record = self.record(diff_id)?;
        let wanted = self.driver()?;
        let found = match record.form {
            Form::TarIndex { .. } => Driver::TarIndex,
            Form::Directory => Driver::Directory,
        };
        // Directories serve on every kernel, so they are not made anew.
        if wanted == found || found == Driver::Directory {
            return Ok(record);
        }
        let mut records = self.records();
        // Built under the lock: this happens once after the kernel changed.
        match records.get(diff_id) {
            Some(now) if now.form != record.form => return Ok(now.clone()),
            Some(_) => {}
            None => return Err(Error::NotFound(*diff_id)),
        }
        let record = ingest::rebuild(self, &self.open_child(&diff_id.hex())?, diff_id)?;
        records.insert(*diff_id, record.clone());
        Ok(record)
    }

    fn records(&self) -> MutexGuard<'_, HashMap<DiffId, Record>> {
        lock_of(&self.0.records)
    }

    fn mounts(&self) -> MutexGuard<'_, Cache> {
        lock_of(&self.0.mounts)
    }

    /// Brings the directory into a state where every entry is a whole layer.
    fn recover(&self) -> Result<()> {
        for name in self.names()? {
            let Some(text) = name.to_str() else { continue };
            if text.starts_with(TEMPORARY) {
                remove_all_at(self.dir(), &name)?;
                continue;
            }
            let Ok(digest) = Digest::from_hex(text) else {
                continue;
            };
            let diff_id = DiffId(digest);
            match self.check(&diff_id) {
                Ok(record) => {
                    self.records().insert(diff_id, record);
                }
                Err(reason) => self.put_aside(&diff_id, &reason)?,
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<OsString>> {
        use std::os::unix::ffi::OsStrExt;
        let failed = |e: rustix::io::Errno| Error::io("list", &self.0.path, e);
        let mut names = Vec::new();
        for entry in Dir::read_from(self.dir()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            names.push(OsStr::from_bytes(entry.file_name().to_bytes()).to_os_string());
        }
        Ok(names)
    }

    /// Says whether a layer's directory has all it must have. Cheap: sizes
    /// only; [`verify`](Self::verify) reads everything.
    fn check(&self, diff_id: &DiffId) -> Result<Record> {
        let damaged = |what| Error::Damaged {
            diff_id: *diff_id,
            what,
        };
        let dir = self.open_child(&diff_id.hex())?;
        let record = read_record(&dir);
        if let Some(record) = &record
            && record.diff_id != *diff_id
        {
            return Err(damaged("its record is about another layer"));
        }
        let tar_size = file_size(&dir, record::TAR).ok_or(damaged("it has no tar"))?;
        if let Some(record) = &record
            && record.tar_size != tar_size
        {
            return Err(damaged("the tar has another length"));
        }
        match record {
            Some(record) if is_whole(&dir, &record) && is_safe(&record) => Ok(record),
            // All but the tar can be made again.
            _ => ingest::rebuild(self, &dir, diff_id),
        }
    }

    fn put_aside(&self, diff_id: &DiffId, reason: &Error) -> Result<()> {
        let path = self.0.path.join(QUARANTINE);
        create_dir_all(&path, 0o700)?;
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let name = format!("{}-{}.{:09}", diff_id.hex(), now.tv_sec, now.tv_nsec);
        rename_durable(self.dir(), diff_id.hex(), open_dir(&path)?, &name)?;
        lock_of(&self.0.quarantined).push(Quarantined {
            diff_id: *diff_id,
            path: path.join(name),
            reason: reason.to_string(),
        });
        Ok(())
    }

    /// Tries an index of nothing, on this very file system: the kernel may be
    /// too old, or the store may lie too deep in other stacked mounts.
    fn can_mount_index(&self) -> Result<bool> {
        let name = self.temporary_name();
        let dir = self.create_temporary(&name)?;
        let result = self
            .places()
            .and_then(|places| try_index(&dir, self.limits(), &places));
        remove_all_at(self.dir(), &name)?;
        result
    }
}

fn try_index(dir: &OwnedFd, limits: &Limits, places: &Places) -> Result<bool> {
    let create = |name: &'static str| {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|e| Error::io("create", name, e))
    };
    let (tar, mut index) = (create(record::TAR)?, create(record::INDEX)?);
    let tree = Tree::new(*limits).finish()?;
    erofs::write(&tree, &tree.order(), &tar, 0, limits, &mut index)?;
    // A mount from a file that is open for writing is refused.
    drop(index);
    let index = open_at(dir, record::INDEX, OFlags::empty())
        .map(File::from)
        .map_err(|e| Error::io("open", record::INDEX, e))?;
    Ok(overlay::can_stack_on(&index, &tar, places))
}

fn lock(path: &Path) -> Result<DirLock> {
    let start = Instant::now();
    loop {
        match DirLock::try_acquire(path, LOCK) {
            Ok(lock) => return Ok(lock),
            Err(e @ sampan_fs::Error::Locked { .. }) => {
                if start.elapsed() >= LOCK_PATIENCE {
                    return Err(e.into());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// A record of another version is no record: the layer is built anew.
fn read_record(dir: &OwnedFd) -> Option<Record> {
    let file = open_at(dir, record::FILE, OFlags::empty()).ok()?;
    let mut json = Vec::new();
    File::from(file)
        .take(64 << 10)
        .read_to_end(&mut json)
        .ok()?;
    let record: Record = serde_json::from_slice(&json).ok()?;
    (record.version == record::VERSION).then_some(record)
}

/// Whether a layer that may not have been on disk has not lived through a power cut.
fn is_safe(record: &Record) -> bool {
    let here = |boot: &String| ingest::boot().is_ok_and(|now| now == *boot);
    record.unsynced.as_ref().is_none_or(here)
}

fn is_whole(dir: &OwnedFd, record: &Record) -> bool {
    match record.form {
        Form::TarIndex { index_size, .. } => file_size(dir, record::INDEX) == Some(index_size),
        Form::Directory => rustix::fs::statat(dir, record::TREE, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory),
    }
}

fn file_size(dir: &OwnedFd, name: &str) -> Option<u64> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    is_file.then(|| u64::try_from(stat.st_size).ok())?
}

fn open_at(dir: impl AsFd, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

pub(crate) fn layer(record: &Record) -> Layer {
    Layer {
        diff_id: record.diff_id,
        size: record.size,
        tar_size: record.tar_size,
        entries: record.entries,
    }
}

/// A panic elsewhere does not make plain data wrong.
fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Renames were synced one by one; this is for removals.
        let _ = sync_dir(&self.dir);
    }
}
