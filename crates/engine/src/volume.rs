//! Volumes: directories of the host that outlive containers.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use sampan_fs::Root;
use sampan_state::{Layout, Store, Sync};
use sampan_text::with_causes;
use serde::{Deserialize, Serialize};

use crate::container::id::random_hex;
use crate::container::mount::{MountKind, check_volume_name};
use crate::container::registry::Registry;
use crate::container::service::disk_use;
use crate::copy::Copier;
use crate::prune::{self, PruneFilter, Pruned};
use crate::{Action, Error, ErrorKind, Event, EventBus, EventKind, Result};

/// The only driver.
pub(crate) const LOCAL: &str = "local";
const DATA: &str = "_data";
const COPY: &str = ".copy-";
/// Docker's label of volumes that nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// A volume to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateVolume {
    /// Name; empty draws one of 64 digits.
    pub name: String,
    /// Driver; empty for `local`, the only one.
    pub driver: String,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A volume as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeView {
    /// Name.
    pub name: String,
    /// Driver.
    pub driver: String,
    /// Where its content is on the host.
    pub mountpoint: PathBuf,
    /// When it was made.
    pub created: Timestamp,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// How many containers use it, ended ones included.
    pub references: usize,
}

/// What is stored of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    name: String,
    driver: String,
    created: Timestamp,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
    /// Made for a container that is still in the making: should a kill come between, nobody would
    /// ever ask for it.
    #[serde(default)]
    pending: bool,
}

/// Everything that can be done to volumes. A cheap clone.
#[derive(Debug, Clone)]
pub struct VolumeService {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Store<Record>,
    directory: PathBuf,
    registry: Registry,
    events: EventBus,
    /// Volumes that containers in the making will use, and how many of those.
    pins: Mutex<HashMap<String, usize>>,
}

/// Keeps a volume from being removed while a container that will use it is being made.
#[derive(Debug)]
pub(crate) struct Pin {
    shared: Arc<Shared>,
    name: String,
    /// Whether the volume was made just now.
    pub(crate) is_new: bool,
    /// Whether nobody named it.
    pub(crate) anonymous: bool,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.shared.pins();
        if let Some(count) = pins.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.name);
            }
        }
    }
}

impl Pin {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The volume is here to stay: its container is, or somebody asked for it alone. Blocks.
    pub(crate) fn confirm(&self, sync: Sync) -> Result<()> {
        if self.is_new && self.anonymous {
            self.shared.confirm(&self.name, sync)?;
        }
        Ok(())
    }
}

impl Shared {
    fn pins(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_pinned(&self, name: &str) -> bool {
        self.pins().contains_key(name)
    }

    fn confirm(&self, name: &str, sync: Sync) -> Result<()> {
        let Some(record) = self.store.get(name).filter(|record| record.pending) else {
            return Ok(());
        };
        let record = Record {
            pending: false,
            ..(*record).clone()
        };
        Ok(self.store.put(name, &record, sync)?)
    }
}

impl VolumeService {
    /// Opens the volumes below a directory and removes what a kill left half made. Blocks.
    pub(crate) fn open(directory: &Path, registry: Registry, events: EventBus) -> Result<Self> {
        let store = Store::open_as(directory, Layout::Directories)?;
        let service = Self {
            shared: Arc::new(Shared {
                store,
                directory: directory.to_path_buf(),
                registry,
                events,
                pins: Mutex::default(),
            }),
        };
        service.sweep();
        service.settle_pending();
        Ok(service)
    }

    /// Removes volumes that were made for containers which never came to be.
    fn settle_pending(&self) {
        let pending = |(name, record): (String, Arc<Record>)| record.pending.then_some(name);
        let pending: Vec<String> = self.shared.store.iter().filter_map(pending).collect();
        for name in &pending {
            if self.users(name).is_empty() {
                self.remove_unused(std::slice::from_ref(name));
            } else if let Err(error) = self.shared.confirm(name, Sync::Durable) {
                tracing::warn!(
                    volume = name,
                    error = error.message(),
                    "could not store a volume"
                );
            }
        }
    }

