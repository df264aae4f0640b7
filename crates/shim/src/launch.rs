//! From a launch to a running container, once or again and again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_reconfigure, fsconfig_set_flag, fsmount,
    fsopen, fspick, mount_change, move_mount, open_tree, unmount,
};
use rustix::process::{Signal, kill_process};
use sampan_cgroups::{Cgroup, CgroupPath, CgroupReach, Hierarchies};
use sampan_logs::Format;
use sampan_oci::runtime::{LinuxResources, Mount, NamespaceKind, Process, Spec};
use sampan_runtime::{Bundle, ErrorKind, Root, SeccompProgram, Stdio};
use sampan_shim_protocol::{
    AttachSpec, Filter, INIT_FILE, Launch, LaunchDescriptors, LogConfig, LogDriver, Preparation,
    ROOT_DIRECTORY, RootSource, StartFailure, StartFailureKind,
};
use sampan_text::with_causes;

use crate::explain::explain;
use crate::foreign::{self, Making};
use crate::isolate;
use crate::poller::Poller;
use crate::record::now;
use crate::steps;
use crate::streams::{Log, StdinPolicy, Streams};
use crate::task::{Created, Task};

/// Where the init's executable appears in a container.
const INIT_PATH: &str = "/sbin/docker-init";

/// A running container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) running: Task,
    pub(crate) started_at: String,
    pub(crate) began: Instant,
    pub(crate) paused: bool,
    /// The number of its own streams.
    pub(crate) streams: u32,
}

impl Container {
    /// Sends a signal to every process of the container.
    pub(crate) fn signal_all(&self, signal: Signal) -> Result<(), sampan_runtime::Error> {
        if signal == Signal::KILL {
            return self.running.kill_all();
        }
        if let Some(cgroup) = self.running.cgroup() {
            for pid in cgroup.procs()? {
                // It may have ended meanwhile.
                let _ = kill_process(pid, signal);
            }
        }
        Ok(())
    }
}

/// What a run is made of, kept for the next one. It holds the root, the namespaces and the host
/// ports until the engine releases the container.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) id: String,
    spec: Spec,
    root: KeptRoot,
    hierarchies: Hierarchies,
    cgroup: CgroupPath,
    cgroup_reach: CgroupReach,
    namespaces: Vec<(NamespaceKind, OwnedFd)>,
    /// The program that makes the container, where that is another one.
    runtime: Option<Rc<foreign::Runtime>>,
    /// The filter that execs get too.
    pub(crate) seccomp: Option<SeccompProgram>,
    log: LogConfig,
    directory: PathBuf,
    socket_directory: PathBuf,
    terminal_size: Option<(u16, u16)>,
    stdin: StdinPolicy,
    /// The init's executable, where the runtime takes paths only.
    _init: Option<Attached>,
    /// Only kept open: what is bound, the init's executable, host ports.
    _held: Vec<OwnedFd>,
}

