//! The keeper of the socket, and what holds while something else does not answer.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use sampan_testing::{TestEngine, free_port, run, until};

use crate::{SAMPAN, engine, engine_with_busybox};

fn serve(engine: &TestEngine, name: &str, port: u16) {
    let script = "mkdir /www; echo served > /www/here; exec httpd -f -p 80 -h /www";
    let publish = format!("127.0.0.1:{port}:80");
    let _ = engine
        .sampan(&[
            "run", "-d", "--name", name, "-p", &publish, "busybox", "sh", "-c", script,
        ])
        .ok();
    until("the container answers", || answers(port));
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    let mut answer = String::new();
    stream.write_all(b"GET /here HTTP/1.0\r\n\r\n").is_ok()
        && std::io::Read::read_to_string(&mut stream, &mut answer).is_ok()
        && answer.ends_with("served\n")
}

#[test]
fn what_a_killed_keeper_and_engine_leave_is_taken_away_by_the_next() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let mut engine = engine_with_busybox();
    let port = free_port();
    serve(&engine, "web", port);
    let _ = engine
        .sampan(&["run", "-d", "--name", "brief", "busybox", "sleep", "1"])
        .ok();
    engine.kill_with_keeper();
    assert!(answers(port), "the container noticed");
    until("the other container has ended", || {
        let processes = engine.ledger().entries();
        processes
            .iter()
            .filter(|entry| entry.contains("sampan-shim"))
            .count()
            == 1
    });
    engine.start_again();
    assert!(answers(port));
    assert_eq!(engine.sampan(&["wait", "brief"]).ok(), "0");
    // Once more, with nothing left that runs: the end of the test sees what is left over.
    let _ = engine.sampan(&["rm", "-f", "web", "brief"]).ok();
    engine.kill_with_keeper();
    assert!(!engine.ledger().entries().is_empty());
    engine.start_again();
}

#[test]
fn an_engine_that_cannot_start_is_given_up_with_its_reason() {
    sampan_kernel::requires!(root);
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let run = directory.path().join("run");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("volumes"), b"not a directory").unwrap();
    let listed = Command::new(SAMPAN)
        .arg("ps")
        .env("SAMPAN_ROOT", &root)
        .env("SAMPAN_RUN", &run)
        .env_remove("SAMPAN_HOST")
        .env_remove("DOCKER_HOST")
        .output()
        .unwrap();
    let said = String::from_utf8(listed.stderr).unwrap();
    assert_eq!(listed.status.code(), Some(1), "{said}");
    assert!(said.contains("the engine cannot start: "), "{said}");
    assert!(
        said.contains(root.join("volumes").to_str().unwrap()),
        "{said}"
    );
    until("the keeper has ended", || {
        sampan_fs::DirLock::try_acquire(&run, "keeper.lock").is_ok()
    });
}

#[test]
fn clients_are_told_why_there_is_no_engine_until_there_is_one_again() {
    sampan_kernel::requires!(root, overlay);
    let engine = engine();
    let _ = engine.sampan(&["ps"]).ok();
    let volumes = engine.root().join("volumes");
    let aside = engine.root().join("aside");
    fs::rename(&volumes, &aside).unwrap();
    fs::write(&volumes, b"not a directory").unwrap();
    engine.kill();
    let reason = "the engine cannot run and is started again in a while: ";
    for client in [TestEngine::sampan, TestEngine::docker] {
        until("the client is told", || {
            let said = client(&engine, &["ps"]).stderr;
            said.contains(reason) && said.contains(volumes.to_str().unwrap())
        });
    }
    fs::remove_file(&volumes).unwrap();
    fs::rename(&aside, &volumes).unwrap();
    until("there is an engine again", || {
        engine.sampan(&["ps"]).code == 0
    });
}

#[test]
fn a_table_that_somebody_else_deletes_is_made_again() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let port = free_port();
    serve(&engine, "web", port);
    let table = engine.ledger().name();
    let nft = |arguments: &[&str]| run("nft", arguments);
    let before = nft(&["list", "table", "ip", table]).ok();
    for damage in ["delete table", "flush table"] {
        let words: Vec<&str> = damage.split(' ').chain(["ip", table]).collect();
        let _ = nft(&words).ok();
        until("the table is whole", || {
            nft(&["list", "table", "ip", table]).stdout.trim_end() == before
        });
        until("the port answers", || answers(port));
    }
}

