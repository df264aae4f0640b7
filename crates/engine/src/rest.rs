//! Being small when nothing happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long nothing must have ended before memory is given back: by then the threads of the last
/// operations have ended, too.
const QUIET: Duration = Duration::from_secs(12);

/// Gives memory that operations have left behind back to the system once there has been quiet for
/// a while. Nothing wakes up in an engine that rests. A cheap clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rest {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicU64,
    waiting: AtomicBool,
    ending: CancellationToken,
}

impl Rest {
    /// Notes that an operation has ended.
    pub(crate) fn after_work(&self, tasks: &TaskTracker) {
        let shared = &self.shared;
        shared.ended.fetch_add(1, Ordering::Relaxed);
        if shared.waiting.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = shared.clone();
        tasks.spawn(async move {
            loop {
                let seen = shared.ended.load(Ordering::Relaxed);
                tokio::select! {
                    () = tokio::time::sleep(QUIET) => {}
                    () = shared.ending.cancelled() => return,
                }
                if shared.ended.load(Ordering::Relaxed) == seen {
                    break;
                }
            }
            shared.waiting.store(false, Ordering::Release);
            // Some milliseconds, in which nobody waits for anything.
            let _ = crate::blocking(|| {
                sampan_kernel::memory::release_unused();
                Ok(())
            })
            .await;
        });
    }

    /// Waits no longer: the engine ends.
    pub(crate) fn end(&self) {
        self.shared.ending.cancel();
    }
}