impl Recipe {
    /// Takes a launch apart.
    pub(crate) fn new(
        launch: &mut Launch,
        descriptors: LaunchDescriptors,
        hierarchies: Hierarchies,
        oom_score: i32,
    ) -> Result<Self, StartFailure> {
        let cgroup: CgroupPath = parse_cgroup(&launch.cgroup)?;
        let mut spec = std::mem::take(&mut launch.spec);
        let process = spec.process.get_or_insert_with(Process::default);
        // The shim's own must not be handed down.
        process.oom_score_adj.get_or_insert(oom_score);
        let mut held = descriptors.held;
        let mut attached_init = None;
        if launch.init {
            let init = match descriptors.init {
                Some(init) => init,
                None => own_copy().map_err(|error| system("copying the init", &error))?,
            };
            if launch.runtime.is_some() {
                let place = Attached::file(&init, launch.socket_directory.join(INIT_FILE))
                    .map_err(|error| system("mounting the init", &error))?;
                put_init_first(process, &mut spec.mounts, place.0.clone());
                attached_init = Some(place);
            } else {
                put_init_first(process, &mut spec.mounts, descriptor_path(&init));
            }
            held.push(init);
        }
        if launch.runtime.is_some() && !descriptors.sources.is_empty() {
            let what = "mounts of a build take the runtime that is linked in";
            return Err(invalid(what.to_owned()));
        }
        for (destination, source) in descriptors.sources {
            bind_descriptor(&mut spec.mounts, &destination, &source)?;
            held.push(source);
        }
        let seccomp = match &launch.filter {
            Some(filter) => Some(take_filter(filter)?),
            None if launch.runtime.is_some() => None,
            None => compile_filter(&spec)?,
        };
        steps::done("filter ready");
        let root = match (&launch.root, descriptors.root) {
            (RootSource::Descriptor, Some(root))
                if launch.runtime.is_some() || spec.hooks.is_some() =>
            {
                KeptRoot::attach(&root, &launch.socket_directory)
                    .map_err(|error| system("mounting the root file system", &error))?
            }
            (RootSource::Descriptor, Some(root)) if launch.restart.is_no() => KeptRoot::Mount(root),
            (RootSource::Descriptor, Some(root)) => {
                KeptRoot::for_many(root, &launch.socket_directory)
                    .map_err(|error| system("keeping the root file system", &error))?
            }
            (RootSource::Directory(path), _) => KeptRoot::Directory(path.clone()),
            (RootSource::Descriptor, None) => {
                return Err(invalid("the root file system did not come along".into()));
            }
        };
        let runtime = launch.runtime.take().map(|runtime| {
            let place = launch.socket_directory.join(ROOT_DIRECTORY);
            let root = match &root {
                KeptRoot::Directory(path) => path,
                KeptRoot::Attached(_) | KeptRoot::Mount(_) => &place,
            };
            let directory = &launch.socket_directory;
            Rc::new(foreign::Runtime::new(runtime, &launch.id, directory, root))
        });
        Ok(Self {
            id: std::mem::take(&mut launch.id),
            spec,
            root,
            hierarchies,
            cgroup,
            cgroup_reach: if launch.cgroup_everywhere {
                CgroupReach::All
            } else {
                CgroupReach::Needed
            },
            namespaces: descriptors.namespaces,
            runtime,
            seccomp,
            log: launch.log.clone(),
            directory: launch.directory.clone(),
            socket_directory: launch.socket_directory.clone(),
            terminal_size: launch.terminal_size,
            stdin: match (launch.open_stdin, launch.stdin_once) {
                (false, _) => StdinPolicy::Closed,
                (true, false) => StdinPolicy::Open,
                (true, true) => StdinPolicy::Once,
            },
            _init: attached_init,
            _held: held,
        })
    }

    /// A failure, with what the program's file says of it.
    fn explained(&self, error: &sampan_runtime::Error) -> StartFailure {
        let mut failure = failure(error);
        if let sampan_runtime::Error::Execute { reason, .. } = error
            && let Some(errno) = Errno::from_io_error(reason)
            && let Some(process) = &self.spec.process
            && let Some(root) = self.root.open()
            && let Some(why) = explain(&root, process, errno)
        {
            failure.message.push_str(": ");
            failure.message.push_str(&why);
        }
        failure
    }

    /// Sets the limits of further runs; the devices that it may use stay.
    pub(crate) fn set_limits(&mut self, limits: LinuxResources) {
        let linux = self.spec.linux.get_or_insert_default();
        let resources = linux.resources.get_or_insert_default();
        resources.block_io = limits.block_io;
        resources.memory = limits.memory;
        resources.cpu = limits.cpu;
        resources.pids = limits.pids;
    }

    /// Whether a second run has a root.
    pub(crate) fn can_run_again(&self) -> bool {
        match &self.root {
            KeptRoot::Mount(mount) => clone_mount(mount).is_ok(),
            KeptRoot::Directory(_) | KeptRoot::Attached(_) => true,
        }
    }

