//! The request that turns a waiting shim into the supervisor of one container.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use sampan_oci::runtime::{IdMapping, LinuxResources, NamespaceKind, Process, Spec};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{AttachSpec, Bytes};

/// Everything a shim needs to run a container, except for the descriptors that come with it.
/// A shim refuses what it does not know: it could be a restriction.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// The container's id.
    pub id: String,
    /// What to run. `process.terminal` decides between a terminal and pipes.
    pub spec: Spec,
    /// Where the root file system is.
    pub root: RootSource,
    /// The container's cgroup, relative to each hierarchy's top: `sampan/<id>`.
    pub cgroup: String,
    /// Whether it is in every hierarchy, not only where limits need it: for an init that makes
    /// groups of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cgroup_everywhere: bool,
    /// Where the shim moves itself, relative as above; absent leaves it where it was started.
    #[serde(default)]
    pub shim_cgroup: Option<String>,
    /// Height and width of the terminal at the start.
    #[serde(default)]
    pub terminal_size: Option<(u16, u16)>,
    /// Whether the process has a standard input other than `/dev/null`.
    #[serde(default)]
    pub open_stdin: bool,
    /// Whether standard input ends when the first client that feeds it leaves.
    #[serde(default)]
    pub stdin_once: bool,
    /// Whether a small init of the shim's own runs as process 1 (`/sbin/docker-init`).
    #[serde(default)]
    pub init: bool,
    /// What becomes of the output.
    pub log: LogConfig,
    /// Whether the container is removed at its end: nothing is synced to disk then.
    #[serde(default)]
    pub auto_remove: bool,
    /// The container's directory; logs, exit file and journal go below it.
    pub directory: PathBuf,
    /// Existing directory (mode 0700) in which the control socket is made.
    pub socket_directory: PathBuf,
    /// Namespaces to join, in the order of their descriptors.
    #[serde(default)]
    pub namespaces: Vec<NamespaceKind>,
    /// Whether a descriptor of the init's executable comes along (see [`LaunchDescriptors::init`]).
    #[serde(default)]
    pub has_init_descriptor: bool,
    /// Destinations of the bind mounts in `spec` that have no source: those come as descriptors, in
    /// this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Number of descriptors that are only kept open until the end (reserved host ports).
    #[serde(default)]
    pub held: usize,
    /// Clients that attached before the start, in the order of their descriptors.
    #[serde(default)]
    pub attach: Vec<AttachSpec>,
    /// The system call filter, compiled, in place of the specification's section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// When the shim starts the container again by itself.
    #[serde(default, skip_serializing_if = "RestartPolicy::is_no")]
    pub restart: RestartPolicy,
    /// How the shim finds out whether the container works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// The program that makes the container, in place of the runtime that is linked in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<ForeignRuntime>,
    /// Whether the shim notes when it did what ([`crate::Event::Steps`]).
    #[serde(default)]
    pub note_steps: bool,
}

/// An OCI runtime with runc's command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForeignRuntime {
    /// By which people know it.
    pub name: String,
    /// The executable.
    pub program: PathBuf,
    /// Arguments in front of all others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
    /// Where it keeps its state (`--root`).
    pub state: PathBuf,
    /// A mount that it must not see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<PathBuf>,
}

/// The argument of `sampan-shim user-namespaces`: ids in a namespace of users.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMaps {
    /// Of users.
    pub users: Vec<IdMapping>,
    /// Of groups.
    pub groups: Vec<IdMapping>,
}

/// What a waiting shim may do before it is known what it will run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preparation {
    /// As [`Launch::cgroup`] will be.
    pub cgroup: String,
    /// As [`Launch::shim_cgroup`].
    pub shim_cgroup: String,
    /// Limits that the container is likely to have: not set, they say where it needs a cgroup.
    pub resources: LinuxResources,
}

/// A system call filter as the kernel takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Instructions of classic BPF (`struct sock_filter`), one after the other.
    pub instructions: Bytes,
    /// Flags of seccomp(2).
    pub flags: u32,
}

/// When a container whose first process has ended is started again. One that was ended by hand
/// ([`crate::Request::Signal`]) never is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// Whenever it ends.
    Always,
    /// When it ends with a code other than 0, at most so many times; 0 is for ever.
    OnFailure(u32),
}

impl RestartPolicy {
    /// Whether nothing is ever started again.
    pub fn is_no(&self) -> bool {
        *self == Self::No
    }
}

/// How it is found out whether a container works: a further process in it, again and again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// The process. The container works when it ends with 0.
    pub process: Process,
    /// Between the end of one check and the start of the next.
    pub interval: Duration,
    /// After which a check is killed and counts as failed.
    pub timeout: Duration,
    /// After the start, in which failures do not count until a check has succeeded.
    pub start_period: Duration,
    /// In place of `interval` in the start period, until a check has succeeded.
    pub start_interval: Duration,
    /// So many failures in a row make it unhealthy; at least 1.
    pub retries: u32,
}

