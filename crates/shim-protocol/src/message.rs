//! Requests, replies and events.

use sampan_oci::runtime::{LinuxResources, Process};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{AttachSpec, Exit, Launch, Preparation, RestartPolicy};

/// What an engine asks of a shim. Each request gets exactly one [`Reply`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// First on each connection; answered by [`Reply::Hello`].
    Hello {
        /// Newest version the engine speaks.
        version: u32,
    },
    /// Makes ready what does not depend on what will run, before the launch. What was made is the
    /// engine's to take away where no launch follows.
    Prepare(Box<Preparation>),
    /// Starts the container. Descriptors: [`crate::LaunchDescriptors`]. Answered by
    /// [`Reply::Started`] or [`Reply::StartFailed`] (after which the shim ends).
    Launch(Box<Launch>),
    /// Answered by [`Reply::State`].
    State,
    /// Sends a signal to the container's first process.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether every process of the container gets it.
        all: bool,
        /// Whether the container is to end for good: it is not started again, whatever its policy,
        /// and one that waits for its next start has ended.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        last: bool,
    },
    /// Changes what holds for further runs of the container.
    Update {
        /// When it is started again, from now on.
        restart: RestartPolicy,
        /// Its limits, those of devices left out; of the present run they are the engine's care.
        limits: Box<LinuxResources>,
    },
    /// Freezes every process of the container.
    Pause,
    /// Thaws them.
    Resume,
    /// Sets the size of a terminal.
    Resize {
        /// Rows.
        height: u16,
        /// Columns.
        width: u16,
        /// The exec whose terminal it is; absent for the container's own.
        #[serde(default)]
        exec: Option<String>,
    },
    /// Attaches a client to the container's first process. Descriptor: its socket.
    Attach(AttachSpec),
    /// Runs a further process. Descriptor: the client's socket where `attach` is given. Answered
    /// by [`Reply::ExecStarted`] or [`Reply::StartFailed`].
    ExecStart(Box<ExecStart>),
    /// Answered by [`Reply::ExecState`].
    ExecState {
        /// The exec's id.
        id: String,
    },
    /// Sends a signal to an exec's process.
    ExecSignal {
        /// The exec's id.
        id: String,
        /// The signal's number.
        signal: i32,
    },
    /// Ends a process's standard input.
    CloseStdin {
        /// The exec; absent for the container's first process.
        #[serde(default)]
        exec: Option<String>,
    },
    /// Opens the log file anew (it was moved away or removed by somebody else).
    ReopenLogs,
    /// The exit has been taken note of: the shim lets go of everything and ends.
    Release,
}

/// A further process in a running container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecStart {
    /// The exec's id, chosen by the engine.
    pub id: String,
    /// What to run; `process.terminal` decides between a terminal and pipes.
    pub process: Process,
    /// Height and width of the terminal at the start.
    #[serde(default)]
    pub terminal_size: Option<(u16, u16)>,
    /// The client; absent runs it detached, its output goes nowhere.
    #[serde(default)]
    pub attach: Option<AttachSpec>,
}

/// The answer to one request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Answers `Hello`.
    Hello {
        /// Version that both sides speak from here on.
        version: u32,
        /// Process id of the shim.
        shim_pid: u32,
    },
    /// Done, nothing to tell.
    Done,
    /// The container runs.
    Started {
        /// Its first process, in the host's numbering.
        pid: i32,
        /// When (RFC 3339, nanoseconds).
        started_at: String,
    },
    /// The container or the exec could not be started; nothing of it is left.
    StartFailed(StartFailure),
    /// How the container is.
    State(Box<State>),
    /// The exec runs.
    ExecStarted {
        /// Its process, in the host's numbering.
        pid: i32,
    },
    /// How an exec is.
    ExecState(ExecState),
    /// The request was not carried out.
    Error(Failure),
}

/// What a shim tells every connection, unasked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The container ended; its log and its exit file are complete.
    Exited(Exit),
    /// An exec ended; all of its output has been read.
    ExecExited(ExecState),
    /// A process of the container was killed for want of memory.
    Oom,
    /// A client detached by its key sequence.
    Detached {
        /// The exec it was attached to; absent for the container's first process.
        exec: Option<String>,
    },
    /// A run ended and another one will follow; log and exit file are complete.
    Restarting {
        /// How the run ended.
        exit: Exit,
        /// Which restart will follow, from 1.
        restarts: u32,
    },
    /// The container runs again.
    Restarted {
        /// Its first process, in the host's numbering.
        pid: i32,
        /// When (RFC 3339, nanoseconds).
        started_at: String,
    },
    /// A health check began.
    ProbeStarted {
        /// The id of its process, as an exec has one.
        id: String,
    },
    /// A health check ended.
    ProbeEnded {
        /// The id of its process.
        id: String,
        /// How the container is now; the last entry of the log is this check's.
        health: Health,
        /// Whether its status is another one than before.
        changed: bool,
    },
    /// What the shim did and when, before [`Event::Exited`], where the launch asked for it.
    Steps(Vec<Step>),
}