    /// Starts the container, whose streams get the number `number`. What was made until a failure
    /// is taken back.
    pub(crate) fn run(
        &self,
        poller: &Rc<Poller>,
        number: u32,
        clients: impl Iterator<Item = (AttachSpec, OwnedFd)>,
    ) -> Result<(Container, Streams), StartFailure> {
        let log = open_log(&self.log, &self.directory, &self.id)?;
        let spec = self.spec.clone();
        let is_terminal = spec
            .process
            .as_ref()
            .is_some_and(|process| process.terminal);
        let (mut streams, stdio) = if is_terminal {
            let streams = Streams::for_terminal(poller, number, self.stdin, log);
            let size = self.terminal_size;
            (streams, Stdio::Terminal { size })
        } else {
            let (streams, ends) = Streams::pipes(poller, number, self.stdin, log)
                .map_err(|error| system("making pipes", &error))?;
            (streams, ends.into())
        };
        steps::done("log and pipes made");
        let mut created = self.create(spec, stdio)?;
        if let Some(terminal) = created.take_terminal() {
            streams
                .set_terminal(terminal)
                .map_err(|error| system("taking the terminal", &error))?;
        }
        for (spec, socket) in clients {
            streams.attach(spec, socket);
        }
        streams.settle();
        let started_at = now();
        let running = created.start(|error| self.explained(error))?;
        steps::done("program runs");
        let container = Container {
            running,
            started_at,
            began: Instant::now(),
            paused: false,
            streams: number,
        };
        Ok((container, streams))
    }

    /// Makes the container up to the point where only its program is missing.
    fn create(&self, spec: Spec, stdio: Stdio) -> Result<Created, StartFailure> {
        if let Some(runtime) = &self.runtime {
            let created = runtime.create(Making {
                spec,
                namespaces: &self.namespaces,
                stdio,
                hierarchies: &self.hierarchies,
                cgroup: &self.cgroup,
            })?;
            return Ok(Created::Foreign(created));
        }
        let copy = |descriptor: &OwnedFd| {
            rustix::io::fcntl_dupfd_cloexec(descriptor, 3)
                .map_err(|errno| system("duplicating a descriptor", &io::Error::from(errno)))
        };
        let directory = match (&spec.hooks, &self.root) {
            (Some(_), KeptRoot::Attached(place)) => {
                // Hooks look for the container's files by its bundle.
                foreign::write_bundle(&self.socket_directory, &spec, &place.0, &self.namespaces)?
            }
            _ => PathBuf::from("/"),
        };
        let namespaces = self.namespaces.iter();
        let namespaces = namespaces.map(|(kind, namespace)| Ok((*kind, copy(namespace)?)));
        let bundle = Bundle {
            root: match &self.root {
                KeptRoot::Mount(mount) => Root::Mount(copy(mount)?),
                KeptRoot::Directory(path) => Root::Directory(path.clone()),
                KeptRoot::Attached(place) => Root::Directory(place.0.clone()),
            },
            namespaces: namespaces.collect::<Result<_, StartFailure>>()?,
            cgroup: Some(self.cgroup.clone()),
            cgroup_reach: self.cgroup_reach,
            stdio,
            seccomp: self.seccomp.clone(),
            directory,
            id: self.id.clone(),
            on_step: steps::done,
            ..Bundle::new(spec, Root::Directory(PathBuf::new()))
        };
        let created = sampan_runtime::create(&self.hierarchies, bundle);
        let created = created.map_err(|error| failure(&error))?;
        Ok(Created::Linked(Box::new(created)))
    }
}

/// Does what can be done before it is known what will run.
pub(crate) fn prepare(preparation: &Preparation) -> Result<Hierarchies, StartFailure> {
    let hierarchies = enter_groups(Some(&preparation.shim_cgroup))?;
    let cgroup = parse_cgroup(&preparation.cgroup)?;
    Cgroup::prepare(&hierarchies, &cgroup, &preparation.resources)
        .map_err(|error| system("making the control group", &io::Error::other(error)))?;
    Ok(hierarchies)
}

