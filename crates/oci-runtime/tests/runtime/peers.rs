//! podman and containerd with this runtime in place of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sampan_kernel::requires;
use sampan_testing::{Fixture, Ran, fixture, run, until};

use crate::bundle::SAMPAN;

/// Whether a program is there; a test without it is skipped, visibly.
fn is_there(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok();
    if !found {
        requires::skip(&format!("{program} is missing"));
    }
    found
}

/// podman on directories of its own.
struct Podman {
    directory: tempfile::TempDir,
    /// All of them share one control group, which the last to leave takes away.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Podman {
    fn new() -> Self {
        let podman = Self {
            directory: tempfile::tempdir().unwrap(),
            _alone: ALONE.lock().unwrap_or_else(PoisonError::into_inner),
        };
        // Its own choice is above what a machine without CAP_SYS_RESOURCE lets anybody set.
        let limits =
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n";
        fs::write(podman.directory.path().join("containers.conf"), limits).unwrap();
        let archive = fixture(Fixture::Busybox).archive();
        let _ = podman
            .call(&["load", "-q", "-i", archive.to_str().unwrap()])
            .ok();
        podman
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let path = |name: &str| self.directory.path().join(name);
        let mut command = Command::new("podman");
        command
            .env("CONTAINERS_CONF", path("containers.conf"))
            .arg("--root")
            .arg(path("root"))
            .arg("--runroot")
            .arg(path("run"))
            .arg("--tmpdir")
            .arg(path("tmp"))
            .args([
                "--cgroup-manager=cgroupfs",
                "--events-backend=file",
                "--storage-driver=vfs",
            ])
            .args(["--runtime", SAMPAN])
            .args(arguments);
        command
    }

    fn call(&self, arguments: &[&str]) -> Ran {
        self.command(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
            .into()
    }

    /// What follows runs in a busybox without a network.
    fn run(&self, flags: &[&str], command: &[&str]) -> Ran {
        let image = ["busybox"];
        self.call(&[&["run", "--rm", "--network=none"], flags, &image, command].concat())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        for command in [&["pod", "rm", "-fa", "-t0"][..], &["rm", "-fa", "-t0"]] {
            let _ = self.call(command);
        }
        for hierarchy in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            remove_empty(&hierarchy.path().join("libpod_parent"));
        }
    }
}

