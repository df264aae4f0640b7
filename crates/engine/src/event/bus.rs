//! Where events go: into the journal, then to the listeners.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jiff::Timestamp;
use sampan_state::{Journal, JournalReader};
use sampan_text::with_causes;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use super::told::AllTold;
use super::{Action, Event, EventKind, Mark, Told};
use crate::Result;

/// Bytes of a generation of the journal; two are kept. An event takes 300 to 500. The newest one is
/// read when the engine starts, which takes a few milliseconds.
const GENERATION: u64 = 512 << 10;
/// How far a listener may fall behind before it reads on in the journal.
const BACKLOG: usize = 1024;
/// Events of the past that are read at once.
const AT_ONCE: usize = 256;

/// An entry of the journal.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Entry {
    /// All that was told before, as far as it matters.
    Told { all: AllTold, last: Timestamp },
    /// Events that are told together or not at all.
    News {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mark: Option<Mark>,
        events: Vec<Event>,
    },
}

/// Tells events to listeners and keeps the last of them in a journal: half a mebibyte to
/// one, a thousand events at least. A cheap clone.
///
/// Each event has a later time than the one before, so that a listener that comes back asks for
/// what followed the last one it saw and gets each exactly once.
#[derive(Debug, Clone)]
pub struct EventBus {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    live: broadcast::Sender<Arc<Event>>,
}

#[derive(Debug)]
struct State {
    journal: Journal,
    told: AllTold,
    last: Timestamp,
    /// What is to be told at [`EventBus::release`].
    held: Option<Vec<(Option<Mark>, Vec<Event>)>>,
    /// Whether the last write failed, which is reported once.
    failing: bool,
}

impl EventBus {
    /// Opens the journal in `directory`. What is published is held back until
    /// [`EventBus::release`]. Blocks.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let journal = Journal::open(directory, GENERATION)?;
        let mut told = AllTold::default();
        let mut last = Timestamp::UNIX_EPOCH;
        let summary = journal.read_newest().next();
        let has_summary = summary
            .is_some_and(|entry| matches!(serde_json::from_slice(&entry), Ok(Entry::Told { .. })));
        let entries = if has_summary {
            journal.read_newest()
        } else {
            journal.read()
        };
        for entry in entries {
            match serde_json::from_slice(&entry) {
                Ok(Entry::Told { all, last: at }) => (told, last) = (all, at),
                Ok(Entry::News { mark, events }) => {
                    told.note(mark.as_ref(), &events);
                    last = events.last().map_or(last, |event| event.at);
                }
                Err(error) => tracing::warn!(%error, "skipped an entry of the events' journal"),
            }
        }
        Ok(Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    journal,
                    told,
                    last,
                    held: Some(Vec::new()),
                    failing: false,
                }),
                live: broadcast::Sender::new(BACKLOG),
            }),
        })
    }

    /// Whether there was no journal yet: nothing is known of what was told.
    pub(crate) fn is_new(&self) -> bool {
        self.lock().journal.is_new()
    }

    /// Returns what was told of a container; none when its creation was not.
    pub(crate) fn told(&self, container: &str) -> Option<Told> {
        self.lock().told.0.get(container).cloned()
    }

    /// Returns the containers whose creation was told and whose removal was not.
    pub(crate) fn told_containers(&self) -> Vec<String> {
        self.lock().told.0.keys().cloned().collect()
    }

    /// Takes a container as told of, without telling anything.
    pub(crate) fn assume(&self, container: &str, told: Told) {
        self.lock().told.0.insert(container.to_owned(), told);
    }

    /// Tells what was held back, in the order in which it happened, and from now on at once.
    pub(crate) fn release(&self) {
        let mut state = self.lock();
        let mut held = state.held.take().unwrap_or_default();
        held.sort_by_key(|(_, events)| events.first().map(|event| event.at));
        for (mark, events) in held {
            self.shared.tell(&mut state, mark, events);
        }
        // A generation begins with all that was told, hence not before the rest is in the journal.
        state.renew_when_full();
    }

    /// Tells an event that happens now.
    pub fn publish(
        &self,
        kind: EventKind,
        action: Action,
        actor: impl Into<String>,
        attributes: BTreeMap<String, String>,
    ) {
        self.publish_all(
            None,
            vec![Event {
                kind,
                action,
                actor: actor.into(),
                attributes,
                at: Timestamp::now(),
            }],
        );
    }

    /// Tells events together. Those of a container's run that have been told are left out; returns
    /// whether they were news. Blocks for the page cache only.
    pub(crate) fn publish_all(&self, mark: Option<Mark>, events: Vec<Event>) -> bool {
        let mut state = self.lock();
        if let Some(mark) = &mark
            && let Some(told) = state.told.0.get(&mark.container)
            && told.knows(mark)
        {
            return false;
        }
        state.told.note(mark.as_ref(), &events);
        if let Some(held) = &mut state.held {
            held.push((mark, events));
        } else {
            self.shared.tell(&mut state, mark, events);
            state.renew_when_full();
        }
        true
    }

    /// Starts to listen. Kept events at or after `since` come first.
    pub fn subscribe(&self, since: Option<Timestamp>) -> Subscription {
        // Both under the lock, so that a listener sees each event exactly once.
        let state = self.lock();
        Subscription {
            past: since.map(|since| Past::new(state.journal.read(), since)),
            kept: VecDeque::new(),
            live: self.shared.live.subscribe(),
            last: None,
            bus: Arc::downgrade(&self.shared),
        }
    }

    /// Returns the number of listeners.
    pub fn listeners(&self) -> usize {
        self.shared.live.receiver_count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, state: &mut State, mark: Option<Mark>, mut events: Vec<Event>) {
        for event in &mut events {
            event.at = state.next_time(event.at);
        }
        let news = Entry::News { mark, events };
        state.write(|journal| journal.append(&encode(&news)));
        let Entry::News { events, .. } = news else {
            return;
        };
        for event in events {
            // Nobody listens: nothing to do.
            let _ = self.live.send(Arc::new(event));
        }
    }
}

