//! Starts prepared ahead: what of a container does not depend on what will run in it.
//!
//! A [`Slot`] is an identity that no container has yet, with a supervisor that waits, control
//! groups and a place in the default network. A create takes one, and its identity with it; the
//! start then has less to do. Without one everything is made at the start: slots change when
//! things are made, never what is made.
//!
//! [`Slots`] keeps some of them ready while containers are being started, refills itself between
//! the starts, and keeps none in an engine that rests.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use sampan_shim_protocol::Preparation;
use tokio::sync::Notify;

use super::id::ContainerId;
use super::registry::Container;
use super::service::Inner;
use super::spec;
use crate::network::Place;
use crate::shim::{LifeLock, Spawned};
use crate::{Result, blocking};

/// Slots kept ready at most, unless the engine is told otherwise.
pub const WARM_SLOTS: usize = 20;
/// Slots kept ready at first; twice as many after each time that there were too few.
const FIRST: usize = 4;
/// How long after the last start none are kept.
const IDLE: Duration = Duration::from_secs(60);
/// How long nothing must have been under way before slots are made: who starts containers one after
/// the other does not wait for it.
const QUIET: Duration = Duration::from_millis(8);
/// How long a container that has a slot may wait for its start.
const UNSTARTED: Duration = Duration::from_secs(5);
/// The share of the host's memory that must be available for slots to be kept: one of so many parts.
const MEMORY_SHARE: u64 = 16;

/// What is ready for a container to come. Dropping it takes everything back, which blocks.
#[derive(Debug)]
pub(crate) struct Slot {
    id: ContainerId,
    /// Until they are taken.
    parts: Option<Parts>,
    inner: Weak<Inner>,
}

/// What a start finds made.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) spawned: Spawned,
    pub(crate) lock: LifeLock,
    pub(crate) place: Place,
}

impl Slot {
    /// The identity of the container that takes it.
    pub(crate) fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Hands its parts on, to be taken back as those of any start.
    pub(crate) fn into_parts(mut self) -> Option<Parts> {
        self.parts.take()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Some(parts) = self.parts.take() else {
            return;
        };
        drop(parts);
        if let Some(inner) = self.inner.upgrade()
            && let Err(error) = inner.clear_slot(&self.id)
        {
            tracing::warn!(
                id = self.id.as_str(),
                error = error.message(),
                "could not take a prepared start back"
            );
        }
    }
}

/// The slots of an engine. A cheap clone.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    ready: VecDeque<Slot>,
    policy: Policy,
    /// Containers that have a slot, and since when.
    given: VecDeque<(Instant, Weak<Container>)>,
    ended: bool,
}

/// Something under way for which nobody should have to wait because of slots.
#[derive(Debug)]
pub(crate) struct Busy {
    shared: Arc<Shared>,
}

