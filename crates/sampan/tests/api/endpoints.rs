//! Every endpoint that Docker has is answered, and what every answer has in common.

use sampan_testing::{TestEngine, until};

use crate::engine;
use crate::http::{ask, send, tell};

/// Method and path of every endpoint of Docker's API 1.56, by its definition and its router.
const ENDPOINTS: &str = include_str!("endpoints.tsv");

/// Endpoints that Docker's own engine has only while it is debugged. They show the insides of
/// a Go program.
const GO_ONLY: &[&str] = &["/debug/vars", "/debug/pprof/{name}"];

/// The path with something in place of its parameters.
fn example(path: &str) -> String {
    let parts = path.split('/').map(|part| {
        if part.starts_with('{') {
            "nonesuch"
        } else {
            part
        }
    });
    parts.collect::<Vec<_>>().join("/")
}

#[test]
fn every_endpoint_of_docker_is_known() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    for line in ENDPOINTS.lines() {
        let (method, path) = line.split_once('\t').unwrap();
        if GO_ONLY.contains(&path) || path == "/events" {
            continue;
        }
        let answer = ask(&engine, method, &format!("/v1.51{}", example(path)));
        assert!(
            !answer.text().contains("page not found"),
            "{method} {path}: {answer:?}"
        );
        if answer.status == 501 && method != "HEAD" {
            assert!(
                answer
                    .message()
                    .contains("not supported by this engine yet"),
                "{method} {path}: {answer:?}"
            );
        }
        // A missing object is missing, and not an inner failure.
        assert_ne!(answer.status, 500, "{method} {path}: {answer:?}");
    }
}

#[test]
fn every_answer_says_who_answers() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    for (path, status) in [
        ("/_ping", 200),
        ("/v1.24/info", 200),
        ("/v1.51/containers/nonesuch/json", 404),
        ("/v0.0/info", 400),
        ("/v999/info", 400),
        ("/nonesuch", 404),
        ("/v1.51/swarm", 501),
    ] {
        let answer = ask(&engine, "GET", path).expect(status);
        assert_eq!(answer.header("api-version"), Some("1.51"), "{path}");
        assert_eq!(answer.header("ostype"), Some("linux"), "{path}");
        assert_eq!(
            answer.header("docker-experimental"),
            Some("false"),
            "{path}"
        );
        assert!(
            answer.header("server").unwrap().starts_with("Sampan/"),
            "{path}"
        );
    }
}

#[test]
fn ping_is_dockers() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let get = ask(&engine, "GET", "/_ping").expect(200);
    assert_eq!(get.text(), "OK");
    assert_eq!(get.header("swarm"), Some("inactive"));
    assert_eq!(get.header("pragma"), Some("no-cache"));
    assert_eq!(
        get.header("cache-control"),
        Some("no-cache, no-store, must-revalidate")
    );
    let head = ask(&engine, "HEAD", "/v1.40/_ping").expect(200);
    assert_eq!(head.header("content-length"), Some("0"));
    assert!(head.body.is_empty());
}

#[test]
fn bad_requests_are_refused_in_a_sentence() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let deep = format!(r#"{{"Image":{}"#, "[".repeat(100_000));
    let deep_unknown = format!(r#"{{"x":{}"#, "[".repeat(100_000));
    for (body, says) in [
        ("", "invalid JSON: got EOF while reading request body"),
        ("{", "invalid JSON: "),
        ("[]", "invalid JSON: "),
        ("{}{}", "unexpected content after JSON"),
        (r#"{"Image":1}"#, "invalid JSON: Image: "),
        (
            r#"{"Image":"x","HostConfig":{"Memory":NaN}}"#,
            "invalid JSON: ",
        ),
        (
            r#"{"Image":"x","HostConfig":{"Memory":1e999}}"#,
            "invalid JSON: ",
        ),
        (
            r#"{"Image":"x","HostConfig":{"Memory":1.5}}"#,
            "invalid JSON: HostConfig: Memory: ",
        ),
        (&deep, "invalid JSON: "),
        (&deep_unknown, "invalid JSON: "),
    ] {
        let answer = tell(&engine, "POST", "/containers/create", body).expect(400);
        let message = answer.message();
        assert!(message.starts_with(says), "{body:.60}: {message}");
        assert!(message.len() < 300, "{message}");
    }
    let plain = ["Content-Type: text/plain"];
    let answer = send(&engine, "POST", "/containers/create", &plain, b"{}").expect(400);
    assert_eq!(
        answer.message(),
        "unsupported Content-Type header (text/plain): must be 'application/json'"
    );
    for (path, says) in [
        ("/containers/json?filters=x", "invalid filter"),
        (
            "/containers/json?filters=%7B%22bogus%22%3A%5B%22a%22%5D%7D",
            "invalid filter 'bogus'",
        ),
        (
            "/images/json?filters=%7B%22bogus%22%3A%5B%22a%22%5D%7D",
            "invalid filter 'bogus'",
        ),
        (
            "/volumes?filters=%7B%22bogus%22%3A%5B%22a%22%5D%7D",
            "invalid filter 'bogus'",
        ),
        (
            "/networks?filters=%7B%22bogus%22%3A%5B%22a%22%5D%7D",
            "invalid filter 'bogus'",
        ),
        (
            "/events?filters=%7B%22bogus%22%3A%5B%22a%22%5D%7D",
            "invalid filter 'bogus'",
        ),
        ("/containers/json?limit=x", "invalid value for limit"),
        ("/containers/json?all=%zz", "invalid URL escape"),
        ("/events?since=2&until=1", "`since` time"),
    ] {
        let message = ask(&engine, "GET", path).expect(400).message();
        assert!(message.starts_with(says), "{path}: {message}");
    }
}

#[test]
fn names_that_climb_find_nothing() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    for name in [
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "..%2f..%2f..%2fetc",
        "%2Fetc%2Fpasswd",
        "%00",
        "a%00b",
        "%ff%fe",
        "%2e",
        "~",
        "%25",
    ] {
        for path in [
            format!("/containers/{name}/json"),
            format!("/volumes/{name}"),
            format!("/networks/{name}"),
            format!("/exec/{name}/json"),
            format!("/images/{name}/json"),
        ] {
            let answer = ask(&engine, "GET", &path);
            assert!(
                matches!(answer.status, 400 | 404),
                "{path}: {} {}",
                answer.status,
                answer.text()
            );
        }
        for path in [format!("/volumes/{name}"), format!("/images/{name}")] {
            let answer = ask(&engine, "DELETE", &path);
            assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
        }
    }
    assert_untouched(&engine);
}

/// Something was there before and still is.
fn assert_untouched(engine: &TestEngine) {
    assert!(engine.root().is_dir());
    assert!(std::path::Path::new("/etc/passwd").is_file());
}

#[test]
fn pings_are_answered_while_the_engine_is_killed() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let before = engine.pid();
    engine.kill();
    // The keeper holds the socket: the request waits for the next engine.
    let _ = ask(&engine, "GET", "/_ping").expect(200);
    until("another engine answers", || engine.pid() != before);
}
