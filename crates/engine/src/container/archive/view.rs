//! A container's files as it sees them itself.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
};
use sampan_archive::OwnerMap;
use sampan_fs::Root;
use sampan_kernel::acting::ActingAs;
use sampan_kernel::clone::{Namespaces, unshare};
use sampan_kernel::mount::{MountAttributes, MountChange, Propagation, Reach, change_mount};
use sampan_layers::{Durability, LayerMount};
use tokio::sync::OwnedMutexGuard;

use super::super::inner_mount::Loose;
use super::super::lifecycle::Lifecycle;
use super::super::mount::MountKind;
use super::super::record::Record;
use super::super::registry::Container;
use super::super::request::WaitCondition;
use super::super::service::Inner;
use crate::users::IdMaps;
use crate::{Error, Result, blocking};

/// How long the end of a container may take to be told once its process is gone.
const ENDING: Duration = Duration::from_secs(10);
/// What paths in [`sampan_archive::is_pseudo`] file systems answer.
pub(super) const NOT_FILES: Errno = Errno::NXIO;

/// The root of a container with all that is mounted in it. While it is there nobody starts a
/// container that does not run.
pub(crate) struct View {
    root: Root,
    /// Whose ids its files have, where they are not the host's.
    users: Option<IdMaps>,
    /// Ends the mounts. After the root, which lies in them.
    _mounts: Option<Mounts>,
    _layers: Vec<LayerMount>,
    _operation: Option<OwnedMutexGuard<()>>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl View {
    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    /// Which owners inside the container those of its files are.
    pub(super) fn owners_inside(&self) -> OwnerMap {
        self.users
            .as_ref()
            .map_or_else(OwnerMap::default, IdMaps::owners_inside)
    }

    /// Which owners its files have for owners inside the container.
    pub(super) fn owners_on_host(&self) -> OwnerMap {
        self.users
            .as_ref()
            .map_or_else(OwnerMap::default, IdMaps::owners_on_host)
    }

    /// Makes the calling thread the container's root for a while, where that is not the host's:
    /// nobody else can make files there.
    pub(super) fn as_root(&self) -> io::Result<Option<ActingAs>> {
        self.users.as_ref().map(IdMaps::act_as_root).transpose()
    }

    /// Opens a path in the container. What the kernel itself shows (`/proc`, `/sys`) is not there.
    pub(super) fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let found = open(&self.root, path, flags)?;
        if sampan_archive::is_pseudo(found.as_fd())? {
            return Err(Errno::NOENT.into());
        }
        Ok(found)
    }
}

/// Opens a path below a root.
pub(super) fn open(root: &Root, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    root.open_with(path, flags, 0).map_err(|error| match error {
        sampan_fs::Error::Io { source, .. } => source,
        other => io::Error::other(other),
    })
}

impl Inner {
    /// Opens a container's files. A container that runs shows them itself; of another one they are
    /// mounted for a while.
    pub(super) async fn files_view(self: &Arc<Self>, container: &Arc<Container>) -> Result<View> {
        for _ in 0..2 {
            let record = container.record();
            check_there(&record)?;
            let Some(run) = record.lifecycle.run() else {
                let operation = container.operate().await?;
                let record = container.record();
                check_there(&record)?;
                if record.lifecycle.is_running() {
                    continue;
                }
                let inner = self.clone();
                return blocking(move || inner.mounted_view(&record, operation)).await;
            };
            let (pid, id) = (run.pid, container.id.to_string());
            if let Some(root) = blocking(move || Ok(live_root(pid, &id))).await? {
                return Ok(View {
                    root,
                    users: record.users.clone(),
                    _mounts: None,
                    _layers: Vec::new(),
                    _operation: None,
                });
            }
            // It has just ended.
            let ended = container.wait(WaitCondition::NotRunning).outcome();
            let _ = tokio::time::timeout(ENDING, ended).await;
        }
        Err(Error::conflict(format!(
            "container {} is being started or stopped, try again",
            container.id
        )))
    }

    /// Mounts the files of a container that does not run. Blocks.
    fn mounted_view(&self, record: &Record, operation: OwnedMutexGuard<()>) -> Result<View> {
        let directory = self.paths.container(&record.id);
        let layers = self.mount_layers(&record.layers)?;
        // Also of what is thrown away at its end: the mark that a volatile mount leaves is for the
        // run that follows.
        let overlay = self.mount_changes(record, &layers, Durability::Durable)?;
        let binds = self.binds(record)?;
        let (root, mounts) =
            Mounts::make(directory.join("work"), overlay, binds, record.users.clone())
                .map_err(|error| Error::because("mount the container's files", &error))?;
        Ok(View {
            root,
            users: record.users.clone(),
            _mounts: Some(mounts),
            _layers: layers,
            _operation: Some(operation),
        })
    }

