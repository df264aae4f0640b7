//! Attach, exec, logs, wait and events: bytes that flow while something runs.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use sampan_testing::TestEngine;
use serde_json::{Value, json};

use crate::engine_with_busybox;
use crate::http::{ask, connect, read_head, tell};

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: tcp\r\n";

fn create(engine: &TestEngine, body: &Value) -> String {
    let body = body.to_string();
    let answer = tell(engine, "POST", "/containers/create", &body).expect(201);
    answer.json()["Id"].as_str().unwrap().to_owned()
}

fn open(engine: &TestEngine, path: &str, headers: &str, body: &str) -> (UnixStream, String) {
    let mut stream = connect(engine);
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: docker\r\n{headers}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let head = read_head(&mut stream);
    (stream, head)
}

/// Takes Docker's frames apart: output and errors.
#[track_caller]
fn frames(mut rest: &[u8]) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some((head, tail)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        match head[..4] {
            [1, 0, 0, 0] => out.extend_from_slice(&tail[..length]),
            [2, 0, 0, 0] => err.extend_from_slice(&tail[..length]),
            _ => panic!("no frame: {head:?}"),
        }
        rest = &tail[length..];
    }
    assert!(rest.is_empty());
    (
        String::from_utf8(out).unwrap(),
        String::from_utf8(err).unwrap(),
    )
}

#[test]
fn attach_before_the_start_misses_nothing() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    for round in 0..20 {
        let id = create(
            &engine,
            &json!({"Image": "busybox", "Cmd": ["sh", "-c", "echo out; echo err >&2"]}),
        );
        let path = format!("/v1.51/containers/{id}/attach?stream=1&stdout=1&stderr=1");
        let (mut stream, head) = open(&engine, &path, UPGRADE, "");
        assert_eq!(
            head,
            "HTTP/1.1 101 UPGRADED\r\n\
             Content-Type: application/vnd.docker.multiplexed-stream\r\n\
             Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        );
        let _ = ask(&engine, "POST", &format!("/containers/{id}/start")).expect(204);
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert_eq!(
            frames(&bytes),
            ("out\n".into(), "err\n".into()),
            "round {round}"
        );
    }
}

#[test]
fn attach_gives_the_streams_that_are_asked_for() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let attach = |id: &str, query: &str| {
        let path = format!("/v1.51/containers/{id}/attach?{query}");
        open(&engine, &path, UPGRADE, "").0
    };
    let rest = |mut stream: UnixStream| {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    };
    let started = |body: &Value| {
        let id = create(&engine, body);
        let _ = ask(&engine, "POST", &format!("/containers/{id}/start")).expect(204);
        id
    };
    let script = "while read line; do echo $line; echo not $line >&2; done";
    let id = started(&json!({"Image": "busybox", "Cmd": ["sh", "-c", script], "OpenStdin": true}));
    let said = |query: &str, line: &str, length: usize| {
        let mut session = attach(&id, query);
        session.write_all(line.as_bytes()).unwrap();
        let mut bytes = vec![0; 8 + length];
        session.read_exact(&mut bytes).unwrap();
        frames(&bytes)
    };
    let output = said("stream=1&stdin=1&stdout=1", "one\n", 4);
    assert_eq!(output, ("one\n".into(), String::new()));
    let errors = said("stream=1&stdin=1&stderr=1", "two\n", 8);
    assert_eq!(errors, (String::new(), "not two\n".into()));
    // What was, and nothing that is to come.
    sampan_testing::until("both lines are in the log", || {
        let logged = frames(&rest(attach(&id, "logs=1&stderr=1")));
        logged == (String::new(), "not one\nnot two\n".into())
    });

    let id = started(&json!({"Image": "busybox", "Cmd": ["cat"], "Tty": true, "OpenStdin": true}));
    let mut session = attach(&id, "stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,x");
    session.write_all(b"\x01x").unwrap();
    let _ = rest(session);
    let state = ask(&engine, "GET", &format!("/containers/{id}/json")).expect(200);
    assert_eq!(state.json()["State"]["Running"], true);
    let path = format!("/containers/{id}/attach?stream=1&detachKeys=nonsense");
    let _ = ask(&engine, "POST", &path).expect(400);
    engine.remove_all();
}