impl Slots {
    /// Slots of which at most `most` are kept ready.
    pub(crate) fn new(most: usize) -> Self {
        let state = State {
            ready: VecDeque::new(),
            policy: Policy::new(most),
            given: VecDeque::new(),
            ended: false,
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                changed: Notify::new(),
            }),
        }
    }

    /// Takes a slot, if there is one, for a container with the linked runtime, the host's users,
    /// the usual control group and a usual place in the default network.
    pub(crate) fn take(&self) -> Option<Slot> {
        let mut state = self.shared.lock();
        let slot = state.ready.pop_front();
        state.policy.taken(slot.is_some(), Instant::now());
        slot
    }

    /// Gives a container its slot, which it loses again if it is not started.
    pub(crate) fn give(&self, slot: Slot, container: &Arc<Container>) {
        container.live().slot = Some(slot);
        let mut state = self.shared.lock();
        state
            .given
            .push_back((Instant::now(), Arc::downgrade(container)));
    }

    /// Notes that something is under way, until what is returned is dropped.
    pub(crate) fn busy(&self) -> Busy {
        self.shared.lock().policy.busy += 1;
        Busy {
            shared: self.shared.clone(),
        }
    }

    /// How many are ready.
    pub(crate) fn ready(&self) -> usize {
        self.shared.lock().ready.len()
    }

    /// Makes no more, and gives all back: those that are ready, and those of containers that have
    /// not been started.
    pub(crate) fn end(&self) -> Vec<Slot> {
        let mut state = self.shared.lock();
        state.ended = true;
        self.shared.changed.notify_one();
        let ready: Vec<Slot> = state.ready.drain(..).collect();
        let given: Vec<_> = state.given.drain(..).collect();
        drop(state);
        let given = given
            .into_iter()
            .filter_map(|(_, container)| container.upgrade()?.live().slot.take());
        ready.into_iter().chain(given).collect()
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.policy.busy -= 1;
        if state.policy.busy == 0 {
            state.policy.last_work = Some(Instant::now());
            self.shared.changed.notify_one();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many slots there should be, and when they are made: pure.
#[derive(Debug)]
struct Policy {
    most: usize,
    goal: usize,
    /// Operations under way.
    busy: usize,
    last_taken: Option<Instant>,
    last_work: Option<Instant>,
}

/// What is to be done about the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Make,
    Empty,
    /// Nothing, until then or until something happens.
    Wait(Option<Instant>),
}

impl Policy {
    fn new(most: usize) -> Self {
        Self {
            most,
            goal: 0,
            busy: 0,
            last_taken: None,
            last_work: None,
        }
    }

    /// Notes that somebody wanted a slot.
    fn taken(&mut self, had_one: bool, now: Instant) {
        let rested = self.last_taken.is_none_or(|taken| now >= taken + IDLE);
        let goal = if rested { 0 } else { self.goal };
        self.goal = match (goal, had_one) {
            (0, _) => FIRST,
            (goal, true) => goal,
            (goal, false) => goal * 2,
        }
        .min(self.most);
        self.last_taken = Some(now);
    }

    /// Notes that slots cannot be had for now.
    fn give_up(&mut self) {
        self.goal = 0;
    }

    fn step(&self, ready: usize, now: Instant) -> Step {
        let idle_at = self.last_taken.map(|taken| taken + IDLE);
        if self.goal == 0 || idle_at.is_none_or(|at| now >= at) {
            return match ready {
                0 => Step::Wait(None),
                _ => Step::Empty,
            };
        }
        if ready >= self.goal {
            return Step::Wait(idle_at);
        }
        match self.last_work.map(|work| work + QUIET) {
            // Its end is told.
            _ if self.busy > 0 => Step::Wait(None),
            Some(quiet) if now < quiet => Step::Wait(Some(quiet)),
            _ => Step::Make,
        }
    }
}

impl Inner {
    /// Keeps slots ready until the engine ends.
    pub(crate) async fn keep_slots(inner: Weak<Self>) {
        loop {
            let Some(this) = inner.upgrade() else { return };
            let slots = this.slots.clone();
            let now = Instant::now();
            let (step, late) = {
                let mut state = slots.shared.lock();
                if state.ended {
                    return;
                }
                let ready = state.ready.len();
                (state.policy.step(ready, now), state.late(now))
            };
            take_back(late).await;
            match step {
                Step::Make => {
                    if let Err(error) = this.add_slot().await {
                        // Whoever starts next meets the same and tells it.
                        tracing::debug!(error = error.message(), "could not prepare a start");
                        slots.shared.lock().policy.give_up();
                    }
                }
                Step::Empty => {
                    let surplus = slots.shared.lock().ready.drain(..).collect();
                    take_back(surplus).await;
                }
                Step::Wait(until) => {
                    // An engine that ends is not kept by who waits for work.
                    drop(this);
                    let next_late = slots.shared.lock().next_late();
                    let changed = slots.shared.changed.notified();
                    match until.into_iter().chain(next_late).min() {
                        None => changed.await,
                        Some(at) => {
                            let _ = tokio::time::timeout_at(at.into(), changed).await;
                        }
                    }
                }
            }
        }
    }

    async fn add_slot(self: &Arc<Self>) -> Result<()> {
        let inner = self.clone();
        let made = blocking(move || {
            if is_memory_short(Path::new("/proc/meminfo")) {
                return Ok(None);
            }
            inner.make_slot().map(Some)
        });
        let Some(mut slot) = made.await? else {
            self.slots.shared.lock().policy.give_up();
            return Ok(());
        };
        if let Err(error) = self.prepare_shim(&mut slot).await {
            take_back(vec![slot]).await;
            return Err(error);
        }
        let surplus = {
            let mut state = self.slots.shared.lock();
            if state.ended {
                vec![slot]
            } else {
                state.ready.push_back(slot);
                Vec::new()
            }
        };
        take_back(surplus).await;
        Ok(())
    }

    /// Makes a slot but for what its shim does. Blocks.
    fn make_slot(self: &Arc<Self>) -> Result<Slot> {
        let mut slot = Slot {
            id: ContainerId::random(),
            parts: None,
            inner: Arc::downgrade(self),
        };
        let groups = self.next_control_groups("", &slot.id)?;
        let (spawned, lock) = self.spawn_shim(&slot.id, &groups)?;
        match self.networks.place() {
            Ok(place) => {
                slot.parts = Some(Parts {
                    spawned,
                    lock,
                    place,
                });
            }
            Err(error) => {
                drop(spawned);
                // What failed first is the error that explains.
                let _ = self.clear_slot(&slot.id);
                return Err(error);
            }
        }
        Ok(slot)
    }

    async fn prepare_shim(&self, slot: &mut Slot) -> Result<()> {
        let groups = self.next_control_groups("", &slot.id)?;
        let preparation = Preparation {
            cgroup: groups.container(),
            shim_cgroup: groups.shim(),
            resources: spec::usual_limits(),
        };
        match &mut slot.parts {
            Some(parts) => parts.spawned.prepare(preparation).await,
            None => Ok(()),
        }
    }
}

/// Takes slots back on a thread that may block.
pub(crate) async fn take_back(slots: Vec<Slot>) {
    if slots.is_empty() {
        return;
    }
    let taken = blocking(move || {
        drop(slots);
        Ok(())
    });
    // It only fails when the runtime ends.
    let _ = taken.await;
}

impl State {
    /// Takes slots from containers that have had theirs for long.
    fn late(&mut self, now: Instant) -> Vec<Slot> {
        let mut late = Vec::new();
        while let Some((since, _)) = self.given.front()
            && now >= *since + UNSTARTED
            && let Some((_, container)) = self.given.pop_front()
            && let Some(container) = container.upgrade()
        {
            late.extend(container.live().slot.take());
        }
        late
    }

    fn next_late(&self) -> Option<Instant> {
        self.given.front().map(|(since, _)| *since + UNSTARTED)
    }
}

/// Whether the host's memory is better left to others; a host that does not say is not.
fn is_memory_short(meminfo: &Path) -> bool {
    let text = std::fs::read_to_string(meminfo).unwrap_or_default();
    let kib = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    match (kib("MemAvailable:"), kib("MemTotal:")) {
        (Some(available), Some(total)) => available < total / MEMORY_SHARE,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_made_between_starts_and_go_when_nobody_starts() {
        let start = Instant::now();
        let mut policy = Policy::new(WARM_SLOTS);
        assert_eq!(
            policy.step(0, start),
            Step::Wait(None),
            "nobody has started"
        );
        policy.busy = 1;
        policy.taken(false, start);
        assert_eq!(
            policy.step(0, start),
            Step::Wait(None),
            "a start is under way"
        );
        policy.busy = 0;
        policy.last_work = Some(start);
        assert_eq!(policy.step(0, start), Step::Wait(Some(start + QUIET)));
        assert_eq!(policy.step(0, start + QUIET), Step::Make);
        assert_eq!(policy.step(FIRST - 1, start + QUIET), Step::Make);
        assert_eq!(
            policy.step(FIRST, start + QUIET),
            Step::Wait(Some(start + IDLE))
        );
        assert_eq!(policy.step(FIRST, start + IDLE), Step::Empty);
        assert_eq!(policy.step(0, start + IDLE), Step::Wait(None));
    }

    #[test]
    fn there_are_more_where_there_were_too_few_and_never_too_many() {
        let now = Instant::now();
        let mut policy = Policy::new(10);
        policy.taken(false, now);
        assert_eq!(policy.goal, FIRST);
        policy.taken(true, now);
        assert_eq!(policy.goal, FIRST);
        policy.taken(false, now);
        policy.taken(false, now);
        assert_eq!(policy.goal, 10);
        policy.taken(false, now + IDLE);
        assert_eq!(policy.goal, FIRST, "after a rest");
        policy.give_up();
        assert_eq!(policy.step(3, now), Step::Empty);
        let mut none = Policy::new(0);
        none.taken(false, now);
        assert_eq!(none.step(0, now), Step::Wait(None));
    }

    #[test]
    fn short_memory_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("meminfo");
        std::fs::write(
            &file,
            "MemTotal: 1600 kB\nMemFree: 1 kB\nMemAvailable: 99 kB\n",
        )
        .unwrap();
        assert!(is_memory_short(&file));
        std::fs::write(&file, "MemTotal: 1600 kB\nMemAvailable: 100 kB\n").unwrap();
        assert!(!is_memory_short(&file));
        assert!(!is_memory_short(&directory.path().join("none")));
    }
}
