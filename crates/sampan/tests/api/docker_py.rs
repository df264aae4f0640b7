//! The Python SDK, which speaks to the API in its own way: filters as lists, the unversioned
//! newest API, upgrades with a pooled connection.

use std::path::PathBuf;
use std::process::Command;

use crate::engine_with_busybox;

const SESSION: &str = include_str!("session.py");
const METHODS: &str = include_str!("methods.py");

/// A directory with docker-py, fetched once.
fn library() -> PathBuf {
    let target = PathBuf::from(crate::SAMPAN);
    let directory = target.with_file_name("fixtures-docker-py");
    let done = directory.join("done");
    if !done.exists() {
        let fetched = Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--target"])
            .arg(&directory)
            .arg("docker==7.1.0")
            .output()
            .unwrap();
        assert!(fetched.status.success(), "{fetched:?}");
        std::fs::write(done, "").unwrap();
    }
    directory
}

/// Runs a script with the library against an engine of its own.
fn play(script: &str) {
    let engine = engine_with_busybox();
    let mut python = Command::new("python3");
    engine.environment(&mut python);
    let ran = python
        .args(["-c", script])
        .env("PYTHONPATH", library())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "{}{}",
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
}

#[test]
fn docker_py_plays_a_whole_session() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    play(SESSION);
}

#[test]
fn docker_py_calls_all_of_its_methods() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    play(METHODS);
}
