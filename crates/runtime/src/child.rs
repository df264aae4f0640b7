//! The first process of a container, from clone3 to execve.
//!
//! Child code, all of it: see [`sampan_kernel::clone`].

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, makedev, mknodat, open};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use rustix::process::{chroot, fchdir, pivot_root};
use rustix::system::{setdomainname, sethostname};
use sampan_kernel::clone::{Namespaces, setns, spawn_sibling_in, unshare};
use sampan_kernel::mount::{MountAttributes, MountChange, Propagation, Reach, change_mount};

use crate::Error;
use crate::attach::{Anchors, attach_all};
use crate::devices::{Node, make_links};
use crate::failure::{At, Failure, Report, Step};
use crate::file_system::FileSystem;
use crate::mounts::MountPlans;
use crate::namespaces::{ContainerNamespaces, UserNamespace};
use crate::process::ProcessPlan;
use crate::resolve::{self, Links, Missing, open_or_create};
use crate::sysctl::Sysctl;
use crate::trees::{attach, clone_descriptor, is_directory};
use crate::user_namespace::become_its_root;

/// A container, planned down to what the system calls take.
#[derive(Debug)]
pub(crate) struct ContainerPlan {
    pub(crate) namespaces: ContainerNamespaces,
    pub(crate) time_offsets: Option<Vec<u8>>,
    pub(crate) host_name: Option<Vec<u8>>,
    pub(crate) domain_name: Option<Vec<u8>>,
    /// The root, a detached mount.
    pub(crate) root: OwnedFd,
    /// Where hooks find the root before it is all that there is to see; without hooks it never
    /// has a place in the host's tree.
    pub(crate) root_for_hooks: Option<CString>,
    pub(crate) entry: RootEntry,
    /// Where the process waits to be started.
    pub(crate) gate: Gate,
    pub(crate) mounts: MountPlans,
    pub(crate) nodes: Vec<Node>,
    pub(crate) sysctls: Vec<Sysctl>,
    pub(crate) masked: Vec<CString>,
    pub(crate) read_only: Vec<CString>,
    pub(crate) root_change: MountChange,
    pub(crate) root_reach: Reach,
    pub(crate) process: ProcessPlan,
}

/// How a process comes into its root.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RootEntry {
    /// By pivot_root(2): nothing of the host's tree remains.
    Pivot,
    /// By chroot(2), for a host that runs from its initial file system in memory, which cannot be
    /// pivoted away from.
    Chroot,
}

/// Where a process waits to be started.
#[derive(Debug)]
pub enum Gate {
    /// At its parent's word: [`Created::start`](crate::Created::start).
    Parent,
    /// At this listening Unix socket, so that any process can start it:
    /// [`start_at`](crate::start_at).
    Socket(OwnedFd),
}

impl ContainerPlan {
    /// Runs in a process between parent and child, for a container with users of its own: what
    /// exists is joined with the caller's rights, and the child is born inside.
    pub(crate) fn run_between(&self, cgroup: Option<BorrowedFd<'_>>) -> u8 {
        let word = match self.spawn_inside(cgroup) {
            Ok(pid) => Report::Spawned(pid),
            Err(failure) => Report::Failed(failure),
        };
        // The parent may be gone; there is nobody else to tell.
        let _ = self.process.send(word);
        0
    }

    fn spawn_inside(&self, cgroup: Option<BorrowedFd<'_>>) -> Result<i32, Failure> {
        self.process.hide()?;
        self.namespaces.enter_joined()?;
        let child = spawn_sibling_in(self.namespaces.cloned, cgroup, || self.run());
        Ok(child.at(Step::Spawn)?.as_raw_nonzero().get())
    }

    /// Runs in the child; returns its exit code, and only on failure.
    pub(crate) fn run(&self) -> u8 {
        let Err(failure) = self.become_container();
        // The parent may be gone; there is nobody else to tell.
        let _ = self.process.send(Report::Failed(failure));
        1
    }

    fn become_container(&self) -> Result<Infallible, Failure> {
        match &self.namespaces.user {
            UserNamespace::Callers => {}
            // The parent writes the maps, and its word keeps this process' words behind those of
            // the process between.
            UserNamespace::New(_) | UserNamespace::Joined(_) => self.hear()?,
        }
        self.process.begin()?;
        rustix::process::umask(Mode::empty());
        self.enter_namespaces()?;
        let root = self.root.as_fd();
        let mut anchors = Anchors::default();
        self.mounts.make_ahead()?;
        self.attach_root()?;
        if self.root_for_hooks.is_some() {
            // What a hook adds to the root lies on top of the container's own mounts.
            attach_all(root, &self.mounts.plans, &mut anchors)?;
            self.process.send(Report::Hooks).at(Step::Prepare)?;
            self.hear()?;
            self.enter_root()?;
        } else {
            self.enter_root()?;
            attach_all(root, &self.mounts.plans, &mut anchors)?;
        }
        self.process.open_terminal(self.mounts.own_terminals())?;
        self.fill_dev(root)?;
        self.set_sysctls(&anchors)?;
        self.mask_paths(root, &anchors)?;
        self.protect_paths(root, &anchors)?;
        let program = self.process.prepare_in(root, || self.seal_root(root))?;
        self.process.lead_session()?;
        self.process.send(Report::Ready).at(Step::Prepare)?;
        let started = match &self.gate {
            Gate::Parent => self.process.hears(),
            Gate::Socket(gate) => self.process.wait_at(gate.as_fd()).at(Step::Prepare)?,
        };
        if !started {
            return Err(Errno::PIPE).at(Step::Prepare);
        }
        self.process.place_descriptors()?;
        self.process.confine()?;
        Err(self.process.run(program))
    }

