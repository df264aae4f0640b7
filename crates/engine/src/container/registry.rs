//! The containers there are, for everybody to look at.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sampan_oci::runtime::Mount;
use sampan_shim_protocol::AttachSpec;
use sampan_state::{Store, Sync};
use tokio::sync::{Mutex as OperationMutex, OwnedMutexGuard, oneshot, watch};

use super::id::{ContainerId, ContainerName, ExecId};
use super::lifecycle::{Change, Lifecycle};
use super::record::Record;
use super::request::{ExecConfig, Wait, WaitCondition, WaitOutcome};
use super::slots::Slot;
use super::view::{ExecState, NetworkState};
use crate::shim::Shim;
use crate::{Error, ErrorKind, OPERATION_DEADLINE, Result, signal};

/// Execs that a container remembers.
const REMEMBERED: usize = 1024;
/// How long an exec that nobody starts is remembered when there are many.
const UNSTARTED: Duration = Duration::from_secs(60);

/// The containers there are. A cheap clone; reads never wait for operations.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    index: RwLock<Index>,
    store: Store<Record>,
}

#[derive(Debug, Default)]
struct Index {
    containers: BTreeMap<ContainerId, Arc<Container>>,
    names: HashMap<ContainerName, ContainerId>,
}

/// One container: its published record and what of it is alive.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    /// Held by the operation that is under way.
    operation: Arc<OperationMutex<()>>,
    /// Replaced as a whole; whoever has read it keeps what it was.
    published: RwLock<Arc<Record>>,
    /// Orders writers of the record.
    writing: Mutex<()>,
    live: Mutex<Live>,
    /// Whether the start of the present run has been told.
    started: watch::Sender<bool>,
}

/// What of a container is alive and never stored.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) shim: Option<Shim>,
    /// Clients that attached before the start.
    pub(crate) waiting_clients: Vec<(AttachSpec, OwnedFd)>,
    pub(crate) execs: BTreeMap<ExecId, Exec>,
    waiters: Vec<(WaitCondition, oneshot::Sender<WaitOutcome>)>,
    /// Told when an end has been dealt with.
    end_watchers: Vec<oneshot::Sender<()>>,
    /// Readers of the log who are told of the end.
    pub(crate) followers: Vec<sampan_logs::FollowControl>,
    /// What was made for its start before it was created.
    pub(crate) slot: Option<Slot>,
    /// What no record may tell of.
    pub(crate) private: Private,
    /// What a start has connected and a failure takes back.
    pub(crate) connected: Option<NetworkState>,
    /// A restart is under way: the end does not remove the container.
    pub(crate) restarting: bool,
    /// The container is gone; nobody may wait for it any more.
    gone: bool,
}

/// What a start takes that is written down nowhere.
#[derive(Default)]
pub(crate) struct Private {
    /// Mounts, and what is bound where they have no source.
    pub(crate) mounts: Vec<(Mount, Option<OwnedFd>)>,
    /// `NAME=value`.
    pub(crate) environment: Vec<String>,
}

impl std::fmt::Debug for Private {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Private")
            .field("mounts", &self.mounts)
            .finish_non_exhaustive()
    }
}

/// An exec.
#[derive(Debug, Clone)]
pub(crate) struct Exec {
    pub(crate) config: Arc<ExecConfig>,
    state: ExecState,
    /// When its state changed.
    changed: Instant,
}

impl Exec {
    pub(crate) fn new(config: Arc<ExecConfig>, state: ExecState) -> Self {
        Self {
            config,
            state,
            changed: Instant::now(),
        }
    }

    pub(crate) fn state(&self) -> ExecState {
        self.state
    }

    pub(crate) fn change(&mut self, state: ExecState) {
        self.state = state;
        self.changed = Instant::now();
    }

    /// Whether nobody will miss it: it has ended, or was made long ago and never started.
    fn may_go(&self) -> bool {
        match self.state {
            ExecState::Exited { .. } => true,
            ExecState::Created => self.changed.elapsed() > UNSTARTED,
            ExecState::Starting | ExecState::Running { .. } => false,
        }
    }
}

