use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, openat};
use rustix::process::{Pid, Signal, kill_process};
use sampan_kernel::bpf;
use sampan_oci::runtime::LinuxResources;

use crate::hierarchy::subtree_control;
use crate::settings::{Setting, Version, controllers, settings};
use crate::{CgroupPath, Controller, Error, Hierarchies, Hierarchy, Layout, devices};

/// How long a cgroup may stay busy after its last process has ended before
/// [`Cgroup::delete`] gives up.
const DELETE_PATIENCE: Duration = Duration::from_secs(2);

/// How long [`Cgroup::freeze`] waits for the last process to stop.
const FREEZE_PATIENCE: Duration = Duration::from_secs(5);

/// The control group of one container: one directory in each hierarchy that
/// it joins. The directories are held open; limits are written through them.
#[derive(Debug)]
pub struct Cgroup {
    path: CgroupPath,
    layout: Layout,
    directories: Vec<Directory>,
}

#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) hierarchy: Hierarchy,
    path: PathBuf,
    descriptor: OwnedFd,
}

/// In which v1 hierarchies a cgroup has a directory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CgroupReach {
    /// Where its limits and what is counted need one.
    Needed,
    /// In all, where other tools look for it.
    All,
}

/// What a child needs to put itself into a cgroup.
#[derive(Debug)]
pub struct AttachPlan {
    /// The v2 directory, for `CLONE_INTO_CGROUP` of clone3(2).
    pub into_cgroup: Option<OwnedFd>,
    /// v1 `tasks` files, to each of which the child writes `0` while it has
    /// one thread. A child that attaches itself does not wait for the global
    /// lock that a write to `cgroup.procs` takes.
    pub tasks: Vec<OwnedFd>,
}

/// One entry of a container's `/sys/fs/cgroup`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ControllerMount {
    /// The name below `/sys/fs/cgroup`; the v2 tree alone is mounted there
    /// itself.
    pub name: String,
    /// The container's own directory in that hierarchy.
    pub source: PathBuf,
    /// Whether this is the v2 tree.
    pub unified: bool,
}

impl Cgroup {
    /// Makes the cgroup in each hierarchy that `resources` needs and sets the
    /// limits. Takes over directories that an interrupted start has left.
    ///
    /// # Errors
    /// When a directory or a limit is refused; what was made until then is
    /// removed again.
    pub fn create(
        hierarchies: &Hierarchies,
        path: &CgroupPath,
        resources: &LinuxResources,
    ) -> Result<Self, Error> {
        Self::create_with(hierarchies, path, resources, CgroupReach::Needed)
    }

    /// As [`Cgroup::create`], in more hierarchies than are needed where `reach` says so.
    ///
    /// # Errors
    /// As [`Cgroup::create`].
    pub fn create_with(
        hierarchies: &Hierarchies,
        path: &CgroupPath,
        resources: &LinuxResources,
        reach: CgroupReach,
    ) -> Result<Self, Error> {
        let mut cgroup = Self {
            path: path.clone(),
            layout: hierarchies.layout(),
            directories: Vec::new(),
        };
        let made = cgroup.make(hierarchies, resources, reach);
        if let Err(error) = made {
            // The first error is the one that explains; this is tidying up.
            drop(cgroup.delete());
            return Err(error);
        }
        Ok(cgroup)
    }

    /// Makes the directories that a container with such `resources` needs, and sets no limits:
    /// [`Cgroup::create`] finds them and has less to do.
    ///
    /// # Errors
    /// [`Error::Create`] and others; what was made until then is removed again.
    pub fn prepare(
        hierarchies: &Hierarchies,
        path: &CgroupPath,
        resources: &LinuxResources,
    ) -> Result<(), Error> {
        let mut cgroup = Self {
            path: path.clone(),
            layout: hierarchies.layout(),
            directories: Vec::new(),
        };
        let made = cgroup.make_directories(hierarchies, resources, CgroupReach::Needed);
        if made.is_err() {
            // The first error is the one that explains; this is tidying up.
            drop(cgroup.delete());
        }
        made
    }