/// Removes what nobody is in: conmon's and the pods' control groups, which stay behind with runc,
/// too. What others are in stays.
fn remove_empty(cgroup: &Path) {
    for below in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if below.path().is_dir() {
            remove_empty(&below.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}

#[test]
fn podman_runs_containers() {
    requires!(root, cgroups);
    if !is_there("podman") {
        return;
    }
    let podman = Podman::new();
    assert_eq!(podman.run(&[], &["echo", "words"]).ok(), "words");
    assert_eq!(podman.run(&[], &["sh", "-c", "exit 7"]).code, 7);
    assert_eq!(podman.run(&[], &["nope"]).code, 127);
    assert_eq!(podman.run(&[], &["/etc"]).code, 126);
    assert_eq!(
        podman
            .run(&["--init"], &["sh", "-c", "readlink /proc/1/exe"])
            .code,
        0
    );
    let ran = podman.run(
        &[
            "--read-only",
            "--tmpfs=/t:size=1m",
            "--memory=64m",
            "--pids-limit=20",
            "--cap-drop=all",
            "--security-opt=no-new-privileges",
            "--user=5:6",
            "--hostname=boat",
            "--volume=/etc/hostname:/h:ro",
        ],
        &[
            "sh",
            "-c",
            "id -u; id -g; hostname; df -k /t | awk 'END { print $2 }'; \
                       grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; cmp /h /h && echo h",
        ],
    );
    assert_eq!(
        ran.ok(),
        "5\n6\nboat\n1024\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nh"
    );
    let users = ["--uidmap=0:100000:65536", "--gidmap=0:100000:65536"];
    let ran = podman.run(
        &users,
        &[
            "sh",
            "-c",
            "id -u; touch /x && stat -c %u /x; tr -s ' ' < /proc/self/uid_map",
        ],
    );
    assert_eq!(ran.ok(), "0\n0\n 0 100000 65536");
    let line = "tty; stty size; exit 3";
    let typed = podman.command(&[
        "run",
        "--rm",
        "--network=none",
        "-t",
        "busybox",
        "sh",
        "-c",
        line,
    ]);
    let output = { typed }.output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("/dev/pts/0"));
}

#[test]
fn podman_manages_a_container() {
    requires!(root, cgroups);
    if !is_there("podman") {
        return;
    }
    let podman = Podman::new();
    let line = "echo started; trap 'echo asked; exit 3' TERM; while :; do sleep 0.1; done";
    let _ = podman
        .call(&[
            "run",
            "-d",
            "--name=one",
            "--network=none",
            "busybox",
            "sh",
            "-c",
            line,
        ])
        .ok();
    until("it runs", || {
        podman.call(&["logs", "one"]).stdout == "started\n"
    });
    assert_eq!(
        podman
            .call(&["exec", "one", "sh", "-c", "echo in; exit 4"])
            .code,
        4
    );
    assert_eq!(podman.call(&["exec", "one", "nope"]).code, 127);
    assert_eq!(
        podman.call(&["exec", "-t", "one", "tty"]).ok().trim_end(),
        "/dev/pts/0"
    );
    assert_eq!(
        podman.call(&["exec", "--user=7", "one", "id", "-u"]).ok(),
        "7"
    );
    let stats = podman
        .call(&[
            "stats",
            "--no-stream",
            "--format={{.Name}} {{.PIDs}}",
            "one",
        ])
        .ok();
    assert!(
        stats.starts_with("one ") && !stats.ends_with(" 0"),
        "{stats}"
    );
    assert!(podman.call(&["top", "one", "args"]).ok().contains("while"));
    let status = || {
        podman
            .call(&["inspect", "--format={{.State.Status}}", "one"])
            .ok()
    };
    let _ = podman.call(&["pause", "one"]).ok();
    assert_eq!(status(), "paused");
    let _ = podman.call(&["unpause", "one"]).ok();
    assert_eq!(status(), "running");
    let _ = podman.call(&["stop", "one"]).ok();
    assert_eq!(
        podman
            .call(&["inspect", "--format={{.State.ExitCode}}", "one"])
            .ok(),
        "3"
    );
    let _ = podman.call(&["start", "one"]).ok();
    let _ = podman.call(&["kill", "one"]).ok();
    until("it has ended", || status() == "exited");
    assert_eq!(
        podman
            .call(&["inspect", "--format={{.State.ExitCode}}", "one"])
            .ok(),
        "137"
    );
    let _ = podman.call(&["rm", "one"]).ok();
}

#[test]
fn podman_s_pods_share_namespaces() {
    requires!(root, cgroups);
    if !is_there("podman") {
        return;
    }
    let podman = Podman::new();
    let _ = podman
        .call(&[
            "pod",
            "create",
            "--name=pod",
            "--network=none",
            "--share=ipc,net,uts,pid",
        ])
        .ok();
    let _ = podman
        .call(&["run", "-d", "--pod=pod", "busybox", "sleep", "1000"])
        .ok();
    let seen = podman
        .call(&["run", "--rm", "--pod=pod", "busybox", "ps"])
        .ok();
    assert!(seen.contains("sleep 1000"), "{seen}");
    assert_eq!(
        podman
            .call(&["run", "--rm", "--pod=pod", "busybox", "hostname"])
            .ok(),
        "pod"
    );
    let _ = podman.call(&["pod", "rm", "-f", "-t0", "pod"]).ok();
}

/// containerd on directories and sockets of its own.
struct Containerd {
    directory: tempfile::TempDir,
    process: Child,
}

const IMAGE: &str = "docker.io/library/busybox:latest";

impl Containerd {
    fn start() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("containerd-")
            .tempdir()
            .unwrap();
        let path = |name: &str| directory.path().join(name);
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            path("root"),
            path("state"),
            path("grpc.sock"),
            path("ttrpc.sock"),
        );
        fs::write(path("config.toml"), config).unwrap();
        let log = fs::File::create(path("log")).unwrap();
        let process = Command::new("containerd")
            .arg("--config")
            .arg(path("config.toml"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let containerd = Self { directory, process };
        until("containerd answers", || {
            containerd.ctr(&["version"]).code == 0
        });
        let archive = fixture(Fixture::Busybox).archive();
        // Its native snapshots need no file system that could be missing.
        let arguments = [
            "image",
            "import",
            "--snapshotter=native",
            archive.to_str().unwrap(),
        ];
        let _ = containerd.ctr(&arguments).ok();
        containerd
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn ctr(&self, arguments: &[&str]) -> Ran {
        let socket = self.path("grpc.sock");
        let mut all = vec![
            "--address",
            socket.to_str().unwrap(),
            "--namespace",
            "sampan-test",
        ];
        all.extend(arguments);
        run("ctr", &all)
    }

    /// What follows runs in a busybox by this runtime.
    fn run(&self, flags: &[&str], id: &str, command: &[&str]) -> Ran {
        let runtime = ["run", "--snapshotter=native", "--runc-binary", SAMPAN];
        let root = self.path("runtime");
        let root = ["--runc-root", root.to_str().unwrap()];
        self.ctr(&[&runtime[..], &root, flags, &[IMAGE, id], command].concat())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for id in ["one", "two", "three"] {
            let _ = self.ctr(&["task", "delete", "--force", id]);
            let _ = self.ctr(&["container", "delete", id]);
        }
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.process),
            rustix::process::Signal::TERM,
        );
        let _ = self.process.wait();
        for hierarchy in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            remove_empty(&hierarchy.path().join("sampan-test"));
        }
    }
}

