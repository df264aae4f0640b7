use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sampan_cgroups::{Cgroup, Hierarchies};
use sampan_kernel::clone::{Child, Namespaces, setns, spawn_copy};
use sampan_kernel::descriptors::close_copy;
use sampan_kernel::mount::{MountAttributes, MountChange, Propagation, Reach, change_mount};
use sampan_kernel::pidfd;
use sampan_oci::runtime::{Linux, NamespaceKind, Spec};

use crate::bundle::{Bundle, Root};
use crate::child::ContainerPlan;
use crate::command::c_string;
use crate::container::{Created, Parts};
use crate::failure::{Failure, REPORT_SIZE, Report};
use crate::mounts::{
    MountContext, MountPlans, clean, clone_descriptor, clone_path, open_directory,
};
use crate::process::{MissingDirectory, Planned, ProcessContext, ProcessPlan};
use crate::{Error, devices, sysctl};

/// Makes a container up to the point where only its program is missing: the
/// cgroup with its limits, the namespaces, the mounts. The process waits for
/// [`Created::start`]; dropping [`Created`] ends it and leaves nothing.
///
/// Blocks for some milliseconds. The caller has one thread.
///
/// # Errors
/// One sentence about the first thing that could not be done; nothing is left.
pub fn create(hierarchies: &Hierarchies, bundle: Bundle) -> Result<Created, Error> {
    let linux = bundle.spec.linux.clone().unwrap_or_default();
    let done = bundle.on_step;
    refuse_unsupported(&bundle.spec, &linux)?;
    let cgroup = match &bundle.cgroup {
        Some(path) => {
            let mut resources = linux.resources.clone().unwrap_or_default();
            if !resources.devices.is_empty() {
                resources.devices.extend(devices::always_allowed());
            }
            Some(Cgroup::create(hierarchies, path, &resources)?)
        }
        None => None,
    };
    let mut cgroup = NewCgroup(cgroup);
    done("cgroup made");
    let mut prepared = Prepared::new(hierarchies, bundle, &linux, cgroup.0.as_ref())?;
    done("mounts prepared");
    let child = prepared.spawn()?;
    done("process cloned");
    let mut created = Created::new(
        Parts {
            child,
            cgroup: cgroup.0.take(),
            namespaces: prepared.namespaces,
            lookup_root: prepared.lookup_root,
            terminals: prepared.plan.mounts.terminals.take(),
        },
        prepared.terminal,
        prepared.socket,
        prepared.plan,
    );
    created.wait_until_ready()?;
    done("process in its root");
    Ok(created)
}

/// Removes the cgroup again unless it has been handed on.
struct NewCgroup(Option<Cgroup>);

impl Drop for NewCgroup {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.0 {
            // What failed before is the error that explains.
            drop(cgroup.delete());
        }
    }
}

/// All that is ready before the first process exists.
struct Prepared {
    plan: ContainerPlan,
    /// The parent's end of the socket to the child, and the child's, which
    /// lives in the plan.
    socket: OwnedFd,
    terminal: Option<OwnedFd>,
    namespaces: ContainerNamespaces,
    into_cgroup: Option<OwnedFd>,
    lookup_root: OwnedFd,
}

/// The namespaces of a container.
#[derive(Debug)]
pub(crate) struct ContainerNamespaces {
    /// Made by clone3.
    cloned: Namespaces,
    /// Made by the child itself.
    unshared: Namespaces,
    /// Joined, besides that of process ids.
    joined: Vec<(Namespaces, OwnedFd)>,
    /// The joined namespace of process ids.
    pid: Option<OwnedFd>,
    /// All that differ from the caller's.
    pub(crate) all: Namespaces,
}

fn refuse_unsupported(spec: &Spec, linux: &Linux) -> Result<(), Error> {
    let refused = |what: &str| Err(Error::Unsupported(what.to_owned()));
    if spec.hooks.as_ref().is_some_and(|hooks| !hooks.is_empty()) {
        return refused("running hooks");
    }
    if !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty() {
        return refused("a user namespace");
    }
    if linux
        .mount_label
        .as_ref()
        .is_some_and(|label| !label.is_empty())
    {
        return refused("a security label for mounts");
    }
    Ok(())
}

