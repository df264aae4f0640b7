//! The client against registries that are honest, broken or hostile.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sampan_oci::{Digest, MediaType};
use sampan_registry_client::{
    Access, Client, Config, Content, Credentials, Error, ErrorKind, Mounted, Piece, Source, Target,
};
use sampan_testing::{Answer, Asked, ScriptedServer};

const MANIFEST: &[u8] = br#"{"schemaVersion":2}"#;
const LATEST: Target<'static> = Target::Tag("latest");

fn client() -> Client {
    Client::new(Config {
        backoff: Duration::from_millis(5),
        stall_timeout: Duration::from_secs(2),
        ..Config::default()
    })
}

fn source(server: &ScriptedServer, credentials: Credentials) -> Source {
    let name = format!("{}/some/app:latest", server.address());
    Source::new(&name.parse().unwrap(), credentials)
}

fn anonymous(server: &ScriptedServer) -> Source {
    source(server, Credentials::default())
}

fn me() -> Credentials {
    Credentials {
        username: "me".into(),
        password: "secret".into(),
        ..Credentials::default()
    }
}

fn manifest() -> Answer {
    Answer::new(200, MANIFEST).with("content-type", MediaType::OciManifest.as_str())
}

async fn download(client: &Client, source: &Source, whole: &[u8]) -> Result<Vec<u8>, Error> {
    let mut download = client.download(source, Digest::of(whole), whole.len() as u64, 0);
    let mut bytes = Vec::new();
    while let Some(piece) = download.next().await? {
        if let Piece::Bytes(piece) = piece {
            bytes.extend_from_slice(&piece);
        }
    }
    Ok(bytes)
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

#[tokio::test]
async fn a_manifest_comes_with_type_and_digest() {
    let server = ScriptedServer::start(|_| manifest());
    let fetched = client()
        .manifest(&anonymous(&server), LATEST)
        .await
        .unwrap();
    assert_eq!(fetched.bytes, MANIFEST);
    assert_eq!(fetched.media_type, MediaType::OciManifest);
    assert_eq!(fetched.digest, Digest::of(MANIFEST));
    let asked = &server.asked()[0];
    assert_eq!(asked.path, "/v2/some/app/manifests/latest");
}

#[tokio::test]
async fn tokens_are_fetched_once_and_sent() {
    let realm = Arc::new(std::sync::Mutex::new(String::new()));
    let in_script = realm.clone();
    let server = ScriptedServer::start(move |asked: &Asked| {
        if asked.path.starts_with("/token") {
            return Answer::new(200, r#"{"access_token":"t0","expires_in":300}"#);
        }
        if asked.header("authorization") == Some("Bearer t0") {
            return manifest();
        }
        let challenge = format!(
            r#"Bearer realm="{}",service="the service",scope="repository:other:push""#,
            in_script.lock().unwrap()
        );
        Answer::new(401, "").with("www-authenticate", &challenge)
    });
    *realm.lock().unwrap() = format!("http://{}/token?x=y", server.address());
    let client = client();
    let source = source(&server, me());
    client.manifest(&source, LATEST).await.unwrap();
    client.manifest(&source, LATEST).await.unwrap();
    let asked = server.asked();
    let tokens: Vec<_> = asked
        .iter()
        .filter(|a| a.path.starts_with("/token"))
        .collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(
        tokens[0].path,
        "/token?x=y&service=the+service&scope=repository%3Asome%2Fapp%3Apull&account=me&client_id=sampan",
        "the scope is ours, not the registry's"
    );
    assert_eq!(
        tokens[0].header("authorization"),
        Some("Basic bWU6c2VjcmV0")
    );
    let with_password = asked.iter().filter(|a| {
        a.path.starts_with("/v2") && a.header("authorization") == Some("Basic bWU6c2VjcmV0")
    });
    assert_eq!(with_password.count(), 0);
}

#[tokio::test]
async fn refresh_tokens_are_posted() {
    let realm = Arc::new(std::sync::Mutex::new(String::new()));
    let in_script = realm.clone();
    let server = ScriptedServer::start(move |asked: &Asked| match asked.header("authorization") {
        _ if asked.path == "/token" => Answer::new(200, r#"{"token":"t1"}"#),
        Some("Bearer t1") => manifest(),
        _ => Answer::new(401, "").with(
            "www-authenticate",
            &format!(r#"Bearer realm="{}""#, in_script.lock().unwrap()),
        ),
    });
    *realm.lock().unwrap() = format!("http://{}/token", server.address());
    let credentials = Credentials {
        identity_token: "refresh me".into(),
        ..Credentials::default()
    };
    client()
        .manifest(&source(&server, credentials), LATEST)
        .await
        .unwrap();
    let asked = server.asked();
    let token = asked.iter().find(|a| a.path == "/token").unwrap();
    assert_eq!(token.method, "POST");
    let body = String::from_utf8(token.body.clone()).unwrap();
    assert!(body.contains("grant_type=refresh_token"), "{body}");
    assert!(body.contains("refresh_token=refresh+me"), "{body}");
}

#[tokio::test]
async fn basic_credentials_are_sent_when_asked_for() {
    let server = ScriptedServer::start(|asked: &Asked| {
        if asked.header("authorization") == Some("Basic bWU6c2VjcmV0") {
            return manifest();
        }
        let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
        Answer::new(401, body).with("www-authenticate", "Basic realm=\"x\"")
    });
    client()
        .manifest(&source(&server, me()), LATEST)
        .await
        .unwrap();
    let error = client()
        .manifest(&anonymous(&server), LATEST)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(
        error.to_string().ends_with(": no basic auth credentials"),
        "{error}"
    );
    let wrong = Credentials {
        password: "guess".into(),
        ..me()
    };
    let error = client()
        .manifest(&source(&server, wrong), LATEST)
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "unauthorized: authentication required");
}

#[tokio::test]
async fn redirects_carry_no_authorization_to_others() {
    let whole = noise(100_000);
    let body = whole.clone();
    let cdn = ScriptedServer::start(move |_| Answer::new(200, &body[..]));
    let target = format!("http://{}/blob?signature=s", cdn.address());
    let server = ScriptedServer::start(move |asked: &Asked| {
        if asked.header("authorization").is_none() {
            return Answer::new(401, "").with("www-authenticate", "Basic realm=\"x\"");
        }
        Answer::redirect(&target)
    });
    let bytes = download(&client(), &source(&server, me()), &whole)
        .await
        .unwrap();
    assert_eq!(bytes, whole);
    assert!(
        cdn.asked()
            .iter()
            .all(|a| a.header("authorization").is_none())
    );
    assert!(!cdn.asked().is_empty());
}

#[tokio::test]
async fn a_challenge_of_a_redirects_target_is_not_answered() {
    let thief = ScriptedServer::start(|_| {
        Answer::new(401, "").with("www-authenticate", "Basic realm=\"give\"")
    });
    let target = format!("http://{}/steal", thief.address());
    let server = ScriptedServer::start(move |_| Answer::redirect(&target));
    let error = client()
        .manifest(&source(&server, me()), LATEST)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(
        thief
            .asked()
            .iter()
            .all(|a| a.header("authorization").is_none())
    );
}

#[tokio::test]
async fn dangerous_places_are_not_visited() {
    for location in [
        "http://169.254.169.254/latest/meta-data",
        "http://registry.example/v2/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "http://user:password@127.0.0.1:1/",
    ] {
        let server = ScriptedServer::start(move |_| Answer::redirect(location));
        let error = client()
            .manifest(&anonymous(&server), LATEST)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Unsafe { .. }), "{location}: {error}");
        let server = ScriptedServer::start(move |_| {
            Answer::new(401, "").with("www-authenticate", &format!("Bearer realm=\"{location}\""))
        });
        let error = client()
            .manifest(&source(&server, me()), LATEST)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Unsafe { .. }), "{location}: {error}");
    }
}

