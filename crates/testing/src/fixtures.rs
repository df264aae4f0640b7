//! Real images, made once from Debian's packages and kept in the target
//! folder as one OCI layout with a tag each.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::command::{Ran, run, run_in};

/// The images that tests can ask for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fixture {
    /// `busybox-static` with its applets, some 2 MB.
    Busybox,
    /// Busybox and two more layers: one without `/etc/passwd`, one that replaces `/root` by a
    /// directory with the file `kept`.
    Whiteouts,
    /// A minimal Debian.
    Debian,
    /// Debian, python3 and Flask from PyPI; serves `hello` on port 5000.
    Flask,
    /// Debian, python3 and pip.
    Python,
    /// Debian and an OpenSSH server.
    Sshd,
    /// Debian and what engines of containers take: systemd as its init, runc.
    Systemd,
    /// Debian and nginx; serves a page on port 80.
    Nginx,
    /// Debian and a redis server on port 6379.
    Redis,
    /// Debian and PostgreSQL on port 5432, its data in a volume.
    Postgres,
    /// Debian and four more layers with packages, some 300 MB; for pulling.
    FiveLayers,
}

impl Fixture {
    /// The image's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Busybox => "busybox",
            Self::Whiteouts => "whiteouts",
            Self::Debian => "debian",
            Self::Flask => "flask",
            Self::Python => "python",
            Self::Sshd => "sshd",
            Self::Systemd => "systemd",
            Self::Nginx => "nginx",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::FiveLayers => "five-layers",
        }
    }

    /// The image as skopeo names it: `oci:DIRECTORY:TAG`.
    #[must_use]
    pub fn layout(self) -> String {
        format!("oci:{}:{}", layouts().display(), self.name())
    }

    /// Saves the image as an archive that `load` takes, under
    /// `NAME:latest`, unless that was done before. Returns its path.
    #[must_use]
    pub fn archive(self) -> PathBuf {
        let path = directory().join(format!("{}.tar", self.name()));
        let _lock = lock();
        if !path.exists() {
            let half = path.with_extension("half");
            let _ = fs::remove_file(&half);
            let target = format!("docker-archive:{}:{}:latest", half.display(), self.name());
            let _ = run("skopeo", &["copy", "--quiet", &self.layout(), &target]).ok();
            fs::rename(half, &path).unwrap();
        }
        path
    }
}

/// Makes the image if it was not made before.
#[must_use]
pub fn fixture(fixture: Fixture) -> Fixture {
    let _lock = lock();
    make(fixture);
    fixture
}