impl Live {
    /// Notes that every exec has ended with its container.
    pub(crate) fn end_execs(&mut self) {
        for exec in self.execs.values_mut() {
            if let ExecState::Running { pid } = exec.state() {
                exec.change(ExecState::Exited {
                    pid,
                    code: 128 + signal::KILL,
                });
            }
        }
    }

    /// Remembers one more exec, for which older ones may have to go. False when all of them run.
    pub(crate) fn remember(&mut self, id: ExecId, exec: Exec) -> bool {
        if self.execs.len() >= REMEMBERED {
            let idle = self.execs.iter().filter(|(_, exec)| exec.may_go());
            let mut idle: Vec<_> = idle.map(|(id, exec)| (exec.changed, id.clone())).collect();
            // Those that ended last are about to be asked for their exit codes.
            idle.sort_unstable();
            for (_, id) in idle.iter().take(REMEMBERED / 2) {
                self.execs.remove(id);
            }
        }
        let room = self.execs.len() < REMEMBERED;
        if room {
            self.execs.insert(id, exec);
        }
        room
    }
}

impl Registry {
    /// Takes over the records of a store.
    pub(crate) fn new(store: Store<Record>) -> Self {
        let mut index = Index::default();
        for (_, record) in store.iter() {
            index.names.insert(record.name.clone(), record.id.clone());
            index
                .containers
                .insert(record.id.clone(), Container::new(record));
        }
        Self {
            shared: Arc::new(Shared {
                index: RwLock::new(index),
                store,
            }),
        }
    }

