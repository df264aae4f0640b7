//! What a build tells while it runs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sampan_dockerfile::Location;

/// A piece of news.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// These stages are built; told in this order they read well.
    Stages(Vec<usize>),
    /// A step begins. The steps of a stage follow each other.
    Step {
        /// Which one of the whole build, from 1.
        number: usize,
        /// Of so many.
        total: usize,
        /// The instruction as written.
        text: String,
        /// Where it stands among those that make files; none for others.
        place: Option<Place>,
    },
    /// The step was done before.
    Cached,
    /// A command is run.
    Running,
    /// What the command writes.
    Output(Vec<u8>),
    /// The step has ended.
    Done {
        /// Names the state that it led to.
        state: String,
        /// How long it took.
        took: Duration,
    },
    /// What a person should know.
    Warning(String),
    /// Nothing more comes of the stage.
    Ended,
    /// The stage could not be built. Nothing more comes of it.
    Failed {
        /// Why.
        failure: Failure,
        /// Which instruction of the Dockerfile it was.
        location: Option<Location>,
    },
    /// News of an image that stages begin with, by its name.
    Base(String, BaseNews),
}

/// What happens to an image that stages begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseNews {
    /// It is looked for.
    Wanted,
    /// A layer of it is fetched.
    Layer {
        /// The first digits of its digest.
        id: String,
        /// What happens to it: its bytes come, or are unpacked.
        doing: &'static str,
        /// Bytes that came, or are unpacked.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
    /// It is here, or the reason why not.
    Found(Option<String>),
}

/// Why a stage could not be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A command failed.
    Command {
        /// The command as the history has it.
        command: String,
        /// Its exit code.
        code: i32,
    },
    /// Something else, in words.
    Other(String),
}

/// Where a step stands among the steps of its stage that make files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The step on one line, with the full name of an image.
    pub text: String,
    /// The stage's name; empty for the only stage of a file that gives it none.
    pub stage: String,
    /// From 1.
    pub position: usize,
    /// Of so many.
    pub of: usize,
}

/// Hears of events, from any thread, with the stage that they are of.
pub type EventSink<'a> = dyn Fn(usize, Event) + Send + Sync + 'a;

/// Tells of one stage at a time, in order, although several run: what happens in the others is
/// told when their turn comes.
pub struct InOrder<S> {
    sink: S,
    state: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// The stages that are not told of yet, in order.
    order: VecDeque<usize>,
    kept: BTreeMap<usize, Vec<Event>>,
    ended: BTreeSet<usize>,
}

impl<S: Fn(Event)> InOrder<S> {
    /// Tells `sink`.
    pub fn new(sink: S) -> Self {
        Self {
            sink,
            state: Mutex::default(),
        }
    }

    /// Hears of an event of a stage.
    pub fn tell(&self, stage: usize, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Stages(order) => state.order = order.into(),
            Event::Ended => self.end(&mut state, stage),
            // All of it is told, also when others in front of it have not ended.
            Event::Failed { .. } => {
                self.release(&mut state, stage);
                state.order.clear();
            }
            event if state.order.front() == Some(&stage) => (self.sink)(event),
            event @ Event::Warning(_) if state.order.is_empty() => (self.sink)(event),
            event => state.kept.entry(stage).or_default().push(event),
        }
    }

    fn end(&self, state: &mut Waiting, stage: usize) {
        state.ended.insert(stage);
        while let Some(&front) = state.order.front() {
            self.release(state, front);
            if !state.ended.contains(&front) {
                return;
            }
            state.order.pop_front();
        }
    }

    fn release(&self, state: &mut Waiting, stage: usize) {
        for event in state.kept.remove(&stage).unwrap_or_default() {
            (self.sink)(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_told_one_after_the_other() {
        let told = Mutex::new(Vec::new());
        let order = InOrder::new(|event: Event| {
            if let Event::Warning(text) = event {
                told.lock().unwrap().push(text);
            }
        });
        let say = |stage, text: &str| order.tell(stage, Event::Warning(text.into()));
        say(0, "first");
        order.tell(0, Event::Stages(vec![0, 2]));
        say(2, "c");
        say(0, "a");
        order.tell(2, Event::Ended);
        say(0, "b");
        order.tell(0, Event::Ended);
        assert_eq!(*told.lock().unwrap(), ["first", "a", "b", "c"]);
    }
}
