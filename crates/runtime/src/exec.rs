//! A further process in a running container.
//!
//! Two stages, so that the container never sees a process that can do more than
//! it can itself. The first stays outside the container's namespace of process
//! ids, where nobody inside can find or trace it, even with `CAP_SYS_PTRACE`:
//! it joins the other namespaces, gives up privileges, closes every descriptor
//! of the host and goes under the filter. The second is born inside, leads its
//! session and becomes the program (CVE-2016-9962, CVE-2019-5736,
//! CVE-2024-21626). A filter must allow it clone, setsid, ioctl and execve.
//! For a moment both count against the container's limit of processes.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, fstatfs, open};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use sampan_cgroups::Cgroup;
use sampan_kernel::clone::{Child, Namespaces, setns, spawn_copy, spawn_sibling};
use sampan_kernel::descriptors::close_copy;
use sampan_kernel::pidfd;

use crate::bundle::Stdio;
use crate::container::{ExecProcess, Parts};
use crate::created::no_agent;
use crate::failure::{At, Failure, Report, Step};
use crate::process::{MissingDirectory, Planned, ProcessContext, ProcessPlan};
use crate::report::{Answer, receive, report_socket, tell};
use crate::resolve::{Links, open_with};
use crate::streams::Terminals;
use crate::trees::open_directory;
use crate::user_namespace::become_its_root;
use crate::{Error, ExecRequest};

pub(crate) fn exec(container: &Parts, request: ExecRequest) -> Result<ExecProcess, Error> {
    let ExecRequest {
        process,
        stdio,
        seccomp,
        descriptors,
        agent,
        personality,
        keyring,
        cgroup,
    } = request;
    let cgroup = cgroup.as_ref().or(container.cgroup.as_ref());
    let attach = cgroup.map(Cgroup::attach_plan).transpose()?;
    let (into_cgroup, tasks) =
        attach.map_or((None, Vec::new()), |plan| (plan.into_cgroup, plan.tasks));
    let (socket, report) = report_socket()?;
    let found;
    let terminals = match (&container.terminals, &stdio) {
        (Some(instance), _) => Terminals::Of(instance.as_fd()),
        (None, Stdio::Terminal { .. }) => {
            found = find_terminals(container)?;
            Terminals::Of(found.as_fd())
        }
        (None, Stdio::Pipes { .. } | Stdio::Inherit) => Terminals::Missing,
    };
    let Planned { mut plan, terminal } = ProcessPlan::plan(
        &process,
        stdio,
        seccomp,
        descriptors,
        ProcessContext {
            root: container.lookup_root.as_fd(),
            terminals,
            missing_directory: MissingDirectory::Fail,
            personality: personality.as_ref(),
            keyring: keyring.as_deref(),
            affinity: process.exec_cpu_affinity.as_ref(),
            tasks,
            report,
        },
    )?;
    let init = container.child.pidfd.as_fd();
    let namespaces = container.namespaces;
    let cgroup = into_cgroup.as_ref().map(AsFd::as_fd);
    let first = spawn_copy(Namespaces::empty(), cgroup, || {
        close_copy(socket.as_fd());
        if let Err(failure) = become_second(&plan, init, namespaces) {
            // The parent may be gone; there is nobody else to tell.
            let _ = plan.send(Report::Failed(failure));
        }
        0
    })
    .map_err(Error::io_step("start a process"))?;
    plan.close_report();
    let heard = hear_with(&socket, |number| {
        let (agent, state) = agent.as_ref().ok_or_else(no_agent)?;
        let pid = first.pid.as_raw_nonzero().get();
        agent.hand_over(first.pidfd.as_fd(), pid, number, state.clone())
    });
    if heard.is_err() {
        let _ = pidfd::send_signal(first.pidfd.as_fd(), Signal::KILL);
    }
    // It ends by itself once it has started the second; the caller may have
    // asked the kernel to reap its children.
    let first_ending = pidfd::wait(first.pidfd.as_fd());
    let heard = heard?;
    let second = heard.pid.map(open_child).transpose()?;
    match (second, heard.failure) {
        (Some(child), None) => Ok(ExecProcess { child, terminal }),
        (second, Some(failure)) => {
            if let Some(child) = second {
                // It has reported and ends.
                drop(pidfd::wait(child.pidfd.as_fd()));
            }
            Err(if container_has_ended(failure) {
                Error::NotRunning
            } else {
                plan.failed(failure)
            })
        }
        (None, None) => Err(Error::Died(format!("{first_ending:?}"))),
    }
}

