//! Engines that fail or die at any step, and what the next one makes of it.

#![allow(clippy::unwrap_used)] // a test that cannot go on ends

mod harness;

use std::collections::BTreeMap;
use std::time::Duration;

use harness::{EngineExt, Host, SOON, abandon, assert_whole_lives, import, lives, script};
use jiff::Timestamp;
use sampan_engine::{
    CreateContainer, Engine, ErrorKind, Failure, ListOptions, NetworkMode, PortBinding, Status,
    WaitCondition,
};

const STEPS: [&str; 9] = [
    "start:begin",
    "start:shim",
    "start:root",
    "start:network",
    "start:prepared",
    "start:recorded",
    "start:launch",
    "start:launched",
    "start:end",
];

fn full(text: &str) -> CreateContainer {
    let mut request = script(text);
    request.host.network_mode = NetworkMode::Default;
    request.host.port_bindings =
        BTreeMap::from([("80/tcp".parse().unwrap(), vec![PortBinding::default()])]);
    request.host.binds = vec!["vol:/data".parse().unwrap()];
    request
}

async fn all(engine: &Engine) -> Vec<sampan_engine::ContainerView> {
    let options = ListOptions {
        all: true,
        ..ListOptions::default()
    };
    engine.containers().list(options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_at_any_step_of_start_leaves_nothing() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    host.fail_points.arm("none", Failure::Error);
    engine.run(full("true")).await;
    assert_eq!(
        host.fail_points.seen().len(),
        STEPS.len(),
        "{:?}",
        host.fail_points.seen()
    );
    engine.remove_all().await;
    for step in STEPS {
        let id = EngineExt::create(&engine, full("exec sleep 100")).await;
        host.fail_points.arm(step, Failure::Error);
        let error = engine.containers().start(&id).await.unwrap_err();
        assert_eq!(error.message(), format!("failure injected at step {step}"));
        let view = engine.containers().inspect(&id).await.unwrap();
        assert!(!view.lifecycle.is_running(), "{step}: {:?}", view.lifecycle);
        // It can be started afterwards: nothing of it is in its own way.
        engine.containers().start(&id).await.unwrap();
        engine.containers().kill(&id, None).await.unwrap();
        engine.remove_all().await;
        host.assert_nothing_left();
    }
    assert_whole_lives(&engine, Timestamp::UNIX_EPOCH);
}

/// Has an engine prepare starts.
async fn warm_up(engine: &Engine) {
    engine.run(full("true")).await;
    engine.remove_all().await;
    let deadline = tokio::time::Instant::now() + SOON;
    while engine.containers().prepared_starts() == 0 {
        assert!(tokio::time::Instant::now() < deadline, "none is prepared");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_at_any_step_of_a_prepared_start_leaves_nothing() {
    needs_host!();
    let host = Host::with_slots(2);
    abandon(&host, async |engine| import(engine, "busybox", &[]).await);
    for step in STEPS {
        let engine = host.open().await;
        warm_up(&engine).await;
        let id = EngineExt::create(&engine, full("exec sleep 100")).await;
        assert!(host.run().join("shims").join(&id).exists(), "{step}");
        host.fail_points.arm(step, Failure::Error);
        let error = engine.containers().start(&id).await.unwrap_err();
        assert_eq!(error.message(), format!("failure injected at step {step}"));
        engine.containers().start(&id).await.unwrap();
        engine.containers().kill(&id, None).await.unwrap();
        engine.remove_all().await;
        engine.close().await;
        host.assert_nothing_left();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_start_that_nobody_makes_is_taken_back() {
    needs_host!();
    let host = Host::with_slots(2);
    let engine = host.with_busybox().await;
    warm_up(&engine).await;
    // Its name is taken, its image is not there, or it never starts.
    let mut named = full("true");
    named.name = Some("box".into());
    let id = EngineExt::create(&engine, named.clone()).await;
    let second = engine.containers().create(named.clone()).await;
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Conflict);
    let removed = EngineExt::create(&engine, full("true")).await;
    let gone = engine.containers().inspect(&removed).await.unwrap();
    let options = sampan_engine::RemoveOptions::default();
    engine.containers().remove(&removed, options).await.unwrap();
    let place = host.run().join("shims").join(gone.id.as_str());
    assert!(!place.exists(), "{}", place.display());
    let place = host.run().join("shims").join(&id);
    let deadline = tokio::time::Instant::now() + SOON;
    while place.exists() {
        assert!(tokio::time::Instant::now() < deadline, "it keeps its slot");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    engine.containers().start(&id).await.unwrap();
    assert_eq!(engine.wait_end(&id).await.code, 0);
    engine.remove_all().await;
    engine.close().await;
    host.assert_nothing_left();
}

/// The processes that have a word among their arguments.
fn processes_with(word: &str) -> Vec<rustix::process::Pid> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line.split(|b| *b == 0).any(|part| part == word.as_bytes())
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(rustix::process::Pid::from_raw)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_prepared_and_is_gone_is_made_anew() {
    needs_host!();
    let host = Host::with_slots(2);
    let engine = host.with_busybox().await;
    let reach = "set -- $(ip route | head -1); exec ping -c 1 -W 3 $3";
    warm_up(&engine).await;
    for shim in std::fs::read_dir(host.run().join("shims")).unwrap() {
        for pid in processes_with(shim.unwrap().file_name().to_str().unwrap()) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
    let (code, said) = engine.run(full(reach)).await;
    assert_eq!(code, 0, "{said}");
    engine.remove_all().await;
    warm_up(&engine).await;
    let members = format!("/sys/class/net/{}/brif", host.instance());
    for interface in std::fs::read_dir(members).unwrap().flatten() {
        let mut remove = std::process::Command::new("ip");
        remove.args(["link", "del"]).arg(interface.file_name());
        // One that was about to be removed anyway may be gone.
        let _ = remove.output().unwrap();
    }
    let (code, said) = engine.run(full(reach)).await;
    assert_eq!(code, 0, "{said}");
    engine.remove_all().await;
    engine.close().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_is_closed_takes_prepared_starts_with_it() {
    needs_host!();
    let host = Host::with_slots(3);
    let engine = host.with_busybox().await;
    warm_up(&engine).await;
    let id = EngineExt::create(&engine, full("true")).await;
    assert!(host.run().join("shims").join(&id).exists());
    engine.close().await;
    let left = std::fs::read_dir(host.run().join("shims")).unwrap().count();
    assert_eq!(left, 0);
    let bridge = format!("/sys/class/net/{}", host.instance());
    assert!(!std::path::Path::new(&bridge).exists());
    for hierarchy in sampan_cgroups::Hierarchies::detect().unwrap().all() {
        let parent = hierarchy.mount_point.join(host.instance());
        assert!(!parent.exists(), "{}", parent.display());
    }
    drop(engine);
    let engine = host.open().await;
    engine.remove_all().await;
    engine.close().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_starts_of_a_dead_engine_are_swept_up() {
    needs_host!();
    let host = Host::with_slots(3);
    let created = abandon(&host, async |engine| {
        import(engine, "busybox", &[]).await;
        warm_up(engine).await;
        EngineExt::create(engine, full("echo said")).await
    });
    let engine = host.open().await;
    engine.containers().start(&created).await.unwrap();
    assert_eq!(engine.wait_end(&created).await.code, 0);
    assert_eq!(engine.log(&created).await, "said\n");
    engine.remove_all().await;
    engine.close().await;
    host.assert_nothing_left();
}

fn abandon_start(host: &Host, step: &'static str, auto_remove: bool, warm: bool) {
    abandon(host, async |engine| {
        if warm {
            warm_up(engine).await;
        }
        let mut request = full("echo said; exec sleep 100");
        request.host.auto_remove = auto_remove;
        request.name = Some(format!("c{}", step.replace(':', "_")));
        let id = EngineExt::create(engine, request).await;
        host.fail_points.arm(step, Failure::Hang);
        let _ =
            tokio::time::timeout(Duration::from_millis(700), engine.containers().start(&id)).await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_gone_at_any_step_of_start_is_made_up_for_by_the_next() {
    needs_host!();
    made_up_for(&Host::new(), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_gone_at_any_step_of_a_prepared_start_is_made_up_for_by_the_next() {
    needs_host!();
    made_up_for(&Host::with_slots(2), true).await;
}

async fn made_up_for(host: &Host, warm: bool) {
    abandon(host, async |engine| import(engine, "busybox", &[]).await);
    for step in STEPS {
        for auto_remove in [false, true] {
            abandon_start(host, step, auto_remove, warm);
            let engine = host.open().await;
            let name = format!("c{}", step.replace(':', "_"));
            match engine.containers().inspect(&name).await {
                Ok(view) if view.lifecycle.is_running() => {
                    assert_eq!(
                        engine.exec(&name, &["echo", "hi"]).await,
                        (Some(0), "hi\n".into()),
                        "{step}"
                    );
                    assert_eq!(engine.log(&name).await, "said\n");
                    engine.containers().kill(&name, None).await.unwrap();
                }
                Ok(view) => {
                    let status = view.lifecycle.status();
                    assert!(
                        matches!(status, Status::Created | Status::Exited),
                        "{step}: {status:?}"
                    );
                }
                Err(error) => assert!(
                    auto_remove && error.kind() == ErrorKind::NotFound,
                    "{step}: {error}"
                ),
            }
            engine.remove_all().await;
            host.assert_nothing_left();
            assert_whole_lives(&engine, Timestamp::UNIX_EPOCH);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_outlive_their_engine() {
    needs_host!();
    let host = Host::new();
    let (lasting, ending, removed, before) = abandon(&host, async |engine| {
        import(engine, "busybox", &[]).await;
        let mut lasting = full("i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done");
        lasting.name = Some("lasting".into());
        let lasting = engine.start_new(lasting).await;
        let mut ending = script("sleep 0.4; echo bye; exit 9");
        ending.name = Some("ending".into());
        let ending = engine.start_new(ending).await;
        let mut removed = script("sleep 0.4; exit 3");
        removed.host.auto_remove = true;
        let removed = engine.start_new(removed).await;
        let before = engine.containers().inspect(&lasting).await.unwrap();
        (lasting, ending, removed, before)
    });
    tokio::time::sleep(Duration::from_millis(800)).await;
    let began = std::time::Instant::now();
    let engine = host.open().await;
    println!("opened in {:?}", began.elapsed());
    let after = engine.containers().inspect(&lasting).await.unwrap();
    assert_eq!(after.lifecycle, before.lifecycle);
    assert_eq!(after.network, before.network);
    let view = engine.containers().inspect(&ending).await.unwrap();
    let ended = view.lifecycle.last().unwrap();
    assert_eq!((view.lifecycle.status(), ended.code), (Status::Exited, 9));
    assert_eq!(engine.log(&ending).await, "bye\n");
    assert_eq!(
        engine
            .containers()
            .inspect(&removed)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::NotFound
    );
    // The end that nobody saw was told, with its own time.
    let mut events = engine.events().subscribe(Some(ended.finished_at.unwrap()));
    let told = std::iter::from_fn(|| events.try_next())
        .find(|event| event.actor == ending)
        .unwrap();
    assert_eq!(told.at, ended.finished_at.unwrap());
    assert_eq!(told.attributes["exitCode"], "9");
    // The address and the port are still known to be taken.
    let other = engine.start_new(full("exec sleep 100")).await;
    let other = engine.containers().inspect(&other).await.unwrap();
    assert_ne!(
        other.network.endpoints["bridge"].address,
        before.network.endpoints["bridge"].address
    );
    assert_ne!(other.network.ports, before.network.ports);
    let wait = engine
        .containers()
        .wait(&lasting, WaitCondition::NextExit)
        .await
        .unwrap();
    engine.containers().kill(&lasting, None).await.unwrap();
    assert_eq!(
        tokio::time::timeout(SOON, wait.outcome())
            .await
            .unwrap()
            .unwrap()
            .code,
        137
    );
    let log = engine.log(&lasting).await;
    let numbers: Vec<u32> = log.lines().map(|line| line.parse().unwrap()).collect();
    assert!(
        numbers.iter().copied().eq(0..numbers.len() as u32),
        "{numbers:?}"
    );
    engine.remove_all().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happened_without_an_engine_is_told_by_the_next_one() {
    needs_host!();
    let host = Host::new();
    let id = abandon(&host, async |engine| {
        import(engine, "busybox", &[]).await;
        let mut request = script("exec sleep 1000");
        request.name = Some("box".into());
        let id = engine.start_new(request).await;
        for command in [["sleep", "0.3"], ["sleep", "1000"]] {
            let config = sampan_engine::ExecConfig {
                cmd: command.map(str::to_owned).into(),
                ..sampan_engine::ExecConfig::default()
            };
            let exec = engine.containers().exec_create(&id, config).await.unwrap();
            let options = sampan_engine::ExecStartOptions::default();
            let starter = engine
                .containers()
                .exec_start(exec.as_str(), options)
                .await
                .unwrap();
            starter.detached().await.unwrap();
        }
        id
    });
    tokio::time::sleep(Duration::from_millis(800)).await;
    let so_far = [
        "create",
        "start",
        "exec_create: sleep 0.3",
        "exec_start: sleep 0.3",
        "exec_create: sleep 1000",
        "exec_start: sleep 1000",
        "exec_die",
    ];
    // Told once, however often engines come and go.
    for _ in 0..3 {
        abandon(&host, async |engine| {
            assert_eq!(lives(engine, Timestamp::UNIX_EPOCH)[&id], so_far);
        });
    }
    abandon(&host, async |engine| {
        let wait = engine
            .containers()
            .wait(&id, WaitCondition::NotRunning)
            .await
            .unwrap();
        engine.containers().kill(&id, None).await.unwrap();
        wait.outcome().await.unwrap();
        let told = lives(engine, Timestamp::UNIX_EPOCH);
        let rest: Vec<&str> = told[&id][so_far.len()..]
            .iter()
            .map(String::as_str)
            .collect();
        assert_eq!(rest, ["kill", "exec_die", "die"]);
    });
    let engine = host.open().await;
    assert_eq!(
        lives(&engine, Timestamp::UNIX_EPOCH)[&id].len(),
        so_far.len() + 3
    );
    engine.remove_all().await;
    assert_whole_lives(&engine, Timestamp::UNIX_EPOCH);
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_is_lost_is_no_reason_to_tell_old_news() {
    needs_host!();
    let host = Host::new();
    let id = abandon(&host, async |engine| {
        import(engine, "busybox", &[]).await;
        engine.run(script("true")).await;
        engine.start_new(script("exec sleep 1000")).await
    });
    std::fs::remove_dir_all(host.root().join("events")).unwrap();
    let engine = host.open().await;
    assert!(lives(&engine, Timestamp::UNIX_EPOCH).is_empty());
    engine.containers().kill(&id, None).await.unwrap();
    assert_eq!(lives(&engine, Timestamp::UNIX_EPOCH)[&id], ["kill", "die"]);
    engine.remove_all().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_that_is_killed_is_noticed() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    let id = engine.start_new(full("exec sleep 100")).await;
    let pid = engine
        .containers()
        .inspect(&id)
        .await
        .unwrap()
        .lifecycle
        .run()
        .unwrap()
        .pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim: i32 = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .and_then(|pid| pid.trim().parse().ok())
        .unwrap();
    let shim = rustix::process::Pid::from_raw(shim).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    assert_eq!(engine.wait_end(&id).await.code, 255);
    engine.remove_all().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_records_are_set_aside() {
    needs_host!();
    let host = Host::new();
    let (good, bad) = abandon(&host, async |engine| {
        import(engine, "busybox", &[]).await;
        let good = EngineExt::create(engine, script("true")).await;
        (good, EngineExt::create(engine, script("true")).await)
    });
    let record = host
        .root()
        .join("containers")
        .join(&bad)
        .join("record.json");
    std::fs::write(&record, b"{\"format\":1,").unwrap();
    std::fs::create_dir(host.root().join("containers").join("f".repeat(64))).unwrap();
    std::fs::create_dir_all(host.root().join("trash/old/dir")).unwrap();
    let engine = host.open().await;
    let views = all(&engine).await;
    assert_eq!(views.len(), 1);
    assert_eq!(views[0].id.as_str(), good);
    assert!(record.with_file_name("record.json.damaged").exists());
    engine.remove_all().await;
    std::fs::remove_dir_all(record.parent().unwrap()).unwrap();
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_engine_on_the_same_root_is_refused() {
    needs_host!();
    let host = Host::new();
    let engine = host.open().await;
    let config = sampan_engine::Config::new(host.root(), host.run(), harness::shim().unwrap());
    let error = Engine::open(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    drop(engine);
}
