//! Runs hooks: programs that the specification calls at points of a container's life.
//!
//! A hook reads the container's state as JSON from its standard input and finds nothing in its
//! environment but what the specification gives it. Where it runs in the container's namespaces
//! it is born inside them, like a further process of the container (see [`crate::exec`]).

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Signal, kill_process_group, setsid};
use sampan_kernel::clone::{Child, Namespaces, setns, spawn_copy, spawn_sibling};
use sampan_kernel::descriptors::{close_copy, place};
use sampan_kernel::exec::{ArgumentList, execve};
use sampan_kernel::pidfd::{self, Ending};
use sampan_kernel::signals;
use sampan_oci::runtime::{Hook, Spec, State, Status};

use crate::Error;
use crate::command::c_string;
use crate::exec::{hear, open_child};
use crate::failure::{At, Failure, Report, Step};
use crate::report::report_socket;
use crate::user_namespace::become_its_root;

/// How much of what a hook said is repeated when it fails, in bytes.
const SAID: u64 = 4096;

/// The state of a container as hooks, agents and people are told.
#[must_use]
pub fn state(spec: &Spec, id: &str, bundle: &Path, status: Status, pid: Option<i32>) -> State {
    State {
        oci_version: spec.oci_version.clone(),
        id: id.to_owned(),
        status,
        pid,
        bundle: bundle.to_owned(),
        annotations: spec.annotations.clone(),
    }
}

/// Runs hooks of the host in order, in the caller's namespaces. `point` is the name of their list
/// in the specification.
///
/// # Errors
/// [`Error::Hook`] with the first that fails; the rest is not run.
pub fn run_hooks(point: &'static str, hooks: &[Hook], state: &State) -> Result<(), Error> {
    run_in(point, hooks, state, None)
}

