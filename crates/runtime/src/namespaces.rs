//! The namespaces of a container: which are made, by whom, and which are joined.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::Pid;
use sampan_kernel::clone::{Namespaces, setns};
use sampan_oci::runtime::{Linux, NamespaceKind};

use crate::Error;
use crate::failure::{At, Failure, Step};
use crate::user_namespace::IdMaps;

/// The namespaces of a container.
#[derive(Debug)]
pub(crate) struct ContainerNamespaces {
    /// Made by clone3.
    pub(crate) cloned: Namespaces,
    /// Made by the child itself.
    pub(crate) unshared: Namespaces,
    /// Made by the child once it is root of its own user namespace.
    pub(crate) made_by_root: Namespaces,
    /// Joined, besides those of process ids and of users.
    pub(crate) joined: Vec<(Namespaces, OwnedFd)>,
    /// The joined namespace of process ids.
    pub(crate) pid: Option<OwnedFd>,
    pub(crate) user: UserNamespace,
    /// All that differ from the caller's.
    pub(crate) all: Namespaces,
}

/// Whose users a container has.
#[derive(Debug)]
pub(crate) enum UserNamespace {
    /// The caller's.
    Callers,
    /// Those of a new namespace with these maps.
    New(IdMaps),
    /// Those of an existing namespace.
    Joined(OwnedFd),
}

