//! Further processes in the container.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use sampan_runtime::ExecProcess;
use sampan_shim_protocol::ExecState;

/// How long an ended exec's output is waited for where children that it has left behind still hold
/// it. (Docker waits as long.)
pub(crate) const DRAIN_TIME: Duration = Duration::from_secs(2);
/// So many ended execs are remembered for engines that ask later.
const REMEMBERED: usize = 256;

/// A further process.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) id: String,
    pub(crate) process: ExecProcess,
    /// The number of its streams; it may have none.
    pub(crate) streams: Option<u32>,
    /// Its exit code, and until when its output is waited for.
    pub(crate) ended: Option<(i32, Instant)>,
}

impl Exec {
    pub(crate) fn state(&self) -> ExecState {
        ExecState {
            id: self.id.clone(),
            pid: self.process.pid().as_raw_nonzero().get(),
            exit_code: self.ended.map(|(code, _)| code),
        }
    }
}

/// All further processes: those that run, and the last that have ended.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    /// Running, or ended with output still to come.
    pub(crate) current: Vec<Exec>,
    ended: VecDeque<ExecState>,
}

impl Execs {
    /// How an exec is; its end counts when its output is complete.
    pub(crate) fn state(&self, id: &str) -> Option<ExecState> {
        let running = self.current.iter().find(|exec| exec.id == id);
        running
            .map(|exec| ExecState {
                exit_code: None,
                ..exec.state()
            })
            .or_else(|| {
                self.ended
                    .iter()
                    .rev()
                    .find(|state| state.id == id)
                    .cloned()
            })
    }

    /// How all of them are.
    pub(crate) fn states(&self) -> Vec<ExecState> {
        let ended = self.ended.iter().cloned();
        let running = self.current.iter().map(|exec| ExecState {
            exit_code: None,
            ..exec.state()
        });
        ended.chain(running).collect()
    }

    /// Finds one that is current.
    pub(crate) fn find(&self, id: &str) -> Option<&Exec> {
        self.current.iter().find(|exec| exec.id == id)
    }

    /// Notes that the process `pid` has ended; false where it is none of these.
    pub(crate) fn process_ended(&mut self, pid: Pid, code: i32, now: Instant) -> bool {
        let running = |exec: &&mut Exec| exec.process.pid() == pid && exec.ended.is_none();
        match self.current.iter_mut().find(running) {
            Some(exec) => {
                exec.ended = Some((code, now + DRAIN_TIME));
                true
            }
            None => false,
        }
    }

    /// Moves an exec from the current ones to those that are remembered.
    pub(crate) fn retire(&mut self, index: usize) -> Exec {
        let exec = self.current.remove(index);
        if self.ended.len() == REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back(exec.state());
        exec
    }
}