/// The supervisor of a container.
fn shim_of(engine: &TestEngine, container: &str) -> Pid {
    let format = "{{.State.Pid}}";
    let pid = engine
        .sampan(&["inspect", "--format", format, container])
        .ok();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .and_then(|pid| pid.trim().parse().ok());
    parent.and_then(Pid::from_raw).unwrap()
}

/// A supervisor that is stopped, until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(shim: Pid) -> Self {
        kill_process(shim, Signal::STOP).unwrap();
        Self(shim)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

fn others_are_served(engine: &TestEngine) {
    let listed = engine.sampan(&["ps", "--format", "{{.Names}}"]).ok();
    assert!(
        listed.contains("stuck") && listed.contains("free"),
        "{listed}"
    );
    let running = ["inspect", "--format", "{{.State.Running}}", "stuck"];
    assert_eq!(engine.sampan(&running).ok(), "true");
    assert_eq!(
        engine.sampan(&["exec", "free", "echo", "hello"]).ok(),
        "hello"
    );
    assert_eq!(
        engine
            .sampan(&["run", "--rm", "busybox", "echo", "new"])
            .ok(),
        "new"
    );
    let log = engine.sampan(&["logs", "--tail", "1", "stuck"]).ok();
    assert!(log.starts_with("said"), "{log}");
}

#[test]
fn a_supervisor_that_does_not_answer_delays_nobody_else() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    for name in ["stuck", "free"] {
        let script = "echo said; exec sleep 1000";
        let _ = engine
            .sampan(&["run", "-d", "--name", name, "busybox", "sh", "-c", script])
            .ok();
    }
    let stopped = Stopped::new(shim_of(&engine, "stuck"));
    let engine = &engine;
    std::thread::scope(|scope| {
        let operations = [
            &["stop", "-t", "1", "stuck"][..],
            &["exec", "stuck", "true"],
            &["pause", "stuck"],
            &["kill", "stuck"],
        ];
        let waiting: Vec<_> = operations
            .map(|operation| scope.spawn(move || engine.sampan(operation)))
            .into_iter()
            .collect();
        for _ in 0..5 {
            others_are_served(engine);
        }
        for operation in waiting {
            let ran = operation.join().unwrap();
            assert_ne!(ran.code, 0, "{ran:?}");
            // An exec's failure comes on its stream.
            let said = format!("{}{}", ran.stdout, ran.stderr);
            assert!(said.contains("did not answer within"), "{ran:?}");
        }
    });
    // An engine that starts anew does not wait for it either.
    engine.kill();
    others_are_served(engine);
    for operation in [&["stop", "-t", "1", "stuck"][..], &["rm", "-f", "stuck"]] {
        let ran = engine.sampan(operation);
        assert_ne!(ran.code, 0, "{ran:?}");
        assert!(ran.stderr.contains("does not answer"), "{ran:?}");
    }
    drop(stopped);
    // What it was asked to do meanwhile it does now.
    until("it can be used again", || {
        engine.sampan(&["rm", "-f", "stuck"]).code == 0
    });
}

#[test]
fn log_readers_that_never_read_delay_nobody() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    // More than the buffers on the way take.
    let script = "i=0; while [ $i -lt 20000 ]; do echo said again and again and again; \
                  i=$((i+1)); done; exec sleep 1000";
    for (name, script) in [("stuck", script), ("free", "exec sleep 1000")] {
        let _ = engine
            .sampan(&["run", "-d", "--name", name, "busybox", "sh", "-c", script])
            .ok();
    }
    let readers: Vec<UnixStream> = (0..300)
        .map(|_| {
            let mut reader = UnixStream::connect(engine.socket()).unwrap();
            let request =
                "GET /containers/stuck/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: x\r\n\r\n";
            reader.write_all(request.as_bytes()).unwrap();
            reader
        })
        .collect();
    for _ in 0..5 {
        others_are_served(&engine);
    }
    let _ = engine.sampan(&["rm", "-f", "stuck"]).ok();
    drop(readers);
}
