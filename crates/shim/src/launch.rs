//! From a launch to a running container.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsmount, fsopen, fspick, open_tree,
};
use rustix::process::{Signal, kill_process};
use sampan_cgroups::{CgroupPath, Hierarchies};
use sampan_fs::Sync;
use sampan_oci::runtime::{Mount, Process};
use sampan_runtime::{Bundle, ErrorKind, Root, Running, SeccompProgram, Stdio};
use sampan_shim_protocol::{
    Filter, Launch, LaunchDescriptors, LogConfig, LogDriver, RootSource, StartFailure,
    StartFailureKind,
};

use crate::isolate;
use crate::poller::Poller;
use crate::record::{Record, chain, now};
use crate::steps;
use crate::streams::{Log, StdinPolicy, Streams};

/// Where the init's executable appears in a container.
const INIT_PATH: &str = "/sbin/docker-init";
/// The number of the container's own streams.
pub(crate) const CONTAINER_STREAMS: u32 = 0;

/// A running container.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) running: Running,
    pub(crate) started_at: String,
    pub(crate) paused: bool,
    /// The filter that execs get too.
    pub(crate) seccomp: Option<SeccompProgram>,
    /// Kept open until the engine releases the container: its root, namespaces, host ports.
    pub(crate) held: Vec<OwnedFd>,
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

/// Starts the container. What was made until a failure is taken back.
pub(crate) fn launch(
    poller: &Rc<Poller>,
    launch: Launch,
    descriptors: LaunchDescriptors,
    oom_score: i32,
) -> Result<(Container, Record, Streams), StartFailure> {
    let Launch { id, mut spec, .. } = launch;
    if launch.note_steps {
        steps::begin();
        steps::done("launch heard");
    }
    let sync = if launch.auto_remove {
        Sync::Volatile
    } else {
        Sync::Durable
    };
    let mut record = Record::open(&launch.directory, sync)
        .map_err(|errno| system("opening the container's directory", &io::Error::from(errno)))?;
    let hierarchies =
        Hierarchies::detect().map_err(|error| system("looking for cgroups", &error))?;
    let cgroup: CgroupPath = parse_cgroup(&launch.cgroup)?;
    if let Some(path) = &launch.shim_cgroup {
        isolate::enter_cgroup(&hierarchies, &parse_cgroup(path)?);
    }
    steps::done("own cgroup entered");
    let log = open_log(&launch.log, launch.directory, &id)?;
    let process = spec.process.get_or_insert_with(Process::default);
    // The shim's own must not be handed down.
    process.oom_score_adj.get_or_insert(oom_score);
    let is_terminal = process.terminal;
    // Held open until the mount has been made of it.
    let mut _init = None;
    if launch.init {
        let init = match descriptors.init {
            Some(init) => init,
            None => own_copy().map_err(|error| system("copying the init", &error))?,
        };
        put_init_first(process, &mut spec.mounts, &init);
        _init = Some(init);
    }
    for (destination, source) in &descriptors.sources {
        bind_descriptor(&mut spec.mounts, destination, source)?;
    }
    let policy = match (launch.open_stdin, launch.stdin_once) {
        (false, _) => StdinPolicy::Closed,
        (true, false) => StdinPolicy::Open,
        (true, true) => StdinPolicy::Once,
    };
    let (mut streams, stdio) = if is_terminal {
        let streams = Streams::for_terminal(poller, CONTAINER_STREAMS, policy, log);
        let size = launch.terminal_size;
        (streams, Stdio::Terminal { size })
    } else {
        let (streams, ends) = Streams::pipes(poller, CONTAINER_STREAMS, policy, log)
            .map_err(|error| system("making pipes", &error))?;
        (streams, ends.into())
    };
    steps::done("log and pipes made");
    let seccomp = match &launch.filter {
        Some(filter) => Some(take_filter(filter)?),
        None => compile_filter(&spec)?,
    };
    steps::done("filter ready");
    let mut held = descriptors.held;
    let mut hold = |descriptor: &OwnedFd| -> Result<(), StartFailure> {
        let copy = rustix::io::fcntl_dupfd_cloexec(descriptor, 3)
            .map_err(|errno| system("holding a descriptor", &io::Error::from(errno)))?;
        held.push(copy);
        Ok(())
    };
    for (_, namespace) in &descriptors.namespaces {
        hold(namespace)?;
    }
    let root = match (launch.root, descriptors.root) {
        (RootSource::Descriptor, Some(root)) => {
            hold(&root)?;
            Root::Mount(root)
        }
        (RootSource::Directory(path), _) => Root::Directory(path),
        (RootSource::Descriptor, None) => {
            return Err(invalid("the root file system did not come along".into()));
        }
    };
    let bundle = Bundle {
        root,
        namespaces: descriptors.namespaces,
        cgroup: Some(cgroup),
        stdio,
        seccomp: seccomp.clone(),
        on_step: steps::done,
        ..Bundle::new(spec, Root::Directory(PathBuf::new()))
    };
    let mut created =
        sampan_runtime::create(&hierarchies, bundle).map_err(|error| failure(&error))?;
    if let Some(terminal) = created.take_terminal() {
        streams
            .set_terminal(terminal)
            .map_err(|error| system("taking the terminal", &error))?;
    }
    for (spec, socket) in launch.attach.into_iter().zip(descriptors.attach) {
        streams.attach(spec, socket);
    }
    streams.settle();
    let started_at = now();
    let running = created.start().map_err(|error| failure(&error))?;
    steps::done("program runs");
    record.started(running.pid().as_raw_nonzero().get(), &started_at);
    let container = Container {
        id,
        running,
        started_at,
        paused: false,
        seccomp,
        held,
    };
    Ok((container, record, streams))
}

