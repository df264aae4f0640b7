//! Steps that run this moment: who needs the same waits for it, from whatever build.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio_util::sync::CancellationToken;

use crate::cache::Key;
use crate::wait::wait_for_any;

/// The steps that run; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Running(Arc<Mutex<HashMap<Key, Arc<Step>>>>);

#[derive(Debug)]
struct Step {
    /// Set when it has ended, however it did.
    ended: CancellationToken,
    /// Set when nobody wants it any more.
    stop: CancellationToken,
    wanted: Mutex<Wanted>,
}

#[derive(Debug)]
struct Wanted {
    /// By the build that runs it.
    by_owner: bool,
    /// So many wait for it.
    waiting: usize,
}

/// Whose turn it is.
pub(crate) enum Claim {
    /// The caller's: it runs the step.
    Mine(Mine),
    /// Somebody runs it.
    Theirs(Theirs),
}

/// A step that the holder runs. When this is dropped, others look at what came of it.
pub(crate) struct Mine {
    running: Running,
    key: Key,
    step: Arc<Step>,
}

/// A step that somebody else runs.
pub(crate) struct Theirs(Arc<Step>);

impl Running {
    pub(crate) fn claim(&self, key: Key) -> Claim {
        let mut steps = self.steps();
        if let Some(step) = steps.get(&key) {
            step.wanted().waiting += 1;
            return Claim::Theirs(Theirs(step.clone()));
        }
        let step = Arc::new(Step {
            ended: CancellationToken::new(),
            stop: CancellationToken::new(),
            wanted: Mutex::new(Wanted {
                by_owner: true,
                waiting: 0,
            }),
        });
        steps.insert(key, step.clone());
        Claim::Mine(Mine {
            running: self.clone(),
            key,
            step,
        })
    }

    fn steps(&self) -> MutexGuard<'_, HashMap<Key, Arc<Step>>> {
        lock(&self.0)
    }
}

impl Mine {
    /// Runs the step. What it is given is set when `cancel` is and nobody else waits: a build that
    /// is cancelled does not take the step from another.
    pub(crate) fn run<T>(
        &self,
        cancel: &CancellationToken,
        run: impl FnOnce(&CancellationToken) -> T,
    ) -> T {
        let done = CancellationToken::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                wait_for_any(cancel, &done);
                if !done.is_cancelled() {
                    self.step.leave(|wanted| wanted.by_owner = false);
                }
            });
            // Also when it panics: the scope waits for the other thread.
            let _done = done.clone().drop_guard();
            run(&self.step.stop)
        })
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        self.running.steps().remove(&self.key);
        self.step.ended.cancel();
    }
}

impl Theirs {
    /// Waits until it has ended, or `cancel` is set. Blocks.
    pub(crate) fn wait(self, cancel: &CancellationToken) {
        wait_for_any(&self.0.ended, cancel);
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        self.0.leave(|wanted| wanted.waiting -= 1);
    }
}

impl Step {
    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        lock(&self.wanted)
    }

    fn leave(&self, who: impl FnOnce(&mut Wanted)) {
        let mut wanted = self.wanted();
        who(&mut wanted);
        if !wanted.by_owner && wanted.waiting == 0 {
            self.stop.cancel();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::cache::KeyMaker;

    fn mine(running: &Running) -> Mine {
        match running.claim(KeyMaker::new("x").key()) {
            Claim::Mine(mine) => mine,
            Claim::Theirs(_) => panic!("somebody runs it"),
        }
    }

    fn theirs(running: &Running) -> Theirs {
        match running.claim(KeyMaker::new("x").key()) {
            Claim::Theirs(theirs) => theirs,
            Claim::Mine(_) => panic!("nobody runs it"),
        }
    }

    #[test]
    fn a_step_is_stopped_when_the_last_who_wants_it_leaves() {
        let running = Running::default();
        let own = mine(&running);
        let cancel = CancellationToken::new();
        let (first, second) = (theirs(&running), theirs(&running));
        own.run(&cancel, |stop| {
            cancel.cancel();
            drop(first);
            assert!(!stop.is_cancelled());
            drop(second);
            wait_for_any(stop, stop);
        });
        drop(own);
        drop(mine(&running));
    }

    #[test]
    fn those_who_wait_go_on_when_it_ends_or_panics() {
        let running = Running::default();
        for panics in [false, true] {
            let own = mine(&running);
            let waiting = theirs(&running);
            let (sender, receiver) = channel();
            thread::scope(|scope| {
                scope.spawn(move || {
                    waiting.wait(&CancellationToken::new());
                    sender.send(()).unwrap();
                });
                let ran = scope.spawn(move || {
                    own.run(&CancellationToken::new(), |_| assert!(!panics));
                });
                assert_eq!(ran.join().is_err(), panics);
                receiver.recv().unwrap();
            });
        }
        drop(mine(&running));
    }

    #[test]
    fn who_is_cancelled_waits_no_longer() {
        let running = Running::default();
        let own = mine(&running);
        let cancel = CancellationToken::new();
        cancel.cancel();
        theirs(&running).wait(&cancel);
        own.run(&CancellationToken::new(), |stop| {
            assert!(!stop.is_cancelled());
        });
    }
}
