//! A container under a shim, and a client that reads Docker's frames.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sampan_cgroups::{Hierarchies, remove_parent};
use sampan_logs::{Query, Reader};
use sampan_shim_protocol::{
    AttachSpec, Client, Event, ExecStart, ExecState, Exit, Launch, LaunchDescriptors, LogConfig,
    Reply, Request, RestartPolicy, RootSource, State,
};
use serde_json::json;

/// What is waited for at most: long enough for an emulated machine.
pub(crate) const SOON: Duration = Duration::from_secs(120);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Returns from the test with a visible line where the machine cannot run containers.
#[macro_export]
macro_rules! needs_containers {
    () => {
        sampan_kernel::requires!(root, cgroups);
    };
}

/// One shim and its container.
pub(crate) struct Shim {
    pub(crate) client: Client,
    pub(crate) child: Child,
    pub(crate) launch: Launch,
    directory: tempfile::TempDir,
    cgroup_parent: String,
}

impl Shim {
    /// A shim that waits, and a launch that runs `script` by busybox's shell.
    pub(crate) fn new(script: &str) -> Self {
        Self::with_command(&["/bin/sh", "-c", script])
    }

    pub(crate) fn with_command(command: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("rootfs");
        make_root(&root);
        for name in ["container", "socket"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup_parent = format!("sampan-shim-test-{}-{number}", std::process::id());
        let launch = Launch {
            id: "c".repeat(64),
            spec: serde_json::from_value(specification(command)).unwrap(),
            root: RootSource::Directory(root),
            cgroup: format!("{cgroup_parent}/container"),
            cgroup_everywhere: false,
            shim_cgroup: None,
            terminal_size: None,
            open_stdin: false,
            stdin_once: false,
            init: false,
            log: LogConfig {
                max_size: None,
                ..LogConfig::default()
            },
            auto_remove: true,
            directory: directory.path().join("container"),
            socket_directory: directory.path().join("socket"),
            namespaces: Vec::new(),
            has_init_descriptor: false,
            sources: Vec::new(),
            held: 0,
            attach: Vec::new(),
            filter: None,
            restart: RestartPolicy::No,
            health: None,
            runtime: None,
            note_steps: false,
        };
        let (mut client, child) = Client::spawn(executable(), &launch.id).unwrap();
        client.hello(SOON).unwrap();
        Self {
            client,
            child,
            launch,
            directory,
            cgroup_parent,
        }
    }

    pub(crate) fn terminal(mut self) -> Self {
        let process = self.launch.spec.process.as_mut().unwrap();
        process.terminal = true;
        process.env.push("TERM=dumb".into());
        self.launch.open_stdin = true;
        self
    }

    /// Attaches a client to be there before the start.
    pub(crate) fn attach_early(
        &mut self,
        descriptors: &mut LaunchDescriptors,
        spec: AttachSpec,
    ) -> Attached {
        let (socket, attached) = Attached::pair(&spec);
        self.launch.attach.push(spec);
        descriptors.attach.push(socket);
        attached
    }

    pub(crate) fn start(&mut self) -> i32 {
        self.start_with(LaunchDescriptors::default())
    }

    pub(crate) fn start_with(&mut self, descriptors: LaunchDescriptors) -> i32 {
        match self.try_start(descriptors) {
            Reply::Started { pid, .. } => pid,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn try_start(&mut self, descriptors: LaunchDescriptors) -> Reply {
        self.client
            .launch(self.launch.clone(), descriptors, SOON)
            .unwrap()
    }

    pub(crate) fn attach(&mut self, spec: AttachSpec) -> Attached {
        let (socket, attached) = Attached::pair(&spec);
        let reply = self
            .client
            .call(&Request::Attach(spec), vec![socket], SOON)
            .unwrap();
        assert!(matches!(reply, Reply::Done), "{reply:?}");
        attached
    }

    pub(crate) fn call(&mut self, request: &Request) -> Reply {
        self.client.call(request, Vec::new(), SOON).unwrap()
    }

    pub(crate) fn state(&mut self) -> State {
        match self.call(&Request::State) {
            Reply::State(state) => *state,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn signal(&mut self, signal: i32) {
        let reply = self.call(&Request::Signal {
            signal,
            all: false,
            last: false,
        });
        assert!(matches!(reply, Reply::Done), "{reply:?}");
    }

    /// Starts an exec with a client that is attached to everything that `stdin` and `tty` allow.
    pub(crate) fn exec(
        &mut self,
        id: &str,
        command: &[&str],
        stdin: bool,
        tty: bool,
    ) -> (Reply, Attached) {
        let spec = AttachSpec {
            stdin,
            stdout: true,
            stderr: true,
            framed: !tty,
            ..AttachSpec::default()
        };
        let (socket, attached) = Attached::pair(&spec);
        let start = exec_start(id, command, tty, Some(spec));
        let reply = self.client.call(&start, vec![socket], SOON).unwrap();
        (reply, attached)
    }

    pub(crate) fn exec_ended(&mut self, id: &str) -> ExecState {
        loop {
            match self.client.wait_event(SOON).unwrap() {
                Event::ExecExited(state) if state.id == id => return state,
                Event::ExecExited(_)
                | Event::Oom
                | Event::Detached { .. }
                | Event::Steps(_)
                | Event::ProbeStarted { .. }
                | Event::ProbeEnded { .. } => {}
                other @ (Event::Exited(_) | Event::Restarting { .. } | Event::Restarted { .. }) => {
                    panic!("{other:?}")
                }
            }
        }
    }

    pub(crate) fn exited(&mut self) -> Exit {
        loop {
            if let Event::Exited(exit) = self.client.wait_event(SOON).unwrap() {
                return exit;
            }
        }
    }

    /// Lets the shim go and sees that it leaves nothing.
    pub(crate) fn release(mut self) {
        self.let_go();
    }

    /// The same, and returns what was logged: to read much may take longer than the shim waits to
    /// be let go.
    pub(crate) fn released(mut self) -> Vec<u8> {
        self.let_go();
        self.log()
    }

    fn let_go(&mut self) {
        let reply = self.call(&Request::Release);
        assert!(matches!(reply, Reply::Done), "{reply:?}");
        assert!(!self.cgroup_exists());
        self.ends();
    }

    /// Waits for the shim's end and sees that it leaves nothing.
    pub(crate) fn ends(&mut self) {
        let deadline = Instant::now() + SOON;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the shim goes on");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(status.success(), "{status}");
        assert!(!self.launch.socket_directory.join("shim.sock").exists());
        assert!(!self.cgroup_exists());
    }

    pub(crate) fn cgroup_exists(&self) -> bool {
        let hierarchies = Hierarchies::detect().unwrap();
        hierarchies
            .all()
            .iter()
            .any(|hierarchy| hierarchy.mount_point.join(&self.launch.cgroup).exists())
    }

    pub(crate) fn log(&self) -> Vec<u8> {
        self.log_entries().concat()
    }

    pub(crate) fn log_entries(&self) -> Vec<Vec<u8>> {
        let name = format!("{}-json.log", self.launch.id);
        Reader::open(&self.launch.directory, &name, &Query::default())
            .unwrap()
            .map(|entry| entry.unwrap().bytes)
            .collect()
    }

    pub(crate) fn exit_file(&self) -> Option<Exit> {
        let text = std::fs::read(self.launch.directory.join("shim/exit.json")).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }

    pub(crate) fn connect(&mut self) {
        self.client = Client::connect(&self.launch.socket_directory).unwrap();
        self.client.hello(SOON).unwrap();
    }

    /// Kilobytes of `field` in the shim's status or memory map.
    pub(crate) fn memory(&self, file: &str, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        // A test that fails halfway must not leave a container: killing its first process makes
        // the shim clean up and end.
        if self.child.try_wait().unwrap().is_none() {
            let kill = Request::Signal {
                signal: 9,
                all: false,
                last: true,
            };
            if let Ok(mut client) = Client::connect(&self.launch.socket_directory) {
                let _ = client.call(&kill, Vec::new(), Duration::from_secs(5));
            }
            let (socket, _) = UnixStream::pair().unwrap();
            self.client = Client::new(socket.into());
            let deadline = Instant::now() + Duration::from_secs(5);
            while self.child.try_wait().unwrap().is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if let (Ok(hierarchies), Ok(path)) = (Hierarchies::detect(), self.cgroup_parent.parse()) {
            remove_parent(&hierarchies, &path);
        }
    }
}

pub(crate) fn executable() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_sampan-shim"))
}

pub(crate) fn exec_start(
    id: &str,
    command: &[&str],
    tty: bool,
    attach: Option<AttachSpec>,
) -> Request {
    let process = json!({
        "terminal": tty,
        "args": command,
        "env": ["PATH=/bin"],
        "cwd": "/",
        "user": {"uid": 0, "gid": 0},
    });
    Request::ExecStart(Box::new(ExecStart {
        id: id.to_owned(),
        process: serde_json::from_value(process).unwrap(),
        terminal_size: None,
        attach,
    }))
}

fn make_root(root: &Path) {
    for name in ["bin", "sbin", "dev", "proc", "sys", "tmp", "etc"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "cat", "echo", "sleep", "head", "seq", "stty", "ps", "grep", "true", "false", "tail",
        "kill", "yes", "ls", "dd", "tr", "wc", "env", "touch", "id", "readlink", "cut",
    ] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
}

fn specification(command: &[&str]) -> serde_json::Value {
    json!({
        "ociVersion": "1.2.0",
        "process": {
            "args": command,
            "env": ["PATH=/bin"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "capabilities": {
                "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"],
            },
        },
        "root": {"path": "rootfs"},
        "hostname": "test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "network"},
            ],
        },
    })
}

pub(crate) fn framed() -> AttachSpec {
    AttachSpec {
        stdout: true,
        stderr: true,
        framed: true,
        ..AttachSpec::default()
    }
}

pub(crate) fn raw_terminal() -> AttachSpec {
    AttachSpec {
        stdin: true,
        stdout: true,
        stderr: true,
        detach_keys: sampan_shim_protocol::DetachKeys::docker_default(),
        ..AttachSpec::default()
    }
}

/// The far side of an attached client's socket.
pub(crate) struct Attached {
    pub(crate) socket: UnixStream,
    framed: bool,
    read: VecDeque<u8>,
}

impl Attached {
    pub(crate) fn pair(spec: &AttachSpec) -> (OwnedFd, Self) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(SOON)).unwrap();
        let attached = Self {
            socket: ours,
            framed: spec.framed,
            read: VecDeque::new(),
        };
        (theirs.into(), attached)
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.socket.write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn end_input(&mut self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    /// Everything until the end, as (stdout, stderr).
    pub(crate) fn rest(mut self) -> (Vec<u8>, Vec<u8>) {
        let mut bytes: Vec<u8> = self.read.drain(..).collect();
        self.socket.read_to_end(&mut bytes).unwrap();
        if !self.framed {
            return (bytes, Vec::new());
        }
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut rest = &bytes[..];
        while let Some((head, after)) = rest.split_first_chunk::<8>() {
            let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
            let (payload, after) = after.split_at(length);
            match head[0] {
                1 => out.extend_from_slice(payload),
                2 => err.extend_from_slice(payload),
                other => panic!("stream {other}"),
            }
            rest = after;
        }
        assert!(rest.is_empty(), "a frame is cut: {rest:?}");
        (out, err)
    }

    /// As `rest`, as text of standard output.
    pub(crate) fn text(self) -> String {
        String::from_utf8(self.rest().0).unwrap()
    }

    /// Reads raw bytes until `end` has come.
    pub(crate) fn until(&mut self, end: &str) -> String {
        let mut seen = Vec::new();
        while !seen.ends_with(end.as_bytes()) {
            let mut byte = [0];
            assert_eq!(
                self.socket.read(&mut byte).unwrap(),
                1,
                "ended after {:?}",
                String::from_utf8_lossy(&seen)
            );
            seen.push(byte[0]);
        }
        String::from_utf8(seen).unwrap()
    }
}

/// Waits for something to become true.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
