//! The loop: waits for whatever is ready and brings the container through its life.
//!
//! * [`phase`]: where in its life the container is;
//! * [`requests`]: what engines ask for; [`execs`]: further processes;
//! * [`ending`]: from the end of the first process to the release, or to the next start;
//! * [`restart`]: which of the two; [`health`]: whether the container works.

mod ending;
mod execs;
mod health;
mod phase;
mod requests;
mod restart;

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sampan_cgroups::Hierarchies;
use sampan_kernel::signalfd;
use sampan_shim_protocol::{Event, Exit, JournalEvent};

use self::health::Checks;
use self::phase::Phase;
use self::restart::Restarts;
use crate::control::{Connection, Listener};
use crate::exec::Execs;
use crate::isolate::{self, Inherited};
use crate::launch::Recipe;
use crate::poller::{Poller, Readiness, Source, Watched};
use crate::record::Record;
use crate::streams::{Notice, Streams};

/// Read from one descriptor at once.
const SCRATCH: usize = 32 << 10;
/// How long a connected engine may take to release an ended container.
const RELEASE_PATIENCE: Duration = Duration::from_secs(10);

struct Supervisor {
    poller: Rc<Poller>,
    children: Watched,
    oom_score: i32,
    listener: Option<Listener>,
    connections: Vec<Connection>,
    next_connection: u32,
    phase: Phase,
    /// The control groups of the host, where they were looked at before the launch.
    hierarchies: Option<Hierarchies>,
    /// From the launch to the release.
    recipe: Option<Recipe>,
    restarts: Restarts,
    /// Where there are any.
    checks: Option<Checks>,
    /// From the launch on.
    record: Option<Record>,
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
            hierarchies: None,
            recipe: None,
            restarts: Restarts::default(),
            checks: None,
            record: None,
            streams: Vec::new(),
            next_streams: 0,
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
            Phase::Running(_) | Phase::Exiting { .. } | Phase::Restarting { .. } => false,
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
            Source::Probe => self.probe_ready(),
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
        if let Some(moment) = self.advance_checks(now) {
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
                        let entry = self.note(JournalEvent::Detached { exec: exec.clone() });
                        self.tell(entry, &Event::Detached { exec });
                    }
                    Notice::LogFailed(message) => {
                        self.note(JournalEvent::LogFailed { message });
                    }
                }
            }
        }
    }

    /// Adds an entry to the journal and returns its number.
    fn note(&mut self, event: JournalEvent) -> u64 {
        let record = self.record.as_mut();
        record.map_or(0, |record| record.note(event))
    }

    /// Writes the exit file; whether it is safe.
    fn save(&self, exit: &Exit) -> bool {
        let record = self.record.as_ref();
        record.is_some_and(|record| record.exit(exit).is_ok())
    }

    fn tell(&mut self, entry: u64, event: &Event) {
        for connection in &mut self.connections {
            connection.event(entry, event);
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
