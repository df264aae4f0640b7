//! What an engine holds does not grow with what it has done. Alone in its process, whose
//! descriptors are counted.
#![allow(clippy::unwrap_used)] // a test that cannot go on ends

mod harness;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use harness::{EngineExt, Host, SOON, attach_all, client, read_frames, script};
use sampan_engine::{Engine, ExecConfig, LogOptions, NetworkMode, PortBinding};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn children() -> usize {
    let all = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    all.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default())
        .map(|text| text.split_whitespace().count())
        .sum()
}

/// Everything that takes a descriptor or a task: ports, clients, execs, logs, a failed start.
async fn one_of_each(engine: &Engine) {
    let mut request = script("echo out; exec cat");
    request.config.open_stdin = true;
    request.config.stdin_once = true;
    request.host.network_mode = NetworkMode::Default;
    request.host.port_bindings =
        BTreeMap::from([("80/tcp".parse().unwrap(), vec![PortBinding::default()])]);
    let id = EngineExt::create(engine, request).await;
    let (ours, theirs) = client();
    let attachment = engine.containers().attach(&id, attach_all()).await.unwrap();
    attachment.connect(theirs).await.unwrap();
    engine.containers().start(&id).await.unwrap();
    assert_eq!(engine.exec(&id, &["echo", "hi"]).await.1, "hi\n");
    assert_eq!(engine.exec(&id, &["nothere"]).await.0, Some(127));
    for _ in 0..20 {
        // Made and never started.
        let config = ExecConfig {
            cmd: vec!["true".into()],
            ..ExecConfig::default()
        };
        engine.containers().exec_create(&id, config).await.unwrap();
    }
    let options = LogOptions {
        follow: true,
        stdout: true,
        stderr: true,
        ..LogOptions::default()
    };
    for _ in 0..3 {
        let mut logs = engine
            .containers()
            .logs(&id, options.clone())
            .await
            .unwrap();
        logs.entries.next().await.unwrap().unwrap();
    }
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_frames(ours).await, "out\n");
    assert_eq!(engine.wait_end(&id).await.code, 0);
    let failed = EngineExt::create(engine, harness::command(&["nothere"])).await;
    engine.containers().start(&failed).await.unwrap_err();
    engine.remove_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptors_and_processes_do_not_grow() {
    needs_host!();
    sampan_kernel::requires!(nftables);
    let host = Host::new();
    let engine = host.with_busybox().await;
    for _ in 0..3 {
        one_of_each(&engine).await;
    }
    host.assert_nothing_left();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = descriptors();
    for _ in 0..25 {
        one_of_each(&engine).await;
    }
    host.assert_nothing_left();
    let deadline = Instant::now() + SOON;
    // The pool of namespaces refills itself, and the last zombies are fetched.
    while descriptors() > before + 8 || children() > 0 {
        assert!(
            Instant::now() < deadline,
            "{before} descriptors before, {} after; {} children",
            descriptors(),
            children()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}
