//! What a new engine makes of what the last one left.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sampan_shim_protocol::{JournalEvent, Reply, Request, State, Status};
use sampan_state::Sync;

use super::end::{let_go_of_mounts, lost};
use super::id::ContainerId;
use super::lifecycle::{Change, Ended, Lifecycle, Run};
use super::record::Record;
use super::registry::{Container, Exec};
use super::request::{ExecConfig, RemoveVolumes};
use super::service::Inner;
use super::view::ExecState;
use crate::shim::{Connection, LifeLock, unexpected};
use crate::{Error, Result, blocking};

/// How long a shim that lives may take to answer before the engine starts without it.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// How long it may take when nobody waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause before a shim that did not answer is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a shim that is on its way is looked for.
const AGAIN: Duration = Duration::from_millis(5);

/// What was found of a container beside its record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Found {
    /// A shim that answers.
    Alive(Box<State>),
    /// A shim that lives and does not answer.
    Silent,
    /// No shim.
    Nothing {
        /// What its exit file says, if there is one.
        exit: Option<Ended>,
        /// Whether a launch that was under way came to a run.
        ran: bool,
    },
}

/// What is to be done about a container.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Plan {
    /// Go on with its shim, in this state.
    Adopt(Lifecycle),
    /// Note an end that nobody has noted, and take back what is left of the run.
    End(Ended),
    /// Take back what may be left of a run or of a start that never was one.
    Sweep,
    /// Leave it alone: nobody knows.
    Leave,
}

/// Decides what is to be done about a container.
pub(crate) fn plan(record: &Record, found: &Found) -> Plan {
    match found {
        Found::Silent => Plan::Leave,
        Found::Alive(state) => match state.status {
            Status::Running | Status::Paused | Status::Exiting => {
                let run = Run {
                    pid: state.pid.unwrap_or_default(),
                    started_at: state
                        .started_at
                        .as_deref()
                        .and_then(|at| at.parse().ok())
                        .or_else(|| record.lifecycle.run().map(|run| run.started_at))
                        .unwrap_or(record.created),
                };
                Plan::Adopt(match state.status {
                    Status::Paused => Lifecycle::Paused(run),
                    _ => Lifecycle::Running(run),
                })
            }
            Status::Restarting => match &state.exit {
                Some(exit) => Plan::Adopt(Lifecycle::Restarting(Ended::from(exit))),
                None => Plan::Leave,
            },
            Status::Exited => match &state.exit {
                Some(exit) => Plan::End(Ended::from(exit)),
                None => Plan::End(lost(record)),
            },
            // It was never launched and ends now that its engine is gone.
            Status::Waiting => Plan::Sweep,
        },
        Found::Nothing { exit, ran } => {
            let is_newer = |ended: &Ended| match &record.lifecycle {
                // That of the run before is left where its removal was lost in a power cut.
                Lifecycle::Running(run) | Lifecycle::Paused(run) => {
                    ended.started_at.is_none_or(|at| at >= run.started_at)
                }
                Lifecycle::Restarting(last) => ended.started_at >= last.started_at,
                Lifecycle::Created { .. } => {
                    ended.started_at.is_some_and(|at| at >= record.created)
                }
                Lifecycle::Exited(last) => ended.started_at > last.started_at,
                Lifecycle::Removing { .. } | Lifecycle::Dead { .. } => false,
            };
            match exit {
                Some(ended) if is_newer(ended) => Plan::End(ended.clone()),
                _ if record.lifecycle.is_running() || (record.launching && *ran) => {
                    Plan::End(lost(record))
                }
                _ => Plan::Sweep,
            }
        }
    }
}