#[test]
fn content_type_depends_on_version_upgrade_and_terminal() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let raw = "application/vnd.docker.raw-stream";
    let multiplexed = "application/vnd.docker.multiplexed-stream";
    for (version, headers, tty, status, kind) in [
        ("1.51", UPGRADE, false, "101 UPGRADED", multiplexed),
        ("1.42", UPGRADE, false, "101 UPGRADED", multiplexed),
        ("1.41", UPGRADE, false, "101 UPGRADED", raw),
        ("1.51", UPGRADE, true, "101 UPGRADED", raw),
        ("1.51", "", false, "200 OK", raw),
    ] {
        let id = create(
            &engine,
            &json!({"Image": "busybox", "Cmd": ["true"], "Tty": tty}),
        );
        let path = format!("/v{version}/containers/{id}/attach?stream=1&stdout=1");
        let (stream, head) = open(&engine, &path, headers, "");
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{head}"
        );
        assert!(
            head.contains(&format!("Content-Type: {kind}\r\n")),
            "{version} {head}"
        );
        drop(stream);
        let _ = ask(&engine, "POST", &format!("/containers/{id}/start")).expect(204);
        let _ = ask(&engine, "POST", &format!("/containers/{id}/wait")).expect(200);
        for (version, expected) in [("1.41", raw), ("1.42", if tty { raw } else { multiplexed })] {
            let logs = ask(
                &engine,
                "GET",
                &format!("/v{version}/containers/{id}/logs?stdout=1"),
            );
            assert_eq!(
                logs.header("content-type"),
                Some(expected),
                "{version} {tty}"
            );
        }
    }
}

#[test]
fn input_that_comes_with_the_request_is_not_lost() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let id = create(
        &engine,
        &json!({"Image": "busybox", "Cmd": ["cat"], "OpenStdin": true, "StdinOnce": true}),
    );
    let mut stream = connect(&engine);
    // No upgrade, and the input right behind the head: everything at once.
    let request = format!(
        "POST /containers/{id}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\nearly "
    );
    stream.write_all(request.as_bytes()).unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200 OK\r\n"));
    let _ = ask(&engine, "POST", &format!("/containers/{id}/start")).expect(204);
    stream.write_all(b"late").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert_eq!(frames(&bytes).0, "early late");
}

