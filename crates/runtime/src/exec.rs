//! A further process in a running container.
//!
//! The process is cloned straight into the container's namespace of process
//! ids and, on v2, its cgroup; it joins the other namespaces through the first
//! process' descriptor. Until execve it cannot be traced or looked into by the
//! container (CVE-2016-9962), and every descriptor of the host closes at execve.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::Signal;
use sampan_cgroups::Cgroup;
use sampan_kernel::clone::{Namespaces, setns, spawn_copy};
use sampan_kernel::descriptors::close_copy;
use sampan_kernel::pidfd;

use crate::container::{ExecProcess, Parts};
use crate::create::{Answer, died, in_pid_namespace, receive, report_socket};
use crate::failure::{At, Failure, Report, Step};
use crate::process::{MissingDirectory, Planned, ProcessContext, ProcessPlan};
use crate::{Error, ExecRequest};

pub(crate) fn exec(container: &Parts, request: ExecRequest) -> Result<ExecProcess, Error> {
    let attach = container
        .cgroup
        .as_ref()
        .map(Cgroup::attach_plan)
        .transpose()?;
    let (into_cgroup, tasks) =
        attach.map_or((None, Vec::new()), |plan| (plan.into_cgroup, plan.tasks));
    let (socket, report) = report_socket()?;
    let Planned { mut plan, terminal } = ProcessPlan::plan(
        &request.process,
        request.stdio,
        request.seccomp,
        request.descriptors,
        ProcessContext {
            root: container.lookup_root.as_fd(),
            terminals: container.terminals.as_ref().map(AsFd::as_fd),
            missing_directory: MissingDirectory::Fail,
            personality: None,
            tasks,
            report,
        },
    )?;
    let init = container.child.pidfd.as_fd();
    let namespaces = container.namespaces.all;
    let pid_namespace = namespaces.contains(Namespaces::PID).then_some(init);
    let join = namespaces.without(Namespaces::PID);
    let child = in_pid_namespace(pid_namespace, || {
        let cgroup = into_cgroup.as_ref().map(AsFd::as_fd);
        spawn_copy(Namespaces::empty(), cgroup, || {
            close_copy(socket.as_fd());
            run(&plan, init, join)
        })
    })?;
    plan.close_report();
    let error = match receive(socket.as_fd()) {
        Ok(Answer::Closed | Answer::Ready) => return Ok(ExecProcess { child, terminal }),
        Ok(Answer::Failed(failure)) if container_has_ended(failure) => Error::NotRunning,
        Ok(Answer::Failed(failure)) => plan.failed(failure),
        Err(error) => error,
    };
    let _ = pidfd::send_signal(child.pidfd.as_fd(), Signal::KILL);
    drop(died(&child));
    Err(error)
}

/// The first process has gone, and its namespaces with it.
fn container_has_ended(failure: Failure) -> bool {
    failure.step == Step::JoinNamespace && failure.errno == rustix::io::Errno::SRCH
}

/// Child code: see [`sampan_kernel::clone`].
fn run(plan: &ProcessPlan, init: BorrowedFd<'_>, join: Namespaces) -> u8 {
    let failure = match prepare(plan, init, join) {
        Ok(program) => plan.run(program),
        Err(failure) => failure,
    };
    // The parent may be gone; there is nobody else to tell.
    let _ = plan.send(Report::Failed(failure));
    1
}

/// Child code.
fn prepare<'a>(
    plan: &'a ProcessPlan,
    init: BorrowedFd<'_>,
    join: Namespaces,
) -> Result<&'a std::ffi::CStr, Failure> {
    plan.begin()?;
    setns(init, join).at(Step::JoinNamespace)?;
    rustix::process::umask(Mode::empty());
    let root = open(
        c"/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .at(Step::Prepare)?;
    plan.prepare_in(root.as_fd(), || Ok(()))
}
