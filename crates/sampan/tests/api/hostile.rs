//! Clients that mean harm or know nothing: a clear answer in bounded time and memory, and
//! everybody else is served meanwhile.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit};
use sampan_testing::{Fixture, TestEngine};

use crate::http::{Answer, ask, connect, read_answer, send, tell};
use crate::{SAMPAN, engine, engine_with_busybox};

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

/// Others are served.
#[track_caller]
fn assert_serves(engine: &TestEngine) {
    for _ in 0..20 {
        let _ = ask(engine, "GET", "/containers/json").expect(200);
    }
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
    // Without starts that are prepared ahead, which take descriptors, too.
    let engine = TestEngine::start_with(SAMPAN, &["--warm-slots", "0"]);
    engine.load(Fixture::Busybox);
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
        assert!(started.elapsed() < Duration::from_secs(60), "{shown}");
    }
    assert!(peak_memory(&engine) < MEMORY);
    assert_descriptors_return(&engine, before);
    assert_serves(&engine);
}

/// Sends a body in chunks until `pieces` ends or the engine stops reading, and reads its answer.
fn pour(
    engine: &TestEngine,
    path: &str,
    pieces: impl Iterator<Item = std::sync::Arc<[u8]>>,
) -> Answer {
    let mut stream = connect(engine);
    // A gigabyte may have to be unpacked first.
    let patience = Some(Duration::from_secs(300));
    stream.set_read_timeout(patience).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut whole = true;
    for piece in pieces {
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
        if stream.write_all(&chunk).is_err() {
            whole = false;
            break;
        }
    }
    if whole {
        let _ = stream.write_all(b"0\r\n\r\n");
    }
    read_answer(&mut stream)
}

/// What went wrong, whether it was told by a status or by the last line of a stream.
#[track_caller]
fn trouble(answer: &Answer) -> String {
    if answer.status >= 400 {
        return answer.message();
    }
    let text = answer.text();
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let message = last["errorDetail"]["message"].as_str();
    message.unwrap_or_else(|| panic!("{text}")).to_owned()
}

/// A header of a tar, of this type and size.
fn tar_header(path: &str, kind: u8, size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..path.len()].copy_from_slice(path.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124] = 0x80;
    block[128..136].copy_from_slice(&size.to_be_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[148..156].copy_from_slice(b"        ");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Empty files with names of their own, without end.
fn endless_files() -> impl Iterator<Item = std::sync::Arc<[u8]>> {
    (0u64..).map(|batch| {
        let files = (0..2048).flat_map(|n| tar_header(&format!("{batch}/{n}"), b'0', 0));
        files.collect()
    })
}

#[test]
fn archives_that_are_bombs_or_never_end_are_refused_in_bounded_memory() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    const IMPORT: &str = "/images/create?fromSrc=-&repo=bomb";
    const LOAD: &str = "/images/load";
    let engine = engine_with_busybox();
    let before = settled(&engine);
    let zeros: std::sync::Arc<[u8]> = vec![0; 1 << 20].into();
    let packed_zeros: std::sync::Arc<[u8]> = gzip(&zeros).into();
    let ten_gigabytes = || {
        let head = gzip(&tar_header("zeros", b'0', 10 << 30)).into();
        std::iter::once(head).chain(std::iter::repeat_n(packed_zeros.clone(), 10 << 10))
    };
    let endless = |head: Vec<u8>| {
        let head: std::sync::Arc<[u8]> = head.into();
        std::iter::once(head).chain(std::iter::repeat(zeros.clone()))
    };
    let check = |what: &str, answer: Answer, started: Instant| {
        let message = trouble(&answer);
        println!(
            "{what}: {message:?} after {:?}, at most {} MiB so far",
            started.elapsed(),
            peak_memory(&engine) >> 20
        );
        assert!(!message.is_empty() && message.len() < 500, "{message}");
        assert!(started.elapsed() < Duration::from_secs(300), "{what}");
        assert_serves(&engine);
    };
    let now = Instant::now;
    let started = now();
    check(
        "ten gigabytes",
        pour(&engine, IMPORT, ten_gigabytes()),
        started,
    );
    let started = now();
    let nested = std::iter::once(gzip(&gzip(&tar_header("a", b'0', 0))).into());
    check("nested gzip", pour(&engine, IMPORT, nested), started);
    let started = now();
    check(
        "what follows the end",
        pour(&engine, LOAD, endless(vec![0; 512])),
        started,
    );
    let started = now();
    let document = endless(tar_header("manifest.json", b'0', 1 << 40));
    check(
        "an endless document",
        pour(&engine, LOAD, document),
        started,
    );
    let started = now();
    let name = endless(tar_header("x", b'L', 1 << 40));
    check("an endless name", pour(&engine, IMPORT, name), started);
    let started = now();
    check(
        "members without end",
        pour(&engine, LOAD, endless_files()),
        started,
    );
    assert!(peak_memory(&engine) < MEMORY, "{}", peak_memory(&engine));
    assert_descriptors_return(&engine, before);
    let images = ask(&engine, "GET", "/images/json?all=1").expect(200).json();
    assert_eq!(images.as_array().unwrap().len(), 1);
}