/// Looks at the host's control groups and moves the shim into its own.
pub(crate) fn enter_groups(own: Option<&str>) -> Result<Hierarchies, StartFailure> {
    let hierarchies =
        Hierarchies::detect().map_err(|error| system("looking for cgroups", &error))?;
    if let Some(path) = own {
        isolate::enter_cgroup(&hierarchies, &parse_cgroup(path)?);
    }
    Ok(hierarchies)
}

/// Where the root of every run comes from.
#[derive(Debug)]
enum KeptRoot {
    /// A detached mount; each run clones it, or the only one takes it.
    Mount(OwnedFd),
    /// A directory of the host.
    Directory(PathBuf),
    /// A mount that had to be attached to be cloned: before Linux 6.15.
    Attached(Attached),
}

impl KeptRoot {
    /// The root, to look at its files.
    fn open(&self) -> Option<sampan_fs::Root> {
        match self {
            Self::Mount(mount) => {
                let copy = rustix::io::fcntl_dupfd_cloexec(mount, 3).ok()?;
                Some(sampan_fs::Root::from_fd(copy))
            }
            Self::Directory(path) => sampan_fs::Root::open(path).ok(),
            Self::Attached(place) => sampan_fs::Root::open(&place.0).ok(),
        }
    }

    /// Keeps a detached mount for any number of runs.
    fn for_many(mount: OwnedFd, directory: &Path) -> io::Result<Self> {
        if clone_mount(&mount).is_ok() {
            return Ok(Self::Mount(mount));
        }
        Self::attach(&mount, directory)
    }

    /// Gives a detached mount a path below `directory`.
    fn attach(mount: &OwnedFd, directory: &Path) -> io::Result<Self> {
        let place = directory.join(ROOT_DIRECTORY);
        match rustix::fs::mkdir(&place, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(Self::Attached(Attached::put(mount, place)?))
    }
}

/// A mount on a directory or a file, taken away when it is dropped.
#[derive(Debug)]
struct Attached(PathBuf);

impl Attached {
    /// Puts a detached mount on what is at `place`.
    fn put(mount: &OwnedFd, place: PathBuf) -> io::Result<Self> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(mount, "", rustix::fs::CWD, &place, flags)?;
        let place = Self(place);
        // Nobody else's copy of the host's mounts gets it.
        mount_change(&place.0, MountPropagationFlags::PRIVATE)?;
        Ok(place)
    }

    /// Puts the mount of a file on a new file at `place`.
    fn file(mount: &OwnedFd, place: PathBuf) -> io::Result<Self> {
        File::create(&place)?;
        // One that is attached elsewhere stays there.
        match clone_mount(mount) {
            Ok(copy) => Self::put(&copy, place),
            Err(_) => Self::put(mount, place),
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Best effort: the engine takes it away with the directory.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
        let _ = rustix::fs::rmdir(&self.0);
        let _ = rustix::fs::unlink(&self.0);
    }
}

fn clone_mount(mount: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(mount, "", flags)
}

fn parse_cgroup(path: &str) -> Result<CgroupPath, StartFailure> {
    path.parse()
        .map_err(|error: sampan_cgroups::Error| invalid(with_causes(&error)))
}

fn open_log(config: &LogConfig, directory: &Path, id: &str) -> Result<Option<Log>, StartFailure> {
    let Some((below, name)) = config.driver.place(id) else {
        return Ok(None);
    };
    let directory = directory.join(below);
    if !below.is_empty() {
        match rustix::fs::mkdir(&directory, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(system("making the log's directory", &errno)),
        }
    }
    let options = sampan_logs::Options {
        format: match config.driver {
            LogDriver::Local => Format::Local,
            LogDriver::JsonFile | LogDriver::None => Format::JsonFile,
        },
        compress: config.compress,
        max_size: config.max_size,
        max_file: config.max_file,
        attrs: config.attrs.clone(),
    };
    Log::open(&directory, name, &options)
        .map(Some)
        .map_err(|error| system("opening the log", &error))
}

fn take_filter(filter: &Filter) -> Result<SeccompProgram, StartFailure> {
    SeccompProgram::from_bytes(&filter.instructions.0, filter.flags)
        .ok_or_else(|| invalid("the system call filter is cut off".into()))
}

fn compile_filter(spec: &Spec) -> Result<Option<SeccompProgram>, StartFailure> {
    let filter = spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref());
    filter
        .map(sampan_runtime::seccomp::compile)
        .transpose()
        .map_err(|error| invalid(with_causes(&error)))
}

