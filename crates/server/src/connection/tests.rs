//! The edge on real sockets: what clients send that is no proper request, and the way out of
//! HTTP.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::{get, post};
use tempfile::TempDir;

use super::*;
use crate::body::JsonBody;
use crate::hijack::Hijack;
use crate::listen::{Listener, accept_loop};
use crate::reply::Json;

/// Handlers that were given up because the client left.
static GIVEN_UP: AtomicUsize = AtomicUsize::new(0);

struct Waiting;

impl Drop for Waiting {
    fn drop(&mut self) {
        GIVEN_UP.fetch_add(1, Ordering::SeqCst);
    }
}

fn routes() -> Router {
    use sampan_api::types::exec::ExecStartRequest;
    Router::new()
        .route("/echo", get(async || "echo"))
        .route("/big", get(async || "x".repeat(4 * 1024 * 1024)))
        .route(
            "/json",
            post(async |JsonBody(body): JsonBody<ExecStartRequest>| Json(body)),
        )
        .route(
            "/wait",
            get(async || {
                let _waiting = Waiting;
                std::future::pending::<()>().await;
            }),
        )
        .route(
            "/attach",
            post(async |hijack: Hijack| {
                let head = hijack.head("x/y");
                hijack
                    .take(async move |raw| {
                        head.write(&raw.socket).await.unwrap();
                        tokio::task::spawn_blocking(move || {
                            let mut stream = UnixStream::from(raw.socket);
                            stream.set_nonblocking(false).unwrap();
                            stream.write_all(&raw.leftover).unwrap();
                            let mut input = Vec::new();
                            stream.read_to_end(&mut input).unwrap();
                            input.make_ascii_uppercase();
                            stream.write_all(&input).unwrap();
                        })
                        .await
                        .unwrap();
                    })
                    .await
            }),
        )
}

