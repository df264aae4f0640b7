//! Nothing is left behind: after a thousand containers, after failed starts.

use std::io::Read;
use std::process::Stdio;
use std::thread;

use sampan_testing::until;

use crate::engine_with_busybox;

#[test]
fn a_thousand_containers_leave_nothing() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let before = open_descriptors(&engine);
    thread::scope(|scope| {
        for worker in 0..4 {
            let engine = &engine;
            scope.spawn(move || {
                for round in 0..250 {
                    let said = match round % 5 {
                        0 => engine.sampan(&[
                            "run",
                            "--rm",
                            "--network",
                            "none",
                            "busybox",
                            "echo",
                            "ok",
                        ]),
                        1 => {
                            engine.sampan(&["run", "--rm", "-v", "/data", "busybox", "echo", "ok"])
                        }
                        2 => engine.sampan(&["run", "--rm", "-p", "0:80", "busybox", "echo", "ok"]),
                        3 => engine.sampan(&[
                            "run", "--rm", "--init", "-m", "64m", "busybox", "echo", "ok",
                        ]),
                        _ => engine.sampan(&["run", "--rm", "busybox", "echo", "ok"]),
                    };
                    assert_eq!(
                        said.clone().ok(),
                        "ok",
                        "worker {worker}, round {round}: {said:?}"
                    );
                }
            });
        }
    });
    engine.ledger().assert_no_container();
    assert_eq!(engine.sampan(&["volume", "ls", "-q"]).ok(), "");
    let after = open_descriptors(&engine);
    // Twenty starts may be prepared, with six each.
    assert!(
        after <= before + 24 + 20 * 6,
        "descriptors grew from {before} to {after}"
    );
}

fn open_descriptors(engine: &sampan_testing::TestEngine) -> usize {
    let pid = engine.pid().as_raw_nonzero();
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

#[test]
fn a_failed_start_says_why_and_leaves_nothing() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let cases: [(&[&str], i32, &str); 6] = [
        (
            &["busybox", "nothing-here"],
            127,
            "executable file not found",
        ),
        (&["busybox", "/etc"], 126, "is a directory"),
        (
            &["-w", "/etc/passwd", "busybox", "true"],
            125,
            "not a directory",
        ),
        (&["--cpuset-cpus", "4000", "busybox", "true"], 125, "4000"),
        (&["-m", "1m", "busybox", "true"], 125, "6MB"),
        (
            &["--network", "container:nobody", "busybox", "true"],
            125,
            "nobody",
        ),
    ];
    for (arguments, code, reason) in cases {
        let ran = engine.sampan(&[&["run", "--rm"], arguments].concat());
        let said = ran.failed(code);
        assert!(
            said.to_lowercase().contains(&reason.to_lowercase()),
            "{arguments:?}: {said}"
        );
    }
    engine.ledger().assert_no_container();
}

#[test]
fn the_end_of_the_first_process_ends_all_others() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    for flags in [&[][..], &["--init"]] {
        let script = "sleep 1000 & exec sleep 1000";
        let run = [
            &["run", "-d", "--name", "box"],
            flags,
            &["busybox", "sh", "-c", script],
        ];
        let _ = engine.sampan(&run.concat()).ok();
        // One that left its parent's session, and one that heeds no signal.
        for script in ["setsid sleep 1000 & sleep 1000", "trap '' TERM; sleep 1000"] {
            let _ = engine
                .sampan(&["exec", "-d", "box", "sh", "-c", script])
                .ok();
        }
        let mut attached = engine
            .command(&["exec", "box", "sh", "-c", "echo; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        attached
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut [0])
            .unwrap();
        let _ = engine.sampan(&["kill", "box"]).ok();
        assert_eq!(attached.wait().unwrap().code(), Some(137));
        assert_eq!(engine.sampan(&["wait", "box"]).ok(), "137");
        let none_left = || {
            let left = engine.ledger().of_containers();
            // The supervisor may take a moment more, and is nameless at its very end.
            !left
                .iter()
                .any(|e| e.starts_with("process") && !e.contains("sampan-shim"))
        };
        until("all processes have ended", none_left);
        let _ = engine.sampan(&["rm", "box"]).ok();
    }
    engine.ledger().assert_no_container();
}
