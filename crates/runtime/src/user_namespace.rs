//! Namespaces of users: the maps of their ids, and how a process takes its place in one.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Gid, Uid};
use rustix::process::{Pid, Signal};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use sampan_kernel::clone::{Namespaces, spawn_copy};
use sampan_kernel::pidfd;
use sampan_oci::runtime::IdMapping;

use crate::Error;
use crate::failure::{At, Failure, Step};

/// The maps of a namespace, as the kernel takes them (user_namespaces(7)).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct IdMaps {
    users: String,
    groups: String,
}

impl IdMaps {
    pub(crate) fn new(users: &[IdMapping], groups: &[IdMapping]) -> Result<Self, Error> {
        if users.is_empty() || groups.is_empty() {
            return Err(Error::Invalid(
                "user namespaces enabled, but no uid or gid mappings found".to_owned(),
            ));
        }
        Ok(Self {
            users: lines(users)?,
            groups: lines(groups)?,
        })
    }

    /// Gives the maps to the new namespace of a process.
    pub(crate) fn write(&self, pid: Pid) -> Result<(), Error> {
        for (file, lines) in [("uid_map", &self.users), ("gid_map", &self.groups)] {
            let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
            std::fs::write(&path, lines).map_err(Error::io_step(format!(
                "write {file} of the user namespace"
            )))?;
        }
        Ok(())
    }

    /// A namespace with these maps and nobody in it, for mounts.
    pub(crate) fn namespace(&self) -> Result<OwnedFd, Error> {
        let [namespace] = self.namespaces(Namespaces::USER, ["user"])?;
        Ok(namespace)
    }

    /// New namespaces with nobody in them: one of users with these maps, and others that are its.
    fn namespaces<const N: usize>(
        &self,
        kinds: Namespaces,
        names: [&str; N],
    ) -> Result<[OwnedFd; N], Error> {
        let holder = spawn_copy(kinds, None, || {
            // Until it is killed.
            loop {
                rustix::event::pause();
            }
        })
        .map_err(Error::io_step("make a user namespace"))?;
        let open = |name: &str| {
            let path = format!("/proc/{}/ns/{name}", holder.pid.as_raw_nonzero());
            File::open(path)
                .map(OwnedFd::from)
                .map_err(Error::io_step("open a user namespace"))
        };
        let made = self.write(holder.pid).and_then(|()| {
            let opened: Result<Vec<_>, _> = names.into_iter().map(open).collect();
            Ok(opened?
                .try_into()
                .expect("one descriptor was opened for each name"))
        });
        // It has done its work, whatever came of it.
        let _ = pidfd::send_signal(holder.pidfd.as_fd(), Signal::KILL);
        let _ = pidfd::wait(holder.pidfd.as_fd());
        made
    }
}

/// A namespace of users and one of its networks, with nobody in them.
#[derive(Debug)]
pub struct UserNamespaces {
    /// That of users.
    pub user: OwnedFd,
    /// That of the network.
    pub network: OwnedFd,
}

impl UserNamespaces {
    /// Makes them. The caller has one thread.
    ///
    /// # Errors
    /// When the kernel refuses, or a map makes no sense.
    pub fn make(users: &[IdMapping], groups: &[IdMapping]) -> Result<Self, Error> {
        let maps = IdMaps::new(users, groups)?;
        let kinds = Namespaces::USER | Namespaces::NETWORK;
        let [user, network] = maps.namespaces(kinds, ["user", "net"])?;
        Ok(Self { user, network })
    }
}

fn lines(mappings: &[IdMapping]) -> Result<String, Error> {
    if mappings.iter().any(|mapping| mapping.size == 0) {
        return Err(Error::Invalid("an id mapping of size 0".to_owned()));
    }
    let lines = mappings.iter().map(|mapping| {
        let IdMapping {
            container_id,
            host_id,
            size,
        } = mapping;
        format!("{container_id} {host_id} {size}\n")
    });
    Ok(lines.collect())
}

/// Child code: who has entered a namespace of users is nobody in it until it takes an id of it.
pub(crate) fn become_its_root() -> Result<(), Failure> {
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).at(Step::GroupId)?;
    match set_thread_groups(&[]) {
        // Where the namespace's maker has forbidden it.
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(errno) => return Err(errno).at(Step::Groups),
    }
    set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).at(Step::UserId)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(container_id: u32, host_id: u32, size: u32) -> IdMapping {
        IdMapping {
            container_id,
            host_id,
            size,
        }
    }

    #[test]
    fn maps_are_written_as_the_kernel_takes_them() {
        let users = [mapping(0, 100_000, 1000), mapping(1000, 0, 1)];
        let maps = IdMaps::new(&users, &[mapping(0, 200_000, 65_536)]).unwrap();
        assert_eq!(maps.users, "0 100000 1000\n1000 0 1\n");
        assert_eq!(maps.groups, "0 200000 65536\n");
        assert!(IdMaps::new(&users, &[]).is_err());
        assert!(IdMaps::new(&users, &[mapping(0, 0, 0)]).is_err());
    }
}
