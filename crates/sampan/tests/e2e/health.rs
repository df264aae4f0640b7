//! Health checks: what they find, with an engine and without one.

use sampan_testing::{TestEngine, until};

use crate::engine_with_busybox;

fn health(engine: &TestEngine, name: &str) -> serde_json::Value {
    let told = engine
        .docker(&["inspect", "-f", "{{json .State.Health}}", name])
        .ok();
    serde_json::from_str(&told).unwrap()
}

fn status(engine: &TestEngine, name: &str) -> String {
    health(engine, name)["Status"]
        .as_str()
        .unwrap_or("null")
        .to_owned()
}

fn start(engine: &TestEngine, name: &str, flags: &[&str]) {
    let mut words = vec!["run", "-d", "--name", name];
    words.extend(flags);
    words.extend(["busybox", "sleep", "1000"]);
    let _ = engine.sampan(&words).ok();
}

#[test]
fn a_container_becomes_healthy_and_unhealthy_and_says_so() {
    let engine = engine_with_busybox();
    start(
        &engine,
        "one",
        &[
            "--health-cmd",
            "echo looked; test ! -e /sick",
            "--health-interval",
            "100ms",
            "--health-retries",
            "2",
        ],
    );
    assert!(
        engine.docker(&["ps"]).ok().contains("(health: starting)")
            || status(&engine, "one") == "healthy"
    );
    until("it is healthy", || status(&engine, "one") == "healthy");
    assert!(engine.docker(&["ps"]).ok().contains("(healthy)"));
    let found = health(&engine, "one");
    let last = found["Log"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["ExitCode"], 0);
    assert_eq!(last["Output"], "looked\n");
    let listed = |value: &str| {
        let filter = format!("health={value}");
        engine
            .docker(&["ps", "-q", "--filter", &filter])
            .ok()
            .lines()
            .count()
    };
    assert_eq!((listed("healthy"), listed("none")), (1, 0));
    let _ = engine.sampan(&["exec", "one", "touch", "/sick"]).ok();
    until("it is unhealthy", || status(&engine, "one") == "unhealthy");
    let found = health(&engine, "one");
    assert!(found["FailingStreak"].as_i64().unwrap() >= 2);
    until("five are remembered", || {
        health(&engine, "one")["Log"].as_array().unwrap().len() == 5
    });
    // Docker's client asks for whole seconds only.
    let events = engine
        .sampan(&[
            "events",
            "--since",
            "1",
            "--until",
            "0s",
            "--filter",
            "container=one",
            "--format",
            "{{.Action}}",
        ])
        .ok();
    let changes: Vec<_> = events
        .lines()
        .filter(|line| line.starts_with("health_status"))
        .collect();
    assert_eq!(
        changes,
        ["health_status: healthy", "health_status: unhealthy"]
    );
    for action in [
        "exec_create: /bin/sh -c echo looked; test ! -e /sick",
        "exec_start: /bin/sh -c echo looked; test ! -e /sick",
        "exec_die",
    ] {
        assert!(events.lines().any(|line| line == action), "{action}");
    }
}

#[test]
fn checks_go_on_without_an_engine_and_wait_while_frozen() {
    let mut engine = engine_with_busybox();
    let flags = [
        "--health-cmd",
        "echo x >> /checks",
        "--health-interval",
        "50ms",
    ];
    start(&engine, "one", &flags);
    let count = |engine: &TestEngine| {
        let text = engine.sampan(&["exec", "one", "cat", "/checks"]).stdout;
        text.lines().count()
    };
    until("some checks", || count(&engine) > 1);
    let upper = {
        let id = engine.docker(&["inspect", "-f", "{{.Id}}", "one"]).ok();
        engine
            .root()
            .join("containers")
            .join(id.trim())
            .join("upper/checks")
    };
    let length = || std::fs::metadata(&upper).map_or(0, |file| file.len());
    engine.kill_with_keeper();
    let before = length();
    until("more checks", || length() > before + 6);
    engine.start_again();
    assert_eq!(status(&engine, "one"), "healthy");
    let _ = engine.sampan(&["pause", "one"]).ok();
    assert_eq!(status(&engine, "one"), "healthy");
    let frozen = length();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(length(), frozen);
    let _ = engine.sampan(&["unpause", "one"]).ok();
    until("checks again", || length() > frozen);
    let _ = engine.sampan(&["stop", "-t", "0", "one"]).ok();
    assert_eq!(status(&engine, "one"), "unhealthy");
}

#[test]
fn slow_and_talkative_checks_are_cut_off() {
    let engine = engine_with_busybox();
    start(
        &engine,
        "slow",
        &[
            "--health-cmd",
            "echo begun; sleep 1000",
            "--health-interval",
            "50ms",
            "--health-timeout",
            "200ms",
            "--health-retries",
            "1",
        ],
    );
    until("it is unhealthy", || status(&engine, "slow") == "unhealthy");
    let found = health(&engine, "slow");
    assert_eq!(found["Log"][0]["ExitCode"], -1);
    let output = found["Log"][0]["Output"].as_str().unwrap();
    assert!(
        output.starts_with("Health check exceeded timeout (200ms)"),
        "{output}"
    );
    let flood = [
        "--health-cmd",
        "yes | head -c 100000",
        "--health-interval",
        "50ms",
    ];
    start(&engine, "flood", &flood);
    until("it is healthy", || status(&engine, "flood") == "healthy");
    let found = health(&engine, "flood");
    assert_eq!(found["Log"][0]["Output"].as_str().unwrap().len(), 4096 + 3);
    start(&engine, "never", &["--no-healthcheck"]);
    assert_eq!(status(&engine, "never"), "null");
    start(
        &engine,
        "missing",
        &[
            "--health-cmd",
            "/no/such/program",
            "--health-interval",
            "50ms",
            "--health-retries",
            "1",
        ],
    );
    until("it is unhealthy", || {
        status(&engine, "missing") == "unhealthy"
    });
}

#[test]
fn wrong_checks_are_refused() {
    let engine = engine_with_busybox();
    for (flags, words) in [
        (
            &["--health-interval", "-1s"][..],
            "--health-interval cannot be negative",
        ),
        (
            &["--health-interval", "10us"],
            "Interval in Healthcheck cannot be less than 1ms",
        ),
        (
            &["--health-retries", "-1"],
            "--health-retries cannot be negative",
        ),
        (
            &["--no-healthcheck", "--health-cmd", "true"],
            "--no-healthcheck conflicts with --health-* options",
        ),
    ] {
        let mut words_of = vec!["run"];
        words_of.extend(flags);
        words_of.extend(["busybox", "true"]);
        for ran in [engine.docker(&words_of), engine.sampan(&words_of)] {
            let told = ran.failed(125);
            assert!(told.contains(words), "{flags:?}: {told}");
        }
    }
}
