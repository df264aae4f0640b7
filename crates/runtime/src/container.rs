use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::SendFlags;
use rustix::process::{Pid, Signal};
use sampan_cgroups::{Cgroup, CgroupPath, Hierarchies};
use sampan_kernel::clone::Child;
use sampan_kernel::pidfd::{self, Ending};
use sampan_oci::runtime::LinuxResources;

use crate::child::ContainerPlan;
use crate::create::{Answer, ContainerNamespaces, died, receive};
use crate::{Error, ExecRequest, exec};

/// A container whose first process waits to become its program.
///
/// Dropped, it is ended and its cgroup removed.
#[derive(Debug)]
pub struct Created {
    parts: Option<Parts>,
    terminal: Option<OwnedFd>,
    socket: OwnedFd,
    plan: ContainerPlan,
}

/// What a container consists of, seen from here.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) child: Child,
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) namespaces: ContainerNamespaces,
    pub(crate) lookup_root: OwnedFd,
    pub(crate) terminals: Option<OwnedFd>,
}

impl Created {
    pub(crate) fn new(
        parts: Parts,
        terminal: Option<OwnedFd>,
        socket: OwnedFd,
        plan: ContainerPlan,
    ) -> Self {
        Self {
            parts: Some(parts),
            terminal,
            socket,
            plan,
        }
    }

    pub(crate) fn wait_until_ready(&mut self) -> Result<(), Error> {
        match receive(self.socket.as_fd())? {
            Answer::Ready => Ok(()),
            Answer::Failed(failure) => Err(self.plan.failed(failure)),
            Answer::Closed | Answer::Spawned(_) => Err(died(&self.parts().child)),
        }
    }

    fn parts(&self) -> &Parts {
        self.parts
            .as_ref()
            .expect("only start takes them, and start consumes this value")
    }

    /// The process' id in the caller's namespace.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.parts().child.pid
    }

    /// The process' descriptor.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.parts().child.pidfd.as_fd()
    }

    /// The caller's end of the terminal; resize it with tcsetwinsize(3).
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// The container's cgroup.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.parts().cgroup.as_ref()
    }

    /// Lets the process run its program. Returns when the kernel has accepted
    /// it.
    ///
    /// # Errors
    /// What execve answered, or a step right before it; nothing is left.
    pub fn start(mut self) -> Result<Running, Error> {
        match rustix::net::send(&self.socket, &[1], SendFlags::NOSIGNAL) {
            Ok(_) => {}
            Err(_) => return Err(died(&self.parts().child)),
        }
        match receive(self.socket.as_fd())? {
            Answer::Failed(failure) => Err(self.plan.failed(failure)),
            Answer::Closed | Answer::Ready | Answer::Spawned(_) => {
                let parts = self.parts.take();
                let parts = parts.expect("taken here only, and this value is consumed");
                Ok(Running { parts })
            }
        }
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        if let Some(parts) = &self.parts {
            parts.destroy();
        }
    }
}

impl Parts {
    /// Ends and removes everything; what fails is noted by nobody, because an
    /// earlier error explains.
    fn destroy(&self) {
        let pidfd = self.child.pidfd.as_fd();
        let _ = pidfd::send_signal(pidfd, Signal::KILL);
        let _ = pidfd::wait(pidfd);
        if let Some(cgroup) = &self.cgroup {
            drop(cgroup.kill_all());
            drop(cgroup.delete());
        }
    }
}

/// A container whose program runs, or has ended.
///
/// Dropping it does nothing to the container.
#[derive(Debug)]
pub struct Running {
    pub(crate) parts: Parts,
}