impl Prepared {
    fn new(
        hierarchies: &Hierarchies,
        bundle: Bundle,
        linux: &Linux,
        cgroup: Option<&Cgroup>,
    ) -> Result<Self, Error> {
        let spec = &bundle.spec;
        let mut namespaces =
            ContainerNamespaces::plan(linux, bundle.namespaces, &bundle.directory)?;
        let process = spec
            .process
            .as_ref()
            .ok_or_else(|| Error::Invalid("the specification has no process".to_owned()))?;
        let propagation = RootPropagation::parse(linux.rootfs_propagation.as_deref())?;
        let (root, lookup_root) = open_root(bundle.root, &bundle.directory, propagation)?;
        let context = MountContext {
            directory: &bundle.directory,
            hierarchies,
            cgroup,
        };
        let mounts = MountPlans::new(&spec.mounts, &context)?;
        let attach = cgroup.map(Cgroup::attach_plan).transpose()?;
        let (into_cgroup, tasks) =
            attach.map_or((None, Vec::new()), |plan| (plan.into_cgroup, plan.tasks));
        let (socket, report) = report_socket()?;
        let Planned { plan, terminal } = ProcessPlan::plan(
            process,
            bundle.stdio,
            bundle.seccomp,
            bundle.descriptors,
            ProcessContext {
                root: lookup_root.as_fd(),
                terminals: mounts.terminals.as_ref().map(AsFd::as_fd),
                missing_directory: MissingDirectory::Create,
                personality: linux.personality.as_ref(),
                tasks,
                report,
            },
        )?;
        let paths = |paths: &[String]| -> Result<Vec<_>, Error> {
            paths.iter().map(|path| c_string(&clean(path))).collect()
        };
        let read_only = spec.root.as_ref().is_some_and(|root| root.readonly);
        let own_names = namespaces.is_own(Namespaces::UTS);
        let plan = ContainerPlan {
            unshare: namespaces.unshared,
            time_offsets: time_offsets(linux, &namespaces)?,
            host_name: name_to_set(spec.hostname.as_deref(), own_names)?,
            domain_name: name_to_set(spec.domainname.as_deref(), own_names)?,
            root,
            nodes: devices::plan(&linux.devices)?,
            sysctls: sysctl::plan(&linux.sysctl, namespaces.all)?,
            masked: paths(&linux.masked_paths)?,
            read_only: paths(&linux.readonly_paths)?,
            root_change: MountChange {
                set: if read_only {
                    MountAttributes::READ_ONLY
                } else {
                    MountAttributes::empty()
                },
                clear: MountAttributes::empty(),
                propagation: propagation.shared(),
            },
            root_reach: propagation.reach_if_shared(),
            join: std::mem::take(&mut namespaces.joined),
            mounts,
            process: plan,
        };
        Ok(Self {
            plan,
            socket,
            terminal,
            namespaces,
            into_cgroup,
            lookup_root,
        })
    }

    fn spawn(&mut self) -> Result<Child, Error> {
        let plan = &self.plan;
        let cgroup = self.into_cgroup.as_ref().map(AsFd::as_fd);
        let child = in_pid_namespace(self.namespaces.pid.as_ref().map(AsFd::as_fd), || {
            spawn_copy(self.namespaces.cloned, cgroup, || {
                // So that the parent's end is the parent's alone: its death is
                // the end of the stream.
                close_copy(self.socket.as_fd());
                plan.run()
            })
        })?;
        self.plan.process.close_report();
        Ok(child)
    }
}

/// Runs `spawn` with children going into another namespace of process ids, and
/// comes back to the caller's own.
///
/// The child must be inside before it mounts /proc, which shows the namespace
/// of who mounts it. So whoever is in there with `CAP_SYS_PTRACE` can look at it
/// while it is set up; containers that share one namespace trust each other.
fn in_pid_namespace<T>(
    namespace: Option<BorrowedFd<'_>>,
    spawn: impl FnOnce() -> std::io::Result<T>,
) -> Result<T, Error> {
    let Some(namespace) = namespace else {
        return spawn().map_err(Error::io_step("start the container's process"));
    };
    let own = File::open("/proc/self/ns/pid").map_err(Error::io_step("open /proc/self/ns/pid"))?;
    setns(namespace, Namespaces::PID)
        .map_err(Error::io_step("join the namespace of process ids"))?;
    let spawned = spawn();
    setns(own.as_fd(), Namespaces::PID)
        .map_err(Error::io_step("return to the namespace of process ids"))?;
    spawned.map_err(Error::io_step("start the container's process"))
}

/// The parent's and the child's end.
pub(crate) fn report_socket() -> Result<(OwnedFd, OwnedFd), Error> {
    socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(Error::step("make a socket pair"))
}

