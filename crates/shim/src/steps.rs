//! What was done when, for an engine that asked where the time goes.

use std::cell::RefCell;

use sampan_shim_protocol::Step;

use crate::record::now;

thread_local! {
    /// The shim has one thread.
    static STEPS: RefCell<Option<Vec<Step>>> = const { RefCell::new(None) };
}

/// Notes steps from here on.
pub(crate) fn begin() {
    STEPS.set(Some(Vec::with_capacity(32)));
}

/// Notes that a step was done.
pub(crate) fn done(name: &'static str) {
    STEPS.with_borrow_mut(|steps| {
        if let Some(steps) = steps {
            let name = name.to_owned();
            steps.push(Step { name, at: now() });
        }
    });
}

/// Returns what was noted, once.
pub(crate) fn take() -> Option<Vec<Step>> {
    STEPS.take()
}
