//! What a build tells while it runs.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A piece of news.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A step begins.
    Step {
        /// Which one, from 1.
        number: usize,
        /// Of so many.
        total: usize,
        /// The instruction as written.
        text: String,
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
}

/// Hears of events, from any thread.
pub type EventSink<'a> = dyn Fn(Event) + Send + Sync + 'a;

/// Tells of one stage at a time, in order, although several run: what happens in the others is
/// told when their turn comes.
pub(crate) struct InOrder<'a> {
    sink: &'a EventSink<'a>,
    state: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// The stages that are not told of yet, in order.
    order: std::collections::VecDeque<usize>,
    kept: BTreeMap<usize, Vec<Event>>,
    ended: std::collections::BTreeSet<usize>,
}

impl<'a> InOrder<'a> {
    pub(crate) fn new(sink: &'a EventSink<'a>, order: &[usize]) -> Self {
        let state = Waiting {
            order: order.iter().copied().collect(),
            ..Waiting::default()
        };
        Self {
            sink,
            state: Mutex::new(state),
        }
    }

    pub(crate) fn tell(&self, stage: usize, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.order.front() == Some(&stage) {
            (self.sink)(event);
        } else {
            state.kept.entry(stage).or_default().push(event);
        }
    }

    /// Says that nothing more comes of a stage.
    pub(crate) fn end(&self, stage: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.ended.insert(stage);
        while let Some(&front) = state.order.front() {
            for event in state.kept.remove(&front).unwrap_or_default() {
                (self.sink)(event);
            }
            if !state.ended.contains(&front) {
                return;
            }
            state.order.pop_front();
        }
    }

    /// Tells all of a stage that has failed, also when others in front of it have not ended.
    pub(crate) fn fail(&self, stage: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for event in state.kept.remove(&stage).unwrap_or_default() {
            (self.sink)(event);
        }
        state.order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_told_one_after_the_other() {
        let told = Mutex::new(Vec::new());
        let sink = |event: Event| {
            if let Event::Warning(text) = event {
                told.lock().unwrap().push(text);
            }
        };
        let order = InOrder::new(&sink, &[0, 2]);
        let say = |stage, text: &str| order.tell(stage, Event::Warning(text.into()));
        say(2, "c");
        say(0, "a");
        order.end(2);
        say(0, "b");
        order.end(0);
        assert_eq!(*told.lock().unwrap(), ["a", "b", "c"]);
    }
}