#[test]
fn exec_is_hijacked_and_tells_its_exit_code() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let id = create(
        &engine,
        &json!({"Image": "busybox", "Cmd": ["sleep", "1000"]}),
    );
    let _ = ask(&engine, "POST", &format!("/containers/{id}/start")).expect(204);
    let exec = |body: Value| {
        let path = format!("/containers/{id}/exec");
        let answer = tell(&engine, "POST", &path, &body.to_string()).expect(201);
        answer.json()["Id"].as_str().unwrap().to_owned()
    };
    let inspect = |exec: &str| {
        ask(&engine, "GET", &format!("/exec/{exec}/json"))
            .expect(200)
            .json()
    };

    let first = exec(json!({
        "Cmd": ["sh", "-c", "cat; echo err >&2; exit 7"],
        "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
    }));
    let before = inspect(&first);
    assert_eq!(before["ExitCode"], Value::Null);
    assert_eq!(before["Running"], false);
    assert_eq!(before["ProcessConfig"]["entrypoint"], "sh");
    let path = format!("/exec/{first}/start");
    let (mut stream, head) = open(&engine, &path, UPGRADE, r#"{"Detach":false,"Tty":false}"#);
    assert!(head.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{head}");
    assert_eq!(inspect(&first)["Running"], true);
    stream.write_all(b"in").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert_eq!(frames(&bytes), ("in".into(), "err\n".into()));
    let after = inspect(&first);
    assert_eq!(
        (&after["ExitCode"], &after["Running"]),
        (&json!(7), &json!(false))
    );
    let again = tell(&engine, "POST", &path, "{}");
    assert_eq!(again.status, 409, "{}", again.text());

    let detached = exec(json!({"Cmd": ["true"]}));
    let path = format!("/exec/{detached}/start");
    let _ = tell(&engine, "POST", &path, r#"{"Detach":true}"#).expect(200);
    let _ = ask(&engine, "DELETE", &format!("/containers/{id}?force=1")).expect(204);
}

#[test]
fn wait_answers_its_head_before_the_start() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let id = create(
        &engine,
        &json!({"Image": "busybox", "Cmd": ["sh", "-c", "exit 9"], "HostConfig": {"AutoRemove": true}}),
    );
    let path = format!("/containers/{id}/wait?condition=removed");
    let (mut stream, head) = open(&engine, &path, "", "");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let _ = ask(&engine, "POST", &format!("/containers/{id}/start")).expect(204);
    let mut bytes = [0; 256];
    let length = stream.read(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes[..length]);
    assert!(text.contains(r#"{"StatusCode":9}"#), "{text}");
    let _ = ask(&engine, "GET", &format!("/containers/{id}/json")).expect(404);
}

#[test]
fn logs_are_cut_by_time_stream_and_number() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let script = "for i in 1 2 3; do echo $i; done; echo oops >&2";
    let id = create(
        &engine,
        &json!({"Image": "busybox", "Cmd": ["sh", "-c", script]}),
    );
    let _ = ask(&engine, "POST", &format!("/containers/{id}/start")).expect(204);
    let _ = ask(&engine, "POST", &format!("/containers/{id}/wait")).expect(200);
    let logs = |query: &str| {
        let path = format!("/containers/{id}/logs?{query}");
        frames(&ask(&engine, "GET", &path).expect(200).body)
    };
    assert_eq!(
        logs("stdout=1&stderr=1"),
        ("1\n2\n3\n".into(), "oops\n".into())
    );
    assert_eq!(logs("stdout=1"), ("1\n2\n3\n".into(), String::new()));
    // Counted before the streams are told apart, as Docker does.
    assert_eq!(logs("stdout=1&tail=2").0, "3\n");
    assert_eq!(
        logs("stdout=1&stderr=1&tail=2"),
        ("3\n".into(), "oops\n".into())
    );
    assert_eq!(logs("stdout=1&follow=1&tail=all").0, "1\n2\n3\n");
    assert_eq!(logs("stdout=1&since=9999999999").0, "");
    assert_eq!(logs("stdout=1&until=1.5").0, "");
    let (stamped, _) = logs("stdout=1&timestamps=1&tail=2");
    let (time, text) = stamped.split_once(' ').unwrap();
    assert_eq!((time.len(), text), (30, "3\n"), "{stamped}");
}

#[test]
fn events_come_line_by_line_and_end_in_time() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let id = create(&engine, &json!({"Image": "busybox", "Cmd": ["true"]}));
    let _ = ask(&engine, "POST", &format!("/containers/{id}/start")).expect(204);
    let _ = ask(&engine, "POST", &format!("/containers/{id}/wait")).expect(200);
    let filters = "%7B%22type%22%3A%7B%22container%22%3Atrue%7D%7D";
    let path = format!("/events?since=1&until=9999999999.5&filters={filters}");
    let mut stream = connect(&engine);
    let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    assert!(read_head(&mut stream).contains("content-type: application/json\r\n"));
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stream));
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let create = next();
    assert_eq!(create["Action"], "create");
    assert_eq!(
        (&create["status"], &create["id"]),
        (&json!("create"), &json!(id))
    );
    assert_eq!(
        (&create["from"], &create["scope"]),
        (&json!("busybox"), &json!("local"))
    );
    assert!(
        create["timeNano"].as_i64().unwrap() / 1_000_000_000 == create["time"].as_i64().unwrap()
    );
    assert_eq!(next()["Action"], "start");
    let die = next();
    assert_eq!(die["Actor"]["Attributes"]["exitCode"], "0");

    let past = ask(
        &engine,
        "GET",
        &format!("/events?since=1&until=2&filters={filters}"),
    );
    assert_eq!(past.expect(200).text(), "");
}

#[test]
fn load_streams_messages_and_fails_with_a_status() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let tar = ["Content-Type: application/x-tar"];
    let archive =
        std::fs::read(sampan_testing::fixture(sampan_testing::Fixture::Busybox).archive()).unwrap();
    let loaded = crate::http::send(&engine, "POST", "/images/load", &tar, &archive).expect(200);
    assert_eq!(
        loaded.text(),
        "{\"stream\":\"Loaded image: busybox:latest\\n\"}\r\n"
    );
    let bad = crate::http::send(&engine, "POST", "/images/load", &tar, b"no tar at all");
    assert!(matches!(bad.status, 400 | 500), "{bad:?}");
    assert!(!bad.message().is_empty());
    let import = "/images/create?fromSrc=-&repo=made&tag=1&changes=CMD+x";
    let root = vec![0; 1024];
    let made = crate::http::send(&engine, "POST", import, &tar, &root).expect(200);
    let last = made.text().lines().last().unwrap().to_owned();
    assert!(last.starts_with("{\"status\":\"sha256:"), "{last}");
    let made = ask(&engine, "GET", "/images/made:1/json")
        .expect(200)
        .json();
    assert_eq!(made["Config"]["Cmd"], json!(["/bin/sh", "-c", "x"]));
}