    fn enter_namespaces(&self) -> Result<(), Failure> {
        if matches!(self.namespaces.user, UserNamespace::Callers) {
            // That of process ids the parent has joined for the child.
            for (item, (kind, namespace)) in self.namespaces.joined.iter().enumerate() {
                setns(namespace.as_fd(), *kind).at_item(Step::JoinNamespace, item)?;
            }
        }
        if !self.namespaces.unshared.is_empty() {
            unshare(self.namespaces.unshared).at(Step::NewNamespace)?;
        }
        if let Some(offsets) = &self.time_offsets {
            let file = rustix::fs::openat(
                CWD,
                c"/proc/self/timens_offsets",
                OFlags::WRONLY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .at(Step::TimeOffsets)?;
            rustix::io::write(&file, offsets).at(Step::TimeOffsets)?;
            // Older kernels (6.1) move a process there when it is forked, but not by execve.
            let namespace = open(
                c"/proc/self/ns/time_for_children",
                OFlags::RDONLY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .at(Step::TimeOffsets)?;
            setns(namespace.as_fd(), Namespaces::TIME).at(Step::TimeOffsets)?;
        }
        if let Some(name) = &self.host_name {
            sethostname(name).at(Step::HostName)?;
        }
        if let Some(name) = &self.domain_name {
            setdomainname(name).at(Step::DomainName)?;
        }
        if !matches!(self.namespaces.user, UserNamespace::Callers) {
            become_its_root()?;
        }
        if self.namespaces.made_by_root.is_empty() {
            return Ok(());
        }
        unshare(self.namespaces.made_by_root).at(Step::NewNamespace)
    }

    /// Waits for the parent to have done its part.
    fn hear(&self) -> Result<(), Failure> {
        if self.process.hears() {
            Ok(())
        } else {
            Err(Errno::PIPE).at(Step::Prepare)
        }
    }

    /// Gives the root a place in this process' own tree of mounts.
    fn attach_root(&self) -> Result<(), Failure> {
        let host = open(
            c"/",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .at(Step::Privatise)?;
        let private = MountChange {
            propagation: Some(Propagation::Private),
            ..MountChange::default()
        };
        change_mount(host.as_fd(), &private, Reach::Tree).at(Step::Privatise)?;
        drop(host);
        let place = self.root_for_hooks.as_deref().unwrap_or(c"/");
        move_mount(
            &self.root,
            c"",
            CWD,
            place,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .at(Step::AttachRoot)
    }

    /// Makes the container's root the root of everything and lets go of the
    /// host's tree. From here on no path leads out.
    fn enter_root(&self) -> Result<(), Failure> {
        fchdir(&self.root).at(Step::AttachRoot)?;
        if self.entry == RootEntry::Chroot {
            return chroot(c".").at(Step::PivotRoot);
        }
        // With one directory for both, the old root ends up on top of the new
        // one, and the name below finds it there (pivot_root(2)).
        pivot_root(c".", c".").at(Step::PivotRoot)?;
        unmount(c".", UnmountFlags::DETACH).at(Step::DetachHost)?;
        rustix::process::chdir(c"/").at(Step::PivotRoot)
    }

    fn fill_dev(&self, root: BorrowedFd<'_>) -> Result<(), Failure> {
        if self.mounts.foreign_dev {
            return Ok(());
        }
        let dev = open_or_create(root, c"/dev", Links::Follow, Missing::Directory)
            .at(Step::DeviceLink)?;
        for (item, node) in self.nodes.iter().enumerate() {
            node.make(root, dev.as_fd()).at_item(Step::Device, item)?;
        }
        make_links(dev.as_fd()).at(Step::DeviceLink)?;
        let Some(terminal) = self.process.terminal() else {
            return Ok(());
        };
        match mknodat(
            &dev,
            c"console",
            FileType::RegularFile,
            Mode::from_raw_mode(0o600),
            0,
        ) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).at(Step::Console),
        }
        let console = resolve::open(dev.as_fd(), c"console", Links::Refuse).at(Step::Console)?;
        let tree = clone_descriptor(terminal, Reach::Mount).at(Step::Console)?;
        attach(tree.as_fd(), console.as_fd()).at(Step::Console)
    }

    fn set_sysctls(&self, anchors: &Anchors) -> Result<(), Failure> {
        if self.sysctls.is_empty() {
            return Ok(());
        }
        let made;
        let proc = match &anchors.proc {
            Some(proc) => proc.as_fd(),
            None => {
                made = FileSystem::proc().make().at(Step::Sysctl)?;
                made.as_fd()
            }
        };
        for (item, sysctl) in self.sysctls.iter().enumerate() {
            sysctl.apply(proc).at_item(Step::Sysctl, item)?;
        }
        Ok(())
    }

    /// Hides files behind the null device and directories behind an empty file
    /// system.
    fn mask_paths(&self, root: BorrowedFd<'_>, anchors: &Anchors) -> Result<(), Failure> {
        let mut null = None;
        let mut empty: Option<OwnedFd> = None;
        for (item, path) in self.masked.iter().enumerate() {
            let Some(target) = find(root, anchors, path).at_item(Step::Mask, item)? else {
                continue;
            };
            let tree = if is_directory(target.as_fd()).at_item(Step::Mask, item)? {
                match &empty {
                    Some(attached) => clone_descriptor(attached.as_fd(), Reach::Mount),
                    None => FileSystem::mask().make(),
                }
                .at_item(Step::Mask, item)?
            } else {
                if null.is_none() {
                    null = Some(null_device(root).at(Step::NullDevice)?);
                }
                let null = null.as_ref().ok_or(Errno::NODEV).at(Step::NullDevice)?;
                clone_descriptor(null.as_fd(), Reach::Mount).at_item(Step::Mask, item)?
            };
            attach(tree.as_fd(), target.as_fd()).at_item(Step::Mask, item)?;
            if empty.is_none() && is_directory(target.as_fd()).at_item(Step::Mask, item)? {
                empty = Some(tree);
            }
        }
        Ok(())
    }

    fn protect_paths(&self, root: BorrowedFd<'_>, anchors: &Anchors) -> Result<(), Failure> {
        let change = MountChange {
            set: MountAttributes::READ_ONLY,
            ..MountChange::default()
        };
        for (item, path) in self.read_only.iter().enumerate() {
            let Some(target) = find(root, anchors, path).at_item(Step::ReadOnlyPath, item)? else {
                continue;
            };
            let tree =
                clone_descriptor(target.as_fd(), Reach::Tree).at_item(Step::ReadOnlyPath, item)?;
            change_mount(tree.as_fd(), &change, Reach::Tree).at_item(Step::ReadOnlyPath, item)?;
            attach(tree.as_fd(), target.as_fd()).at_item(Step::ReadOnlyPath, item)?;
        }
        Ok(())
    }

    /// The root's own attributes, last, because until now things are made in it.
    fn seal_root(&self, root: BorrowedFd<'_>) -> Result<(), Failure> {
        if self.root_change.is_empty() {
            return Ok(());
        }
        change_mount(root, &self.root_change, self.root_reach).at(Step::ReadOnlyRoot)
    }

    /// A failure of the child in words.
    pub(crate) fn failed(&self, failure: Failure) -> Error {
        let Failure { step, item, errno } = failure;
        let item = usize::from(item);
        match step {
            Step::MakeFileSystem
            | Step::MountTarget
            | Step::MountOverProc
            | Step::MountOrdinary
            | Step::MountAttributes
            | Step::AttachMount => match self.mounts.plans.get(item) {
                Some(plan) => plan.failed(failure),
                None => Error::of_step(step, errno),
            },
            Step::Device => self.named(step, errno, self.nodes.get(item).map(|n| n.path.as_str())),
            Step::Sysctl => {
                self.named(step, errno, self.sysctls.get(item).map(|s| s.name.as_str()))
            }
            Step::Mask => self.named(step, errno, text(self.masked.get(item))),
            Step::ReadOnlyPath => self.named(step, errno, text(self.read_only.get(item))),
            _ => self.process.failed(failure),
        }
    }

    fn named(&self, step: Step, errno: Errno, name: Option<&str>) -> Error {
        let what = format!("{} ({})", step.doing(), name.unwrap_or("?"));
        Error::step(what)(errno)
    }
}

fn text(path: Option<&CString>) -> Option<&str> {
    path.and_then(|path| path.to_str().ok())
}

/// Opens a path to be hidden or protected; none when it does not exist.
fn find(root: BorrowedFd<'_>, anchors: &Anchors, path: &CStr) -> Result<Option<OwnedFd>, Errno> {
    let (base, rest) = anchors.of(root, path);
    match resolve::open(base, rest, Links::Follow) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The container's /dev/null, if it truly is the null device.
fn null_device(root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let null = resolve::open(root, c"/dev/null", Links::Follow)?;
    let status = fstat(&null)?;
    let device = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice;
    if device && status.st_rdev == makedev(1, 3) {
        Ok(null)
    } else {
        Err(Errno::NODEV)
    }
}