/// Where the root file system of a container comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RootSource {
    /// A detached mount, sent as the first descriptor.
    Descriptor,
    /// A directory on the host.
    Directory(PathBuf),
}

/// What becomes of a container's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// Where output goes.
    pub driver: LogDriver,
    /// Bytes after which a file is rotated; absent never rotates.
    pub max_size: Option<u64>,
    /// Number of files kept, the current one included; at least 1.
    pub max_file: u32,
    /// Whether rotated files are packed.
    pub compress: bool,
    /// Attributes added to each entry.
    pub attrs: BTreeMap<String, String>,
}

impl Default for LogConfig {
    /// Bounded: three files of 10 MB.
    fn default() -> Self {
        Self {
            driver: LogDriver::JsonFile,
            max_size: Some(10_000_000),
            max_file: 3,
            compress: false,
            attrs: BTreeMap::new(),
        }
    }
}

impl LogDriver {
    /// Where the log of the container `id` lies below the container's directory: directory and
    /// name; none where there is no log.
    pub fn place(self, id: &str) -> Option<(&'static str, String)> {
        match self {
            Self::JsonFile => Some(("", format!("{id}-json.log"))),
            Self::Local => Some(("local-logs", "container.log".to_owned())),
            Self::None => None,
        }
    }
}

/// The log drivers a shim writes itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// Docker's JSON lines in `<directory>/<id>-json.log`.
    #[default]
    JsonFile,
    /// Docker's records in `<directory>/local-logs/container.log`.
    Local,
    /// Output is only seen by attached clients.
    None,
}

/// The descriptors that travel with a [`Launch`].
#[derive(Debug, Default)]
pub struct LaunchDescriptors {
    /// The detached mount of the root; needed with [`RootSource::Descriptor`].
    pub root: Option<OwnedFd>,
    /// Namespaces to join.
    pub namespaces: Vec<(NamespaceKind, OwnedFd)>,
    /// The init's executable, on a read-only file system from where it can be bound. Without it the
    /// shim makes such a copy of itself on a detached one, which takes Linux 6.15 and costs memory
    /// per container.
    pub init: Option<OwnedFd>,
    /// What is bound, with its destination.
    pub sources: Vec<(String, OwnedFd)>,
    /// Kept open until the container's end (or [`crate::Request::Release`]).
    pub held: Vec<OwnedFd>,
    /// Sockets of the clients in `Launch::attach`.
    pub attach: Vec<OwnedFd>,
}

/// The descriptors are not those that the launch declares.
#[derive(Debug, Error)]
#[error("launch came with {found} descriptors where it declares {declared}")]
pub struct DescriptorError {
    declared: usize,
    found: usize,
}

impl LaunchDescriptors {
    /// Declares the descriptors in `launch` and puts them in the order in which they are sent.
    pub fn declare(self, launch: &mut Launch) -> Vec<OwnedFd> {
        let mut order = Vec::new();
        if let Some(root) = self.root {
            launch.root = RootSource::Descriptor;
            order.push(root);
        }
        launch.namespaces.clear();
        for (kind, descriptor) in self.namespaces {
            launch.namespaces.push(kind);
            order.push(descriptor);
        }
        launch.has_init_descriptor = self.init.is_some();
        order.extend(self.init);
        launch.sources.clear();
        for (destination, descriptor) in self.sources {
            launch.sources.push(destination);
            order.push(descriptor);
        }
        launch.held = self.held.len();
        order.extend(self.held);
        order.extend(self.attach);
        order
    }

    /// Takes the descriptors apart again as `launch` declares them.
    pub fn collect(launch: &Launch, received: Vec<OwnedFd>) -> Result<Self, DescriptorError> {
        let has_root = launch.root == RootSource::Descriptor;
        let declared = usize::from(has_root)
            + launch.namespaces.len()
            + usize::from(launch.has_init_descriptor)
            + launch.sources.len()
            + launch.held
            + launch.attach.len();
        let found = received.len();
        if declared != found {
            return Err(DescriptorError { declared, found });
        }
        let mut rest = received.into_iter();
        Ok(Self {
            root: if has_root { rest.next() } else { None },
            namespaces: launch
                .namespaces
                .iter()
                .copied()
                .zip(rest.by_ref().take(launch.namespaces.len()))
                .collect(),
            init: if launch.has_init_descriptor {
                rest.next()
            } else {
                None
            },
            sources: launch
                .sources
                .iter()
                .cloned()
                .zip(rest.by_ref().take(launch.sources.len()))
                .collect(),
            held: rest.by_ref().take(launch.held).collect(),
            attach: rest.collect(),
        })
    }
}
