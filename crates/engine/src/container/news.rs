//! What is told of containers, and what of it nobody has told yet.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sampan_shim_protocol::{
    Exit, JOURNAL_FILE, JournalEntry, JournalEvent, OLD_JOURNAL_FILE, SHIM_DIRECTORY,
};

use super::lifecycle::{Ended, Lifecycle};
use super::mount::MountKind;
use super::record::Record;
use super::registry::Container;
use super::service::Inner;
use crate::event::{Mark, Told};
use crate::{Action, Event, EventKind};

/// The entry of a supervisor's journal that tells of the start of the run.
const START: u64 = 1;

impl Inner {
    /// Tells news of a container, with its image, name and labels.
    pub(crate) fn tell<const N: usize>(
        &self,
        record: &Record,
        action: Action,
        more: [(&str, String); N],
    ) {
        self.tell_at(record, action, more, Timestamp::now());
    }

    pub(crate) fn tell_at<const N: usize>(
        &self,
        record: &Record,
        action: Action,
        more: [(&str, String); N],
        at: Timestamp,
    ) {
        let event = event(record, action, more, at);
        self.events.publish_all(None, vec![event]);
    }

    /// Tells what the supervisor tells in entry `entry` of its journal of the present run.
    pub(crate) fn tell_run<const N: usize>(
        &self,
        record: &Record,
        entry: u64,
        action: Action,
        more: [(&str, String); N],
    ) {
        let event = event(record, action, more, Timestamp::now());
        self.events
            .publish_all(Self::mark_of(record, entry), vec![event]);
    }

