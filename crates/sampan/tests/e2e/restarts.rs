//! Containers that are started again: with an engine, without one, and by the next one.

use sampan_testing::{TestEngine, free_port, until};

use crate::engine_with_busybox;

fn inspect(engine: &TestEngine, name: &str, template: &str) -> String {
    let told = engine.docker(&["inspect", "-f", template, name]).ok();
    told.trim().to_owned()
}

fn status(engine: &TestEngine, name: &str) -> String {
    inspect(engine, name, "{{.State.Status}}")
}

fn restarts(engine: &TestEngine, name: &str) -> u32 {
    inspect(engine, name, "{{.RestartCount}}").parse().unwrap()
}

/// The deaths and starts that were told of a container, in order.
fn told(engine: &TestEngine, name: &str) -> Vec<String> {
    let filter = format!("container={name}");
    // Docker's client asks for whole seconds only.
    let text = engine
        .sampan(&[
            "events",
            "--since",
            "1",
            "--until",
            "0s",
            "--filter",
            &filter,
            "--format",
            "{{.Action}}",
        ])
        .ok();
    let actions = text.lines().map(str::to_owned);
    actions
        .filter(|action| action == "die" || action == "start")
        .collect()
}

/// Kills the first process of a container from outside, as a fault of its own would.
fn crash(engine: &TestEngine, name: &str) {
    let pid: i32 = inspect(engine, name, "{{.State.Pid}}").parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn failures_are_counted_and_every_run_is_told() {
    let engine = engine_with_busybox();
    let _ = engine
        .sampan(&[
            "run",
            "-d",
            "--name",
            "one",
            "--restart",
            "on-failure:2",
            "busybox",
            "sh",
            "-c",
            "echo run; exit 3",
        ])
        .ok();
    until("it has ended for good", || {
        status(&engine, "one") == "exited"
    });
    assert_eq!(restarts(&engine, "one"), 2);
    let state = "{{.State.ExitCode}} {{.State.Running}} {{.State.Restarting}}";
    assert_eq!(inspect(&engine, "one", state), "3 false false");
    assert_eq!(engine.sampan(&["logs", "one"]).ok(), "run\nrun\nrun");
    let lives = ["start", "die"].repeat(3);
    assert_eq!(told(&engine, "one"), lives);
    // Success ends it.
    let _ = engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "good",
            "--restart",
            "on-failure",
            "busybox",
            "true",
        ])
        .ok();
    until("it has ended", || status(&engine, "good") == "exited");
    assert_eq!(restarts(&engine, "good"), 0);
}

#[test]
fn a_restarting_container_shows_so_and_can_be_stopped() {
    let engine = engine_with_busybox();
    let _ = engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "one",
            "--restart",
            "always",
            "busybox",
            "sh",
            "-c",
            "exit 1",
        ])
        .ok();
    // By then it waits for seconds.
    until("it waits for long", || {
        restarts(&engine, "one") >= 5 && status(&engine, "one") == "restarting"
    });
    let shown = engine
        .docker(&["ps", "--format", "{{.Status}} {{.State}}"])
        .ok();
    assert!(shown.starts_with("Restarting (1) "), "{shown}");
    assert!(shown.trim().ends_with(" ago restarting"), "{shown}");
    let state = "{{.State.Running}} {{.State.Restarting}} {{.State.Pid}} {{.State.ExitCode}}";
    assert_eq!(inspect(&engine, "one", state), "true true 0 1");
    let refused = engine.docker(&["exec", "one", "true"]).failed(1);
    assert!(
        refused.contains("is restarting, wait until the container is running"),
        "{refused}"
    );
    let refused = engine.docker(&["rm", "one"]).failed(1);
    assert!(refused.contains("container is restarting"), "{refused}");
    let _ = engine.docker(&["stop", "one"]).ok();
    assert_eq!(status(&engine, "one"), "exited");
    // A start by hand begins anew, and a removal by force ends it in any state.
    let _ = engine.docker(&["start", "one"]).ok();
    until("it waits again", || status(&engine, "one") == "restarting");
    let _ = engine.docker(&["rm", "-f", "one"]).ok();
}

#[test]
fn restarts_go_on_without_an_engine_into_the_same_place() {
    let mut engine = engine_with_busybox();
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:80");
    let serve = "echo $$ >> /count; echo up; exec httpd -f -p 80 -h /";
    let _ = engine
        .sampan(&[
            "run",
            "-d",
            "--name",
            "web",
            "--restart",
            "always",
            "-p",
            &publish,
            "busybox",
            "sh",
            "-c",
            serve,
        ])
        .ok();
    let address = "{{.NetworkSettings.Networks.bridge.IPAddress}}";
    let before = inspect(&engine, "web", address);
    let pid: i32 = inspect(&engine, "web", "{{.State.Pid}}").parse().unwrap();
    engine.kill_with_keeper();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // The shim has started it again: its port answers with two lines of the same file.
    until("it serves again", || {
        served(port).is_some_and(|text| text.lines().count() == 2)
    });
    engine.start_again();
    assert_eq!(status(&engine, "web"), "running");
    assert_eq!(restarts(&engine, "web"), 1);
    assert_eq!(inspect(&engine, "web", address), before);
    assert_eq!(told(&engine, "web"), ["start", "die", "start"]);
    assert_eq!(engine.sampan(&["logs", "web"]).ok(), "up\nup");
    // The next one with an engine that is killed meanwhile.
    crash(&engine, "web");
    engine.kill();
    until("it serves again", || {
        served(port).is_some_and(|text| text.lines().count() == 3)
    });
    until("the engine knows", || restarts(&engine, "web") == 2);
    until("it is told", || told(&engine, "web").len() == 5);
    assert_eq!(
        told(&engine, "web"),
        ["start", "die", "start", "die", "start"]
    );
    let _ = engine.sampan(&["exec", "web", "true"]).ok();
}

