//! Every way to upload a blob.

use sampan_oci::Digest;

use crate::support::{Answer, Server};

/// A payload of some size.
fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 % 251) as u8).collect()
}

#[track_caller]
fn begin(server: &Server, repository: &str) -> String {
    let path = format!("/v2/{repository}/blobs/uploads/");
    let answer = server.send("POST", &path, &[], b"").expect(202);
    assert!(answer.header("docker-upload-uuid").is_some());
    assert_eq!(answer.header("range"), Some("0-0"));
    answer.header("location").unwrap().to_owned()
}

#[track_caller]
fn check(server: &Server, repository: &str, bytes: &[u8]) {
    let digest = Digest::of(bytes);
    let path = format!("/v2/{repository}/blobs/{digest}");
    let head = server.send("HEAD", &path, &[], b"").expect(200);
    assert_eq!(
        head.header("content-length").unwrap(),
        bytes.len().to_string()
    );
    assert_eq!(
        head.header("docker-content-digest").unwrap(),
        digest.to_string()
    );
    assert_eq!(server.get(&path).expect(200).body, bytes);
}

#[track_caller]
fn created(answer: Answer, repository: &str, digest: &Digest) {
    let answer = answer.expect(201);
    assert_eq!(
        answer.header("docker-content-digest").unwrap(),
        digest.to_string()
    );
    assert_eq!(
        answer.header("location").unwrap(),
        format!("/v2/{repository}/blobs/{digest}")
    );
}

#[test]
fn a_blob_goes_up_in_one_request() {
    let server = Server::start();
    for size in [0, 1, 300_000, 3_000_000] {
        let bytes = payload(size);
        let _ = server.push_blob("a/b", &bytes);
        check(&server, "a/b", &bytes);
    }
}