impl State {
    /// The time of an event that happened at `at` and is told now: after that of the one before,
    /// unless the clock was set back.
    fn next_time(&mut self, at: Timestamp) -> Timestamp {
        let was_set_back = self.last > Timestamp::now();
        if at <= self.last && !was_set_back {
            self.last += Duration::from_nanos(1);
        } else {
            self.last = at;
        }
        self.last
    }

    fn renew_when_full(&mut self) {
        if self.journal.is_full() {
            let all = Entry::Told {
                all: self.told.clone(),
                last: self.last,
            };
            self.write(|journal| journal.renew(&encode(&all)));
        }
    }

    /// Events are told even when they cannot be kept.
    fn write(&mut self, write: impl FnOnce(&mut Journal) -> sampan_state::Result<()>) {
        match write(&mut self.journal) {
            Ok(()) => self.failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    let error = with_causes(&error);
                    tracing::error!(
                        error,
                        "events cannot be kept and are lost at the next start"
                    );
                }
            }
        }
    }
}

fn encode(entry: &Entry) -> Vec<u8> {
    serde_json::to_vec(entry).expect("plain data with text keys is always JSON")
}

/// What is read of the journal for a listener.
#[derive(Debug)]
struct Past {
    entries: JournalReader,
    since: Timestamp,
}

impl Past {
    fn new(entries: JournalReader, since: Timestamp) -> Self {
        Self { entries, since }
    }

    /// Returns the next events, a handful at a time; none at the end. Blocks.
    fn read(&mut self) -> VecDeque<Arc<Event>> {
        let mut found = VecDeque::new();
        while found.len() < AT_ONCE
            && let Some(entry) = self.entries.next()
        {
            if let Ok(Entry::News { events, .. }) = serde_json::from_slice(&entry) {
                let wanted = events.into_iter().filter(|event| event.at >= self.since);
                found.extend(wanted.map(Arc::new));
            }
        }
        found
    }
}

/// A listener. Dropping it ends the listening.
#[derive(Debug)]
pub struct Subscription {
    /// Read before anything live.
    past: Option<Past>,
    kept: VecDeque<Arc<Event>>,
    live: broadcast::Receiver<Arc<Event>>,
    /// The time of the event that was returned last.
    last: Option<Timestamp>,
    bus: Weak<Shared>,
}

impl Subscription {
    /// Returns the next event without waiting for one: the kept ones, then those told meanwhile.
    /// May wait for the disk.
    pub fn try_next(&mut self) -> Option<Arc<Event>> {
        loop {
            if let Some(event) = self.kept.pop_front() {
                return Some(self.seen(event));
            }
            if let Some(past) = &mut self.past {
                self.kept = past.read();
                if self.kept.is_empty() {
                    self.past = None;
                }
                continue;
            }
            match self.live.try_recv() {
                Ok(event) => return Some(self.seen(event)),
                Err(broadcast::error::TryRecvError::Lagged(missed)) => self.fall_back(missed),
                Err(_) => return None,
            }
        }
    }