impl Running {
    /// The first process' id in the caller's namespace.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.parts.child.pid
    }

    /// The first process' descriptor; readable when it has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.parts.child.pidfd.as_fd()
    }

    /// The container's cgroup.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.parts.cgroup.as_ref()
    }

    /// Waits until the first process has ended, and reaps it.
    ///
    /// The kernel lets it end only after every further process was reaped, and
    /// those are the caller's children: whoever has some waits for all of them
    /// at once (their descriptors become readable), not for this one first.
    ///
    /// # Errors
    /// When it has been reaped before.
    pub fn wait(&self) -> Result<Ending, Error> {
        pidfd::wait(self.pidfd()).map_err(Error::io_step("wait for the container"))
    }

    /// Reaps the first process if it has ended; none while it runs.
    ///
    /// # Errors
    /// When it has been reaped before.
    pub fn try_wait(&self) -> Result<Option<Ending>, Error> {
        pidfd::try_wait(self.pidfd()).map_err(Error::io_step("wait for the container"))
    }

    /// Sends a signal to the first process. One that has ended is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self, signal: Signal) -> Result<(), Error> {
        pidfd::send_signal(self.pidfd(), signal).map_err(Error::io_step("signal the container"))
    }

    /// Kills every process of the container, also those outside its namespace
    /// of process ids.
    ///
    /// # Errors
    /// As [`Cgroup::kill_all`].
    pub fn kill_all(&self) -> Result<(), Error> {
        self.kill(Signal::KILL)?;
        if let Some(cgroup) = self.cgroup() {
            cgroup.kill_all()?;
        }
        Ok(())
    }

    /// Stops every process of the container until [`Running::resume`].
    ///
    /// # Errors
    /// As [`Cgroup::freeze`]; [`Error::Unsupported`] without a cgroup.
    pub fn pause(&self) -> Result<(), Error> {
        Ok(self.cgroup_or_refuse("pausing")?.freeze()?)
    }

    /// Lets the processes run on.
    ///
    /// # Errors
    /// As [`Cgroup::thaw`].
    pub fn resume(&self) -> Result<(), Error> {
        Ok(self.cgroup_or_refuse("pausing")?.thaw()?)
    }

    /// Changes limits of the running container.
    ///
    /// # Errors
    /// As [`Cgroup::update`].
    pub fn update(
        &mut self,
        hierarchies: &Hierarchies,
        resources: &LinuxResources,
    ) -> Result<(), Error> {
        let refused = || Error::Unsupported("changing limits without a cgroup".to_owned());
        let cgroup = self.parts.cgroup.as_mut().ok_or_else(refused)?;
        Ok(cgroup.update(hierarchies, resources)?)
    }

    /// Starts a further process in the container. The caller reaps it; see
    /// [`Running::wait`].
    ///
    /// # Errors
    /// As [`create`](crate::create); [`Error::NotRunning`] when the container
    /// has ended.
    pub fn exec(&self, request: ExecRequest) -> Result<ExecProcess, Error> {
        exec::exec(&self.parts, request)
    }

    /// Removes what is left of a container that has ended: kills strays and
    /// removes the cgroup. Idempotent.
    ///
    /// # Errors
    /// As [`Cgroup::delete`].
    pub fn delete(&self) -> Result<(), Error> {
        if let Some(cgroup) = self.cgroup() {
            delete_cgroup(cgroup)?;
        }
        Ok(())
    }

    fn cgroup_or_refuse(&self, what: &str) -> Result<&Cgroup, Error> {
        self.cgroup()
            .ok_or_else(|| Error::Unsupported(format!("{what} a container without a cgroup")))
    }
}

/// Removes what a container of this cgroup has left, whoever started it and
/// whether or not it was ever started. Idempotent.
///
/// # Errors
/// When the cgroup cannot be removed.
pub fn delete(hierarchies: &Hierarchies, path: &CgroupPath) -> Result<(), Error> {
    match Cgroup::open(hierarchies, path) {
        Ok(cgroup) => delete_cgroup(&cgroup),
        Err(sampan_cgroups::Error::Open { source, .. })
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn delete_cgroup(cgroup: &Cgroup) -> Result<(), Error> {
    // A frozen process does not die.
    drop(cgroup.thaw());
    let killed = cgroup.kill_all();
    cgroup.delete()?;
    Ok(killed?)
}

/// A further process of a container.
#[derive(Debug)]
pub struct ExecProcess {
    pub(crate) child: Child,
    pub(crate) terminal: Option<OwnedFd>,
}

impl ExecProcess {
    /// Its id in the caller's namespace.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.child.pid
    }

    /// Its descriptor; readable when it has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }

    /// The caller's end of the terminal.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Waits until it has ended, and reaps it.
    ///
    /// # Errors
    /// When it has been reaped before.
    pub fn wait(&self) -> Result<Ending, Error> {
        pidfd::wait(self.pidfd()).map_err(Error::io_step("wait for the process"))
    }

    /// Reaps it if it has ended; none while it runs.
    ///
    /// # Errors
    /// When it has been reaped before.
    pub fn try_wait(&self) -> Result<Option<Ending>, Error> {
        pidfd::try_wait(self.pidfd()).map_err(Error::io_step("wait for the process"))
    }

    /// Sends a signal. One that has ended is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self, signal: Signal) -> Result<(), Error> {
        pidfd::send_signal(self.pidfd(), signal).map_err(Error::io_step("signal the process"))
    }
}