/// As [`run_hooks`], in `namespaces` of the process behind a descriptor where one is given.
pub(crate) fn run_in(
    point: &'static str,
    hooks: &[Hook],
    state: &State,
    inside: Option<(BorrowedFd<'_>, Namespaces)>,
) -> Result<(), Error> {
    for (number, hook) in hooks.iter().enumerate() {
        let failed = |reason| Error::Hook {
            point,
            number,
            reason,
        };
        let state = serde_json::to_vec(state).map_err(|error| failed(error.to_string()))?;
        let plan = HookPlan::new(hook, &state, &failed)?;
        plan.run(hook.timeout, inside, &failed)?;
    }
    Ok(())
}

/// Waits for a hook, or for a process in a hook's place, and says what it came to where that was
/// no success. It is killed, with all of its session, when its time is up.
///
/// # Errors
/// One sentence of [`Error::Hook`].
pub(crate) fn wait_in_time(child: &Child, timeout: Option<i32>) -> Result<(), String> {
    let deadline = timeout
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    if !ends_before(child.pidfd.as_fd(), deadline).map_err(|errno| errno.to_string())? {
        let _ = kill_process_group(child.pid, Signal::KILL);
        let _ = pidfd::send_signal(child.pidfd.as_fd(), Signal::KILL);
        let _ = pidfd::wait(child.pidfd.as_fd());
        let seconds = timeout.unwrap_or_default();
        return Err(format!("hook ran past specified timeout of {seconds}.0s"));
    }
    match pidfd::wait(child.pidfd.as_fd()).map_err(|error| error.to_string())? {
        Ending::Exited(0) => Ok(()),
        Ending::Exited(code) => Err(format!("exit status {code}")),
        Ending::Killed(signal) => Err(format!("killed by signal {signal}")),
    }
}

fn ends_before(process: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<bool, Errno> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match poll(
            &mut [PollFd::from_borrowed_fd(process, PollFlags::IN)],
            left.as_ref(),
        ) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// A hook, down to what the system calls take.
struct HookPlan {
    program: CString,
    arguments: ArgumentList,
    environment: ArgumentList,
    directory: CString,
    stdin: OwnedFd,
    output: OwnedFd,
}

impl HookPlan {
    fn new(hook: &Hook, state: &[u8], failed: &dyn Fn(String) -> Error) -> Result<Self, Error> {
        if !hook.path.is_absolute() {
            return Err(failed(format!(
                "the path {:?} is not absolute",
                hook.path.display()
            )));
        }
        let strings = |list: &[String]| -> Result<ArgumentList, Error> {
            let list: Result<Vec<_>, _> = list.iter().map(|text| c_string(text)).collect();
            Ok(ArgumentList::new(list?))
        };
        let program = c_string(&hook.path.to_string_lossy())?;
        let arguments = if hook.args.is_empty() {
            ArgumentList::new(vec![program.clone()])
        } else {
            strings(&hook.args)?
        };
        let io = |error: io::Error| failed(error.to_string());
        let bundle: State = serde_json::from_slice(state).map_err(|e| failed(e.to_string()))?;
        Ok(Self {
            program,
            arguments,
            environment: strings(&hook.env)?,
            directory: c_string(&bundle.bundle.to_string_lossy())?,
            stdin: state_file(state).map_err(io)?,
            output: memory("output").map_err(io)?.into(),
        })
    }

    fn run(
        &self,
        timeout: Option<i32>,
        inside: Option<(BorrowedFd<'_>, Namespaces)>,
        failed: &dyn Fn(String) -> Error,
    ) -> Result<(), Error> {
        let (socket, report) = report_socket()?;
        let first = spawn_copy(Namespaces::empty(), None, || {
            close_copy(socket.as_fd());
            let word = match self.begin(report.as_fd(), inside) {
                Ok(pid) => Report::Spawned(pid),
                Err(failure) => Report::Failed(failure),
            };
            // The parent may be gone; there is nobody else to tell.
            let _ = rustix::io::write(report.as_fd(), &word.to_bytes());
            0
        })
        .map_err(Error::io_step("start a hook"))?;
        drop(report);
        let heard = hear(&socket);
        let _ = pidfd::wait(first.pidfd.as_fd());
        let heard = heard?;
        let child = heard.pid.map(open_child).transpose()?;
        let ended = child.map(|child| wait_in_time(&child, timeout));
        let Some(failure) = heard.failure else {
            let ended = ended.unwrap_or_else(|| Err("it has not started".to_owned()));
            return ended.map_err(|reason| failed(self.with_words(reason)));
        };
        let reason = Error::of_step(failure.step, failure.errno);
        Err(failed(match failure.step {
            Step::Execute => {
                let reason = io::Error::from(failure.errno);
                format!("exec {}: {reason}", self.program.to_string_lossy())
            }
            _ => reason.to_string(),
        }))
    }

    /// Child code.
    fn begin(
        &self,
        report: BorrowedFd<'_>,
        inside: Option<(BorrowedFd<'_>, Namespaces)>,
    ) -> Result<i32, Failure> {
        if let Some((process, namespaces)) = inside {
            setns(process, namespaces).at(Step::JoinNamespace)?;
            if namespaces.contains(Namespaces::USER) {
                become_its_root()?;
            }
        }
        let pid = spawn_sibling(|| {
            let failure = match self.become_hook() {
                Ok(never) => match never {},
                Err(failure) => failure,
            };
            let _ = rustix::io::write(report, &Report::Failed(failure).to_bytes());
            1
        })
        .at(Step::Spawn)?;
        Ok(pid.as_raw_nonzero().get())
    }

    /// Child code.
    fn become_hook(&self) -> Result<std::convert::Infallible, Failure> {
        signals::reset();
        setsid().at(Step::Session)?;
        // It need not exist where the hook runs.
        let _ = rustix::process::chdir(&self.directory);
        place(self.stdin.as_fd(), 0).at(Step::Stdio)?;
        place(self.output.as_fd(), 1).at(Step::Stdio)?;
        place(self.output.as_fd(), 2).at(Step::Stdio)?;
        let error = execve(&self.program, &self.arguments, &self.environment);
        Err(error).at(Step::Execute)
    }

    /// A failure with what the hook has said.
    fn with_words(&self, reason: String) -> String {
        let mut said = Vec::new();
        let read = self
            .output
            .try_clone()
            .map(File::from)
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(0))?;
                file.take(SAID).read_to_end(&mut said)
            });
        let said = String::from_utf8_lossy(&said);
        match read {
            Ok(_) if !said.trim().is_empty() => format!("{reason}, output: {}", said.trim()),
            _ => reason,
        }
    }
}

/// A file in memory for a hook to read the state from.
pub(crate) fn state_file(state: &[u8]) -> io::Result<OwnedFd> {
    let mut file = memory("state")?;
    file.write_all(state)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file.into())
}

fn memory(name: &str) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MemfdFlags::CLOEXEC)?))
}