    /// Tells what belongs to a health check, marked as [`Inner::tell_run`] does: at once, so that
    /// all of it is told or nothing.
    pub(crate) fn tell_probe(
        &self,
        record: &Record,
        mark: Option<Mark>,
        at: Timestamp,
        parts: Vec<(Action, Vec<(&'static str, String)>)>,
    ) {
        let events = parts.into_iter().map(|(action, more)| {
            let mut event = event(record, action, [], at);
            let more = more.into_iter().map(|(key, value)| (key.to_owned(), value));
            event.attributes.extend(more);
            event
        });
        self.events.publish_all(mark, events.collect());
    }

    /// The mark of an entry in the journal of the present run.
    pub(crate) fn mark_of(record: &Record, entry: u64) -> Option<Mark> {
        let run = record.lifecycle.run()?;
        Some(mark(record, run.started_at, entry))
    }

    /// Tells that a run began, with its network and volumes. Tells it once.
    pub(crate) fn tell_started(&self, record: &Record, run: Timestamp) {
        let mut events = self.network_events(record, &Action::Connect, run);
        for point in &record.mounts {
            if point.kind == MountKind::Volume {
                let (destination, writable) = (&point.destination, point.writable);
                events.push(crate::volume::mounted(
                    &point.name,
                    record.id.as_str(),
                    destination,
                    writable,
                    run,
                ));
            }
        }
        events.push(event(record, Action::Start, [], run));
        let mark = Mark {
            container: record.id.to_string(),
            run,
            entry: START,
            end: false,
        };
        self.events.publish_all(Some(mark), events);
    }

    /// Tells that the last run ended, at the time when it did. Tells it once.
    pub(crate) fn tell_ended(&self, record: &Record, ended: &Ended) {
        let at = ended.finished_at.unwrap_or_else(Timestamp::now);
        if let Some(run) = ended.started_at {
            self.tell_started(record, run);
        }
        let seconds = ended
            .started_at
            .map_or(0, |start| (at.as_second() - start.as_second()).max(0));
        let more = [
            ("exitCode", ended.code.to_string()),
            ("execDuration", seconds.to_string()),
        ];
        let mut events = vec![event(record, Action::Die, more, at)];
        events.extend(self.network_events(record, &Action::Disconnect, at));
        for point in &record.mounts {
            if point.kind == MountKind::Volume {
                let id = record.id.as_str();
                events.push(crate::volume::unmounted(&point.name, id, at));
            }
        }
        let mark = Mark {
            container: record.id.to_string(),
            run: ended.started_at.unwrap_or(at),
            entry: 0,
            end: true,
        };
        self.events.publish_all(Some(mark), events);
    }

    fn network_events(&self, record: &Record, action: &Action, at: Timestamp) -> Vec<Event> {
        let networks = record.network.endpoints.keys();
        networks
            .map(|network| Event {
                kind: EventKind::Network,
                action: action.clone(),
                actor: self.networks.id_of(network).to_string(),
                attributes: BTreeMap::from([
                    ("container".to_owned(), record.id.to_string()),
                    ("name".to_owned(), network.to_owned()),
                    (
                        "type".to_owned(),
                        if network == "none" { "null" } else { network }.to_owned(),
                    ),
                ]),
                at,
            })
            .collect()
    }

    /// Tells what happened to a container while no engine was there, or before the last one came
    /// to tell it: its creation, and what its supervisor's journal tells. Blocks.
    pub(crate) fn catch_up(&self, container: &Container) {
        let record = container.record();
        let told = self.events.told(record.id.as_str());
        let journal = self.read_journal(container);
        let last = match &record.lifecycle {
            Lifecycle::Exited(ended) => Some(ended),
            _ => None,
        };
        if told.is_none() && self.events.is_new() {
            // Who was there before there was a journal is no news, and that it runs is none.
            let known = last.and_then(|ended| ended.started_at);
            let run = run_of(&journal).or(known);
            let told = Told {
                attributes: attributes(&record),
                run,
                entry: START,
                ended: run == known,
                paused: matches!(record.lifecycle, Lifecycle::Paused(_)),
            };
            self.events.assume(record.id.as_str(), told);
        } else if told.is_none() {
            self.tell_at(&record, Action::Create, [], record.created);
        }
        self.tell_journal(&record, &journal);
        if let Some(ended) = last.filter(|ended| ended.started_at.is_some()) {
            self.tell_ended(&record, ended);
        }
    }

    /// Whether everything is told of a container that does not run.
    pub(crate) fn is_all_told(&self, record: &Record) -> bool {
        let Some(told) = self.events.told(record.id.as_str()) else {
            return false;
        };
        match &record.lifecycle {
            Lifecycle::Created { .. } => told.run.is_none() || told.ended,
            Lifecycle::Exited(last) => told.run == last.started_at && told.ended,
            Lifecycle::Running(_)
            | Lifecycle::Paused(_)
            | Lifecycle::Restarting(_)
            | Lifecycle::Removing { .. }
            | Lifecycle::Dead { .. } => false,
        }
    }

    fn tell_journal(&self, record: &Record, entries: &[JournalEntry]) {
        let Some(first) = entries.iter().find_map(start_of) else {
            return;
        };
        let mut run = first;
        for entry in entries {
            let at = entry.at.parse().unwrap_or_else(|_| Timestamp::now());
            let event = match &entry.event {
                JournalEvent::Started { .. } => {
                    run = start_of(entry).unwrap_or(run);
                    self.tell_started(record, run);
                    continue;
                }
                JournalEvent::Exited { exit } => {
                    self.tell_ended(record, &Ended::from(exit));
                    continue;
                }
                JournalEvent::Restarting { exit, .. } => {
                    self.tell_ended(record, &Ended::from(exit));
                    continue;
                }
                JournalEvent::ProbeStarted { id } => {
                    let mark = mark(record, run, entry.number);
                    self.tell_probe_started(record, Some(mark), at, id);
                    continue;
                }
                JournalEvent::ProbeEnded {
                    id,
                    exit_code,
                    changed,
                } => {
                    let mark = mark(record, run, entry.number);
                    self.tell_probe_ended(record, Some(mark), at, id, (*exit_code, *changed));
                    continue;
                }
                JournalEvent::Oom => event(record, Action::Oom, [], at),
                JournalEvent::ExecExited { id, exit_code } => {
                    let more = [("exitCode", exit_code.to_string()), ("execID", id.clone())];
                    event(record, Action::ExecDie, more, at)
                }
                JournalEvent::Detached { exec: None } => event(record, Action::Detach, [], at),
                JournalEvent::Detached { exec: Some(exec) } => {
                    event(record, Action::ExecDetach, [("execID", exec.clone())], at)
                }
                JournalEvent::LogFailed { .. }
                | JournalEvent::Strays { .. }
                | JournalEvent::Other => continue,
            };
            let mark = mark(record, run, entry.number);
            self.events.publish_all(Some(mark), vec![event]);
        }
    }

    /// Tells of a freeze or a thaw that nobody came to tell.
    pub(crate) fn tell_freezing(&self, record: &Record) {
        let Some(told) = self.events.told(record.id.as_str()) else {
            return;
        };
        match (&record.lifecycle, told.paused) {
            (Lifecycle::Paused(_), false) => self.tell(record, Action::Pause, []),
            (Lifecycle::Running(_), true) => self.tell(record, Action::Unpause, []),
            _ => {}
        }
    }

    /// Tells of the removal of containers that are gone, which nobody came to tell.
    pub(crate) fn tell_vanished(&self, is_known: impl Fn(&str) -> bool) {
        for id in self.events.told_containers() {
            if is_known(&id) {
                continue;
            }
            let told = self.events.told(&id).unwrap_or_default();
            self.events
                .publish(EventKind::Container, Action::Destroy, id, told.attributes);
        }
    }

    /// Reads the supervisor's journal of the newest run, as far as it is whole. Blocks.
    pub(crate) fn read_journal(&self, container: &Container) -> Vec<JournalEntry> {
        let directory = self.paths.container(&container.id).join(SHIM_DIRECTORY);
        let mut entries: Vec<JournalEntry> = Vec::new();
        for name in [OLD_JOURNAL_FILE, JOURNAL_FILE] {
            let text = std::fs::read_to_string(directory.join(name)).unwrap_or_default();
            let read = text
                .lines()
                .map_while(|line| serde_json::from_str(line).ok());
            entries.extend(read);
        }
        entries
    }

    /// Reads the exit file of the last run. Blocks for a moment.
    pub(crate) fn read_exit(&self, container: &Container) -> Option<Exit> {
        let path = self
            .paths
            .container(&container.id)
            .join(SHIM_DIRECTORY)
            .join(sampan_shim_protocol::EXIT_FILE);
        let bytes = std::fs::read(path).ok()?;
        match serde_json::from_slice(&bytes) {
            Ok(exit) => Some(exit),
            Err(error) => {
                tracing::warn!(container = %container.id, %error, journal = JOURNAL_FILE, "the exit file cannot be read");
                None
            }
        }
    }
}

/// The start of the newest run that a journal tells of.
fn run_of(entries: &[JournalEntry]) -> Option<Timestamp> {
    entries.iter().rev().find_map(start_of)
}

fn mark(record: &Record, run: Timestamp, entry: u64) -> Mark {
    Mark {
        container: record.id.to_string(),
        run,
        entry,
        end: false,
    }
}

fn start_of(entry: &JournalEntry) -> Option<Timestamp> {
    let is_start = matches!(entry.event, JournalEvent::Started { .. });
    is_start.then(|| entry.at.parse().ok()).flatten()
}

fn attributes(record: &Record) -> BTreeMap<String, String> {
    let mut attributes = record.config.labels.clone();
    attributes.insert("image".to_owned(), record.image.clone());
    attributes.insert("name".to_owned(), record.name.to_string());
    attributes
}

fn event<const N: usize>(
    record: &Record,
    action: Action,
    more: [(&str, String); N],
    at: Timestamp,
) -> Event {
    let mut attributes = attributes(record);
    for (key, value) in more {
        attributes.insert(key.to_owned(), value);
    }
    Event {
        kind: EventKind::Container,
        action,
        actor: record.id.to_string(),
        attributes,
        at,
    }
}
