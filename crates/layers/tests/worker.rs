//! The unpacking child is shut in before it reads the first byte.

#![allow(clippy::unwrap_used)]

mod tarball;

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sampan_kernel::requires;
use tarball::{Header, Tarball};

fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let examples = test
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples");
    let path = examples.join("layer_worker");
    assert!(path.exists(), "{} is not built", path.display());
    path
}

fn spawn(dir: &Path, tar: &[u8]) -> Child {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(tar).unwrap();
    file.rewind().unwrap();
    Command::new(program())
        .args(["4194304", "268435456", "268435456"])
        .current_dir(dir)
        .stdin(Stdio::from(file))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn status(pid: u32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(field)).unwrap();
    line[field.len()..].trim().to_owned()
}

#[test]
fn the_worker_sees_one_directory_and_no_network() {
    requires!(root);
    let tmp = tempfile::tempdir().unwrap();
    std::fs::write(tmp.path().join("here"), "").unwrap();
    let mut tar = Tarball::new();
    for i in 0..60_000 {
        tar = tar.header(&Header::new(b'0', format!("{i}")));
    }
    let mut worker = spawn(tmp.path(), &tar.end());
    let pid = worker.id();
    let start = Instant::now();
    // CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP
    while status(pid, "CapEff:") != "000000008800001b" {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{}",
            status(pid, "CapEff:")
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(status(pid, "CapPrm:"), "000000008800001b");
    assert_eq!(status(pid, "CapInh:"), "0000000000000000");
    assert_eq!(status(pid, "NoNewPrivs:"), "1");
    let own = |space: &str| {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{space}")).unwrap();
        of(&pid.to_string()) != of("self")
    };
    assert!(own("net") && own("mnt") && own("ipc") && own("uts"));
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    let seen = format!("/proc/{pid}/root/here");
    assert!(File::open(seen).is_ok());
    assert!(!Path::new(&format!("/proc/{pid}/root/etc")).exists());
    assert!(worker.wait().unwrap().success());
    assert_eq!(
        std::fs::read_dir(tmp.path().join("tree")).unwrap().count(),
        60_000
    );
    assert!(!tmp.path().join("links").exists());
}

#[test]
fn the_worker_tells_what_is_wrong() {
    requires!(root);
    let tmp = tempfile::tempdir().unwrap();
    let worker = spawn(tmp.path(), &Tarball::new().file("../x", "").end());
    let output = worker.wait_with_output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("leads out of the layer"), "{text}");
    assert!(!tmp.path().join("tree").exists());
}
