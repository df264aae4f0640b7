//! What callers ask of the container service, and what they get.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use jiff::Timestamp;
use sampan_logs::Entry;
use sampan_shim_protocol::DetachKeys;
use tokio::sync::{mpsc, oneshot};

use super::config::{ContainerConfig, HostConfig};
use super::filter::ContainerFilter;
use super::id::ContainerId;
use super::view::Endpoint;
use crate::{Error, Result};

/// A container to make.
#[derive(Debug, Clone, Default)]
pub struct CreateContainer {
    /// Name; absent draws one.
    pub name: Option<String>,
    /// What it is.
    pub config: ContainerConfig,
    /// What it is on this host.
    pub host: HostConfig,
    /// Wishes for its places in networks, by the network's name. Addresses and aliases are the
    /// `wanted_*` fields and `aliases`.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Platform such as `linux/amd64`; an image of another one is refused.
    pub platform: Option<String>,
}

/// A container that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its identity.
    pub id: ContainerId,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Which containers a list shows and what of them.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Also those that do not run.
    pub all: bool,
    /// The newest so many, whether they run or not; 0 for no limit.
    pub limit: usize,
    /// With sizes, which takes long.
    pub sizes: bool,
    /// Which.
    pub filter: ContainerFilter,
}

/// How a container is stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StopOptions {
    /// Signal by name or number; absent for the container's own.
    pub signal: Option<String>,
    /// How long to wait after it; absent for the container's own.
    pub timeout: Option<StopTimeout>,
}

/// How long a stop waits before it kills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopTimeout {
    /// So long.
    After(Duration),
    /// For ever.
    Never,
}

impl StopTimeout {
    /// Reads seconds as Docker means them: negative is for ever.
    pub fn from_seconds(seconds: i64) -> Self {
        match u64::try_from(seconds) {
            Ok(seconds) => Self::After(Duration::from_secs(seconds)),
            Err(_) => Self::Never,
        }
    }
}

/// What a wait waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// It does not run; met at once when it does not.
    #[default]
    NotRunning,
    /// Its next end, also of a run that has not begun.
    NextExit,
    /// Its removal.
    Removed,
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitOutcome {
    /// Exit code of the last run.
    pub code: i32,
    /// Why there is no real code.
    pub error: Option<String>,
}

/// A wait that has been registered: nothing that happens from here on is missed.
#[derive(Debug)]
pub struct Wait {
    pub(crate) outcome: oneshot::Receiver<WaitOutcome>,
}

impl Wait {
    /// Waits. Dropping the future or the wait ends the wait without any other effect.
    pub async fn outcome(self) -> Result<WaitOutcome> {
        self.outcome.await.map_err(|_| {
            Error::new(
                crate::ErrorKind::Unavailable,
                "the engine is being shut down",
            )
        })
    }
}

/// How a container is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// What happens to one that runs.
    pub running: RemoveRunning,
    /// What happens to its anonymous volumes.
    pub volumes: RemoveVolumes,
}

/// What a removal does with a container that runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RemoveRunning {
    /// Refuses.
    #[default]
    Refuse,
    /// Kills it.
    Kill,
}

/// What a removal does with anonymous volumes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RemoveVolumes {
    /// Keeps them.
    #[default]
    Keep,
    /// Removes those that nobody else uses.
    Anonymous,
}

/// What a client that attaches wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachOptions {
    /// Sends to standard input, where the container has one.
    pub stdin: bool,
    /// Gets standard output.
    pub stdout: bool,
    /// Gets standard error.
    pub stderr: bool,
    /// First gets what was logged.
    pub logs: bool,
    /// Follows. Without it the client leaves after the logs.
    pub stream: bool,
    /// Keys that detach, in Docker's writing; absent for `ctrl-p,ctrl-q`.
    pub detach_keys: Option<String>,
    /// Both streams come as they are, without frames, also where there is no terminal.
    pub raw: bool,
}

/// The raw connection of a client, after the head of the answer has been written to it.
#[derive(Debug)]
pub struct ClientStream {
    /// The socket. The engine owns it from here on; the process it is attached to answers.
    pub socket: OwnedFd,
    /// What was already read from it beyond the request's head.
    pub leftover: Vec<u8>,
}

/// What an exec runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecConfig {
    /// `name|uid[:group|gid]`; empty for the container's.
    pub user: String,
    /// All powers.
    pub privileged: bool,
    /// Gives it a terminal.
    pub tty: bool,
    /// Rows and columns of the terminal.
    pub console_size: Option<[u16; 2]>,
    /// A client will send to standard input.
    pub attach_stdin: bool,
    /// A client will get standard output.
    pub attach_stdout: bool,
    /// A client will get standard error.
    pub attach_stderr: bool,
    /// Keys that detach; absent for `ctrl-p,ctrl-q`.
    pub detach_keys: Option<String>,
    /// `NAME=value`, beyond the container's.
    pub env: Vec<String>,
    /// Working directory; empty for the container's.
    pub working_dir: String,
    /// Command.
    pub cmd: Vec<String>,
}

/// How an exec is started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExecStartOptions {
    /// Must agree with the exec's `tty`; `None` does not ask.
    pub tty: Option<bool>,
    /// Rows and columns of the terminal; absent for those of the exec.
    pub console_size: Option<[u16; 2]>,
}

/// Size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Rows.
    pub height: u16,
    /// Columns.
    pub width: u16,
}

/// Which entries of a log are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Goes on with what is written until the container ends.
    pub follow: bool,
    /// Entries of standard output.
    pub stdout: bool,
    /// Entries of standard error.
    pub stderr: bool,
    /// Not older than this.
    pub since: Option<Timestamp>,
    /// Not newer than this.
    pub until: Option<Timestamp>,
    /// Only the last so many.
    pub tail: Option<u64>,
}

/// A container's log.
#[derive(Debug)]
pub struct Logs {
    /// Whether the container has a terminal: its log is shown raw, without frames.
    pub tty: bool,
    /// The entries.
    pub entries: LogEntries,
}

/// Entries of a log as they are read. Dropping it ends the reading.
#[derive(Debug)]
pub struct LogEntries {
    pub(crate) receiver: mpsc::Receiver<Result<Entry>>,
    pub(crate) _control: Option<LogControl>,
}

#[derive(Debug)]
pub(crate) struct LogControl(pub(crate) sampan_logs::FollowControl);

impl Drop for LogControl {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl LogEntries {
    /// Returns the next entry; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<Entry>> {
        self.receiver.recv().await
    }
}

impl futures_util::Stream for LogEntries {
    type Item = Result<Entry>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(context)
    }
}

/// Reads detach keys as Docker writes them.
pub(crate) fn detach_keys(text: Option<&str>) -> Result<DetachKeys> {
    match text {
        None | Some("") => Ok(DetachKeys::docker_default()),
        Some(text) => text.parse().map_err(|error| {
            Error::invalid(format!("Invalid detach keys ({text}) provided: {error}"))
        }),
    }
}
