//! A container's files as they are seen from inside, without what is mounted there.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use sampan_archive::{Tree, write_tree};
use sampan_layers::LayerMount;

use super::lifecycle::Lifecycle;
use super::record::Record;
use super::registry::Container;
use super::service::Inner;
use super::start::INIT_LAYER;
use crate::{Action, Error, Result};

/// The root of a container, stacked once more and read-only. Nothing is mounted in it, whether
/// the container runs or not.
#[derive(Debug)]
pub(crate) struct Merged {
    root: OwnedFd,
    _layers: Vec<LayerMount>,
}

impl Merged {
    /// Opens a directory. The path is not followed through links.
    pub(crate) fn directory(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if path.is_empty() { b"." } else { path };
        Ok(rustix::fs::openat2(
            &self.root,
            path,
            flags,
            Mode::empty(),
            rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_SYMLINKS,
        )?)
    }
}

/// A container's files, ready to be written out.
#[derive(Debug)]
pub struct Export(Merged);

impl Export {
    /// Writes the files as a tar. Blocks.
    pub fn write(self, out: &mut impl Write) -> io::Result<()> {
        let root = self.0.directory(b"")?;
        write_tree(root.as_fd(), Tree::Files, out)
    }
}

impl Inner {
    /// Stacks the root of a container once more. Blocks.
    pub(crate) fn merged(&self, record: &Record) -> Result<Merged> {
        let layers = self.mount_layers(&record.layers)?;
        let upper = self.paths.container(&record.id).join("upper");
        let store = self.images.store().layers();
        let root = store
            .init_layer(&layers, &INIT_LAYER)
            .and_then(|init| store.view(&layers, Some(&init), &upper))
            .map_err(|error| Error::because("mount the container's files", &error))?;
        Ok(Merged {
            root,
            _layers: layers,
        })
    }

    /// Opens a container's files. Blocks.
    pub(crate) fn export(&self, container: &Container) -> Result<Export> {
        let record = container.record();
        match record.lifecycle {
            Lifecycle::Removing { .. } | Lifecycle::Dead { .. } => {
                return Err(Error::conflict(format!(
                    "You cannot export container {} which is being removed",
                    container.id
                )));
            }
            Lifecycle::Created { .. }
            | Lifecycle::Running(_)
            | Lifecycle::Paused(_)
            | Lifecycle::Restarting(_)
            | Lifecycle::Exited(_) => {}
        }
        let merged = self.merged(&record)?;
        self.tell(&record, Action::Export, []);
        Ok(Export(merged))
    }
}
