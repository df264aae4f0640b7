//! A container that is made and whose program does not run yet.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::process::Pid;
use sampan_cgroups::Cgroup;
use sampan_kernel::seccomp::SeccompProgram;
use sampan_oci::runtime::{Hook, Hooks, Process, Spec, State, Status};

use crate::agent::Agent;
use crate::child::ContainerPlan;
use crate::container::{Parts, Running};
use crate::failure::{Failure, Step};
use crate::hooks::{run_hooks, run_in, state, state_file, wait_in_time};
use crate::process::not_executed;
use crate::report::{Answer, died, receive, tell};
use crate::{Error, ExecRequest, Stdio, exec};

/// A container whose first process waits to become its program.
///
/// Dropped, it is ended and its cgroup removed; see [`Created::leave`].
#[derive(Debug)]
pub struct Created {
    parts: Option<Parts>,
    terminal: Option<OwnedFd>,
    socket: OwnedFd,
    plan: ContainerPlan,
    about: About,
}

/// What hooks and agents are told, and by what they are found.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) id: String,
    pub(crate) spec: Spec,
    pub(crate) directory: PathBuf,
    pub(crate) agent: Option<Agent>,
    pub(crate) seccomp: Option<SeccompProgram>,
}

impl About {
    fn state(&self, status: Status, pid: Pid) -> State {
        let pid = Some(pid.as_raw_nonzero().get());
        state(&self.spec, &self.id, &self.directory, status, pid)
    }

    fn hooks(&self) -> Option<&Hooks> {
        self.spec.hooks.as_ref()
    }
}

impl Created {
    pub(crate) fn new(
        parts: Parts,
        terminal: Option<OwnedFd>,
        socket: OwnedFd,
        plan: ContainerPlan,
        about: About,
    ) -> Self {
        Self {
            parts: Some(parts),
            terminal,
            socket,
            plan,
            about,
        }
    }

    pub(crate) fn wait_until_ready(&mut self) -> Result<(), Error> {
        loop {
            match receive(self.socket.as_fd())? {
                Answer::Ready => return Ok(()),
                Answer::Hooks => self.run_hooks()?,
                Answer::Terminal(master) => self.terminal = Some(master),
                Answer::Failed(failure) => return Err(self.plan.failed(failure)),
                Answer::Closed | Answer::Spawned(_) | Answer::Listener(_) => {
                    return Err(self.died());
                }
            }
        }
    }

    /// The hooks between the making of the container and its entering its root.
    fn run_hooks(&self) -> Result<(), Error> {
        if let Some(hooks) = self.about.hooks() {
            let state = self.about.state(Status::Creating, self.pid());
            run_hooks("prestart", &hooks.prestart, &state)?;
            run_hooks("createRuntime", &hooks.create_runtime, &state)?;
            let inside = (self.pidfd(), self.parts().namespaces);
            run_in(
                "createContainer",
                &hooks.create_container,
                &state,
                Some(inside),
            )?;
        }
        if tell(self.socket.as_fd()) {
            Ok(())
        } else {
            Err(self.died())
        }
    }

    /// Why the process has gone without a word.
    fn died(&self) -> Error {
        let parts = self.parts();
        let how = died(&parts.child);
        let killed = parts.cgroup.as_ref().map_or(0, Cgroup::oom_kill_count);
        if killed > 0 { Error::OutOfMemory } else { how }
    }

    fn parts(&self) -> &Parts {
        self.parts
            .as_ref()
            .expect("only start and leave take them, and they consume this value")
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

    /// Leaves the container to itself: it waits at its [`Gate`](crate::Gate), and this value's
    /// end is not its own.
    pub fn leave(mut self) {
        self.parts = None;
    }

    /// Lets the process run its program. Returns when the kernel has accepted
    /// it. Hooks `startContainer` run before, in the container. For a container that waits at its
    /// parent's word; others are started by [`start_at`].
    ///
    /// # Errors
    /// What execve answered, or a step right before it; nothing is left.
    pub fn start(mut self) -> Result<Running, Error> {
        let hooks = self.about.hooks().map(|hooks| &hooks.start_container);
        if let Some(hooks) = hooks.filter(|hooks| !hooks.is_empty()) {
            let state = self.about.state(Status::Created, self.pid());
            let process = self.about.spec.process.clone().unwrap_or_default();
            let seccomp = self.about.seccomp.as_ref();
            run_start_hooks(self.parts(), hooks, &state, &process, seccomp)?;
        }
        let talk = Talk {
            socket: self.socket.as_fd(),
            parts: self.parts(),
            agent: self.about.agent.as_ref(),
            state: self.about.state(Status::Created, self.pid()),
        };
        match talk.start()? {
            Some(failure) => Err(self.plan.failed(failure)),
            None => {
                let parts = self.parts.take();
                let parts = parts.expect("taken here only, and this value is consumed");
                Ok(Running { parts })
            }
        }
    }
}

/// The last words with a process on its way to the program.
struct Talk<'a> {
    socket: BorrowedFd<'a>,
    parts: &'a Parts,
    agent: Option<&'a Agent>,
    state: State,
}