#[test]
fn containerd_runs_and_manages_containers() {
    requires!(root, cgroups);
    if !is_there("containerd") {
        return;
    }
    let containerd = Containerd::start();
    assert_eq!(
        containerd.run(&["--rm"], "one", &["echo", "words"]).ok(),
        "words"
    );
    assert_eq!(
        containerd
            .run(&["--rm"], "one", &["sh", "-c", "exit 3"])
            .code,
        3
    );
    let missing = containerd.run(&["--rm"], "one", &["nope"]).failed(1);
    assert!(
        missing.contains("exec: \"nope\": executable file not found in $PATH"),
        "{missing}"
    );
    let _ = containerd.run(&["-d"], "two", &["sleep", "1000"]).ok();
    let exec = |id: &str, command: &[&str]| {
        containerd.ctr(&[&["task", "exec", "--exec-id", id, "two"], command].concat())
    };
    assert_eq!(exec("a", &["id", "-u"]).ok(), "0");
    assert_eq!(exec("b", &["sh", "-c", "exit 6"]).code, 6);
    assert!(
        exec("c", &["nope"])
            .failed(1)
            .contains("executable file not found")
    );
    let tasks = || containerd.ctr(&["task", "ls"]).ok();
    let _ = containerd.ctr(&["task", "pause", "two"]).ok();
    assert!(tasks().contains("PAUSED"));
    let _ = containerd.ctr(&["task", "resume", "two"]).ok();
    assert!(tasks().contains("RUNNING"));
    let pids = containerd.ctr(&["task", "ps", "two"]).ok();
    assert_eq!(pids.lines().count(), 2, "{pids}");
    let _ = containerd.ctr(&["task", "metrics", "two"]).ok();
    let _ = containerd
        .ctr(&["task", "kill", "--signal=KILL", "two"])
        .ok();
    until("it has ended", || tasks().contains("STOPPED"));
    containerd.ctr(&["task", "delete", "two"]);
    assert!(!tasks().contains("two"));
    let _ = containerd.ctr(&["container", "delete", "two"]).ok();
}
