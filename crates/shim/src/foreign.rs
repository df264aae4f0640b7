//! Another program in the place of the runtime that is linked in: one that takes runc's command
//! line. It makes the container and starts processes in it; everything else stays the shim's, whose
//! children they become.
//!
//! Below the shim's directory: `bundle/` with what the program is told, and `root`, the root file
//! system, which a program can only be given as a path.
//!
//! * [`bundle`]: the specification as the program gets it;
//! * [`call`]: a call of the program, and what it says of a failure;
//! * [`console`]: how a terminal comes from it.

mod bundle;
mod call;
mod console;

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::process::Pid;
use sampan_cgroups::{CgroupPath, Hierarchies};
use sampan_fs::Root;
use sampan_oci::runtime::{NamespaceKind, Process, Spec};
use sampan_runtime::{ExecProcess, ExecRequest, Running, Stdio, process_status};
use sampan_shim_protocol::{ForeignRuntime, StartFailure};

use self::call::{Doing, Streams};
use self::console::Console;
use crate::launch::{failure, invalid, system};

/// Where a program finds what it is told, below the shim's directory.
const BUNDLE: &str = "bundle";
const PID_FILE: &str = "pid";
const PROCESS_FILE: &str = "process.json";

/// A runtime and the container that it makes.
#[derive(Debug)]
pub(crate) struct Runtime {
    about: ForeignRuntime,
    id: String,
    bundle: PathBuf,
    root: PathBuf,
}

/// What a container is made of.
pub(crate) struct Making<'a> {
    pub(crate) spec: Spec,
    pub(crate) namespaces: &'a [(NamespaceKind, OwnedFd)],
    pub(crate) stdio: Stdio,
    pub(crate) hierarchies: &'a Hierarchies,
    pub(crate) cgroup: &'a CgroupPath,
}

impl Runtime {
    /// The runtime of the container `id`, whose root file system is at `root`.
    pub(crate) fn new(about: ForeignRuntime, id: &str, directory: &Path, root: &Path) -> Self {
        Self {
            about,
            id: id.to_owned(),
            bundle: directory.join(BUNDLE),
            root: root.to_owned(),
        }
    }

    /// Makes the container up to the point where only its program is missing.
    pub(crate) fn create(self: &Rc<Self>, making: Making<'_>) -> Result<Created, StartFailure> {
        // Of a shim that was killed: the program would take the container for running.
        self.delete()?;
        let Making {
            mut spec,
            namespaces,
            stdio,
            hierarchies,
            cgroup,
        } = making;
        if let Some(process) = &mut spec.process {
            self.name_user(process)?;
        }
        bundle::complete(&mut spec, &self.root, namespaces);
        write(&self.bundle, "config.json", &spec)?;
        let made = Made {
            runtime: Rc::clone(self),
            armed: true,
        };
        let words = ["create", "--bundle", &path_text(&self.bundle)?];
        let terminal = self.start_process(Doing::Create, &words, stdio)?;
        let pid = self.read_pid()?;
        let status = process_status(pid).map_err(|error| failure(&error))?;
        let start_time = status.map_or(0, |status| status.start_time);
        let running = Running::open(hierarchies, pid, start_time, Some(cgroup))
            .map_err(|error| failure(&error))?
            .ok_or_else(|| self.odd("the container's process has ended before its start"))?;
        Ok(Created {
            made,
            running,
            terminal,
        })
    }

    /// Starts a further process in the container.
    pub(crate) fn exec(&self, request: ExecRequest) -> Result<ExecProcess, StartFailure> {
        let ExecRequest {
            mut process, stdio, ..
        } = request;
        self.name_user(&mut process)?;
        write(&self.bundle, PROCESS_FILE, &process)?;
        let file = path_text(&self.bundle.join(PROCESS_FILE))?;
        let words = ["exec", "--detach", "--process", &file];
        let terminal = self.start_process(Doing::Exec, &words, stdio)?;
        let pid = self.read_pid()?;
        ExecProcess::of_child(pid, terminal).map_err(|error| failure(&error))
    }

    /// Freezes the container.
    pub(crate) fn pause(&self) -> Result<(), StartFailure> {
        self.call(Doing::Pause, &["pause"], Streams::Null)
    }

    /// Lets it run on.
    pub(crate) fn resume(&self) -> Result<(), StartFailure> {
        self.call(Doing::Resume, &["resume"], Streams::Null)
    }

