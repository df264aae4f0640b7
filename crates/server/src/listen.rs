//! Accepting connections.

use std::io;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::{Socket, drain, drive};
use crate::edge::Edge;

/// How long accepting rests when descriptors or memory are short.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Bounds on what one client can make the server hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// For a whole head to come, also on a connection that is kept alive.
    pub head_timeout: Duration,
    /// Connections at once; further ones wait to be accepted.
    pub connections: usize,
    /// For open connections to end when the server stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 256 * 1024,
            head_timeout: Duration::from_secs(60),
            connections: 4096,
            drain: Duration::from_secs(2),
        }
    }
}

pub(crate) async fn accept_loop<A>(accept: A, edge: Edge, limits: Limits, stop: CancellationToken)
where
    A: AsyncFn() -> io::Result<Socket>,
{
    let tracker = TaskTracker::new();
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(limits.connections));
    loop {
        let next = async {
            let slot = std::sync::Arc::clone(&slots).acquire_owned().await;
            (slot, accept().await)
        };
        let (slot, accepted) = tokio::select! {
            next = next => next,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok(socket) => {
                let connection = drive(socket, edge.clone(), limits, stop.child_token());
                tracker.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                // The connection is gone, or descriptors are short for a while; either way the
                // listener itself is fine.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
    drain(&tracker, limits).await;
}