#[test]
fn json_that_is_ambiguous_or_no_text_is_refused() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let deep = format!(
        r#"{{"Image":"busybox","Labels":{}1{}}}"#,
        r#"{"a":"#.repeat(100_000),
        "}".repeat(100_000)
    );
    let many = format!(
        r#"{{"Image":"busybox","Env":["{}"]}}"#,
        r"A\u0000".repeat(9)
    );
    let bodies: [&[u8]; 9] = [
        br#"{"Image":"busybox","HostConfig":{"Memory":99999999,"Memory":1}}"#,
        b"{\"Image\":\"busybox\",\"Cmd\":[\"\xff\xfe\"]}",
        b"{\"Image\":\"\xed\xa0\x80\"}",
        br#"{"Image":"\ud800"}"#,
        br#"{"Image":"busybox","Cmd":["a\u0000b"]}"#,
        br#"{"Image":"busybox","HostConfig":{"Memory":9223372036854775808}}"#,
        br#"{"Image":"busybox","HostConfig":{"CpusetCpus":"0-4294967295"}}"#,
        deep.as_bytes(),
        many.as_bytes(),
    ];
    for body in bodies {
        let kind = ["Content-Type: application/json"];
        let answer = send(&engine, "POST", "/containers/create", &kind, body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        assert_eq!(answer.status, 400, "{shown}: {}", answer.text());
        assert!(answer.message().len() < 500, "{shown}");
    }
    let left = ask(&engine, "GET", "/containers/json?all=1").expect(200);
    assert_eq!(left.json(), serde_json::json!([]));
    // Of a field that comes twice the last one counts, in whatever case.
    for (body, status) in [
        (r#"{"Image":"busybox","Image":"nonesuch"}"#, 404),
        (r#"{"Image":"busybox","image":"nonesuch"}"#, 404),
        (r#"{"image":"nonesuch","Image":"busybox"}"#, 201),
    ] {
        let _ = tell(&engine, "POST", "/containers/create", body).expect(status);
    }
    assert!(peak_memory(&engine) < MEMORY);
    assert_serves(&engine);
}

#[test]
fn filters_that_are_bombs_are_answered_at_once() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    for number in 0..20 {
        let name = "a".repeat(60 + number);
        let body = r#"{"Image":"busybox"}"#;
        let path = format!("/containers/create?name={name}");
        let _ = tell(&engine, "POST", &path, body).expect(201);
    }
    let escape =
        |text: &str| -> String { text.bytes().map(|byte| format!("%{byte:02x}")).collect() };
    let names: Vec<String> = (0..4000).map(|n| format!("\"n{n}\"")).collect();
    let keys: Vec<String> = (0..4000).map(|n| format!("\"k{n}\":[\"v\"]")).collect();
    for filters in [
        "[".repeat(50_000),
        r#"{"a":"#.repeat(10_000),
        format!("{{{}}}", keys.join(",")),
        format!("{{\"name\":[{}]}}", names.join(",")),
        r#"{"name":["^(a+)+$"]}"#.to_owned(),
        r#"{"name":["((((a{99}){99}){99}){99}){99}"]}"#.to_owned(),
        format!("{{\"name\":[\"{}\"]}}", "(a*)*".repeat(2000)),
        format!("{{\"name\":[\"{}\"]}}", "(".repeat(20_000)),
        format!("{{\"label\":[\"{}\"]}}", "x".repeat(40_000)),
        r#"{"name":{"a":{"b":true}}}"#.to_owned(),
        r#"{"name":true}"#.to_owned(),
    ] {
        for list in [
            "/containers/json?all=1&",
            "/images/json?",
            "/volumes?",
            "/networks?",
        ] {
            let started = Instant::now();
            let answer = ask(
                &engine,
                "GET",
                &format!("{list}filters={}", escape(&filters)),
            );
            let shown = format!("{list} {filters:.60}");
            assert!(
                matches!(answer.status, 200 | 400 | 414 | 431),
                "{shown}: {}",
                answer.status
            );
            assert!(answer.body.len() < 100_000, "{shown}");
            assert!(started.elapsed() < Duration::from_secs(60), "{shown}");
        }
    }
    assert!(peak_memory(&engine) < MEMORY);
    assert_serves(&engine);
}

#[test]
fn upgrades_where_there_is_nothing_to_upgrade_are_plain_answers() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let before = settled(&engine);
    for (request, upgrade, statuses) in [
        ("GET /info", "tcp", [200, 200]),
        ("GET /_ping", "h2c", [200, 200]),
        ("GET /events?since=1&until=2", "tcp", [200, 200]),
        ("POST /containers/create", "tcp", [400, 400]),
        (
            "POST /containers/nonesuch/attach?stream=1",
            "tcp",
            [404, 404],
        ),
        ("POST /exec/nonesuch/start", "tcp", [400, 404]),
        (
            "GET /containers/nonesuch/attach/ws",
            "websocket",
            [404, 501],
        ),
        // A session without a name, and what is no HTTP/2.
        ("POST /session", "h2c", [400, 400]),
        ("POST /session", "tcp", [400, 400]),
        ("POST /grpc", "tcp", [400, 400]),
    ] {
        let mut stream = connect(&engine);
        let head = format!(
            "{request} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\
             Content-Length: 0\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let answer = read_answer(&mut stream);
        assert!(
            statuses.contains(&answer.status),
            "{request}: {} {}",
            answer.status,
            answer.text()
        );
    }
    assert_descriptors_return(&engine, before);
}

#[test]
fn execs_that_are_made_and_left_cost_little() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let body = r#"{"Image":"busybox","Cmd":["sleep","1000"],"StopSignal":"KILL"}"#;
    let _ = tell(&engine, "POST", "/containers/create?name=left", body).expect(201);
    let _ = ask(&engine, "POST", "/containers/left/start").expect(204);
    let before = settled(&engine);
    // Much output, and nobody who reads it.
    let loud = r#"{"Cmd":["sh","-c","while echo loud; do :; done"],"AttachStdout":true}"#;
    let mut held = Vec::new();
    for round in 0..50 {
        let created = tell(&engine, "POST", "/containers/left/exec", loud).expect(201);
        let id = created.json()["Id"].as_str().unwrap().to_owned();
        let mut stream = connect(&engine);
        let start = format!(
            "POST /exec/{id}/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Content-Length: 2\r\n\r\n{{}}"
        );
        stream.write_all(start.as_bytes()).unwrap();
        if round % 2 == 0 {
            held.push(stream);
        }
    }
    // Ten thousand that are never started, over few connections.
    let quiet = r#"{"Cmd":["true"],"AttachStdout":true}"#;
    let request = format!(
        "POST /containers/left/exec HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{quiet}",
        quiet.len()
    );
    let mut refused = 0;
    for _ in 0..10 {
        let mut stream = connect(&engine);
        let mut reader = stream.try_clone().unwrap();
        let answers = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = reader.read_to_string(&mut text);
            text
        });
        for _ in 0..1000 {
            stream.write_all(request.as_bytes()).unwrap();
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let text = answers.join().unwrap();
        let made = text.matches("HTTP/1.1 201 ").count();
        let other = text.matches("HTTP/1.1 503 ").count();
        assert_eq!(made + other, 1000, "{text:.300}");
        refused += other;
    }
    println!(
        "{refused} of 10,000 execs were refused, {} MiB at most",
        peak_memory(&engine) >> 20
    );
    assert!(peak_memory(&engine) < MEMORY, "{}", peak_memory(&engine));
    assert_serves(&engine);
    drop(held);
    let _ = ask(&engine, "POST", "/containers/left/kill").expect(204);
    let _ = ask(&engine, "DELETE", "/containers/left?force=1").expect(204);
    assert_descriptors_return(&engine, before);
}

