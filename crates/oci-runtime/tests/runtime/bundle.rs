//! A bundle of the test's own, and a runtime with a state directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use sampan_testing::{Ran, run_in};
use serde_json::Value;

pub(crate) const SAMPAN: &str = env!("CARGO_BIN_EXE_sampan-runtime");

static COUNT: AtomicU32 = AtomicU32::new(0);

/// crun 1.8 refuses a hybrid of cgroup v1 and v2, so that the v2 tree is hidden from it.
const HIDING: &str =
    "if [ -d /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi; exec crun \"$@\"";

/// A directory with `config.json` and `rootfs`, and the state of the containers made of it.
pub(crate) struct Bundle {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) id: String,
    runtime: String,
}

impl Bundle {
    /// The configuration that `spec` writes, without a terminal, in a bundle around busybox.
    pub(crate) fn new(runtime: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let rootfs = directory.path().join("rootfs");
        for name in ["bin", "proc", "sys", "dev", "etc", "tmp", "srv/data"] {
            fs::create_dir_all(rootfs.join(name)).unwrap();
        }
        // By another process: a copy of this one that another test starts meanwhile would hold
        // the file open for writing, and the kernel does not run such a file.
        let copied = Command::new("cp")
            .arg("/bin/busybox")
            .arg(rootfs.join("bin"))
            .status();
        assert!(copied.unwrap().success());
        let list = run_in(directory.path(), "/bin/busybox", &["--list"]).ok();
        for name in list.lines().filter(|name| *name != "busybox") {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        fs::write(rootfs.join("srv/data/file"), "of the image\n").unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        for path in [directory.path(), &rootfs] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let bundle = Self {
            directory,
            id: format!("sampan-test-{}-{number}", std::process::id()),
            runtime: runtime.to_owned(),
        };
        let _ = run_in(bundle.path(), SAMPAN, &["spec"]).ok();
        bundle.change(|config| {
            config["process"]["terminal"] = false.into();
            config["linux"]["cgroupsPath"] = format!("/{}", bundle.id).into();
            config["ociVersion"] = "1.0.2".into();
        });
        bundle
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    /// Changes the configuration.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Value)) {
        let path = self.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        fs::write(&path, config.to_string()).unwrap();
    }

    /// Sets the command, a line of shell.
    pub(crate) fn shell(&self, line: &str) {
        self.change(|config| config["process"]["args"] = vec!["sh", "-c", line].into());
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = if self.runtime == "crun" {
            let mut command = Command::new("unshare");
            command.args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                HIDING,
                "crun",
            ]);
            command
        } else {
            Command::new(&self.runtime)
        };
        command.arg("--root").arg(self.path().join("state"));
        command.args(arguments).current_dir(self.path());
        command
    }

    /// Runs the runtime; what it writes is read to the end, so this is not for `create`.
    pub(crate) fn call(&self, arguments: &[&str]) -> Ran {
        self.command(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
            .into()
    }

    /// Runs the runtime where a container holds on to the streams: its output goes to a file.
    pub(crate) fn create(&self, arguments: &[&str]) -> Ran {
        let output = self.path().join("output");
        let file = fs::File::create(&output).unwrap();
        let status = self
            .command(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .status()
            .unwrap();
        Ran {
            code: status.code().unwrap(),
            stdout: fs::read_to_string(&output).unwrap(),
            stderr: String::new(),
        }
    }

    /// What the container has written until now.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.path().join("output")).unwrap()
    }

    /// The state's status.
    pub(crate) fn status(&self) -> String {
        let state: Value = serde_json::from_str(&self.call(&["state", &self.id]).ok()).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }

    /// Control groups that are left of the container.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
        let paths = hierarchies.map(|entry| entry.path().join(&self.id));
        let below = [Path::new("/sys/fs/cgroup").join(&self.id)];
        paths.chain(below).filter(|path| path.exists()).collect()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let deleted = self.call(&["delete", "--force", &self.id]);
        if std::thread::panicking() {
            return;
        }
        let foreign = !self.runtime.ends_with("sampan-runtime");
        assert!(deleted.code == 0 || foreign, "{}", deleted.stderr);
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new());
    }
}