impl Talk<'_> {
    /// Gives the word; the failure where there is one.
    fn start(self) -> Result<Option<Failure>, Error> {
        if !tell(self.socket) {
            return Err(Error::NotRunning);
        }
        loop {
            match receive(self.socket)? {
                Answer::Failed(failure) => return Ok(Some(failure)),
                Answer::Listener(number) => {
                    let agent = self.agent.ok_or_else(no_agent)?;
                    let pid = self.parts.child.pid.as_raw_nonzero().get();
                    let process = self.parts.child.pidfd.as_fd();
                    agent.hand_over(process, pid, number, self.state.clone())?;
                    tell(self.socket);
                }
                Answer::Closed
                | Answer::Ready
                | Answer::Spawned(_)
                | Answer::Hooks
                | Answer::Terminal(_) => return Ok(None),
            }
        }
    }
}

/// A filter that asks, with nobody to answer.
pub(crate) fn no_agent() -> Error {
    Error::Invalid(
        "the seccomp filter notifies an agent and linux.seccomp.listenerPath is not set".to_owned(),
    )
}

/// Starts a container that waits at a socket: `socket` is connected to it, and `bundle` says what
/// the container was made of. Hooks `startContainer` have run: [`Running::run_start_hooks`].
///
/// # Errors
/// As [`Created::start`]; the container's process has ended then, and
/// [`Running::delete`] removes what is left.
pub fn start_at(
    container: &Running,
    socket: BorrowedFd<'_>,
    spec: &Spec,
    state: State,
) -> Result<(), Error> {
    let linux = spec.linux.as_ref();
    let agent = linux
        .and_then(|linux| linux.seccomp.as_ref())
        .and_then(Agent::of);
    let talk = Talk {
        socket,
        parts: &container.parts,
        agent: agent.as_ref(),
        state,
    };
    match talk.start()? {
        None => Ok(()),
        Some(failure) if failure.step == Step::Execute => {
            let process = spec.process.as_ref();
            let command = process.and_then(|process| process.args.first());
            let command = command.map_or("", String::as_str);
            Err(not_executed(command, failure.errno))
        }
        Some(failure) => Err(Error::of_step(failure.step, failure.errno)),
    }
}

/// Runs hooks of the point `startContainer`: in the container and confined as its process is,
/// because they are programs of its own file system.
pub(crate) fn run_start_hooks(
    parts: &Parts,
    hooks: &[Hook],
    state: &State,
    process: &Process,
    seccomp: Option<&SeccompProgram>,
) -> Result<(), Error> {
    for (number, hook) in hooks.iter().enumerate() {
        let failed = |reason: String| Error::Hook {
            point: "startContainer",
            number,
            reason,
        };
        let state = serde_json::to_vec(state).map_err(|error| failed(error.to_string()))?;
        let null = || {
            let null = File::options().write(true).open("/dev/null");
            null.map(OwnedFd::from)
                .map_err(|error| failed(error.to_string()))
        };
        let path = hook.path.to_string_lossy().into_owned();
        let request = ExecRequest {
            stdio: Stdio::Pipes {
                stdin: state_file(&state).map_err(|error| failed(error.to_string()))?,
                stdout: null()?,
                stderr: null()?,
            },
            seccomp: seccomp.cloned(),
            ..ExecRequest::new(Process {
                terminal: false,
                args: [path]
                    .into_iter()
                    .chain(hook.args.iter().skip(1).cloned())
                    .collect(),
                env: hook.env.clone(),
                ..process.clone()
            })
        };
        let started = exec::exec(parts, request).map_err(|error| failed(error.to_string()))?;
        wait_in_time(&started.child, hook.timeout).map_err(failed)?;
    }
    Ok(())
}

impl Drop for Created {
    fn drop(&mut self) {
        if let Some(parts) = &self.parts {
            parts.destroy();
        }
    }
}
