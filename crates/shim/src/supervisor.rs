//! The loop: waits for whatever is ready and brings the container through its life.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};
use sampan_kernel::{pidfd, signalfd};
use sampan_runtime::{ExecRequest, Stdio};
use sampan_shim_protocol::{
    AttachSpec, Event, ExecStart, Exit, Failure, FailureKind, JournalEvent, Launch,
    LaunchDescriptors, PROTOCOL, Reply, Request, ServerMessage, StartFailure, State, Status,
};

use crate::control::{Connection, Listener};
use crate::exec::{Exec, Execs};
use crate::isolate::{self, Inherited};
use crate::launch::{self, CONTAINER_STREAMS, Container};
use crate::poller::{Poller, Readiness, Source, Watched};
use crate::record::now;
use crate::streams::{Notice, ProcessEnds, StdinPolicy, Streams};

/// Read from one descriptor at once.
const SCRATCH: usize = 32 << 10;
/// How long processes that do not die of SIGKILL (they wait for a dead disk) hold up the exit.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connected engine may take to release an ended container.
const RELEASE_PATIENCE: Duration = Duration::from_secs(10);
/// How often an exit file that could not be written is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// How the first process ended.
#[derive(Clone, Copy, Debug)]
struct Ending {
    code: i32,
    signal: Option<i32>,
}

/// Where in its life the container is.
#[derive(Debug)]
enum Phase {
    /// Not launched yet.
    Waiting,
    /// Could not be launched.
    Failed,
    /// The first process runs.
    Running(Box<Container>),
    /// The first process has ended; the others are being killed.
    Exiting {
        container: Box<Container>,
        ending: Ending,
        finished_at: String,
        since: Instant,
    },
    /// Everything has ended.
    Exited {
        container: Box<Container>,
        exit: Exit,
        since: Instant,
        /// Whether the exit file is written.
        saved: bool,
        /// Whether the cgroup is gone.
        cleaned: bool,
        /// Whether an engine has taken note.
        released: bool,
    },
}

struct Supervisor {
    poller: Rc<Poller>,
    children: Watched,
    oom_score: i32,
    listener: Option<Listener>,
    connections: Vec<Connection>,
    next_connection: u32,
    phase: Phase,
    streams: Vec<Streams>,
    next_streams: u32,
    execs: Execs,
    scratch: Vec<u8>,
}

