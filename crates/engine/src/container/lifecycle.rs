//! The life of a container: one enum, one pure transition function.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A run that goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The first process, in the host's numbering.
    pub pid: i32,
    /// When it started.
    pub started_at: Timestamp,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The exit code; 128 + n for signal n; 255 when it was lost.
    pub code: i32,
    /// Whether the kernel killed a process of it for want of memory.
    pub oom_killed: bool,
    /// When the run started; absent when the start itself failed.
    pub started_at: Option<Timestamp>,
    /// When it ended; absent when it never started.
    pub finished_at: Option<Timestamp>,
    /// Why the start failed.
    pub error: Option<String>,
}

/// Where in its life a container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Lifecycle {
    /// Never ran. A failed start is remembered.
    Created {
        /// How the last start failed.
        failure: Option<Ended>,
    },
    /// Has a process.
    Running(Run),
    /// Has a process, which is frozen.
    Paused(Run),
    /// Ran, ended, and will be started again by its supervisor.
    Restarting(Ended),
    /// Ran and ended.
    Exited(Ended),
    /// Is being removed.
    Removing {
        /// How the last run ended.
        last: Option<Ended>,
    },
    /// Could not be removed entirely.
    Dead {
        /// How the last run ended.
        last: Option<Ended>,
    },
}

/// Something that happens to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Its process started.
    Started(Run),
    /// Its process could not be started.
    StartFailed {
        /// 127, 126 or 128.
        code: i32,
        /// The reason.
        error: String,
    },
    /// It was frozen.
    Paused,
    /// It was thawed.
    Resumed,
    /// Its process ended, and another one will follow.
    Restarting(Ended),
    /// Its process ended.
    Ended(Ended),
    /// Its removal began.
    RemovalBegun,
    /// Something of it could not be removed.
    RemovalFailed,
}

/// The word that people see for a [`Lifecycle`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Never ran.
    Created,
    /// Runs.
    Running,
    /// Is frozen.
    Paused,
    /// Waits to be started again.
    Restarting,
    /// Is being removed.
    Removing,
    /// Ended.
    Exited,
    /// Could not be removed entirely.
    Dead,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Running,
        Self::Paused,
        Self::Restarting,
        Self::Removing,
        Self::Exited,
        Self::Dead,
    ];

    /// Returns Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

impl std::str::FromStr for Status {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or(())
    }
}

impl Lifecycle {
    /// Returns the word for it.
    pub fn status(&self) -> Status {
        match self {
            Self::Created { .. } => Status::Created,
            Self::Running(_) => Status::Running,
            Self::Paused(_) => Status::Paused,
            Self::Restarting(_) => Status::Restarting,
            Self::Exited(_) => Status::Exited,
            Self::Removing { .. } => Status::Removing,
            Self::Dead { .. } => Status::Dead,
        }
    }

    /// Returns the present run: also while paused.
    pub fn run(&self) -> Option<&Run> {
        match self {
            Self::Running(run) | Self::Paused(run) => Some(run),
            Self::Created { .. }
            | Self::Restarting(_)
            | Self::Exited(_)
            | Self::Removing { .. }
            | Self::Dead { .. } => None,
        }
    }

    /// Returns how the last run, or the last attempt at one, ended.
    pub fn last(&self) -> Option<&Ended> {
        match self {
            Self::Created { failure } => failure.as_ref(),
            Self::Restarting(ended) | Self::Exited(ended) => Some(ended),
            Self::Removing { last } | Self::Dead { last } => last.as_ref(),
            Self::Running(_) | Self::Paused(_) => None,
        }
    }

    /// Returns whether a process exists, or will again without anybody's doing.
    pub fn is_running(&self) -> bool {
        self.run().is_some() || matches!(self, Self::Restarting(_))
    }

