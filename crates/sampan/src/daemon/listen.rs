//! The sockets that clients connect to.

use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::Context;

use super::host::Host;

/// Groups that may use the socket, in order of preference.
const USUAL_GROUPS: [&str; 2] = ["sampan", "docker"];

/// A socket on which clients are waited for.
#[derive(Debug)]
pub(super) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Listens where `host` says. See [`listen`].
    pub(super) fn open(host: &Host, group: Option<&str>) -> anyhow::Result<Self> {
        match host {
            Host::Unix(path) => listen(path, group).map(Self::Unix),
            Host::Tcp(address) => TcpListener::bind(address)
                .map(Self::Tcp)
                .with_context(|| format!("cannot listen on {host}")),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

/// Listens on `path`, in place of a socket that nobody listens on any more.
/// Members of `group` may connect, else only root.
fn listen(path: &Path, group: Option<&str>) -> anyhow::Result<UnixListener> {
    if UnixStream::connect(path).is_ok() {
        anyhow::bail!("an engine is already listening on {}", path.display());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let group = match group {
        Some(name) => Some(group_id(name).with_context(|| {
            format!("there is no group {name}: create it with 'groupadd --system {name}'")
        })?),
        None => USUAL_GROUPS.iter().find_map(|name| group_id(name)),
    };
    if let Some(group) = group {
        std::os::unix::fs::chown(path, None, Some(group))
            .with_context(|| format!("cannot give {} to its group", path.display()))?;
    }
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o660))
        .with_context(|| format!("cannot set the mode of {}", path.display()))?;
    Ok(listener)
}

/// The id of a group in /etc/group. The C library would load modules here,
/// which a static executable cannot.
fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}
