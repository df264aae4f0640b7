//! What a shim leaves on disk: the exit file and the journal.

use serde::{Deserialize, Serialize};

use crate::HealthStatus;

/// How a container ended; the content of its exit file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code; 128 + n for signal n.
    pub code: i32,
    /// The signal that ended the first process.
    #[serde(default)]
    pub signal: Option<i32>,
    /// Whether a process of the container was killed for want of memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// When the first process started (RFC 3339, nanoseconds).
    pub started_at: String,
    /// When its end was seen (RFC 3339, nanoseconds).
    pub finished_at: String,
    /// Why it could not be started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One line of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntry {
    /// Its number: 1 for the start of the run, and so on without a gap.
    #[serde(default)]
    pub number: u64,
    /// When (RFC 3339, nanoseconds).
    pub at: String,
    /// What happened.
    #[serde(flatten)]
    pub event: JournalEvent,
}

/// What can happen to a container while nobody looks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum JournalEvent {
    /// The first process was started; the entry's time is that of the run's start. Where a
    /// container is started again, there is one such entry for each run.
    Started {
        /// Its process id on the host.
        pid: i32,
    },
    /// A process was killed for want of memory.
    Oom,
    /// An exec ended.
    ExecExited {
        /// The exec's id.
        id: String,
        /// Its exit code (128 + n for signal n).
        exit_code: i32,
    },
    /// A client detached by its key sequence.
    Detached {
        /// The exec it was attached to; absent for the container's first process.
        #[serde(default)]
        exec: Option<String>,
    },
    /// Log entries could not be written (disk full).
    LogFailed {
        /// The cause.
        message: String,
    },
    /// A run ended, and another one will follow.
    Restarting {
        /// How it ended.
        exit: Exit,
        /// Which restart will follow, from 1.
        restarts: u32,
    },
    /// A health check began.
    ProbeStarted {
        /// The id of its process.
        id: String,
    },
    /// A health check ended.
    ProbeEnded {
        /// The id of its process.
        id: String,
        /// Its exit code; -1 where it could not be started or took too long.
        exit_code: i32,
        /// How the container is now, where that is news.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        changed: Option<HealthStatus>,
    },
    /// The container ended.
    Exited {
        /// How.
        exit: Exit,
    },
    /// Processes were still there after everything was killed.
    Strays {
        /// Their number.
        count: usize,
    },
    /// An event of a newer version.
    #[serde(other)]
    Other,
}
