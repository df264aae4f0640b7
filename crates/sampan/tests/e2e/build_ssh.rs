//! Repositories that builds fetch over SSH, with the keys of the client's agent.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use sampan_testing::{free_port, until};

use crate::build_sources::{build, git, repository, sh};
use crate::buildkit::{Builder, Ended, ssh_agent, ssh_key};

/// A server that believes the holder of `scratch/key`.
fn server(scratch: &Path) -> (Ended, u16) {
    // What it wants to be there, as the package's service makes it.
    let empty = fs::DirBuilder::new().mode(0o755).create("/run/sshd");
    assert!(empty.is_ok() || Path::new("/run/sshd").is_dir());
    let (host_key, port) = (scratch.join("host-key"), free_port());
    ssh_key(&host_key);
    fs::copy(scratch.join("key.pub"), scratch.join("authorized")).unwrap();
    let config = format!(
        "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\n\
         StrictModes no\nUsePAM no\nPidFile none\nPasswordAuthentication no\n\
         PermitRootLogin yes\n",
        host_key.display(),
        scratch.join("authorized").display()
    );
    fs::write(scratch.join("sshd_config"), config).unwrap();
    let mut server = Command::new("/usr/sbin/sshd");
    server
        .args(["-D", "-e", "-f"])
        .arg(scratch.join("sshd_config"));
    server.stdout(Stdio::null()).stderr(Stdio::null());
    let server = Ended(server.spawn().unwrap());
    until("the server listens", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    (server, port)
}

#[test]
fn repositories_come_over_ssh_with_the_keys_of_the_clients_agent_alone() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let engine = &builder.engine;
    let scratch = engine.scratch();
    let _agent = ssh_agent(scratch);
    let (_server, port) = server(scratch);
    let at = repository(&scratch.join("git"));
    let url = format!("ssh://root@127.0.0.1:{port}{}", at.display());
    let lent = format!("default={}", scratch.join("agent").display());

    let file = format!("FROM busybox\nADD {url}#v1 /from\n");
    let directory = builder.directory("adds");
    let refused = build(engine, &directory, &file, &[]);
    assert!(
        refused.stderr.contains("--ssh default"),
        "{}",
        refused.stderr
    );
    let _ = build(engine, &directory, &file, &["--ssh", &lent]).ok();
    assert_eq!(sh(engine, "cat /from/a /from/sub/deep/b"), "first\ndeep");

    // As the files to build from, with the other client, and a submodule beside.
    git(&at, &["submodule", "--quiet", "add", "./.git", "again"]);
    git(
        &at,
        &["config", "-f", ".gitmodules", "submodule.again.url", &url],
    );
    git(&at, &["add", "-A"]);
    git(&at, &["commit", "-q", "-m", "three"]);
    let ran = builder.docker(&[
        "build",
        "-t",
        "built",
        "--ssh",
        &lent,
        &format!("{url}#main"),
    ]);
    let _ = ran.ok();
    assert_eq!(sh(engine, "cat /in/a /in/again/a"), "second\nsecond");

    // Another key, which the server does not know.
    fs::write(scratch.join("authorized"), "").unwrap();
    let refused = build(engine, &directory, &file, &["--ssh", &lent, "--no-cache"]);
    assert!(
        refused.stderr.contains("Permission denied"),
        "{}",
        refused.stderr
    );
}
