//! Where mounts are while they are in use.
//!
//! Since Linux 6.15 overlayfs stacks detached mounts: held by descriptors, in
//! nobody's mount table, gone with the last process that holds them. Before,
//! the kernel wants every layer in the caller's mount namespace. Then they are
//! attached below one private file system in memory, so that nothing of it
//! spreads to other namespaces and that one unmount takes it all away.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsPickFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_reconfigure,
    fsconfig_set_flag, fspick, move_mount, unmount,
};
use sampan_fs::create_dir_all;
use sampan_kernel::mount::{MountChange, Propagation, Reach, change_mount};

use crate::context::{Context, descriptor_path};
use crate::error::{Error, Result};

/// Whether mounts are attached somewhere.
#[derive(Debug, Clone)]
pub(crate) enum Places {
    /// They are not.
    Nowhere,
    /// Below a directory.
    Below(Arc<Place>),
}

impl Places {
    /// Keeps a detached mount for use as a layer.
    pub(crate) fn keep(&self, mount: OwnedFd) -> Result<Kept> {
        let attached = match self {
            Self::Nowhere => None,
            Self::Below(place) => Some(place.attach(&mount)?),
        };
        Ok(Kept {
            mount,
            _attached: attached,
        })
    }
}

/// A mount that can be a layer for as long as this lives.
#[derive(Debug)]
pub(crate) struct Kept {
    mount: OwnedFd,
    _attached: Option<Attached>,
}

impl AsFd for Kept {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

/// A mount whose parts can be bound into containers for as long as this lives.
#[derive(Debug)]
pub struct Bindable(pub(crate) Kept);

impl AsFd for Bindable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A directory for mounts. They go away with it.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    top: OwnedFd,
    counter: AtomicU64,
}

impl Place {
    /// Makes the directory a place for mounts. What a killed process has left there is taken away.
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>> {
        clear(path)?;
        create_dir_all(path, 0o700)?;
        let context = Context::open("tmpfs")?;
        context.string("mode", "0700")?;
        let top = context.mount(MountAttrFlags::MOUNT_ATTR_NODEV)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&top, "", CWD, path, flags).map_err(|e| Error::io("mount at", path, e))?;
        let place = Self {
            path: path.to_owned(),
            top,
            counter: AtomicU64::new(0),
        };
        // A mount shares what happens below it with the copies of the mount that it came to lie on.
        let private = MountChange {
            propagation: Some(Propagation::Private),
            ..MountChange::default()
        };
        change_mount(place.top.as_fd(), &private, Reach::Mount)
            .map_err(|e| Error::io("make private", path, e))?;
        Ok(Arc::new(place))
    }

    fn attach(self: &Arc<Self>, mount: &OwnedFd) -> Result<Attached> {
        let attached = self.room()?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(mount, "", &self.top, attached.name.as_str(), flags)
            .map_err(|e| Error::io("mount at", attached.path(), e))?;
        Ok(attached)
    }

    /// Copies a program onto a read-only file system of its own, from where it can be bound.
    pub(crate) fn program(self: &Arc<Self>, from: BorrowedFd<'_>) -> Result<(Kept, OwnedFd)> {
        const NAME: &str = "program";
        let failed = |e: std::io::Error| Error::io("copy", NAME, e);
        let context = Context::open("tmpfs")?;
        let mount = context.mount(MountAttrFlags::MOUNT_ATTR_NOSUID)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let copy = openat(&mount, NAME, flags, Mode::from_raw_mode(0o555));
        let mut copy = File::from(copy.map_err(|e| failed(e.into()))?);
        let mut from = File::open(descriptor_path(from)).map_err(failed)?;
        std::io::copy(&mut from, &mut copy).map_err(failed)?;
        drop(copy);
        let read_only = || {
            let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
            let context = fspick(mount.as_fd(), "", flags)?;
            fsconfig_set_flag(context.as_fd(), "ro")?;
            fsconfig_reconfigure(context.as_fd())
        };
        read_only().map_err(|e| failed(e.into()))?;
        let mount = Places::Below(Arc::clone(self)).keep(mount)?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = openat(&mount, NAME, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        Ok((mount, file))
    }

    /// An empty directory to mount something on.
    pub(crate) fn room(self: &Arc<Self>) -> Result<Attached> {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        let attached = Attached {
            place: Arc::clone(self),
            name: number.to_string(),
        };
        mkdirat(&self.top, &attached.name, Mode::RWXU)
            .map_err(|e| Error::io("create directory", attached.path(), e))?;
        Ok(attached)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left is taken away when the place is opened again.
        let _ = clear(&self.path);
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// A mount of a [`Place`].
#[derive(Debug)]
pub(crate) struct Attached {
    place: Arc<Place>,
    name: String,
}

impl Attached {
    pub(crate) fn path(&self) -> PathBuf {
        self.place.path.join(&self.name)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Those that use the mount go on. What stays is taken away with the place.
        let _ = unmount(self.path(), DETACH);
        let _ = unlinkat(&self.place.top, &self.name, AtFlags::REMOVEDIR);
    }
}

const DETACH: UnmountFlags = UnmountFlags::DETACH.union(UnmountFlags::NOFOLLOW);

/// Takes every mount at `path` away, with all below. Idempotent.
pub(crate) fn clear(path: &Path) -> Result<()> {
    loop {
        match unmount(path, DETACH) {
            Ok(()) => {}
            // Nothing is mounted there, or nothing is there.
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(e) => return Err(Error::io("unmount", path, e)),
        }
    }
}
