//! What is known of a container on disk.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{AtFlags, Mode};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use sampan_fs::{DirLock, Sync};
use sampan_oci::runtime::Spec;
use serde::{Deserialize, Serialize};

const RECORD: &str = "record.json";
const GATE: &str = "start.sock";
const LOCK: &str = "lock";

/// A container's record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: String,
    /// Absolute path of the bundle.
    pub(crate) bundle: PathBuf,
    /// Absolute path of the root file system.
    pub(crate) rootfs: PathBuf,
    /// RFC 3339.
    pub(crate) created: String,
    pub(crate) cgroup: String,
    /// Whether nothing else lies in the cgroup that encloses this one.
    pub(crate) default_cgroup: bool,
    /// The name of the scope below which the cgroup lies, where systemd has made one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<String>,
    /// The name of the container's session keyring.
    pub(crate) keyring: Option<String>,
    /// What it was made of.
    pub(crate) spec: Spec,
    /// Who makes it, until its first process is there.
    pub(crate) maker: Process,
    /// Its first process.
    pub(crate) init: Option<Process>,
}

/// A process, told from a later one of the same id.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// In ticks since the machine started.
    pub(crate) start_time: u64,
}

/// The directory of one container's state.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    descriptor: OwnedFd,
}

/// A container that is not there, in runc's words, which callers look for.
#[derive(Debug, thiserror::Error)]
#[error("container does not exist")]
pub(crate) struct Missing;

impl Directory {
    /// Makes the directory of a new container.
    pub(crate) fn create(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .with_context(|| format!("cannot make {}", root.display()))?;
        let path = root.join(id);
        match fs::DirBuilder::new().mode(0o711).create(&path) {
            Ok(()) => Self::at(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("container with given ID already exists")
            }
            Err(error) => Err(error).with_context(|| format!("cannot make {}", path.display())),
        }
    }

    /// Opens the directory of a container that is there.
    pub(crate) fn open(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let path = root.join(id);
        match fs::symlink_metadata(&path) {
            Ok(_) => Self::at(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Missing.into()),
            Err(error) => Err(error).with_context(|| format!("cannot open {}", path.display())),
        }
    }

    fn at(path: PathBuf) -> Result<Self> {
        Ok(Self {
            descriptor: sampan_fs::open_dir(&path)?,
            path,
        })
    }

    /// The ids of all containers below `root`, sorted.
    pub(crate) fn ids(root: &Path) -> Result<Vec<String>> {
        let entries = match fs::read_dir(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.with_context(|| format!("cannot read {}", root.display()))?,
        };
        let names = entries.flatten().filter(|entry| entry.path().is_dir());
        let mut ids: Vec<String> = names
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| check_id(name).is_ok())
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// Writes the record, in place of the one before. It lies in memory (/run), so that nothing
    /// need be synced.
    pub(crate) fn write(&self, record: &Record) -> Result<()> {
        let bytes = sampan_state::seal(record)?;
        sampan_fs::write_atomic(&self.descriptor, RECORD, &bytes, Sync::Volatile)?;
        Ok(())
    }

    /// Reads the record; none where the maker was killed before it wrote one.
    pub(crate) fn read(&self) -> Result<Option<Record>> {
        let path = self.path.join(RECORD);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let record = sampan_state::unseal(&bytes);
        Ok(Some(record.with_context(|| {
            format!("the record {} is damaged", path.display())
        })?))
    }

    /// Keeps others from starting or deleting the container until the value is dropped.
    pub(crate) fn lock(&self) -> Result<DirLock> {
        Ok(DirLock::acquire(&self.path, LOCK)?)
    }

    /// Makes the socket at which the container waits to be started.
    pub(crate) fn listen(&self) -> Result<OwnedFd> {
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        bind(&socket, &self.gate()?).context("cannot make the container's start socket")?;
        rustix::fs::chmodat(&self.descriptor, GATE, Mode::RWXU, AtFlags::empty())?;
        listen(&socket, 1)?;
        Ok(socket)
    }

    /// Whether nobody has started the container yet.
    pub(crate) fn is_waiting(&self) -> bool {
        rustix::fs::statat(&self.descriptor, GATE, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Connects to the waiting container. From here on it is started, or ends when the caller
    /// does not start it.
    pub(crate) fn connect(&self) -> Result<OwnedFd> {
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        connect(&socket, &self.gate()?).context("the container does not wait to be started")?;
        rustix::fs::unlinkat(&self.descriptor, GATE, AtFlags::empty())?;
        Ok(socket)
    }

    /// By way of the descriptor: a socket's path has at most 107 bytes.
    fn gate(&self) -> Result<SocketAddrUnix> {
        use std::os::fd::AsRawFd as _;
        let path = format!(
            "/proc/self/fd/{}/{GATE}",
            self.descriptor.as_fd().as_raw_fd()
        );
        Ok(SocketAddrUnix::new(path)?)
    }

    /// Removes the directory and all in it. One that is gone is no error.
    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// runc's rule for ids, which keeps them from being paths.
fn check_id(id: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() || id.len() > 255 || id == "." || id == ".." || !id.chars().all(plain) {
        bail!("invalid container ID format: {id:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_no_paths() {
        for bad in ["", ".", "..", "a/b", "../a", "a b", "a\0"] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a.b_c-d+e", "0123"] {
            assert!(check_id(good).is_ok(), "{good:?}");
        }
    }
}