/// What came from the child.
#[derive(Debug)]
pub(crate) enum Answer {
    Ready,
    Spawned(i32),
    Failed(Failure),
    /// It runs its program, or it has died.
    Closed,
}

/// Waits for the child's next word.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> Result<Answer, Error> {
    let mut bytes = [0; REPORT_SIZE];
    let mut filled = 0;
    while filled < REPORT_SIZE {
        match rustix::io::read(socket, &mut bytes[filled..]) {
            // A reset is what an end with unread bytes leaves behind.
            Ok(0) | Err(Errno::CONNRESET) => return Ok(Answer::Closed),
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::step("hear from the container's process")(errno)),
        }
    }
    Ok(match Report::from_bytes(bytes) {
        Report::Ready => Answer::Ready,
        Report::Spawned(pid) => Answer::Spawned(pid),
        Report::Failed(failure) => Answer::Failed(failure),
    })
}

/// What became of a child that said nothing.
pub(crate) fn died(child: &Child) -> Error {
    let how = match pidfd::wait(child.pidfd.as_fd()) {
        Ok(pidfd::Ending::Exited(code)) => format!("exit code {code}"),
        Ok(pidfd::Ending::Killed(signal)) => format!("killed by signal {signal}"),
        Err(error) => error.to_string(),
    };
    Error::Died(how)
}

impl ContainerNamespaces {
    fn plan(
        linux: &Linux,
        given: Vec<(NamespaceKind, OwnedFd)>,
        directory: &Path,
    ) -> Result<Self, Error> {
        let mut plan = Self {
            cloned: Namespaces::empty(),
            unshared: Namespaces::empty(),
            joined: Vec::new(),
            pid: None,
            all: Namespaces::empty(),
        };
        let given_kinds: Vec<_> = given.iter().map(|(kind, _)| *kind).collect();
        for (kind, namespace) in given {
            plan.join(kind, namespace)?;
        }
        for namespace in &linux.namespaces {
            if given_kinds.contains(&namespace.kind) {
                continue;
            }
            match &namespace.path {
                Some(path) if !path.as_os_str().is_empty() => {
                    let path = directory.join(path);
                    let file = File::open(&path)
                        .map_err(Error::io_step(format!("open {}", path.display())))?;
                    plan.join(namespace.kind, file.into())?;
                }
                _ => plan.make(namespace.kind, linux)?,
            }
        }
        if !plan.all.contains(Namespaces::MOUNT) {
            return Err(Error::Unsupported(
                "a container without a mount namespace of its own".to_owned(),
            ));
        }
        Ok(plan)
    }

    fn make(&mut self, kind: NamespaceKind, linux: &Linux) -> Result<(), Error> {
        let flag = flag_of(kind)?;
        if self.all.contains(flag) {
            return Err(Error::Invalid(format!("namespace {kind:?} is given twice")));
        }
        self.all |= flag;
        match kind {
            // The view of the cgroup tree starts where the process is when it
            // makes the namespace, so it must have entered its cgroup before.
            NamespaceKind::Cgroup => self.unshared |= flag,
            // clone3 freezes the offsets; after unshare they can be set, and
            // execve enters the namespace (Linux 6.3).
            NamespaceKind::Time if !linux.time_offsets.is_empty() => self.unshared |= flag,
            _ => self.cloned |= flag,
        }
        Ok(())
    }

    fn join(&mut self, kind: NamespaceKind, namespace: OwnedFd) -> Result<(), Error> {
        let flag = flag_of(kind)?;
        if self.all.contains(flag) {
            return Err(Error::Invalid(format!("namespace {kind:?} is given twice")));
        }
        match kind {
            NamespaceKind::Mount => {
                return Err(Error::Unsupported("joining a mount namespace".to_owned()));
            }
            NamespaceKind::Pid => self.pid = Some(namespace),
            _ => self.joined.push((flag, namespace)),
        }
        self.all |= flag;
        Ok(())
    }

    fn is_own(&self, flag: Namespaces) -> bool {
        self.all.contains(flag)
    }
}

fn flag_of(kind: NamespaceKind) -> Result<Namespaces, Error> {
    Ok(match kind {
        NamespaceKind::Pid => Namespaces::PID,
        NamespaceKind::Network => Namespaces::NETWORK,
        NamespaceKind::Ipc => Namespaces::IPC,
        NamespaceKind::Uts => Namespaces::UTS,
        NamespaceKind::Mount => Namespaces::MOUNT,
        NamespaceKind::Cgroup => Namespaces::CGROUP,
        NamespaceKind::Time => Namespaces::TIME,
        NamespaceKind::User => return Err(Error::Unsupported("a user namespace".to_owned())),
    })
}

