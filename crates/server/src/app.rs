//! What handlers work with.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sampan_engine::Engine;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::buildkit::BuildKit;
use crate::error::ApiError;

/// How long a start waits for clients that are being attached.
const ATTACH_PATIENCE: Duration = Duration::from_secs(2);

/// What handlers work with. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) engine: Arc<Engine>,
    pub(crate) buildkit: BuildKit,
    attaching: Attaching,
}

impl App {
    /// Works with an engine until `stop` is set.
    pub(crate) fn new(engine: Arc<Engine>, stop: CancellationToken) -> Self {
        Self {
            buildkit: BuildKit::new(Arc::clone(&engine), stop),
            engine,
            attaching: Attaching::default(),
        }
    }

    /// Notes that a client is about to be attached to a container, until the note is dropped.
    pub(crate) fn attaching(&self, container: &str) -> AttachNote {
        self.attaching.note(container)
    }

    /// Waits for the clients that are being attached to a container. A client may ask for the
    /// start as soon as it has read the head of its attach's answer, and must not miss the
    /// first output then.
    pub(crate) async fn attached(&self, container: &str) {
        // A client whose hand-over hangs must not hold up the start for ever.
        let _ = tokio::time::timeout(ATTACH_PATIENCE, self.attaching.none(container)).await;
    }
}

/// Carries an operation to its end, also when the client leaves meanwhile.
pub(crate) async fn to_the_end<T: Send + 'static>(
    operation: impl Future<Output = sampan_engine::Result<T>> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::spawn(operation).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(ApiError::internal("the operation broke off")),
    }
}

/// Clients that are between the head of their answer and the engine, by container.
#[derive(Clone, Default)]
struct Attaching(Arc<Shared>);

#[derive(Default)]
struct Shared {
    counts: Mutex<HashMap<String, usize>>,
    changed: Notify,
}

impl Shared {
    fn counts(&self) -> std::sync::MutexGuard<'_, HashMap<String, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attaching {
    fn note(&self, container: &str) -> AttachNote {
        *self.0.counts().entry(container.to_owned()).or_default() += 1;
        AttachNote {
            shared: Arc::clone(&self.0),
            container: container.to_owned(),
        }
    }

    async fn none(&self, container: &str) {
        loop {
            // Before the check, so that a change after it is not missed.
            let changed = self.0.changed.notified();
            if !self.0.counts().contains_key(container) {
                return;
            }
            changed.await;
        }
    }
}

/// See [`App::attaching`].
pub(crate) struct AttachNote {
    shared: Arc<Shared>,
    container: String,
}

impl Drop for AttachNote {
    fn drop(&mut self) {
        let mut counts = self.shared.counts();
        if let Some(count) = counts.get_mut(&self.container) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.container);
            }
        }
        drop(counts);
        self.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn start_waits_for_every_client_of_its_own_container() {
        let attaching = Attaching::default();
        let first = attaching.note("a");
        let second = attaching.note("a");
        let _other = attaching.note("b");
        let waiter = tokio::spawn({
            let attaching = attaching.clone();
            async move { attaching.none("a").await }
        });
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        drop(second);
        tokio::time::timeout(Duration::from_secs(5), waiter)
            .await
            .expect("the wait ends")
            .unwrap();
    }
}
