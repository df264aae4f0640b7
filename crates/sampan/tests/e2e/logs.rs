//! The log driver `local`: records that are rotated and packed.

use std::process::Stdio;

use sampan_testing::until;

use crate::engine_with_busybox;

#[test]
fn the_local_driver_keeps_rotates_and_shows_logs() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let mut engine = engine_with_busybox();
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i + 1)); done; echo oops >&2; \
                  printf end; while [ ! -e /go ]; do sleep 0.1; done; echo; echo after";
    let flags = [
        "run",
        "-d",
        "--name",
        "one",
        "--log-driver",
        "local",
        "--log-opt",
        "max-size=20k",
        "--log-opt",
        "max-file=20",
    ];
    let words = [&flags[..], &["busybox", "sh", "-c", script]].concat();
    let id = engine.docker(&words).ok();
    let logs = |flags: &[&str]| engine.docker(&[&["logs"], flags, &["one"]].concat());
    until("all is written", || logs(&[]).stderr == "oops\n");
    let all = logs(&[]).stdout;
    assert!(
        all.starts_with("line 0\nline 1\n") && all.ends_with("line 2999\n"),
        "{all}"
    );
    assert_eq!(logs(&["--tail", "2"]).stdout, "line 2999\n");
    let place = engine
        .root()
        .join("containers")
        .join(&id)
        .join("local-logs");
    let mut names: Vec<String> = std::fs::read_dir(&place)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names[..3],
        ["container.log", "container.log.1.gz", "container.log.2.gz"]
    );

    // A client follows, and the engine is killed meanwhile.
    let mut follow = engine.command(&["logs", "-f", "--tail", "1", "one"]);
    let mut follow = follow.stdout(Stdio::null()).spawn().unwrap();
    engine.kill();
    until("another engine answers", || {
        engine.docker(&["ps"]).code == 0
    });
    let _ = engine.docker(&["exec", "one", "touch", "/go"]).ok();
    assert_eq!(engine.docker(&["wait", "one"]).ok(), "0");
    let _ = follow.wait().unwrap();
    assert!(logs(&[]).stdout.ends_with("line 2999\nend\nafter\n"));
    let until_now = logs(&["--until", "2100-01-01T00:00:00Z", "--timestamps"]).stdout;
    assert!(
        until_now.lines().next().unwrap().ends_with("Z line 0"),
        "{until_now}"
    );
    assert_eq!(logs(&["--since", "2100-01-01T00:00:00Z"]).stdout, "");
    let shown = engine.docker(&[
        "inspect",
        "-f",
        "{{.HostConfig.LogConfig.Type}}|{{.LogPath}}|",
        "one",
    ]);
    assert_eq!(shown.ok(), "local||");
    engine.kill_with_keeper();
    engine.start_again();
    let last = engine.docker(&["logs", "--tail", "1", "one"]).ok();
    assert!(last.ends_with("after"), "{last}");
    let _ = engine.docker(&["rm", "one"]).ok();
    for (option, words) in [
        (
            "mode=non-blocking",
            "unknown log opt 'mode' for log driver local",
        ),
        ("max-size=x", "invalid value for max-size"),
        ("max-file=0", "max-file cannot be less than 1"),
    ] {
        let flags = [
            "run",
            "--rm",
            "--log-driver",
            "local",
            "--log-opt",
            option,
            "busybox",
            "true",
        ];
        let said = engine.docker(&flags).failed(125);
        assert!(said.contains(words), "{said}");
    }
    engine.ledger().assert_no_container();
}

#[test]
fn a_follower_of_local_logs_sees_what_comes() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let flags = [
        "run",
        "-d",
        "--name",
        "one",
        "--log-driver",
        "local",
        "--log-opt",
        "max-size=1k",
    ];
    let count = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i + 1)); sleep 0.005; done";
    let _ = engine
        .docker(&[&flags[..], &["busybox", "sh", "-c", count]].concat())
        .ok();
    let mut follow = engine.docker_command(&["logs", "-f", "one"]);
    let followed = follow
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    let followed = String::from_utf8(followed.stdout).unwrap();
    let last: Vec<&str> = followed.lines().collect();
    assert_eq!(last[last.len() - 1], "line 199");
    let first: usize = last[0].trim_start_matches("line ").parse().unwrap();
    assert_eq!(last.len(), 200 - first);
    // An attached client is shown what was before.
    let attached = engine.docker(&["start", "-a", "one"]).ok();
    assert!(attached.ends_with("line 199"), "{attached}");
    let _ = engine.docker(&["rm", "one"]).ok();
}
