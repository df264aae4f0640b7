//! A container's processes, by whichever runtime they were made: the one that is linked in, or
//! another program ([`foreign`]).

use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use sampan_runtime::{ExecProcess, ExecRequest, Running};
use sampan_shim_protocol::StartFailure;

use crate::foreign;
use crate::launch::{failure, system};

/// A container that is made and waits for its start.
#[derive(Debug)]
pub(crate) enum Created {
    /// By the runtime that is linked in.
    Linked(Box<sampan_runtime::Created>),
    /// By another program.
    Foreign(foreign::Created),
}

impl Created {
    /// The near side of its terminal.
    pub(crate) fn take_terminal(&mut self) -> Option<OwnedFd> {
        match self {
            Self::Linked(created) => created.take_terminal(),
            Self::Foreign(created) => created.take_terminal(),
        }
    }

    /// Lets it run its program; `explain` makes more of an error of the runtime that is linked in.
    pub(crate) fn start(
        self,
        explain: impl FnOnce(&sampan_runtime::Error) -> StartFailure,
    ) -> Result<Task, StartFailure> {
        match self {
            Self::Linked(created) => Ok(Task {
                running: created.start().map_err(|error| explain(&error))?,
                runtime: None,
            }),
            Self::Foreign(created) => {
                let (running, runtime) = created.start()?;
                Ok(Task {
                    running,
                    runtime: Some(runtime),
                })
            }
        }
    }
}

/// A container that runs or has ended. What every runtime leaves to the kernel (signals, the
/// control group) is the same for all of them.
#[derive(Debug)]
pub(crate) struct Task {
    running: Running,
    /// Whoever made it, where that is another program.
    runtime: Option<Rc<foreign::Runtime>>,
}

impl Deref for Task {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

impl Task {
    /// Starts a further process, which is this process' child.
    pub(crate) fn exec(&self, request: ExecRequest) -> Result<ExecProcess, StartFailure> {
        match &self.runtime {
            None => self.running.exec(request).map_err(|error| failure(&error)),
            Some(runtime) => runtime.exec(request),
        }
    }

    /// Freezes its processes.
    pub(crate) fn pause(&self) -> Result<(), StartFailure> {
        match &self.runtime {
            None => self
                .running
                .pause()
                .map_err(|error| system("pausing", &error)),
            Some(runtime) => runtime.pause(),
        }
    }

    /// Lets them run on.
    pub(crate) fn resume(&self) -> Result<(), StartFailure> {
        match &self.runtime {
            None => self
                .running
                .resume()
                .map_err(|error| system("resuming", &error)),
            Some(runtime) => runtime.resume(),
        }
    }

    /// Removes what is left of it when it has ended. Idempotent.
    pub(crate) fn delete(&self) -> Result<(), StartFailure> {
        let forgotten = match &self.runtime {
            None => Ok(()),
            Some(runtime) => runtime.delete(),
        };
        let removed = self.running.delete();
        forgotten.and(removed.map_err(|error| failure(&error)))
    }
}
