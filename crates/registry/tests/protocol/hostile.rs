//! Clients that mean harm.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use sampan_oci::Digest;
use sampan_registry::{Limits, Settings};

use crate::support::{MANIFEST, Server, Setup, manifest};

#[test]
fn names_never_lead_out_of_the_store() {
    let server = Server::start();
    let digest = Digest::of(b"x");
    for name in [
        "..",
        "../..",
        "a/../b",
        "%2e%2e",
        "%2e%2e%2f%2e%2e",
        "a%2f..%2fb",
        "a//b",
        "/a",
        "a/",
        "_tags",
        "a/_blobs",
        "a/_manifests/b",
        ".a",
        "A",
        "a%00b",
        "a%0ab",
        "~",
        "a\\b",
        "-a",
        &"a/".repeat(200),
    ] {
        for (method, rest) in [
            ("POST", "blobs/uploads/".to_owned()),
            ("GET", "tags/list".to_owned()),
            ("GET", "manifests/v1".to_owned()),
            ("PUT", "manifests/v1".to_owned()),
            ("GET", format!("blobs/{digest}")),
        ] {
            let answer = server.send(method, &format!("/v2/{name}/{rest}"), &[], b"");
            assert!(matches!(answer.status, 400 | 404), "{name} {answer:?}");
        }
    }
    for reference in ["..", "%2e%2e%2fx", "sha256:../../../etc/passwd", "a%2fb"] {
        let answer = server.get(&format!("/v2/a/manifests/{reference}"));
        assert!(matches!(answer.status, 400 | 404), "{reference} {answer:?}");
        let answer = server.get(&format!("/v2/a/blobs/{reference}"));
        assert!(matches!(answer.status, 400 | 404), "{reference} {answer:?}");
        let answer = server.get(&format!("/v2/a/blobs/uploads/{reference}"));
        assert!(matches!(answer.status, 400 | 404), "{reference} {answer:?}");
    }
    assert_eq!(server.registry.totals(), sampan_registry::Totals::default());
}

#[test]
fn huge_manifests_are_refused() {
    let server = Server::start();
    let huge = vec![b' '; (4 << 20) + 1];
    let headers = [("Content-Type", MANIFEST)];
    server
        .send("PUT", "/v2/a/manifests/v1", &headers, &huge)
        .refused(413, "MANIFEST_INVALID");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    server
        .send("PUT", "/v2/a/manifests/v1", &headers, deep.as_bytes())
        .refused(400, "MANIFEST_INVALID");
    let digest = server.push_blob("a", b"{}");
    let descriptor = format!(r#"{{"mediaType":"x/y","digest":"{digest}","size":2}}"#);
    let layers = vec![descriptor.as_str(); 20_000].join(",");
    let many = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[{layers}]}}"#);
    server
        .send("PUT", "/v2/a/manifests/v1", &headers, many.as_bytes())
        .refused(400, "MANIFEST_INVALID");
}

#[test]
fn blobs_and_uploads_have_bounds() {
    let server = Server::with(Setup {
        settings: Settings {
            max_blob: 1000,
            max_uploads: 3,
            ..Settings::default()
        },
        ..Setup::default()
    });
    let bytes = vec![0; 1001];
    let digest = Digest::of(&bytes);
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    server
        .send("POST", &path, &[], &bytes)
        .refused(413, "SIZE_INVALID");
    let begun = server
        .send("POST", "/v2/a/blobs/uploads/", &[], b"")
        .expect(202);
    let location = begun.header("location").unwrap().to_owned();
    // Without a length the bound shows only on the way.
    let body = [b"3e9\r\n".as_slice(), &bytes, b"\r\n0\r\n\r\n"].concat();
    let headers = [("Transfer-Encoding", "chunked")];
    server
        .send("PATCH", &location, &headers, &body)
        .refused(413, "SIZE_INVALID");
    server.get(&location).expect(404);
    for status in [202, 202, 202, 429] {
        server
            .send("POST", "/v2/a/blobs/uploads/", &[], b"")
            .expect(status);
    }
}

