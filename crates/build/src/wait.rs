//! Waiting for one of two things, on a thread.

use std::future::Future as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread::{self, Thread};

use tokio_util::sync::CancellationToken;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Returns when either is set. Blocks.
pub(crate) fn wait_for_any(one: &CancellationToken, other: &CancellationToken) {
    let (mut one, mut other) = (pin!(one.cancelled()), pin!(other.cancelled()));
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    while one.as_mut().poll(&mut context).is_pending()
        && other.as_mut().poll(&mut context).is_pending()
    {
        thread::park();
    }
}
