//! The engines that are compared: ours, docker and podman, each with state of
//! its own and the same images.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use sampan_testing::{Fixture, TestEngine, fixture, until};
use tempfile::TempDir;

use super::world::CGROUP;

/// All engines, running.
pub(super) struct Peers {
    pub(super) sampan: TestEngine,
    pub(super) docker: Docker,
    pub(super) podman: Podman,
}

/// One engine of the three.
#[derive(Clone, Copy)]
pub(super) enum Peer<'a> {
    Sampan(&'a TestEngine),
    Docker(&'a Docker),
    Podman(&'a Podman),
}

impl Peers {
    pub(super) fn start() -> Result<Self> {
        let archive = fixture(Fixture::Busybox).archive();
        let docker = Docker::start()?;
        let podman = Podman::new()?;
        let peers = Self {
            sampan: super::engine("info"),
            docker,
            podman,
        };
        for peer in [Peer::Docker(&peers.docker), Peer::Podman(&peers.podman)] {
            let archive = archive.to_str().context("the path is text")?;
            super::measure::time(peer.command(&["load", "-i", archive]))?;
        }
        Ok(peers)
    }

    /// Ours first: the others are compared with it.
    pub(super) fn all(&self) -> [Peer<'_>; 3] {
        [
            Peer::Sampan(&self.sampan),
            Peer::Docker(&self.docker),
            Peer::Podman(&self.podman),
        ]
    }
}

impl Peer<'_> {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sampan(_) => "sampan",
            Self::Docker(_) => "docker",
            Self::Podman(_) => "podman",
        }
    }

    /// The engine's own client with arguments.
    pub(super) fn command(self, arguments: &[&str]) -> Command {
        match self {
            Self::Sampan(engine) => engine.command(arguments),
            Self::Docker(docker) => docker.command(arguments),
            Self::Podman(podman) => podman.command(arguments),
        }
    }
}

/// Debian's dockerd with containerd, on directories of its own.
pub(super) struct Docker {
    directory: TempDir,
    daemon: Child,
}

impl Docker {
    fn start() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("docker-").tempdir()?;
        let path = |name: &str| directory.path().join(name);
        let log = std::fs::File::create(path("log"))?;
        let daemon = Command::new(in_sbin("dockerd"))
            .arg("--data-root")
            .arg(path("root"))
            .arg("--exec-root")
            .arg(path("run"))
            .arg("--pidfile")
            .arg(path("pid"))
            .arg("--host")
            .arg(format!("unix://{}", path("sock").display()))
            .args(["--cgroup-parent", &format!("/{CGROUP}")])
            .env(
                "PATH",
                format!("{}:/usr/sbin:/sbin", std::env::var("PATH")?),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start dockerd")?;
        let docker = Self { directory, daemon };
        until("dockerd answers", || {
            docker
                .command(&["version"])
                .output()
                .is_ok_and(|output| output.status.success())
        });
        Ok(docker)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        // Debian's client, of the same version as the daemon.
        let mut command = Command::new("/usr/bin/docker");
        command
            .args(arguments)
            .env(
                "DOCKER_HOST",
                format!("unix://{}/sock", self.directory.path().display()),
            )
            .env("DOCKER_CONFIG", self.directory.path().join("config"));
        command
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.daemon.id().cast_signed());
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.daemon.wait();
    }
}

/// Debian's podman, on directories of its own.
pub(super) struct Podman {
    directory: TempDir,
}

impl Podman {
    fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("podman-").tempdir()?;
        Ok(Self { directory })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let path = |name: &str| self.directory.path().join(name);
        let mut command = Command::new("podman");
        command
            .arg("--root")
            .arg(path("root"))
            .arg("--runroot")
            .arg(path("run"))
            .args([
                "--cgroup-manager=cgroupfs",
                "--events-backend=file",
                "--runtime=runc",
            ])
            .args(arguments);
        command
    }
}

fn in_sbin(program: &str) -> PathBuf {
    let path = Path::new("/usr/sbin").join(program);
    if path.exists() {
        path
    } else {
        PathBuf::from(program)
    }
}
