//! Steps at which a test can make the engine fail or die.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{Error, Result};

/// The target of the log at which every step is told, for whoever asks where the time goes.
pub(crate) const STEP: &str = "sampan_engine::step";

/// What happens at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The step fails with an error.
    Error,
    /// The process kills itself, as `kill -9` would.
    Kill,
    /// The step never returns, as if the engine were killed there; for tests within one process.
    Hang,
}

/// Steps at which to fail. Nothing is armed unless a test does it. A cheap clone, so that a test
/// can arm an engine that is already open.
#[derive(Debug, Clone, Default)]
pub struct FailPoints {
    armed: Arc<Mutex<Option<(String, Failure)>>>,
    seen: Arc<Mutex<Vec<&'static str>>>,
}

impl FailPoints {
    /// Makes the next pass through `step` fail, once.
    pub fn arm(&self, step: impl Into<String>, failure: Failure) {
        *self.armed.lock().unwrap_or_else(PoisonError::into_inner) = Some((step.into(), failure));
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Returns the steps that were passed since something was armed last.
    pub fn seen(&self) -> Vec<&'static str> {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) async fn pass(&self, step: &'static str) -> Result<()> {
        tracing::trace!(target: STEP, "{step}");
        let failure = {
            let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
            let Some((wanted, failure)) = armed.as_ref() else {
                return Ok(());
            };
            self.seen
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(step);
            if wanted != step {
                return Ok(());
            }
            let failure = *failure;
            // An unknown step stays armed, so that all that follow are still noted.
            *armed = Some((String::new(), failure));
            failure
        };
        match failure {
            Failure::Error => Err(Error::internal(format!("failure injected at step {step}"))),
            Failure::Hang => std::future::pending().await,
            Failure::Kill => {
                let _ = rustix::process::kill_process(
                    rustix::process::getpid(),
                    rustix::process::Signal::KILL,
                );
                std::future::pending().await
            }
        }
    }
}
