//! The mounts of a container: made or opened in the parent, attached by the
//! child, which is by then inside the container's root.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, fstat, fstatfs, mkdirat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use sampan_cgroups::{Cgroup, Hierarchies, Layout};
use sampan_kernel::mount::{MountAttributes, MountChange, Propagation, Reach, change_mount};
use sampan_oci::runtime::Mount;

use crate::Error;
use crate::command::c_string;
use crate::failure::{At, Failure, Step};
use crate::options::MountOptions;
use crate::resolve::{Links, Missing, open_or_create};

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
    source: Source,
    missing: Missing,
    /// Whether the destination may lead through symbolic links.
    links: Links,
    /// Whether it may hide a part of /proc.
    over_proc: bool,
}

#[derive(Debug)]
enum Source {
    /// A detached mount that the parent has made.
    Tree(OwnedFd),
    /// A file system that belongs to the container's namespaces.
    New(FileSystem),
}

/// A file system to make (fsopen(2)).
#[derive(Debug)]
pub(crate) struct FileSystem {
    kind: CString,
    options: Vec<(CString, Option<CString>)>,
    attributes: MountAttrFlags,
}

impl FileSystem {
    /// Child code, and parent code too.
    pub(crate) fn make(&self) -> Result<OwnedFd, Errno> {
        let context = fsopen(self.kind.as_c_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in &self.options {
            match value {
                Some(value) => {
                    fsconfig_set_string(&context, key.as_c_str(), value.as_c_str())?;
                }
                None => fsconfig_set_flag(&context, key.as_c_str())?,
            }
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, self.attributes)
    }

    /// A /proc of the container's own, for what must be written to a true one.
    pub(crate) fn proc() -> Self {
        Self {
            kind: c"proc".to_owned(),
            options: Vec::new(),
            attributes: MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        }
    }

    /// A small empty tmpfs that nobody can write, for hiding directories.
    pub(crate) fn mask() -> Self {
        Self {
            kind: c"tmpfs".to_owned(),
            options: vec![
                (c"source".to_owned(), Some(c"tmpfs".to_owned())),
                (c"nr_inodes".to_owned(), Some(c"2".to_owned())),
            ],
            attributes: MountAttrFlags::MOUNT_ATTR_RDONLY
                | MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        }
    }
}

/// All that the planning of mounts needs to know.
pub(crate) struct MountContext<'a> {
    /// What relative sources are relative to.
    pub(crate) directory: &'a Path,
    pub(crate) hierarchies: &'a Hierarchies,
    pub(crate) cgroup: Option<&'a Cgroup>,
}

/// The mounts of a container, in order.
#[derive(Debug, Default)]
pub(crate) struct MountPlans {
    pub(crate) plans: Vec<MountPlan>,
    /// The container's own instance of devpts.
    pub(crate) terminals: Option<OwnedFd>,
    /// Whether /dev is the host's, in which nothing is made.
    pub(crate) foreign_dev: bool,
}

impl MountPlans {
    pub(crate) fn new(mounts: &[Mount], context: &MountContext<'_>) -> Result<Self, Error> {
        let mut plans = Self::default();
        for mount in mounts {
            plans.add(mount, context)?;
        }
        Ok(plans)
    }