    /// Has the program forget the container, which it kills if it runs. Idempotent.
    pub(crate) fn delete(&self) -> Result<(), StartFailure> {
        if !self.about.state.join(&self.id).exists() {
            return Ok(());
        }
        self.call(Doing::Delete, &["delete", "--force"], Streams::Null)
    }

    /// Has the program start a process with these streams; the near side of its terminal.
    fn start_process(
        &self,
        doing: Doing,
        words: &[&str],
        stdio: Stdio,
    ) -> Result<Option<OwnedFd>, StartFailure> {
        let pid_file = path_text(&self.bundle.join(PID_FILE))?;
        let mut words = words.to_vec();
        words.extend(["--pid-file", &pid_file]);
        match stdio {
            Stdio::Terminal { size } => {
                let console = Console::listen(&self.bundle)
                    .map_err(|error| system("waiting for a terminal", &error))?;
                let path = console.path();
                words.extend(["--console-socket", &path]);
                self.call(doing, &words, Streams::Null)?;
                let terminal = console
                    .receive(size)
                    .map_err(|error| system("taking the terminal", &error))?;
                Ok(Some(terminal))
            }
            Stdio::Pipes {
                stdin,
                stdout,
                stderr,
            } => {
                let streams = Streams::Of([stdin, stdout, stderr]);
                self.call(doing, &words, streams)?;
                Ok(None)
            }
            Stdio::Inherit => {
                self.call(doing, &words, Streams::Null)?;
                Ok(None)
            }
        }
    }

    /// Looks the user up in the container's files, which the programs leave to their callers.
    fn name_user(&self, process: &mut Process) -> Result<(), StartFailure> {
        let failed = |error: &dyn std::error::Error| system("opening the root file system", error);
        let root = Root::open(&self.root).map_err(|error| failed(&error))?;
        process.user = sampan_runtime::numeric_user(root.as_fd(), &process.user)
            .map_err(|error| failure(&error))?;
        Ok(())
    }

    fn read_pid(&self) -> Result<Pid, StartFailure> {
        let text = fs::read_to_string(self.bundle.join(PID_FILE))
            .map_err(|error| system("reading the pid file of the runtime", &error))?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        pid.ok_or_else(|| self.odd("it has written no process id"))
    }

    /// The program did something that no runtime does.
    fn odd(&self, what: &str) -> StartFailure {
        let name = &self.about.name;
        system(
            &format!("talking to the runtime {name}"),
            &io::Error::other(what.to_owned()),
        )
    }
}

/// Writes a specification as other programs get it, for hooks of the runtime that is linked in; the
/// bundle's path.
pub(crate) fn write_bundle(
    directory: &Path,
    spec: &Spec,
    root: &Path,
    namespaces: &[(NamespaceKind, OwnedFd)],
) -> Result<PathBuf, StartFailure> {
    let mut spec = spec.clone();
    bundle::complete(&mut spec, root, namespaces);
    let bundle = directory.join(BUNDLE);
    write(&bundle, "config.json", &spec)?;
    Ok(bundle)
}

fn write(bundle: &Path, name: &str, what: &impl serde::Serialize) -> Result<(), StartFailure> {
    let write = || -> io::Result<()> {
        fs::create_dir_all(bundle)?;
        fs::write(bundle.join(name), serde_json::to_vec(what)?)
    };
    write().map_err(|error| system("writing the bundle", &error))
}

/// Paths are arguments of a program, which this one makes itself: they are text.
fn path_text(path: &Path) -> Result<String, StartFailure> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| invalid(format!("{} is no text", path.display())))
}

/// What a program has made, taken back unless it has come to run.
#[derive(Debug)]
struct Made {
    runtime: Rc<Runtime>,
    armed: bool,
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.armed {
            // What failed before is the error that explains.
            let _ = self.runtime.delete();
        }
    }
}

/// A container that waits for its start.
#[derive(Debug)]
pub(crate) struct Created {
    made: Made,
    running: Running,
    terminal: Option<OwnedFd>,
}

impl Created {
    /// The near side of its terminal.
    pub(crate) fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Lets it run its program.
    pub(crate) fn start(mut self) -> Result<(Running, Rc<Runtime>), StartFailure> {
        let runtime = Rc::clone(&self.made.runtime);
        runtime.call(Doing::Start, &["start"], Streams::Null)?;
        self.made.armed = false;
        Ok((self.running, runtime))
    }
}