fn parse_cgroup(path: &str) -> Result<CgroupPath, StartFailure> {
    path.parse()
        .map_err(|error: sampan_cgroups::Error| invalid(chain(&error)))
}

fn open_log(config: &LogConfig, directory: PathBuf, id: &str) -> Result<Option<Log>, StartFailure> {
    match config.driver {
        LogDriver::None => Ok(None),
        LogDriver::JsonFile => {
            let options = sampan_logs::Options {
                max_size: config.max_size,
                max_file: config.max_file,
                attrs: config.attrs.clone(),
            };
            Log::open(&directory, format!("{id}-json.log"), &options)
                .map(Some)
                .map_err(|error| system("opening the log", &error))
        }
    }
}

fn take_filter(filter: &Filter) -> Result<SeccompProgram, StartFailure> {
    SeccompProgram::from_bytes(&filter.instructions.0, filter.flags)
        .ok_or_else(|| invalid("the system call filter is cut off".into()))
}

fn compile_filter(
    spec: &sampan_oci::runtime::Spec,
) -> Result<Option<SeccompProgram>, StartFailure> {
    let filter = spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref());
    filter
        .map(sampan_runtime::seccomp::compile)
        .transpose()
        .map_err(|error| invalid(chain(&error)))
}

/// Lets the init run the command.
fn put_init_first(process: &mut Process, mounts: &mut Vec<Mount>, init: &OwnedFd) {
    let command = std::mem::take(&mut process.args);
    process.args = vec![INIT_PATH.to_owned(), "--".to_owned()];
    process.args.extend(command);
    mounts.push(Mount {
        destination: INIT_PATH.to_owned(),
        kind: Some("bind".to_owned()),
        source: Some(descriptor_path(init)),
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

/// What an engine is told of an error of the runtime.
pub(crate) fn failure(error: &sampan_runtime::Error) -> StartFailure {
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
        message: chain(error),
        exit_code: error.exit_code(),
    }
}

/// A failure of the host.
pub(crate) fn system(doing: &str, error: &dyn std::error::Error) -> StartFailure {
    StartFailure {
        kind: StartFailureKind::System,
        message: format!("{doing}: {}", chain(error)),
        exit_code: 128,
    }
}

fn invalid(message: String) -> StartFailure {
    StartFailure {
        kind: StartFailureKind::Invalid,
        message,
        exit_code: 128,
    }
}