fn served(port: u16) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /count HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some(body.to_owned())
}

#[test]
fn who_was_stopped_stays_stopped_until_its_policy_says_otherwise() {
    let mut engine = engine_with_busybox();
    for policy in ["no", "always", "unless-stopped"] {
        for kind in ["stopped", "running"] {
            let name = format!("{policy}-{kind}");
            let _ = engine
                .docker(&[
                    "run",
                    "-d",
                    "--name",
                    &name,
                    "--restart",
                    policy,
                    "--stop-timeout",
                    "0",
                    "busybox",
                    "sleep",
                    "1000",
                ])
                .ok();
            if kind == "stopped" {
                let _ = engine.docker(&["stop", &name]).ok();
                assert_eq!(status(&engine, &name), "exited");
                assert_eq!(restarts(&engine, &name), 0);
            }
        }
    }
    // Another engine of the same session changes nothing.
    engine.kill();
    for (name, expected) in [("always-stopped", "exited"), ("always-running", "running")] {
        assert_eq!(status(&engine, name), expected, "{name}");
    }
    // A new session starts what should always run.
    engine.kill_with_keeper();
    engine.start_again();
    until("it is started", || {
        status(&engine, "always-stopped") == "running"
    });
    for (name, expected) in [
        ("no-stopped", "exited"),
        ("no-running", "running"),
        ("unless-stopped-stopped", "exited"),
        ("unless-stopped-running", "running"),
    ] {
        assert_eq!(status(&engine, name), expected, "{name}");
    }
}

#[test]
fn a_lost_supervisor_is_replaced_where_the_policy_says_so() {
    let engine = engine_with_busybox();
    let _ = engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "one",
            "--restart",
            "unless-stopped",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    let pid: i32 = inspect(&engine, "one", "{{.State.Pid}}").parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent = stat.rsplit(')').next().unwrap().split_whitespace().nth(1);
    let shim = rustix::process::Pid::from_raw(parent.unwrap().parse().unwrap()).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    until("another one runs it", || {
        status(&engine, "one") == "running"
            && inspect(&engine, "one", "{{.State.Pid}}") != pid.to_string()
    });
}

#[test]
fn policies_are_checked() {
    let engine = engine_with_busybox();
    for (policy, words) in [
        (
            "sometimes",
            "invalid restart policy: unknown policy 'sometimes'",
        ),
        (
            "always:3",
            "maximum retry count can only be used with 'on-failure'",
        ),
        (
            ":3",
            "invalid restart policy format: no policy provided before colon",
        ),
        ("on-failure:x", "maximum retry count must be an integer"),
    ] {
        for ran in [
            engine.docker(&["run", "--restart", policy, "busybox", "true"]),
            engine.sampan(&["run", "--restart", policy, "busybox", "true"]),
        ] {
            let told = ran.failed(125);
            assert!(told.contains(words), "{policy}: {told}");
        }
    }
    let told = engine
        .sampan(&["run", "--rm", "--restart", "always", "busybox", "true"])
        .failed(125);
    assert!(
        told.contains("cannot specify both --restart and --rm"),
        "{told}"
    );
}

#[test]
fn a_policy_and_limits_that_are_changed_hold_for_the_next_run() {
    let engine = engine_with_busybox();
    // Before Linux 6.15 a root can only be kept from the start.
    let policy = if sampan_kernel::requires::kernel_at_least(6, 15) {
        "no"
    } else {
        "on-failure"
    };
    let mut run = vec!["run", "-d", "--restart", policy, "--name", "one", "busybox"];
    run.extend(["sleep", "1000"]);
    let _ = engine.docker(&run).ok();
    let _ = engine
        .docker(&[
            "update",
            "--restart",
            "always",
            "-m",
            "64m",
            "--memory-swap",
            "64m",
            "one",
        ])
        .ok();
    crash(&engine, "one");
    until("it runs again", || {
        restarts(&engine, "one") == 1 && status(&engine, "one") == "running"
    });
    let files =
        "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null";
    let limit = engine.docker(&["exec", "one", "sh", "-c", files]);
    assert_eq!(limit.stdout.trim(), "67108864");
    let _ = engine.docker(&["update", "--restart", "no", "one"]).ok();
    crash(&engine, "one");
    until("it has ended", || status(&engine, "one") == "exited");
    assert_eq!(restarts(&engine, "one"), 1);
}