impl Inner {
    /// Finds every container again and removes what belongs to none. Returns the containers whose
    /// supervisor is gone and that have ended without anybody's taking note.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<Vec<Arc<Container>>> {
        let mut tasks = tokio::task::JoinSet::new();
        let mut sweeps = Vec::new();
        for container in self.registry.all() {
            let has_shim = self.paths.shim(&container.id).exists();
            let record = container.record();
            let quiet = !has_shim
                && !record.launching
                && !record.host.auto_remove
                && matches!(
                    record.lifecycle,
                    Lifecycle::Created { .. } | Lifecycle::Exited(_)
                )
                && self.is_all_told(&record);
            if quiet && !self.has_unread_exit(&container) {
                continue;
            }
            let inner = self.clone();
            tasks.spawn(async move {
                let found = inner.look(&container, FIRST_PATIENCE).await;
                (container, found)
            });
        }
        let (mut running, mut alive) = (Vec::new(), Vec::new());
        while let Some(looked) = tasks.join_next().await {
            let (container, found) = looked.map_err(|error| Error::because("recover", &error))?;
            let (found, connection) = found?;
            let (inner, missed) = (self.clone(), container.clone());
            blocking(move || {
                inner.catch_up(&missed);
                Ok(())
            })
            .await?;
            let record = container.record();
            match plan(&record, &found) {
                plan @ (Plan::Adopt(_) | Plan::Leave) => {
                    running.push(record);
                    alive.push((container, plan, found, connection));
                }
                plan @ (Plan::End(_) | Plan::Sweep) => sweeps.push((container, plan, connection)),
            }
        }
        // Before anybody hears of an end, which takes back what is known to be there.
        let (inner, live) = (self.clone(), running.clone());
        let network = blocking(move || inner.networks.recover(&live)).await;
        if let Err(error) = network {
            tracing::error!(
                error = error.message(),
                "could not bring the network in order"
            );
        }
        for (container, plan, found, connection) in alive {
            if let Plan::Adopt(lifecycle) = plan {
                self.adopt(&container, lifecycle, &found, connection)
                    .await?;
                self.thaw_left(&container).await;
            } else {
                tracing::error!(container = %container.id, "the supervisor of a container does not answer");
                self.show_by_journal(&container);
                self.tasks.spawn(self.clone().seek(container));
            }
        }
        let mut lost = Vec::new();
        for (container, plan, connection) in sweeps {
            let has_ended = matches!(plan, Plan::End(_)) && connection.is_none();
            self.sweep(&container, plan, connection).await;
            if has_ended {
                lost.push(container);
            }
        }
        let keep: HashSet<String> = running.iter().map(|record| record.id.to_string()).collect();
        let inner = self.clone();
        blocking(move || {
            inner.remove_orphans(&keep);
            inner.tell_vanished(|id| inner.registry.find(id).is_ok() || inner.is_damaged(id));
            inner.events.release();
            Ok(())
        })
        .await?;
        Ok(lost)
    }

    /// Whether an exit file tells of a run that the record does not know.
    fn has_unread_exit(&self, container: &Container) -> bool {
        let record = container.record();
        let ran = |ended: &Ended| {
            let known = record.lifecycle.last().and_then(|last| last.started_at);
            ended.started_at > known
        };
        self.read_exit(container)
            .is_some_and(|exit| ran(&Ended::from(&exit)))
    }

    /// Whether the journal's last word is that a run began. Without a shim's directory the host was
    /// started anew, and what the journal said may be lost.
    fn began_to_run(&self, container: &Container) -> bool {
        let entries = self.read_journal(container).into_iter();
        let told = entries.filter_map(|entry| match entry.event {
            JournalEvent::Started { .. } | JournalEvent::Restarting { .. } => Some(true),
            JournalEvent::Exited { .. } => Some(false),
            JournalEvent::ProbeStarted { .. }
            | JournalEvent::ProbeEnded { .. }
            | JournalEvent::Oom
            | JournalEvent::ExecExited { .. }
            | JournalEvent::Detached { .. }
            | JournalEvent::LogFailed { .. }
            | JournalEvent::Strays { .. }
            | JournalEvent::Other => None,
        });
        told.fold(false, |_, last| last)
    }

    /// Shows what the journal tells of a container whose shim does not: that it runs. Blocks.
    fn show_by_journal(&self, container: &Container) {
        for entry in self.read_journal(container) {
            let change = match (&entry.event, entry.at.parse()) {
                (JournalEvent::Started { pid }, Ok(started_at)) => Change::Started(Run {
                    pid: *pid,
                    started_at,
                }),
                (JournalEvent::Restarting { exit, .. }, _) => Change::Restarting(Ended::from(exit)),
                _ => continue,
            };
            self.registry.show(container, |record| {
                Some(record.with(record.lifecycle.after(change)?))
            });
        }
    }

    /// Waits for a shim that lives and does not answer, beside everything else.
    async fn seek(self: Arc<Self>, container: Arc<Container>) {
        loop {
            tokio::time::sleep(PAUSE).await;
            let found = self.look(&container, PATIENCE).await;
            let (found, connection) = match found {
                Ok((Found::Silent, _)) => continue,
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(container = %container.id, error = error.message(), "could not look for a supervisor");
                    continue;
                }
            };
            // Who operates on it meanwhile is told that it does not answer, and ends soon.
            let Ok(_guard) = container.operate().await else {
                continue;
            };
            tracing::info!(container = %container.id, "the supervisor of a container answers again");
            let (inner, missed) = (self.clone(), container.clone());
            let caught_up = blocking(move || {
                inner.catch_up(&missed);
                Ok(())
            });
            // It only fails when the runtime ends.
            let _ = caught_up.await;
            match plan(&container.record(), &found) {
                Plan::Adopt(lifecycle) => {
                    let adopted = self.adopt(&container, lifecycle, &found, connection).await;
                    if let Err(error) = adopted {
                        tracing::warn!(container = %container.id, error = error.message(), "could not store a record");
                    }
                }
                plan @ (Plan::End(_) | Plan::Sweep | Plan::Leave) => {
                    self.sweep(&container, plan, connection).await;
                }
            }
            return;
        }
    }

    /// Looks for the shim of a container.
    async fn look(
        &self,
        container: &Arc<Container>,
        patience: Duration,
    ) -> Result<(Found, Option<Connection>)> {
        let directory = self.paths.shim(&container.id);
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            if !has_shim(&directory)? {
                let exit = self.read_exit(container).map(|exit| Ended::from(&exit));
                let ran = !directory.exists() || self.began_to_run(container);
                return Ok((Found::Nothing { exit, ran }, None));
            }
            match tokio::time::timeout_at(deadline, ask_state(&directory)).await {
                Ok(Ok(Some((state, connection)))) => {
                    return Ok((Found::Alive(Box::new(state)), Some(connection)));
                }
                // It is about to listen, or about to end.
                Ok(Ok(None) | Err(_)) => {}
                Err(_) => return Ok((Found::Silent, None)),
            }
            if tokio::time::Instant::now() >= deadline {
                return Ok((Found::Silent, None));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Goes on with a shim that lives.
    async fn adopt(
        self: &Arc<Self>,
        container: &Arc<Container>,
        lifecycle: Lifecycle,
        found: &Found,
        connection: Option<Connection>,
    ) -> Result<()> {
        let (restarts, health) = match found {
            Found::Alive(state) => (state.restarts, state.health.clone()),
            Found::Silent | Found::Nothing { .. } => (container.record().restart_count, None),
        };
        self.registry
            .update_async(container, Sync::Volatile, move |record| {
                Some(Record {
                    launching: false,
                    restart_count: restarts,
                    health: health.or_else(|| record.health.clone()),
                    ..record.with(lifecycle)
                })
            })
            .await?;
        if let Found::Alive(state) = found {
            let mut live = container.live();
            for exec in &state.execs {
                if let Ok(id) = exec.id.parse() {
                    let state = match exec.exit_code {
                        None => ExecState::Running { pid: exec.pid },
                        Some(code) => ExecState::Exited {
                            pid: exec.pid,
                            code,
                        },
                    };
                    let config = Arc::new(ExecConfig::default());
                    live.execs.insert(id, Exec::new(config, state));
                }
            }
        }
        self.tell_freezing(&container.record());
        if let Some(connection) = connection {
            self.serve(container, connection);
            container.go();
        }
        Ok(())
    }

    /// Notes an end that was missed and takes back what is left.
    async fn sweep(
        self: &Arc<Self>,
        container: &Arc<Container>,
        plan: Plan,
        connection: Option<Connection>,
    ) {
        if let Some(mut connection) = connection
            && matches!(plan, Plan::End(_))
            && let Err(error) = connection
                .call(&Request::Release, Vec::new(), PATIENCE)
                .await
        {
            tracing::debug!(container = %container.id, error = error.message(), "a supervisor left before it was let go");
        }
        let record = container.record();
        match plan {
            Plan::End(ended) => self.ended(container, ended).await,
            Plan::Sweep | Plan::Adopt(_) | Plan::Leave => {
                let (inner, torn) = (self.clone(), container.clone());
                let done = blocking(move || inner.tear_down(&torn)).await;
                if let Err(error) = done {
                    tracing::warn!(container = %container.id, error = error.message(), "could not take back what was left");
                }
                container.settle_end();
                if record.launching {
                    let cleared = self
                        .registry
                        .update_async(container, Sync::Volatile, |record| {
                            Some(Record {
                                launching: false,
                                network: record.network.disconnected(),
                                ..record.clone()
                            })
                        });
                    if let Err(error) = cleared.await {
                        tracing::warn!(container = %container.id, error = error.message(), "could not store a record");
                    }
                }
                // Stored only where the volumes go, too.
                let removing = matches!(record.lifecycle, Lifecycle::Removing { .. });
                let half_removed = removing || matches!(record.lifecycle, Lifecycle::Dead { .. });
                let ended = matches!(record.lifecycle, Lifecycle::Exited(_));
                if half_removed || (record.host.auto_remove && ended) {
                    let (inner, gone) = (self.clone(), container.clone());
                    let volumes = if record.host.auto_remove || removing {
                        RemoveVolumes::Anonymous
                    } else {
                        RemoveVolumes::Keep
                    };
                    let removed = blocking(move || inner.discard(&gone, volumes)).await;
                    if let Err(error) = removed {
                        tracing::error!(container = %container.id, error = error.message(), "could not finish a removal");
                    }
                }
            }
        }
    }

    /// Removes what belongs to no container: cgroups, directories, half-made and half-removed
    /// containers. Goes on after failures. Blocks.
    fn remove_orphans(self: &Arc<Self>, running: &HashSet<String>) {
        let known: HashSet<String> = self
            .registry
            .all()
            .iter()
            .map(|c| c.id.to_string())
            .collect();
        let damaged = |id: &str| self.is_damaged(id);
        for id in names_in(&self.paths.shims()) {
            if known.contains(&id) || damaged(&id) {
                continue;
            }
            self.remove_orphan_shim(&id);
        }
        let parent = self.networks.names().instance().to_owned();
        for hierarchy in self.host.hierarchies.all() {
            for id in names_in(&hierarchy.mount_point.join(&parent)) {
                if id.parse::<ContainerId>().is_err() || running.contains(&id) || damaged(&id) {
                    continue;
                }
                if let Err(error) = self.remove_cgroup(&id) {
                    tracing::warn!(
                        cgroup = id,
                        error = error.message(),
                        "could not remove an orphan control group"
                    );
                }
            }
        }
        for id in names_in(&self.paths.containers()) {
            if known.contains(&id) || damaged(&id) || id.parse::<ContainerId>().is_err() {
                continue;
            }
            let from = self.paths.containers().join(&id);
            if let Err(error) = std::fs::rename(&from, self.paths.trash().join(&id)) {
                tracing::warn!(container = id, %error, "could not set a half-made container aside");
            }
        }
        let trash = self.paths.trash();
        self.tasks.spawn_blocking(move || {
            for name in names_in(&trash) {
                if let Err(error) = sampan_fs::remove_dir_all(trash.join(&name)) {
                    tracing::warn!(name, %error, "could not remove what was thrown away");
                }
            }
        });
    }

    /// Whether a container's record was set aside: nobody knows it, and it is not gone.
    fn is_damaged(&self, id: &str) -> bool {
        let directory = self.paths.containers().join(id);
        directory.join("record.json.damaged").exists()
    }

    /// Ends a shim of a container that does not exist any more.
    fn remove_orphan_shim(self: &Arc<Self>, id: &str) {
        let warn = |error: Error| {
            tracing::warn!(
                container = id,
                error = error.message(),
                "could not end an orphan"
            );
        };
        let scope = self.find_scope(id).unwrap_or_else(|error| {
            warn(error);
            None
        });
        let ended = match &scope {
            // Its shim is still to be let go.
            Some(scope) => self.remove_cgroup_at(&scope.container()),
            None => self.remove_cgroup(id),
        };
        ended.unwrap_or_else(warn);
        let (inner, id) = (self.clone(), id.to_owned());
        self.tasks.spawn(async move {
            let directory = inner.paths.shims().join(&id);
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while has_shim(&directory).unwrap_or(false) && tokio::time::Instant::now() < deadline {
                if let Ok(Some(mut connection)) = Connection::find(&directory).await {
                    let _ = connection
                        .call(&Request::Release, Vec::new(), PATIENCE)
                        .await;
                }
                tokio::time::sleep(AGAIN).await;
            }
            let removed = blocking(move || {
                let scope = scope.map_or(Ok(()), |scope| inner.remove_control_groups(&scope));
                let_go_of_mounts(&directory);
                scope.and(Ok(sampan_fs::remove_dir_all(&directory)?))
            })
            .await;
            if let Err(error) = removed {
                tracing::warn!(
                    container = id,
                    error = error.message(),
                    "could not remove an orphan's directory"
                );
            }
        });
    }
}

/// Whether a shim lives, or may be on its way, in this directory.
fn has_shim(directory: &Path) -> Result<bool> {
    if !directory.exists() {
        return Ok(false);
    }
    Ok(LifeLock::try_take(directory)?.is_none())
}

async fn ask_state(directory: &Path) -> Result<Option<(State, Connection)>> {
    let Some(mut connection) = Connection::find(directory).await? else {
        return Ok(None);
    };
    match connection
        .call(&Request::State, Vec::new(), PATIENCE)
        .await?
    {
        Reply::State(state) => Ok(Some((*state, connection))),
        other => Err(unexpected(&other)),
    }
}

/// Names in a directory; none when it cannot be read.
fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::test_record::record;
    use jiff::Timestamp;

    fn state(status: Status) -> Found {
        Found::Alive(Box::new(State {
            id: String::new(),
            status,
            pid: Some(5),
            started_at: Some("2026-01-01T00:00:10Z".into()),
            exit: None,
            restarts: 0,
            health: None,
            execs: Vec::new(),
            attached: 0,
        }))
    }

    fn ended(start: i64, code: i32) -> Ended {
        Ended {
            code,
            oom_killed: false,
            started_at: Some(Timestamp::from_second(start).unwrap()),
            finished_at: Some(Timestamp::from_second(start + 1).unwrap()),
            error: None,
        }
    }

    fn nothing(exit: Option<Ended>, ran: bool) -> Found {
        Found::Nothing { exit, ran }
    }

    fn running() -> Lifecycle {
        Lifecycle::Running(Run {
            pid: 5,
            started_at: Timestamp::from_second(100).unwrap(),
        })
    }

    #[test]
    fn the_shim_is_the_truth_about_what_runs() {
        for lifecycle in [
            Lifecycle::Created { failure: None },
            running(),
            Lifecycle::Exited(ended(1, 0)),
        ] {
            let record = record(lifecycle);
            assert!(
                matches!(plan(&record, &state(Status::Running)), Plan::Adopt(Lifecycle::Running(run)) if run.pid == 5)
            );
            assert!(matches!(
                plan(&record, &state(Status::Paused)),
                Plan::Adopt(Lifecycle::Paused(_))
            ));
            assert_eq!(plan(&record, &state(Status::Waiting)), Plan::Sweep);
            assert_eq!(plan(&record, &Found::Silent), Plan::Leave);
        }
    }

    #[test]
    fn exit_files_count_when_they_are_news() {
        let created = record(Lifecycle::Created { failure: None });
        assert_eq!(
            plan(&created, &nothing(Some(ended(200, 3)), true)),
            Plan::End(ended(200, 3))
        );
        assert_eq!(plan(&created, &nothing(None, true)), Plan::Sweep);
        let old = record(Lifecycle::Exited(ended(100, 1)));
        assert_eq!(plan(&old, &nothing(Some(ended(100, 1)), true)), Plan::Sweep);
        assert_eq!(
            plan(&old, &nothing(Some(ended(101, 2)), true)),
            Plan::End(ended(101, 2))
        );
        let removing = record(Lifecycle::Removing { last: None });
        assert_eq!(
            plan(&removing, &nothing(Some(ended(101, 2)), true)),
            Plan::Sweep
        );
    }

    #[test]
    fn lost_runs_end_with_255_and_unborn_ones_do_not_end() {
        let Plan::End(end) = plan(&record(running()), &nothing(None, false)) else {
            panic!("a run without a shim has ended");
        };
        assert_eq!(
            (end.code, end.started_at),
            (255, Timestamp::from_second(100).ok())
        );
        let launching = Record {
            launching: true,
            ..record(Lifecycle::Created { failure: None })
        };
        assert_eq!(plan(&launching, &nothing(None, false)), Plan::Sweep);
        assert!(
            matches!(plan(&launching, &nothing(None, true)), Plan::End(end) if end.code == 255)
        );
        assert_eq!(
            plan(&launching, &nothing(Some(ended(200, 4)), true)),
            Plan::End(ended(200, 4))
        );
    }
}
