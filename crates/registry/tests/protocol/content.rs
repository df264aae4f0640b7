//! Reading and removing blobs and manifests.

use std::time::Duration;

use sampan_oci::Digest;
use sampan_registry::Limits;

use crate::support::{INDEX, MANIFEST, Server, Setup, manifest};

const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

#[test]
fn the_base_answers_that_the_protocol_is_spoken() {
    let server = Server::start();
    for path in ["/v2", "/v2/"] {
        let answer = server.get(path).expect(200);
        assert_eq!(
            answer.header("docker-distribution-api-version"),
            Some("registry/2.0")
        );
    }
    server.get("/v2/x").expect(404);
    server
        .send("PUT", "/v2/", &[], b"")
        .refused(405, "UNSUPPORTED");
}

#[test]
fn parts_of_blobs_are_read() {
    let server = Server::start();
    let bytes: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    let digest = server.push_blob("a", &bytes);
    let path = format!("/v2/a/blobs/{digest}");
    let mut connection = server.connect();
    for (range, part) in [
        ("bytes=0-0", 0..1),
        ("bytes=10-99999", 10..100_000),
        ("bytes=999999-", 999_999..1_000_000),
        ("bytes=-10", 999_990..1_000_000),
        ("bytes=500000-9999999", 500_000..1_000_000),
    ] {
        // All on one connection: it goes on after each file.
        let answer = connection
            .send("GET", &path, &[("Range", range)], b"")
            .expect(206);
        let shown = format!("bytes {}-{}/1000000", part.start, part.end - 1);
        assert_eq!(answer.header("content-range").unwrap(), shown);
        assert_eq!(answer.body, bytes[part]);
    }
    let answer = connection
        .send("GET", &path, &[("Range", "bytes=1000000-")], b"")
        .expect(416);
    assert_eq!(answer.header("content-range"), Some("bytes */1000000"));
    let whole = connection
        .send("GET", &path, &[("Range", "bytes=1-2,5-6")], b"")
        .expect(200);
    assert_eq!(whole.body, bytes);
    let tag = format!("\"{digest}\"");
    connection
        .send("GET", &path, &[("If-None-Match", &tag)], b"")
        .expect(304);
    let close = connection
        .send("GET", &path, &[("Connection", "close")], b"")
        .expect(200);
    assert_eq!(close.body, bytes);
}