    /// Removes directories without a record (a volume half made or half removed) and copies that
    /// were not finished. Damaged records keep their data.
    fn sweep(&self) {
        let shared = &self.shared;
        let Ok(entries) = std::fs::read_dir(&shared.directory) else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let damaged = shared.store.damaged().iter().any(|d| d.key == name);
            let set_aside = entry.path().join("record.json.damaged").exists();
            if shared.store.get(&name).is_some() {
                for copy in std::fs::read_dir(entry.path())
                    .into_iter()
                    .flatten()
                    .flatten()
                {
                    if copy.file_name().to_string_lossy().starts_with(COPY) {
                        remove(&copy.path());
                    }
                }
            } else if !damaged && !set_aside {
                remove(&entry.path());
            }
        }
    }

    /// Makes a volume, or returns the one of that name.
    pub async fn create(&self, request: CreateVolume) -> Result<VolumeView> {
        let service = self.clone();
        crate::blocking(move || {
            let pin = service.ensure(&request, Sync::Durable)?;
            pin.confirm(Sync::Durable)?;
            service.look(pin.name())
        })
        .await
    }

    /// Returns a volume.
    pub async fn inspect(&self, name: &str) -> Result<VolumeView> {
        self.look(name)
    }

    fn look(&self, name: &str) -> Result<VolumeView> {
        match self.shared.store.get(name) {
            Some(record) => Ok(self.view(&record)),
            None => Err(missing(name)),
        }
    }

    /// Returns all volumes, by name. Filters: `name` (part), `label`, `driver`, `dangling`.
    pub async fn list(&self, filters: &BTreeMap<String, Vec<String>>) -> Result<Vec<VolumeView>> {
        for (key, values) in filters {
            match key.as_str() {
                "name" | "label" | "driver" => {}
                "dangling"
                    if values
                        .iter()
                        .all(|v| matches!(v.as_str(), "true" | "false" | "1" | "0")) => {}
                "dangling" => return Err(Error::invalid("invalid filter 'dangling'")),
                _ => return Err(Error::invalid(format!("invalid filter '{key}'"))),
            }
        }
        let fits = |view: &VolumeView| {
            filters.iter().all(|(key, values)| {
                let matches = |value: &String| match key.as_str() {
                    "name" => view.name.contains(value.as_str()),
                    "driver" => view.driver == *value,
                    "dangling" => (view.references == 0) == matches!(value.as_str(), "true" | "1"),
                    _ => match value.split_once('=') {
                        Some((key, value)) => view.labels.get(key).is_some_and(|v| v == value),
                        None => view.labels.contains_key(value),
                    },
                };
                if key == "label" {
                    values.iter().all(matches)
                } else {
                    values.is_empty() || values.iter().any(matches)
                }
            })
        };
        let views = self
            .shared
            .store
            .iter()
            .map(|(_, record)| self.view(&record));
        Ok(views.filter(fits).collect())
    }

    /// Returns all volumes, by name, with the lengths of their files added up, which takes long.
    pub async fn sizes(&self) -> Result<Vec<(VolumeView, u64)>> {
        let service = self.clone();
        crate::blocking(move || {
            let records = service.shared.store.iter();
            Ok(records
                .map(|(name, record)| (service.view(&record), disk_use(&service.data(&name))))
                .collect())
        })
        .await
    }

    /// Returns the containers that use a volume.
    pub fn containers_of(&self, name: &str) -> Vec<String> {
        self.users(name)
    }

    /// Removes a volume that no container uses. With `force` it is no error when there is none.
    pub async fn remove(&self, name: &str, force: bool) -> Result<()> {
        let (service, name) = (self.clone(), name.to_owned());
        crate::blocking(move || match service.remove_now(&name) {
            Err(error) if force && error.kind() == ErrorKind::NotFound => Ok(()),
            done => done,
        })
        .await
    }

    /// Removes every volume that no container uses and that the filter fits: only those that
    /// nobody named, unless the filter says all.
    pub async fn prune(&self, filter: PruneFilter) -> Result<Pruned<String>> {
        let service = self.clone();
        crate::blocking(move || {
            let shared = &service.shared;
            let mut pruned = Pruned {
                removed: Vec::new(),
                reclaimed: 0,
            };
            for (name, record) in shared.store.iter() {
                let wanted = filter.all == Some(true) || record.labels.contains_key(ANONYMOUS);
                if !wanted || !filter.fits_labels(&record.labels) {
                    continue;
                }
                let unused = || !shared.is_pinned(&name) && service.users(&name).is_empty();
                if !unused() {
                    continue;
                }
                let taken = disk_use(&service.data(&name));
                match service.remove_now(&name) {
                    Ok(()) => {
                        pruned.removed.push(name);
                        pruned.reclaimed += taken;
                    }
                    // Taken or removed by somebody else since.
                    Err(error)
                        if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {}
                    Err(error) => {
                        tracing::warn!(
                            volume = name,
                            error = error.message(),
                            "could not prune a volume"
                        );
                    }
                }
            }
            prune::tell(&shared.events, EventKind::Volume, pruned.reclaimed);
            Ok(pruned)
        })
        .await
    }

