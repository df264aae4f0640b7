//! Health checks: a further process again and again, and what follows from how it ends. The rules
//! are Docker's, except that a frozen container keeps its status and its checks wait.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};
use sampan_runtime::{ExecProcess, ExecRequest, Stdio};
use sampan_shim_protocol::{Event, Health, HealthCheck, HealthStatus, JournalEvent, Probe};
use sampan_text::{duration, with_causes};

use super::Supervisor;
use super::phase::Phase;
use crate::exec::DRAIN_TIME;
use crate::poller::{Poller, Readiness, Source, Watched};
use crate::record::now;
use crate::streams::ProcessEnds;

/// So much of a check's output is kept, in bytes.
const OUTPUT_LIMIT: usize = 4096;
/// The exit code of a check that came to none.
const NO_CODE: i32 = -1;

/// The health checks of a container.
#[derive(Debug)]
pub(super) struct Checks {
    check: HealthCheck,
    health: Health,
    /// When the present run began.
    started: Instant,
    /// When the next check begins.
    next: Instant,
    current: Option<Current>,
    frozen_since: Option<Instant>,
}

/// A check that goes on.
#[derive(Debug)]
struct Current {
    id: String,
    began: Instant,
    began_at: String,
    process: ExecProcess,
    output: Option<Watched>,
    captured: Captured,
    deadline: Instant,
    timed_out: bool,
    /// Its exit code, and until when its output is waited for.
    ended: Option<(i32, Instant)>,
}

/// The beginning of an output.
#[derive(Debug, Default)]
struct Captured {
    bytes: Vec<u8>,
    cut: bool,
}

impl Captured {
    fn push(&mut self, bytes: &[u8]) {
        let room = OUTPUT_LIMIT - self.bytes.len();
        let taken = bytes.len().min(room);
        self.bytes.extend_from_slice(&bytes[..taken]);
        self.cut |= taken < bytes.len();
    }

    fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.bytes).into_owned();
        if self.cut {
            text.push_str("...");
        }
        text
    }
}

impl Checks {
    pub(super) fn new(check: HealthCheck) -> Self {
        let now = Instant::now();
        Self {
            check,
            health: Health {
                status: HealthStatus::Starting,
                failing_streak: 0,
                log: Vec::new(),
            },
            started: now,
            next: now,
            current: None,
            frozen_since: None,
        }
    }

    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    /// A run begins.
    pub(super) fn begin(&mut self) {
        let now = Instant::now();
        self.health.status = HealthStatus::Starting;
        self.health.failing_streak = 0;
        self.started = now;
        self.frozen_since = None;
        self.current = None;
        self.next = now + self.pause(now);
    }

    /// The run is over: nothing works, as Docker has it.
    pub(super) fn end(&mut self) {
        self.health.status = HealthStatus::Unhealthy;
        self.current = None;
    }

    pub(super) fn freeze(&mut self) {
        self.frozen_since.get_or_insert_with(Instant::now);
    }

    /// What was frozen loses no time.
    pub(super) fn thaw(&mut self) {
        let Some(since) = self.frozen_since.take() else {
            return;
        };
        let frozen = since.elapsed();
        self.next += frozen;
        if let Some(current) = &mut self.current {
            current.deadline += frozen;
        }
    }

    fn pause(&self, now: Instant) -> Duration {
        let starting = self.health.status == HealthStatus::Starting
            && now.duration_since(self.started) < self.check.start_period;
        if starting {
            self.check.start_interval
        } else {
            self.check.interval
        }
    }

    /// Takes note of the result of a check that began at `began`; whether the status is another.
    fn note(&mut self, began: Instant, probe: Probe) -> bool {
        let before = self.health.status;
        let healthy = probe.exit_code == 0;
        if self.health.log.len() >= Health::LOG_LENGTH {
            self.health.log.remove(0);
        }
        self.health.log.push(probe);
        let early = before == HealthStatus::Starting
            && began.duration_since(self.started) < self.check.start_period;
        if healthy {
            self.health.failing_streak = 0;
            self.health.status = HealthStatus::Healthy;
        } else if !early {
            self.health.failing_streak += 1;
            if self.health.failing_streak >= self.check.retries {
                self.health.status = HealthStatus::Unhealthy;
            }
        }
        self.health.status != before
    }

