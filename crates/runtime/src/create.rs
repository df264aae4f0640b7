use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::Signal;
use sampan_cgroups::{Cgroup, Hierarchies};
use sampan_kernel::clone::{Child, Namespaces, setns, spawn_copy};
use sampan_kernel::descriptors::close_copy;
use sampan_kernel::mount::{MountAttributes, MountChange};
use sampan_kernel::pidfd;
use sampan_oci::runtime::{Hooks, Linux, Spec};
use sampan_text::path::absolute;

use crate::agent::Agent;
use crate::attributes::has_selinux;
use crate::bundle::{Bundle, Root};
use crate::child::ContainerPlan;
use crate::command::c_string;
use crate::container::Parts;
use crate::created::{About, Created};
use crate::devices::Origin;
use crate::exec::open_child;
use crate::mounts::{MountContext, MountPlans};
use crate::namespaces::{ContainerNamespaces, UserNamespace, name_to_set, time_offsets};
use crate::process::{MissingDirectory, Planned, ProcessContext, ProcessPlan};
use crate::report::{Answer, died, receive, report_socket, tell};
use crate::root::{RootPropagation, open_root};
use crate::streams::Terminals;
use crate::{Error, devices, sysctl};

/// Makes a container up to the point where only its program is missing: the
/// cgroup with its limits, the namespaces, the mounts. The process waits for
/// [`Created::start`]; dropping [`Created`] ends it and leaves nothing.
///
/// Hooks of the specification that belong here are run: `prestart`, `createRuntime` and
/// `createContainer`.
///
/// Blocks for some milliseconds. The caller has one thread.
///
/// # Errors
/// One sentence about the first thing that could not be done; nothing is left.
pub fn create(hierarchies: &Hierarchies, bundle: Bundle) -> Result<Created, Error> {
    let linux = bundle.spec.linux.clone().unwrap_or_default();
    let done = bundle.on_step;
    refuse_unsupported(&bundle, &linux)?;
    let cgroup = match &bundle.cgroup {
        Some(path) => {
            let mut resources = linux.resources.clone().unwrap_or_default();
            if !resources.devices.is_empty() {
                resources.devices.extend(devices::always_allowed());
            }
            let reach = bundle.cgroup_reach;
            Some(Cgroup::create_with(hierarchies, path, &resources, reach)?)
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
            namespaces: prepared.plan.namespaces.all,
            lookup_root: prepared.lookup_root,
            terminals: prepared.plan.mounts.terminals.take(),
        },
        prepared.terminal,
        prepared.socket,
        prepared.plan,
        prepared.about,
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
    into_cgroup: Option<OwnedFd>,
    lookup_root: OwnedFd,
    about: About,
}

fn refuse_unsupported(bundle: &Bundle, linux: &Linux) -> Result<(), Error> {
    let refused = |what: &str| Err(Error::Unsupported(what.to_owned()));
    let label = linux.mount_label.as_ref();
    if label.is_some_and(|label| !label.is_empty()) && !has_selinux() {
        return refused("linux.mountLabel (this kernel has no SELinux policy)");
    }
    if linux.intel_rdt.is_some() {
        return refused(if Path::new("/sys/fs/resctrl").exists() {
            "linux.intelRdt"
        } else {
            "linux.intelRdt (this kernel has no resctrl)"
        });
    }
    if has_hooks_in_between(&bundle.spec) && matches!(bundle.root, Root::Mount(_)) {
        return refused("a hook before the start without a root file system in a directory");
    }
    Ok(())
}

/// Whether there are hooks that see the container before it enters its root.
fn has_hooks_in_between(spec: &Spec) -> bool {
    let any = |hooks: &Hooks| {
        !(hooks.prestart.is_empty()
            && hooks.create_runtime.is_empty()
            && hooks.create_container.is_empty())
    };
    spec.hooks.as_ref().is_some_and(any)
}

impl Prepared {
    fn new(
        hierarchies: &Hierarchies,
        bundle: Bundle,
        linux: &Linux,
        cgroup: Option<&Cgroup>,
    ) -> Result<Self, Error> {
        let root_for_hooks = root_for_hooks(&bundle)?;
        let spec = &bundle.spec;
        let starts_hooks = spec
            .hooks
            .as_ref()
            .is_some_and(|hooks| !hooks.start_container.is_empty());
        let filter_for_hooks = bundle.seccomp.clone().filter(|_| starts_hooks);
        let namespaces = ContainerNamespaces::plan(linux, bundle.namespaces, &bundle.directory)?;
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
            image: lookup_root.as_fd(),
            user: &namespaces.user,
            label: linux
                .mount_label
                .as_deref()
                .filter(|label| !label.is_empty()),
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
                terminals: match &mounts.terminals {
                    Some(instance) => Terminals::Of(instance.as_fd()),
                    None if mounts.has_own_terminals() => Terminals::Inside,
                    None => Terminals::Missing,
                },
                missing_directory: MissingDirectory::Create,
                personality: linux.personality.as_ref(),
                keyring: bundle.keyring.as_deref(),
                affinity: None,
                tasks,
                report,
            },
        )?;
        let paths = |paths: &[String]| -> Result<Vec<_>, Error> {
            paths.iter().map(|path| c_string(&absolute(path))).collect()
        };
        let read_only = spec.root.as_ref().is_some_and(|root| root.readonly);
        let own_names = namespaces.is_own(Namespaces::UTS);
        let origin = match namespaces.user {
            UserNamespace::Callers => Origin::Made,
            UserNamespace::New(_) | UserNamespace::Joined(_) => Origin::Host,
        };
        let nodes = if mounts.foreign_dev {
            Vec::new()
        } else {
            devices::plan(&linux.devices, origin)?
        };
        let plan = ContainerPlan {
            time_offsets: time_offsets(linux, &namespaces)?,
            host_name: name_to_set(spec.hostname.as_deref(), own_names)?,
            domain_name: name_to_set(spec.domainname.as_deref(), own_names)?,
            root,
            root_for_hooks,
            entry: bundle.entry,
            gate: bundle.gate,
            nodes,
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
            namespaces,
            mounts,
            process: plan,
        };
        Ok(Self {
            plan,
            socket,
            terminal,
            into_cgroup,
            lookup_root,
            about: About {
                id: bundle.id,
                agent: linux.seccomp.as_ref().and_then(Agent::of),
                seccomp: filter_for_hooks,
                spec: bundle.spec,
                directory: bundle.directory,
            },
        })
    }

    fn spawn(&mut self) -> Result<Child, Error> {
        let child = match &self.plan.namespaces.user {
            UserNamespace::Callers => self.spawn_directly(),
            UserNamespace::New(_) | UserNamespace::Joined(_) => self.spawn_inside(),
        };
        self.plan.process.close_report();
        child
    }

    fn spawn_directly(&self) -> Result<Child, Error> {
        let namespaces = &self.plan.namespaces;
        let cgroup = self.into_cgroup.as_ref().map(AsFd::as_fd);
        in_pid_namespace(namespaces.pid.as_ref().map(AsFd::as_fd), || {
            spawn_copy(namespaces.cloned, cgroup, || {
                // So that the parent's end is the parent's alone: its death is
                // the end of the stream.
                close_copy(self.socket.as_fd());
                self.plan.run()
            })
        })
    }

    /// With users of its own: by way of a process that joins what is joined (see
    /// [`ContainerPlan::run_between`]).
    fn spawn_inside(&self) -> Result<Child, Error> {
        let cgroup = self.into_cgroup.as_ref().map(AsFd::as_fd);
        let between = spawn_copy(Namespaces::empty(), None, || {
            close_copy(self.socket.as_fd());
            self.plan.run_between(cgroup)
        })
        .map_err(Error::io_step("start the container's process"))?;
        let answer = receive(self.socket.as_fd());
        // It ends by itself once it has spoken.
        let _ = pidfd::wait(between.pidfd.as_fd());
        let child = match answer? {
            Answer::Spawned(pid) => open_child(pid)?,
            Answer::Failed(failure) => return Err(self.plan.failed(failure)),
            other => return Err(Error::Died(format!("{other:?}"))),
        };
        let mapped = match &self.plan.namespaces.user {
            UserNamespace::New(maps) => maps.write(child.pid),
            UserNamespace::Callers | UserNamespace::Joined(_) => Ok(()),
        };
        match mapped {
            Ok(()) if tell(self.socket.as_fd()) => Ok(child),
            Ok(()) => Err(died(&child)),
            Err(error) => {
                let _ = pidfd::send_signal(child.pidfd.as_fd(), Signal::KILL);
                let _ = pidfd::wait(child.pidfd.as_fd());
                Err(error)
            }
        }
    }
}

/// The place of the root file system in the host's tree, where hooks are to find it.
fn root_for_hooks(bundle: &Bundle) -> Result<Option<CString>, Error> {
    let Root::Directory(path) = &bundle.root else {
        return Ok(None);
    };
    if !has_hooks_in_between(&bundle.spec) {
        return Ok(None);
    }
    let path = bundle.directory.join(path);
    let path = std::fs::canonicalize(&path).map_err(Error::io_step(format!(
        "open the root file system {}",
        path.display()
    )))?;
    let path = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::Invalid("the root's path contains a NUL byte".to_owned()))?;
    Ok(Some(path))
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
