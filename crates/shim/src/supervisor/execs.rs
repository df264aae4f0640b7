//! Further processes: started at an engine's request, ended when their output is complete.

use std::os::fd::OwnedFd;
use std::time::Instant;

use sampan_kernel::pidfd;
use sampan_runtime::{ExecRequest, Stdio};
use sampan_shim_protocol::{Event, ExecStart, FailureKind, JournalEvent, Reply, StartFailure};

use super::requests::{failed, no_exec, paused, raw, refuse};
use super::{Supervisor, find_streams};
use crate::exec::Exec;
use crate::launch;
use crate::streams::{ProcessEnds, StdinPolicy, Streams};

impl Supervisor {
    pub(super) fn exec(&mut self, start: ExecStart, descriptors: Vec<OwnedFd>) -> Reply {
        let number = self.next_streams;
        let container = match self.phase.running_mut() {
            Ok(container) if container.paused => return paused(),
            Ok(container) => container,
            Err(reply) => return reply,
        };
        if self.execs.state(&start.id).is_some() {
            let message = format!("exec {} has been started already", start.id);
            return refuse(FailureKind::Exists, message);
        }
        let client = match (start.attach, descriptors.into_iter().next()) {
            (Some(spec), Some(socket)) => Some((spec, socket)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return refuse(FailureKind::Invalid, "exec with a wrong client".into());
            }
        };
        // As Docker has it, an exec's input ends with its client's.
        let policy = match &client {
            Some((spec, _)) if spec.stdin => StdinPolicy::Once,
            Some(_) | None => StdinPolicy::Closed,
        };
        let is_terminal = start.process.terminal;
        let made = if is_terminal {
            let streams = Streams::for_terminal(&self.poller, number, policy, None);
            let size = start.terminal_size;
            Ok((Some(streams), Stdio::Terminal { size }))
        } else if client.is_some() {
            Streams::pipes(&self.poller, number, policy, None)
                .map(|(streams, ends)| (Some(streams), ends.into()))
        } else {
            ProcessEnds::nowhere().map(|ends| (None, ends.into()))
        };
        let (mut streams, stdio) = match made {
            Ok(made) => made,
            Err(error) => {
                let failure = launch::system("making the exec's streams", &error);
                return Reply::StartFailed(failure);
            }
        };
        let request = ExecRequest {
            stdio,
            seccomp: self
                .recipe
                .as_ref()
                .and_then(|recipe| recipe.seccomp.clone()),
            ..ExecRequest::new(start.process)
        };
        let started = container.running.exec(request);
        self.next_streams += 1;
        let reply = match started {
            Ok(mut process) => {
                if let (Some(streams), Some(terminal)) = (&mut streams, process.take_terminal()) {
                    // Without its terminal it is still an exec, and it will be reaped.
                    let _ = streams.set_terminal(terminal);
                }
                let pid = raw(process.pid());
                self.execs.current.push(Exec {
                    id: start.id,
                    process,
                    streams: streams.as_ref().map(Streams::number),
                    ended: None,
                });
                Ok(Reply::ExecStarted { pid })
            }
            Err(failure) => Err(failure),
        };
        if let Some(mut streams) = streams {
            if let Some((spec, socket)) = client {
                streams.attach(spec, socket);
            }
            if let Err(failure) = &reply {
                // The client is past its HTTP answer; Docker tells it so.
                streams.finish_with(&exec_message(failure), &mut self.scratch);
            }
            streams.settle();
            self.streams.push(streams);
        }
        reply.unwrap_or_else(Reply::StartFailed)
    }

    pub(super) fn signal_exec(&mut self, id: &str, number: i32) -> Reply {
        let Some(signal) = pidfd::signal(number) else {
            return refuse(FailureKind::Invalid, format!("invalid signal: {number}"));
        };
        let Some(exec) = self.execs.find(id) else {
            return no_exec(id);
        };
        match exec.process.kill(signal) {
            Ok(()) => Reply::Done,
            Err(error) => failed(&error),
        }
    }

    /// Ends the streams of execs that have ended and tells of them.
    pub(super) fn advance_execs(&mut self, now: Instant) -> Option<Instant> {
        let mut wake: Option<Instant> = None;
        let mut index = 0;
        while let Some(exec) = self.execs.current.get(index) {
            let Some((_, until)) = exec.ended else {
                index += 1;
                continue;
            };
            let streams = exec.streams;
            if let Some(streams) =
                streams.and_then(|number| find_streams(&mut self.streams, number))
            {
                streams.process_ended();
                streams.drain(&mut self.scratch);
                if !streams.outputs_ended() && now < until {
                    wake = Some(wake.map_or(until, |earlier| earlier.min(until)));
                    index += 1;
                    continue;
                }
            }
            self.end_exec(index);
        }
        wake
    }

    pub(super) fn end_exec(&mut self, index: usize) {
        let exec = self.execs.retire(index);
        let streams = exec.streams;
        if let Some(streams) = streams.and_then(|number| find_streams(&mut self.streams, number)) {
            streams.finish(&mut self.scratch);
        }
        let state = exec.state();
        let entry = self.note(JournalEvent::ExecExited {
            id: state.id.clone(),
            exit_code: state.exit_code.unwrap_or(255),
        });
        self.tell(entry, &Event::ExecExited(state));
    }
}

fn exec_message(failure: &StartFailure) -> String {
    format!(
        "OCI runtime exec failed: exec failed: unable to start container process: {failure}: unknown\r\n"
    )
}