#[tokio::test]
async fn endless_redirects_end() {
    let server = ScriptedServer::start(|_| Answer::redirect("/v2/again"));
    let error = client()
        .manifest(&anonymous(&server), LATEST)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unsafe { .. }), "{error}");
}

#[tokio::test]
async fn a_token_service_may_not_redirect() {
    let thief = ScriptedServer::start(|_| Answer::new(200, r#"{"token":"x"}"#));
    let target = format!("http://{}/", thief.address());
    let realm = ScriptedServer::start(move |_| Answer::redirect(&target));
    let challenge = format!("Bearer realm=\"http://{}/\"", realm.address());
    let server =
        ScriptedServer::start(move |_| Answer::new(401, "").with("www-authenticate", &challenge));
    let error = client()
        .manifest(&source(&server, me()), LATEST)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Unsafe { .. }), "{error}");
    assert!(thief.asked().is_empty());
}

#[tokio::test]
async fn a_dropped_connection_is_resumed() {
    let whole = noise(3_000_000);
    let body = whole.clone();
    let count = AtomicUsize::new(0);
    let server = ScriptedServer::start(move |asked: &Asked| Answer {
        cut: (count.fetch_add(1, Ordering::Relaxed) < 3).then_some(700_001),
        ..Answer::ranged(asked, &body)
    });
    assert_eq!(
        download(&client(), &anonymous(&server), &whole)
            .await
            .unwrap(),
        whole
    );
    let asked = server.asked();
    assert_eq!(asked.len(), 4);
    assert!(asked[1].range_start().is_some_and(|start| start > 0));
    assert!(asked[3].range_start() > asked[1].range_start());
}