    fn add(&mut self, mount: &Mount, context: &MountContext<'_>) -> Result<(), Error> {
        let destination = clean(&mount.destination);
        let refused = |reason| {
            Err(Error::MountRefused {
                destination: destination.clone(),
                reason,
            })
        };
        if destination == "/" {
            return refused("the root file system cannot be mounted over");
        }
        if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
            return Err(Error::Unsupported("an id-mapped mount".to_owned()));
        }
        let options = MountOptions::parse(&mount.options);
        let kind = mount.kind.as_deref().unwrap_or("none");
        if kind == "bind" || options.bind.is_some() {
            return self.add_bind(mount, &destination, &options, context);
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
            _ => self.add_made(mount, kind, &destination, &options),
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
        self.plans.push(MountPlan {
            destination: c_string(destination)?,
            what: kind.to_owned(),
            source: Source::New(system),
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
    ) -> Result<(), Error> {
        let source = mount.source.as_ref().map(|s| s.display().to_string());
        let system = file_system(kind, source.as_deref(), options)?;
        let failed = |errno: Errno| Error::Mount {
            what: kind.to_owned(),
            destination: destination.to_owned(),
            reason: errno.into(),
        };
        let tree = system.make().map_err(failed)?;
        let change = MountChange {
            propagation: options.propagation.map(|(propagation, _)| propagation),
            ..MountChange::default()
        };
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

/// A path without `.`, `..`, double and trailing slashes; `..` at the top
/// stays there.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn file_system(
    kind: &str,
    source: Option<&str>,
    options: &MountOptions,
) -> Result<FileSystem, Error> {
    let mut data = Vec::new();
    // What has no device behind it takes any word as its source.
    let virtual_systems = [
        "proc", "sysfs", "tmpfs", "mqueue", "devpts", "cgroup2", "ramfs",
    ];
    let source = if virtual_systems.contains(&kind) {
        Some(if kind == "cgroup2" { "cgroup" } else { kind })
    } else {
        source
    };
    if let Some(source) = source {
        data.push((c"source".to_owned(), Some(c_string(source)?)));
    }
    for (key, value) in &options.data {
        if key == "tmpcopyup" {
            return Err(Error::Unsupported("the mount option tmpcopyup".to_owned()));
        }
        let value = value.as_deref().map(c_string).transpose()?;
        data.push((c_string(key)?, value));
    }
    let attributes = options.set | options.set_tree;
    let bits = u32::try_from(attributes.bits()).unwrap_or_default();
    Ok(FileSystem {
        kind: c_string(kind)?,
        options: data,
        attributes: MountAttrFlags::from_bits_retain(bits),
    })
}

/// Sets what the options ask of a bind mount. Read-only reaches what is mounted
/// below, too: a writable file system below a read-only volume surprises.
fn change_bind(tree: BorrowedFd<'_>, options: &MountOptions, reach: Reach) -> std::io::Result<()> {
    let read_only = MountAttributes::READ_ONLY;
    let mut tree_wide = MountChange {
        set: options.set_tree,
        clear: options.clear_tree,
        propagation: Some(Propagation::Private),
    };
    if reach == Reach::Tree && options.set.contains(read_only) {
        tree_wide.set |= read_only;
    }
    let mut top = MountChange {
        set: options.set,
        clear: options.clear,
        propagation: None,
    };
    match options.propagation {
        Some((propagation, Reach::Tree)) => tree_wide.propagation = Some(propagation),
        Some((propagation, Reach::Mount)) => {
            tree_wide.propagation = None;
            top.propagation = Some(propagation);
        }
        None => {}
    }
    // A lone mount needs one call for both.
    if reach == Reach::Mount {
        top.set |= tree_wide.set;
        top.clear |= tree_wide.clear;
        top.propagation = top.propagation.or(tree_wide.propagation);
        return change_mount(tree, &top, Reach::Mount);
    }
    if !tree_wide.is_empty() {
        change_mount(tree, &tree_wide, Reach::Tree)?;
    }
    if !top.is_empty() {
        change_mount(tree, &top, Reach::Mount)?;
    }
    Ok(())
}

/// A detached copy of the mount at a path of the host.
pub(crate) fn clone_path(path: &PathBuf, reach: Reach) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if reach == Reach::Tree {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags)
}

/// Child code, and parent code too: a detached copy of what a descriptor is
/// open on.
pub(crate) fn clone_descriptor(from: BorrowedFd<'_>, reach: Reach) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if reach == Reach::Tree {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(from, c"", flags)
}

/// Child code: attaches a detached mount where a descriptor is open.
pub(crate) fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    match move_mount(tree, c"", target, c"", flags) {
        // What the kernel also says of a directory on a file.
        Err(Errno::INVAL) if is_directory(tree) != is_directory(target) => Err(Errno::NOTDIR),
        other => other,
    }
}

/// Child code.
pub(crate) fn is_directory(of: BorrowedFd<'_>) -> Result<bool, Errno> {
    fstat(of).map(|status| FileType::from_raw_mode(status.st_mode) == FileType::Directory)
}

fn is_proc(of: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(fstatfs(of)?.f_type == PROC_SUPER_MAGIC)
}

/// Our own mounts of /proc and /sys, by which paths below them are reached
/// whatever else is mounted or linked.
#[derive(Default)]
pub(crate) struct Anchors {
    pub(crate) proc: Option<OwnedFd>,
    pub(crate) sys: Option<OwnedFd>,
}

impl Anchors {
    /// The anchor of an absolute path and the rest of the path.
    pub(crate) fn of<'a>(
        &'a self,
        root: BorrowedFd<'a>,
        path: &'a CStr,
    ) -> (BorrowedFd<'a>, &'a CStr) {
        for (anchor, prefix) in [(&self.proc, c"/proc/"), (&self.sys, c"/sys/")] {
            let (Some(anchor), prefix) = (anchor, prefix.to_bytes()) else {
                continue;
            };
            if path.to_bytes().starts_with(prefix) {
                let rest = &path.to_bytes_with_nul()[prefix.len()..];
                if let Ok(rest) = CStr::from_bytes_with_nul(rest) {
                    return (anchor.as_fd(), rest);
                }
            }
        }
        (root, path)
    }
}

