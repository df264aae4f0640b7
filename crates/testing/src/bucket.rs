use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::command::{free_port, run, until};
use crate::fixtures;

/// A bucket of an S3-compatible service in memory: `moto`, whose package comes from PyPI and is
/// installed once, in the target folder.
#[derive(Debug)]
pub struct Bucket {
    process: Child,
    port: u16,
}

impl Bucket {
    /// The bucket's name.
    pub const NAME: &str = "images";

    /// Starts the service, which takes any key, and makes the bucket.
    #[must_use]
    pub fn start() -> Self {
        let program = install();
        let port = free_port();
        let process = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let bucket = Self { process, port };
        until("the bucket's service answers", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        let _ = bucket.ask("PUT", &format!("/{}", Self::NAME));
        bucket
    }

    /// Where it is.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Counts the objects whose names begin so.
    #[must_use]
    pub fn count(&self, prefix: &str) -> usize {
        let list = format!("/{}?list-type=2&prefix={prefix}", Self::NAME);
        self.ask("GET", &list).matches("<Key>").count()
    }

    fn ask(&self, method: &str, path: &str) -> String {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            socket,
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 200 "), "{answer}");
        answer
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Installs moto unless that was done before; answers its program.
fn install() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/moto");
    let program = target.join("bin/moto_server");
    let _lock = fixtures::lock();
    if !program.exists() {
        let _ = run("python3", &["-m", "venv", target.to_str().unwrap()]).ok();
        let pip = target.join("bin/pip");
        let packages = ["moto[s3]", "flask", "flask-cors"];
        let install = [&["install", "--quiet"], packages.as_slice()].concat();
        let _ = run(pip.to_str().unwrap(), &install).ok();
    }
    program
}