fn time_offsets(linux: &Linux, namespaces: &ContainerNamespaces) -> Result<Option<Vec<u8>>, Error> {
    if linux.time_offsets.is_empty() {
        return Ok(None);
    }
    if !namespaces.unshared.contains(Namespaces::TIME) {
        return Err(Error::Invalid(
            "time offsets need a new time namespace".to_owned(),
        ));
    }
    let mut text = String::new();
    for (clock, offset) in &linux.time_offsets {
        if clock != "monotonic" && clock != "boottime" {
            return Err(Error::Invalid(format!(
                "no time offset for clock {clock:?}"
            )));
        }
        text.push_str(&format!("{clock} {} {}\n", offset.secs, offset.nanosecs));
    }
    Ok(Some(text.into_bytes()))
}

/// A host or domain name, which must never become the host's.
fn name_to_set(name: Option<&str>, own: bool) -> Result<Option<Vec<u8>>, Error> {
    match name {
        None | Some("") => Ok(None),
        Some(_) if !own => Err(Error::Invalid(
            "unable to set hostname without a private UTS namespace".to_owned(),
        )),
        Some(name) if name.len() > 64 => Err(Error::Invalid(format!(
            "the host or domain name {name:?} is longer than 64 bytes"
        ))),
        Some(name) => Ok(Some(name.as_bytes().to_vec())),
    }
}

/// How mounts spread between the container's root and the host.
#[derive(Clone, Copy)]
struct RootPropagation(Propagation, Reach);

impl RootPropagation {
    fn parse(text: Option<&str>) -> Result<Self, Error> {
        Ok(match text {
            None | Some("" | "rprivate") => Self(Propagation::Private, Reach::Tree),
            Some("private") => Self(Propagation::Private, Reach::Mount),
            Some("slave") => Self(Propagation::Slave, Reach::Mount),
            Some("rslave") => Self(Propagation::Slave, Reach::Tree),
            Some("shared") => Self(Propagation::Shared, Reach::Mount),
            Some("rshared") => Self(Propagation::Shared, Reach::Tree),
            Some("unbindable") => Self(Propagation::Unbindable, Reach::Mount),
            Some("runbindable") => Self(Propagation::Unbindable, Reach::Tree),
            Some(other) => {
                return Err(Error::Invalid(format!(
                    "unknown propagation of the root file system: {other:?}"
                )));
            }
        })
    }

    /// What the detached root is set to before it is attached. A shared root
    /// cannot be pivoted to, so that comes last; slaves keep their master.
    fn before(self) -> Propagation {
        match self.0 {
            Propagation::Shared => Propagation::Private,
            other => other,
        }
    }

    fn shared(self) -> Option<Propagation> {
        (self.0 == Propagation::Shared).then_some(self.0)
    }

    fn reach_if_shared(self) -> Reach {
        self.shared().map_or(Reach::Mount, |_| self.1)
    }
}

/// The root as a detached mount for this one start, and a descriptor for
/// looking up users that the container's own mounts do not show through.
fn open_root(
    root: Root,
    directory: &Path,
    propagation: RootPropagation,
) -> Result<(OwnedFd, OwnedFd), Error> {
    let (tree, lookup) = match root {
        Root::Mount(mount) => match clone_descriptor(mount.as_fd(), Reach::Tree) {
            Ok(tree) => (tree, mount),
            // Before Linux 6.15 a detached mount cannot be cloned: this start
            // takes it, and a second one fails.
            Err(Errno::INVAL) => {
                let copy = rustix::io::fcntl_dupfd_cloexec(&mount, 3)
                    .map_err(Error::step("duplicate a descriptor"))?;
                (mount, copy)
            }
            Err(errno) => {
                return Err(Error::step("clone the root file system")(errno));
            }
        },
        Root::Directory(path) => {
            let path = directory.join(path);
            let what = || Error::step(format!("open the root file system {}", path.display()));
            let lookup = open_directory(&path).map_err(what())?;
            (clone_path(&path, Reach::Tree).map_err(what())?, lookup)
        }
    };
    let change = MountChange {
        propagation: Some(propagation.before()),
        ..MountChange::default()
    };
    change_mount(tree.as_fd(), &change, Reach::Tree).map_err(Error::io_step(
        "set the propagation of the root file system",
    ))?;
    Ok((tree, lookup))
}
