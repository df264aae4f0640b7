//! The mounts of a container: made or opened in the parent, or planned for the child to make.
//! [`crate::attach`] attaches them.

use std::cell::OnceCell;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, mkdirat};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use sampan_cgroups::{Cgroup, Hierarchies, Layout};
use sampan_kernel::mount::{MountAttributes, MountChange, Reach, change_mount, map_owners};
use sampan_oci::runtime::Mount;
use sampan_text::path::absolute;

use crate::Error;
use crate::command::c_string;
use crate::copy_up::copy_up;
use crate::file_system::{FileSystem, file_system, mode_of};
use crate::namespaces::UserNamespace;
use crate::options::MountOptions;
use crate::resolve::{Links, Missing};
use crate::trees::{change_bind, clone_path, is_directory, is_proc};
use crate::user_namespace::IdMaps;

/// What may be mounted below /proc although it hides a part of it: the files
/// that resource views such as lxcfs replace.
const OVER_PROC: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// One mount to attach.
#[derive(Debug)]
pub(crate) struct MountPlan {
    /// Absolute, without `.`, `..` and empty parts.
    pub(crate) destination: CString,
    /// For messages.
    pub(crate) what: String,
    pub(crate) source: Source,
    pub(crate) missing: Missing,
    /// Whether the destination may lead through symbolic links.
    pub(crate) links: Links,
    /// Whether it may hide a part of /proc.
    pub(crate) over_proc: bool,
}

/// Where a mount comes from.
#[derive(Debug)]
pub(crate) enum Source {
    /// A detached mount that the parent has made.
    Tree(OwnedFd),
    /// A file system that belongs to the container's namespaces.
    New {
        system: FileSystem,
        /// Set once it is attached.
        change: MountChange,
        /// Made ahead of its turn: in a user namespace the kernel gives a process /proc and /sys
        /// only while it sees such mounts already.
        made: OnceCell<OwnedFd>,
    },
}

/// All that the planning of mounts needs to know.
pub(crate) struct MountContext<'a> {
    /// What relative sources are relative to.
    pub(crate) directory: &'a Path,
    pub(crate) hierarchies: &'a Hierarchies,
    pub(crate) cgroup: Option<&'a Cgroup>,
    /// The image's files, in which nothing is mounted yet.
    pub(crate) image: BorrowedFd<'a>,
    /// Whose users the container has.
    pub(crate) user: &'a UserNamespace,
    /// The SELinux label of the container's own file systems.
    pub(crate) label: Option<&'a str>,
}

/// File systems that can be made in a user namespace, and are made there for a container that has
/// one, so that they are its own.
const OF_USER_NAMESPACES: [&str; 4] = ["tmpfs", "devpts", "ramfs", "overlay"];

/// The mounts of a container, in order.
#[derive(Debug, Default)]
pub(crate) struct MountPlans {
    pub(crate) plans: Vec<MountPlan>,
    /// The container's own instance of devpts.
    pub(crate) terminals: Option<OwnedFd>,
    /// Which of the plans is an instance of devpts at /dev/pts that the child makes.
    pub(crate) own_terminals: Option<usize>,
    /// Whether /dev is the host's, in which nothing is made.
    pub(crate) foreign_dev: bool,
    /// Whether the child makes its file systems before it enters its root.
    pub(crate) made_ahead: bool,
}

impl MountPlans {
    pub(crate) fn new(mounts: &[Mount], context: &MountContext<'_>) -> Result<Self, Error> {
        let mut plans = Self {
            made_ahead: !matches!(context.user, UserNamespace::Callers),
            ..Self::default()
        };
        for mount in mounts {
            plans.add(mount, context)?;
        }
        Ok(plans)
    }