    /// Returns the state after `change`, or `None` when it cannot happen in this state.
    pub fn after(&self, change: Change) -> Option<Self> {
        Some(match (self, change) {
            (
                Self::Created { .. } | Self::Restarting(_) | Self::Exited(_),
                Change::Started(run),
            ) => Self::Running(run),
            (Self::Created { .. }, Change::StartFailed { code, error }) => Self::Created {
                failure: Some(Ended {
                    code,
                    oom_killed: false,
                    started_at: None,
                    finished_at: None,
                    error: Some(error),
                }),
            },
            (Self::Exited(ended), Change::StartFailed { code, error }) => Self::Exited(Ended {
                code,
                error: Some(error),
                ..ended.clone()
            }),
            (Self::Running(run), Change::Paused) => Self::Paused(run.clone()),
            (Self::Paused(run), Change::Resumed) => Self::Running(run.clone()),
            // A start that this engine did not see the end of may already have ended.
            (
                Self::Created { .. } | Self::Running(_) | Self::Paused(_) | Self::Restarting(_),
                Change::Ended(ended),
            ) => Self::Exited(ended),
            (
                Self::Created { .. } | Self::Running(_) | Self::Paused(_),
                Change::Restarting(ended),
            ) => Self::Restarting(ended),
            (
                Self::Restarting(_) | Self::Exited(_) | Self::Removing { .. } | Self::Dead { .. },
                Change::Restarting(_),
            )
            | (Self::Restarting(_), Change::StartFailed { .. } | Change::RemovalBegun) => {
                return None;
            }
            (
                Self::Created { .. } | Self::Exited(_) | Self::Removing { .. } | Self::Dead { .. },
                Change::RemovalBegun,
            ) => Self::Removing {
                last: self.last().cloned(),
            },
            (Self::Removing { last }, Change::RemovalFailed) => Self::Dead { last: last.clone() },
            (
                Self::Running(_) | Self::Paused(_) | Self::Removing { .. } | Self::Dead { .. },
                Change::Started(_) | Change::StartFailed { .. },
            )
            | (
                Self::Created { .. }
                | Self::Paused(_)
                | Self::Restarting(_)
                | Self::Exited(_)
                | Self::Removing { .. }
                | Self::Dead { .. },
                Change::Paused,
            )
            | (
                Self::Created { .. }
                | Self::Running(_)
                | Self::Restarting(_)
                | Self::Exited(_)
                | Self::Removing { .. }
                | Self::Dead { .. },
                Change::Resumed,
            )
            | (Self::Exited(_) | Self::Removing { .. } | Self::Dead { .. }, Change::Ended(_))
            | (Self::Running(_) | Self::Paused(_), Change::RemovalBegun)
            | (
                Self::Created { .. }
                | Self::Running(_)
                | Self::Paused(_)
                | Self::Restarting(_)
                | Self::Exited(_)
                | Self::Dead { .. },
                Change::RemovalFailed,
            ) => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        Run {
            pid: 7,
            started_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn ended(code: i32) -> Ended {
        Ended {
            code,
            oom_killed: false,
            started_at: Some(Timestamp::UNIX_EPOCH),
            finished_at: Some(Timestamp::UNIX_EPOCH),
            error: None,
        }
    }

    #[test]
    fn the_usual_life() {
        let mut life = Lifecycle::Created { failure: None };
        for (change, status) in [
            (Change::Started(run()), Status::Running),
            (Change::Paused, Status::Paused),
            (Change::Resumed, Status::Running),
            (Change::Ended(ended(3)), Status::Exited),
            (Change::Started(run()), Status::Running),
            (Change::Restarting(ended(1)), Status::Restarting),
            (Change::Started(run()), Status::Running),
            (Change::Restarting(ended(1)), Status::Restarting),
            (Change::Ended(ended(0)), Status::Exited),
            (Change::RemovalBegun, Status::Removing),
            (Change::RemovalFailed, Status::Dead),
            (Change::RemovalBegun, Status::Removing),
        ] {
            life = life.after(change).unwrap();
            assert_eq!(life.status(), status);
        }
        assert_eq!(life.last().unwrap().code, 0);
    }

    #[test]
    fn a_failed_start_keeps_the_state_and_tells_why() {
        let failed = || Change::StartFailed {
            code: 127,
            error: "no such file".into(),
        };
        let created = Lifecycle::Created { failure: None }
            .after(failed())
            .unwrap();
        assert_eq!(created.status(), Status::Created);
        assert_eq!(created.last().unwrap().code, 127);
        let exited = Lifecycle::Exited(ended(0)).after(failed()).unwrap();
        assert_eq!(exited.status(), Status::Exited);
        assert_eq!(exited.last().unwrap().code, 127);
    }

    #[test]
    fn what_cannot_happen_is_refused() {
        assert!(
            Lifecycle::Running(run())
                .after(Change::Started(run()))
                .is_none()
        );
        assert!(
            Lifecycle::Running(run())
                .after(Change::RemovalBegun)
                .is_none()
        );
        assert!(Lifecycle::Exited(ended(1)).after(Change::Paused).is_none());
        assert!(
            Lifecycle::Exited(ended(1))
                .after(Change::Ended(ended(2)))
                .is_none()
        );
        assert!(Lifecycle::Paused(run()).after(Change::Paused).is_none());
    }
}
