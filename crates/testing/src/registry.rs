use std::fmt::Write;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::command::{free_port, run, until};
use crate::fixtures::Fixture;

/// A registry on 127.0.0.1 with storage of its own: Debian's `docker-registry`, or ours.
#[derive(Debug)]
pub struct Registry {
    directory: TempDir,
    process: Child,
    port: u16,
    login: Option<Login>,
}

/// User and password of a registry.
#[derive(Clone, Debug)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl Registry {
    /// Starts a registry that anybody may use.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts a registry that wants basic authentication.
    #[must_use]
    pub fn with_login(login: Login) -> Self {
        Self::start_with(Some(login))
    }

    /// Starts our own server, `sampan registry serve`, that anybody may use.
    #[must_use]
    pub fn ours(sampan: &str) -> Self {
        let (directory, port) = (scratch(), free_port());
        let mut command = Command::new(sampan);
        command
            .args(["registry", "serve", "--listen"])
            .arg(format!("127.0.0.1:{port}"))
            .arg("--root")
            .arg(directory.path().join("data"));
        Self {
            process: serve(command, port),
            directory,
            port,
            login: None,
        }
    }

    fn start_with(login: Option<Login>) -> Self {
        let (directory, port) = (scratch(), free_port());
        let root = directory.path().display();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
             storage:\n  filesystem:\n    rootdirectory: {root}/data\n  delete:\n    enabled: true\n\
             http:\n  addr: 127.0.0.1:{port}\n"
        );
        if let Some(login) = &login {
            let line = run("htpasswd", &["-Bbn", &login.user, &login.password]).ok();
            std::fs::write(directory.path().join("users"), line).unwrap();
            write!(
                config,
                "auth:\n  htpasswd:\n    realm: test\n    path: {root}/users\n"
            )
            .unwrap();
        }
        let file = directory.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(file);
        Self {
            process: serve(command, port),
            directory,
            port,
            login,
        }
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Pushes an image under its own name and returns the reference to pull.
    #[must_use]
    pub fn push(&self, fixture: &Fixture) -> String {
        self.push_with(fixture, &[])
    }

    /// Pushes an image with further flags of `skopeo copy`.
    #[must_use]
    pub fn push_with(&self, fixture: &Fixture, flags: &[&str]) -> String {
        let reference = format!("{}/{}:latest", self.address(), fixture.name());
        let credentials = self
            .login
            .as_ref()
            .map(|login| format!("--dest-creds={}:{}", login.user, login.password));
        let mut arguments = vec!["copy", "--quiet", "--dest-tls-verify=false"];
        arguments.extend(credentials.as_deref());
        arguments.extend(flags);
        let (source, target) = (fixture.layout(), format!("docker://{reference}"));
        arguments.extend([source.as_str(), &target]);
        let _ = run("skopeo", &arguments).ok();
        reference
    }

    /// Where the registry keeps its blobs.
    #[must_use]
    pub fn storage(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }
}

fn scratch() -> TempDir {
    tempfile::Builder::new()
        .prefix("sampan-registry-")
        .tempdir()
        .unwrap()
}

/// Starts a server and waits until it answers.
fn serve(mut command: Command, port: u16) -> Child {
    let process = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the registry answers", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    process
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
