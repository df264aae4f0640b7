//! Namespaces and memory that containers share.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags};
use sampan_oci::runtime::{Mount, NamespaceKind};

use super::config::{IpcMode, PidMode};
use super::lifecycle::Lifecycle;
use super::record::Record;
use super::service::Inner;
use super::spec::bind;
use super::start::restarting;
use crate::{Error, Result};

/// Name of the directory beside a shim's socket in which the memory lies that others may share.
pub(crate) const SHARED_MEMORY: &str = "shm";
const SHM_SIZE: i64 = 64 << 20;

impl Inner {
    /// Opens the namespaces that a container shares with others, and makes or finds the memory
    /// that goes with them. Blocks.
    pub(crate) fn join(
        &self,
        record: &Record,
        namespaces: &mut Vec<(NamespaceKind, OwnedFd)>,
    ) -> Result<Option<Mount>> {
        if let PidMode::Container(other) = &record.host.pid_mode {
            let doing = format!("cannot join PID namespace of container {other}");
            let (_, pid) = self.running(other, &doing)?;
            namespaces.push((NamespaceKind::Pid, namespace(pid, "pid", &doing)?));
        }
        let memory = match &record.host.ipc_mode {
            IpcMode::Container(other) => {
                let doing = format!("cannot join IPC of container {other}");
                let (other, pid) = self.running(other, &doing)?;
                if other.host.ipc_mode != IpcMode::Shareable {
                    return Err(Error::conflict(format!(
                        "{doing}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
                    )));
                }
                namespaces.push((NamespaceKind::Ipc, namespace(pid, "ipc", &doing)?));
                self.paths.shim(&other.id).join(SHARED_MEMORY)
            }
            IpcMode::Shareable => {
                let place = self.paths.shim(&record.id).join(SHARED_MEMORY);
                let size = match record.host.shm_size {
                    size if size > 0 => size,
                    _ => SHM_SIZE,
                };
                make_memory(&place, size)
                    .map_err(|error| Error::because("make memory that can be shared", &error))?;
                place
            }
            IpcMode::Default | IpcMode::None | IpcMode::Private | IpcMode::Host => return Ok(None),
        };
        Ok(Some(bind(
            memory,
            "/dev/shm",
            &["rbind", "nosuid", "noexec", "nodev", "rprivate"],
        )))
    }

    /// Finds a container that must run, and its first process.
    pub(crate) fn running(&self, name: &str, doing: &str) -> Result<(std::sync::Arc<Record>, i32)> {
        let record = self.registry.find(name)?.record();
        if matches!(record.lifecycle, Lifecycle::Restarting(_)) {
            return Err(restarting(&record.id));
        }
        match record.lifecycle.run() {
            Some(run) => {
                let pid = run.pid;
                Ok((record, pid))
            }
            None => Err(Error::conflict(format!(
                "{doing}: container {} is not running",
                record.id
            ))),
        }
    }
}

pub(crate) fn namespace(pid: i32, kind: &str, doing: &str) -> Result<OwnedFd> {
    File::open(format!("/proc/{pid}/ns/{kind}"))
        .map(OwnedFd::from)
        .map_err(|error| Error::because(doing, &error))
}

/// Mounts memory at `place`, which nobody else's copy of the host's mounts gets.
fn make_memory(place: &Path, size: i64) -> std::io::Result<()> {
    std::fs::create_dir_all(place)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let options = std::ffi::CString::new(format!("mode=1777,size={size}"))?;
    rustix::mount::mount("shm", place, "tmpfs", flags, options.as_c_str())?;
    rustix::mount::mount_change(place, MountPropagationFlags::PRIVATE)?;
    Ok(())
}
