//! Clients that mean harm or know nothing: a clear answer in bounded time and memory, and
//! everybody else is served meanwhile.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use sampan_testing::TestEngine;

use crate::http::{ask, connect, tell};
use crate::{engine, engine_with_busybox};

/// Bytes of memory that no abuse may make the engine exceed.
const MEMORY: u64 = 200 << 20;

fn peak_memory(engine: &TestEngine) -> u64 {
    status(engine, "VmHWM:") << 10
}

fn status(engine: &TestEngine, field: &str) -> u64 {
    let path = format!("/proc/{}/status", engine.pid().as_raw_nonzero());
    let status = fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Descriptors that are open once nothing is under way.
fn settled(engine: &TestEngine) -> usize {
    let _ = ask(engine, "GET", "/info").expect(200);
    let mut last = 0;
    loop {
        std::thread::sleep(Duration::from_millis(300));
        let now = descriptors(engine);
        if now == last {
            return now;
        }
        last = now;
    }
}

fn descriptors(engine: &TestEngine) -> usize {
    let path = format!("/proc/{}/fd", engine.pid().as_raw_nonzero());
    fs::read_dir(path).unwrap().count()
}

/// Others are served at once.
#[track_caller]
fn assert_serves(engine: &TestEngine) {
    let mut worst = Duration::ZERO;
    for _ in 0..20 {
        let started = Instant::now();
        let _ = ask(engine, "GET", "/containers/json").expect(200);
        worst = worst.max(started.elapsed());
    }
    // A test machine is shared; a person would not wait longer either.
    assert!(worst < Duration::from_secs(1), "{worst:?}");
}

#[track_caller]
fn assert_descriptors_return(engine: &TestEngine, before: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let now = descriptors(engine);
        if now <= before + 2 {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{before} descriptors before, {now} now: {}",
            listing(engine)
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What the engine has open.
fn listing(engine: &TestEngine) -> String {
    let path = format!("/proc/{}/fd", engine.pid().as_raw_nonzero());
    let links = fs::read_dir(path).unwrap().flatten();
    let targets = links.map(|entry| fs::read_link(entry.path()).unwrap_or_default());
    format!("{:?}", targets.collect::<Vec<_>>())
}

#[test]
fn bodies_of_64_mib_are_refused_in_bounded_memory() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let body = format!(r#"{{"Image":"{}"}}"#, "x".repeat(64 << 20));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let answer = tell(&engine, "POST", "/containers/create", &body).expect(413);
                assert!(answer.message().contains("too large"));
            });
        }
        assert_serves(&engine);
    });
    let chunked = "POST /containers/create HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                   Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut stream = connect(&engine);
    stream.write_all(chunked.as_bytes()).unwrap();
    let piece = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
    // Endless; the engine stops reading at some point.
    while stream.write_all(&piece).is_ok() {}
    assert!(peak_memory(&engine) < MEMORY, "{}", peak_memory(&engine));
    assert_serves(&engine);
}

#[test]
fn slow_clients_hold_up_nobody() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let before = settled(&engine);
    // More than the engine takes at once, where this process may open so many.
    let may_open = getrlimit(Resource::Nofile).current.unwrap_or(5500);
    let number = may_open.saturating_sub(500).min(5000);
    let mut clients: Vec<UnixStream> = (0..number).map(|_| connect(&engine)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let start: &[u8] = match number % 4 {
            0 => b"",
            1 => b"G",
            2 => b"GET /_ping HTTP/1.1\r\nX-Slow: ",
            _ => {
                b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\
                   Content-Type: application/json\r\n\r\n{"
            }
        };
        // The oldest ones were closed for the others already.
        let _ = client.write_all(start);
    }
    assert_serves(&engine);
    assert!(peak_memory(&engine) < MEMORY);
    drop(clients);
    assert_descriptors_return(&engine, before);
}

#[test]
fn listeners_that_never_read_hold_up_nobody() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let before = settled(&engine);
    let listeners: Vec<UnixStream> = (0..100)
        .map(|_| {
            let mut stream = connect(&engine);
            let request = b"GET /events?since=1 HTTP/1.1\r\nHost: x\r\n\r\n";
            stream.write_all(request).unwrap();
            stream
        })
        .collect();
    let labels = format!(r#"{{"long":"{}"}}"#, "x".repeat(16 << 10));
    let body = format!(r#"{{"Image":"busybox","Labels":{labels}}}"#);
    for _ in 0..200 {
        let created = tell(&engine, "POST", "/containers/create", &body)
            .expect(201)
            .json();
        let path = format!("/containers/{}", created["Id"].as_str().unwrap());
        let _ = ask(&engine, "DELETE", &path).expect(204);
    }
    assert_serves(&engine);
    assert!(peak_memory(&engine) < MEMORY, "{}", peak_memory(&engine));
    drop(listeners);
    assert_descriptors_return(&engine, before);
}

#[test]
fn clients_that_leave_take_their_requests_with_them() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let body = r#"{"Image":"busybox","Cmd":["sleep","1000"],"OpenStdin":true,"StopSignal":"KILL"}"#;
    let _ = tell(&engine, "POST", "/containers/create?name=left", body).expect(201);
    let _ = ask(&engine, "POST", "/containers/left/start").expect(204);
    let before = settled(&engine);
    for round in 0..100 {
        for request in [
            "GET /events",
            "POST /containers/left/wait",
            "GET /containers/left/logs?stdout=1&follow=1",
            "POST /containers/left/attach?stream=1&stdin=1&stdout=1",
        ] {
            let mut stream = connect(&engine);
            let head = format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            if round % 2 == 0 {
                let mut some = [0; 16];
                stream.read_exact(&mut some).unwrap();
            }
        }
    }
    assert_descriptors_return(&engine, before);
    assert_serves(&engine);
    let exec = r#"{"Cmd":["true"],"AttachStdout":true}"#;
    for _ in 0..1000 {
        let _ = tell(&engine, "POST", "/containers/left/exec", exec).expect(201);
    }
    assert!(peak_memory(&engine) < MEMORY, "{}", peak_memory(&engine));
    assert_serves(&engine);
}

#[test]
fn requests_that_are_no_http_are_refused() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let before = settled(&engine);
    let many: String = (0..1_000_000)
        .map(|number| format!("h{number}: v\r\n"))
        .collect();
    let long = "a".repeat(1 << 20);
    for request in [
        "\0\0\0\0\r\n\r\n".to_owned(),
        format!("GET /_ping HTTP/1.1\r\nH: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\n\r\n"),
        format!("GET /_ping HTTP/1.1\r\n{many}\r\n"),
        "GET /_ping HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_owned(),
        "POST /containers/create HTTP/1.1\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}"
            .to_owned(),
    ] {
        let started = Instant::now();
        let mut stream = connect(&engine);
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let shown = &request[..request.len().min(60)];
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{shown}: {answer}"
        );
        assert!(started.elapsed() < Duration::from_secs(5), "{shown}");
    }
    assert!(peak_memory(&engine) < MEMORY);
    assert_descriptors_return(&engine, before);
    assert_serves(&engine);
}
