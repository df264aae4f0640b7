use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::command::{Ran, until};
use crate::fixtures::{Fixture, fixture};
use crate::ledger::Ledger;

/// An engine with directories, socket and names of its own. When it is
/// dropped, every container is removed, the engine is stopped and the ledger
/// must balance.
#[derive(Debug)]
pub struct TestEngine {
    directory: TempDir,
    keeper: Child,
    sampan: PathBuf,
    /// Further arguments of the keeper.
    arguments: Vec<String>,
    ledger: Ledger,
}

impl TestEngine {
    /// Starts the engine of the executable `sampan` and waits until its
    /// socket answers.
    #[must_use]
    pub fn start(sampan: impl Into<PathBuf>) -> Self {
        Self::start_with(sampan, &[])
    }

    /// The same with further arguments of `sampan daemon`.
    #[must_use]
    pub fn start_with(sampan: impl Into<PathBuf>, arguments: &[&str]) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("sampan-test-")
            .tempdir()
            .unwrap();
        let sampan = sampan.into();
        let run = directory.path().join("run");
        let ledger = Ledger::open(&run);
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let keeper = start_keeper(&sampan, directory.path(), &arguments);
        let mut engine = Self {
            directory,
            keeper,
            sampan,
            arguments,
            ledger,
        };
        engine.wait_for_socket();
        engine
    }

    fn wait_for_socket(&mut self) {
        let socket = self.socket();
        until("the engine listens", || {
            let ended = self.keeper.try_wait().unwrap();
            assert!(ended.is_none(), "the engine ended: {}", self.log());
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
    }

    /// Starts an engine that has the busybox image.
    #[must_use]
    pub fn with_busybox(sampan: impl Into<PathBuf>) -> Self {
        let engine = Self::start(sampan);
        engine.load(Fixture::Busybox);
        engine
    }

    /// Loads an image.
    pub fn load(&self, image: Fixture) {
        let archive = fixture(image).archive();
        let _ = self.sampan(&["load", "-i", archive.to_str().unwrap()]).ok();
    }

    /// The engine's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_directory().join("sampan.sock")
    }

    /// The engine's persistent state.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// The engine's volatile state.
    #[must_use]
    pub fn run_directory(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// A directory for the test's own files.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// All that the engine has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("engine.log")).unwrap_or_default()
    }

    /// The pid of the engine behind the keeper.
    #[must_use]
    pub fn pid(&self) -> Pid {
        let path = self.run_directory().join("engine.pid");
        let mut pid = None;
        until("the engine has written its pid", || {
            pid = fs::read_to_string(&path)
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .and_then(Pid::from_raw);
            pid.is_some()
        });
        pid.unwrap()
    }

    /// Kills the engine with SIGKILL. The keeper starts another.
    pub fn kill(&self) {
        // It may be between two lives.
        let _ = kill_process(self.pid(), Signal::KILL);
    }

    /// Kills the keeper and the engine behind it with SIGKILL. Nobody starts another.
    pub fn kill_with_keeper(&mut self) {
        let keeper = Pid::from_raw(self.keeper.id().cast_signed()).unwrap();
        // Stopped, it does not start another engine meanwhile.
        kill_process(keeper, Signal::STOP).unwrap();
        let engine = self.pid();
        kill_process(engine, Signal::KILL).unwrap();
        kill_process(keeper, Signal::KILL).unwrap();
        self.keeper.wait().unwrap();
        // It is a zombie of whoever reaps orphans now, or of nobody.
        let running = PathBuf::from(format!("/proc/{}/exe", engine.as_raw_nonzero()));
        until("the engine is gone", || fs::read_link(&running).is_err());
        // Its last thread lets go of the socket.
        let socket = self.socket();
        until("nobody listens", || {
            std::os::unix::net::UnixStream::connect(&socket).is_err()
        });
    }

    /// Starts a keeper again after [`TestEngine::kill_with_keeper`].
    pub fn start_again(&mut self) {
        self.keeper = start_keeper(&self.sampan, self.directory.path(), &self.arguments);
        self.wait_for_socket();
    }

    /// A `sampan` command that talks to this engine.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.sampan);
        command.args(arguments);
        self.environment(&mut command);
        command
    }

    /// A command of the real docker client that talks to this engine.
    #[must_use]
    pub fn docker_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(arguments);
        self.environment(&mut command);
        command
    }

    /// Points a program at this engine.
    pub fn environment(&self, command: &mut Command) {
        command
            .env("SAMPAN_ROOT", self.root())
            .env("SAMPAN_RUN", self.run_directory())
            .env_remove("SAMPAN_HOST")
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_CONFIG", self.directory.path().join("docker-config"))
            .env("DOCKER_CLI_HINTS", "false")
            .stdin(Stdio::null());
    }

    /// Runs `sampan` to its end.
    #[track_caller]
    pub fn sampan(&self, arguments: &[&str]) -> Ran {
        self.command(arguments).output().unwrap().into()
    }

    /// Runs the real docker client to its end.
    #[track_caller]
    pub fn docker(&self, arguments: &[&str]) -> Ran {
        self.docker_command(arguments).output().unwrap().into()
    }

    /// Runs `sampan` to its end with `input` on its standard input.
    #[track_caller]
    pub fn sampan_with_input(&self, arguments: &[&str], input: &[u8]) -> Ran {
        with_input(self.command(arguments), input)
    }

    /// Runs the real docker client to its end with `input` on its standard input.
    #[track_caller]
    pub fn docker_with_input(&self, arguments: &[&str], input: &[u8]) -> Ran {
        with_input(self.docker_command(arguments), input)
    }

    /// What of this engine is on the machine.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Removes every container, as the end of a test does. One that is going by itself meanwhile
    /// is no failure.
    pub fn remove_all(&self) {
        until("every container is removed", || {
            let ids = self.sampan(&["ps", "-aq"]).ok();
            let ids: Vec<&str> = ids.lines().collect();
            if ids.is_empty() {
                return true;
            }
            let _ = self.sampan(&[&["rm", "-f", "-v"], ids.as_slice()].concat());
            false
        });
    }
}

/// Starts a keeper whose directories and log are in `directory`.
fn start_keeper(sampan: &Path, directory: &Path, arguments: &[String]) -> Child {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(directory.join("engine.log"))
        .unwrap();
    Command::new(sampan)
        .args(["daemon", "--log-level", "debug", "--root"])
        .arg(directory.join("root"))
        .arg("--run")
        .arg(directory.join("run"))
        // Whatever this machine has for its own engines.
        .arg("--registries")
        .arg(directory.join("registries.toml"))
        .arg("--certs-dir")
        .arg(directory.join("certs.d"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for TestEngine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- engine log ---\n{}", self.log());
            // Tidy up as well as it goes; the panic is what counts.
            let ids = self.sampan(&["ps", "-aq"]);
            for id in ids.stdout.lines() {
                let _ = self.sampan(&["rm", "-f", id]);
            }
        } else {
            self.remove_all();
        }
        let pid = Pid::from_raw(self.keeper.id().cast_signed()).unwrap();
        let _ = kill_process(pid, Signal::TERM);
        let status = self.keeper.wait().unwrap();
        if !std::thread::panicking() {
            assert!(status.success(), "{status}: {}", self.log());
            self.ledger.assert_balanced();
        }
    }
}

fn with_input(mut command: Command, input: &[u8]) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // Beside reading the output: neither may wait for the other.
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.into()
}
