//! A container around a busybox, and what it said.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::pipe::{PipeFlags, pipe_with};
use sampan_cgroups::{CgroupPath, Hierarchies};
use sampan_oci::runtime::{
    Capabilities, Linux, Mount, Namespace, NamespaceKind, Process, RootFilesystem, Spec,
};
use sampan_runtime::{Bundle, Created, Ending, Error, ExecRequest, Root, Running, Stdio, create};

/// A root file system of the test's own.
pub(crate) struct Image {
    pub(crate) directory: tempfile::TempDir,
}

impl Image {
    /// Busybox with its usual names, and empty directories.
    pub(crate) fn new() -> Self {
        let image = Self::bare();
        for name in ["proc", "dev", "sys", "etc", "tmp", "run"] {
            fs::create_dir(image.path().join(name)).unwrap();
        }
        image
    }

    /// Busybox alone.
    pub(crate) fn bare() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bin = directory.path().join("bin");
        fs::create_dir(&bin).unwrap();
        // By another process: a copy of this one that another test starts meanwhile would hold
        // the file open for writing, and the kernel does not run such a file.
        let copied = Command::new("cp").arg("/bin/busybox").arg(&bin).status();
        assert!(copied.unwrap().success());
        for name in [
            "sh", "true", "false", "cat", "ls", "id", "mount", "env", "sleep", "readlink", "stty",
            "tty", "hostname", "kill", "stat", "ps", "head", "touch", "wc", "seq",
        ] {
            symlink("busybox", bin.join(name)).unwrap();
        }
        // As unpacked images are, and as temporary directories are not.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn link(&self, path: &str, target: &str) {
        symlink(target, self.path().join(path)).unwrap();
    }

    pub(crate) fn root(&self) -> Root {
        Root::Directory(self.path().to_owned())
    }
}

/// What Docker would ask for, more or less.
pub(crate) fn spec(command: &[&str]) -> Spec {
    let strings = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let caps = strings(&[
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_SETUID",
        "CAP_SETGID",
        "CAP_KILL",
    ]);
    Spec {
        oci_version: "1.2.0".to_owned(),
        process: Some(Process {
            args: strings(command),
            env: strings(&["PATH=/bin"]),
            cwd: "/".to_owned(),
            capabilities: Some(Capabilities {
                bounding: caps.clone(),
                effective: caps.clone(),
                permitted: caps,
                ..Capabilities::default()
            }),
            ..Process::default()
        }),
        root: Some(RootFilesystem::default()),
        hostname: Some("boat".to_owned()),
        mounts: vec![
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount(
                "/dev",
                "tmpfs",
                &["nosuid", "strictatime", "mode=755", "size=65536k"],
            ),
            mount(
                "/dev/pts",
                "devpts",
                &[
                    "nosuid",
                    "noexec",
                    "newinstance",
                    "ptmxmode=0666",
                    "mode=0620",
                    "gid=5",
                ],
            ),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount(
                "/sys/fs/cgroup",
                "cgroup",
                &["ro", "nosuid", "noexec", "nodev"],
            ),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount(
                "/dev/shm",
                "tmpfs",
                &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
            ),
        ],
        linux: Some(Linux {
            namespaces: [
                NamespaceKind::Mount,
                NamespaceKind::Network,
                NamespaceKind::Uts,
                NamespaceKind::Pid,
                NamespaceKind::Ipc,
                NamespaceKind::Cgroup,
                NamespaceKind::Time,
            ]
            .into_iter()
            .map(Namespace::new)
            .collect(),
            masked_paths: strings(&[
                "/proc/acpi",
                "/proc/interrupts",
                "/proc/kcore",
                "/proc/keys",
                "/proc/timer_list",
                "/proc/does-not-exist",
                "/sys/firmware",
            ]),
            readonly_paths: strings(&["/proc/bus", "/proc/sys", "/proc/sysrq-trigger"]),
            ..Linux::default()
        }),
        ..Spec::default()
    }
}

pub(crate) fn mount(destination: &str, kind: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        kind: Some(kind.to_owned()),
        source: Some(PathBuf::from(kind)),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
        ..Mount::default()
    }
}

pub(crate) fn bind(source: &Path, destination: &str, options: &[&str]) -> Mount {
    Mount {
        source: Some(source.to_owned()),
        ..mount(destination, "bind", options)
    }
}

