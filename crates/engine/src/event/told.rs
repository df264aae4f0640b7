//! What has been told of each container that is not gone.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Action, Event, EventKind};

/// Whose news some events are, beyond the engine's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// The container.
    pub(crate) container: String,
    /// Which of its runs, by its start.
    pub(crate) run: Timestamp,
    /// The entry of the supervisor's journal that tells the same; 0 where there is none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) entry: u64,
    /// Whether this is the end of the run.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) end: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's form
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's form
fn is_false(flag: &bool) -> bool {
    !flag
}

/// What has been told of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Its name, image and labels, for the news of its removal.
    pub(crate) attributes: BTreeMap<String, String>,
    /// The newest run that was told, by its start.
    pub(crate) run: Option<Timestamp>,
    /// How far the supervisor's journal of that run was told.
    pub(crate) entry: u64,
    /// Whether the end of that run was told.
    pub(crate) ended: bool,
    /// Whether it was told to be frozen.
    pub(crate) paused: bool,
}

impl Told {
    /// Whether news are old.
    pub(crate) fn knows(&self, mark: &Mark) -> bool {
        match self.run {
            Some(run) if run == mark.run => {
                self.ended || (mark.entry > 0 && mark.entry <= self.entry)
            }
            Some(run) => run > mark.run,
            None => false,
        }
    }

    fn note(&mut self, mark: &Mark) {
        if self.run != Some(mark.run) {
            self.run = Some(mark.run);
            self.entry = 0;
            self.ended = false;
            self.paused = false;
        }
        self.entry = self.entry.max(mark.entry);
        self.ended |= mark.end;
    }
}

/// What has been told of all containers that are not gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct AllTold(pub(super) BTreeMap<String, Told>);

impl AllTold {
    /// Takes note of events that are told together.
    pub(super) fn note(&mut self, mark: Option<&Mark>, events: &[Event]) {
        for event in events {
            if event.kind == EventKind::Container {
                self.note_event(event);
            }
        }
        if let Some(mark) = mark
            && let Some(told) = self.0.get_mut(&mark.container)
        {
            told.note(mark);
        }
    }

    fn note_event(&mut self, event: &Event) {
        match event.action {
            Action::Create => {
                let attributes = event.attributes.clone();
                let told = Told {
                    attributes,
                    ..Told::default()
                };
                self.0.insert(event.actor.clone(), told);
            }
            Action::Destroy => {
                self.0.remove(&event.actor);
            }
            _ => {
                let Some(told) = self.0.get_mut(&event.actor) else {
                    return;
                };
                match event.action {
                    Action::Pause => told.paused = true,
                    Action::Unpause => told.paused = false,
                    Action::Rename => {
                        if let Some(name) = event.attributes.get("name") {
                            told.attributes.insert("name".to_owned(), name.clone());
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: Action) -> Event {
        Event {
            kind: EventKind::Container,
            action,
            actor: "abc".into(),
            attributes: BTreeMap::from([("name".into(), "box".into())]),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    fn mark(run: i64, entry: u64, end: bool) -> Mark {
        Mark {
            container: "abc".into(),
            run: Timestamp::from_second(run).unwrap(),
            entry,
            end,
        }
    }

    #[test]
    fn what_was_told_of_a_run_is_known_and_nothing_else() {
        let mut all = AllTold::default();
        all.note(None, &[event(Action::Create)]);
        assert!(!all.0["abc"].knows(&mark(5, 1, false)));
        all.note(Some(&mark(5, 1, false)), &[event(Action::Start)]);
        assert!(all.0["abc"].knows(&mark(5, 1, false)));
        assert!(!all.0["abc"].knows(&mark(5, 2, false)));
        // An end that no journal tells of.
        assert!(!all.0["abc"].knows(&mark(5, 0, true)));
        all.note(Some(&mark(5, 0, true)), &[event(Action::Die)]);
        assert!(all.0["abc"].knows(&mark(5, 3, true)));
        assert!(all.0["abc"].knows(&mark(4, 9, true)));
        assert!(!all.0["abc"].knows(&mark(6, 1, false)));
        all.note(None, &[event(Action::Destroy)]);
        assert!(all.0.is_empty());
    }
}