    /// Reads what the current check has written; false when no more will come.
    fn read(&mut self, scratch: &mut [u8]) -> bool {
        let Some(current) = &mut self.current else {
            return false;
        };
        // As much as a pipe holds: one that writes without end is read again later.
        for _ in 0..8 {
            let Some(output) = &current.output else {
                return false;
            };
            match rustix::io::read(output, &mut *scratch) {
                Ok(0) => current.output = None,
                Ok(read) => current.captured.push(&scratch[..read]),
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => current.output = None,
            }
        }
        current.output.is_some()
    }
}

impl Supervisor {
    /// Whether it was a check that has ended.
    pub(super) fn probe_ended(&mut self, pid: Pid, code: i32) -> bool {
        let current = self
            .checks
            .as_mut()
            .and_then(|checks| checks.current.as_mut());
        match current {
            Some(current) if current.process.pid() == pid && current.ended.is_none() => {
                current.ended = Some((code, Instant::now() + DRAIN_TIME));
                true
            }
            Some(_) | None => false,
        }
    }

    /// A check has written something.
    pub(super) fn probe_ready(&mut self) {
        if let Some(checks) = &mut self.checks {
            checks.read(&mut self.scratch);
        }
    }

    /// Brings the checks forward; when to look again.
    pub(super) fn advance_checks(&mut self, now: Instant) -> Option<Instant> {
        let Phase::Running(container) = &self.phase else {
            return None;
        };
        let checks = self.checks.as_mut()?;
        if container.paused {
            return None;
        }
        if checks.current.is_none() {
            if now < checks.next {
                return Some(checks.next);
            }
            self.begin_check();
            let checks = self.checks.as_ref()?;
            return Some(
                checks
                    .current
                    .as_ref()
                    .map_or(checks.next, |current| current.deadline),
            );
        }
        let open = checks.read(&mut self.scratch);
        let current = checks.current.as_mut()?;
        match current.ended {
            None if now < current.deadline => return Some(current.deadline),
            None => {
                if !current.timed_out {
                    current.timed_out = true;
                    // One that has just ended is reaped next.
                    let _ = current.process.kill(Signal::KILL);
                }
                // Its end is heard of like any other's.
                return None;
            }
            Some((_, until)) if open && now < until => return Some(until),
            Some((code, _)) => {
                let current = checks.current.take()?;
                let (exit_code, output) = if current.timed_out {
                    let told = current.captured.text();
                    let colon = if told.is_empty() { "" } else { ": " };
                    let limit = duration::written(checks.check.timeout.as_nanos().cast_signed());
                    let text = format!("Health check exceeded timeout ({limit}){colon}{told}");
                    (NO_CODE, text)
                } else {
                    (code, current.captured.text())
                };
                let probe = Probe {
                    start: current.began_at,
                    end: crate::record::now(),
                    exit_code,
                    output,
                };
                self.conclude_check(current.id, current.began, probe);
            }
        }
        Some(now)
    }

    fn begin_check(&mut self) {
        let (Phase::Running(container), Some(checks), Some(recipe)) =
            (&self.phase, &mut self.checks, &self.recipe)
        else {
            return;
        };
        let (id, began, began_at) = (random_id(), Instant::now(), now());
        let request = ExecRequest {
            seccomp: recipe.seccomp.clone(),
            ..ExecRequest::new(checks.check.process.clone())
        };
        let started = output_pipe(&self.poller)
            .map_err(|error| with_causes(&error))
            .and_then(|(output, stdio)| {
                let request = ExecRequest { stdio, ..request };
                let process = container.running.exec(request);
                let process = process.map_err(|failure| failure.message)?;
                Ok((output, process))
            });
        let failed = match started {
            Ok((output, process)) => {
                checks.current = Some(Current {
                    id: id.clone(),
                    began,
                    began_at: began_at.clone(),
                    process,
                    output: Some(output),
                    captured: Captured::default(),
                    deadline: began + checks.check.timeout,
                    timed_out: false,
                    ended: None,
                });
                None
            }
            Err(message) => Some(message),
        };
        let entry = self.note(JournalEvent::ProbeStarted { id: id.clone() });
        self.tell(entry, &Event::ProbeStarted { id: id.clone() });
        if let Some(output) = failed {
            let probe = Probe {
                start: began_at,
                end: now(),
                exit_code: NO_CODE,
                output,
            };
            self.conclude_check(id, began, probe);
        }
    }

