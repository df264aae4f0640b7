//! Where in its life the container is.

use std::time::Instant;

use sampan_shim_protocol::{Exit, Reply};

use super::requests::not_running;
use crate::launch::Container;

/// How the first process ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) code: i32,
    pub(super) signal: Option<i32>,
}

/// Where in its life the container is.
#[derive(Debug)]
pub(super) enum Phase {
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
    /// Everything has ended, and the container will be started again.
    Restarting {
        container: Box<Container>,
        exit: Exit,
        at: Instant,
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

impl Phase {
    pub(super) fn container(&self) -> Option<&Container> {
        match self {
            Self::Waiting | Self::Failed => None,
            Self::Running(container)
            | Self::Exiting { container, .. }
            | Self::Restarting { container, .. }
            | Self::Exited { container, .. } => Some(container),
        }
    }

    pub(super) fn running_mut(&mut self) -> Result<&mut Container, Reply> {
        match self {
            Self::Running(container) => Ok(container),
            Self::Waiting
            | Self::Failed
            | Self::Exiting { .. }
            | Self::Restarting { .. }
            | Self::Exited { .. } => Err(not_running()),
        }
    }
}
