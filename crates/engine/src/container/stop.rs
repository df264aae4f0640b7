//! Stopping, killing, restarting, freezing.

use std::sync::Arc;
use std::time::Duration;

use sampan_shim_protocol::Request;
use sampan_state::Sync;

use super::config::RestartPolicy;
use super::lifecycle::{Change, Lifecycle};
use super::record::Record;
use super::registry::Container;
use super::request::{StopOptions, StopTimeout};
use super::service::Inner;
use super::start::restarting;
use crate::{Action, Error, ErrorKind, Result, signal};

/// How long a killed container may take to end.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

impl Inner {
    /// Asks a container to end, then kills it. The operation lock is held.
    pub(crate) async fn stop(
        self: &Arc<Self>,
        container: &Arc<Container>,
        options: &StopOptions,
    ) -> Result<()> {
        let record = container.record();
        if !record.lifecycle.is_running() {
            return Err(Error::not_modified());
        }
        let wanted = options
            .signal
            .as_deref()
            .unwrap_or(&record.config.stop_signal);
        let number = if wanted.is_empty() {
            signal::TERM
        } else {
            signal::parse(wanted)?
        };
        let timeout = options
            .timeout
            .unwrap_or_else(|| match record.config.stop_timeout {
                Some(seconds) => StopTimeout::from_seconds(seconds),
                None => StopTimeout::After(self.stop_timeout),
            });
        let marked = self
            .registry
            .update_async(container, Sync::Volatile, |record| {
                Some(Record {
                    stopped_by_hand: true,
                    ..record.clone()
                })
            });
        marked.await?;
        let Some(ended) = container.watch_end() else {
            return Err(gone_or_silent(container).unwrap_or_else(Error::not_modified));
        };
        self.send(container, number, End::Final).await?;
        if record.lifecycle.status() == super::lifecycle::Status::Paused {
            self.thaw(container).await?;
        }
        let in_time = match timeout {
            StopTimeout::Never => ended.await.is_ok(),
            StopTimeout::After(time) => tokio::time::timeout(time, ended).await.is_ok(),
        };
        if !in_time {
            self.kill_and_wait(container).await?;
        }
        self.tell(&record, Action::Stop, []);
        Ok(())
    }

    /// Sends a signal as a person asked for it.
    pub(crate) async fn kill(
        self: &Arc<Self>,
        container: &Arc<Container>,
        wanted: Option<&str>,
    ) -> Result<()> {
        let number = match wanted {
            None | Some("") => signal::KILL,
            Some(text) => signal::parse(text)?,
        };
        let record = container.record();
        if !record.lifecycle.is_running() {
            return Err(not_running("cannot kill container", &record));
        }
        let end = End::of(number, &record);
        if end == End::Final && record.host.restart_policy != RestartPolicy::No {
            self.registry
                .update_async(container, Sync::Volatile, |record| {
                    Some(Record {
                        stopped_by_hand: true,
                        ..record.clone()
                    })
                })
                .await?;
        }
        if number == signal::KILL {
            return self.kill_and_wait(container).await;
        }
        match self.send(container, number, end).await {
            // There is no process that could get it.
            Err(error)
                if error.kind() == ErrorKind::Conflict
                    && matches!(record.lifecycle, Lifecycle::Restarting(_)) =>
            {
                Ok(())
            }
            sent => sent,
        }
    }

    /// Kills a container and waits until it has ended and let go of everything.
    pub(crate) async fn kill_and_wait(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let Some(ended) = container.watch_end() else {
            return gone_or_silent(container).map_or(Ok(()), Err);
        };
        match self.send(container, signal::KILL, End::Final).await {
            // It ended by itself meanwhile.
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            sent => sent?,
        }
        if matches!(container.record().lifecycle, Lifecycle::Paused(_)) {
            self.thaw(container).await?;
        }
        // An error of the watch means that the end has been dealt with.
        let _ended = tokio::time::timeout(KILL_PATIENCE, ended).await.map_err(|_| {
            Error::new(
                ErrorKind::Unavailable,
                format!("container {} did not end within {KILL_PATIENCE:?} of SIGKILL", container.id),
            )
            .with_hint("one of its processes waits for a device or a network file system that does not answer")
        })?;
        Ok(())
    }

    async fn send(&self, container: &Arc<Container>, number: i32, end: End) -> Result<()> {
        let record = container.record();
        let Some(shim) = container.shim() else {
            return Err(gone_or_silent(container)
                .unwrap_or_else(|| not_running("cannot kill container", &record)));
        };
        if !matches!(record.lifecycle, Lifecycle::Restarting(_)) {
            self.tell(&record, Action::Kill, [("signal", number.to_string())]);
        }
        let request = Request::Signal {
            signal: number,
            all: false,
            last: end == End::Final,
        };
        shim.tell(request, Vec::new())
            .await
            .map_err(|error| match error.kind() {
                ErrorKind::Conflict => not_running("cannot kill container", &record),
                _ => error,
            })
    }