/// What the two stages have said until both were gone or the program ran.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) pid: Option<i32>,
    pub(crate) failure: Option<Failure>,
}

/// Hears out a process that starts a second one.
pub(crate) fn hear(socket: &OwnedFd) -> Result<Heard, Error> {
    hear_with(socket, |_| Err(no_agent()))
}

/// As [`hear`]; `listener` takes a descriptor of the first process for an agent.
fn hear_with(
    socket: &OwnedFd,
    listener: impl Fn(i32) -> Result<(), Error>,
) -> Result<Heard, Error> {
    let mut heard = Heard::default();
    loop {
        match receive(socket.as_fd())? {
            Answer::Closed => return Ok(heard),
            Answer::Spawned(pid) => heard.pid = Some(pid),
            Answer::Failed(failure) => heard.failure = Some(failure),
            Answer::Listener(number) => {
                listener(number)?;
                tell(socket.as_fd());
            }
            Answer::Ready | Answer::Hooks | Answer::Terminal(_) => {}
        }
    }
}

/// The instance of devpts that the container has at /dev/pts.
fn find_terminals(container: &Parts) -> Result<OwnedFd, Error> {
    let none = || Error::Unsupported("a terminal without a devpts mount at /dev/pts".to_owned());
    // Where it is mounted: the root that users are looked up in has no mounts.
    let root = format!("/proc/{}/root", container.child.pid.as_raw_nonzero());
    let root = open_directory(Path::new(&root)).map_err(|_| Error::NotRunning)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let found = open_with(root.as_fd(), c"/dev/pts", Links::Follow, flags).map_err(|_| none())?;
    match fstatfs(&found) {
        // In place of the container's another would do as well: it is the caller that opens it.
        Ok(status) if status.f_type == DEVPTS => Ok(found),
        _ => Err(none()),
    }
}

/// `DEVPTS_SUPER_MAGIC` (linux/magic.h).
const DEVPTS: rustix::fs::FsWord = 0x1cd1;

/// The second stage is a child of this process and not reaped, so its id is
/// still its own.
pub(crate) fn open_child(pid: i32) -> Result<Child, Error> {
    let pid = Pid::from_raw(pid).ok_or(Error::NotRunning)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(Error::step("open the process"))?;
    Ok(Child { pid, pidfd })
}

/// The first process has gone, and its namespaces with it: joining them is
/// refused, or nothing can be born there any more.
fn container_has_ended(failure: Failure) -> bool {
    matches!(
        (failure.step, failure.errno),
        (Step::JoinNamespace, Errno::SRCH) | (Step::Spawn, Errno::NOMEM)
    )
}

/// Child code, the first stage: see [`sampan_kernel::clone`].
fn become_second(
    plan: &ProcessPlan,
    init: BorrowedFd<'_>,
    namespaces: Namespaces,
) -> Result<(), Failure> {
    plan.begin()?;
    // This process itself stays in its namespace of process ids.
    setns(init, namespaces).at(Step::JoinNamespace)?;
    if namespaces.contains(Namespaces::USER) {
        become_its_root()?;
    }
    rustix::process::umask(Mode::empty());
    let root = open(
        c"/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .at(Step::Prepare)?;
    let program = plan.prepare_in(root.as_fd(), || Ok(()))?;
    drop(root);
    plan.place_descriptors()?;
    plan.close_others()?;
    plan.confine()?;
    let second = spawn_sibling(|| {
        let Err(failure) = become_program(plan, program);
        // The parent may be gone; there is nobody else to tell.
        let _ = plan.send(Report::Failed(failure));
        1
    })
    .at(Step::Spawn)?;
    let pid = second.as_raw_nonzero().get();
    plan.send(Report::Spawned(pid)).at(Step::Spawn)
}

/// Child code, the second stage.
fn become_program(plan: &ProcessPlan, program: &CStr) -> Result<std::convert::Infallible, Failure> {
    plan.lead_session()?;
    Err(plan.run(program))
}
