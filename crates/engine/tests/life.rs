//! The life of a container without network, on the real host.

#![allow(clippy::unwrap_used)] // a test that cannot go on ends

mod harness;

use std::io::Write;
use std::time::Duration;

use harness::{
    EngineExt, Host, SOON, actions, attach_all, client, command, read_frames, read_to_end, script,
};
use sampan_engine::{
    ContainerConfig, CreateContainer, Error, ErrorKind, ExecConfig, HostConfig, LogOptions,
    RemoveOptions, RemoveRunning, Status, StopOptions, StopTimeout, WaitCondition,
};

fn code(result: Result<(), Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_and_output_are_the_containers_own() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    for (text, wanted) in [
        ("echo out; echo err >&2; exit 0", 0),
        ("exit 42", 42),
        ("sh -c 'kill -9 $$'; exit $?", 137),
        ("sh -c 'kill -15 $$'; exit $?", 143),
    ] {
        assert_eq!(engine.run(script(text)).await.0, wanted, "{text}");
    }
    let (_, log) = engine.run(script("echo out; printf unfinished")).await;
    assert_eq!(log, "out\nunfinished");
    // Two pipes have no common order: only what is in each is known.
    let (_, log) = engine.run(script("echo err >&2; echo out")).await;
    assert!(
        ["err\nout\n", "out\nerr\n"].contains(&log.as_str()),
        "{log:?}"
    );
    engine.remove_all().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_cannot_be_run_say_so() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    for (word, wanted, words) in [
        ("nothere", 127, "executable file not found in $PATH"),
        ("/not/there", 127, "no such file or directory"),
        ("/bin/notexec", 126, "permission denied"),
        ("/etc", 126, "is a directory"),
    ] {
        let id = EngineExt::create(&engine, command(&[word])).await;
        let error = engine.containers().start(&id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{word}");
        assert!(
            error.message().contains(words),
            "{word}: {}",
            error.message()
        );
        let view = engine.containers().inspect(&id).await.unwrap();
        assert_eq!(view.lifecycle.status(), Status::Created);
        assert_eq!(view.lifecycle.last().unwrap().code, wanted, "{word}");
    }
    // One that is removed at its end is removed when it cannot even start.
    let mut request = command(&["nothere"]);
    request.host.auto_remove = true;
    let id = EngineExt::create(&engine, request).await;
    let wait = engine
        .containers()
        .wait(&id, WaitCondition::Removed)
        .await
        .unwrap();
    engine.containers().start(&id).await.unwrap_err();
    assert_eq!(wait.outcome().await.unwrap().code, 127);
    engine.remove_all().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configuration_reaches_the_process() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    let mut request = script(
        "id -u; id -g; pwd; hostname; echo $A-$PATH; ulimit -n; ls /proc/self/fd | head -c 6",
    );
    request.config.user = "boat".into();
    request.config.working_dir = "/new/dir".into();
    request.config.hostname = "harbour".into();
    request.config.env = vec!["A=b c".into(), "PATH=/bin".into()];
    request.host.resources.ulimits = vec![sampan_engine::Ulimit {
        name: "nofile".into(),
        soft: 100,
        hard: 200,
    }];
    let (code, log) = engine.run(request).await;
    assert_eq!(
        (code, log.as_str()),
        (0, "1000\n1000\n/new/dir\nharbour\nb c-/bin\n100\n0\n1\n2\n")
    );
    let mut request = script(
        "grep -c . /proc/self/status; grep Cap /proc/self/status; grep -E 'Seccomp:|NoNewPrivs' /proc/self/status",
    );
    request.host.cap_drop = vec!["ALL".into()];
    request.host.cap_add = vec!["CHOWN".into()];
    request.host.security_opt = vec!["no-new-privileges".into()];
    let (_, log) = engine.run(request).await;
    assert!(log.contains("CapEff:\t0000000000000001"), "{log}");
    assert!(log.contains("CapInh:\t0000000000000000"), "{log}");
    assert!(log.contains("NoNewPrivs:\t1"), "{log}");
    assert!(log.contains("Seccomp:\t2"), "{log}");
    let mut request =
        script("touch /x 2>&1; touch /run-me/x && echo wrote; df /dev/shm | grep -c 1024");
    request.host.readonly_rootfs = true;
    request.host.shm_size = 1 << 20;
    request
        .host
        .tmpfs
        .insert("/run-me".into(), "size=1m".into());
    let (_, log) = engine.run(request).await;
    assert!(
        log.contains("Read-only file system") && log.contains("wrote\n1\n"),
        "{log}"
    );
    engine.remove_all().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auto_remove_removes_and_tells_the_code() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    let mut events = engine.events().subscribe(None);
    let mut request = script("exit 7");
    request.host.auto_remove = true;
    let id = EngineExt::create(&engine, request).await;
    let wait = engine
        .containers()
        .wait(&id, WaitCondition::Removed)
        .await
        .unwrap();
    let next = engine
        .containers()
        .wait(&id, WaitCondition::NextExit)
        .await
        .unwrap();
    engine.containers().start(&id).await.unwrap();
    assert_eq!(wait.outcome().await.unwrap().code, 7);
    assert_eq!(next.outcome().await.unwrap().code, 7);
    assert_eq!(
        engine.containers().inspect(&id).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    host.assert_nothing_left();
    assert_eq!(
        actions(&mut events),
        [
            "container:create",
            "network:connect",
            "container:start",
            "container:die",
            "network:disconnect",
            "container:destroy"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_attach_before_the_start_see_everything() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    let mut request = script("echo first; cat; echo last");
    request.config.open_stdin = true;
    request.config.stdin_once = true;
    let id = EngineExt::create(&engine, request).await;
    let (mut ours, theirs) = client();
    let attachment = engine.containers().attach(&id, attach_all()).await.unwrap();
    assert!(!attachment.tty);
    attachment.connect(theirs).await.unwrap();
    engine.containers().start(&id).await.unwrap();
    ours.write_all(b"typed\n").unwrap();
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_frames(ours).await, "first\ntyped\nlast\n");
    assert_eq!(engine.wait_end(&id).await.code, 0);
    engine.remove_all().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminals_are_raw_and_can_be_detached_from() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    let mut request = script("stty size; tty; exec sleep 100");
    request.config.tty = true;
    request.config.open_stdin = true;
    request.host.console_size = [33, 77];
    let id = EngineExt::create(&engine, request).await;
    let (mut ours, theirs) = client();
    let attachment = engine.containers().attach(&id, attach_all()).await.unwrap();
    assert!(attachment.tty);
    attachment.connect(theirs).await.unwrap();
    engine.containers().start(&id).await.unwrap();
    let mut events = engine.events().subscribe(None);
    tokio::time::sleep(Duration::from_millis(300)).await;
    ours.write_all(&[16, 17]).unwrap();
    let text = String::from_utf8(read_to_end(ours).await).unwrap();
    assert!(text.starts_with("33 77\r\n/dev/"), "{text:?}");
    let event = tokio::time::timeout(SOON, events.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(event.action.to_string(), "detach");
    assert!(
        engine
            .containers()
            .inspect(&id)
            .await
            .unwrap()
            .lifecycle
            .is_running()
    );
    let size = sampan_engine::TerminalSize {
        height: 10,
        width: 20,
    };
    engine.containers().resize(&id, size).await.unwrap();
    engine.remove_all().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn execs_run_beside_and_report_their_codes() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    let mut request = script("exec sleep 100");
    request.config.env = vec!["FROM=container".into()];
    let id = engine.start_new(request).await;
    assert_eq!(
        engine.exec(&id, &["sh", "-c", "echo $FROM; exit 3"]).await,
        (Some(3), "container\n".into())
    );
    let (code, text) = engine.exec(&id, &["nothere"]).await;
    assert_eq!(code, Some(127));
    assert!(
        text.contains("executable file not found in $PATH"),
        "{text}"
    );
    let (code, _) = engine.exec(&id, &["/bin/notexec"]).await;
    assert_eq!(code, Some(126));
    let config = ExecConfig {
        cmd: vec!["sleep".into(), "100".into()],
        ..ExecConfig::default()
    };
    let exec = engine.containers().exec_create(&id, config).await.unwrap();
    let starter = engine
        .containers()
        .exec_start(exec.as_str(), Default::default())
        .await
        .unwrap();
    starter.detached().await.unwrap();
    let again = engine
        .containers()
        .exec_start(exec.as_str(), Default::default())
        .await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Conflict);
    engine.containers().kill(&id, None).await.unwrap();
    // The end of the first process is the end of all.
    let view = engine
        .containers()
        .exec_inspect(exec.as_str())
        .await
        .unwrap();
    assert!(
        matches!(
            view.state,
            sampan_engine::ExecState::Exited { code: 137, .. }
        ),
        "{view:?}"
    );
    let refused = engine
        .containers()
        .exec_create(&id, ExecConfig::default())
        .await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Conflict);
    engine.remove_all().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_asks_first_and_kills_then() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    let polite = engine
        .start_new(script(
            "trap 'exit 5' TERM; touch /tmp/ready; while :; do sleep 0.05; done",
        ))
        .await;
    let deaf = engine
        .start_new(script(
            "trap '' TERM; touch /tmp/ready; while :; do sleep 0.05; done",
        ))
        .await;
    for id in [&polite, &deaf] {
        while engine.exec(id, &["ls", "/tmp/ready"]).await.0 != Some(0) {}
    }
    let mut events = engine.events().subscribe(None);
    engine
        .containers()
        .stop(&polite, StopOptions::default())
        .await
        .unwrap();
    let view = engine.containers().inspect(&polite).await.unwrap();
    assert_eq!(view.lifecycle.last().unwrap().code, 5);
    assert_eq!(
        actions(&mut events),
        [
            "container:kill",
            "container:die",
            "network:disconnect",
            "container:stop"
        ]
    );
    let options = StopOptions {
        timeout: Some(StopTimeout::After(Duration::from_millis(100))),
        ..StopOptions::default()
    };
    engine
        .containers()
        .stop(&deaf, options.clone())
        .await
        .unwrap();
    let view = engine.containers().inspect(&deaf).await.unwrap();
    assert_eq!(view.lifecycle.last().unwrap().code, 137);
    assert_eq!(
        code(engine.containers().stop(&deaf, options).await),
        ErrorKind::NotModified
    );
    let killed = engine.containers().kill(&deaf, None).await;
    assert!(
        killed
            .as_ref()
            .unwrap_err()
            .message()
            .ends_with("is not running")
    );
    assert_eq!(code(killed), ErrorKind::Conflict);
    engine.remove_all().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_are_frozen_restarted_renamed_and_removed() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    let mut request = script("echo run; exec sleep 100");
    request.name = Some("first".into());
    let id = engine.start_new(request).await;
    let containers = engine.containers();
    assert_eq!(
        code(containers.start("first").await),
        ErrorKind::NotModified
    );
    containers.pause("/first").await.unwrap();
    assert_eq!(
        containers
            .inspect("first")
            .await
            .unwrap()
            .lifecycle
            .status(),
        Status::Paused
    );
    assert_eq!(code(containers.pause("first").await), ErrorKind::Conflict);
    containers.unpause(&id[..12]).await.unwrap();
    assert_eq!(code(containers.unpause("first").await), ErrorKind::Conflict);
    let options = StopOptions {
        timeout: Some(StopTimeout::After(Duration::ZERO)),
        ..StopOptions::default()
    };
    containers.restart("first", options).await.unwrap();
    let view = containers.inspect("first").await.unwrap();
    assert_eq!(view.lifecycle.status(), Status::Running);
    containers.rename("first", "second").await.unwrap();
    assert_eq!(
        containers.inspect("first").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let mut taken = script("true");
    taken.name = Some("second".into());
    let error = containers.create(taken).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(
        error
            .message()
            .starts_with("Conflict. The container name \"/second\" is already in use")
    );
    assert_eq!(
        code(containers.remove("second", RemoveOptions::default()).await),
        ErrorKind::Conflict
    );
    containers.pause("second").await.unwrap();
    let force = RemoveOptions {
        running: RemoveRunning::Kill,
        ..RemoveOptions::default()
    };
    containers.remove("second", force).await.unwrap();
    assert_eq!(
        code(containers.remove("second", force).await),
        ErrorKind::NotFound
    );
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_follow_to_the_end_and_from_the_tail() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    let id = engine
        .start_new(script("for i in 1 2 3 4 5; do echo $i; sleep 0.1; done"))
        .await;
    let options = LogOptions {
        follow: true,
        stdout: true,
        ..LogOptions::default()
    };
    let mut logs = engine.containers().logs(&id, options).await.unwrap();
    let mut seen = String::new();
    while let Some(entry) = tokio::time::timeout(SOON, logs.entries.next())
        .await
        .unwrap()
    {
        seen.push_str(std::str::from_utf8(&entry.unwrap().bytes).unwrap());
    }
    assert_eq!(seen, "1\n2\n3\n4\n5\n");
    let options = LogOptions {
        tail: Some(2),
        stdout: true,
        ..LogOptions::default()
    };
    let mut logs = engine.containers().logs(&id, options).await.unwrap();
    let mut tail = Vec::new();
    while let Some(entry) = logs.entries.next().await {
        tail.extend(entry.unwrap().bytes);
    }
    assert_eq!(tail, b"4\n5\n");
    engine.remove_all().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_leave_nothing() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    type Change = Box<dyn Fn(&mut CreateContainer)>;
    let cases: [(&str, Change); 6] = [
        (
            "No such image",
            Box::new(|r| r.config.image = "nothere".into()),
        ),
        ("no command specified", Box::new(|r| r.config.cmd = None)),
        (
            "Minimum memory limit",
            Box::new(|r| r.host.resources.memory = 5),
        ),
        (
            "unknown capability",
            Box::new(|r| r.host.cap_add = vec!["FLY".into()]),
        ),
        (
            "Invalid container name",
            Box::new(|r| r.name = Some("../x".into())),
        ),
        (
            "No such container",
            Box::new(|r| r.host.volumes_from = vec!["nobody".into()]),
        ),
    ];
    for (words, change) in cases {
        let mut request = script("true");
        request.config.volumes.insert("/data".into());
        change(&mut request);
        let error = engine.containers().create(request).await.unwrap_err();
        assert!(
            error.message().contains(words),
            "{words}: {}",
            error.message()
        );
    }
    assert!(
        engine
            .volumes()
            .list(&Default::default())
            .await
            .unwrap()
            .is_empty()
    );
    host.assert_nothing_left();
    let _ = (ContainerConfig::default(), HostConfig::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_their_logs_delay_nobody() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    let id = engine
        .start_new(script("seq 1 20000; exec sleep 100"))
        .await;
    let options = LogOptions {
        follow: true,
        stdout: true,
        ..LogOptions::default()
    };
    let mut stalled = Vec::new();
    // More than the runtime has threads for blocking work.
    for _ in 0..600 {
        stalled.push(
            engine
                .containers()
                .logs(&id, options.clone())
                .await
                .unwrap(),
        );
    }
    let other = tokio::time::timeout(SOON, engine.run(script("echo alive"))).await;
    assert_eq!(other.expect("was held up"), (0, "alive\n".into()));
    drop(stalled);
    engine.remove_all().await;
    host.assert_nothing_left();
}
