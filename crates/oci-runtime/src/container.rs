//! A container as it is found: its record, its first process, its cgroup.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::Pid;
use sampan_cgroups::{Cgroup, CgroupPath, Hierarchies};
use sampan_kernel::pidfd::signal;
use sampan_oci::runtime::{State, Status};
use sampan_runtime::{Running, process_status};

use crate::log::Log;
use crate::record::{Directory, Process, Record};
use crate::scope;

/// How long a killed process is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A container and what was found of it.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) directory: Directory,
    pub(crate) record: Record,
    pub(crate) hierarchies: Hierarchies,
    pub(crate) cgroup: CgroupPath,
    /// None when its first process has ended.
    pub(crate) running: Option<Running>,
}

impl Container {
    /// Finds a container.
    pub(crate) fn open(root: &Path, id: &str) -> Result<Self> {
        let directory = Directory::open(root, id)?;
        let record = directory.read()?;
        let record = record.context(
            "the container is being made, or its making was cut short: delete it with --force",
        )?;
        Self::of(directory, record)
    }

    pub(crate) fn of(directory: Directory, record: Record) -> Result<Self> {
        let hierarchies = Hierarchies::detect()?;
        let cgroup: CgroupPath = record.cgroup.parse()?;
        let running = match record.init {
            Some(process) => Running::open(
                &hierarchies,
                Pid::from_raw(process.pid).context("the record names no process")?,
                process.start_time,
                Some(&cgroup),
            )?,
            None => None,
        };
        Ok(Self {
            directory,
            record,
            hierarchies,
            cgroup,
            running,
        })
    }

    pub(crate) fn status(&self) -> Result<Status> {
        let Some(running) = &self.running else {
            let making = self.record.init.is_none() && self.record.maker.is_alive();
            return Ok(if making {
                Status::Creating
            } else {
                Status::Stopped
            });
        };
        if running
            .cgroup()
            .is_some_and(|cgroup| cgroup.is_frozen().unwrap_or(false))
        {
            return Ok(Status::Paused);
        }
        Ok(if self.directory.is_waiting() {
            Status::Created
        } else {
            Status::Running
        })
    }

    /// The state as hooks and agents are told.
    pub(crate) fn state(&self, status: Status) -> State {
        let pid = self
            .running
            .as_ref()
            .map(|running| running.pid().as_raw_nonzero().get());
        let Record {
            spec, id, bundle, ..
        } = &self.record;
        sampan_runtime::state(spec, id, bundle, status, pid)
    }

    /// The running container, or runc's words for one that does not run.
    pub(crate) fn running(&self) -> Result<&Running> {
        self.running.as_ref().context("container not running")
    }

    /// Sends a signal to the first process, or to all.
    pub(crate) fn kill(&self, number: i32, all: bool) -> Result<()> {
        if !all {
            let signal = signal(number).context("unknown signal")?;
            return Ok(self.running()?.kill(signal)?);
        }
        let Some(cgroup) = self.open_cgroup()? else {
            return Ok(());
        };
        if number == sampan_oci::signal::KILL {
            // A frozen process does not die.
            if cgroup.is_frozen().unwrap_or(false) {
                cgroup.thaw()?;
            }
            return Ok(cgroup.kill_all()?);
        }
        let signal = signal(number).context("unknown signal")?;
        for process in cgroup.procs()? {
            match rustix::process::kill_process(process, signal) {
                // It has ended since it was listed.
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(errno) => return Err(errno).context("cannot signal a process"),
            }
        }
        Ok(())
    }

    pub(crate) fn open_cgroup(&self) -> Result<Option<Cgroup>> {
        match Cgroup::open(&self.hierarchies, &self.cgroup) {
            Ok(cgroup) => Ok(Some(cgroup)),
            Err(sampan_cgroups::Error::Open { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the first process and waits until it has.
    pub(crate) fn end(&self) -> Result<()> {
        self.kill(sampan_oci::signal::KILL, true)?;
        let Some(process) = self.record.init.filter(|_| self.running.is_some()) else {
            return Ok(());
        };
        // It may be in another cgroup than its own by now.
        if let Some(running) = &self.running {
            running.kill(rustix::process::Signal::KILL)?;
        }
        let deadline = Instant::now() + PATIENCE;
        while process.is_alive() {
            if Instant::now() > deadline {
                bail!("container init still running");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Removes all that is left of a container that has ended, and tells its hooks `poststop`.
    pub(crate) fn destroy(&self, log: &Log) -> Result<()> {
        sampan_runtime::delete(&self.hierarchies, &self.cgroup)?;
        if let Some(name) = &self.record.scope {
            // systemd takes it away in any case once nothing is in it.
            if let Err(error) = scope::end(&self.hierarchies, name, &self.cgroup) {
                log.warn(&format!("{error:#}"));
            }
        }
        if self.record.default_cgroup
            && let Some(parent) = self.cgroup.parent()
        {
            // Others may lie in it.
            sampan_cgroups::remove_parent(&self.hierarchies, &parent);
        }
        if let Some(hooks) = &self.record.spec.hooks {
            let Record {
                spec, id, bundle, ..
            } = &self.record;
            let state = sampan_runtime::state(spec, id, bundle, Status::Stopped, None);
            for hook in &hooks.poststop {
                // By the specification the rest goes on as if it had succeeded.
                let one = std::slice::from_ref(hook);
                if let Err(error) = sampan_runtime::run_hooks("poststop", one, &state) {
                    log.warn(&error.to_string());
                }
            }
        }
        self.directory.remove()
    }
}

impl Process {
    /// The calling process.
    pub(crate) fn own() -> Result<Self> {
        Self::of(rustix::process::getpid())
    }

    pub(crate) fn of(pid: Pid) -> Result<Self> {
        let status = process_status(pid)?.context("the process has ended")?;
        Ok(Self {
            pid: pid.as_raw_nonzero().get(),
            start_time: status.start_time,
        })
    }

    pub(crate) fn is_alive(self) -> bool {
        let status = Pid::from_raw(self.pid).and_then(|pid| process_status(pid).ok().flatten());
        status.is_some_and(|status| status.start_time == self.start_time && !status.is_dead)
    }
}