#[tokio::test]
async fn a_server_without_ranges_is_resumed_too() {
    let whole = noise(2_000_000);
    let body = whole.clone();
    let count = AtomicUsize::new(0);
    let server = ScriptedServer::start(move |_| Answer {
        cut: (count.fetch_add(1, Ordering::Relaxed) == 0).then_some(1_500_000),
        ..Answer::new(200, &body[..])
    });
    assert_eq!(
        download(&client(), &anonymous(&server), &whole)
            .await
            .unwrap(),
        whole
    );
}

#[tokio::test]
async fn a_wrong_range_is_refused() {
    let whole = noise(100_000);
    for range in [
        "bytes 0-99999/100000",
        "bytes 50000-99999/5",
        "bytes */100000",
        "x",
    ] {
        let body = whole.clone();
        let server = ScriptedServer::start(move |asked: &Asked| match asked.range_start() {
            None => Answer {
                cut: Some(50_000),
                ..Answer::new(200, &body[..])
            },
            Some(_) => Answer::new(206, &body[..50_000]).with("content-range", range),
        });
        let error = download(&client(), &anonymous(&server), &whole)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Protocol(_)), "{range}: {error}");
    }
}

#[tokio::test]
async fn blobs_of_the_wrong_length_are_refused() {
    let whole = noise(100_000);
    let body = whole.clone();
    let long = ScriptedServer::start(move |_| Answer::new(200, [&body[..], b"x"].concat()));
    let error = download(&client(), &anonymous(&long), &whole)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TooLong { .. }), "{error}");
    let body = whole.clone();
    let endless = ScriptedServer::start(move |_| Answer {
        endless: true,
        ..Answer::new(200, &body[..])
    });
    let error = download(&client(), &anonymous(&endless), &whole)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TooLong { .. }), "{error}");
    let short = ScriptedServer::start(move |_| Answer::new(200, &noise(50_000)[..]));
    let error = download(&client(), &anonymous(&short), &whole)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().ends_with("unexpected EOF"), "{error}");
    assert_eq!(short.asked().len(), 5);
}

#[tokio::test]
async fn a_trickle_is_given_up() {
    let server = ScriptedServer::start(|_| Answer {
        piece: 1,
        delay: Duration::from_millis(50),
        ..Answer::new(200, &noise(100_000)[..])
    });
    let client = Client::new(Config {
        backoff: Duration::from_millis(5),
        stall_timeout: Duration::from_millis(400),
        slowest: 1000,
        attempts: 3,
        ..Config::default()
    });
    let start = Instant::now();
    let result = download(&client, &anonymous(&server), &noise(100_000)).await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn silence_is_given_up() {
    let server = ScriptedServer::start(|_| Answer {
        delay: Duration::from_secs(3),
        ..Answer::new(200, MANIFEST)
    });
    let client = Client::new(Config {
        backoff: Duration::from_millis(5),
        stall_timeout: Duration::from_millis(300),
        attempts: 2,
        ..Config::default()
    });
    let error = client
        .manifest(&anonymous(&server), LATEST)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Stalled { .. }), "{error}");
}