impl ContainerNamespaces {
    pub(crate) fn plan(
        linux: &Linux,
        given: Vec<(NamespaceKind, OwnedFd)>,
        directory: &Path,
    ) -> Result<Self, Error> {
        let mut plan = Self {
            cloned: Namespaces::empty(),
            unshared: Namespaces::empty(),
            made_by_root: Namespaces::empty(),
            joined: Vec::new(),
            pid: None,
            user: UserNamespace::Callers,
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
                    if namespace.kind == NamespaceKind::Mount {
                        return Err(joined_mounts());
                    }
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
        if !matches!(plan.user, UserNamespace::Callers) && plan.cloned.contains(Namespaces::IPC) {
            // Its message queues' file system belongs to who makes the namespace, and that shall
            // be the container's root.
            plan.cloned = plan.cloned.without(Namespaces::IPC);
            plan.made_by_root = Namespaces::IPC;
        }
        let mapped = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
        if mapped && !plan.all.contains(Namespaces::USER) {
            return Err(Error::Invalid(
                "user namespace mappings specified, but user namespace isn't enabled in the config"
                    .to_owned(),
            ));
        }
        Ok(plan)
    }

    fn make(&mut self, kind: NamespaceKind, linux: &Linux) -> Result<(), Error> {
        let flag = flag_of(kind);
        self.add(kind, flag)?;
        match kind {
            // The view of the cgroup tree starts where the process is when it
            // makes the namespace, so it must have entered its cgroup before.
            NamespaceKind::Cgroup => self.unshared |= flag,
            // clone3 freezes the offsets; after unshare they can be set, and
            // execve enters the namespace (Linux 6.3).
            NamespaceKind::Time if !linux.time_offsets.is_empty() => self.unshared |= flag,
            NamespaceKind::User => {
                self.user =
                    UserNamespace::New(IdMaps::new(&linux.uid_mappings, &linux.gid_mappings)?);
                self.cloned |= flag;
            }
            _ => self.cloned |= flag,
        }
        Ok(())
    }

    fn join(&mut self, kind: NamespaceKind, namespace: OwnedFd) -> Result<(), Error> {
        let flag = flag_of(kind);
        match kind {
            NamespaceKind::Mount => return Err(joined_mounts()),
            // The kernel lets nobody join what they are in.
            NamespaceKind::User if is_own_user_namespace(&namespace)? => return Ok(()),
            _ => self.add(kind, flag)?,
        }
        match kind {
            NamespaceKind::Pid => self.pid = Some(namespace),
            NamespaceKind::User => self.user = UserNamespace::Joined(namespace),
            _ => self.joined.push((flag, namespace)),
        }
        Ok(())
    }

    fn add(&mut self, kind: NamespaceKind, flag: Namespaces) -> Result<(), Error> {
        if self.all.contains(flag) {
            return Err(Error::Invalid(format!("namespace {kind:?} is given twice")));
        }
        self.all |= flag;
        Ok(())
    }

    /// Whether the container has no view of the caller's namespace of this kind.
    pub(crate) fn is_own(&self, flag: Namespaces) -> bool {
        self.all.contains(flag)
    }

    /// Child code: what exists already is entered. That of users comes last, because what the
    /// others need the caller has outside of it.
    pub(crate) fn enter_joined(&self) -> Result<(), Failure> {
        for (item, (kind, namespace)) in self.joined.iter().enumerate() {
            setns(namespace.as_fd(), *kind).at_item(Step::JoinNamespace, item)?;
        }
        if let Some(namespace) = &self.pid {
            setns(namespace.as_fd(), Namespaces::PID).at(Step::JoinNamespace)?;
        }
        if let UserNamespace::Joined(namespace) = &self.user {
            setns(namespace.as_fd(), Namespaces::USER).at(Step::JoinNamespace)?;
        }
        Ok(())
    }
}

/// The container's root and mounts would become the other container's.
fn joined_mounts() -> Error {
    Error::Unsupported("joining a mount namespace".to_owned())
}

/// The namespaces of a process that are not the caller's.
pub(crate) fn foreign(pid: Pid) -> Result<Namespaces, Error> {
    let mut all = Namespaces::empty();
    for (name, flag) in NAMES {
        let of = |who: &str| std::fs::metadata(format!("/proc/{who}/ns/{name}"));
        let theirs = match of(&pid.as_raw_nonzero().to_string()) {
            Ok(theirs) => theirs,
            // A kernel without such namespaces, or a process that has ended.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io_step("look at the container's namespaces")(error)),
        };
        let own = of("self").map_err(Error::io_step("look at the own namespaces"))?;
        if theirs.ino() != own.ino() {
            all |= flag;
        }
    }
    Ok(all)
}

const NAMES: [(&str, Namespaces); 8] = [
    ("user", Namespaces::USER),
    ("mnt", Namespaces::MOUNT),
    ("pid", Namespaces::PID),
    ("net", Namespaces::NETWORK),
    ("ipc", Namespaces::IPC),
    ("uts", Namespaces::UTS),
    ("cgroup", Namespaces::CGROUP),
    ("time", Namespaces::TIME),
];

fn is_own_user_namespace(namespace: &OwnedFd) -> Result<bool, Error> {
    let theirs = rustix::fs::fstat(namespace).map_err(Error::step("look at a namespace"))?;
    let own = std::fs::metadata("/proc/self/ns/user")
        .map_err(Error::io_step("look at the own namespaces"))?;
    Ok(theirs.st_ino == own.ino())
}

pub(crate) fn flag_of(kind: NamespaceKind) -> Namespaces {
    match kind {
        NamespaceKind::Pid => Namespaces::PID,
        NamespaceKind::Network => Namespaces::NETWORK,
        NamespaceKind::Ipc => Namespaces::IPC,
        NamespaceKind::Uts => Namespaces::UTS,
        NamespaceKind::Mount => Namespaces::MOUNT,
        NamespaceKind::Cgroup => Namespaces::CGROUP,
        NamespaceKind::Time => Namespaces::TIME,
        NamespaceKind::User => Namespaces::USER,
    }
}

pub(crate) fn time_offsets(
    linux: &Linux,
    namespaces: &ContainerNamespaces,
) -> Result<Option<Vec<u8>>, Error> {
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
pub(crate) fn name_to_set(name: Option<&str>, own: bool) -> Result<Option<Vec<u8>>, Error> {
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
