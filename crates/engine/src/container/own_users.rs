//! Namespaces of users for containers whose users are not the host's.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::config::{IpcMode, NetworkMode, PidMode};
use super::join::namespace;
use super::record::Record;
use super::service::Inner;
use crate::users::{IdMaps, MountUser, UserNamespaces};
use crate::{Error, Result};

/// What goes with users of a container's own.
#[derive(Debug, Default)]
pub(crate) struct OwnUsers {
    pub(crate) user: Option<OwnedFd>,
    /// One of these users; a container that joins another's has none.
    pub(crate) network: Option<OwnedFd>,
}

impl Inner {
    /// The namespace by which mounts show files as those of a container's users. Blocks.
    pub(crate) fn mount_users(&self, users: Option<&IdMaps>) -> Result<Option<Arc<MountUser>>> {
        users
            .map(|maps| self.mount_users.of(maps, &self.executable))
            .transpose()
    }

    /// Makes the namespace of a container's users, or finds it where the container joins others,
    /// whose users it must have. Blocks.
    pub(crate) fn own_users(&self, record: &Record) -> Result<OwnUsers> {
        let joined = joined(record);
        for other in &joined {
            let users = &self.registry.find(other)?.record().users;
            if *users != record.users {
                return Err(Error::conflict(format!(
                    "cannot join namespaces of container {other}: it has other users (--userns)"
                )));
            }
        }
        let Some(users) = &record.users else {
            return Ok(OwnUsers::default());
        };
        let Some((first, others)) = joined.split_first() else {
            let UserNamespaces { user, network } = self.executable.user_namespaces(users)?;
            return Ok(OwnUsers {
                user: Some(user),
                network: Some(network),
            });
        };
        if others.iter().any(|other| other != first) || record.host.network_mode.is_private() {
            return Err(Error::conflict(format!(
                "a container with users of its own joins all of another one's namespaces, its network, too: \
                 use --network container:{first} and no other container"
            )));
        }
        let doing = format!("cannot join the user namespace of container {first}");
        let (_, pid) = self.running(first, &doing)?;
        Ok(OwnUsers {
            user: Some(namespace(pid, "user", &doing)?),
            network: None,
        })
    }
}

/// The containers whose namespaces a container joins.
fn joined(record: &Record) -> Vec<&str> {
    let host = &record.host;
    let mut joined = Vec::new();
    if let NetworkMode::Container(other) = &host.network_mode {
        joined.push(other.as_str());
    }
    if let PidMode::Container(other) = &host.pid_mode {
        joined.push(other);
    }
    if let IpcMode::Container(other) = &host.ipc_mode {
        joined.push(other);
    }
    joined
}