#[test]
fn a_blob_goes_up_in_two_requests() {
    let server = Server::start();
    let bytes = payload(1_000_000);
    let digest = Digest::of(&bytes);
    let location = begin(&server, "a");
    let answer = server.send("PUT", &format!("{location}?digest={digest}"), &[], &bytes);
    created(answer, "a", &digest);
    check(&server, "a", &bytes);
    server.get(&location).refused(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(server.registry.uploads(), 0);
}

#[test]
fn a_blob_goes_up_in_chunks_that_say_where_they_belong() {
    let server = Server::start();
    let bytes = payload(900_000);
    let digest = Digest::of(&bytes);
    let mut location = begin(&server, "a");
    let (first, rest) = bytes.split_at(400_000);
    let (second, last) = rest.split_at(300_000);
    for (range, chunk) in [("0-399999", first), ("400000-699999", second)] {
        let answer = server
            .send("PATCH", &location, &[("Content-Range", range)], chunk)
            .expect(202);
        let end = range.split('-').nth(1).unwrap();
        assert_eq!(answer.header("range").unwrap(), format!("0-{end}"));
        location = answer.header("location").unwrap().to_owned();
    }
    // Again, or further on, is not where the upload ends.
    for range in ["0-399999", "800000-1199999"] {
        let answer = server
            .send("PATCH", &location, &[("Content-Range", range)], first)
            .refused(416, "BLOB_UPLOAD_INVALID");
        assert_eq!(answer.header("range"), Some("0-699999"));
    }
    let progress = server.get(&location).expect(204);
    assert_eq!(progress.header("range"), Some("0-699999"));
    let answer = server.send(
        "PUT",
        &format!("{location}?digest={digest}"),
        &[("Content-Range", "700000-899999")],
        last,
    );
    created(answer, "a", &digest);
    check(&server, "a", &bytes);
}

#[test]
fn a_blob_goes_up_as_a_stream_of_no_known_length() {
    let server = Server::start();
    let bytes = payload(700_000);
    let digest = Digest::of(&bytes);
    let location = begin(&server, "a");
    let mut body = Vec::new();
    for piece in bytes.chunks(65_000) {
        body.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        body.extend_from_slice(piece);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    let headers = [("Transfer-Encoding", "chunked")];
    let answer = server.send("PATCH", &location, &headers, &body).expect(202);
    assert_eq!(answer.header("range"), Some("0-699999"));
    let answer = server.send("PUT", &format!("{location}?digest={digest}"), &[], b"");
    created(answer, "a", &digest);
    check(&server, "a", &bytes);
}

#[test]
fn an_upload_goes_on_after_a_broken_connection_and_a_restart() {
    let server = Server::start();
    let bytes = payload(2_000_000);
    let digest = Digest::of(&bytes);
    let location = begin(&server, "a");
    let mut connection = server.connect();
    connection.raw(
        format!("PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n")
            .as_bytes(),
    );
    connection.raw(&bytes[..1_200_000]);
    drop(connection);
    let mut size = 0;
    for _ in 0..200 {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let progress = server.get(&location);
        if progress.status == 204 {
            let range = progress.header("range").unwrap().to_owned();
            size = range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1;
        }
        if size == 1_200_000 {
            break;
        }
    }
    assert_eq!(
        size, 1_200_000,
        "what came before the connection broke is kept"
    );
    let server = server.restart();
    let range = format!("{size}-1999999");
    let headers = [("Content-Range", range.as_str())];
    server
        .send("PATCH", &location, &headers, &bytes[size..])
        .expect(202);
    let answer = server.send("PUT", &format!("{location}?digest={digest}"), &[], b"");
    created(answer, "a", &digest);
    check(&server.restart(), "a", &bytes);
}

#[test]
fn wrong_digests_are_refused_and_leave_nothing() {
    let server = Server::start();
    let wrong = Digest::of(b"something else");
    let location = begin(&server, "a");
    server
        .send("PUT", &format!("{location}?digest={wrong}"), &[], b"bytes")
        .refused(400, "DIGEST_INVALID");
    server.get(&location).expect(404);
    let path = format!("/v2/a/blobs/uploads/?digest={wrong}");
    server
        .send("POST", &path, &[], b"bytes")
        .refused(400, "DIGEST_INVALID");
    let location = begin(&server, "a");
    for query in [
        "",
        "?digest=",
        "?digest=sha256:zz",
        "?digest=md5:abc",
        "?digest=../../x",
    ] {
        server
            .send("PUT", &format!("{location}{query}"), &[], b"x")
            .refused(400, "DIGEST_INVALID");
    }
    server.send("DELETE", &location, &[], b"").expect(204);
    assert_eq!(server.stored(), 0);
    assert_eq!(server.registry.uploads(), 0);
}

#[test]
fn an_upload_is_cancelled() {
    let server = Server::start();
    let location = begin(&server, "a");
    server.send("PATCH", &location, &[], b"bytes").expect(202);
    server.send("DELETE", &location, &[], b"").expect(204);
    server
        .send("DELETE", &location, &[], b"")
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
    server
        .send("PATCH", &location, &[], b"x")
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn an_upload_belongs_to_one_repository() {
    let server = Server::start();
    let location = begin(&server, "a").replace("/v2/a/", "/v2/b/");
    server.get(&location).refused(404, "BLOB_UPLOAD_UNKNOWN");
    server
        .send("PATCH", &location, &[], b"x")
        .refused(404, "BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn blobs_are_mounted_from_other_repositories() {
    let server = Server::start();
    let digest = server.push_blob("a", b"bytes");
    let path = format!("/v2/b/blobs/{digest}");
    server.get(&path).refused(404, "BLOB_UNKNOWN");
    let mount = |query: &str| {
        let path = format!("/v2/b/blobs/uploads/?mount={digest}{query}");
        server.send("POST", &path, &[], b"")
    };
    assert_eq!(mount("&from=c").status, 202);
    assert_eq!(mount("&from=../a").status, 202);
    server.get(&path).expect(404);
    created(mount("&from=a"), "b", &digest);
    assert_eq!(server.get(&path).expect(200).body, b"bytes");
    let path = format!("/v2/c/blobs/uploads/?mount={digest}");
    created(server.send("POST", &path, &[], b""), "c", &digest);
    let absent = Digest::of(b"absent");
    let path = format!("/v2/c/blobs/uploads/?mount={absent}&from=a");
    server.send("POST", &path, &[], b"").expect(202);
}
