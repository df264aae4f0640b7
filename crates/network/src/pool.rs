//! Network namespaces made ahead of their use.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::error::Result;
use crate::namespace::NetworkNamespace;

/// Keeps up to a number of ready namespaces and refills itself on a thread of
/// its own. Dropping it ends the thread and the namespaces.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    ready: VecDeque<NetworkNamespace>,
    goal: usize,
    ended: bool,
}

impl Pool {
    /// Starts a pool that keeps `goal` namespaces ready; 0 keeps none.
    #[must_use]
    pub fn new(goal: usize) -> Self {
        let state = State {
            ready: VecDeque::with_capacity(goal),
            goal,
            ended: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let refill = Arc::clone(&shared);
        // Without the thread every take makes its own namespace: slower, and right.
        let _ = thread::Builder::new()
            .name("netns-pool".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || refill.run());
        Self { shared }
    }

    /// Takes a ready namespace, or makes one when none is.
    ///
    /// # Errors
    /// As [`NetworkNamespace::new`].
    pub fn take(&self) -> Result<NetworkNamespace> {
        let ready = self.shared.lock().ready.pop_front();
        self.shared.changed.notify_one();
        ready.map_or_else(NetworkNamespace::new, Ok)
    }

    /// Returns how many are ready now.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.shared.lock().ready.len()
    }

    /// Gives the ready namespaces back and keeps `goal` from now on: 0 when
    /// the engine has been idle for long.
    pub fn resize(&self, goal: usize) {
        let mut state = self.shared.lock();
        state.goal = goal;
        let keep = goal.min(state.ready.len());
        let surplus = state.ready.split_off(keep);
        drop(state);
        drop(surplus);
        self.shared.changed.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        let ready = std::mem::take(&mut state.ready);
        drop(state);
        self.shared.changed.notify_all();
        drop(ready);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            if state.ended {
                return;
            }
            if state.ready.len() >= state.goal {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(state);
            let made = NetworkNamespace::new();
            state = self.lock();
            match made {
                Ok(namespace) if !state.ended && state.ready.len() < state.goal => {
                    state.ready.push_back(namespace);
                }
                // Not wanted any more; it ends here.
                Ok(_) => {}
                // Whoever takes next meets the same error and reports it;
                // until then there is no sense in trying again.
                Err(_) if !state.ended => {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                Err(_) => {}
            }
        }
    }
}
