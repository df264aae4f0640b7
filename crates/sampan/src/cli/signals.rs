//! Signals that the command hands to the container, and the size of the window.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// What the person or the system told the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A signal by number.
    Signal(i32),
    /// The window has another size.
    Resize,
}

/// Signals that would end the command: handed on, or the terminal is restored first.
const HANDED_ON: [i32; 9] = [1, 2, 3, 10, 12, 14, 15, 18, 20];

/// Begins to catch signals. With `window`, changes of the window's size, too.
pub(crate) fn listen(window: bool) -> mpsc::UnboundedReceiver<Notice> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let watch = |kind: i32, notice: Notice| {
        // A signal that cannot be caught keeps its usual effect.
        if let Ok(signal) = signal(SignalKind::from_raw(kind)) {
            tokio::spawn(forward(signal, notice, sender.clone()));
        }
    };
    for number in HANDED_ON {
        watch(number, Notice::Signal(number));
    }
    if window {
        watch(28, Notice::Resize);
    }
    receiver
}

async fn forward(mut signal: Signal, notice: Notice, to: mpsc::UnboundedSender<Notice>) {
    while signal.recv().await.is_some() {
        if to.send(notice).is_err() {
            return;
        }
    }
}