    /// Removes a volume that nobody uses. Blocks.
    pub(crate) fn remove_now(&self, name: &str) -> Result<()> {
        let shared = &self.shared;
        if shared.store.get(name).is_none() {
            return Err(missing(name));
        }
        {
            // Held, so that no container in the making takes it meanwhile.
            let pins = shared.pins();
            let users = self.users(name);
            if !users.is_empty() || pins.contains_key(name) {
                return Err(Error::conflict(format!(
                    "remove {name}: volume is in use - [{}]",
                    users.join(", ")
                )));
            }
            // The record goes first: what is left after a kill is a directory without one.
            shared.store.remove(name, Sync::Durable)?;
        }
        sampan_fs::remove_dir_all(shared.directory.join(name))?;
        shared
            .events
            .publish(EventKind::Volume, Action::Destroy, name, driver_attribute());
        Ok(())
    }

    /// Finds or makes a volume and keeps it from being removed. Blocks.
    pub(crate) fn ensure(&self, request: &CreateVolume, sync: Sync) -> Result<Pin> {
        let shared = &self.shared;
        if !matches!(request.driver.as_str(), "" | LOCAL) {
            return Err(Error::not_found(format!(
                "error looking up volume plugin {}: plugin {:?} not found",
                request.driver, request.driver
            )));
        }
        if let Some(option) = request.options.keys().next() {
            return Err(Error::not_implemented(format!(
                "create {}: option {option:?} of the local volume driver is not supported",
                request.name
            )));
        }
        let anonymous = request.name.is_empty();
        let name = if anonymous {
            random_hex()
        } else {
            check_volume_name(&request.name)?;
            request.name.clone()
        };
        let pin = |is_new| {
            *shared.pins().entry(name.clone()).or_default() += 1;
            Pin {
                shared: shared.clone(),
                name: name.clone(),
                is_new,
                anonymous,
            }
        };
        let pinned = pin(false);
        if shared.store.get(&name).is_some() {
            return Ok(pinned);
        }
        let mut labels = request.labels.clone();
        if anonymous {
            labels.insert(ANONYMOUS.to_owned(), String::new());
        }
        let directory = shared.directory.join(&name);
        sampan_fs::create_dir_all(&directory, 0o700)?;
        let data = directory.join(DATA);
        sampan_fs::create_dir_all(&data, 0o755)?;
        let record = Record {
            name: name.clone(),
            driver: LOCAL.to_owned(),
            created: Timestamp::now(),
            labels,
            options: request.options.clone(),
            pending: anonymous,
        };
        shared.store.put(&name, &record, sync)?;
        shared.events.publish(
            EventKind::Volume,
            Action::Create,
            name.as_str(),
            driver_attribute(),
        );
        let made = pin(true);
        drop(pinned);
        Ok(made)
    }

