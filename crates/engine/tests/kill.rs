//! An engine in a process of its own that is killed at random moments.
#![allow(clippy::unwrap_used)] // a test that cannot go on ends

mod harness;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::{EngineExt, Host, SOON, abandon, assert_whole_lives, import, script};
use sampan_engine::{
    Config, Engine, ErrorKind, Lifecycle, NetworkMode, PortBinding, WaitCondition,
};

const DIRECTORY: &str = "SAMPAN_TEST_ENGINE_DIRECTORY";
const LINES: usize = 40;

/// Rounds of the test; the long run of CI sets more.
fn rounds() -> u32 {
    std::env::var("SAMPAN_KILL_ROUNDS").map_or(12, |text| text.parse().unwrap())
}

/// Not a test: what the child process does. It starts containers as fast as it can and says what
/// was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    let directory = std::path::PathBuf::from(directory);
    let config = Config::new(
        directory.join("root"),
        directory.join("run"),
        harness::shim().unwrap(),
    );
    let engine = Engine::open(config).await.unwrap();
    println!("ACK open");
    for code in (1..).map(|n| n % 100) {
        let text = format!(
            "i=0; while [ $i -lt {LINES} ]; do echo $i; i=$((i+1)); done; usleep {}; exit {code}",
            code * 3000
        );
        let mut request = script(&text);
        request.host.auto_remove = code % 5 == 0;
        if code % 3 == 0 {
            request.host.network_mode = NetworkMode::Default;
            request.host.port_bindings =
                BTreeMap::from([("80/tcp".parse().unwrap(), vec![PortBinding::default()])]);
        }
        let removed = request.host.auto_remove;
        let id = EngineExt::create(&engine, request).await;
        println!("ACK created {id} {code} {removed}");
        engine.containers().start(&id).await.unwrap();
        println!("ACK started {id} {code} {removed}");
        if code % 7 == 0 {
            let wait = engine
                .containers()
                .wait(&id, WaitCondition::NotRunning)
                .await
                .unwrap();
            assert_eq!(wait.outcome().await.unwrap().code, code);
        }
    }
}

/// Runs the child for so long and kills it; what it acknowledged.
fn run_and_kill(host: &Host, life: Duration) -> Vec<Vec<String>> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads", "1"])
        .env(DIRECTORY, host.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in output.lines() {
            let Ok(line) = line else { return };
            if let Some((_, words)) = line.split_once("ACK ")
                && sender
                    .send(words.split(' ').map(str::to_owned).collect::<Vec<_>>())
                    .is_err()
            {
                return;
            }
        }
    });
    let first = lines.recv_timeout(SOON).expect("the engine did not open");
    assert_eq!(first, ["open"]);
    std::thread::sleep(life);
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    lines.try_iter().collect()
}

async fn check(engine: &Engine, acknowledged: &[Vec<String>]) {
    for words in acknowledged {
        let [what, id, code, removed] = &words[..] else {
            panic!("{words:?}");
        };
        let (code, removed, started): (i32, bool, bool) = (
            code.parse().unwrap(),
            removed.parse().unwrap(),
            what == "started",
        );
        let outcome = match engine
            .containers()
            .wait(id, WaitCondition::NotRunning)
            .await
        {
            Ok(wait) => tokio::time::timeout(SOON, wait.outcome())
                .await
                .expect("still runs")
                .unwrap(),
            Err(error) => {
                assert!(
                    removed && error.kind() == ErrorKind::NotFound,
                    "{words:?}: {error}"
                );
                continue;
            }
        };
        let Ok(view) = engine.containers().inspect(id).await else {
            assert!(removed, "{words:?}");
            continue;
        };
        match &view.lifecycle {
            Lifecycle::Exited(ended) => {
                assert_eq!(
                    (ended.code, outcome.code),
                    (code, code),
                    "{words:?} {ended:?}"
                );
                if !removed {
                    let wanted: String = (0..LINES).map(|n| format!("{n}\n")).collect();
                    assert_eq!(engine.log(id).await, wanted, "{words:?}");
                }
            }
            Lifecycle::Created { failure: None } => assert!(!started, "{words:?}"),
            Lifecycle::Removing { .. } => assert!(removed, "{words:?}"),
            other => panic!("{words:?}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_engine_is_killed() {
    needs_host!();
    sampan_kernel::requires!(nftables);
    let host = Host::new();
    abandon(&host, async |engine| import(engine, "busybox", &[]).await);
    let mut seed = 0x9e37_79b9_u32;
    for round in 0..rounds() {
        // xorshift: no two rounds end at the same moment, and each run is the same.
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        let life = Duration::from_micros(u64::from(seed % 300_000));
        let began = jiff::Timestamp::now();
        let acknowledged = run_and_kill(&host, life);
        abandon(&host, async |engine| {
            let checking = Instant::now();
            check(engine, &acknowledged).await;
            println!(
                "round {round}: {} acknowledged in {life:?}, checked in {:?}",
                acknowledged.len(),
                checking.elapsed()
            );
            engine.remove_all().await;
            assert_whole_lives(engine, began);
            // While the engine is there: it may still be at the end of a container that removes
            // itself.
            host.assert_nothing_left();
        });
    }
}
