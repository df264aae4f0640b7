//! The supervisor of a container that is being started.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, mkdirat};
use rustix::io::Errno;
use sampan_cgroups::birthplace;
use sampan_state::Sync;

use super::PREDECESSOR;
use crate::container::control_groups::ControlGroups;
use crate::container::id::ContainerId;
use crate::container::record::Record;
use crate::container::registry::Container;
use crate::container::service::Inner;
use crate::shim::{LifeLock, Spawned};
use crate::{Error, Result};

impl Inner {
    /// Notes where systemd is about to make the container's scope, if that is news: before there is
    /// anything to be taken back.
    pub(super) async fn note_slice(
        &self,
        container: &Arc<Container>,
        record: &Record,
        groups: &ControlGroups,
    ) -> Result<()> {
        let slice = groups.slice();
        if record.slice.as_ref() == slice {
            return Ok(());
        }
        let slice = slice.cloned();
        let noted = self
            .registry
            .update_async(container, Sync::Volatile, move |record| {
                Some(Record {
                    slice,
                    ..record.clone()
                })
            });
        noted.await.map(drop)
    }

    pub(super) fn make_shim_directory(&self, id: &ContainerId) -> Result<PathBuf> {
        let directory = self.paths.shim(id);
        match mkdirat(CWD, &directory, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(directory),
            Err(errno) => Err(Error::internal(format!(
                "create {}: {errno}",
                directory.display()
            ))),
        }
    }

    /// Starts a shim that waits for its launch, has its scope made where systemd does that, and takes
    /// the lock that tells of it. Blocks.
    pub(crate) fn spawn_shim(
        &self,
        id: &ContainerId,
        groups: &ControlGroups,
    ) -> Result<(Spawned, LifeLock)> {
        let directory = self.make_shim_directory(id)?;
        let deadline = Instant::now() + PREDECESSOR;
        let lock = loop {
            if let Some(lock) = LifeLock::try_take(&directory)? {
                break lock;
            }
            if Instant::now() >= deadline {
                return Err(Error::conflict(format!(
                    "the supervisor of the last run of container {id} is still there"
                )));
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        // Of the run before; the next one is recognised by its own.
        let exit = self
            .paths
            .container(id)
            .join(sampan_shim_protocol::SHIM_DIRECTORY)
            .join(sampan_shim_protocol::EXIT_FILE);
        match std::fs::remove_file(&exit) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::internal(format!(
                    "remove {}: {error}",
                    exit.display()
                )));
            }
            _ => {}
        }
        let cgroup = match groups {
            ControlGroups::Own { shim, .. } => {
                let path = shim.parse().ok();
                path.and_then(|path| birthplace(&self.host.hierarchies, &path))
            }
            // It is made over a process that is there.
            ControlGroups::Scope(_) => None,
        };
        let spawned = self
            .executable
            .start(id.as_str(), cgroup.as_ref().map(AsFd::as_fd))?;
        if let ControlGroups::Scope(scope) = groups {
            let description = format!("Container {id} of Sampan");
            sampan_systemd::start(scope, &description, spawned.pid())
                .map_err(|error| Error::because("make the container's scope", &error))?;
        }
        Ok((spawned, lock))
    }
}
