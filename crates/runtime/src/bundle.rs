use std::os::fd::OwnedFd;
use std::path::PathBuf;

use sampan_cgroups::{Cgroup, CgroupPath, CgroupReach};
use sampan_kernel::seccomp::SeccompProgram;
use sampan_oci::runtime::{NamespaceKind, Personality, Process, Spec, State};

use crate::agent::Agent;
use crate::child::{Gate, RootEntry};

/// A container to start.
#[derive(Debug)]
pub struct Bundle {
    /// What to run and how; `root.path` is not looked at (see `root`), and
    /// `linux.seccomp` only through `seccomp`.
    pub spec: Spec,
    /// The root file system.
    pub root: Root,
    /// Existing namespaces to join, in place of those of the same kind in the
    /// specification.
    pub namespaces: Vec<(NamespaceKind, OwnedFd)>,
    /// The cgroup to make; none leaves the container in the caller's.
    pub cgroup: Option<CgroupPath>,
    /// Standard input, output and error.
    pub stdio: Stdio,
    /// The system call filter, compiled.
    pub seccomp: Option<SeccompProgram>,
    /// Descriptors that the program finds open from 3 on.
    pub descriptors: Vec<OwnedFd>,
    /// What relative paths on the host are relative to, and what hooks are told as the bundle.
    pub directory: PathBuf,
    /// The container's id, for hooks and agents.
    pub id: String,
    /// Where the process waits to be started.
    pub gate: Gate,
    /// How it comes into its root.
    pub entry: RootEntry,
    /// Whether the cgroup joins every hierarchy, for tools that look for it there.
    pub cgroup_reach: CgroupReach,
    /// The name of a session keyring of the container's own; none leaves it the caller's.
    pub keyring: Option<String>,
    /// Called when a step was done, for whoever measures.
    pub on_step: fn(&'static str),
}

impl Bundle {
    /// A bundle with no cgroup, no filter and the caller's standard streams.
    #[must_use]
    pub fn new(spec: Spec, root: Root) -> Self {
        Self {
            spec,
            root,
            namespaces: Vec::new(),
            cgroup: None,
            stdio: Stdio::Inherit,
            seccomp: None,
            descriptors: Vec::new(),
            directory: PathBuf::from("/"),
            id: String::new(),
            gate: Gate::Parent,
            entry: RootEntry::Pivot,
            cgroup_reach: CgroupReach::Needed,
            keyring: None,
            on_step: |_| {},
        }
    }
}

/// Where the root file system comes from.
#[derive(Debug)]
pub enum Root {
    /// A detached mount (fsmount(2)). It is cloned for each start where the
    /// kernel can do that (Linux 6.15); before, it is used up by the first.
    Mount(OwnedFd),
    /// A directory of the host with all that is mounted below it.
    Directory(PathBuf),
}

/// Standard streams of a process.
#[derive(Debug)]
pub enum Stdio {
    /// These three. Pipes change their owner to the process' user.
    Pipes {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A new terminal of the container's own devpts instance, whose other end
    /// the caller gets.
    Terminal {
        /// Rows and columns.
        size: Option<(u16, u16)>,
    },
    /// The caller's.
    Inherit,
}

/// A further process to run in a container.
#[derive(Debug)]
pub struct ExecRequest {
    /// What to run.
    pub process: Process,
    /// Standard streams.
    pub stdio: Stdio,
    /// The system call filter, compiled.
    pub seccomp: Option<SeccompProgram>,
    /// Descriptors that the program finds open from 3 on.
    pub descriptors: Vec<OwnedFd>,
    /// Who answers for calls where the filter asks, and what it is told.
    pub agent: Option<(Agent, State)>,
    /// The container's execution domain.
    pub personality: Option<Personality>,
    /// The name of the container's session keyring.
    pub keyring: Option<String>,
    /// The cgroup to run in, in place of the container's.
    pub cgroup: Option<Cgroup>,
}

impl ExecRequest {
    /// A request with no filter and the caller's standard streams.
    #[must_use]
    pub fn new(process: Process) -> Self {
        Self {
            process,
            stdio: Stdio::Inherit,
            seccomp: None,
            descriptors: Vec::new(),
            agent: None,
            personality: None,
            keyring: None,
            cgroup: None,
        }
    }
}
