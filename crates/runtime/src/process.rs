//! From a process of the specification to execve: what the first process of a
//! container and every further one have in common.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, openat};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{DumpableBehavior, fchdir, ioctl_tiocsctty, set_dumpable_behavior, setsid};
use rustix::stdio::stdin;
use rustix::thread::{
    CapabilitySet, set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};
use sampan_kernel::descriptors::{close_all_from, close_from_at_exec, place, place_until_exec};
use sampan_kernel::exec::execve;
use sampan_kernel::seccomp::SeccompProgram;
use sampan_kernel::signals;
use sampan_oci::runtime::{CpuAffinity, Personality, Process};
use sampan_text::path::absolute;

use crate::Error;
use crate::attributes::Attributes;
use crate::bundle::Stdio;
use crate::capabilities::Sets;
use crate::command::{Command, c_string};
use crate::failure::{At, Failure, Report, Step};
use crate::identity::{HomeWanted, identify};
use crate::limits::Limit;
use crate::resolve::{Links, Missing, open, open_or_create};
use crate::streams::{Streams, Terminals, move_to};

/// Descriptors that must survive the placing of others are moved from here on.
const PARKED_FROM: RawFd = 128;

/// A process, planned down to what the system calls take.
#[derive(Debug)]
pub(crate) struct ProcessPlan {
    pub(crate) command: Command,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    capabilities: Sets,
    limits: Vec<Limit>,
    directory: CString,
    missing_directory: MissingDirectory,
    umask: Mode,
    no_new_privileges: bool,
    seccomp: Option<SeccompProgram>,
    oom_score: Option<String>,
    attributes: Attributes,
    streams: Streams,
    descriptors: Vec<OwnedFd>,
    tasks: Vec<OwnedFd>,
    /// The child's end of the socket; the parent closes its copy.
    report: Option<OwnedFd>,
}

/// What happens when the working directory is missing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum MissingDirectory {
    Create,
    Fail,
}

/// What a plan is made of besides the process itself.
pub(crate) struct ProcessContext<'a> {
    /// The root in which users are looked up.
    pub(crate) root: BorrowedFd<'a>,
    /// Where terminals come from.
    pub(crate) terminals: Terminals<'a>,
    pub(crate) missing_directory: MissingDirectory,
    pub(crate) personality: Option<&'a Personality>,
    /// The name of the session keyring to make; none keeps the caller's.
    pub(crate) keyring: Option<&'a str>,
    /// The processors of a further process.
    pub(crate) affinity: Option<&'a CpuAffinity>,
    /// v1 files to enter the cgroup by.
    pub(crate) tasks: Vec<OwnedFd>,
    /// The child's end of the socket that it reports by.
    pub(crate) report: OwnedFd,
}

/// A plan and what it leaves for the caller.
pub(crate) struct Planned {
    pub(crate) plan: ProcessPlan,
    pub(crate) terminal: Option<OwnedFd>,
}

impl ProcessPlan {
    pub(crate) fn plan(
        process: &Process,
        stdio: Stdio,
        seccomp: Option<SeccompProgram>,
        descriptors: Vec<OwnedFd>,
        context: ProcessContext<'_>,
    ) -> Result<Planned, Error> {
        let directory = match process.cwd.as_str() {
            "" => "/".to_owned(),
            path if path.starts_with('/') => absolute(path),
            path => {
                return Err(Error::Invalid(format!(
                    "the working directory \"{path}\" is invalid, it needs to be an absolute path"
                )));
            }
        };
        let has_home = process.env.iter().any(|entry| entry.starts_with("HOME="));
        let wanted = if has_home {
            HomeWanted::No
        } else {
            HomeWanted::Yes
        };
        let identity = identify(context.root, &process.user, wanted)?;
        let command = if has_home {
            Command::plan(&process.args, &process.env)?
        } else {
            let mut environment = process.env.clone();
            environment.push(format!("HOME={}", identity.home));
            Command::plan(&process.args, &environment)?
        };
        // The numbers below are given out in the child.
        let floor = if descriptors.is_empty() {
            3
        } else {
            PARKED_FROM
        };
        let (streams, terminal) = Streams::plan(stdio, context.terminals, floor)?;
        let limits: Result<Vec<_>, _> = process.rlimits.iter().map(Limit::parse).collect();
        let plan = Self {
            command,
            uid: Uid::from_raw(identity.uid),
            gid: Gid::from_raw(identity.gid),
            groups: identity.groups.into_iter().map(Gid::from_raw).collect(),
            capabilities: Sets::parse(process.capabilities.as_ref())?,
            limits: limits?,
            directory: c_string(&directory)?,
            missing_directory: context.missing_directory,
            umask: Mode::from_raw_mode(process.user.umask.unwrap_or(0o022) & 0o777),
            no_new_privileges: process.no_new_privileges,
            seccomp,
            oom_score: process.oom_score_adj.map(|score| score.to_string()),
            attributes: Attributes::plan(
                process,
                context.personality,
                context.keyring,
                context.affinity,
            )?,
            streams,
            descriptors: descriptors
                .into_iter()
                .map(|descriptor| move_to(descriptor, floor))
                .collect::<Result<_, _>>()?,
            tasks: context.tasks,
            report: Some(move_to(context.report, floor)?),
        };
        Ok(Planned { plan, terminal })
    }

