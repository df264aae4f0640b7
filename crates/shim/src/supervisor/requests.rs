//! What engines ask for, and the answers.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::process::{Pid, Signal};
use sampan_fs::Sync;
use sampan_kernel::pidfd;
use sampan_oci::runtime::LinuxResources;
use sampan_shim_protocol::{
    AttachSpec, Failure, FailureKind, Launch, LaunchDescriptors, PROTOCOL, Preparation, Reply,
    Request, RestartPolicy, ServerMessage, StartFailure, State, Status,
};
use sampan_text::with_causes;

use super::health::Checks;
use super::phase::Phase;
use super::restart::Restarts;
use super::{Supervisor, find_streams};
use crate::control::Listener;
use crate::launch::{self, Recipe};
use crate::record::Record;
use crate::steps;
use crate::streams::Streams;

impl Supervisor {
    pub(super) fn answer(&mut self, message: ServerMessage) -> Reply {
        let request = match message.request {
            Ok(request) => request,
            Err(error) => {
                let message = format!("request is not known to this shim: {error}");
                return refuse(FailureKind::Unsupported, message);
            }
        };
        match request {
            Request::Hello { version } => Reply::Hello {
                version: version.min(PROTOCOL),
                shim_pid: std::process::id(),
            },
            Request::Prepare(preparation) => self.prepare(&preparation),
            Request::Launch(launch) => self.launch(*launch, message.descriptors),
            Request::State => Reply::State(Box::new(self.state())),
            Request::Signal { signal, all, last } => self.signal(signal, all, last),
            Request::Update { restart, limits } => self.update(restart, *limits),
            Request::Pause => self.pause(),
            Request::Resume => self.resume(),
            Request::Resize {
                height,
                width,
                exec,
            } => self.resize(height, width, exec.as_deref()),
            Request::Attach(spec) => self.attach(spec, message.descriptors),
            Request::ExecStart(start) => self.exec(*start, message.descriptors),
            Request::ExecState { id } => match self.execs.state(&id) {
                Some(state) => Reply::ExecState(state),
                None => no_exec(&id),
            },
            Request::ExecSignal { id, signal } => self.signal_exec(&id, signal),
            Request::CloseStdin { exec } => self.close_stdin(exec.as_deref()),
            Request::ReopenLogs => self.reopen_logs(),
            Request::Release => self.release(),
        }
    }

    fn prepare(&mut self, preparation: &Preparation) -> Reply {
        match launch::prepare(preparation) {
            Ok(hierarchies) => {
                self.hierarchies = Some(hierarchies);
                Reply::Done
            }
            Err(failure) => refuse(FailureKind::System, failure.message),
        }
    }

    fn launch(&mut self, launch: Launch, descriptors: Vec<OwnedFd>) -> Reply {
        if !matches!(self.phase, Phase::Waiting) {
            return refuse(FailureKind::Exists, "this shim has its container".into());
        }
        match self.try_launch(launch, descriptors) {
            Ok(reply) => reply,
            Err(failure) => {
                self.listener = None;
                self.recipe = None;
                self.phase = Phase::Failed;
                Reply::StartFailed(failure)
            }
        }
    }