#[test]
fn resizes_and_attaches_that_are_left_cost_nothing() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let body = r#"{"Image":"busybox","Cmd":["sleep","1000"],"Tty":true,"OpenStdin":true}"#;
    let _ = tell(&engine, "POST", "/containers/create?name=left", body).expect(201);
    let _ = ask(&engine, "POST", "/containers/left/start").expect(204);
    let flood = |rounds: u32| {
        for _ in 0..rounds {
            let mut stream = connect(&engine);
            // Ten sizes, then an attachment that nobody stays for.
            let size = "POST /containers/left/resize?h=40&w=120 HTTP/1.1\r\nHost: x\r\n\
                        Content-Length: 0\r\n\r\n";
            let attach = "POST /containers/left/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\
                          Upgrade: tcp\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(size.repeat(10).as_bytes()).unwrap();
            stream.write_all(attach.as_bytes()).unwrap();
            let mut seen = Vec::new();
            let mut chunk = [0; 4096];
            while !seen.windows(7).any(|seven| seven == b" 101 UP") {
                let count = stream.read(&mut chunk).unwrap();
                assert_ne!(count, 0, "{}", String::from_utf8_lossy(&seen));
                seen.extend_from_slice(&chunk[..count]);
            }
        }
    };
    let shim = shim_of(&engine, "left");
    let of_shim = || {
        let memory = memory_of(shim);
        let open = fs::read_dir(format!("/proc/{shim}/fd")).unwrap().count();
        (memory, open)
    };
    flood(100);
    let before = settled(&engine);
    let (memory, of_engine) = (of_shim(), status(&engine, "VmRSS:"));
    flood(1000);
    assert_serves(&engine);
    assert_descriptors_return(&engine, before);
    let (now, engine_now) = (of_shim(), status(&engine, "VmRSS:"));
    assert!(
        now.1 <= memory.1 + 1,
        "the shim had {memory:?}, has {now:?}"
    );
    assert!(
        now.0 <= memory.0 + 256,
        "the shim had {memory:?}, has {now:?}"
    );
    assert!(
        engine_now <= of_engine + (8 << 10),
        "{of_engine} KiB, then {engine_now} KiB"
    );
    let _ = ask(&engine, "DELETE", "/containers/left?force=1").expect(204);
}

/// The supervisor of a container.
fn shim_of(engine: &TestEngine, container: &str) -> u64 {
    let inspect = ask(engine, "GET", &format!("/containers/{container}/json")).json();
    let pid = inspect["State"]["Pid"].as_u64().unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let behind_name = stat.rsplit_once(") ").unwrap().1;
    behind_name.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Kilobytes that are a process's own.
fn memory_of(pid: u64) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let own = rollup.lines().filter(|line| line.starts_with("Private_"));
    own.map(|line| {
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    })
    .sum()
}
