//! A container's scope: made by systemd over a process, and gone with the last one that is in it.
//!
//! At first the container has none, and the caller cannot stay, so that a placeholder holds it.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use sampan_cgroups::{Cgroup, CgroupPath, Hierarchies, move_process, remove_parent};
use sampan_kernel::clone::{Child, Namespaces, spawn_copy};
use sampan_kernel::pidfd;
use sampan_systemd::Scope;

/// A scope while no process of the container is in it. It stays when the value is dropped if one is
/// in it by then.
#[derive(Debug)]
pub(crate) struct HeldScope<'a> {
    hierarchies: &'a Hierarchies,
    /// The placeholder's cgroup: with cgroup v2 the scope's own must be empty.
    supervisor: CgroupPath,
    placeholder: Child,
}

impl<'a> HeldScope<'a> {
    /// Has systemd make a scope.
    pub(crate) fn make(hierarchies: &'a Hierarchies, scope: &Scope, id: &str) -> Result<Self> {
        let held = Self {
            hierarchies,
            supervisor: scope.supervisor().parse()?,
            placeholder: placeholder().context("cannot start a process to hold the scope")?,
        };
        let pid = held.placeholder.pid;
        let process = pid.as_raw_nonzero().get().unsigned_abs();
        sampan_systemd::start(scope, &format!("OCI container {id}"), process)?;
        move_process(hierarchies, &held.supervisor, pid)?;
        Ok(held)
    }
}

impl Drop for HeldScope<'_> {
    fn drop(&mut self) {
        let pidfd = self.placeholder.pidfd.as_fd();
        // A process of this one's own that cannot have been reaped by anybody else.
        let _ = pidfd::send_signal(pidfd, Signal::KILL);
        let _ = pidfd::wait(pidfd);
        remove_parent(self.hierarchies, &self.supervisor);
    }
}

/// Starts a process that does nothing and ends with this one.
fn placeholder() -> std::io::Result<Child> {
    let parent = getpid();
    spawn_copy(Namespaces::empty(), None, move || {
        let tied = set_parent_process_death_signal(Some(Signal::KILL));
        if tied.is_err() || getppid() != Some(parent) {
            return 1;
        }
        loop {
            rustix::event::pause();
        }
    })
}

/// Has systemd end a scope, and removes what it does not know of.
pub(crate) fn end(hierarchies: &Hierarchies, name: &str, container: &CgroupPath) -> Result<()> {
    sampan_systemd::stop(name)?;
    let path = container.parent().context("the scope has no cgroup")?;
    match Cgroup::open(hierarchies, &path) {
        Ok(left) => Ok(left.delete()?),
        Err(_) => Ok(()),
    }
}
