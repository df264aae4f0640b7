//! The end: of processes, then of the container.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions};
use sampan_kernel::signalfd;
use sampan_shim_protocol::{Event, Exit, JournalEvent};

use super::phase::{Ending, Phase};
use super::{RELEASE_PATIENCE, Supervisor};
use crate::launch::Container;
use crate::record::now;
use crate::steps;

/// How long processes that do not die of SIGKILL (they wait for a dead disk) hold up the exit.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How often an exit file that could not be written is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Takes away every zombie, and notes whose end it is.
    pub(super) fn reap(&mut self) {
        // What matters is that there is something to reap, not how often it was said.
        while matches!(signalfd::take(self.children.as_fd()), Ok(Some(_))) {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let signal = status.terminating_signal();
            let code = signal.map_or_else(
                || status.exit_status().unwrap_or(255),
                |signal| 128 + signal,
            );
            self.process_ended(pid, Ending { code, signal });
        }
    }

    fn process_ended(&mut self, pid: Pid, ending: Ending) {
        if self.execs.process_ended(pid, ending.code, Instant::now()) {
            return;
        }
        match std::mem::replace(&mut self.phase, Phase::Waiting) {
            Phase::Running(container) if container.running.pid() == pid => {
                steps::done("program's end seen");
                self.phase = Phase::Exiting {
                    container,
                    ending,
                    finished_at: now(),
                    since: Instant::now(),
                };
            }
            other => self.phase = other,
        }
    }

    /// Brings an ending container to its end; when to look again.
    pub(super) fn advance_exit(&mut self, now: Instant) -> Option<Instant> {
        match std::mem::replace(&mut self.phase, Phase::Waiting) {
            Phase::Exiting {
                container,
                ending,
                finished_at,
                since,
            } => {
                let left = kill_everything(&container);
                if left > 0 && now < since + KILL_PATIENCE {
                    // Short at first: it takes a killed process a moment to go.
                    let pause = (since.elapsed() / 4)
                        .clamp(Duration::from_millis(1), Duration::from_millis(100));
                    self.phase = Phase::Exiting {
                        container,
                        ending,
                        finished_at,
                        since,
                    };
                    return Some(now + pause);
                }
                self.conclude(container, ending, finished_at, left);
                Some(now)
            }
            Phase::Exited {
                container,
                exit,
                since,
                saved,
                cleaned,
                released,
            } => {
                let saved = saved || self.save(&exit);
                if !cleaned {
                    // Whatever is wrong with it, the engine deletes it again with the container.
                    let _ = container.running.delete();
                }
                let next = if saved {
                    since + RELEASE_PATIENCE
                } else {
                    now + WRITE_AGAIN
                };
                self.phase = Phase::Exited {
                    container,
                    exit,
                    since,
                    saved,
                    cleaned: true,
                    released,
                };
                (next > now).then_some(next)
            }
            other @ (Phase::Waiting | Phase::Failed | Phase::Running(_)) => {
                self.phase = other;
                None
            }
        }
    }

    /// The last process has gone: output is complete, the exit is recorded and told.
    fn conclude(
        &mut self,
        container: Box<Container>,
        ending: Ending,
        finished_at: String,
        strays: usize,
    ) {
        steps::done("nobody left");
        self.reap();
        while !self.execs.current.is_empty() {
            let exec = &mut self.execs.current[0];
            // Whoever could not be reaped shares its container's fate.
            exec.ended.get_or_insert((137, Instant::now()));
            self.end_exec(0);
        }
        for streams in &mut self.streams {
            streams.finish(&mut self.scratch);
        }
        self.pass_on_notices();
        if strays > 0 {
            self.note(JournalEvent::Strays { count: strays });
        }
        let oom_killed = container
            .running
            .cgroup()
            .is_some_and(|cgroup| cgroup.oom_kill_count() > 0);
        if oom_killed {
            let entry = self.note(JournalEvent::Oom);
            self.tell(entry, &Event::Oom);
        }
        let exit = Exit {
            code: ending.code,
            signal: ending.signal,
            oom_killed,
            started_at: container.started_at.clone(),
            finished_at,
        };
        let entry = self.note(JournalEvent::Exited { exit: exit.clone() });
        // Told only when it is safe: who hears of it may act on it.
        let saved = self.save(&exit);
        steps::done("exit written");
        if let Some(steps) = steps::take() {
            self.tell(0, &Event::Steps(steps));
        }
        self.tell(entry, &Event::Exited(exit.clone()));
        self.phase = Phase::Exited {
            container,
            exit,
            since: Instant::now(),
            saved,
            cleaned: false,
            released: false,
        };
    }
}

/// Kills what is left in the container's cgroup; how much that is.
fn kill_everything(container: &Container) -> usize {
    let Some(cgroup) = container.running.cgroup() else {
        return 0;
    };
    let left = cgroup.procs().map_or(0, |processes| processes.len());
    if left > 0 {
        // A frozen process does not die; both are tried again as long as somebody is left.
        let _ = cgroup.kill_all();
        if container.paused {
            let _ = cgroup.thaw();
        }
    }
    left
}