#[test]
fn clients_that_read_as_fast_as_they_can_get_all() {
    // A client that has emptied its socket while the server was about to wait for it is not
    // waited for until it is given up.
    let server = Server::with(Setup {
        limits: Limits {
            stall: Duration::from_secs(5),
            drain: Duration::from_secs(1),
            ..Limits::default()
        },
        ..Setup::default()
    });
    let bytes = vec![7; 4 << 20];
    let digest = server.push_blob("a", &bytes);
    let path = format!("/v2/a/blobs/{digest}");
    std::thread::scope(|scope| {
        for _ in 0..32 {
            scope.spawn(|| {
                let mut connection = server.connect();
                for _ in 0..8 {
                    let answer = connection.send("GET", &path, &[], b"").expect(200);
                    assert!(answer.body == bytes, "other bytes came");
                }
            });
        }
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start();
    let bytes = vec![7; 300_000];
    let digest = server.push_blob("a", &bytes);
    let mut connection = server.connect();
    let request = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n");
    let other = "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n";
    connection.raw(
        [request.as_str(), other, &request, &request, other]
            .concat()
            .as_bytes(),
    );
    for blob in [true, false, true, true, false] {
        let answer = connection.answer(false).expect(200);
        assert_eq!(answer.body == bytes, blob);
    }
}

#[test]
fn manifests_are_found_by_tag_and_digest() {
    let server = Server::start();
    let digest = server.push_image("a/b", "v1", b"layer");
    for reference in ["v1".to_owned(), digest.to_string()] {
        let path = format!("/v2/a/b/manifests/{reference}");
        for method in ["GET", "HEAD"] {
            let answer = server
                .send(method, &path, &[("Accept", MANIFEST)], b"")
                .expect(200);
            assert_eq!(answer.header("content-type"), Some(MANIFEST));
            assert_eq!(
                answer.header("docker-content-digest").unwrap(),
                digest.to_string()
            );
            if method == "GET" {
                assert_eq!(Digest::of(&answer.body), digest);
            }
        }
    }
    for absent in [
        "v2",
        ".INVALID_MANIFEST_NAME",
        &Digest::of(b"x").to_string(),
    ] {
        let path = format!("/v2/a/b/manifests/{absent}");
        server.get(&path).refused(404, "MANIFEST_UNKNOWN");
        server.send("HEAD", &path, &[], b"").expect(404);
    }
    let tag = format!("\"{digest}\"");
    let headers = [("If-None-Match", tag.as_str())];
    server
        .send("GET", "/v2/a/b/manifests/v1", &headers, b"")
        .expect(304);
    let server = server.restart();
    let answer = server.get("/v2/a/b/manifests/v1").expect(200);
    assert_eq!(Digest::of(&answer.body), digest);
}

#[test]
fn what_a_manifest_needs_must_be_in_its_repository() {
    let server = Server::start();
    let config = server.push_blob("a", b"{}");
    let elsewhere = server.push_blob("b", b"secret");
    let text = manifest(&[(config, 2)], &[(elsewhere, 6)], "");
    let headers = [("Content-Type", MANIFEST)];
    server
        .send("PUT", "/v2/a/manifests/v1", &headers, text.as_bytes())
        .refused(400, "MANIFEST_BLOB_UNKNOWN");
    server.get(&format!("/v2/a/blobs/{elsewhere}")).expect(404);
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{config}","size":2}}]}}"#
    );
    let headers = [("Content-Type", INDEX)];
    server
        .send("PUT", "/v2/a/manifests/v1", &headers, index.as_bytes())
        .refused(400, "MANIFEST_BLOB_UNKNOWN");
    server.get("/v2/a/manifests/v1").expect(404);
}

#[test]
fn manifests_that_are_none_are_refused() {
    let server = Server::start();
    let put = |kind: &str, text: &str| {
        server.send(
            "PUT",
            "/v2/a/manifests/v1",
            &[("Content-Type", kind)],
            text.as_bytes(),
        )
    };
    for text in ["", "{}", "null", "[]", "{\"schemaVersion\":1}", "\u{0}"] {
        put(MANIFEST, text).refused(400, "MANIFEST_INVALID");
    }
    let wrong = Digest::of(b"other");
    let config = server.push_blob("a", b"{}");
    let good = manifest(&[(config, 2)], &[], "");
    put(INDEX, &good).refused(400, "MANIFEST_INVALID");
    server
        .send(
            "PUT",
            &format!("/v2/a/manifests/{wrong}"),
            &[("Content-Type", MANIFEST)],
            good.as_bytes(),
        )
        .refused(400, "DIGEST_INVALID");
    server
        .send("PUT", "/v2/a/manifests/.bad", &[], good.as_bytes())
        .refused(400, "TAG_INVALID");
}

#[test]
fn clients_get_what_they_can_read() {
    let server = Server::start();
    let config = server.push_blob("a", b"{}");
    let text = manifest(&[(config, 2)], &[], "").replace(MANIFEST, DOCKER);
    let headers = [("Content-Type", DOCKER)];
    server
        .send("PUT", "/v2/a/manifests/one", &headers, text.as_bytes())
        .expect(201);
    let digest = Digest::of(text.as_bytes());
    let list = format!(
        r#"{{"schemaVersion":2,"mediaType":"{LIST}","manifests":[{{"mediaType":"{DOCKER}","digest":"{digest}","size":{},"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#,
        text.len()
    );
    let headers = [("Content-Type", LIST)];
    server
        .send("PUT", "/v2/a/manifests/many", &headers, list.as_bytes())
        .expect(201);
    let get = |tag: &str, accept: &str| {
        let path = format!("/v2/a/manifests/{tag}");
        server.send("GET", &path, &[("Accept", accept)], b"")
    };
    for (tag, accept, status, kind) in [
        ("one", "*/*", 200, DOCKER),
        ("one", DOCKER, 200, DOCKER),
        ("one", MANIFEST, 404, ""),
        ("many", LIST, 200, LIST),
        ("many", &format!("{MANIFEST}, {LIST};q=0.5"), 200, LIST),
        // A client that knows no lists gets the usual platform's manifest.
        ("many", DOCKER, 200, DOCKER),
        ("many", MANIFEST, 404, ""),
    ] {
        let answer = get(tag, accept).expect(status);
        if status == 200 {
            assert_eq!(answer.header("content-type"), Some(kind), "{tag} {accept}");
        }
    }
    let path = format!("/v2/a/manifests/{digest}");
    server
        .send("GET", &path, &[("Accept", MANIFEST)], b"")
        .expect(200);
}

#[test]
fn tags_manifests_and_blobs_are_deleted() {
    let server = Server::start();
    let digest = server.push_image("a", "one", b"layer");
    let _ = server.push_image("a", "two", b"layer");
    let layer = Digest::of(b"layer");
    let delete = |path: &str| server.send("DELETE", path, &[], b"");
    // A manifest needs it.
    delete(&format!("/v2/a/blobs/{layer}")).refused(405, "UNSUPPORTED");
    delete("/v2/a/manifests/one").expect(202);
    server.get("/v2/a/manifests/one").expect(404);
    server.get("/v2/a/manifests/two").expect(200);
    delete("/v2/a/manifests/one").refused(404, "MANIFEST_UNKNOWN");
    delete(&format!("/v2/a/manifests/{digest}")).expect(202);
    server.get("/v2/a/manifests/two").expect(404);
    server.get(&format!("/v2/a/manifests/{digest}")).expect(404);
    delete(&format!("/v2/a/blobs/{layer}")).expect(202);
    server.get(&format!("/v2/a/blobs/{layer}")).expect(404);
    delete(&format!("/v2/a/blobs/{layer}")).refused(404, "BLOB_UNKNOWN");
    let server = server.restart();
    server.get("/v2/a/manifests/two").expect(404);
    server.get(&format!("/v2/a/blobs/{layer}")).expect(404);
}