/// Lets the init run the command.
fn put_init_first(process: &mut Process, mounts: &mut Vec<Mount>, init: PathBuf) {
    let command = std::mem::take(&mut process.args);
    process.args = vec![INIT_PATH.to_owned(), "--".to_owned()];
    process.args.extend(command);
    mounts.push(Mount {
        destination: INIT_PATH.to_owned(),
        kind: Some("bind".to_owned()),
        source: Some(init),
        options: vec!["bind".to_owned(), "ro".to_owned()],
        ..Mount::default()
    });
}

/// Gives a mount its source, which came along.
fn bind_descriptor(
    mounts: &mut [Mount],
    destination: &str,
    source: &OwnedFd,
) -> Result<(), StartFailure> {
    let waiting = |mount: &&mut Mount| mount.source.is_none() && mount.destination == destination;
    let Some(mount) = mounts.iter_mut().find(waiting) else {
        return Err(invalid(format!("nothing is to be bound at {destination}")));
    };
    mount.source = Some(descriptor_path(source));
    Ok(())
}

fn descriptor_path(descriptor: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into()
}

/// A copy of this executable on a read-only file system that no path of the host leads to: a
/// container that gets hold of its process 1's executable can change nothing of the host's.
fn own_copy() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(context.as_fd())?;
    let mount = fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
    )?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let copy = rustix::fs::openat(&mount, "init", flags, Mode::from_raw_mode(0o555))?;
    io::copy(&mut File::open("/proc/self/exe")?, &mut File::from(copy))?;
    let context = fspick(
        mount.as_fd(),
        "",
        FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH,
    )?;
    fsconfig_set_flag(context.as_fd(), "ro")?;
    fsconfig_reconfigure(context.as_fd())?;
    // A mount of its own: the other one is gone with its descriptor.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(open_tree(&mount, "init", flags)?)
}

/// What an engine is told of an error of the runtime. What the file of a program says of it comes
/// later, see [`explain`].
pub(crate) fn failure(error: &sampan_runtime::Error) -> StartFailure {
    let mut message = with_causes(error);
    if let Some(hint) = error.hint()
        && !matches!(error, sampan_runtime::Error::Execute { .. })
    {
        message.push_str(": ");
        message.push_str(hint);
    }
    StartFailure {
        kind: match error.kind() {
            ErrorKind::CommandNotFound => StartFailureKind::CommandNotFound,
            ErrorKind::NotExecutable => StartFailureKind::NotExecutable,
            ErrorKind::BadUser => StartFailureKind::BadUser,
            ErrorKind::BadMount | ErrorKind::Invalid => StartFailureKind::Invalid,
            ErrorKind::Unsupported => StartFailureKind::Unsupported,
            ErrorKind::OutOfResources => StartFailureKind::OutOfMemory,
            ErrorKind::Cgroup | ErrorKind::NotRunning | ErrorKind::System => {
                StartFailureKind::System
            }
        },
        message,
        exit_code: error.exit_code(),
    }
}

/// A failure of the host.
pub(crate) fn system(doing: &str, error: &dyn std::error::Error) -> StartFailure {
    StartFailure {
        kind: StartFailureKind::System,
        message: format!("{doing}: {}", with_causes(error)),
        exit_code: 128,
    }
}

/// What was asked for makes no sense.
pub(crate) fn invalid(message: String) -> StartFailure {
    StartFailure {
        kind: StartFailureKind::Invalid,
        message,
        exit_code: 128,
    }
}
