//! The end of a run: noting it, telling it, taking everything back.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use sampan_cgroups::{Cgroup, CgroupPath};
use sampan_shim_protocol::{Event, Exit, Request};
use sampan_state::Sync;
use tokio::sync::mpsc;

use super::id::ContainerId;
use super::lifecycle::{Change, Ended};
use super::record::Record;
use super::registry::Container;
use super::request::RemoveVolumes;
use super::service::Inner;
use super::view::ExecState;
use crate::fail_point::STEP;
use crate::{Action, Result, blocking, signal};

/// How long a shim may take to end after it was released.
const RELEASE: Duration = Duration::from_secs(10);
/// The exit code of a run whose end nobody saw.
const LOST: i32 = 255;

impl Inner {
    /// Hears what the shim of a container has to tell, until it ends.
    pub(crate) async fn watch(
        self: Arc<Self>,
        container: Arc<Container>,
        mut events: mpsc::UnboundedReceiver<(u64, Event)>,
    ) {
        // The start is told before anything that follows from it.
        container.wait_go().await;
        while let Some((entry, event)) = events.recv().await {
            match event {
                Event::Exited(exit) => {
                    let ended = Ended::from(&exit);
                    self.ended(&container, ended).await;
                    return;
                }
                Event::Steps(steps) => {
                    for step in steps {
                        tracing::trace!(target: STEP, at = step.at, "shim: {}", step.name);
                    }
                }
                Event::Restarting { exit, restarts } => {
                    self.restarting(&container, Ended::from(&exit), restarts);
                }
                Event::Restarted { pid, started_at } => {
                    self.restarted(&container, pid, &started_at);
                }
                Event::ProbeStarted { id } => {
                    let record = container.record();
                    let mark = Self::mark_of(&record, entry);
                    self.tell_probe_started(&record, mark, Timestamp::now(), &id);
                }
                Event::ProbeEnded {
                    id,
                    health,
                    changed,
                } => self.probe_ended(&container, entry, &id, health, changed),
                Event::Oom => self.tell_run(&container.record(), entry, Action::Oom, []),
                Event::ExecExited(state) => {
                    self.exec_ended(&container, entry, &state.id, state.exit_code);
                }
                Event::Detached { exec: None } => {
                    self.tell_run(&container.record(), entry, Action::Detach, []);
                }
                Event::Detached { exec: Some(exec) } => {
                    let more = [("execID", exec)];
                    self.tell_run(&container.record(), entry, Action::ExecDetach, more);
                }
            }
        }
        // The shim is gone without a word. It may have left one on disk.
        let ended = match self.read_exit(&container) {
            Some(exit) => Ended::from(&exit),
            None => lost(&container.record()),
        };
        self.ended(&container, ended).await;
        self.start_instead_of_shim(container);
    }

    fn exec_ended(&self, container: &Container, entry: u64, id: &str, code: Option<i32>) {
        let code = code.unwrap_or(LOST);
        if let Ok(id) = id.parse()
            && let Some(exec) = container.live().execs.get_mut(&id)
        {
            let pid = match exec.state() {
                ExecState::Running { pid } | ExecState::Exited { pid, .. } => pid,
                ExecState::Created | ExecState::Starting => 0,
            };
            exec.change(ExecState::Exited { pid, code });
        }
        let more = [("exitCode", code.to_string()), ("execID", id.to_owned())];
        self.tell_run(&container.record(), entry, Action::ExecDie, more);
    }

    /// Deals with the end of a run: stores it, tells it, takes everything back.
    pub(crate) async fn ended(self: &Arc<Self>, container: &Arc<Container>, ended: Ended) {
        let _busy = self.slots.busy();
        tracing::trace!(target: STEP, "end:heard");
        let before = container.record();
        let stored = self.note_end(container, ended).await;
        if let Err(error) = stored {
            tracing::error!(container = %container.id, error = error.message(), "could not store the end of a container");
        }
        let record = container.record();
        if let Some(last) = record.lifecycle.last() {
            self.tell_ended(&record, last);
        }
        {
            let mut live = container.live();
            for follower in live.followers.drain(..) {
                follower.finish();
            }
            live.end_execs();
        }
        tracing::trace!(target: STEP, "end:told");
        container.tell_end();
        let removes = record.host.auto_remove && !container.live().restarting;
        // A port that is free again must be free when the removal is told.
        let holds_ports = before.network.ports.values().any(|ports| !ports.is_empty());
        if removes && !holds_ports {
            self.auto_remove(container).await;
        }
        tracing::trace!(target: STEP, "end:removed");
        self.take_back(container, &before).await;
        tracing::trace!(target: STEP, "end:taken_back");
        if removes && holds_ports {
            self.auto_remove(container).await;
        }
        container.settle_end();
        self.rest.after_work(&self.tasks);
    }

    /// Lets the shim go and takes the network back.
    async fn take_back(self: &Arc<Self>, container: &Arc<Container>, before: &Arc<Record>) {
        if let Some(shim) = container.shim() {
            // Its answer, or its end, means that it has let go.
            let _ = tokio::time::timeout(RELEASE, shim.ask(Request::Release, Vec::new())).await;
        }
        let (inner, torn, network) = (self.clone(), container.clone(), before.network.clone());
        let done = blocking(move || {
            let first = inner.networks.disconnect(&network);
            first.and(inner.tear_down(&torn))
        })
        .await;
        if let Err(error) = done {
            tracing::warn!(container = %container.id, error = error.message(), "could not take everything back");
        }
    }

