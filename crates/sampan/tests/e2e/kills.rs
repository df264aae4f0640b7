//! The engine is killed, again and again, at random moments.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sampan_testing::{TestEngine, free_port, until};

use crate::engine_with_busybox;

const ROUNDS: usize = 200;

/// A small generator of random numbers: the seed is printed, so that a failure
/// can be repeated.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seed = std::env::var("SAMPAN_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or(u64::from(now.subsec_nanos()) | 1);
        eprintln!("SAMPAN_TEST_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let mut answer = String::new();
    stream.write_all(b"GET /here HTTP/1.0\r\n\r\n").is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.ends_with("served\n")
}

fn log_lines(engine: &TestEngine, name: &str) -> Vec<u64> {
    let text = engine.sampan(&["logs", name]).ok();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

#[test]
#[ignore = "takes over five minutes with an unoptimised engine: run it by name"]
fn containers_do_not_notice_two_hundred_kills() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let mut random = Random::new();
    let port = free_port();
    let serve = "mkdir /www; echo served > /www/here; exec httpd -f -p 80 -h /www";
    let publish = format!("127.0.0.1:{port}:80");
    let _ = engine
        .sampan(&[
            "run", "-d", "--name", "web", "-p", &publish, "busybox", "sh", "-c", serve,
        ])
        .ok();
    let count = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done";
    let _ = engine
        .sampan(&[
            "run", "-d", "--name", "counter", "busybox", "sh", "-c", count,
        ])
        .ok();
    // Attached from the first kill to the last: it must not notice either.
    let mut attached = engine
        .command(&["run", "--rm", "-i", "--name", "echo", "busybox", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    until("the web server answers", || answers(port));
    until("cat runs", || {
        engine
            .sampan(&["ps", "-q", "--filter", "name=echo"])
            .stdout
            .len()
            > 1
    });
    let mut lost = Vec::new();
    for round in 0..ROUNDS {
        let code = 1 + random.below(100);
        let name = format!("exit{round}");
        let pause = random.below(30);
        let script = format!("echo {round}; sleep 0.0{pause}; exit {code}");
        // Started before the kill, ends around it.
        let started =
            engine.sampan(&["run", "-d", "--name", &name, "busybox", "sh", "-c", &script]);
        std::thread::sleep(Duration::from_millis(random.below(40)));
        engine.kill();
        assert!(answers(port), "round {round}: the published port is gone");
        if started.code != 0 {
            continue;
        }
        // The next command finds a new engine behind the same socket.
        let waited = engine.sampan(&["wait", &name]);
        let seen = (
            waited.stdout.trim().to_owned(),
            engine.sampan(&["logs", &name]).stdout,
        );
        if seen != (code.to_string(), format!("{round}\n")) {
            lost.push((round, code, waited, seen.1));
        }
        let removed = engine.sampan(&["rm", &name]);
        assert_eq!(removed.code, 0, "{removed:?}");
    }
    assert!(lost.is_empty(), "lost: {lost:#?}");
    let numbers = log_lines(&engine, "counter");
    assert!(numbers.len() > ROUNDS / 2);
    assert!(
        numbers.iter().enumerate().all(|(at, n)| at as u64 == *n),
        "the log has a hole"
    );
    let mut stdin = attached.stdin.take().unwrap();
    stdin.write_all(b"still here\n").unwrap();
    drop(stdin);
    let mut said = String::new();
    attached
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said, "still here\n");
    assert_eq!(attached.wait().unwrap().code(), Some(0));
}

#[test]
fn a_kill_in_the_middle_of_commands_leaves_nothing_half_made() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let mut random = Random::new();
    for _ in 0..40 {
        let mut child = engine
            .command(&[
                "run",
                "--rm",
                "-p",
                "0:80",
                "-v",
                "/anonymous",
                "busybox",
                "true",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(random.below(25_000)));
        engine.kill();
        child.wait().unwrap();
    }
    // Whatever was created and not started is there to be removed.
    engine.remove_all();
    engine.ledger().assert_no_container();
    assert_eq!(
        engine
            .sampan(&["run", "--rm", "busybox", "echo", "well"])
            .ok(),
        "well"
    );
}

#[test]
fn the_socket_answers_while_engines_come_and_go() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let deadline = Instant::now() + Duration::from_secs(4);
    let mut asked = 0;
    while Instant::now() < deadline {
        engine.kill();
        let shown = engine.sampan(&["images", "-q"]);
        assert_eq!(shown.code, 0, "{shown:?}");
        asked += 1;
    }
    assert!(asked > 3);
}