    fn add(&mut self, mount: &Mount, context: &MountContext<'_>) -> Result<(), Error> {
        let destination = absolute(&mount.destination);
        let refused = |reason| {
            Err(Error::MountRefused {
                destination: destination.clone(),
                reason,
            })
        };
        if destination == "/" {
            return refused("the root file system cannot be mounted over");
        }
        let mut options = MountOptions::parse(&mount.options);
        let kind = mount.kind.as_deref().unwrap_or("none");
        if kind == "bind" || options.bind.is_some() {
            return self.add_bind(mount, &destination, &options, context);
        }
        let mapped = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
        if mapped || options.id_map.is_some() {
            return refused("only bind mounts can have mapped owners");
        }
        if options.copy_up && kind != "tmpfs" {
            return refused("tmpcopyup is for tmpfs only");
        }
        if kind == "tmpfs" && !options.data.iter().any(|(key, _)| key == "mode") {
            let mode = mode_of(context.image, &destination);
            options
                .data
                .extend(mode.map(|mode| ("mode".to_owned(), Some(mode))));
        }
        if let (Some(label), "tmpfs" | "devpts" | "mqueue") = (context.label, kind) {
            options
                .data
                .push(("context".to_owned(), Some(label.to_owned())));
        }
        if destination == "/proc" && kind != "proc" {
            return refused("only a proc file system can be mounted there");
        }
        match kind {
            "cgroup" if context.hierarchies.layout() != Layout::V2 => {
                self.add_cgroups(&destination, &options, context)
            }
            "cgroup" => self.add_new("cgroup2", &destination, &options),
            "proc" | "sysfs" | "mqueue" | "cgroup2" => self.add_new(kind, &destination, &options),
            _ if self.made_ahead && OF_USER_NAMESPACES.contains(&kind) && !options.copy_up => {
                if kind == "devpts" && destination == "/dev/pts" {
                    self.own_terminals = Some(self.plans.len());
                }
                self.add_new(kind, &destination, &options)
            }
            _ => self.add_made(mount, kind, &destination, &options, context),
        }
    }

