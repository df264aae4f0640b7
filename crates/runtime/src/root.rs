//! The root file system of a container.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use sampan_kernel::mount::{MountChange, Propagation, Reach, change_mount};

use crate::Error;
use crate::bundle::Root;
use crate::trees::{clone_descriptor, clone_path, open_directory};

/// How mounts spread between the container's root and the host.
#[derive(Clone, Copy)]
pub(crate) struct RootPropagation(Propagation, Reach);

impl RootPropagation {
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, Error> {
        Ok(match text {
            None | Some("" | "rprivate") => Self(Propagation::Private, Reach::Tree),
            Some("private") => Self(Propagation::Private, Reach::Mount),
            Some("slave") => Self(Propagation::Slave, Reach::Mount),
            Some("rslave") => Self(Propagation::Slave, Reach::Tree),
            Some("shared") => Self(Propagation::Shared, Reach::Mount),
            Some("rshared") => Self(Propagation::Shared, Reach::Tree),
            Some("unbindable") => Self(Propagation::Unbindable, Reach::Mount),
            Some("runbindable") => Self(Propagation::Unbindable, Reach::Tree),
            Some(other) => {
                return Err(Error::Invalid(format!(
                    "unknown propagation of the root file system: {other:?}"
                )));
            }
        })
    }

    /// What the detached root is set to before it is attached. A shared root
    /// cannot be pivoted to, so that comes last; slaves keep their master.
    pub(crate) fn before(self) -> Propagation {
        match self.0 {
            Propagation::Shared => Propagation::Private,
            other => other,
        }
    }

    pub(crate) fn shared(self) -> Option<Propagation> {
        (self.0 == Propagation::Shared).then_some(self.0)
    }

    pub(crate) fn reach_if_shared(self) -> Reach {
        self.shared().map_or(Reach::Mount, |_| self.1)
    }
}

/// The root as a detached mount for this one start, and a descriptor for
/// looking up users that the container's own mounts do not show through.
pub(crate) fn open_root(
    root: Root,
    directory: &Path,
    propagation: RootPropagation,
) -> Result<(OwnedFd, OwnedFd), Error> {
    let (tree, lookup) = match root {
        Root::Mount(mount) => match clone_descriptor(mount.as_fd(), Reach::Tree) {
            Ok(tree) => (tree, mount),
            // Before Linux 6.15 a detached mount cannot be cloned: this start
            // takes it, and a second one fails.
            Err(Errno::INVAL) => {
                let copy = rustix::io::fcntl_dupfd_cloexec(&mount, 3)
                    .map_err(Error::step("duplicate a descriptor"))?;
                (mount, copy)
            }
            Err(errno) => {
                return Err(Error::step("clone the root file system")(errno));
            }
        },
        Root::Directory(path) => {
            let path = directory.join(path);
            let what = || Error::step(format!("open the root file system {}", path.display()));
            let lookup = open_directory(&path).map_err(what())?;
            (clone_path(&path, Reach::Tree).map_err(what())?, lookup)
        }
    };
    let change = MountChange {
        propagation: Some(propagation.before()),
        ..MountChange::default()
    };
    change_mount(tree.as_fd(), &change, Reach::Tree).map_err(Error::io_step(
        "set the propagation of the root file system",
    ))?;
    Ok((tree, lookup))
}