    /// What is bound into a container, in the order of the mounts.
    fn binds(&self, record: &Record) -> Result<Vec<Bind>> {
        let directory = self.paths.container(&record.id);
        let points = record.mounts.iter();
        let points = points.filter(|point| point.kind != MountKind::Tmpfs);
        let binds = points.map(|point| {
            Ok(Bind {
                source: point.source.clone(),
                loose: self.loose(record, point)?,
                destination: point.destination.clone(),
                writable: point.writable,
                recursive: !point.carry_out.non_recursive,
            })
        });
        let mut binds = binds.collect::<Result<Vec<Bind>>>()?;
        for name in ["hostname", "hosts", "resolv.conf"] {
            let destination = format!("/etc/{name}");
            if binds.iter().all(|bind| bind.destination != destination) {
                binds.push(Bind {
                    source: directory.join(name),
                    loose: None,
                    destination,
                    writable: !record.host.readonly_rootfs,
                    recursive: false,
                });
            }
        }
        // What the container has not seen yet is made by its start.
        binds.retain(|bind| bind.loose.is_some() || bind.source.exists());
        binds.sort_by_key(|bind| bind.destination.matches('/').count());
        Ok(binds)
    }
}

fn check_there(record: &Record) -> Result<()> {
    match record.lifecycle {
        Lifecycle::Removing { .. } => Err(Error::conflict(format!(
            "container {} is being removed",
            record.id
        ))),
        Lifecycle::Dead { .. } => Err(Error::conflict(format!("container {} is dead", record.id))),
        Lifecycle::Created { .. }
        | Lifecycle::Running(_)
        | Lifecycle::Paused(_)
        | Lifecycle::Restarting(_)
        | Lifecycle::Exited(_) => Ok(()),
    }
}

/// The root of a container's init. None when that has ended, also when its number belongs to
/// another process by now.
fn live_root(pid: i32, container: &str) -> Option<Root> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let process = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty()).ok()?;
    // The one link that is followed by its magic: it is the kernel's, of the very process.
    let root = rustix::fs::openat(&process, "root", flags, Mode::empty()).ok()?;
    let cgroups = OFlags::RDONLY | OFlags::CLOEXEC;
    let cgroups = rustix::fs::openat(&process, "cgroup", cgroups, Mode::empty()).ok()?;
    let mut text = String::new();
    std::fs::File::from(cgroups)
        .read_to_string(&mut text)
        .ok()?;
    text.contains(container).then(|| Root::from_fd(root))
}

struct Bind {
    source: PathBuf,
    /// In place of a path.
    loose: Option<Loose>,
    destination: String,
    writable: bool,
    recursive: bool,
}

/// Mounts that nobody else sees: a thread holds the mount namespace in which they are, for as long
/// as this is there.
struct Mounts {
    /// Dropped, it tells the thread to end.
    stay: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Mounts {
    /// Attaches a root, on top of a directory in which nothing is looked for by its path, and what is
    /// bound into it.
    fn make(
        directory: PathBuf,
        overlay: OwnedFd,
        binds: Vec<Bind>,
        users: Option<IdMaps>,
    ) -> io::Result<(Root, Self)> {
        let (stay, until) = mpsc::channel::<()>();
        let (ready, made) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("container-files".to_owned())
            .spawn(move || {
                let made = attach(&directory, &overlay, &binds, users.as_ref());
                if ready.send(made).is_ok() {
                    // Nothing is ever sent.
                    let _ = until.recv();
                }
            })?;
        let mounts = Self {
            stay: Some(stay),
            thread: Some(thread),
        };
        let root = made
            .recv()
            .map_err(|_| io::Error::other("the thread that mounts has ended"))??;
        Ok((root, mounts))
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        self.stay.take();
        // The mounts are gone when the thread is.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn attach(
    directory: &Path,
    overlay: &OwnedFd,
    binds: &[Bind],
    users: Option<&IdMaps>,
) -> io::Result<Root> {
    unshare(Namespaces::MOUNT)?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::open(directory, flags, Mode::empty())?;
    onto(overlay, &place)?;
    let root = Root::from_fd(rustix::fs::open(directory, flags, Mode::empty())?);
    for bind in binds {
        let mut how = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if bind.recursive {
            how |= OpenTreeFlags::AT_RECURSIVE;
        }
        let tree = match &bind.loose {
            Some(loose) => loose.tree.try_clone()?,
            None => open_tree(CWD, &bind.source, how)?,
        };
        let change = MountChange {
            set: if bind.writable {
                MountAttributes::default()
            } else {
                MountAttributes::READ_ONLY
            },
            propagation: Some(Propagation::Private),
            ..MountChange::default()
        };
        change_mount(tree.as_fd(), &change, Reach::Tree)?;
        let as_root = users.map(IdMaps::act_as_root).transpose()?;
        let target = mount_point(&root, &bind.destination, &tree)?;
        drop(as_root);
        onto(&tree, &target)?;
    }
    Ok(root)
}

fn onto(tree: &OwnedFd, place: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, "", place, "", flags)?)
}

/// Opens the place of a mount, making it where the container has not been started yet.
fn mount_point(root: &Root, destination: &str, source: &OwnedFd) -> io::Result<OwnedFd> {
    match open(root, Path::new(destination), OFlags::PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let made = |error: sampan_fs::Error| io::Error::other(error);
    let stat = rustix::fs::fstat(source)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        root.create_dir_all(destination, 0o755).map_err(made)?;
    } else {
        let parent = Path::new(destination).parent().unwrap_or(Path::new("/"));
        root.create_dir_all(parent, 0o755).map_err(made)?;
        root.create_file(destination, 0o644).map_err(made)?;
    }
    open(root, Path::new(destination), OFlags::PATH)
}