struct Server {
    directory: TempDir,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("sock")).unwrap();
        let stop = CancellationToken::new();
        let token = stop.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                listener.set_nonblocking(true).unwrap();
                let listener = tokio::net::UnixListener::from_std(listener).unwrap();
                let listener = Listener::Unix(listener);
                accept_loop(listener, Edge::new(routes()), limits, token).await;
            });
        });
        Self {
            directory,
            stop,
            thread: Some(thread),
        }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.directory.path().join("sock")).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    /// Sends bytes and reads until the server closes.
    fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may close before it has read everything.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn alive(&self) {
        let answer = self.exchange(b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

fn read_head(stream: &mut UnixStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn every_reply_carries_dockers_headers() {
    let server = Server::start(Limits::default());
    for path in ["/echo", "/v1.24/echo", "/none", "/v9.9/echo"] {
        let answer = server.exchange(
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        for header in [
            "api-version: 1.51",
            "ostype: linux",
            "docker-experimental: false",
            "server: Sampan/",
        ] {
            assert!(answer.contains(header), "{path}: {answer}");
        }
    }
}

#[test]
fn unknown_route_and_method_are_page_not_found() {
    let server = Server::start(Limits::default());
    for request in [
        "GET /none",
        "DELETE /echo",
        "HEAD /echo",
        "GET /echo/../../etc",
    ] {
        let answer = server.exchange(
            format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
        );
        assert!(answer.starts_with("HTTP/1.1 404"), "{request}: {answer}");
        if !request.starts_with("HEAD") {
            assert!(
                answer.ends_with("{\"message\":\"page not found\"}\n"),
                "{answer}"
            );
        }
    }
}

#[test]
fn hijack_with_upgrade_is_101_and_keeps_early_bytes() {
    let server = Server::start(Limits::default());
    let mut stream = server.connect();
    // A former request on the same connection, pipelined with the hijack and its input.
    stream
        .write_all(
            b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n\
              POST /v1.51/attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
              Content-Length: 0\r\n\r\nearly ",
        )
        .unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200"));
    let mut body = [0; 4];
    stream.read_exact(&mut body).unwrap();
    assert_eq!(
        read_head(&mut stream),
        "HTTP/1.1 101 UPGRADED\r\nContent-Type: x/y\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    );
    stream.write_all(b"late").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "early LATE");
}

#[test]
fn hijack_without_upgrade_is_200_and_raw() {
    let server = Server::start(Limits::default());
    let mut stream = server.connect();
    stream
        .write_all(b"POST /attach HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    assert_eq!(
        read_head(&mut stream),
        "HTTP/1.1 200 OK\r\nContent-Type: x/y\r\n\r\n"
    );
    stream.write_all(b"input").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "INPUT");
}

#[test]
fn nothing_comes_in_one_piece_with_the_head_unless_the_client_is_known_to_keep_it() {
    let server = Server::start(Limits::default());
    for (agent, alone) in [("docker-sdk-python/7", true), ("Docker-Client/28", false)] {
        let mut stream = server.connect();
        // What follows the request comes back at once.
        let request = format!(
            "POST /attach HTTP/1.1\r\nHost: x\r\nUser-Agent: {agent}\r\n\
             Content-Length: 0\r\n\r\nearly"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut first = [0; 4096];
        let length = stream.read(&mut first).unwrap();
        let first = String::from_utf8_lossy(&first[..length]).into_owned();
        assert!(first.starts_with("HTTP/1.1 200 OK\r\n"), "{first}");
        if alone {
            assert!(first.ends_with("\r\n\r\n"), "{first}");
            let mut rest = [0; 5];
            stream.read_exact(&mut rest).unwrap();
            assert_eq!(&rest, b"early");
        }
    }
}

#[test]
fn hijack_waits_for_former_answers_to_be_written() {
    let server = Server::start(Limits::default());
    let mut stream = server.connect();
    stream
        .write_all(
            b"GET /big HTTP/1.1\r\nHost: x\r\n\r\nPOST /attach HTTP/1.1\r\nHost: x\r\n\r\nin",
        )
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let text = String::from_utf8(answer).unwrap();
    let (head, rest) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-length: 4194304"));
    assert!(
        rest.as_bytes()[..4_194_304]
            .iter()
            .all(|byte| *byte == b'x')
    );
    assert_eq!(
        &rest[4_194_304..],
        "HTTP/1.1 200 OK\r\nContent-Type: x/y\r\n\r\nin"
    );
}

#[test]
fn half_closed_client_still_gets_its_answer() {
    let server = Server::start(Limits::default());
    let mut stream = server.connect();
    stream.write_all(b"GET /echo HTTP/1.0\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("echo"), "{answer}");
}

#[test]
fn client_that_leaves_ends_its_request() {
    let server = Server::start(Limits::default());
    let before = GIVEN_UP.load(Ordering::SeqCst);
    let mut stream = server.connect();
    stream
        .write_all(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    std::thread::sleep(Duration::from_millis(100));
    drop(stream);
    let deadline = Instant::now() + Duration::from_secs(5);
    while GIVEN_UP.load(Ordering::SeqCst) == before {
        assert!(Instant::now() < deadline, "the handler was not given up");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn head_that_does_not_come_is_cut() {
    let limits = Limits {
        head_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let server = Server::start(limits);
    let mut slow: Vec<_> = (0..500).map(|_| server.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /echo HTTP/1.1\r\nX-").unwrap();
    }
    server.alive();
    std::thread::sleep(Duration::from_millis(600));
    for stream in &mut slow {
        let mut rest = Vec::new();
        // Closed, with a 408 or without.
        let _ = stream.read_to_end(&mut rest);
    }
    server.alive();
}

#[test]
fn idle_connections_give_way_to_new_ones() {
    let limits = Limits {
        connections: 4,
        ..Limits::default()
    };
    let server = Server::start(limits);
    let mut waiting = server.connect();
    waiting
        .write_all(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    // Until its request has been read it is as idle as the others.
    std::thread::sleep(Duration::from_millis(200));
    let _idle: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(b"GET /echo HTTP/1.1\r\n").unwrap();
            stream
        })
        .collect();
    server.alive();
    // The one that is being served was left alone.
    waiting
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let error = waiting.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn malformed_requests_are_refused_in_bounded_time() {
    let server = Server::start(Limits::default());
    let long = "a".repeat(1024 * 1024);
    let many: String = (0..100_000).map(|n| format!("h{n}: v\r\n")).collect();
    let extension = "x".repeat(1024 * 1024);
    let cases = [
        "\0\0\0\0\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        format!("GET /echo HTTP/1.1\r\nH: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\n\r\n"),
        format!("GET /echo HTTP/1.1\r\n{many}\r\n"),
        "GET /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_owned(),
        "GET /echo HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_owned(),
        "POST /json HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n".to_owned(),
        "POST /json HTTP/1.1\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n{}"
            .to_owned(),
        "POST /json HTTP/1.1\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\n\r\nzz\r\n{}"
            .to_owned(),
        format!(
            "POST /json HTTP/1.1\r\nContent-Type: application/json\r\n\
             Transfer-Encoding: chunked\r\n\r\n2;{extension}\r\n{{}}\r\n0\r\n\r\n"
        ),
        "GET /v1.51/%zz HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(),
    ];
    for case in cases {
        let started = Instant::now();
        let answer = server.exchange(case.as_bytes());
        let shown = &case[..case.len().min(80)];
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{shown}: {answer}"
        );
        assert!(started.elapsed() < Duration::from_secs(60), "{shown}");
    }
    server.alive();
}

#[test]
fn smuggled_request_is_not_seen() {
    let server = Server::start(Limits::default());
    let answer = server.exchange(
        b"POST /json HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
          Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n\
          0\r\n\r\nGET /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    // Either refused, or read by Transfer-Encoding alone as RFC 9112 6.3 demands and closed.
    let answers = answer.matches("HTTP/1.1 ").count();
    assert!(
        answers <= 1 || answer.starts_with("HTTP/1.1 400"),
        "{answer}"
    );
}

#[test]
fn body_of_64_mib_is_refused_with_a_sentence() {
    let server = Server::start(Limits::default());
    let size = 64 * 1024 * 1024;
    let mut request = format!(
        "POST /json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    )
    .into_bytes();
    request.resize(request.len() + size, b' ');
    let answer = server.exchange(&request);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(
        answer.contains("at most 4 MiB of JSON are read"),
        "{answer}"
    );
    server.alive();
}

#[test]
fn who_writes_before_reading_sees_why_nobody_listened() {
    let server = Server::start(Limits::default());
    let mut stream = server.connect();
    let head = "POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    for _ in 0..80 {
        stream.write_all(&[b'x'; 100_000]).unwrap();
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[test]
fn json_body_needs_its_content_type() {
    let server = Server::start(Limits::default());
    let send = |content_type: &str, body: &str| {
        server.exchange(
            format!(
                "POST /json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{content_type}\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        )
    };
    let json = "Content-Type: application/json\r\n";
    let ok = send(
        json,
        r#"{"tty":false,"TTY":true,"DETACH":true,"x":{"y":[1]}}"#,
    );
    assert!(ok.ends_with("{\"Detach\":true,\"Tty\":true}\n"), "{ok}");
    assert!(send("", "").starts_with("HTTP/1.1 200"));
    for (content_type, body) in [
        ("", "{}"),
        ("Content-Type: text/plain\r\n", "{}"),
        (json, "{}{}"),
        (json, r#"{"Tty":NaN}"#),
        (json, "\u{feff}{}"),
    ] {
        let answer = send(content_type, body);
        assert!(answer.starts_with("HTTP/1.1 400"), "{body}: {answer}");
        assert!(answer.contains(r#"{"message":""#), "{answer}");
    }
}

#[test]
fn ten_thousand_pipelined_requests_are_answered() {
    let server = Server::start(Limits::default());
    let mut stream = server.connect();
    let mut writer = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        for _ in 0..10_000 {
            writer
                .write_all(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    sender.join().unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 10_000);
}

#[test]
fn stop_lets_an_idle_connection_go() {
    let server = Server::start(Limits::default());
    let _idle = server.connect();
    let started = Instant::now();
    drop(server);
    assert!(started.elapsed() < Duration::from_secs(3));
}