    /// Returns the next event; `None` when the engine ends. Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            if let Some(event) = self.kept.pop_front() {
                return Some(self.seen(event));
            }
            if self.past.is_some() {
                // Not on a thread of its own: what is read is a few hundred kilobytes that were
                // written lately.
                self.kept = self.past.as_mut().map(Past::read).unwrap_or_default();
                if self.kept.is_empty() {
                    self.past = None;
                }
                tokio::task::yield_now().await;
                continue;
            }
            match self.live.recv().await {
                Ok(event) => return Some(self.seen(event)),
                Err(broadcast::error::RecvError::Lagged(missed)) => self.fall_back(missed),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    fn seen(&mut self, event: Arc<Event>) -> Arc<Event> {
        self.last = Some(event.at);
        event
    }

    /// A listener that was too slow for what is kept in memory reads on in the journal.
    fn fall_back(&mut self, missed: u64) {
        let (Some(last), Some(shared)) = (self.last, self.bus.upgrade()) else {
            tracing::warn!(missed, "a listener was too slow for the events");
            return;
        };
        let state = shared.lock();
        self.live = shared.live.subscribe();
        self.past = Some(Past::new(
            state.journal.read(),
            last + Duration::from_nanos(1),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: Action, at: i64) -> Event {
        let attributes = BTreeMap::from([
            ("name".into(), "box".into()),
            ("image".into(), "busybox:latest".into()),
        ]);
        Event {
            kind: EventKind::Container,
            action,
            actor: "abc".into(),
            attributes,
            at: Timestamp::from_second(at).unwrap(),
        }
    }

    fn open(directory: &tempfile::TempDir) -> EventBus {
        let bus = EventBus::open(directory.path()).unwrap();
        bus.release();
        bus
    }

    fn seconds(listener: &mut Subscription) -> Vec<i64> {
        std::iter::from_fn(|| listener.try_next())
            .map(|e| e.at.as_second())
            .collect()
    }

    #[test]
    fn kept_events_come_first_and_each_once_also_after_a_new_start() {
        let directory = tempfile::tempdir().unwrap();
        let bus = open(&directory);
        for second in 1..300 {
            bus.publish_all(None, vec![event(Action::Die, second)]);
        }
        let since = Some(Timestamp::from_second(298).unwrap());
        let mut listener = bus.subscribe(since);
        bus.publish_all(None, vec![event(Action::Destroy, 300)]);
        assert_eq!(seconds(&mut listener), [298, 299, 300]);
        drop((bus, listener));
        let bus = open(&directory);
        assert_eq!(seconds(&mut bus.subscribe(since)), [298, 299, 300]);
        let all = seconds(&mut bus.subscribe(Some(Timestamp::UNIX_EPOCH)));
        assert_eq!(all, (1..=300).collect::<Vec<_>>());
        assert_eq!(seconds(&mut bus.subscribe(None)), [0; 0]);
    }

    #[test]
    fn times_only_grow() {
        let directory = tempfile::tempdir().unwrap();
        let bus = open(&directory);
        let mut listener = bus.subscribe(None);
        for second in [5, 5, 3, 9] {
            bus.publish_all(None, vec![event(Action::Die, second)]);
        }
        let times: Vec<_> = std::iter::from_fn(|| listener.try_next())
            .map(|e| e.at)
            .collect();
        assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
        assert_eq!(times[3], Timestamp::from_second(9).unwrap());
    }

    #[test]
    fn a_slow_listener_misses_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let bus = open(&directory);
        let mut listener = bus.subscribe(None);
        let many = BACKLOG as i64 * 3;
        bus.publish_all(None, vec![event(Action::Start, 1)]);
        assert!(listener.try_next().is_some());
        for second in 2..many {
            bus.publish_all(None, vec![event(Action::Die, second)]);
        }
        assert_eq!(seconds(&mut listener), (2..many).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_held_back_is_told_in_the_order_of_its_times() {
        let directory = tempfile::tempdir().unwrap();
        let bus = EventBus::open(directory.path()).unwrap();
        let mut listener = bus.subscribe(None);
        for second in [7, 3, 5] {
            bus.publish_all(None, vec![event(Action::Die, second)]);
        }
        assert_eq!(seconds(&mut listener), [0; 0]);
        bus.release();
        assert_eq!(seconds(&mut listener), [3, 5, 7]);
    }

    #[test]
    fn what_was_told_is_known_after_many_generations() {
        let directory = tempfile::tempdir().unwrap();
        let bus = open(&directory);
        let mark = |entry| Mark {
            container: "abc".into(),
            run: Timestamp::from_second(2).unwrap(),
            entry,
            end: false,
        };
        bus.publish_all(None, vec![event(Action::Create, 1)]);
        assert!(bus.publish_all(Some(mark(1)), vec![event(Action::Start, 2)]));
        for second in 3..15_000 {
            let mut other = event(Action::Die, second);
            other.actor = "other".into();
            bus.publish_all(None, vec![other]);
        }
        drop(bus);
        let bus = open(&directory);
        assert!(!bus.publish_all(Some(mark(1)), vec![event(Action::Start, 2)]));
        assert!(bus.publish_all(Some(mark(2)), vec![event(Action::Oom, 3)]));
        let size: u64 = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum();
        assert!(size < 3 * GENERATION, "{size}");
    }
}