    pub(crate) fn store(&self) -> &Store<Record> {
        &self.shared.store
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Index> {
        self.shared
            .index
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Index> {
        self.shared
            .index
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.read().containers.values().cloned().collect()
    }

    pub(crate) fn records(&self) -> Vec<Arc<Record>> {
        self.read()
            .containers
            .values()
            .map(|container| container.record())
            .collect()
    }

    /// Finds a container by its full identity, its name, or a prefix that only one has.
    pub(crate) fn find(&self, text: &str) -> Result<Arc<Container>> {
        let index = self.read();
        if let Ok(id) = text.parse::<ContainerId>()
            && let Some(container) = index.containers.get(&id)
        {
            return Ok(container.clone());
        }
        if let Ok(name) = text.parse::<ContainerName>()
            && let Some(container) = index
                .names
                .get(&name)
                .and_then(|id| index.containers.get(id))
        {
            return Ok(container.clone());
        }
        let missing = || Error::not_found(format!("No such container: {text}"));
        if text.is_empty()
            || text.len() > 64
            || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Err(missing());
        }
        let mut found = index
            .containers
            .iter()
            .filter(|(id, _)| id.as_str().starts_with(text));
        match (found.next(), found.next()) {
            (Some((_, container)), None) => Ok(container.clone()),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "multiple IDs found with provided prefix: {text}"
            ))),
            (None, _) => Err(missing()),
        }
    }

    /// Takes a name for a container to come, so that no other takes it meanwhile.
    pub(crate) fn reserve(&self, name: &ContainerName, id: &ContainerId) -> Result<()> {
        let mut index = self.write();
        if let Some(other) = index.names.get(name) {
            return Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{other}\". You have to \
                 remove (or rename) that container to be able to reuse that name."
            )));
        }
        index.names.insert(name.clone(), id.clone());
        Ok(())
    }

    pub(crate) fn is_reserved(&self, name: &ContainerName) -> bool {
        self.read().names.contains_key(name)
    }

    /// Gives a name back that `id` has.
    pub(crate) fn release(&self, name: &ContainerName, id: &ContainerId) {
        let mut index = self.write();
        if index.names.get(name) == Some(id) {
            index.names.remove(name);
        }
    }

    /// Stores a new container and shows it. Its name has been reserved. Blocks.
    pub(crate) fn insert(&self, record: Record, sync: Sync) -> Result<Arc<Container>> {
        self.shared.store.put(record.id.as_str(), &record, sync)?;
        let container = Container::new(Arc::new(record));
        self.write()
            .containers
            .insert(container.id.clone(), container.clone());
        Ok(container)
    }

    /// Forgets a container: nobody finds it any more. Its record has been removed.
    pub(crate) fn forget(&self, container: &Container) {
        let name = container.record().name.clone();
        {
            let mut index = self.write();
            index.containers.remove(&container.id);
            if index.names.get(&name) == Some(&container.id) {
                index.names.remove(&name);
            }
        }
        let outcome = container.outcome();
        let mut live = container.live();
        live.gone = true;
        live.waiting_clients.clear();
        for (_, waiter) in live.waiters.drain(..) {
            // The waiter went away.
            let _ = waiter.send(outcome.clone());
        }
    }

    /// Changes a record: decides on the newest state, stores, publishes. Blocks for the disk.
    /// `None` from `change` leaves all as it is.
    pub(crate) fn update(
        &self,
        container: &Container,
        sync: Sync,
        change: impl FnOnce(&Record) -> Option<Record>,
    ) -> Result<Arc<Record>> {
        let _writing = container
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let old = container.record();
        let Some(new) = change(&old) else {
            return Ok(old);
        };
        let new = Arc::new(new);
        // Shown even when it cannot be stored: it is what is the case.
        let stored = if container.is_gone() {
            Ok(())
        } else {
            self.shared.store.put(container.id.as_str(), &new, sync)
        };
        container.publish(new.clone());
        stored?;
        Ok(new)
    }

    /// As [`Registry::update`], in memory only: for what the next engine finds out by itself.
    pub(crate) fn show(
        &self,
        container: &Container,
        change: impl FnOnce(&Record) -> Option<Record>,
    ) -> Arc<Record> {
        let _writing = container
            .writing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let old = container.record();
        match change(&old) {
            None => old,
            Some(new) => {
                let new = Arc::new(new);
                container.publish(new.clone());
                new
            }
        }
    }

    /// As [`Registry::update`], on a thread that may block.
    pub(crate) async fn update_async(
        &self,
        container: &Arc<Container>,
        sync: Sync,
        change: impl FnOnce(&Record) -> Option<Record> + Send + 'static,
    ) -> Result<Arc<Record>> {
        let (registry, container) = (self.clone(), container.clone());
        crate::blocking(move || registry.update(&container, sync, change)).await
    }

    /// Moves a container on in its life. An impossible change is a conflict.
    pub(crate) async fn apply(
        &self,
        container: &Arc<Container>,
        sync: Sync,
        change: Change,
    ) -> Result<Arc<Record>> {
        let registry = self.clone();
        let container = container.clone();
        crate::blocking(move || {
            let mut refused = None;
            let record = registry.update(&container, sync, |record| {
                let Some(lifecycle) = record.lifecycle.after(change.clone()) else {
                    refused = Some(record.lifecycle.status());
                    return None;
                };
                Some(Record {
                    lifecycle,
                    ..record.clone()
                })
            })?;
            match refused {
                None => Ok(record),
                Some(status) => Err(Error::conflict(format!(
                    "container {} is {}",
                    container.id,
                    status.as_str()
                ))),
            }
        })
        .await
    }
}