    /// Thaws without telling: an end is on its way. One that has come is no error.
    async fn thaw(&self, container: &Arc<Container>) -> Result<()> {
        if let Some(shim) = container.shim()
            && let Err(error) = shim.tell(Request::Resume, Vec::new()).await
            && error.kind() != ErrorKind::Conflict
        {
            return Err(error);
        }
        let resumed = self
            .registry
            .update_async(container, Sync::Volatile, |record| {
                Some(record.with(record.lifecycle.after(Change::Resumed)?))
            });
        resumed.await.map(|_| ())
    }

    /// Stops a container where it runs, and starts it. The operation lock is held.
    pub(crate) async fn restart(
        self: &Arc<Self>,
        container: &Arc<Container>,
        options: &StopOptions,
    ) -> Result<()> {
        container.live().restarting = true;
        let stopped = match self.stop(container, options).await {
            Err(error) if error.kind() == ErrorKind::NotModified => Ok(()),
            stopped => stopped,
        };
        container.live().restarting = false;
        stopped?;
        self.start(container).await?;
        self.tell(&container.record(), Action::Restart, []);
        Ok(())
    }

    /// Freezes a container. The operation lock is held.
    pub(crate) async fn pause(&self, container: &Arc<Container>) -> Result<()> {
        let record = container.record();
        match record.lifecycle {
            Lifecycle::Running(_) => {}
            Lifecycle::Paused(_) => {
                return Err(Error::conflict(format!(
                    "Container {} is already paused",
                    container.id
                )));
            }
            Lifecycle::Restarting(_) => return Err(restarting(&container.id)),
            Lifecycle::Created { .. }
            | Lifecycle::Exited(_)
            | Lifecycle::Removing { .. }
            | Lifecycle::Dead { .. } => {
                return Err(Error::conflict(format!(
                    "Container {} is not running",
                    container.id
                )));
            }
        }
        self.shim_of(container)?
            .tell(Request::Pause, Vec::new())
            .await?;
        self.registry
            .apply(container, Sync::Volatile, Change::Paused)
            .await?;
        self.tell(&record, Action::Pause, []);
        Ok(())
    }

    /// Thaws a container. The operation lock is held.
    pub(crate) async fn unpause(&self, container: &Arc<Container>) -> Result<()> {
        let record = container.record();
        if !matches!(record.lifecycle, Lifecycle::Paused(_)) {
            return Err(Error::conflict(format!(
                "Container {} is not paused",
                container.id
            )));
        }
        self.shim_of(container)?
            .tell(Request::Resume, Vec::new())
            .await?;
        self.registry
            .apply(container, Sync::Volatile, Change::Resumed)
            .await?;
        self.tell(&record, Action::Unpause, []);
        Ok(())
    }

    /// Returns the shim of a container that runs.
    pub(crate) fn shim_of(&self, container: &Container) -> Result<crate::shim::Shim> {
        container
            .shim()
            .filter(|_| container.record().lifecycle.is_running())
            .ok_or_else(|| {
                gone_or_silent(container).unwrap_or_else(|| {
                    Error::conflict(format!("container {} is not running", container.id))
                })
            })
    }
}

/// What is meant by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The container is to end, and stay so.
    Final,
    /// It is told something.
    No,
}

impl End {
    /// By its stop signal and what ends nearly every program, somebody ends a container; by others
    /// it is told to read its configuration again, and such like.
    fn of(number: i32, record: &Record) -> Self {
        let own = &record.config.stop_signal;
        let stops = !own.is_empty() && signal::parse(own).is_ok_and(|own| own == number);
        match number {
            signal::KILL | signal::TERM | signal::INT | signal::QUIT => Self::Final,
            _ if stops => Self::Final,
            _ => Self::No,
        }
    }
}

/// Of a container without a connection to its supervisor: an error when it runs and the supervisor
/// has not answered this engine yet.
fn gone_or_silent(container: &Container) -> Option<Error> {
    let record = container.record();
    (record.lifecycle.is_running() && container.shim().is_none()).then(|| {
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "the supervisor of container {} does not answer",
                record.name
            ),
        )
        .with_hint("the container itself goes on; the engine asks its supervisor again and again")
    })
}

fn not_running(doing: &str, record: &Record) -> Error {
    Error::conflict(format!(
        "{doing}: {}: container {} is not running",
        record.name, record.id
    ))
}