fn make(fixture: Fixture) {
    let done = directory().join(format!("{}.done", fixture.name()));
    if done.exists() {
        return;
    }
    match fixture {
        Fixture::Busybox => from_root("busybox", busybox, &["--config.cmd=sh"]),
        Fixture::Whiteouts => {
            make(Fixture::Busybox);
            let base = format!("{}:busybox", layouts().display());
            let image = format!("{}:whiteouts", layouts().display());
            let insert = ["insert", "--image"];
            let removal = ["--tag", "whiteouts", "--whiteout", "/etc/passwd"];
            let _ = run("umoci", &[&insert[..], &[&base], &removal].concat()).ok();
            let tree = tempfile::tempdir_in(directory()).unwrap();
            fs::write(tree.path().join("kept"), "kept").unwrap();
            let tree = tree.path().display().to_string();
            let opaque = ["--opaque", &tree, "/root"];
            let _ = run("umoci", &[&insert[..], &[&image], &opaque].concat()).ok();
        }
        Fixture::Debian => from_root("debian", debian, &["--config.cmd=bash"]),
        Fixture::Flask => {
            make(Fixture::Debian);
            derive(
                "flask",
                |root| {
                    install(root, "python3-minimal libpython3-stdlib");
                    let target = root.join("usr/lib/python3/dist-packages");
                    let target = format!("--target={}", target.display());
                    let _ = run(
                        "python3",
                        &["-m", "pip", "install", "--quiet", &target, "flask"],
                    )
                    .ok();
                    fs::write(root.join("app.py"), FLASK).unwrap();
                },
                &[
                    "--config.cmd=python3",
                    "--config.cmd=/app.py",
                    "--config.exposedports=5000/tcp",
                    "--config.env=PYTHONUNBUFFERED=1",
                ],
            );
        }
        Fixture::Python => {
            make(Fixture::Debian);
            derive(
                "python",
                |root| install(root, "python3-minimal python3-pip"),
                &[],
            );
        }
        Fixture::Sshd => {
            make(Fixture::Debian);
            derive(
                "sshd",
                |root| install(root, "openssh-server openssh-client"),
                &[],
            );
        }
        Fixture::Systemd => {
            make(Fixture::Debian);
            derive(
                "systemd",
                |root| install(root, "systemd systemd-sysv dbus runc"),
                &[
                    "--config.cmd=/lib/systemd/systemd",
                    "--config.stopsignal=SIGRTMIN+3",
                ],
            );
        }
        Fixture::Nginx => {
            make(Fixture::Debian);
            derive(
                "nginx",
                |root| {
                    install(root, "nginx-light");
                    fs::write(root.join("var/www/html/index.html"), "served by nginx\n").unwrap();
                },
                &[
                    "--config.cmd=nginx",
                    "--config.cmd=-g",
                    "--config.cmd=daemon off;",
                    "--config.exposedports=80/tcp",
                    "--config.stopsignal=SIGQUIT",
                ],
            );
        }
        Fixture::Redis => {
            make(Fixture::Debian);
            derive(
                "redis",
                |root| install(root, "redis-server redis-tools"),
                &[
                    "--config.entrypoint=redis-server",
                    "--config.cmd=--protected-mode",
                    "--config.cmd=no",
                    "--config.exposedports=6379/tcp",
                    "--config.volume=/data",
                    "--config.workingdir=/data",
                ],
            );
        }
        Fixture::Postgres => {
            make(Fixture::Debian);
            derive(
                "postgres",
                |root| {
                    install(root, "postgresql");
                    fs::write(root.join("start"), POSTGRES).unwrap();
                    let _ = run("chmod", &["755", &root.join("start").display().to_string()]).ok();
                },
                &[
                    "--config.cmd=/start",
                    "--config.user=postgres",
                    "--config.exposedports=5432/tcp",
                    "--config.volume=/var/lib/postgresql/15/main",
                    "--config.stopsignal=SIGINT",
                ],
            );
        }
        Fixture::FiveLayers => {
            make(Fixture::Debian);
            let layers = [
                ("five-layers-2", "debian", "python3"),
                ("five-layers-3", "five-layers-2", "perl"),
                ("five-layers-4", "five-layers-3", "gcc libc6-dev"),
                ("five-layers", "five-layers-4", "git"),
            ];
            for (name, base, packages) in layers {
                derive_from(base, name, |root| install(root, packages), &[]);
            }
        }
    }
    fs::write(done, "").unwrap();
}

const FLASK: &str = "\
from flask import Flask

app = Flask(__name__)


@app.route('/')
def hello():
    return 'hello from flask'


app.run(host='0.0.0.0', port=5000)
";

const POSTGRES: &str = "\
#!/bin/sh
set -e
bin=/usr/lib/postgresql/15/bin
data=/var/lib/postgresql/15/main
[ -s $data/PG_VERSION ] || $bin/initdb --auth=trust --pgdata=$data >/dev/null
(echo 'local all all trust'; echo 'host all all all trust') > /tmp/hba
exec $bin/postgres -D $data -c config_file=/etc/postgresql/15/main/postgresql.conf -c external_pid_file=/tmp/pid -c ssl=off -c listen_addresses='*' -c hba_file=/tmp/hba -c unix_socket_directories=/tmp
";

/// Makes a one-layer image from a directory tree.
fn from_root(name: &str, fill: fn(&Path), config: &[&str]) {
    let image = format!("{}:{name}", layouts().display());
    if !layouts().exists() {
        let _ = run(
            "umoci",
            &["init", "--layout", &layouts().display().to_string()],
        )
        .ok();
    }
    let _ = run("umoci", &["new", "--image", &image]).ok();
    layer(&image, &image, fill, config);
}