    fn make(
        &mut self,
        hierarchies: &Hierarchies,
        resources: &LinuxResources,
        reach: CgroupReach,
    ) -> Result<(), Error> {
        self.make_directories(hierarchies, resources, reach)?;
        self.apply(resources)
    }

    fn make_directories(
        &mut self,
        hierarchies: &Hierarchies,
        resources: &LinuxResources,
        reach: CgroupReach,
    ) -> Result<(), Error> {
        let wanted = controllers(resources);
        for hierarchy in hierarchies.all() {
            if reach == CgroupReach::All || joins(hierarchies, hierarchy, &wanted) {
                self.directories
                    .push(Directory::make(hierarchy, &self.path)?);
            }
        }
        Ok(())
    }

    /// Opens the cgroup of `path` in every hierarchy where it exists.
    ///
    /// # Errors
    /// [`Error::Open`] when a directory exists and cannot be opened, or when
    /// none exists.
    pub fn open(hierarchies: &Hierarchies, path: &CgroupPath) -> Result<Self, Error> {
        let mut directories = Vec::new();
        for hierarchy in hierarchies.all() {
            match Directory::open(hierarchy, path) {
                Ok(directory) => directories.push(directory),
                Err(Error::Open { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if directories.is_empty() {
            return Err(Error::Open {
                path: PathBuf::from(path.as_str()),
                source: io::ErrorKind::NotFound.into(),
            });
        }
        Ok(Self {
            path: path.clone(),
            layout: hierarchies.layout(),
            directories,
        })
    }

    /// The path that this cgroup has in every hierarchy.
    #[must_use]
    pub fn path(&self) -> &CgroupPath {
        &self.path
    }

    /// Descriptors for a child that is about to be cloned into this cgroup.
    ///
    /// # Errors
    /// [`Error::Open`] when a `tasks` file cannot be opened.
    pub fn attach_plan(&self) -> Result<AttachPlan, Error> {
        let mut plan = AttachPlan {
            into_cgroup: None,
            tasks: Vec::new(),
        };
        for directory in &self.directories {
            if directory.hierarchy.unified {
                let copy = directory.descriptor.try_clone();
                plan.into_cgroup = Some(copy.map_err(|source| directory.open_error(source))?);
            } else {
                plan.tasks.push(directory.file("tasks", OFlags::WRONLY)?);
            }
        }
        Ok(plan)
    }

    /// The directories to show in the container's `/sys/fs/cgroup`.
    #[must_use]
    pub fn mounts(&self) -> Vec<ControllerMount> {
        let mounts = self.directories.iter().map(|directory| ControllerMount {
            name: directory.hierarchy.name.clone(),
            source: directory.path.clone(),
            unified: directory.hierarchy.unified,
        });
        mounts.collect()
    }

    /// Sets the limits of `resources`, joining hierarchies that they need and
    /// that the cgroup was not in before. What is not named stays as it is.
    ///
    /// # Errors
    /// [`Error::Write`] with the first limit that the kernel refuses;
    /// [`Error::MissingController`] when the host cannot limit that.
    pub fn update(
        &mut self,
        hierarchies: &Hierarchies,
        resources: &LinuxResources,
    ) -> Result<(), Error> {
        self.check_memory(resources)?;
        let wanted = controllers(resources);
        for hierarchy in hierarchies.all() {
            let known = self.directories.iter().any(|d| d.hierarchy == *hierarchy);
            if known || !joins(hierarchies, hierarchy, &wanted) {
                continue;
            }
            let directory = Directory::make(hierarchy, &self.path)?;
            for process in self.procs()? {
                let value = process.as_raw_nonzero().to_string();
                match directory.write("cgroup.procs", &value) {
                    // It has ended since it was listed.
                    Err(Error::Write { source, .. })
                        if source.raw_os_error()
                            == Some(rustix::io::Errno::SRCH.raw_os_error()) => {}
                    other => other?,
                }
            }
            self.directories.push(directory);
        }
        self.apply(resources)
    }

    /// Whether a lower limit would kill what runs, where the request asks to look.
    fn check_memory(&self, resources: &LinuxResources) -> Result<(), Error> {
        let Some(memory) = &resources.memory else {
            return Ok(());
        };
        let (Some(true), Some(limit)) = (memory.check_before_update, memory.limit) else {
            return Ok(());
        };
        let Some(directory) = self.with(Controller::Memory) else {
            return Ok(());
        };
        let file = if directory.hierarchy.unified {
            "memory.current"
        } else {
            "memory.usage_in_bytes"
        };
        let used: i64 = directory.read(file)?.trim().parse().unwrap_or(0);
        if limit > 0 && limit < used {
            return Err(Error::InvalidLimit(format!(
                "memory limit {limit} would be below the {used} bytes in use"
            )));
        }
        Ok(())
    }

    fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        let version = match self.layout {
            Layout::V2 => Version::V2,
            Layout::V1 | Layout::Hybrid => Version::V1,
        };
        for setting in settings(resources, version)? {
            let Some(directory) = self.with(setting.controller) else {
                if setting.optional || setting.value == "max" {
                    continue;
                }
                return Err(Error::MissingController(setting.controller));
            };
            self.set(directory, &setting)?;
        }
        self.apply_devices(resources)
    }

    fn set(&self, directory: &Directory, setting: &Setting) -> Result<(), Error> {
        let written = directory.write(&setting.file, &setting.value);
        match written {
            Err(Error::Write { source, .. })
                if source.kind() == io::ErrorKind::NotFound && setting.otherwise.is_some() =>
            {
                let (file, value) = setting.otherwise.as_ref().expect("the guard has seen it");
                directory.write(file, value)
            }
            Err(Error::Write { source, .. })
                if setting.optional && source.kind() == io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            // v1 wants the limit of memory and swap never below that of
            // memory; when both grow the former must be written first.
            Err(Error::Write { .. }) if setting.file == "memory.limit_in_bytes" => {
                directory.write("memory.memsw.limit_in_bytes", "-1")?;
                directory.write(&setting.file, &setting.value)
            }
            other => other,
        }
    }

    fn apply_devices(&self, resources: &LinuxResources) -> Result<(), Error> {
        if resources.devices.is_empty() {
            return Ok(());
        }
        if let Some(directory) = self.with(Controller::Devices) {
            for rule in &resources.devices {
                let (file, line) = devices::v1_line(rule)?;
                directory.write(file, &line)?;
            }
            return Ok(());
        }
        let Some(unified) = self.unified() else {
            return Err(Error::MissingController(Controller::Devices));
        };
        let program = devices::v2_program(&resources.devices)?;
        let program = bpf::load_device_program(&program).map_err(Error::Devices)?;
        bpf::attach_device_program(unified.descriptor.as_fd(), program.as_fd())
            .map_err(Error::Devices)
    }

    /// The processes in the cgroup and in the cgroups below it.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn procs(&self) -> Result<Vec<Pid>, Error> {
        let Some(directory) = self.unified().or(self.directories.first()) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        collect_processes(&directory.path, &mut found)?;
        Ok(found)
    }

    /// Kills every process of the cgroup, those that are forked meanwhile
    /// included. Does not wait until they are gone.
    ///
    /// # Errors
    /// [`Error::Write`] or [`Error::Read`]; a cgroup that is gone is no error.
    pub fn kill_all(&self) -> Result<(), Error> {
        if let Some(unified) = self.unified() {
            match unified.write("cgroup.kill", "1") {
                Ok(()) => return Ok(()),
                Err(Error::Write { source, .. }) if is_gone(&source) => {}
                Err(error) => return Err(error),
            }
        }
        // Without cgroup.kill: until a round finds nobody. A process that
        // forks faster than this loop is bounded by the pids limit.
        for _ in 0..1000 {
            let processes = self.procs()?;
            if processes.is_empty() {
                return Ok(());
            }
            for process in processes {
                // It may have ended since it was listed.
                let _ = kill_process(process, Signal::KILL);
            }
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Stops every process of the cgroup until [`Cgroup::thaw`]; returns when
    /// all have stopped.
    ///
    /// # Errors
    /// [`Error::Write`]; with `TimedOut` when a process cannot be stopped
    /// (uninterruptible sleep), in which case all run on.
    pub fn freeze(&self) -> Result<(), Error> {
        let (directory, file, value) = self.freezer("1", "FROZEN")?;
        let deadline = Instant::now() + FREEZE_PATIENCE;
        loop {
            directory.write(file, value)?;
            if self.is_frozen()? {
                return Ok(());
            }
            if Instant::now() > deadline {
                self.thaw()?;
                return Err(Error::Write {
                    file: file.to_owned(),
                    value: value.to_owned(),
                    source: io::ErrorKind::TimedOut.into(),
                });
            }
            sleep(Duration::from_millis(1));
        }
    }

    /// Lets the processes run on.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn thaw(&self) -> Result<(), Error> {
        let (directory, file, value) = self.freezer("0", "THAWED")?;
        directory.write(file, value)
    }

    /// Whether all processes are stopped by [`Cgroup::freeze`].
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn is_frozen(&self) -> Result<bool, Error> {
        if let Some(unified) = self.unified() {
            return Ok(unified.counter("cgroup.events", "frozen")? == 1);
        }
        let state = self
            .with(Controller::Freezer)
            .map(|freezer| freezer.read("freezer.state"))
            .transpose()?;
        Ok(state.is_some_and(|state| state.trim_end() == "FROZEN"))
    }

    fn freezer<'a>(
        &self,
        v2: &'a str,
        v1: &'a str,
    ) -> Result<(&Directory, &'static str, &'a str), Error> {
        if let Some(unified) = self.unified() {
            return Ok((unified, "cgroup.freeze", v2));
        }
        let directory = self
            .with(Controller::Freezer)
            .ok_or(Error::MissingController(Controller::Freezer))?;
        Ok((directory, "freezer.state", v1))
    }

    /// How often the kernel has killed a process of this cgroup for want of
    /// memory; 0 where that is not counted.
    #[must_use]
    pub fn oom_kill_count(&self) -> u64 {
        let Some(memory) = self.with(Controller::Memory) else {
            return 0;
        };
        let file = if memory.hierarchy.unified {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        memory.counter(file, "oom_kill").unwrap_or(0)
    }

    /// Removes the cgroup and all below it. Idempotent. Processes that are
    /// still in it are not killed: see [`Cgroup::kill_all`].
    ///
    /// # Errors
    /// [`Error::Remove`] when a directory stays busy for two seconds; the
    /// others are removed all the same.
    pub fn delete(&self) -> Result<(), Error> {
        let deadline = Instant::now() + DELETE_PATIENCE;
        let mut first_error = None;
        for directory in &self.directories {
            if let Err(error) = remove_tree(&directory.path, deadline) {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    pub(crate) fn unified(&self) -> Option<&Directory> {
        self.directories.iter().find(|d| d.hierarchy.unified)
    }

    pub(crate) fn with(&self, controller: Controller) -> Option<&Directory> {
        self.directories
            .iter()
            .find(|d| d.hierarchy.controllers.contains(&controller))
    }
}

/// Whether a container that needs the controllers `wanted` has a directory in
/// `hierarchy`.
fn joins(hierarchies: &Hierarchies, hierarchy: &Hierarchy, wanted: &[Controller]) -> bool {
    if hierarchy.unified {
        return true;
    }
    if hierarchies.unified().is_none()
        && (hierarchy.controllers.is_empty()
            || hierarchy.controllers.contains(&Controller::Freezer))
    {
        // Without a v2 tree the named hierarchy is what systemd tracks
        // processes by, and the freezer is what pauses them.
        return true;
    }
    hierarchy.controllers.iter().any(|c| wanted.contains(c))
}

/// Makes the directory of `path` in the v2 tree and opens it, for a process
/// that is to be born there; `None` where there is no such tree or no way to
/// make it.
#[must_use]
pub fn birthplace(hierarchies: &Hierarchies, path: &CgroupPath) -> Option<OwnedFd> {
    let directory = hierarchies.unified()?.directory(path.as_str());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = || rustix::fs::open(&directory, flags, Mode::empty()).ok();
    open().or_else(|| {
        fs::create_dir_all(&directory).ok()?;
        open()
    })
}

/// Moves a process into `path` of the v2 tree, which is made where it is
/// missing; without such a tree nothing is done.
///
/// # Errors
/// [`Error::Create`], [`Error::Open`] or [`Error::Write`].
pub fn move_process(
    hierarchies: &Hierarchies,
    path: &CgroupPath,
    process: Pid,
) -> Result<(), Error> {
    let Some(unified) = hierarchies.unified() else {
        return Ok(());
    };
    make_directory(unified, path)?;
    let directory = Directory::open(unified, path)?;
    directory.write("cgroup.procs", &process.as_raw_nonzero().to_string())
}

/// Removes the directories of `path` in every hierarchy, as long as nothing
/// is below them, and says whether none is left. For the cgroup that encloses
/// an engine's containers.
pub fn remove_parent(hierarchies: &Hierarchies, path: &CgroupPath) -> bool {
    let mut gone = true;
    for hierarchy in hierarchies.all() {
        let removed = fs::remove_dir(hierarchy.directory(path.as_str()));
        gone &= match removed {
            Ok(()) => true,
            Err(error) => is_gone(&error),
        };
    }
    gone
}

/// Makes a directory unless it is there, its parents first where they are missing.
fn make_directory(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<(), Error> {
    let target = hierarchy.directory(path.as_str());
    let made = match fs::create_dir(&target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_parents(hierarchy, path)?;
            fs::create_dir(&target)
        }
        other => other,
    };
    match made {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(Error::Create {
            path: target,
            source,
        }),
        _ => Ok(()),
    }
}

impl Directory {
    /// Makes the directory, its parents first where they are missing.
    fn make(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<Self, Error> {
        make_directory(hierarchy, path)?;
        let directory = Self::open(hierarchy, path)?;
        directory.prepare(path)?;
        Ok(directory)
    }

    fn open(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<Self, Error> {
        let target = hierarchy.directory(path.as_str());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&target, flags, Mode::empty()) {
            Ok(descriptor) => Ok(Self {
                hierarchy: hierarchy.clone(),
                path: target,
                descriptor,
            }),
            Err(errno) => Err(Error::Open {
                path: target,
                source: errno.into(),
            }),
        }
    }

    /// Does what a fresh directory needs before a process may enter or a
    /// limit can be written.
    fn prepare(&self, path: &CgroupPath) -> Result<(), Error> {
        if self.hierarchy.unified && !self.hierarchy.controllers.is_empty() {
            let here = self.read("cgroup.controllers")?;
            let missing = subtree_control(&self.hierarchy.controllers)
                .split(' ')
                .any(|name| !here.split_whitespace().any(|h| h == &name[1..]));
            if missing {
                delegate(&self.hierarchy, path)?;
            }
        }
        if self.hierarchy.controllers.contains(&Controller::CpuSet) && !self.hierarchy.unified {
            inherit_cpuset(&self.hierarchy, path)?;
        }
        Ok(())
    }

    fn file(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Error> {
        openat(
            &self.descriptor,
            name,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| Error::Open {
            path: self.path.join(name),
            source: errno.into(),
        })
    }

    fn write(&self, file: &str, value: &str) -> Result<(), Error> {
        write_control(self.descriptor.as_fd(), file, value)
    }

    pub(crate) fn read(&self, file: &str) -> Result<String, Error> {
        read_control(self.descriptor.as_fd(), file)
    }

    /// The number behind `key` in a file of `key number` lines.
    fn counter(&self, file: &str, key: &str) -> Result<u64, Error> {
        let text = self.read(file)?;
        let value = text.lines().find_map(|line| {
            let (name, value) = line.split_once(' ')?;
            (name == key).then(|| value.parse().ok())?
        });
        Ok(value.unwrap_or(0))
    }

    fn open_error(&self, source: io::Error) -> Error {
        Error::Open {
            path: self.path.clone(),
            source,
        }
    }
}

fn write_control(directory: BorrowedFd<'_>, file: &str, value: &str) -> Result<(), Error> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let written = openat(directory, file, flags, Mode::empty())
        .and_then(|descriptor| rustix::io::write(&descriptor, value.as_bytes()));
    match written {
        Ok(_) => Ok(()),
        Err(errno) => Err(Error::Write {
            file: file.to_owned(),
            value: value.to_owned(),
            source: errno.into(),
        }),
    }
}

fn read_control(directory: BorrowedFd<'_>, file: &str) -> Result<String, Error> {
    let read = || -> io::Result<String> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let descriptor = openat(directory, file, flags, Mode::empty())?;
        let mut text = String::new();
        fs::File::from(descriptor).read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|source| Error::Read {
        file: file.to_owned(),
        source,
    })
}

/// Makes the cgroups that enclose `path`. Another start may be doing the same.
fn make_parents(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<(), Error> {
    for ancestor in path.ancestors().filter(|a| *a != path.as_str()) {
        let directory = hierarchy.directory(ancestor);
        match fs::create_dir(&directory) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::Create {
                    path: directory,
                    source,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Hands the v2 controllers down to the cgroup of `path`, from the root on.
fn delegate(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<(), Error> {
    let value = subtree_control(&hierarchy.controllers);
    let outer = path.ancestors().filter(|a| *a != path.as_str());
    for ancestor in [""].into_iter().chain(outer) {
        let directory = hierarchy.directory(ancestor);
        fs::write(directory.join("cgroup.subtree_control"), &value).map_err(|source| {
            Error::Write {
                file: format!("{ancestor}/cgroup.subtree_control"),
                value: value.clone(),
                source,
            }
        })?;
    }
    Ok(())
}

/// Fills `cpuset.cpus` and `cpuset.mems` of `path` and of what encloses it
/// from above: on v1 nobody may enter while they are empty.
fn inherit_cpuset(hierarchy: &Hierarchy, path: &CgroupPath) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let mut above = read_text(&hierarchy.mount_point.join(file))?;
        for ancestor in path.ancestors() {
            let here = hierarchy.directory(ancestor).join(file);
            let own = read_text(&here)?;
            if own.trim().is_empty() {
                fs::write(&here, above.trim()).map_err(|source| Error::Write {
                    file: file.to_owned(),
                    value: above.trim().to_owned(),
                    source,
                })?;
            } else {
                above = own;
            }
        }
    }
    Ok(())
}

fn read_text(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Read {
        file: path.display().to_string(),
        source,
    })
}

fn collect_processes(directory: &Path, found: &mut Vec<Pid>) -> Result<(), Error> {
    let path = directory.join("cgroup.procs");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if is_gone(&error) => return Ok(()),
        Err(source) => {
            return Err(Error::Read {
                file: path.display().to_string(),
                source,
            });
        }
    };
    let processes = text.lines().filter_map(|line| line.parse().ok());
    found.extend(processes.filter_map(Pid::from_raw));
    for child in child_directories(directory) {
        collect_processes(&child, found)?;
    }
    Ok(())
}

fn child_directories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Removes a cgroup directory, its children first. A cgroup stays busy for a
/// moment after its last process was reaped.
fn remove_tree(directory: &Path, deadline: Instant) -> Result<(), Error> {
    let mut pause = Duration::from_micros(200);
    loop {
        let Err(source) = fs::remove_dir(directory) else {
            return Ok(());
        };
        if is_gone(&source) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::Remove {
                path: directory.to_owned(),
                source,
            });
        }
        let children = child_directories(directory);
        if children.is_empty() {
            sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        for child in children {
            remove_tree(&child, deadline)?;
        }
    }
}

/// Whether an error says that the cgroup was removed meanwhile.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}
