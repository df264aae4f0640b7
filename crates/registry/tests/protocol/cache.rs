//! Copies of an upstream that does as it should, is away, or means harm.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sampan_oci::Digest;
use sampan_registry::{Credentials, Upstream};

use crate::support::{MANIFEST, Server, Setup, manifest};

const LAYER: usize = 3_000_000;

/// A registry with one image, which counts what it is asked for and can be told to misbehave.
struct Origin {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    manifests: AtomicUsize,
    blobs: AtomicUsize,
    away: AtomicBool,
    wrong: AtomicBool,
    slow: AtomicBool,
    /// What it was told about who asks.
    authorizations: Mutex<Vec<String>>,
    /// Where it sends those who ask without a token.
    realm: Mutex<Option<String>>,
}

fn layer() -> Vec<u8> {
    (0..LAYER).map(|i| (i * 31 % 251) as u8).collect()
}

fn image() -> String {
    let layer = layer();
    manifest(
        &[(Digest::of(b"{}"), 2)],
        &[(Digest::of(&layer), LAYER)],
        "",
    )
}

impl Origin {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let served = Arc::clone(&state);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let state = Arc::clone(&served);
                std::thread::spawn(move || {
                    let _ = serve(socket, &state);
                });
            }
        });
        Self { address, state }
    }

    fn upstream(&self) -> Upstream {
        Upstream {
            prefix: String::new(),
            registry: self.address.to_string(),
            insecure: true,
            credentials: Credentials::default(),
            token_hosts: Vec::new(),
            fresh: Some(Duration::ZERO),
            keep: None,
        }
    }
}

fn serve(mut socket: TcpStream, state: &State) -> std::io::Result<()> {
    let mut reader = BufReader::new(socket.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        if line.to_ascii_lowercase().starts_with("authorization:") {
            state.authorizations.lock().unwrap().push(line);
        }
    }
    if state.away.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mut answer = |status: &str, kind: &str, body: &[u8]| {
        write!(
            socket,
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        )?;
        for piece in body.chunks(64 << 10) {
            if state.slow.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
            }
            socket.write_all(piece)?;
        }
        Ok(())
    };
    if let Some(realm) = state.realm.lock().unwrap().clone() {
        let head =
            format!("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"{realm}\",service=\"x\"");
        return answer(&head, "text/plain", b"");
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let image = image();
    if path.contains("/manifests/v1") || path.contains(&Digest::of(image.as_bytes()).to_string()) {
        state.manifests.fetch_add(1, Ordering::Relaxed);
        return answer("200 OK", MANIFEST, image.as_bytes());
    }
    if path.contains("/blobs/") {
        state.blobs.fetch_add(1, Ordering::Relaxed);
        let mut bytes = if path.ends_with(&Digest::of(b"{}").to_string()) {
            b"{}".to_vec()
        } else {
            layer()
        };
        if state.wrong.load(Ordering::Relaxed) {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
        }
        return answer("200 OK", "application/octet-stream", &bytes);
    }
    answer(
        "404 Not Found",
        "application/json",
        b"{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\"}]}",
    )
}

fn cache(upstream: Upstream) -> Server {
    Server::with(Setup {
        upstreams: vec![upstream],
        ..Setup::default()
    })
}

#[test]
fn many_clients_cost_the_upstream_one_download() {
    let origin = Origin::start();
    origin.state.slow.store(true, Ordering::Relaxed);
    let server = cache(origin.upstream());
    server.get("/v2/a/manifests/v1").expect(200);
    let path = format!("/v2/a/blobs/{}", Digest::of(&layer()));
    std::thread::scope(|scope| {
        for number in 0..12 {
            let (server, path) = (&server, &path);
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(number * 20));
                if number % 3 == 0 {
                    let part = server.send("GET", path, &[("Range", "bytes=100-1999999")], b"");
                    assert_eq!(part.expect(206).body, layer()[100..2_000_000]);
                } else {
                    assert_eq!(server.get(path).expect(200).body, layer());
                }
            });
        }
    });
    assert_eq!(origin.state.blobs.load(Ordering::Relaxed), 1);
    assert_eq!(server.get(&path).expect(200).body, layer());
    assert_eq!(origin.state.blobs.load(Ordering::Relaxed), 1);
}