    fn conclude_check(&mut self, id: String, began: Instant, probe: Probe) {
        let Some(checks) = &mut self.checks else {
            return;
        };
        let exit_code = probe.exit_code;
        let changed = checks.note(began, probe);
        let now = Instant::now();
        checks.next = now + checks.pause(now);
        let health = checks.health.clone();
        let entry = self.note(JournalEvent::ProbeEnded {
            id: id.clone(),
            exit_code,
            changed: changed.then_some(health.status),
        });
        let event = Event::ProbeEnded {
            id,
            health,
            changed,
        };
        self.tell(entry, &event);
    }
}

/// One pipe for everything that a check writes.
fn output_pipe(poller: &Rc<Poller>) -> io::Result<(Watched, Stdio)> {
    let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    let mut output = Watched::<OwnedFd>::new(poller, Source::Probe, ours);
    output.watch(Some(Readiness::IN))?;
    let ends = ProcessEnds {
        stderr: theirs.as_fd().try_clone_to_owned()?,
        stdout: theirs,
        ..ProcessEnds::nowhere()?
    };
    Ok((output, ends.into()))
}

/// An id as execs have one.
fn random_id() -> String {
    let mut bytes = [0; 32];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    // Without randomness it is still an id; nothing depends on its being unlike others.
    let _ = read;
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(retries: u32, start_period: Duration) -> Checks {
        Checks::new(HealthCheck {
            process: sampan_oci::runtime::Process::default(),
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            start_period,
            start_interval: Duration::from_secs(5),
            retries,
        })
    }

    fn probe(exit_code: i32) -> Probe {
        Probe {
            start: String::new(),
            end: String::new(),
            exit_code,
            output: String::new(),
        }
    }

    #[test]
    fn failures_in_a_row_make_it_unhealthy_and_one_success_healthy() {
        let mut checks = checks(3, Duration::ZERO);
        let at = Instant::now();
        assert!(!checks.note(at, probe(1)));
        assert!(!checks.note(at, probe(1)));
        assert_eq!(checks.health.failing_streak, 2);
        assert!(checks.note(at, probe(0)));
        assert_eq!(checks.health.status, HealthStatus::Healthy);
        for _ in 0..2 {
            assert!(!checks.note(at, probe(NO_CODE)));
        }
        assert!(checks.note(at, probe(2)));
        assert_eq!(checks.health.status, HealthStatus::Unhealthy);
        assert_eq!(checks.health.log.len(), Health::LOG_LENGTH);
        assert_eq!(checks.health.log[4].exit_code, 2);
    }

    #[test]
    fn failures_in_the_start_period_do_not_count() {
        let mut checks = checks(1, Duration::from_secs(600));
        let at = Instant::now();
        assert!(!checks.note(at, probe(1)));
        assert_eq!(checks.health.failing_streak, 0);
        assert_eq!(checks.pause(at), Duration::from_secs(5));
        assert!(checks.note(at, probe(0)));
        assert_eq!(checks.pause(at), Duration::from_secs(30));
        assert!(checks.note(at, probe(1)));
    }

    #[test]
    fn a_long_output_is_cut() {
        let mut captured = Captured::default();
        captured.push(&[b'x'; 4000]);
        captured.push(&[b'y'; 96]);
        assert_eq!(captured.text().len(), 4096);
        captured.push(b"z");
        assert_eq!(captured.text().len(), 4099);
        assert!(captured.text().ends_with("y..."));
    }
}
