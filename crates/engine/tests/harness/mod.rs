//! An engine of its own for each test: own root, own run directory, hence own bridge, firewall
//! table and cgroups; and a ledger of what is left on the host afterwards.
#![allow(dead_code, unreachable_pub)] // each test file uses a part
#![allow(clippy::unwrap_used)] // a test that cannot go on ends

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sampan_engine::images::{ImportOptions, ProgressSink};
use sampan_engine::{
    AttachOptions, ClientStream, Config, ContainerConfig, CreateContainer, Engine, ErrorKind,
    ExecConfig, ExecStartOptions, FailPoints, HostConfig, LogOptions, NetworkMode, RemoveOptions,
    RemoveRunning, RemoveVolumes, WaitCondition, WaitOutcome,
};

pub const SOON: Duration = Duration::from_secs(20);

/// The shim that lies beside the tests' executables.
pub fn shim() -> Option<PathBuf> {
    let test = std::env::current_exe().ok()?;
    let path = test.parent()?.parent()?.join("sampan-shim");
    path.exists().then_some(path)
}

/// Ends a test visibly where it cannot run.
#[macro_export]
macro_rules! needs_host {
    () => {
        sampan_kernel::requires!(root, overlay);
        if $crate::harness::shim().is_none() {
            sampan_kernel::requires::skip(
                "sampan-shim is not built: run `cargo build -p sampan-shim` first",
            );
            return;
        }
        if !std::path::Path::new("/bin/busybox").exists() {
            sampan_kernel::requires::skip("/bin/busybox of Debian's busybox-static is not there");
            return;
        }
    };
}

pub struct Host {
    directory: tempfile::TempDir,
    pub fail_points: FailPoints,
    /// How many starts its engines prepare ahead at most.
    warm_slots: usize,
    before: Ledger,
}

impl Host {
    /// A host whose engines prepare no starts: what they have is what was asked for.
    pub fn new() -> Self {
        Self::with_slots(0)
    }

    pub fn with_slots(warm_slots: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("run")).unwrap();
        let before = Ledger::take(&directory.path().join("run"));
        Self {
            directory,
            fail_points: FailPoints::default(),
            warm_slots,
            before,
        }
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    pub fn run(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn instance(&self) -> String {
        sampan_network::NetworkNames::for_run_root(&self.run())
            .instance()
            .to_owned()
    }

    pub async fn open(&self) -> Engine {
        let mut config = Config::new(self.root(), self.run(), shim().unwrap());
        config.fail_points = self.fail_points.clone();
        config.warm_slots = self.warm_slots;
        Engine::open(config).await.unwrap()
    }

    /// An engine with the image `busybox`.
    pub async fn with_busybox(&self) -> Engine {
        let engine = self.open().await;
        import(&engine, "busybox", &[]).await;
        engine
    }

    /// Checks that nothing of this engine is left on the host but its own empty bridge and table.
    pub fn assert_nothing_left(&self) {
        let deadline = Instant::now() + SOON;
        loop {
            let now = Ledger::take(&self.run());
            let left: Vec<_> = now.0.difference(&self.before.0).collect();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left on the host: {left:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let names = sampan_network::NetworkNames::for_run_root(&self.run());
        if let Ok(host) = sampan_network::HostNetwork::open() {
            let _ = host.remove_bridge(names.bridge());
        }
        if let Ok(firewall) = sampan_network::Firewall::open(names.table()) {
            let _ = firewall.remove();
        }
        if let Ok(hierarchies) = sampan_cgroups::Hierarchies::detect() {
            for hierarchy in hierarchies.all() {
                let parent = hierarchy.mount_point.join(names.instance());
                for entry in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
                    let _ = std::fs::remove_dir(entry.path());
                }
                let _ = std::fs::remove_dir(parent);
            }
        }
    }
}

/// What an engine can leave on a host.
struct Ledger(BTreeSet<String>);

impl Ledger {
    fn take(run: &Path) -> Self {
        let names = sampan_network::NetworkNames::for_run_root(run);
        let mut found = BTreeSet::new();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = run.parent().unwrap().display().to_string();
        // Before Linux 6.15 layers stay attached while an engine runs.
        let layers = format!("{here}/root/layers/mounts");
        found.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&here) && !line.contains(&layers))
                .map(|line| format!("mount {line}")),
        );
        for hierarchy in sampan_cgroups::Hierarchies::detect().unwrap().all() {
            let parent = hierarchy.mount_point.join(names.instance());
            for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
                if entry.file_type().unwrap().is_dir() && entry.file_name() != "shims" {
                    found.insert(format!("cgroup {}", entry.path().display()));
                }
            }
        }
        let members = format!("/sys/class/net/{}/brif", names.bridge());
        for entry in std::fs::read_dir(members).into_iter().flatten().flatten() {
            found.insert(format!("interface {}", entry.file_name().display()));
        }
        // Published ports are elements of maps in the table.
        let listed = std::process::Command::new("nft")
            .args(["list", "table", "ip", names.table()])
            .output();
        let listed = listed.map_or_else(
            |_| String::new(),
            |output| String::from_utf8_lossy(&output.stdout).into_owned(),
        );
        for elements in listed.split("elements = {").skip(1) {
            let elements = elements.split('}').next().unwrap_or_default();
            found.extend(
                elements
                    .split(',')
                    .map(|port| format!("rule {}", port.trim())),
            );
        }
        for directory in ["run/shims", "root/containers", "root/trash"] {
            let path = run.parent().unwrap().join(directory);
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                found.insert(format!("file {}", entry.path().display()));
            }
        }
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let path = entry.path();
            let cgroup = std::fs::read_to_string(path.join("cgroup")).unwrap_or_default();
            let is_zombie = std::fs::read_to_string(path.join("stat")).is_ok_and(|stat| {
                stat.rsplit_once(')')
                    .is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
            });
            if !is_zombie && cgroup.contains(&format!("/{}/", names.instance())) {
                found.insert(format!("process {}: {cgroup}", path.display()));
            }
        }
        Self(found)
    }
}