#[test]
fn what_is_there_is_given_while_the_upstream_is_away() {
    let origin = Origin::start();
    let server = cache(origin.upstream());
    let first = server.get("/v2/a/manifests/v1").expect(200).body;
    let path = format!("/v2/a/blobs/{}", Digest::of(&layer()));
    server.get(&path).expect(200);
    origin.state.away.store(true, Ordering::Relaxed);
    assert_eq!(server.get("/v2/a/manifests/v1").expect(200).body, first);
    assert_eq!(server.get(&path).expect(200).body, layer());
    let stale = server.get("/metrics").expect(200).text();
    assert!(
        stale.contains("sampan_registry_cache_stale_total 1"),
        "{stale}"
    );
    server.get("/v2/b/manifests/v1").expect(502);
    let config = format!("/v2/a/blobs/{}", Digest::of(b"{}"));
    let mut broken = server.connect();
    broken.raw(format!("GET {config} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
    let mut answer = Vec::new();
    let _ = broken.socket.read_to_end(&mut answer);
    assert!(
        !answer.ends_with(b"\r\n\r\n{}"),
        "a blob that never came was given"
    );
}

#[test]
fn nobody_gets_a_wrong_blob_whole() {
    let origin = Origin::start();
    origin.state.wrong.store(true, Ordering::Relaxed);
    let server = cache(origin.upstream());
    server.get("/v2/a/manifests/v1").expect(200);
    let path = format!("/v2/a/blobs/{}", Digest::of(&layer()));
    let mut client = server.connect();
    client.raw(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes());
    let mut answer = Vec::new();
    let _ = client.socket.read_to_end(&mut answer);
    let head = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap()
        + 4;
    assert!(
        answer.len() - head < LAYER,
        "all bytes of a wrong blob were given"
    );
    assert_eq!(server.stored(), 0);
    origin.state.wrong.store(false, Ordering::Relaxed);
    assert_eq!(server.get(&path).expect(200).body, layer());
}

#[test]
fn only_blobs_of_manifests_that_are_there_are_fetched() {
    let origin = Origin::start();
    let server = cache(origin.upstream());
    let path = format!("/v2/a/blobs/{}", Digest::of(&layer()));
    server.get(&path).refused(404, "BLOB_UNKNOWN");
    assert_eq!(origin.state.blobs.load(Ordering::Relaxed), 0);
    server
        .get("/v2/a/manifests/absent")
        .refused(404, "MANIFEST_UNKNOWN");
    server
        .send("POST", "/v2/a/blobs/uploads/", &[], b"")
        .refused(405, "UNSUPPORTED");
}

#[test]
fn credentials_go_nowhere_else() {
    let origin = Origin::start();
    let thief = Origin::start();
    // 127.0.0.2 is another host, though it is this machine too.
    let realm = format!("http://127.0.0.2:{}/token", thief.address.port());
    *origin.state.realm.lock().unwrap() = Some(realm);
    let mut upstream = origin.upstream();
    upstream.credentials = Credentials {
        username: "me".to_owned(),
        password: "secret".to_owned(),
        ..Credentials::default()
    };
    let server = cache(upstream);
    let mine = [("Authorization", "Basic bWluZTptaW5l")];
    let answer = server
        .send("GET", "/v2/a/manifests/v1", &mine, b"")
        .expect(502);
    assert!(!answer.text().contains("secret"));
    assert!(thief.state.authorizations.lock().unwrap().is_empty());
    for known in origin.state.authorizations.lock().unwrap().iter() {
        assert!(
            !known.contains("bWluZTptaW5l"),
            "a client's credentials went to the upstream"
        );
    }
}