/// The cgroup of a test, gone when dropped.
pub(crate) fn cgroup() -> CgroupPath {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let own = std::process::id();
    format!("sampan-runtime-test-{own}-{number}")
        .parse()
        .unwrap()
}

pub(crate) fn hierarchies() -> Hierarchies {
    Hierarchies::detect().unwrap()
}

/// A bundle whose output can be read.
pub(crate) struct Readable {
    pub(crate) bundle: Bundle,
    pub(crate) output: File,
}

pub(crate) fn readable(spec: Spec, root: Root) -> Readable {
    let (output, stdio) = pipes();
    let mut bundle = Bundle::new(spec, root);
    bundle.stdio = stdio;
    bundle.cgroup = Some(cgroup());
    Readable { bundle, output }
}

pub(crate) fn pipes() -> (File, Stdio) {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let stdio = Stdio::Pipes {
        stdin: File::open("/dev/null").unwrap().into(),
        stdout: write.try_clone().unwrap(),
        stderr: write,
    };
    (read.into(), stdio)
}

/// What a container's process left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) ending: Ending,
    pub(crate) text: String,
}

/// Runs a container to its end and removes it.
pub(crate) fn run(spec: Spec, root: Root) -> Result<Outcome, Error> {
    run_readable(readable(spec, root))
}

pub(crate) fn run_readable(readable: Readable) -> Result<Outcome, Error> {
    let path = readable.bundle.cgroup.clone();
    let created = create(&hierarchies(), readable.bundle)?;
    let running = created.start()?;
    let text = read_all(readable.output);
    let ending = running.wait()?;
    running.delete()?;
    if let Some(path) = path {
        assert_eq!(cgroup_directories(&path), Vec::<PathBuf>::new());
    }
    Ok(Outcome { ending, text })
}

/// Runs a shell script in a container.
pub(crate) fn script(image: &Image, text: &str) -> Outcome {
    run(spec(&["/bin/sh", "-c", text]), image.root()).unwrap()
}

pub(crate) fn read_all(mut output: File) -> String {
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    text
}

/// A container that ends with the test, also when that fails.
pub(crate) struct Live(Running);

impl std::ops::Deref for Live {
    type Target = Running;
    fn deref(&self) -> &Running {
        &self.0
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.0.kill_all();
        // Not a wait without bound: a further process that nobody reaps holds it up.
        for _ in 0..100 {
            if !matches!(self.0.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let _ = self.0.delete();
    }
}

/// Starts a bundle.
pub(crate) fn start(bundle: Bundle) -> Live {
    let created = create(&hierarchies(), bundle).unwrap();
    Live(created.start().unwrap())
}

/// A container that sleeps until it is killed.
pub(crate) fn sleeping(image: &Image) -> Live {
    let spec = spec(&["/bin/sleep", "1000"]);
    start(readable(spec, image.root()).bundle)
}

/// Runs a further process to its end.
pub(crate) fn exec(running: &Running, command: &[&str]) -> Result<Outcome, Error> {
    let process = spec(command).process.unwrap();
    exec_process(running, process)
}

pub(crate) fn exec_process(running: &Running, process: Process) -> Result<Outcome, Error> {
    let (output, stdio) = pipes();
    let mut request = ExecRequest::new(process);
    request.stdio = stdio;
    let process = running.exec(request)?;
    let text = read_all(output);
    let ending = process.wait()?;
    Ok(Outcome { ending, text })
}

/// The directories of a cgroup that exist.
pub(crate) fn cgroup_directories(path: &CgroupPath) -> Vec<PathBuf> {
    let hierarchies = hierarchies();
    let all = hierarchies.all().iter();
    all.map(|h| h.mount_point.join(path.as_str()))
        .filter(|directory| directory.exists())
        .collect()
}

/// Reads from a terminal until its other end is closed everywhere.
pub(crate) fn read_terminal(master: OwnedFd) -> String {
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    let mut master = File::from(master);
    while let Ok(count) = master.read(&mut chunk) {
        if count == 0 {
            break;
        }
        text.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8_lossy(&text).replace('\r', "")
}

/// Creates without an expectation of success.
pub(crate) fn try_create(spec: Spec, image: &Image) -> Result<Created, Error> {
    create(&hierarchies(), readable(spec, image.root()).bundle)
}