/// Makes an image of Debian's static busybox, with more files where asked for.
pub async fn import(engine: &Engine, name: &str, changes: &[&str]) {
    let options = ImportOptions {
        name: Some(format!("{name}:latest").parse().unwrap()),
        changes: changes.iter().map(ToString::to_string).collect(),
        source: "-".into(),
        ..ImportOptions::default()
    };
    let tar = busybox_tar();
    engine
        .images()
        .import(std::io::Cursor::new(tar), options, ProgressSink::none())
        .await
        .unwrap();
}

fn busybox_tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add =
        |path: &str, kind: tar::EntryType, mode: u32, uid: u64, link: &str, data: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_uid(uid);
            header.set_gid(uid);
            header.set_mtime(1_600_000_000);
            header.set_size(data.len() as u64);
            if link.is_empty() {
                tar.append_data(&mut header, path, data).unwrap();
            } else {
                tar.append_link(&mut header, path, link).unwrap();
            }
        };
    use tar::EntryType as Kind;
    for (directory, mode, uid) in [
        ("bin", 0o755, 0),
        ("etc", 0o755, 0),
        ("tmp", 0o1777, 0),
        ("root", 0o700, 0),
        ("data", 0o750, 1000),
        ("data/sub", 0o755, 1000),
    ] {
        add(directory, Kind::Directory, mode, uid, "", b"");
    }
    let busybox = std::fs::read("/bin/busybox").unwrap();
    add("bin/busybox", Kind::Regular, 0o755, 0, "", &busybox);
    for applet in [
        "sh", "true", "false", "echo", "cat", "sleep", "ls", "id", "hostname", "env", "pwd",
        "stat", "kill", "ps", "mount", "grep", "wget", "nc", "httpd", "ip", "touch", "rm", "mkdir",
        "head", "yes", "seq", "printf", "stty", "ping", "df", "ulimit", "usleep", "readlink",
        "nslookup", "tty", "trap", "dd",
    ] {
        add(
            &format!("bin/{applet}"),
            Kind::Symlink,
            0o777,
            0,
            "busybox",
            b"",
        );
    }
    add(
        "etc/passwd",
        Kind::Regular,
        0o644,
        0,
        "",
        b"root:x:0:0:root:/root:/bin/sh\nboat:x:1000:1000:boat:/tmp:/bin/sh\n",
    );
    add(
        "etc/group",
        Kind::Regular,
        0o644,
        0,
        "",
        b"root:x:0:\nboat:x:1000:\n",
    );
    add(
        "data/file",
        Kind::Regular,
        0o640,
        1000,
        "",
        b"from the image\n",
    );
    add("data/link", Kind::Symlink, 0o777, 1000, "/etc/passwd", b"");
    add("bin/notexec", Kind::Regular, 0o644, 0, "", b"#!/bin/sh\n");
    tar.into_inner().unwrap()
}