impl Container {
    fn new(record: Arc<Record>) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            operation: Arc::default(),
            published: RwLock::new(record),
            writing: Mutex::default(),
            live: Mutex::default(),
            started: watch::Sender::new(false),
        })
    }

    /// Returns the newest record.
    pub(crate) fn record(&self) -> Arc<Record> {
        self.published
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn publish(&self, record: Arc<Record>) {
        *self
            .published
            .write()
            .unwrap_or_else(PoisonError::into_inner) = record;
    }

    /// What is alive. Held for moments only, never across a wait.
    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.live().gone
    }

    /// Waits for the operation that is under way.
    pub(crate) async fn operate(&self) -> Result<OwnedMutexGuard<()>> {
        let guard = tokio::time::timeout(OPERATION_DEADLINE, self.operation.clone().lock_owned())
            .await
            .map_err(|_| {
                Error::new(
                    ErrorKind::Unavailable,
                    format!(
                        "another operation on container {} is taking too long",
                        self.id
                    ),
                )
            })?;
        if self.is_gone() {
            return Err(Error::not_found(format!("No such container: {}", self.id)));
        }
        Ok(guard)
    }

    /// Returns the shim, where the container has one.
    pub(crate) fn shim(&self) -> Option<Shim> {
        self.live().shim.clone()
    }

    /// Holds back what follows from a start until [`Container::go`].
    pub(crate) fn hold(&self) {
        self.started.send_replace(false);
    }

    /// The start has been told.
    pub(crate) fn go(&self) {
        self.started.send_replace(true);
    }

    /// Waits for [`Container::go`].
    pub(crate) async fn wait_go(&self) {
        // The sender lives in this very container.
        let _ = self.started.subscribe().wait_for(|started| *started).await;
    }

    /// Registers a wait.
    pub(crate) fn wait(&self, condition: WaitCondition) -> Wait {
        let (sender, outcome) = oneshot::channel();
        // Looked at under the lock, so that no end slips through between the two.
        let mut live = self.live();
        let ended = !self.record().lifecycle.is_running();
        let met = live.gone || (condition == WaitCondition::NotRunning && ended);
        if met {
            // Received from the other end, which is right here.
            let _ = sender.send(self.outcome());
        } else {
            live.waiters.retain(|(_, waiter)| !waiter.is_closed());
            live.waiters.push((condition, sender));
        }
        drop(live);
        Wait { outcome }
    }

    /// Tells those who wait for an end of a run. The record shows it already.
    pub(crate) fn tell_end(&self) {
        let outcome = self.outcome();
        let mut live = self.live();
        let (met, rest): (Vec<_>, Vec<_>) = live
            .waiters
            .drain(..)
            .partition(|(condition, _)| *condition != WaitCondition::Removed);
        live.waiters = rest;
        drop(live);
        for (_, waiter) in met {
            // The waiter went away.
            let _ = waiter.send(outcome.clone());
        }
    }

    /// Returns a receiver that hears when the end of the present run has been dealt with: its
    /// network is gone and its ports are free. `None` when nothing runs.
    pub(crate) fn watch_end(&self) -> Option<oneshot::Receiver<()>> {
        let mut live = self.live();
        live.shim.as_ref()?;
        let (sender, receiver) = oneshot::channel();
        live.end_watchers.push(sender);
        Some(receiver)
    }

    /// Forgets the shim and tells those who watch for the end.
    pub(crate) fn settle_end(&self) {
        let watchers = {
            let mut live = self.live();
            live.shim = None;
            std::mem::take(&mut live.end_watchers)
        };
        for watcher in watchers {
            // The watcher went away.
            let _ = watcher.send(());
        }
    }

    fn outcome(&self) -> WaitOutcome {
        let record = self.record();
        let last = record.lifecycle.last();
        WaitOutcome {
            code: last.map_or(0, |ended| ended.code),
            error: None,
        }
    }
}

impl Record {
    /// Returns the record in another state.
    pub(crate) fn with(&self, lifecycle: Lifecycle) -> Self {
        Self {
            lifecycle,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(state: ExecState) -> Exec {
        Exec::new(Arc::new(ExecConfig::default()), state)
    }

    #[test]
    fn many_execs_push_out_the_oldest_that_have_ended() {
        let mut live = Live::default();
        let ended = ExecState::Exited { pid: 1, code: 0 };
        let running = ExecId::random();
        assert!(live.remember(running.clone(), exec(ExecState::Running { pid: 1 })));
        let ids: Vec<ExecId> = (0..5 * REMEMBERED).map(|_| ExecId::random()).collect();
        for id in &ids {
            assert!(live.remember(id.clone(), exec(ended)));
        }
        assert!(live.execs.len() <= REMEMBERED);
        assert!(live.execs.contains_key(&running));
        let latest = &ids[ids.len() - REMEMBERED / 4..];
        assert!(latest.iter().all(|id| live.execs.contains_key(id)));
    }

    #[test]
    fn execs_that_nobody_starts_go_after_a_while() {
        let mut live = Live::default();
        while live.remember(ExecId::random(), exec(ExecState::Created)) {}
        assert_eq!(live.execs.len(), REMEMBERED);
        for exec in live.execs.values_mut() {
            exec.changed -= 2 * UNSTARTED;
        }
        assert!(live.remember(ExecId::random(), exec(ExecState::Created)));
    }
}