/// Child code: attaches every mount in order.
pub(crate) fn attach_all(
    root: BorrowedFd<'_>,
    plans: &[MountPlan],
    anchors: &mut Anchors,
) -> Result<(), Failure> {
    for (item, plan) in plans.iter().enumerate() {
        plan.attach(root, item, anchors)?;
    }
    Ok(())
}

impl MountPlan {
    fn attach(
        &self,
        root: BorrowedFd<'_>,
        item: usize,
        anchors: &mut Anchors,
    ) -> Result<(), Failure> {
        let target = match open_or_create(root, &self.destination, self.links, self.missing) {
            Err(Errno::LOOP) if self.links == Links::Refuse => {
                return Err(Errno::LOOP).at_item(Step::MountOrdinary, item);
            }
            other => other.at_item(Step::MountTarget, item)?,
        };
        if !self.over_proc && is_proc(target.as_fd()).at_item(Step::MountTarget, item)? {
            return Err(Errno::PERM).at_item(Step::MountOverProc, item);
        }
        match &self.source {
            Source::Tree(tree) => {
                attach(tree.as_fd(), target.as_fd()).at_item(Step::AttachMount, item)
            }
            Source::New(system) => {
                let made = system.make().at_item(Step::MakeFileSystem, item)?;
                attach(made.as_fd(), target.as_fd()).at_item(Step::AttachMount, item)?;
                if system.kind.as_c_str() == c"proc" && self.destination.as_c_str() == c"/proc" {
                    anchors.proc = Some(made);
                } else if system.kind.as_c_str() == c"sysfs"
                    && self.destination.as_c_str() == c"/sys"
                {
                    anchors.sys = Some(made);
                }
                Ok(())
            }
        }
    }

    /// A failure of this mount.
    pub(crate) fn failed(&self, failure: Failure) -> Error {
        let destination = self.destination.to_string_lossy().into_owned();
        match failure.step {
            Step::MountOverProc => Error::MountRefused {
                destination,
                reason: "it would hide a part of /proc",
            },
            Step::MountOrdinary => Error::MountRefused {
                destination,
                reason: "it must be an ordinary directory of the image, not a symbolic link",
            },
            _ => Error::Mount {
                what: self.what.clone(),
                destination,
                reason: failure.errno.into(),
            },
        }
    }
}

/// Opens a directory of the host for lookups inside it.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_cleaned() {
        assert_eq!(clean("/a//b/./c/"), "/a/b/c");
        assert_eq!(clean("../../etc"), "/etc");
        assert_eq!(clean("/a/../../b/.."), "/");
        assert_eq!(clean(""), "/");
    }
}