/// A container that runs a shell script in `busybox`, without network.
pub fn script(text: &str) -> CreateContainer {
    command(&["sh", "-c", text])
}

pub fn command(words: &[&str]) -> CreateContainer {
    CreateContainer {
        config: ContainerConfig {
            image: "busybox".into(),
            cmd: Some(words.iter().map(ToString::to_string).collect()),
            ..ContainerConfig::default()
        },
        host: HostConfig {
            network_mode: NetworkMode::None,
            ..HostConfig::default()
        },
        ..CreateContainer::default()
    }
}

pub trait EngineExt {
    /// Creates, returns the identity.
    fn create(&self, request: CreateContainer) -> impl Future<Output = String>;
    /// Creates and starts.
    fn start_new(&self, request: CreateContainer) -> impl Future<Output = String>;
    /// Waits for the end.
    fn wait_end(&self, id: &str) -> impl Future<Output = WaitOutcome>;
    /// Runs to the end and returns exit code and both streams of the log.
    fn run(&self, request: CreateContainer) -> impl Future<Output = (i32, String)>;
    fn log(&self, id: &str) -> impl Future<Output = String>;
    fn remove_all(&self) -> impl Future<Output = ()>;
    /// Runs a command in a container; its exit code and what it wrote.
    fn exec(&self, id: &str, words: &[&str]) -> impl Future<Output = (Option<i32>, String)>;
}

impl EngineExt for Engine {
    async fn create(&self, request: CreateContainer) -> String {
        self.containers()
            .create(request)
            .await
            .unwrap()
            .id
            .to_string()
    }

    async fn start_new(&self, request: CreateContainer) -> String {
        let id = EngineExt::create(self, request).await;
        self.containers().start(&id).await.unwrap();
        id
    }

    async fn wait_end(&self, id: &str) -> WaitOutcome {
        let wait = self
            .containers()
            .wait(id, WaitCondition::NotRunning)
            .await
            .unwrap();
        tokio::time::timeout(SOON, wait.outcome())
            .await
            .expect("did not end")
            .unwrap()
    }

    async fn run(&self, request: CreateContainer) -> (i32, String) {
        let id = self.start_new(request).await;
        let outcome = self.wait_end(&id).await;
        let log = self.log(&id).await;
        (outcome.code, log)
    }

    async fn log(&self, id: &str) -> String {
        let options = LogOptions {
            stdout: true,
            stderr: true,
            ..LogOptions::default()
        };
        let mut logs = self.containers().logs(id, options).await.unwrap();
        let mut text = Vec::new();
        while let Some(entry) = logs.entries.next().await {
            text.extend(entry.unwrap().bytes);
        }
        String::from_utf8(text).unwrap()
    }

    async fn remove_all(&self) {
        let all = sampan_engine::ListOptions {
            all: true,
            ..sampan_engine::ListOptions::default()
        };
        for view in self.containers().list(all).await.unwrap() {
            let options = RemoveOptions {
                running: RemoveRunning::Kill,
                volumes: RemoveVolumes::Anonymous,
            };
            match self.containers().remove(view.id.as_str(), options).await {
                // Its end has removed it meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => removed.unwrap(),
            }
        }
    }