#[tokio::test]
async fn a_busy_registry_is_asked_again() {
    for status in [429, 500, 503] {
        let count = AtomicUsize::new(0);
        let server = ScriptedServer::start(move |_| {
            if count.fetch_add(1, Ordering::Relaxed) < 2 {
                Answer::new(status, "").with("retry-after", "0")
            } else {
                manifest()
            }
        });
        client()
            .manifest(&anonymous(&server), LATEST)
            .await
            .unwrap();
    }
    let server = ScriptedServer::start(|_| Answer::new(500, "<html>"));
    let error = client()
        .manifest(&anonymous(&server), LATEST)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "received unexpected HTTP status: 500 Internal Server Error"
    );
}

#[tokio::test]
async fn refusals_have_dockers_words() {
    let cases = [
        (
            404,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#,
            "manifest for NAME:latest not found: manifest unknown: manifest unknown",
            ErrorKind::NotFound,
        ),
        (
            404,
            r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}"#,
            "repository NAME not found: name unknown: repository name not known to registry",
            ErrorKind::NotFound,
        ),
        (
            403,
            r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#,
            "pull access denied for NAME, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
            ErrorKind::NotFound,
        ),
        (
            404,
            "nginx",
            "manifest for NAME:latest not found: manifest unknown: manifest unknown",
            ErrorKind::NotFound,
        ),
        (
            418,
            "{\"errors\":[{\"code\":\"TEA\\u001b[31m\",\"message\":\"a\\u0007b\"}]}",
            "tea[31m: ab",
            ErrorKind::Internal,
        ),
    ];
    for (status, body, message, kind) in cases {
        let server = ScriptedServer::start(move |_| Answer::new(status, body));
        let error = client()
            .manifest(&anonymous(&server), LATEST)
            .await
            .unwrap_err();
        let name = format!("{}/some/app", server.address());
        assert_eq!(error.to_string(), message.replace("NAME", &name));
        assert_eq!(error.kind(), kind);
    }
}

#[tokio::test]
async fn manifests_are_bounded_and_verified() {
    let server = ScriptedServer::start(|_| Answer {
        endless: true,
        ..Answer::new(200, &noise(100_000)[..])
    });
    let error = client()
        .manifest(&anonymous(&server), LATEST)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    let server = ScriptedServer::start(|_| manifest());
    let other = Digest::of(b"other");
    let error = client()
        .manifest(&anonymous(&server), Target::Digest(&other))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
    let server = ScriptedServer::start(move |_| {
        manifest().with("docker-content-digest", &other.to_string())
    });
    let error = client()
        .manifest(&anonymous(&server), LATEST)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
}

#[tokio::test]
async fn nobody_at_home_is_said_plainly() {
    let address = format!("127.0.0.1:{}/x:latest", sampan_testing::free_port());
    let source = Source::new(&address.parse().unwrap(), Credentials::default());
    let client = Client::new(Config {
        backoff: Duration::from_millis(1),
        ..Config::default()
    });
    let error = client.manifest(&source, LATEST).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        error.to_string().starts_with("Get \"http://127.0.0.1:"),
        "{error}"
    );
    assert!(error.to_string().contains("onnection refused"), "{error}");
}

async fn put(client: &Client, source: &Source, bytes: &[u8]) -> Result<(), Error> {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    let content = Content::File(Arc::new(file), bytes.len() as u64);
    let sent = Arc::default();
    let source = source.with_access(Access::Push);
    client
        .upload(&source, &Digest::of(bytes), &content, None, &sent)
        .await
}