/// Supervises the container that the engine at the other end of descriptor `control` will launch.
pub(crate) fn run(control: RawFd) -> ExitCode {
    let result = isolate::leave(control).and_then(|inherited| {
        let mut supervisor = Supervisor::new(inherited)?;
        while !supervisor.is_done() {
            supervisor.turn()?;
        }
        Ok(())
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

impl Supervisor {
    fn new(inherited: Inherited) -> io::Result<Self> {
        let poller = Poller::new()?;
        let children = signalfd::descriptor(&[Signal::CHILD.as_raw()])?;
        let mut children = Watched::new(&poller, Source::Children, children);
        children.watch(Some(Readiness::IN))?;
        let mut supervisor = Self {
            poller,
            children,
            oom_score: inherited.oom_score,
            listener: None,
            connections: Vec::new(),
            next_connection: 0,
            phase: Phase::Waiting,
            streams: Vec::new(),
            next_streams: CONTAINER_STREAMS + 1,
            execs: Execs::default(),
            scratch: vec![0; SCRATCH],
        };
        supervisor.connect(inherited.control);
        Ok(supervisor)
    }

    /// Waits once and does what there is to do.
    fn turn(&mut self) -> io::Result<()> {
        let timeout = self.advance(Instant::now());
        if self.is_done() {
            return Ok(());
        }
        for (source, readiness) in self.poller.wait(timeout)? {
            self.handle(source, readiness);
        }
        Ok(())
    }

    /// Whether the shim has nothing more to do here.
    fn is_done(&self) -> bool {
        let may_end = match &self.phase {
            Phase::Waiting => self.connections.is_empty(),
            Phase::Failed => true,
            Phase::Running(_) | Phase::Exiting { .. } => false,
            Phase::Exited {
                since,
                saved,
                cleaned,
                released,
                ..
            } => {
                let unheard = self.connections.is_empty() || since.elapsed() >= RELEASE_PATIENCE;
                *cleaned && (*released || (*saved && unheard))
            }
        };
        may_end
            && self.streams.iter().all(Streams::is_finished)
            && !self.connections.iter().any(Connection::has_unsent)
    }

    fn handle(&mut self, source: Source, readiness: Readiness) {
        match source {
            Source::Children => self.reap(),
            Source::Listener => {
                while let Some(socket) = self.listener.as_ref().and_then(Listener::accept) {
                    self.connect(socket);
                }
            }
            Source::Connection(number) => self.hear(number, readiness),
            Source::Output(number, output) => {
                if let Some(streams) = find_streams(&mut self.streams, number) {
                    streams.output_ready(output, &mut self.scratch);
                }
            }
            Source::Input(number) => {
                if let Some(streams) = find_streams(&mut self.streams, number) {
                    streams.input_ready(readiness);
                }
            }
            Source::Client(number, client) => {
                if let Some(streams) = find_streams(&mut self.streams, number) {
                    streams.client_ready(client, readiness, &mut self.scratch);
                }
            }
        }
    }

    /// Does what follows from what has happened; how long to wait for the next thing.
    fn advance(&mut self, now: Instant) -> Option<Duration> {
        let mut wake = None;
        let mut at = |moment: Instant| {
            wake = Some(wake.map_or(moment, |earlier: Instant| earlier.min(moment)));
        };
        if let Some(moment) = self.advance_execs(now) {
            at(moment);
        }
        if let Some(moment) = self.advance_exit(now) {
            at(moment);
        }
        self.pass_on_notices();
        for streams in &mut self.streams {
            if let Some(moment) = streams.expire(now) {
                at(moment);
            }
        }
        self.streams.retain(|streams| !streams.is_finished());
        self.connections
            .retain(|connection| !connection.is_broken());
        wake.map(|moment: Instant| moment.saturating_duration_since(Instant::now()))
    }

    /// Ends the streams of execs that have ended and tells of them.
    fn advance_execs(&mut self, now: Instant) -> Option<Instant> {
        let mut wake: Option<Instant> = None;
        let mut index = 0;
        while let Some(exec) = self.execs.current.get(index) {
            let Some((_, until)) = exec.ended else {
                index += 1;
                continue;
            };
            let streams = exec.streams;
            if let Some(streams) =
                streams.and_then(|number| find_streams(&mut self.streams, number))
            {
                streams.process_ended();
                streams.drain(&mut self.scratch);
                if !streams.outputs_ended() && now < until {
                    wake = Some(wake.map_or(until, |earlier| earlier.min(until)));
                    index += 1;
                    continue;
                }
            }
            self.end_exec(index);
        }
        wake
    }

    fn end_exec(&mut self, index: usize) {
        let exec = self.execs.retire(index);
        let streams = exec.streams;
        if let Some(streams) = streams.and_then(|number| find_streams(&mut self.streams, number)) {
            streams.finish(&mut self.scratch);
        }
        self.tell(&Event::ExecExited(exec.state()));
    }

    /// Brings an ending container to its end; when to look again.
    fn advance_exit(&mut self, now: Instant) -> Option<Instant> {
        match std::mem::replace(&mut self.phase, Phase::Waiting) {
            Phase::Exiting {
                container,
                ending,
                finished_at,
                since,
            } => {
                let left = kill_everything(&container);
                if left > 0 && now < since + KILL_PATIENCE {
                    // Short at first: it takes a killed process a moment to go.
                    let pause = (since.elapsed() / 4)
                        .clamp(Duration::from_millis(1), Duration::from_millis(100));
                    self.phase = Phase::Exiting {
                        container,
                        ending,
                        finished_at,
                        since,
                    };
                    return Some(now + pause);
                }
                self.conclude(container, ending, finished_at, left);
                Some(now)
            }
            Phase::Exited {
                container,
                exit,
                since,
                saved,
                cleaned,
                released,
            } => {
                let saved = saved || container.record.exit(&exit).is_ok();
                if !cleaned {
                    // Whatever is wrong with it, the engine deletes it again with the container.
                    let _ = container.running.delete();
                }
                let next = if saved {
                    since + RELEASE_PATIENCE
                } else {
                    now + WRITE_AGAIN
                };
                self.phase = Phase::Exited {
                    container,
                    exit,
                    since,
                    saved,
                    cleaned: true,
                    released,
                };
                (next > now).then_some(next)
            }
            other @ (Phase::Waiting | Phase::Failed | Phase::Running(_)) => {
                self.phase = other;
                None
            }
        }
    }

    /// The last process has gone: output is complete, the exit is recorded and told.
    fn conclude(
        &mut self,
        mut container: Box<Container>,
        ending: Ending,
        finished_at: String,
        strays: usize,
    ) {
        self.reap();
        while !self.execs.current.is_empty() {
            let exec = &mut self.execs.current[0];
            // Whoever could not be reaped shares its container's fate.
            exec.ended.get_or_insert((137, Instant::now()));
            self.end_exec(0);
        }
        for streams in &mut self.streams {
            streams.finish(&mut self.scratch);
        }
        self.pass_on_notices();
        if strays > 0 {
            container
                .record
                .note(JournalEvent::Strays { count: strays });
        }
        let oom_killed = container
            .running
            .cgroup()
            .is_some_and(|cgroup| cgroup.oom_kill_count() > 0);
        if oom_killed {
            container.record.note(JournalEvent::Oom);
            self.tell(&Event::Oom);
        }
        let exit = Exit {
            code: ending.code,
            signal: ending.signal,
            oom_killed,
            started_at: container.started_at.clone(),
            finished_at,
        };
        container
            .record
            .note(JournalEvent::Exited { exit: exit.clone() });
        // Told only when it is safe: who hears of it may act on it.
        let saved = container.record.exit(&exit).is_ok();
        self.tell(&Event::Exited(exit.clone()));
        self.phase = Phase::Exited {
            container,
            exit,
            since: Instant::now(),
            saved,
            cleaned: false,
            released: false,
        };
    }

    /// Takes away every zombie, and notes whose end it is.
    fn reap(&mut self) {
        // What matters is that there is something to reap, not how often it was said.
        while matches!(signalfd::take(self.children.as_fd()), Ok(Some(_))) {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let signal = status.terminating_signal();
            let code = signal.map_or_else(
                || status.exit_status().unwrap_or(255),
                |signal| 128 + signal,
            );
            self.process_ended(pid, Ending { code, signal });
        }
    }

    fn process_ended(&mut self, pid: Pid, ending: Ending) {
        if self.execs.process_ended(pid, ending.code, Instant::now()) {
            return;
        }
        match std::mem::replace(&mut self.phase, Phase::Waiting) {
            Phase::Running(container) if container.running.pid() == pid => {
                self.phase = Phase::Exiting {
                    container,
                    ending,
                    finished_at: now(),
                    since: Instant::now(),
                };
            }
            other => self.phase = other,
        }
    }

    fn pass_on_notices(&mut self) {
        for index in 0..self.streams.len() {
            let streams = &mut self.streams[index];
            let number = streams.number();
            for notice in streams.take_notices() {
                match notice {
                    Notice::Detached => {
                        let exec = self
                            .execs
                            .current
                            .iter()
                            .find(|exec| exec.streams == Some(number))
                            .map(|exec| exec.id.clone());
                        self.tell(&Event::Detached { exec });
                    }
                    Notice::LogFailed(message) => {
                        if let Some(container) = self.phase.container_mut() {
                            container.record.note(JournalEvent::LogFailed { message });
                        }
                    }
                }
            }
        }
    }

    fn tell(&mut self, event: &Event) {
        for connection in &mut self.connections {
            connection.event(event);
        }
    }

    fn connect(&mut self, socket: OwnedFd) {
        let number = self.next_connection;
        self.next_connection += 1;
        if let Ok(connection) = Connection::new(&self.poller, number, socket) {
            self.connections.push(connection);
        }
    }

    fn hear(&mut self, number: u32, readiness: Readiness) {
        let mut requests = Vec::new();
        if let Some(connection) = find_connection(&mut self.connections, number) {
            connection.ready(readiness, &mut requests);
        }
        for message in requests {
            let sequence = message.sequence;
            let reply = self.answer(message);
            if let Some(connection) = find_connection(&mut self.connections, number) {
                connection.reply(sequence, &reply);
            }
        }
    }

    fn answer(&mut self, message: ServerMessage) -> Reply {
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
            Request::Launch(launch) => self.launch(*launch, message.descriptors),
            Request::State => Reply::State(Box::new(self.state())),
            Request::Signal { signal, all } => self.signal(signal, all),
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

    fn launch(&mut self, launch: Launch, descriptors: Vec<OwnedFd>) -> Reply {
        if !matches!(self.phase, Phase::Waiting) {
            return refuse(FailureKind::Exists, "this shim has its container".into());
        }
        let started = LaunchDescriptors::collect(&launch, descriptors)
            .map_err(|error| launch::system("taking the launch", &error))
            .and_then(|descriptors| {
                let listener = Listener::open(&self.poller, &launch.socket_directory)
                    .map_err(|error| launch::system("making the control socket", &error))?;
                let started = launch::launch(&self.poller, launch, descriptors, self.oom_score)?;
                Ok((listener, started))
            });
        match started {
            Ok((listener, (container, streams))) => {
                let reply = Reply::Started {
                    pid: raw(container.running.pid()),
                    started_at: container.started_at.clone(),
                };
                self.listener = Some(listener);
                self.streams.push(streams);
                self.phase = Phase::Running(Box::new(container));
                reply
            }
            Err(failure) => {
                self.phase = Phase::Failed;
                Reply::StartFailed(failure)
            }
        }
    }

    fn state(&self) -> State {
        let container = self.phase.container();
        let (status, exit) = match &self.phase {
            Phase::Waiting | Phase::Failed => (Status::Waiting, None),
            Phase::Running(container) if container.paused => (Status::Paused, None),
            Phase::Running(_) => (Status::Running, None),
            Phase::Exiting { .. } => (Status::Exiting, None),
            Phase::Exited { exit, .. } => (Status::Exited, Some(exit.clone())),
        };
        let own = self
            .streams
            .iter()
            .find(|streams| streams.number() == CONTAINER_STREAMS);
        State {
            id: container.map_or_else(String::new, |container| container.id.clone()),
            status,
            pid: match &self.phase {
                Phase::Running(container) => Some(raw(container.running.pid())),
                Phase::Waiting | Phase::Failed | Phase::Exiting { .. } | Phase::Exited { .. } => {
                    None
                }
            },
            started_at: container.map(|container| container.started_at.clone()),
            exit,
            execs: self.execs.states(),
            attached: own.map_or(0, Streams::attached),
        }
    }

    fn signal(&mut self, number: i32, all: bool) -> Reply {
        let Some(signal) = pidfd::signal(number) else {
            return refuse(FailureKind::Invalid, format!("invalid signal: {number}"));
        };
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
            Ok(_) => match find_streams(&mut self.streams, CONTAINER_STREAMS) {
                Some(streams) => {
                    streams.attach(spec, socket);
                    Reply::Done
                }
                None => not_running(),
            },
            Err(reply) => reply,
        }
    }

    fn exec(&mut self, start: ExecStart, descriptors: Vec<OwnedFd>) -> Reply {
        let number = self.next_streams;
        let container = match self.phase.running_mut() {
            Ok(container) if container.paused => return paused(),
            Ok(container) => container,
            Err(reply) => return reply,
        };
        if self.execs.state(&start.id).is_some() {
            let message = format!("exec {} has been started already", start.id);
            return refuse(FailureKind::Exists, message);
        }
        let client = match (start.attach, descriptors.into_iter().next()) {
            (Some(spec), Some(socket)) => Some((spec, socket)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return refuse(FailureKind::Invalid, "exec with a wrong client".into());
            }
        };
        // As Docker has it, an exec's input ends with its client's.
        let policy = match &client {
            Some((spec, _)) if spec.stdin => StdinPolicy::Once,
            Some(_) | None => StdinPolicy::Closed,
        };
        let is_terminal = start.process.terminal;
        let made = if is_terminal {
            let streams = Streams::for_terminal(&self.poller, number, policy, None);
            let size = start.terminal_size;
            Ok((Some(streams), Stdio::Terminal { size }))
        } else if client.is_some() {
            Streams::pipes(&self.poller, number, policy, None)
                .map(|(streams, ends)| (Some(streams), ends.into()))
        } else {
            ProcessEnds::nowhere().map(|ends| (None, ends.into()))
        };
        let (mut streams, stdio) = match made {
            Ok(made) => made,
            Err(error) => {
                let failure = launch::system("making the exec's streams", &error);
                return Reply::StartFailed(failure);
            }
        };
        let request = ExecRequest {
            stdio,
            seccomp: container.seccomp.clone(),
            ..ExecRequest::new(start.process)
        };
        let started = container.running.exec(request);
        self.next_streams += 1;
        let reply = match started {
            Ok(mut process) => {
                if let (Some(streams), Some(terminal)) = (&mut streams, process.take_terminal()) {
                    // Without its terminal it is still an exec, and it will be reaped.
                    let _ = streams.set_terminal(terminal);
                }
                let pid = raw(process.pid());
                self.execs.current.push(Exec {
                    id: start.id,
                    process,
                    streams: streams.as_ref().map(Streams::number),
                    ended: None,
                });
                Ok(Reply::ExecStarted { pid })
            }
            Err(error) => Err(launch::failure(&error)),
        };
        if let Some(mut streams) = streams {
            if let Some((spec, socket)) = client {
                streams.attach(spec, socket);
            }
            if let Err(failure) = &reply {
                // The client is past its HTTP answer; Docker tells it so.
                streams.finish_with(&exec_message(failure), &mut self.scratch);
            }
            streams.settle();
            self.streams.push(streams);
        }
        reply.unwrap_or_else(Reply::StartFailed)
    }

    fn signal_exec(&mut self, id: &str, number: i32) -> Reply {
        let Some(signal) = pidfd::signal(number) else {
            return refuse(FailureKind::Invalid, format!("invalid signal: {number}"));
        };
        let Some(exec) = self.execs.find(id) else {
            return no_exec(id);
        };
        match exec.process.kill(signal) {
            Ok(()) => Reply::Done,
            Err(error) => failed(&error),
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
        match find_streams(&mut self.streams, CONTAINER_STREAMS).map(Streams::reopen_log) {
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
        if let Some(container) = self.phase.container_mut() {
            container.held.clear();
        }
        Reply::Done
    }

    /// The streams of an exec or of the container; `Ok(None)` where a detached exec has none.
    fn streams_of(&mut self, exec: Option<&str>) -> Result<Option<&mut Streams>, Reply> {
        let number = match exec {
            None => {
                self.phase.running_mut()?;
                Some(CONTAINER_STREAMS)
            }
            Some(id) => self.execs.find(id).ok_or_else(|| no_exec(id))?.streams,
        };
        Ok(number.and_then(|number| find_streams(&mut self.streams, number)))
    }
}

impl Phase {
    fn container(&self) -> Option<&Container> {
        match self {
            Self::Waiting | Self::Failed => None,
            Self::Running(container)
            | Self::Exiting { container, .. }
            | Self::Exited { container, .. } => Some(container),
        }
    }

    fn container_mut(&mut self) -> Option<&mut Container> {
        match self {
            Self::Waiting | Self::Failed => None,
            Self::Running(container)
            | Self::Exiting { container, .. }
            | Self::Exited { container, .. } => Some(container),
        }
    }

    fn running_mut(&mut self) -> Result<&mut Container, Reply> {
        match self {
            Self::Running(container) => Ok(container),
            Self::Waiting | Self::Failed | Self::Exiting { .. } | Self::Exited { .. } => {
                Err(not_running())
            }
        }
    }
}

/// Kills what is left in the container's cgroup; how much that is.
fn kill_everything(container: &Container) -> usize {
    let Some(cgroup) = container.running.cgroup() else {
        return 0;
    };
    let left = cgroup.procs().map_or(0, |processes| processes.len());
    if left > 0 {
        // A frozen process does not die; both are tried again as long as somebody is left.
        let _ = cgroup.kill_all();
        if container.paused {
            let _ = cgroup.thaw();
        }
    }
    left
}

fn exec_message(failure: &StartFailure) -> String {
    format!(
        "OCI runtime exec failed: exec failed: unable to start container process: {failure}: unknown\r\n"
    )
}

fn find_streams(streams: &mut [Streams], number: u32) -> Option<&mut Streams> {
    streams
        .iter_mut()
        .find(|streams| streams.number() == number)
}

fn find_connection(connections: &mut [Connection], number: u32) -> Option<&mut Connection> {
    connections
        .iter_mut()
        .find(|connection| connection.number() == number)
}

fn raw(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}

fn refuse(kind: FailureKind, message: String) -> Reply {
    Reply::Error(Failure { kind, message })
}

fn failed(error: &dyn std::error::Error) -> Reply {
    refuse(FailureKind::System, crate::record::chain(error))
}

fn not_running() -> Reply {
    refuse(FailureKind::NotRunning, "container is not running".into())
}

fn paused() -> Reply {
    refuse(FailureKind::Paused, "container is paused".into())
}

fn no_exec(id: &str) -> Reply {
    refuse(FailureKind::NotFound, format!("no such exec: {id}"))
}