/// Makes an image with one more layer than Debian's.
fn derive(name: &str, change: impl Fn(&Path), config: &[&str]) {
    derive_from("debian", name, change, config);
}

/// Makes an image with one more layer than another.
fn derive_from(base: &str, name: &str, change: impl Fn(&Path), config: &[&str]) {
    let base = format!("{}:{base}", layouts().display());
    let image = format!("{}:{name}", layouts().display());
    layer(&base, &image, change, config);
}

fn layer(base: &str, image: &str, change: impl Fn(&Path), config: &[&str]) {
    let work = tempfile::Builder::new()
        .prefix("bundle-")
        .tempdir_in(directory())
        .unwrap();
    let bundle = work.path().join("bundle");
    let bundle_name = bundle.display().to_string();
    let _ = run("umoci", &["unpack", "--image", base, &bundle_name]).ok();
    change(&bundle.join("rootfs"));
    let _ = run("umoci", &["repack", "--image", image, &bundle_name]).ok();
    let mut arguments = vec!["config", "--image", image];
    arguments.extend(config);
    let _ = run("umoci", &arguments).ok();
}

fn busybox(root: &Path) {
    for directory in ["bin", "etc", "tmp", "root", "home", "usr", "var/www"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let _ = run("chmod", &["1777", &root.join("tmp").display().to_string()]).ok();
    fs::copy(which("busybox"), root.join("bin/busybox")).unwrap();
    for applet in run("busybox", &["--list"]).ok().lines() {
        if applet != "busybox" {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
    }
    let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n\
                 user:x:1000:1000::/home:/bin/sh\n";
    fs::write(root.join("etc/passwd"), users).unwrap();
    let groups = "root:x:0:\nnogroup:x:65534:\nuser:x:1000:\nextra:x:2000:user\n";
    fs::write(root.join("etc/group"), groups).unwrap();
}

fn debian(root: &Path) {
    let tar = directory().join("debian-root.tar");
    let name = tar.display().to_string();
    if !tar.exists() {
        let half = format!("{name}.half.tar");
        let arguments = [
            "--quiet",
            "--variant=minbase",
            "--aptopt=Acquire::Languages \"none\"",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "bookworm",
            &half,
        ];
        let _ = run("mmdebstrap", &arguments).ok();
        fs::rename(half, tar).unwrap();
    }
    let _ = run_in(
        root,
        "tar",
        &["-xpf", &name, "--numeric-owner", "--exclude=./dev/*"],
    )
    .ok();
}

/// Installs Debian packages into a tree.
fn install(root: &Path, packages: &str) {
    fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf")).unwrap();
    fs::write(root.join("usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n").unwrap();
    let script = format!(
        "chmod 755 /usr/sbin/policy-rc.d && umask 0 && mknod /dev/null c 1 3 && \
         mknod /dev/urandom c 1 9 && umask 022 && apt-get update -qq && \
         apt-get install -qq --no-install-recommends {packages} && apt-get clean && \
         rm -rf /var/lib/apt/lists/* /usr/sbin/policy-rc.d /etc/resolv.conf /dev/*"
    );
    let root = root.display().to_string();
    let environment = "DEBIAN_FRONTEND=noninteractive";
    let path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    let ran: Ran = run(
        "chroot",
        &[&root, "env", environment, path, "sh", "-c", &script],
    );
    let _ = ran.ok();
}

fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .unwrap()
}

fn layouts() -> PathBuf {
    directory().join("images")
}

/// `target/fixtures` of the workspace.
pub(crate) fn directory() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || workspace.canonicalize().unwrap().join("target"),
        PathBuf::from,
    );
    let directory = target.join("fixtures");
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// One maker at a time, among threads and processes.
pub(crate) fn lock() -> fs::File {
    let file = fs::File::create(directory().join("lock")).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    file
}