    /// Closes the parent's copy of the child's end, so that the end of the
    /// child is the end of the stream.
    pub(crate) fn close_report(&mut self) {
        self.report = None;
    }

    /// The process' end of its terminal.
    pub(crate) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.streams.terminal()
    }
}

/// Child code, all of it: see [`sampan_kernel::clone`].
impl ProcessPlan {
    /// Nobody may trace this process or look into its /proc directory: it still holds descriptors
    /// of the host.
    pub(crate) fn hide(&self) -> Result<(), Failure> {
        set_dumpable_behavior(DumpableBehavior::NotDumpable).at(Step::Prepare)
    }

    /// What comes before everything else, while the host's /proc is in sight.
    pub(crate) fn begin(&self) -> Result<(), Failure> {
        self.hide()?;
        signals::reset();
        self.attributes.before_cgroup()?;
        self.attributes.join_keyring()?;
        if let Some(score) = &self.oom_score {
            let file = openat(
                CWD,
                c"/proc/self/oom_score_adj",
                OFlags::WRONLY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .at(Step::OomScore)?;
            rustix::io::write(&file, score.as_bytes()).at(Step::OomScore)?;
        }
        for (item, tasks) in self.tasks.iter().enumerate() {
            rustix::io::write(tasks, b"0").at_item(Step::EnterCgroup, item)?;
        }
        self.attributes.in_cgroup()
    }

    /// Everything up to the point where only the filter and execve are left.
    /// `seal` runs when nothing will be made in the root any more. Returns the
    /// program.
    pub(crate) fn prepare_in(
        &self,
        root: BorrowedFd<'_>,
        seal: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<&CStr, Failure> {
        self.attributes.apply()?;
        for (item, limit) in self.limits.iter().enumerate() {
            limit.apply().at_item(Step::Rlimit, item)?;
        }
        self.streams.place(self.uid)?;
        close_from_at_exec(3).at(Step::Descriptors)?;
        let directory = self.open_directory(root).at(Step::WorkingDirectory)?;
        seal()?;
        self.capabilities.limit().at(Step::Bounding)?;
        let entered = fchdir(&directory);
        self.become_user()?;
        match entered {
            // Where root may not go, say on NFS, the user perhaps may.
            Err(Errno::ACCESS | Errno::PERM) => fchdir(&directory),
            other => other,
        }
        .at(Step::WorkingDirectory)?;
        drop(directory);
        rustix::process::umask(self.umask);
        self.command.find().at(Step::Lookup)
    }

    /// Leads a session, with the terminal on standard input as its own.
    pub(crate) fn lead_session(&self) -> Result<(), Failure> {
        setsid().at(Step::Session)?;
        match self.streams.terminal() {
            Some(_) => ioctl_tiocsctty(stdin()).at(Step::ControllingTerminal),
            None => Ok(()),
        }
    }

    /// Closes everything that is not the program's, but for the socket.
    pub(crate) fn close_others(&self) -> Result<(), Failure> {
        let socket = self
            .report
            .as_ref()
            .ok_or(Errno::BADF)
            .at(Step::Descriptors)?;
        let first = u32::try_from(self.descriptors.len() + 3).unwrap_or(u32::MAX);
        close_all_from(first, socket.as_fd()).at(Step::Descriptors)
    }

    /// Becomes the program; returns only on failure.
    pub(crate) fn run(&self, program: &CStr) -> Failure {
        let error = execve(program, &self.command.arguments, &self.command.environment);
        Failure {
            step: Step::Execute,
            item: 0,
            errno: Errno::from_io_error(&error).unwrap_or(Errno::IO),
        }
    }

    /// The last privileges go, and the filter comes: after this nothing but
    /// execve is to be done.
    pub(crate) fn confine(&self) -> Result<(), Failure> {
        if self.no_new_privileges {
            set_no_new_privs(true).at(Step::NoNewPrivileges)?;
        }
        let Some(filter) = &self.seccomp else {
            return Ok(());
        };
        let listener = filter.install().at(Step::Seccomp)?;
        if let Some(number) = listener {
            // The parent takes the descriptor for the agent; until then it must stay open.
            self.send(Report::Listener(number)).at(Step::Seccomp)?;
            if !self.hears() {
                return Err(Errno::PIPE).at(Step::Seccomp);
            }
        }
        if self.held_for_filter().is_empty() {
            return Ok(());
        }
        self.capabilities
            .apply_with(CapabilitySet::empty())
            .at(Step::Capabilities)
    }

    /// Without `no_new_privs` a filter needs a privilege that the program is
    /// not to have; it is given up right after.
    fn held_for_filter(&self) -> CapabilitySet {
        if self.seccomp.is_some() && !self.no_new_privileges {
            CapabilitySet::SYS_ADMIN
        } else {
            CapabilitySet::empty()
        }
    }

    fn open_directory(&self, root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        match self.missing_directory {
            MissingDirectory::Create => {
                open_or_create(root, &self.directory, Links::Follow, Missing::Directory)
            }
            MissingDirectory::Fail => open(root, &self.directory, Links::Follow),
        }
    }

    fn become_user(&self) -> Result<(), Failure> {
        set_keep_capabilities(true).at(Step::Capabilities)?;
        set_thread_groups(&self.groups).at(Step::Groups)?;
        set_thread_res_gid(self.gid, self.gid, self.gid).at(Step::GroupId)?;
        set_thread_res_uid(self.uid, self.uid, self.uid).at(Step::UserId)?;
        self.capabilities
            .apply_with(self.held_for_filter())
            .at(Step::Capabilities)?;
        self.capabilities.apply_ambient().at(Step::Ambient)
    }

    /// Puts the given descriptors where the program expects them.
    pub(crate) fn place_descriptors(&self) -> Result<(), Failure> {
        if self.descriptors.is_empty() {
            return Ok(());
        }
        self.place_each().at(Step::Descriptors)
    }

    fn place_each(&self) -> Result<(), Errno> {
        let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let end = 3 + i32::try_from(self.descriptors.len()).map_err(|_| Errno::MFILE)?;
        if end > PARKED_FROM {
            return Err(Errno::MFILE);
        }
        // The parent has moved all of them, and the socket, beyond these numbers.
        for (number, descriptor) in (3..end).zip(&self.descriptors) {
            place(descriptor.as_fd(), number).map_err(errno)?;
        }
        Ok(())
    }

    /// Tells the parent.
    pub(crate) fn send(&self, report: Report) -> Result<(), Errno> {
        let bytes = report.to_bytes();
        let socket = self.report.as_ref().ok_or(Errno::BADF)?;
        // Not send: fewer filters forbid write. A parent that has gone is
        // SIGPIPE, which is an end like any other.
        loop {
            match rustix::io::write(socket, &bytes) {
                Err(Errno::INTR) => {}
                other => return other.map(drop),
            }
        }
    }

    /// Opens the terminal of a devpts instance that this process has made, if it is to have one.
    pub(crate) fn open_terminal(&self, instance: Option<BorrowedFd<'_>>) -> Result<(), Failure> {
        let socket = self.report.as_ref().ok_or(Errno::BADF).at(Step::Terminal)?;
        self.streams.open_inside(instance, socket.as_fd())
    }

    /// Waits until somebody calls at `gate`, who from then on takes the parent's place, and gives
    /// the word; false when the caller has gone without a word.
    pub(crate) fn wait_at(&self, gate: BorrowedFd<'_>) -> Result<bool, Errno> {
        let caller = loop {
            match accept_with(gate, SocketFlags::CLOEXEC) {
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                other => break other?,
            }
        };
        let socket = self.report.as_ref().ok_or(Errno::BADF)?;
        place_until_exec(caller.as_fd(), socket.as_raw_fd())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(self.hears())
    }

    /// Waits for the parent's word; false when the parent has gone.
    pub(crate) fn hears(&self) -> bool {
        let Some(socket) = &self.report else {
            return false;
        };
        let mut byte = [0_u8; 1];
        loop {
            match rustix::io::read(socket, &mut byte) {
                Err(Errno::INTR) => {}
                other => return other == Ok(1),
            }
        }
    }
}

impl ProcessPlan {
    /// A failure that concerns the process.
    pub(crate) fn failed(&self, failure: Failure) -> Error {
        let Failure { step, item, errno } = failure;
        match step {
            Step::Lookup => self.command.not_found(errno),
            Step::Execute => not_executed(&self.command.name, errno),
            Step::WorkingDirectory => Error::WorkingDirectory {
                path: self.directory.to_string_lossy().into_owned(),
                reason: errno.into(),
            },
            Step::Rlimit => {
                let name = self.limits.get(usize::from(item));
                let name = name.map_or("a resource limit", |limit| limit.name.as_str());
                let why = match errno {
                    Errno::PERM => {
                        " (it is above what this host allows, or the engine lacks CAP_SYS_RESOURCE)"
                    }
                    _ => "",
                };
                Error::step(format!("set {name}{why}"))(errno)
            }
            _ => self.attributes.failed(failure),
        }
    }
}

/// Why a program that was found does not run.
pub(crate) fn not_executed(command: &str, errno: Errno) -> Error {
    match errno {
        Errno::ACCESS | Errno::PERM => Error::CommandNotExecutable(command.to_owned()),
        _ => Error::Execute {
            command: command.to_owned(),
            reason: errno.into(),
        },
    }
}