    fn try_launch(
        &mut self,
        mut launch: Launch,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Reply, StartFailure> {
        if launch.note_steps {
            steps::begin();
            steps::done("launch heard");
        }
        let mut descriptors = LaunchDescriptors::collect(&launch, descriptors)
            .map_err(|error| launch::system("taking the launch", &error))?;
        let listener = Listener::open(&self.poller, &launch.socket_directory)
            .map_err(|error| launch::system("making the control socket", &error))?;
        let sync = if launch.auto_remove {
            Sync::Volatile
        } else {
            Sync::Durable
        };
        let record = Record::open(&launch.directory, sync).map_err(|errno| {
            let error = io::Error::from(errno);
            launch::system("opening the container's directory", &error)
        })?;
        let clients = std::mem::take(&mut launch.attach);
        let clients = clients
            .into_iter()
            .zip(std::mem::take(&mut descriptors.attach));
        let hierarchies = match self.hierarchies.take() {
            Some(hierarchies) => hierarchies,
            None => launch::enter_groups(launch.shim_cgroup.as_deref())?,
        };
        steps::done("own cgroup entered");
        let recipe = Recipe::new(&mut launch, descriptors, hierarchies, self.oom_score)?;
        let number = self.next_streams;
        self.next_streams += 1;
        let (container, streams) = recipe.run(&self.poller, number, clients)?;
        let reply = Reply::Started {
            pid: raw(container.running.pid()),
            started_at: container.started_at.clone(),
        };
        self.listener = Some(listener);
        self.record = Some(record);
        self.recipe = Some(recipe);
        self.restarts = Restarts::new(launch.restart);
        self.checks = launch.health.take().map(Checks::new);
        self.began(container, streams);
        Ok(reply)
    }

    fn state(&self) -> State {
        let container = self.phase.container();
        let (status, exit) = match &self.phase {
            Phase::Waiting | Phase::Failed => (Status::Waiting, None),
            Phase::Running(container) if container.paused => (Status::Paused, None),
            Phase::Running(_) => (Status::Running, None),
            Phase::Exiting { .. } => (Status::Exiting, None),
            Phase::Restarting { exit, .. } => (Status::Restarting, Some(exit.clone())),
            Phase::Exited { exit, .. } => (Status::Exited, Some(exit.clone())),
        };
        let own = container.and_then(|container| {
            let mut streams = self.streams.iter();
            streams.find(|streams| streams.number() == container.streams)
        });
        let recipe = self.recipe.as_ref();
        State {
            id: recipe.map_or_else(String::new, |recipe| recipe.id.clone()),
            status,
            pid: match &self.phase {
                Phase::Running(container) => Some(raw(container.running.pid())),
                Phase::Waiting
                | Phase::Failed
                | Phase::Exiting { .. }
                | Phase::Restarting { .. }
                | Phase::Exited { .. } => None,
            },
            started_at: container.map(|container| container.started_at.clone()),
            exit,
            restarts: self.restarts.count,
            health: self.checks.as_ref().map(|checks| checks.health().clone()),
            execs: self.execs.states(),
            attached: own.map_or(0, Streams::attached),
        }
    }

    fn signal(&mut self, number: i32, all: bool, last: bool) -> Reply {
        let Some(signal) = pidfd::signal(number) else {
            return refuse(FailureKind::Invalid, format!("invalid signal: {number}"));
        };
        self.restarts.ended_by_hand |= last;
        if last && matches!(self.phase, Phase::Restarting { .. }) {
            return Reply::Done;
        }
        let container = match self.phase.running_mut() {
            Ok(container) => container,
            Err(reply) => return reply,
        };
        let sent = if all {
            container.signal_all(signal)
        } else {
            container.running.kill(signal)
        };
        if let Err(error) = sent {
            return failed(&error);
        }
        // Frozen processes of cgroup v1 do not die either.
        if signal == Signal::KILL && container.paused {
            return self.resume();
        }
        Reply::Done
    }

    fn update(&mut self, policy: RestartPolicy, limits: LinuxResources) -> Reply {
        let Some(recipe) = &mut self.recipe else {
            return not_running();
        };
        if !policy.is_no() && !recipe.can_run_again() {
            let message = "this kernel cannot keep a root file system that was not kept from the \
                           start: the policy holds from the next start on";
            return refuse(FailureKind::Unsupported, message.into());
        }
        recipe.set_limits(limits);
        self.restarts.policy = policy;
        Reply::Done
    }

    fn pause(&mut self) -> Reply {
        let container = match self.phase.running_mut() {
            Ok(container) => container,
            Err(reply) => return reply,
        };
        if container.paused {
            return paused();
        }
        match container.running.pause() {
            Ok(()) => {
                container.paused = true;
                if let Some(checks) = &mut self.checks {
                    checks.freeze();
                }
                Reply::Done
            }
            Err(error) => failed(&error),
        }
    }

    fn resume(&mut self) -> Reply {
        let container = match self.phase.running_mut() {
            Ok(container) => container,
            Err(reply) => return reply,
        };
        match container.running.resume() {
            Ok(()) => {
                container.paused = false;
                if let Some(checks) = &mut self.checks {
                    checks.thaw();
                }
                Reply::Done
            }
            Err(error) => failed(&error),
        }
    }

    fn resize(&mut self, height: u16, width: u16, exec: Option<&str>) -> Reply {
        let streams = match self.streams_of(exec) {
            Ok(streams) => streams,
            Err(reply) => return reply,
        };
        match streams.map(|streams| streams.resize(height, width)) {
            Some(Ok(true)) => Reply::Done,
            Some(Ok(false)) | None => refuse(FailureKind::Invalid, "there is no terminal".into()),
            Some(Err(error)) => failed(&error),
        }
    }

    fn attach(&mut self, spec: AttachSpec, descriptors: Vec<OwnedFd>) -> Reply {
        let mut descriptors = descriptors.into_iter();
        let Some(socket) = descriptors.next() else {
            return refuse(FailureKind::Invalid, "no client came along".into());
        };
        match self.phase.running_mut() {
            Ok(container) if container.paused => paused(),
            Ok(container) => match find_streams(&mut self.streams, container.streams) {
                Some(streams) => {
                    streams.attach(spec, socket);
                    Reply::Done
                }
                None => not_running(),
            },
            Err(reply) => reply,
        }
    }

    fn close_stdin(&mut self, exec: Option<&str>) -> Reply {
        match self.streams_of(exec) {
            Ok(Some(streams)) => {
                streams.close_stdin();
                Reply::Done
            }
            Ok(None) => Reply::Done,
            Err(reply) => reply,
        }
    }

    fn reopen_logs(&mut self) -> Reply {
        let Some(number) = self.phase.container().map(|container| container.streams) else {
            return Reply::Done;
        };
        match find_streams(&mut self.streams, number).map(Streams::reopen_log) {
            Some(Err(error)) => failed(&error),
            Some(Ok(())) | None => Reply::Done,
        }
    }

    fn release(&mut self) -> Reply {
        let Phase::Exited { released, .. } = &mut self.phase else {
            let message = "container has not ended".into();
            return refuse(FailureKind::Invalid, message);
        };
        *released = true;
        self.listener = None;
        // The answer says that the cgroup and all that was held are free for the next start.
        self.advance_exit(Instant::now());
        self.recipe = None;
        Reply::Done
    }

    /// The streams of an exec or of the container; `Ok(None)` where a detached exec has none.
    fn streams_of(&mut self, exec: Option<&str>) -> Result<Option<&mut Streams>, Reply> {
        let number = match exec {
            None => Some(self.phase.running_mut()?.streams),
            Some(id) => self.execs.find(id).ok_or_else(|| no_exec(id))?.streams,
        };
        Ok(number.and_then(|number| find_streams(&mut self.streams, number)))
    }
}

pub(super) fn raw(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}

pub(super) fn refuse(kind: FailureKind, message: String) -> Reply {
    Reply::Error(Failure { kind, message })
}

pub(super) fn failed(error: &dyn std::error::Error) -> Reply {
    refuse(FailureKind::System, with_causes(error))
}

pub(super) fn not_running() -> Reply {
    refuse(FailureKind::NotRunning, "container is not running".into())
}

pub(super) fn paused() -> Reply {
    refuse(FailureKind::Paused, "container is paused".into())
}

pub(super) fn no_exec(id: &str) -> Reply {
    refuse(FailureKind::NotFound, format!("no such exec: {id}"))
}
