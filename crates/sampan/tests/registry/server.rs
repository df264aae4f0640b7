//! A registry process.

use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sampan_testing::{free_port, until};
use tempfile::TempDir;

use crate::SAMPAN;

/// A registry with a directory of its own, until it is dropped.
pub(crate) struct Server {
    directory: TempDir,
    process: Child,
    port: u16,
    arguments: Vec<String>,
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("sampan-registry-")
            .tempdir()
            .unwrap();
        let port = free_port();
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let process = spawn(directory.path(), port, &arguments);
        let mut server = Self {
            directory,
            process,
            port,
            arguments,
        };
        server.wait();
        server
    }

    fn wait(&mut self) {
        let address = self.address();
        until("the registry answers", || {
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "the registry ended: {}", self.log());
            TcpStream::connect(&address).is_ok()
        });
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A directory for the test's own files.
    pub(crate) fn scratch(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Kills the process with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        let _ = self.process.wait();
    }

    /// Starts it again on the same port and store.
    pub(crate) fn again(&mut self) {
        self.process = spawn(self.directory.path(), self.port, &self.arguments);
        self.wait();
    }
}

fn spawn(directory: &Path, port: u16, arguments: &[String]) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .unwrap();
    Command::new(SAMPAN)
        .args([
            "registry",
            "serve",
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--root",
        ])
        .arg(directory.join("root"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- registry log ---\n{}", self.log());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