#[test]
fn slow_bodies_and_heads_are_given_up() {
    let server = Server::with(Setup {
        limits: Limits {
            head_timeout: Duration::from_millis(300),
            stall: Duration::from_millis(300),
            slowest: 10_000,
            drain: Duration::from_secs(1),
            ..Limits::default()
        },
        ..Setup::default()
    });
    let mut silent = server.connect();
    silent.raw(b"GET /v2/ HTTP/1.1\r\nHost: ");
    let mut rest = Vec::new();
    let _ = silent.socket.read_to_end(&mut rest);
    let begun = server
        .send("POST", "/v2/a/blobs/uploads/", &[], b"")
        .expect(202);
    let location = begun.header("location").unwrap().to_owned();
    let head = format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n");
    let mut stalled = server.connect();
    stalled.raw(head.as_bytes());
    stalled.answer(false).expect(408);
    let mut trickling = server.connect();
    trickling.raw(head.as_bytes());
    let start = Instant::now();
    while trickling.socket.write_all(b"x").is_ok() {
        std::thread::sleep(Duration::from_millis(20));
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "it may trickle for ever"
        );
    }
    // The upload is there for a client that means it.
    let progress = server.get(&location).expect(204);
    assert!(progress.header("range").unwrap().starts_with("0-"));
}

#[test]
fn clients_that_say_or_read_nothing_are_given_up() {
    let server = Server::with(Setup {
        limits: Limits {
            head_timeout: Duration::from_millis(300),
            stall: Duration::from_millis(300),
            connections: 3,
            drain: Duration::from_secs(1),
            ..Limits::default()
        },
        ..Setup::default()
    });
    // More than all buffers between server and client hold.
    const SIZE: usize = 64 << 20;
    let blob = server.push_blob("a", &vec![0; SIZE]);
    let config = server.push_blob("a", b"{}");
    let padding = "x".repeat(4_000_000);
    let more = format!(r#","annotations":{{"a":"{padding}"}}"#);
    server.push_manifest("a", "v1", &manifest(&[(config, 2)], &[], &more));
    let mut asks_for_blob = server.connect();
    asks_for_blob.raw(format!("GET /v2/a/blobs/{blob} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    let mut asks_for_manifests = server.connect();
    let ask = "GET /v2/a/manifests/v1 HTTP/1.1\r\nHost: x\r\n\r\n";
    asks_for_manifests.raw(ask.repeat(SIZE / padding.len()).as_bytes());
    let silent = server.connect();
    // There is no place for a fourth before the first three are gone.
    server.get("/v2/").expect(200);
    for mut connection in [asks_for_blob, asks_for_manifests, silent] {
        let mut came = Vec::new();
        let _ = connection.socket.read_to_end(&mut came);
        assert!(came.len() < SIZE, "it was waited for");
    }
}

#[test]
fn one_upload_has_one_writer() {
    let server = Server::start();
    let begun = server
        .send("POST", "/v2/a/blobs/uploads/", &[], b"")
        .expect(202);
    let location = begun.header("location").unwrap().to_owned();
    let mut first = server.connect();
    first.raw(
        format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc").as_bytes(),
    );
    std::thread::sleep(Duration::from_millis(200));
    server
        .send("PATCH", &location, &[], b"xyz")
        .refused(409, "BLOB_UPLOAD_INVALID");
    first.raw(b"def");
    assert_eq!(first.answer(false).expect(202).header("range"), Some("0-5"));
}

#[test]
fn half_open_uploads_do_not_keep_the_server_from_stopping() {
    let server = Server::start();
    let begun = server
        .send("POST", "/v2/a/blobs/uploads/", &[], b"")
        .expect(202);
    let location = begun.header("location").unwrap().to_owned();
    let mut connection = server.connect();
    connection.raw(
        format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 60\r\n\r\nabc").as_bytes(),
    );
    std::thread::sleep(Duration::from_millis(100));
    let start = Instant::now();
    drop(server);
    assert!(start.elapsed() < Duration::from_secs(15));
}

#[test]
fn requests_that_are_no_http_do_no_harm() {
    let server = Server::start();
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20));
    for bytes in [
        b"\0\0\0\0\r\n\r\n".as_slice(),
        b"GET\r\n\r\n",
        b"GET /v2/ HTTP/9.9\r\n\r\n",
        b"PATCH /v2/ HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        long.as_bytes(),
    ] {
        let mut connection = server.connect();
        let _ = connection.socket.write_all(bytes);
        let _ = connection.socket.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = connection.socket.read_to_end(&mut answer);
    }
    server.get("/v2/").expect(200);
}