    /// A bind mount: the source is opened here, on the host's side.
    fn add_bind(
        &mut self,
        mount: &Mount,
        destination: &str,
        options: &MountOptions,
        context: &MountContext<'_>,
    ) -> Result<(), Error> {
        let source = mount.source.clone().unwrap_or_default();
        let what = source.display().to_string();
        let failed = |errno: Errno| Error::Mount {
            what: what.clone(),
            destination: destination.to_owned(),
            reason: errno.into(),
        };
        let reach = options.bind.unwrap_or(Reach::Tree);
        let tree = clone_path(&context.directory.join(&source), reach).map_err(failed)?;
        let directory = is_directory(tree.as_fd()).map_err(failed)?;
        let proc = is_proc(tree.as_fd()).map_err(failed)?;
        if destination == "/proc" && !proc {
            return Err(Error::MountRefused {
                destination: destination.to_owned(),
                reason: "only a proc file system can be mounted there",
            });
        }
        change_bind(tree.as_fd(), options, reach)
            .map_err(|e| failed(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        if let Some((namespace, reach)) = owners(mount, options, context)? {
            map_owners(tree.as_fd(), namespace.as_fd(), reach).map_err(|e| {
                let errno = Errno::from_io_error(&e).unwrap_or(Errno::IO);
                Error::Mount {
                    what: format!("{what} with mapped owners"),
                    destination: destination.to_owned(),
                    reason: errno.into(),
                }
            })?;
        }
        if destination == "/dev" {
            self.foreign_dev = true;
        }
        self.plans.push(MountPlan {
            destination: c_string(destination)?,
            what,
            source: Source::Tree(tree),
            missing: if directory {
                Missing::Directory
            } else {
                Missing::File
            },
            links: Links::Follow,
            over_proc: proc || OVER_PROC.contains(&destination),
        });
        Ok(())
    }

    /// A file system that shows the container's namespaces, so the child makes
    /// it. /proc and /sys must be true directories of the image: through a
    /// link they would land where the image wants them.
    fn add_new(
        &mut self,
        kind: &str,
        destination: &str,
        options: &MountOptions,
    ) -> Result<(), Error> {
        let system = file_system(kind, None, options)?;
        if destination == "/dev" {
            self.foreign_dev = false;
        }
        let change = MountChange {
            propagation: options.propagation.map(|(propagation, _)| propagation),
            ..MountChange::default()
        };
        self.plans.push(MountPlan {
            destination: c_string(destination)?,
            what: kind.to_owned(),
            source: Source::New {
                system,
                change,
                made: OnceCell::new(),
            },
            missing: Missing::Directory,
            links: if kind == "proc" || kind == "sysfs" {
                Links::Refuse
            } else {
                Links::Follow
            },
            over_proc: kind == "proc",
        });
        Ok(())
    }

    /// A file system that knows no namespaces of the container, made here.
    fn add_made(
        &mut self,
        mount: &Mount,
        kind: &str,
        destination: &str,
        options: &MountOptions,
        context: &MountContext<'_>,
    ) -> Result<(), Error> {
        let source = mount.source.as_ref().map(|s| s.display().to_string());
        let mut system = file_system(kind, source.as_deref(), options)?;
        if options.copy_up {
            // What is copied must be written first.
            system.attributes.remove(MountAttrFlags::MOUNT_ATTR_RDONLY);
        }
        let failed = |errno: Errno| Error::Mount {
            what: kind.to_owned(),
            destination: destination.to_owned(),
            reason: errno.into(),
        };
        let tree = system.make().map_err(failed)?;
        let mut change = MountChange {
            propagation: options.propagation.map(|(propagation, _)| propagation),
            ..MountChange::default()
        };
        if options.copy_up {
            copy_up(context.image, destination, tree.as_fd()).map_err(failed)?;
            change.set = (options.set | options.set_tree) & MountAttributes::READ_ONLY;
        }
        if !change.is_empty() {
            change_mount(tree.as_fd(), &change, Reach::Mount)
                .map_err(|e| failed(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        }
        if kind == "devpts" && destination == "/dev/pts" {
            self.terminals = Some(rustix::io::fcntl_dupfd_cloexec(&tree, 3).map_err(failed)?);
        }
        if destination == "/dev" {
            self.foreign_dev = false;
        }
        self.plans.push(MountPlan {
            destination: c_string(destination)?,
            what: kind.to_owned(),
            source: Source::Tree(tree),
            missing: Missing::Directory,
            links: Links::Follow,
            over_proc: false,
        });
        Ok(())
    }

    /// v1 and the hybrid: a tmpfs with the container's own directory of each
    /// hierarchy, always read-only unless asked for otherwise.
    fn add_cgroups(
        &mut self,
        destination: &str,
        options: &MountOptions,
        context: &MountContext<'_>,
    ) -> Result<(), Error> {
        let failed = |errno: Errno| Error::Mount {
            what: "cgroup".to_owned(),
            destination: destination.to_owned(),
            reason: errno.into(),
        };
        let mut base = options.clone();
        base.data = vec![("mode".to_owned(), Some("755".to_owned()))];
        base.set = base.set.without(MountAttributes::READ_ONLY);
        let tmpfs = file_system("tmpfs", None, &base)?.make().map_err(failed)?;
        let mounts = context.cgroup.map(Cgroup::mounts).unwrap_or_default();
        for mount in &mounts {
            mkdirat(&tmpfs, mount.name.as_str(), Mode::from_raw_mode(0o755)).map_err(failed)?;
            if !mount.name.contains(',') {
                continue;
            }
            for controller in mount.name.split(',') {
                rustix::fs::symlinkat(mount.name.as_str(), &tmpfs, controller).map_err(failed)?;
            }
        }
        let read_only = options.set.contains(MountAttributes::READ_ONLY);
        if read_only {
            let change = MountChange {
                set: MountAttributes::READ_ONLY,
                ..MountChange::default()
            };
            change_mount(tmpfs.as_fd(), &change, Reach::Mount)
                .map_err(|e| failed(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
        }
        self.plans.push(MountPlan {
            destination: c_string(destination)?,
            what: "cgroup".to_owned(),
            source: Source::Tree(tmpfs),
            missing: Missing::Directory,
            links: Links::Follow,
            over_proc: false,
        });
        for mount in mounts {
            let tree = clone_path(&mount.source, Reach::Mount).map_err(failed)?;
            let bind = MountOptions {
                propagation: None,
                ..options.clone()
            };
            change_bind(tree.as_fd(), &bind, Reach::Mount)
                .map_err(|e| failed(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?;
            self.plans.push(MountPlan {
                destination: c_string(&format!("{destination}/{}", mount.name))?,
                what: "cgroup".to_owned(),
                source: Source::Tree(tree),
                missing: Missing::Directory,
                links: Links::Follow,
                over_proc: false,
            });
        }
        Ok(())
    }
}

/// By which namespace the owners of a bind mount's files are mapped, and how far that reaches.
fn owners(
    mount: &Mount,
    options: &MountOptions,
    context: &MountContext<'_>,
) -> Result<Option<(OwnedFd, Reach)>, Error> {
    let given = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    let Some(reach) = options.id_map.or(given.then_some(Reach::Mount)) else {
        return Ok(None);
    };
    let namespace = if given {
        IdMaps::new(&mount.uid_mappings, &mount.gid_mappings)?.namespace()?
    } else {
        match context.user {
            UserNamespace::New(maps) => maps.namespace()?,
            UserNamespace::Joined(namespace) => rustix::io::fcntl_dupfd_cloexec(namespace, 3)
                .map_err(Error::step("duplicate a descriptor"))?,
            UserNamespace::Callers => {
                return Err(Error::Invalid(format!(
                    "mount at {}: the option idmap needs uidMappings and gidMappings where the \
                     container has no user namespace",
                    mount.destination
                )));
            }
        }
    };
    Ok(Some((namespace, reach)))
}
