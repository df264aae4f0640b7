use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use sampan_cgroups::{Cgroup, CgroupPath, Hierarchies};
use sampan_kernel::clone::{Child, Namespaces};
use sampan_kernel::pidfd::{self, Ending};
use sampan_kernel::seccomp::SeccompProgram;
use sampan_oci::runtime::{Hook, LinuxResources, Process, State};

use crate::created::run_start_hooks;
use crate::namespaces::foreign;
use crate::trees::open_directory;
use crate::{Error, ExecRequest, exec};

/// What a container consists of, seen from here.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) child: Child,
    pub(crate) cgroup: Option<Cgroup>,
    /// Those that are not the caller's.
    pub(crate) namespaces: Namespaces,
    pub(crate) lookup_root: OwnedFd,
    pub(crate) terminals: Option<OwnedFd>,
}

impl Parts {
    /// Ends and removes everything; what fails is noted by nobody, because an
    /// earlier error explains.
    pub(crate) fn destroy(&self) {
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
    /// Takes up a container that another process has started: its first process, which started
    /// at that time (field 22 of /proc/PID/stat), and its cgroup. None when it has ended.
    ///
    /// # Errors
    /// When the kernel does not let the caller look.
    pub fn open(
        hierarchies: &Hierarchies,
        pid: Pid,
        start_time: u64,
        cgroup: Option<&CgroupPath>,
    ) -> Result<Option<Self>, Error> {
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            other => other.map_err(Error::step("open the container's process"))?,
        };
        // The id may be another process' by now; what is looked at from here on is checked to
        // belong to the one behind the descriptor.
        let process = match process_status(pid)? {
            Some(status) if status.start_time == start_time && !status.is_dead => pid,
            _ => return Ok(None),
        };
        let root = format!("/proc/{}/root", process.as_raw_nonzero());
        let lookup_root = match open_directory(Path::new(&root)) {
            Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
            other => other.map_err(Error::step("open the container's root"))?,
        };
        let namespaces = foreign(process)?;
        match process_status(pid)? {
            Some(status) if status.start_time == start_time => {}
            _ => return Ok(None),
        }
        let cgroup = match cgroup {
            Some(path) => match Cgroup::open(hierarchies, path) {
                Err(sampan_cgroups::Error::Open { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound =>
                {
                    None
                }
                other => Some(other?),
            },
            None => None,
        };
        Ok(Some(Self {
            parts: Parts {
                child: Child { pid, pidfd },
                cgroup,
                namespaces,
                lookup_root,
                terminals: None,
            },
        }))
    }

    /// Runs hooks of the point `startContainer` in a container that waits to be started.
    ///
    /// # Errors
    /// [`Error::Hook`] with the first that fails.
    pub fn run_start_hooks(
        &self,
        hooks: &[Hook],
        state: &State,
        process: &Process,
        seccomp: Option<&SeccompProgram>,
    ) -> Result<(), Error> {
        run_start_hooks(&self.parts, hooks, state, process, seccomp)
    }

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

/// What /proc/PID/stat says of a process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ProcessStatus {
    /// When it started, in ticks since the machine did.
    pub start_time: u64,
    /// Whether it has ended and only waits to be reaped.
    pub is_dead: bool,
}

/// Reads what becomes of a process; none when there is none of this id.
///
/// # Errors
/// Reading /proc.
pub fn process_status(pid: Pid) -> Result<Option<ProcessStatus>, Error> {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if gone(&error) => return Ok(None),
        Err(error) => return Err(Error::io_step(format!("read {path}"))(error)),
    };
    // The name in parentheses may have anything in it, parentheses too.
    let fields = text.rsplit_once(") ").map(|(_, fields)| fields);
    let mut fields = fields.unwrap_or_default().split(' ');
    let state = fields.next();
    let start_time = fields.nth(18).and_then(|field| field.parse().ok());
    Ok(start_time.map(|start_time| ProcessStatus {
        start_time,
        is_dead: matches!(state, Some("Z" | "X" | "x")),
    }))
}

fn gone(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
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
    /// Takes up a child of the caller's that another program has started in a container, with the
    /// near side of its terminal.
    ///
    /// # Errors
    /// [`Error::NotRunning`] when it is no child, or was reaped.
    pub fn of_child(pid: Pid, terminal: Option<OwnedFd>) -> Result<Self, Error> {
        let child = exec::open_child(pid.as_raw_nonzero().get())?;
        Ok(Self { child, terminal })
    }

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