/// One step on the way of a container through its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What was done.
    pub name: String,
    /// When it was done (RFC 3339, nanoseconds).
    pub at: String,
}

/// Why a start failed.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct StartFailure {
    /// The class of the failure.
    pub kind: StartFailureKind,
    /// The cause chain in one line, in Docker's wording where scripts look at it.
    pub message: String,
    /// The exit code that the container or exec takes: 127, 126 or 128.
    pub exit_code: i32,
}

/// Classes of failed starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFailureKind {
    /// The command does not exist (127).
    CommandNotFound,
    /// The command may not be executed (126).
    NotExecutable,
    /// The user or group is not known in the container.
    BadUser,
    /// The request is at fault in some other way (a mount's source, an option).
    Invalid,
    /// The kernel lacks something.
    Unsupported,
    /// There was not enough memory.
    OutOfMemory,
    /// The host is at fault.
    System,
    /// A kind of a newer version.
    #[serde(other)]
    Other,
}

/// A request that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Failure {
    /// The class of the failure.
    pub kind: FailureKind,
    /// The cause in one line.
    pub message: String,
}

/// Classes of failed requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// No such exec.
    NotFound,
    /// Not in the container's present state.
    NotRunning,
    /// The container is paused.
    Paused,
    /// The thing asked for exists already (an exec id).
    Exists,
    /// The request makes no sense here.
    Invalid,
    /// The shim does not know this request.
    Unsupported,
    /// The host is at fault.
    System,
    /// A kind of a newer version.
    #[serde(other)]
    Other,
}

/// Where in its life a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The shim waits for its launch.
    Waiting,
    /// The container runs.
    Running,
    /// It runs, but is frozen.
    Paused,
    /// The first process has ended; what is left is being cleaned up.
    Exiting,
    /// It has ended and waits to be started again; `State::exit` tells how.
    Restarting,
    /// It has ended; `State::exit` tells how.
    Exited,
}

/// What health checks have found of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// In one word.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The newest checks, oldest first; at most [`Health::LOG_LENGTH`].
    pub log: Vec<Probe>,
}

impl Health {
    /// So many checks are remembered.
    pub const LOG_LENGTH: usize = 5;
}

/// Whether a container works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// Nobody knows yet.
    Starting,
    /// It works.
    Healthy,
    /// It does not, or does not run any more.
    Unhealthy,
}

/// One health check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// When it began (RFC 3339, nanoseconds).
    pub start: String,
    /// When it ended (RFC 3339, nanoseconds).
    pub end: String,
    /// Its exit code; -1 where it could not be started or took too long.
    pub exit_code: i32,
    /// The beginning of what it wrote.
    pub output: String,
}

/// How a container is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The container's id; empty while waiting.
    pub id: String,
    /// Where in its life it is.
    pub status: Status,
    /// Its first process while it runs.
    #[serde(default)]
    pub pid: Option<i32>,
    /// When it started (RFC 3339, nanoseconds).
    #[serde(default)]
    pub started_at: Option<String>,
    /// How it ended.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// How often it was started again.
    #[serde(default)]
    pub restarts: u32,
    /// What health checks have found, where there are any.
    #[serde(default)]
    pub health: Option<Health>,
    /// Execs that run or whose end is still remembered.
    #[serde(default)]
    pub execs: Vec<ExecState>,
    /// Number of clients attached to the first process.
    #[serde(default)]
    pub attached: usize,
}

/// How an exec is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecState {
    /// The exec's id.
    pub id: String,
    /// Its process, in the host's numbering.
    pub pid: i32,
    /// Its exit code (128 + n for signal n); absent while it runs.
    #[serde(default)]
    pub exit_code: Option<i32>,
}

impl ExecState {
    /// Whether the process still runs.
    pub fn is_running(&self) -> bool {
        self.exit_code.is_none()
    }
}