    /// Returns where the content of a volume is.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.shared.directory.join(name).join(DATA)
    }

    /// Returns whether there is a volume of that name.
    pub(crate) fn exists(&self, name: &str) -> bool {
        self.shared.store.get(name).is_some()
    }

    /// Gives a new volume to the user and the group of these ids of the host. Blocks.
    pub(crate) fn give(&self, name: &str, (user, group): (u32, u32)) -> Result<()> {
        use rustix::fs::{Gid, Uid};
        let directory = sampan_fs::open_dir(self.shared.directory.join(name))?;
        let data = open_below(&directory, DATA);
        let given = data.and_then(|data| {
            let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
            Ok(rustix::fs::fchown(data, Some(user), Some(group))?)
        });
        given.map_err(|error| Error::because("give a volume to its container's root", &error))
    }

    /// Fills an empty volume with what an image has at `destination`. Blocks.
    ///
    /// The copy is made beside the data and takes its place at once, so that a kill leaves an
    /// empty volume, never a part of a full one.
    pub(crate) fn fill(&self, name: &str, image: &Root, destination: &str) -> Result<()> {
        let Ok(source) = image.open_dir(destination) else {
            // Nothing there, or no directory: the volume stays as it is.
            return Ok(());
        };
        let failed = |error: std::io::Error| {
            Error::internal(format!(
                "copy the image's {destination} to volume {name}: {error}"
            ))
        };
        let directory = sampan_fs::open_dir(self.shared.directory.join(name))?;
        if !is_empty(&open_below(&directory, DATA).map_err(failed)?).map_err(failed)? {
            return Ok(());
        }
        let temporary = format!("{COPY}{}", &random_hex()[..16]);
        let copied = (|| {
            rustix::fs::mkdirat(&directory, &temporary, Mode::RWXU)?;
            let target = open_below(&directory, &temporary)?;
            let mut copier = Copier::default();
            copier.copy(source.as_fd(), target.as_fd())?;
            if copier.entries > 0 {
                rustix::fs::syncfs(&target)?;
            }
            // Replaces only an empty directory.
            match rustix::fs::renameat(&directory, &temporary, &directory, DATA) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(()),
                other => Ok(other?),
            }
        })();
        // Gone when it was renamed.
        let _ = sampan_fs::remove_all_at(&directory, &temporary);
        copied.map_err(failed)
    }

    fn view(&self, record: &Record) -> VolumeView {
        VolumeView {
            name: record.name.clone(),
            driver: record.driver.clone(),
            mountpoint: self.data(&record.name),
            created: record.created,
            labels: record.labels.clone(),
            options: record.options.clone(),
            references: self.users(&record.name).len(),
        }
    }

    /// Lists the containers that use a volume.
    pub(crate) fn users(&self, name: &str) -> Vec<String> {
        let records = self.shared.registry.records();
        records
            .iter()
            .filter(|record| {
                use crate::Lifecycle::{Dead, Removing};
                // What is being removed uses nothing any more.
                !matches!(record.lifecycle, Removing { .. } | Dead { .. })
            })
            .filter(|record| {
                let mut mounts = record.mounts.iter();
                mounts.any(|mount| mount.kind == MountKind::Volume && mount.name == name)
            })
            .map(|record| record.id.to_string())
            .collect()
    }

    /// Removes volumes that were made for a container which is gone, where nobody else uses them.
    /// Blocks.
    pub(crate) fn remove_unused(&self, names: &[String]) {
        for name in names {
            if self.shared.is_pinned(name) || !self.users(name).is_empty() {
                continue;
            }
            if let Err(error) = self.remove_now(name)
                && error.kind() != ErrorKind::NotFound
            {
                tracing::warn!(
                    volume = name,
                    error = error.message(),
                    "could not remove an anonymous volume"
                );
            }
        }
    }
}

/// The news that a volume came into use by a container.
pub(crate) fn mounted(
    name: &str,
    container: &str,
    destination: &str,
    writable: bool,
    at: Timestamp,
) -> Event {
    let attributes = BTreeMap::from([
        ("container".to_owned(), container.to_owned()),
        ("destination".to_owned(), destination.to_owned()),
        ("driver".to_owned(), LOCAL.to_owned()),
        ("propagation".to_owned(), String::new()),
        ("read/write".to_owned(), writable.to_string()),
    ]);
    Event {
        kind: EventKind::Volume,
        action: Action::Mount,
        actor: name.to_owned(),
        attributes,
        at,
    }
}

/// The news that a volume went out of use by a container.
pub(crate) fn unmounted(name: &str, container: &str, at: Timestamp) -> Event {
    let mut attributes = driver_attribute();
    attributes.insert("container".to_owned(), container.to_owned());
    Event {
        kind: EventKind::Volume,
        action: Action::Unmount,
        actor: name.to_owned(),
        attributes,
        at,
    }
}

fn driver_attribute() -> BTreeMap<String, String> {
    BTreeMap::from([("driver".to_owned(), LOCAL.to_owned())])
}

fn missing(name: &str) -> Error {
    Error::not_found(format!("get {name}: no such volume"))
}

fn open_below(directory: &OwnedFd, name: &str) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?)
}

fn is_empty(directory: &OwnedFd) -> std::io::Result<bool> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            return Ok(false);
        }
    }
    Ok(true)
}

fn remove(path: &Path) {
    let is_directory = rustix::fs::statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir());
    if is_directory && let Err(error) = sampan_fs::remove_dir_all(path) {
        tracing::warn!(path = %path.display(), error = with_causes(&error), "could not remove what was left");
    }
}
