//! The end: of processes, then of the container.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions};
use sampan_kernel::signalfd;
use sampan_shim_protocol::{Event, Exit, JournalEvent};

use super::phase::{Ending, Phase};
use super::requests::raw;
use super::{RELEASE_PATIENCE, Supervisor};
use crate::launch::{self, Container};
use crate::record::{Record, now};
use crate::steps;
use crate::streams::Streams;

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
        if self.execs.process_ended(pid, ending.code, Instant::now())
            || self.probe_ended(pid, ending.code)
        {
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
            Phase::Restarting {
                container,
                exit,
                at,
            } => {
                let ended = self.restarts.ended_by_hand;
                if !ended && now < at {
                    self.phase = Phase::Restarting {
                        container,
                        exit,
                        at,
                    };
                    return Some(at);
                }
                if ended {
                    self.end(container, exit);
                } else {
                    self.run_again(container, exit);
                }
                Some(now)
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
        if let Some(checks) = &mut self.checks {
            checks.end();
        }
        let exit = Exit {
            code: ending.code,
            signal: ending.signal,
            oom_killed,
            started_at: container.started_at.clone(),
            finished_at,
            error: None,
        };
        let length = container.began.elapsed();
        let Some(pause) = self.restarts.next(exit.code, length) else {
            self.end(container, exit);
            return;
        };
        let restarts = self.restarts.count;
        let entry = self.note(JournalEvent::Restarting {
            exit: exit.clone(),
            restarts,
        });
        // Best effort: should this shim go before the next start, the run is known by this file.
        self.save(&exit);
        // What is left of it is tried again before the start.
        let _ = container.running.delete();
        let event = Event::Restarting {
            exit: exit.clone(),
            restarts,
        };
        self.tell(entry, &event);
        self.phase = Phase::Restarting {
            container,
            exit,
            at: Instant::now() + pause,
        };
    }

    /// Starts the container again. One that cannot be has ended, with the reason.
    fn run_again(&mut self, container: Box<Container>, exit: Exit) {
        let _ = container.running.delete();
        let number = self.next_streams;
        self.next_streams += 1;
        let forgotten = self.record.as_ref().map_or(Ok(()), Record::forget_exit);
        let started = forgotten
            .map_err(|errno| launch::system("removing the exit file", &io::Error::from(errno)))
            .and_then(|()| match &self.recipe {
                Some(recipe) => recipe.run(&self.poller, number, std::iter::empty()),
                // It is there until the release, which ends everything.
                None => Err(launch::system(
                    "starting again",
                    &io::Error::other("released"),
                )),
            });
        match started {
            Ok((container, streams)) => {
                let event = Event::Restarted {
                    pid: raw(container.running.pid()),
                    started_at: container.started_at.clone(),
                };
                let entry = self.began(container, streams);
                self.tell(entry, &event);
            }
            Err(failure) => {
                let exit = Exit {
                    code: failure.exit_code,
                    error: Some(failure.message),
                    ..exit
                };
                self.end(container, exit);
            }
        }
    }

    /// Takes note of a run that has begun; the number of the journal's entry.
    pub(super) fn began(&mut self, container: Container, streams: Streams) -> u64 {
        let pid = raw(container.running.pid());
        let record = self.record.as_mut();
        let entry = record.map_or(0, |record| record.started(pid, &container.started_at));
        if let Some(checks) = &mut self.checks {
            checks.begin();
        }
        self.streams.push(streams);
        self.phase = Phase::Running(Box::new(container));
        entry
    }

    /// The container has ended for good: that is recorded and told.
    fn end(&mut self, container: Box<Container>, exit: Exit) {
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