    async fn exec(&self, id: &str, words: &[&str]) -> (Option<i32>, String) {
        let config = ExecConfig {
            cmd: words.iter().map(ToString::to_string).collect(),
            attach_stdout: true,
            attach_stderr: true,
            ..ExecConfig::default()
        };
        let exec = self.containers().exec_create(id, config).await.unwrap();
        let (ours, client) = client();
        let starter = self
            .containers()
            .exec_start(exec.as_str(), ExecStartOptions::default())
            .await
            .unwrap();
        let _ = starter.attached(client).await;
        let text = read_frames(ours).await;
        let deadline = Instant::now() + SOON;
        loop {
            let view = self.containers().exec_inspect(exec.as_str()).await.unwrap();
            if let sampan_engine::ExecState::Exited { code, .. } = view.state {
                return (Some(code), text);
            }
            assert!(Instant::now() < deadline, "exec did not end: {view:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A connection as the server would hand it over, and its other end.
pub fn client() -> (UnixStream, ClientStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(SOON)).unwrap();
    theirs.set_nonblocking(true).unwrap();
    (
        ours,
        ClientStream {
            socket: theirs.into(),
            leftover: Vec::new(),
        },
    )
}

/// Everything until the end, without Docker's frames.
pub async fn read_frames(stream: UnixStream) -> String {
    let bytes = read_to_end(stream).await;
    let mut text = Vec::new();
    let mut rest = &bytes[..];
    while rest.len() >= 8 {
        let length = u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize;
        text.extend(&rest[8..8 + length]);
        rest = &rest[8 + length..];
    }
    assert!(rest.is_empty(), "cut frame: {rest:?}");
    String::from_utf8(text).unwrap()
}

pub async fn read_to_end(mut stream: UnixStream) -> Vec<u8> {
    tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    })
    .await
    .unwrap()
}

pub fn attach_all() -> AttachOptions {
    AttachOptions {
        stdin: true,
        stdout: true,
        stderr: true,
        stream: true,
        ..AttachOptions::default()
    }
}

/// What was told of each container since a moment, by its identity.
pub fn lives(engine: &Engine, since: Timestamp) -> BTreeMap<String, Vec<String>> {
    let mut told = engine.events().subscribe(Some(since));
    let mut lives = BTreeMap::<_, Vec<_>>::new();
    let mut last = None;
    while let Some(event) = told.try_next() {
        assert!(last < Some(event.at), "out of order: {event:?}");
        last = Some(event.at);
        if event.kind == sampan_engine::EventKind::Container {
            let life = lives.entry(event.actor.clone()).or_default();
            life.push(event.action.to_string());
        }
    }
    lives
}

/// Checks of all containers since a moment, which must be gone, that each was told to be created
/// and destroyed once, and that each of its runs has one start and one end.
#[track_caller]
pub fn assert_whole_lives(engine: &Engine, since: Timestamp) {
    for (id, told) in lives(engine, since) {
        let told: Vec<&str> = told
            .iter()
            .map(String::as_str)
            .filter(|action| matches!(*action, "create" | "start" | "die" | "destroy"))
            .collect();
        let [create, runs @ .., destroy] = &told[..] else {
            panic!("{id}: {told:?}");
        };
        let whole = *create == "create"
            && *destroy == "destroy"
            && runs.chunks(2).all(|run| run == ["start", "die"]);
        assert!(whole, "{id}: {told:?}");
    }
}

/// The names of events so far, of all kinds.
pub fn actions(events: &mut sampan_engine::Subscription) -> Vec<String> {
    std::iter::from_fn(|| events.try_next())
        .map(|event| format!("{}:{}", event.kind.as_str(), event.action))
        .collect()
}

/// Runs an engine in a thread with a runtime of its own and takes that away under it, with every
/// task and descriptor: as near to a kill as one process can come.
pub fn abandon<T: Send>(host: &Host, work: impl AsyncFnOnce(&Engine) -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            let done = runtime.block_on(async {
                let engine = host.open().await;
                work(&engine).await
            });
            runtime.shutdown_timeout(Duration::from_secs(2));
            done
        });
        thread.join().unwrap()
    })
}
