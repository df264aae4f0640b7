//! A person at a terminal: interactive runs, attach and detach, following logs.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use sampan_testing::{TestEngine, slowness, until};

use crate::engine_with_busybox;

/// Types `keys` into a command on a terminal of its own (script(1)) and
/// returns what the screen shows, and the exit code.
pub(crate) fn on_terminal(
    engine: &TestEngine,
    command: &str,
    keys: &[(&str, u64)],
) -> (String, i32) {
    let mut script = Command::new("script");
    engine.environment(&mut script);
    let mut child = script
        .args(["-qefc", command, "/dev/null"])
        .env("PATH", path_with_sampan())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for (text, pause) in keys {
        std::thread::sleep(Duration::from_millis(pause * slowness()));
        stdin.write_all(text.as_bytes()).unwrap();
        stdin.flush().unwrap();
    }
    let mut screen = Vec::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut screen)
        .unwrap();
    let code = child.wait().unwrap().code().unwrap();
    drop(stdin);
    (String::from_utf8_lossy(&screen).into_owned(), code)
}

fn path_with_sampan() -> String {
    let directory = std::path::Path::new(crate::SAMPAN).parent().unwrap();
    format!("{}:{}", directory.display(), std::env::var("PATH").unwrap())
}

#[test]
fn an_interactive_shell_echoes_and_returns_its_code() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    for client in ["sampan", "docker"] {
        let keys = [("tty && echo sum $((20+3))\n", 800), ("exit 6\n", 300)];
        let command = format!("{client} run --rm -it busybox sh");
        let (screen, code) = on_terminal(&engine, &command, &keys);
        assert!(screen.contains("sum 23"), "{client}: {screen}");
        assert!(screen.contains("/dev/pts/0"), "{client}: {screen}");
        assert_eq!(code, 6, "{client}: {screen}");
    }
}

#[test]
fn detach_keys_leave_the_container_running() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    for client in ["sampan", "docker"] {
        let keys = [("echo before\n", 800), ("\u{10}\u{11}", 300)];
        let command = format!("{client} run -it --name shell busybox sh");
        let (screen, code) = on_terminal(&engine, &command, &keys);
        assert!(screen.contains("before"), "{client}: {screen}");
        assert_eq!(code, 0, "{client}: {screen}");
        let running = engine
            .sampan(&["inspect", "-f", "{{.State.Running}}", "shell"])
            .ok();
        assert_eq!(running, "true");
        let keys = [("echo again\n", 500), ("exit 2\n", 300)];
        let (screen, code) = on_terminal(&engine, &format!("{client} attach shell"), &keys);
        assert!(screen.contains("again"), "{client}: {screen}");
        assert_eq!(code, 2, "{client}: {screen}");
        let _ = engine.sampan(&["rm", "shell"]).ok();
    }
}

#[test]
fn input_is_piped_through_and_its_end_is_seen() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let input: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let counted = engine.sampan_with_input(&["run", "--rm", "-i", "busybox", "wc", "-c"], &input);
    assert_eq!(counted.ok(), "3000000");
    let _ = engine
        .sampan(&["run", "-d", "--name", "box", "busybox", "sleep", "1000"])
        .ok();
    let counted = engine.sampan_with_input(&["exec", "-i", "box", "wc", "-c"], &input);
    assert_eq!(counted.ok(), "3000000");
}

#[test]
fn much_output_arrives_whole_and_in_the_log() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    let said = engine
        .sampan(&["run", "--name", "talker", "busybox", "sh", "-c", script])
        .ok();
    assert_eq!(said.lines().count(), 20_000);
    assert!(
        said.lines()
            .enumerate()
            .all(|(at, line)| line == format!("line {at}"))
    );
    assert_eq!(engine.sampan(&["logs", "talker"]).ok(), said);
    let last = engine.docker(&["logs", "--tail", "2", "talker"]).ok();
    assert_eq!(last, "line 19998\nline 19999");
}

#[test]
fn logs_are_followed_until_the_end() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let script = "for i in 1 2 3 4 5; do echo $i; sleep 0.2; done";
    let _ = engine
        .sampan(&["run", "-d", "--name", "slow", "busybox", "sh", "-c", script])
        .ok();
    let followed = engine.sampan(&["logs", "-f", "slow"]).ok();
    assert_eq!(followed, "1\n2\n3\n4\n5");
    assert_eq!(engine.docker(&["logs", "-f", "slow"]).ok(), "1\n2\n3\n4\n5");
    let stamped = engine.sampan(&["logs", "-t", "--tail", "1", "slow"]).ok();
    assert!(
        stamped.starts_with("20") && stamped.ends_with("Z 5"),
        "{stamped}"
    );
    assert_eq!(
        engine
            .sampan(&["logs", "--since", "1h", "--until", "1h", "slow"])
            .ok(),
        ""
    );
}

#[test]
fn signals_reach_the_container() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let script = "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = engine
        .command(&["run", "--rm", "busybox", "sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut ready = [0; 6];
    stdout.read_exact(&mut ready).unwrap();
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "got it\n");
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn events_tell_the_story_of_a_run() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let _ = engine
        .sampan(&["run", "--rm", "--name", "tale", "busybox", "true"])
        .ok();
    let story = |client: &dyn Fn(&[&str]) -> sampan_testing::Ran| {
        let until = since + 3600;
        let (since, until) = (since.to_string(), until.min(since + 2).to_string());
        std::thread::sleep(Duration::from_secs(2));
        let arguments = [
            "events",
            "--since",
            &since,
            "--until",
            &until,
            "--filter",
            "type=container",
            "--format",
            "{{.Action}}",
        ];
        client(&arguments).ok()
    };
    let expected = "create\nattach\nstart\ndie\ndestroy";
    assert_eq!(story(&|arguments| engine.sampan(arguments)), expected);
    assert_eq!(story(&|arguments| engine.docker(arguments)), expected);
}

#[test]
fn the_end_of_the_first_process_ends_all() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let _ = engine
        .sampan(&["run", "-d", "--name", "box", "busybox", "sleep", "1"])
        .ok();
    let _ = engine
        .sampan(&["exec", "-d", "box", "sleep", "100000"])
        .ok();
    let strays = "(setsid sleep 100000 &) ; (nohup sleep 100000 >/dev/null 2>&1 &); sleep 100000";
    let _ = engine
        .sampan(&["exec", "-d", "box", "sh", "-c", strays])
        .ok();
    assert_eq!(engine.sampan(&["wait", "box"]).ok(), "0");
    let _ = engine.sampan(&["rm", "box"]).ok();
    engine.ledger().assert_no_container();
}

#[test]
fn an_init_reaps_the_orphans() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let orphan = "(sh -c 'sleep 0.1 & exit 0'); sleep 1000";
    for (flags, zombies) in [(&["--init"][..], "0"), (&[], "1")] {
        let arguments = [
            &["run", "-d", "--name", "box"],
            flags,
            &["busybox", "sh", "-c", orphan],
        ]
        .concat();
        let _ = engine.sampan(&arguments).ok();
        let count = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l";
        until(&format!("{zombies} zombies with {flags:?}"), || {
            std::thread::sleep(Duration::from_millis(300));
            engine.sampan(&["exec", "box", "sh", "-c", count]).ok() == zombies
        });
        let _ = engine.sampan(&["rm", "-f", "box"]).ok();
    }
}