    async fn note_end(&self, container: &Arc<Container>, ended: Ended) -> Result<()> {
        let change = move |record: &Record| {
            let lifecycle = record.lifecycle.after(Change::Ended(ended))?;
            Some(Record {
                launching: false,
                health: record.health_at_end(),
                network: record.network.disconnected(),
                ..record.with(lifecycle)
            })
        };
        if container.record().host.auto_remove {
            // The record goes next; should the engine die before, the exit file tells the same.
            self.registry.show(container, change);
            return Ok(());
        }
        let noted = self
            .registry
            .update_async(container, Sync::Volatile, change);
        noted.await.map(|_| ())
    }

    /// Removes a container that was to be removed at its end.
    pub(crate) async fn auto_remove(self: &Arc<Self>, container: &Arc<Container>) {
        let (inner, gone) = (self.clone(), container.clone());
        let removed = blocking(move || inner.discard(&gone, RemoveVolumes::Anonymous)).await;
        if let Err(error) = removed {
            tracing::error!(container = %container.id, error = error.message(), "could not remove an ended container");
        }
    }

    /// Takes back what may be left of a run or of an attempt at one. Idempotent: the same after a
    /// failed start, at the end and at recovery. Goes on after a failure; returns the first. Blocks.
    pub(crate) fn tear_down(&self, container: &Container) -> Result<()> {
        let (connected, slot) = {
            let mut live = container.live();
            (live.connected.take(), live.slot.take())
        };
        let network = match connected {
            Some(state) => self.networks.disconnect(&state),
            None => Ok(()),
        };
        drop(slot);
        let record = container.record();
        let cgroup = self.remove_control_groups(&self.control_groups(&record));
        let runtime = &record.host.runtime;
        let forgotten = self
            .runtimes
            .forget(runtime, self.paths.run(), container.id.as_str());
        let shim = self.clear_shim(&container.id);
        network.and(cgroup).and(forgotten).and(shim)
    }

    /// Takes back what was prepared for a container that nobody has created. Blocks.
    pub(crate) fn clear_slot(&self, id: &ContainerId) -> Result<()> {
        let groups = self.next_control_groups("", id);
        let groups = groups.and_then(|groups| self.remove_control_groups(&groups));
        groups.and(self.clear_shim(id))
    }

    fn clear_shim(&self, id: &ContainerId) -> Result<()> {
        let shim = self.paths.shim(id);
        let_go_of_mounts(&shim);
        match sampan_fs::remove_dir_all(&shim) {
            Err(error) if error.kind() != sampan_fs::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Kills whatever is in the cgroup of a container that nobody knows any more and removes it.
    /// Blocks.
    pub(crate) fn remove_cgroup(&self, id: &str) -> Result<()> {
        self.remove_cgroup_at(&format!("{}/{id}", self.networks.names().instance()))
    }

    pub(crate) fn remove_cgroup_at(&self, path: &str) -> Result<()> {
        let failed =
            |error: sampan_cgroups::Error| crate::Error::because("remove a control group", &error);
        let path: CgroupPath = path.parse().map_err(failed)?;
        let Ok(cgroup) = Cgroup::open(&self.host.hierarchies, &path) else {
            return Ok(());
        };
        let killed = cgroup.kill_all().map_err(failed);
        killed.and(cgroup.delete().map_err(failed))
    }

    /// Kills a container that should not run any longer and waits for its end.
    pub(crate) async fn kill_now(&self, container: &Arc<Container>) {
        let Some(ended) = container.watch_end() else {
            return;
        };
        if let Some(shim) = container.shim() {
            let kill = Request::Signal {
                signal: signal::KILL,
                all: true,
                last: true,
            };
            if let Err(error) = shim.tell(kill, Vec::new()).await {
                tracing::debug!(container = %container.id, error = error.message(), "could not kill");
            }
        }
        let _ = tokio::time::timeout(RELEASE, ended).await;
    }
}

impl From<&Exit> for Ended {
    fn from(exit: &Exit) -> Self {
        Self {
            code: exit.code,
            oom_killed: exit.oom_killed,
            started_at: exit.started_at.parse().ok(),
            finished_at: exit
                .finished_at
                .parse()
                .ok()
                .or_else(|| Some(Timestamp::now())),
            error: exit.error.clone(),
        }
    }
}

/// Takes away what may be mounted in a shim's directory: its root and its init, where the shim had to
/// attach them, parts of volumes and images, and memory that others may share. Blocks.
pub(crate) fn let_go_of_mounts(shim: &std::path::Path) {
    super::inner_mount::detach_all(shim);
    for name in [
        sampan_shim_protocol::ROOT_DIRECTORY,
        sampan_shim_protocol::INIT_FILE,
        super::join::SHARED_MEMORY,
    ] {
        detach(&shim.join(name));
    }
}

/// Takes away all that is mounted at a place, which may be nothing. Blocks.
pub(super) fn detach(place: &std::path::Path) {
    use rustix::mount::{UnmountFlags, unmount};
    // Several lie on each other where a start was tried again before the last one was taken back.
    while unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
}

/// The end of a run that nobody saw.
pub(crate) fn lost(record: &Record) -> Ended {
    Ended {
        code: LOST,
        oom_killed: false,
        started_at: match record.lifecycle.run() {
            Some(run) => Some(run.started_at),
            None => record.lifecycle.last().and_then(|last| last.started_at),
        },
        finished_at: Some(Timestamp::now()),
        error: None,
    }
}
