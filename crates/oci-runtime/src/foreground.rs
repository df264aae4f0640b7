//! Waits for a process in the caller's place: passes signals on and, where it has a terminal,
//! carries bytes between it and the caller's.

use std::io::IsTerminal as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use sampan_kernel::pidfd::{self, Ending};
use sampan_kernel::{signalfd, signals};

/// Signals that are not passed on: what ends a child, and what Go's runtime uses for itself.
const OWN: [i32; 2] = [17, 23];
const WINDOW_CHANGED: i32 = 28;

/// The signals of this process, from before a child is started.
#[derive(Debug)]
pub(crate) struct Signals(OwnedFd);

impl Signals {
    /// Blocks all signals; from here on they are read.
    pub(crate) fn take() -> Result<Self> {
        signals::block_all()?;
        Ok(Self(signalfd::descriptor_of_all()?))
    }
}

/// Waits until the child has ended, and reaps it. `terminal` is this end of its terminal.
pub(crate) fn wait(
    signals: &Signals,
    child: BorrowedFd<'_>,
    terminal: Option<OwnedFd>,
) -> Result<Ending> {
    let relay = terminal.map(Relay::begin).transpose()?;
    let ended = wait_relaying(signals, child, relay.as_ref());
    if let Some(relay) = &relay {
        relay.drain();
    }
    ended
}

fn wait_relaying(
    signals: &Signals,
    child: BorrowedFd<'_>,
    relay: Option<&Relay>,
) -> Result<Ending> {
    let mut input_open = relay.is_some();
    let mut output_open = relay.is_some();
    loop {
        let mut watched = vec![
            PollFd::from_borrowed_fd(child, PollFlags::IN),
            PollFd::from_borrowed_fd(signals.0.as_fd(), PollFlags::IN),
        ];
        let (mut input_at, mut output_at) = (None, None);
        if let Some(relay) = relay {
            if output_open {
                output_at = Some(watched.len());
                watched.push(PollFd::from_borrowed_fd(
                    relay.terminal.as_fd(),
                    PollFlags::IN,
                ));
            }
            if input_open {
                input_at = Some(watched.len());
                watched.push(PollFd::from_borrowed_fd(stdin(), PollFlags::IN));
            }
        }
        match poll(&mut watched, None) {
            Err(Errno::INTR) => continue,
            other => other.context("cannot wait for the process")?,
        };
        let ready = |at: Option<usize>| at.is_some_and(|at| !watched[at].revents().is_empty());
        if ready(Some(1)) {
            pass_on(signals, child, relay)?;
        }
        if let Some(relay) = relay {
            if ready(output_at) {
                output_open = copy(relay.terminal.as_fd(), stdout());
            }
            if ready(input_at) {
                input_open = copy(stdin(), relay.terminal.as_fd());
            }
        }
        if ready(Some(0)) {
            return pidfd::wait(child).context("cannot wait for the process");
        }
    }
}

fn pass_on(signals: &Signals, child: BorrowedFd<'_>, relay: Option<&Relay>) -> Result<()> {
    while let Some(number) = signalfd::take(signals.0.as_fd())? {
        if number == WINDOW_CHANGED
            && let Some(relay) = relay
        {
            relay.resize();
            continue;
        }
        if OWN.contains(&number) {
            continue;
        }
        let signal: Option<Signal> = pidfd::signal(number);
        if let Some(signal) = signal {
            // It may have ended; that is seen next.
            let _ = pidfd::send_signal(child, signal);
        }
    }
    Ok(())
}

/// The caller's terminal while another one stands in for it.
struct Relay {
    terminal: OwnedFd,
    before: Option<Termios>,
}

impl Relay {
    fn begin(terminal: OwnedFd) -> Result<Self> {
        let mut relay = Self {
            terminal,
            before: None,
        };
        if std::io::stdin().is_terminal() {
            let before = tcgetattr(stdin())?;
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(stdin(), OptionalActions::Now, &raw)?;
            relay.before = Some(before);
        }
        relay.resize();
        Ok(relay)
    }

    fn resize(&self) {
        // A caller without a terminal has no size to give.
        if let Ok(size) = tcgetwinsize(stdin()) {
            let _ = tcsetwinsize(&self.terminal, size);
        }
    }

    /// What the process has written before it ended.
    fn drain(&self) {
        loop {
            let mut watched = [PollFd::from_borrowed_fd(
                self.terminal.as_fd(),
                PollFlags::IN,
            )];
            let now = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            match poll(&mut watched, Some(&now)) {
                Ok(ready) if ready > 0 && copy(self.terminal.as_fd(), stdout()) => {}
                _ => return,
            }
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // There is nobody left to tell when the terminal has gone.
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}

/// Carries what there is; false at the end.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0; 16 * 1024];
    let length = match rustix::io::read(from, &mut buffer) {
        Ok(0) => return false,
        Ok(length) => length,
        Err(Errno::INTR | Errno::AGAIN) => return true,
        // Nobody has the other end of a terminal open any more.
        Err(_) => return false,
    };
    let mut rest = &buffer[..length];
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}
