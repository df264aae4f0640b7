//! The engine is killed, again and again, at random moments.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sampan_testing::{TestEngine, free_port, until};

use crate::engine_with_busybox;

const ROUNDS: usize = 200;

/// A small generator of random numbers: the seed is printed, so that a failure
/// can be repeated.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seed = std::env::var("SAMPAN_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or(u64::from(now.subsec_nanos()) | 1);
        eprintln!("SAMPAN_TEST_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
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

#[test]
fn a_published_port_answers_at_every_moment_of_engines_that_come_and_go() {
    let engine = engine_with_busybox();
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:80");
    let serve = "echo served > /here; exec httpd -f -p 80 -h /";
    let run = ["run", "-d", "-p", &publish, "busybox", "sh", "-c", serve];
    let _ = engine.sampan(&run).ok();
    until("it serves", || answers(port));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut answered = 0;
            while !over.load(Ordering::Relaxed) {
                assert!(answers(port), "after {answered} answers");
                answered += 1;
            }
            answered
        });
        for _ in 0..8 {
            engine.kill();
            let _ = engine.sampan(&["ps"]).ok();
        }
        over.store(true, Ordering::Relaxed);
        assert!(client.join().unwrap() > 0);
    });
}

fn log_lines(engine: &TestEngine, name: &str) -> Vec<u64> {
    let text = engine.sampan(&["logs", name]).ok();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// `sampan events` from the first event on, over all kills.
struct News {
    listener: Child,
    heard: PathBuf,
}

impl News {
    fn follow(engine: &TestEngine) -> Self {
        let heard = engine.scratch().join("events");
        let listener = engine
            .command(&["events", "--since", "1", "--format", "{{json .}}"])
            .stdout(File::create(&heard).unwrap())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self { listener, heard }
    }

    fn all(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&self.heard).unwrap();
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// What was told of a container, with the exit code of its end.
    fn of(&self, name: &str) -> Vec<String> {
        let all = self.all().into_iter();
        all.filter(|event| event["Type"] == "container")
            .filter(|event| event["Actor"]["Attributes"]["name"] == name)
            .map(|event| match event["Action"].as_str().unwrap() {
                "die" => format!(
                    "die {}",
                    event["Actor"]["Attributes"]["exitCode"].as_str().unwrap()
                ),
                action => action.to_owned(),
            })
            .collect()
    }
}

impl Drop for News {
    fn drop(&mut self) {
        let _ = self.listener.kill();
        let _ = self.listener.wait();
    }
}

/// Whether this is a life from its begin to its end, whatever became of its start.
fn is_a_life(told: &[String]) -> bool {
    let told: Vec<_> = told.iter().filter(|action| *action != "kill").collect();
    match &told[..] {
        [] => true,
        [create, rest @ ..] if *create == "create" => match rest {
            [destroy] => *destroy == "destroy",
            [start, die, destroy] => {
                *start == "start" && die.starts_with("die ") && *destroy == "destroy"
            }
            _ => false,
        },
        _ => false,
    }
}

/// Starts what must not notice any kill: a web server, a counter of its own log lines, and an
/// attached client whose words come back.
fn start_lasting(engine: &TestEngine, port: u16) -> Child {
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
    let attached = engine
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
    attached
}

#[test]
fn containers_do_not_notice_two_hundred_kills() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let news = News::follow(&engine);
    let mut random = Random::new();
    let port = free_port();
    let mut attached = start_lasting(&engine, port);
    let mut lost = Vec::new();
    let mut started = Vec::new();
    for round in 0..ROUNDS {
        let code = 1 + random.below(100);
        let name = format!("exit{round}");
        let pause = random.below(30);
        let script = format!("echo {round}; sleep 0.0{pause}; exit {code}");
        let run: &[&str] = if round % 2 == 0 {
            &["run", "-d"]
        } else {
            &["run", "-d", "--rm"]
        };
        let run = [run, &["--name", &name, "busybox", "sh", "-c", &script]].concat();
        // Started before the kill, ends around it.
        let ran = engine.sampan(&run);
        std::thread::sleep(Duration::from_millis(random.below(40)));
        engine.kill();
        assert!(answers(port), "round {round}: the published port is gone");
        if ran.code != 0 {
            continue;
        }
        started.push((name.clone(), code));
        if round % 2 != 0 {
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
    assert!(started.len() > ROUNDS / 2, "{} started", started.len());
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
    engine.remove_all();
    until("the last news have come", || {
        news.of("counter")
            .last()
            .is_some_and(|last| last == "destroy")
    });
    for (name, code) in started {
        let whole = ["create", "start", &format!("die {code}"), "destroy"];
        assert_eq!(news.of(&name), whole, "{name}");
    }
    for round in 0..ROUNDS {
        let told = news.of(&format!("exit{round}"));
        assert!(is_a_life(&told), "round {round}: {told:?}");
    }
    let times: Vec<i64> = news
        .all()
        .iter()
        .map(|event| event["timeNano"].as_i64().unwrap())
        .collect();
    assert!(times.is_sorted_by(|a, b| a < b), "news out of order");
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
    assert_eq!(engine.sampan(&["volume", "ls", "-q"]).ok(), "");
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