/// Passes bytes on to a registry, and breaks the first connections that carry more than so many.
fn breaking(registry: &str, most: usize, breaks: usize) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let registry = registry.to_owned();
    let left = Arc::new(AtomicUsize::new(breaks));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(mut client) = client else { return };
            let mut server = std::net::TcpStream::connect(&registry).unwrap();
            let (mut back, mut answers) =
                (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut answers, &mut back);
                let _ = back.shutdown(std::net::Shutdown::Both);
            });
            let left = left.clone();
            std::thread::spawn(move || {
                use std::io::{Read, Write};
                let mut buffer = vec![0; 64 << 10];
                let mut carried = 0;
                while let Ok(n @ 1..) = client.read(&mut buffer) {
                    carried += n;
                    let breaks = carried > most
                        && left
                            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                            .is_ok();
                    if breaks || server.write_all(&buffer[..n]).is_err() {
                        break;
                    }
                }
                let _ = server.shutdown(std::net::Shutdown::Both);
                let _ = client.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    address
}

#[tokio::test]
async fn an_upload_goes_on_where_the_connection_broke() {
    let registry = sampan_testing::Registry::start();
    let whole = noise(20 << 20);
    let address = breaking(&registry.address(), 3 << 20, 4);
    let name = format!("{address}/some/app:latest");
    let source = Source::new(&name.parse().unwrap(), Credentials::default());
    let client = client();
    put(&client, &source, &whole).await.unwrap();
    assert!(download(&client, &source, &whole).await.unwrap() == whole);
}

/// A registry that breaks off the first request of bytes, is away for a while, and then says that
/// it has so many. Returns what ranges it got.
async fn resumed(whole: &[u8], kept: usize) -> Vec<String> {
    let (sent, away) = (AtomicUsize::new(0), AtomicUsize::new(2));
    let server = ScriptedServer::start(move |asked: &Asked| {
        let location = "/v2/some/app/blobs/uploads/1";
        let here = |status| Answer::new(status, "").with("location", location);
        match asked.method.as_str() {
            "POST" => here(202),
            "PATCH" if sent.fetch_add(1, Ordering::SeqCst) == 0 => Answer::new(500, ""),
            "PATCH" => {
                let range = asked.header("content-range").unwrap();
                let end = range.split_once('-').unwrap().1;
                here(202).with("range", &format!("0-{end}"))
            }
            "GET" if away.swap(0, Ordering::SeqCst) > 0 => Answer::new(503, ""),
            "GET" => here(204).with("range", &format!("0-{}", kept.saturating_sub(1))),
            "PUT" => Answer::new(201, ""),
            _ => Answer::new(404, ""),
        }
    });
    put(&client(), &anonymous(&server), whole).await.unwrap();
    let asked = server.asked();
    assert_eq!(asked.iter().filter(|a| a.method == "POST").count(), 1);
    asked
        .iter()
        .filter_map(|a| a.header("content-range"))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn an_upload_goes_on_when_the_registry_was_away() {
    let whole = noise(40 << 20);
    let (all, kept, chunk) = (whole.len(), 10 << 20, 32 << 20);
    let ranges = resumed(&whole, kept).await;
    let (first, rest) = (format!("0-{}", all - 1), format!("{kept}-{}", all - 1));
    assert_eq!(ranges, [first.clone(), rest]);
    // One that keeps nothing of what broke gets less at once.
    let ranges = resumed(&whole, 0).await;
    let pieces = [format!("0-{}", chunk - 1), format!("{chunk}-{}", all - 1)];
    assert_eq!(ranges[0], first);
    assert_eq!(ranges[1..], pieces);
}

#[tokio::test]
async fn a_registry_takes_a_blob_from_its_neighbour() {
    let registry = sampan_testing::Registry::start();
    let place = |repository: &str| {
        let name = format!("{}/{repository}:latest", registry.address());
        Source::new(&name.parse().unwrap(), Credentials::default()).with_access(Access::Push)
    };
    let (one, two, client) = (place("one"), place("two"), client());
    let blob = noise(100_000);
    let digest = Digest::of(&blob);
    assert!(!client.blob_exists(&one, &digest).await.unwrap());
    put(&client, &one, &blob).await.unwrap();
    assert!(client.blob_exists(&one, &digest).await.unwrap());
    assert!(!client.blob_exists(&two, &digest).await.unwrap());
    let mounted = client.mount(&two, &digest, "one").await.unwrap();
    assert!(matches!(mounted, Mounted::Yes));
    assert!(client.blob_exists(&two, &digest).await.unwrap());
    // What the neighbour does not have is sent in the session that the registry opened.
    let other = bytes::Bytes::from(noise(10));
    let digest = Digest::of(&other);
    let Mounted::No(session) = client.mount(&two, &digest, "one").await.unwrap() else {
        panic!("mounted from nowhere");
    };
    let content = Content::Bytes(other);
    client
        .upload(&two, &digest, &content, Some(session), &Arc::default())
        .await
        .unwrap();
    assert!(client.blob_exists(&two, &digest).await.unwrap());
}

#[tokio::test]
async fn a_registry_that_takes_only_short_requests_gets_short_ones() {
    let whole = noise(40 << 20);
    let digest = Digest::of(&whole);
    let server = ScriptedServer::start(move |asked: &Asked| {
        let location = "/v2/some/app/blobs/uploads/1?state=x";
        match asked.method.as_str() {
            "POST" => Answer::new(202, "").with("location", location),
            "PATCH" if asked.body.len() > 33 << 20 => Answer::new(413, ""),
            "PATCH" => {
                let range = asked.header("content-range").unwrap().to_owned();
                let end = range.split_once('-').unwrap().1;
                Answer::new(202, "")
                    .with("location", location)
                    .with("range", &format!("0-{end}"))
            }
            "PUT" => Answer::new(201, ""),
            _ => Answer::new(404, ""),
        }
    });
    put(&client(), &anonymous(&server), &whole).await.unwrap();
    let asked = server.asked();
    let ranges: Vec<_> = asked
        .iter()
        .filter(|a| a.method == "PATCH")
        .map(|a| a.header("content-range").unwrap().to_owned())
        .collect();
    let (most, all) = (32 << 20, 40 << 20);
    assert_eq!(
        ranges,
        [
            format!("0-{}", all - 1),
            format!("0-{}", most - 1),
            format!("{most}-{}", all - 1)
        ]
    );
    let last = asked.last().unwrap();
    let digest = digest.to_string().replace(':', "%3A");
    assert!(
        last.path.ends_with(&format!("?state=x&digest={digest}")),
        "{}",
        last.path
    );
}

#[tokio::test]
async fn uploads_do_not_follow_a_registry_to_where_they_must_not() {
    let seen = ScriptedServer::start(|_| Answer::new(202, ""));
    let elsewhere = format!("http://{}/collect", seen.address());
    let server = ScriptedServer::start(move |asked: &Asked| match asked.method.as_str() {
        "POST" if asked.header("authorization").is_none() => {
            Answer::new(401, "").with("www-authenticate", "Basic realm=\"x\"")
        }
        "POST" => Answer::new(202, "").with("location", &elsewhere),
        _ => Answer::new(404, ""),
    });
    let source = source(&server, me());
    put(&client(), &source, b"bytes").await.unwrap();
    let asked = seen.asked();
    assert!(!asked.is_empty());
    // The bytes may go to another origin, the password may not.
    assert!(asked.iter().all(|a| a.header("authorization").is_none()));
    let metadata = ScriptedServer::start(|_| {
        Answer::new(202, "").with("location", "http://169.254.169.254/latest")
    });
    let error = put(&client(), &anonymous(&metadata), b"bytes").await;
    assert!(matches!(error, Err(Error::Unsafe { .. })), "{error:?}");
}

#[tokio::test]
async fn refusals_of_a_push_are_the_registrys_own_words() {
    let server = ScriptedServer::start(|_| {
        let body = r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
        Answer::new(403, body)
    });
    let error = put(&client(), &anonymous(&server), b"bytes")
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "denied: requested access to the resource is denied"
    );
    assert_eq!(error.kind(), ErrorKind::Forbidden);
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let server = ScriptedServer::start(|asked: &Asked| match asked.path.as_str() {
        "/v2/some/app/tags/list?n=1000" => Answer::new(200, r#"{"name":"x","tags":["b","a"]}"#)
            .with(
                "link",
                r#"</v2/some/app/tags/list?n=1000&last=b>; rel="next""#,
            ),
        "/v2/some/app/tags/list?n=1000&last=b" => Answer::new(200, r#"{"name":"x","tags":["c"]}"#),
        "/v2/_catalog?n=1000" => Answer::new(200, r#"{"repositories":["one","two"]}"#),
        _ => Answer::new(404, ""),
    });
    let (client, source) = (client(), anonymous(&server));
    assert_eq!(client.tags(&source).await.unwrap(), ["a", "b", "c"]);
    let catalog = source.with_access(Access::Catalog);
    assert_eq!(client.catalog(&catalog, 1).await.unwrap(), ["one"]);
    assert_eq!(client.search(&catalog, "x", 5).await.unwrap(), None);
}
