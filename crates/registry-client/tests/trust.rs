//! Where credentials go, and where they do not: registries, token services, mirrors and redirect
//! targets that lie. Every address of loopback is a host of its own.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use sampan_oci::{Digest, MediaType, Reference};
use sampan_registry_client::settings::{Fixed, Host, Rule, Settings, SettingsSource};
use sampan_registry_client::{
    Client, Config, Credentials, Error, ErrorKind, Piece, Source, Target,
};
use sampan_testing::{Answer, Asked, Certificates, ScriptedServer};

const MANIFEST: &[u8] = br#"{"schemaVersion":2}"#;
const LATEST: Target<'static> = Target::Tag("latest");
const SECRET: &str = "hunter2";

fn client(settings: Settings) -> Client {
    Client::new(Config {
        backoff: Duration::from_millis(5),
        stall_timeout: Duration::from_secs(2),
        settings: Arc::new(Fixed::from(settings)),
        ..Config::default()
    })
}

fn me() -> Credentials {
    Credentials {
        username: "me".into(),
        password: SECRET.into(),
        ..Credentials::default()
    }
}

fn refresh() -> Credentials {
    Credentials {
        identity_token: SECRET.into(),
        ..Credentials::default()
    }
}

fn image(server: &ScriptedServer) -> Reference {
    format!("{}/some/app:latest", server.address())
        .parse()
        .unwrap()
}

fn manifest() -> Answer {
    Answer::new(200, MANIFEST).with("content-type", MediaType::OciManifest.as_str())
}

fn wants(challenge: &str) -> Answer {
    Answer::new(401, "").with("www-authenticate", challenge)
}

/// Whether anything of the credentials is in what a server saw.
fn saw_secret(asked: &[Asked]) -> bool {
    // Base64 of `me:hunter2`, and the refresh token in a form.
    asked.iter().any(|asked| {
        let headers = asked
            .headers
            .values()
            .any(|value| value.contains("bWU6aHVudGVyMg") || value.contains(SECRET));
        headers
            || asked.path.contains(SECRET)
            || String::from_utf8_lossy(&asked.body).contains(SECRET)
    })
}

fn saw_authorization(asked: &[Asked]) -> bool {
    asked
        .iter()
        .any(|asked| asked.header("authorization").is_some())
}

#[tokio::test]
async fn a_token_service_of_another_host_gets_no_credentials() {
    for credentials in [me(), refresh()] {
        let thief = ScriptedServer::start_at("127.0.0.2", |_| Answer::new(200, r#"{"token":"t"}"#));
        let challenge = format!(r#"Bearer realm="http://{}/token""#, thief.address());
        let server = ScriptedServer::start(move |_| wants(&challenge));
        let client = client(Settings::default());
        for source in client.sources(&image(&server), &credentials) {
            let error = client.manifest(&source, LATEST).await.unwrap_err();
            assert!(matches!(error, Error::ForeignService { .. }), "{error}");
            assert!(error.hint().unwrap().contains("token-services"));
            assert!(!error.to_string().contains(SECRET));
        }
        assert!(thief.asked().is_empty(), "not even asked");
        assert!(!saw_secret(&server.asked()));
        let error = client
            .log_in(&server.address(), &credentials)
            .await
            .unwrap_err();
        assert!(matches!(error, Error::ForeignService { .. }), "{error}");
        assert!(thief.asked().is_empty());
    }
}

#[tokio::test]
async fn a_token_service_of_another_host_may_give_tokens_to_nobody_in_particular() {
    let service = ScriptedServer::start_at("127.0.0.2", |_| Answer::new(200, r#"{"token":"t"}"#));
    let challenge = format!(r#"Bearer realm="http://{}/token""#, service.address());
    let server = ScriptedServer::start(move |asked| match asked.header("authorization") {
        Some("Bearer t") => manifest(),
        _ => wants(&challenge),
    });
    let client = client(Settings::default());
    let source = Source::new(&image(&server), Credentials::default());
    client.manifest(&source, LATEST).await.unwrap();
    assert!(!saw_authorization(&service.asked()));
}

#[tokio::test]
async fn a_token_service_that_the_user_allows_gets_no_credentials_without_encryption() {
    let thief = ScriptedServer::start_at("127.0.0.2", |_| Answer::new(200, r#"{"token":"t"}"#));
    let challenge = format!(r#"Bearer realm="http://{}/token""#, thief.address());
    let server = ScriptedServer::start(move |_| wants(&challenge));
    let host = Host {
        token_services: vec![thief.address()],
        ..Host::default()
    };
    let client = client(Settings {
        hosts: [(server.address(), host)].into(),
        ..Settings::default()
    });
    let source = client.origin(&image(&server), &me());
    let error = client.manifest(&source, LATEST).await.unwrap_err();
    assert!(matches!(error, Error::ForeignService { .. }), "{error}");
    assert!(thief.asked().is_empty());
}

#[tokio::test]
async fn neither_password_nor_token_follows_a_redirect_to_another_host() {
    let whole = b"a blob".repeat(1000);
    for how in ["Basic realm=\"x\"", "Bearer realm=\"http://SELF/token\""] {
        let body = whole.clone();
        let elsewhere = ScriptedServer::start_at("127.0.0.2", move |_| Answer::new(200, &body[..]));
        let target = format!("http://{}/blob", elsewhere.address());
        let own = Arc::new(Mutex::new(String::new()));
        let (challenge, address) = (how.to_owned(), own.clone());
        let server = ScriptedServer::start(move |asked: &Asked| {
            if asked.path.starts_with("/token") {
                return Answer::new(200, r#"{"token":"t0ken"}"#);
            }
            match asked.header("authorization") {
                Some(_) => Answer::redirect(&target),
                None => wants(&challenge.replace("SELF", &address.lock().unwrap())),
            }
        });
        *own.lock().unwrap() = server.address();
        let client = client(Settings::default());
        let source = Source::new(&image(&server), me());
        let digest = Digest::of(&whole);
        let mut download = client.download(&source, digest, whole.len() as u64, 0);
        let mut bytes = Vec::new();
        while let Some(piece) = download.next().await.unwrap() {
            if let Piece::Bytes(piece) = piece {
                bytes.extend_from_slice(&piece);
            }
        }
        assert_eq!(bytes, whole);
        assert!(saw_authorization(&server.asked()));
        assert_eq!(elsewhere.asked().len(), 1, "{how}");
        assert!(!saw_authorization(&elsewhere.asked()), "{how}");
    }
}

#[tokio::test]
async fn a_redirect_through_another_host_and_back_carries_nothing_more() {
    let own = Arc::new(Mutex::new(String::new()));
    let back = own.clone();
    let elsewhere = ScriptedServer::start_at("127.0.0.2", move |_| {
        Answer::redirect(&format!("http://{}/v2/steal", back.lock().unwrap()))
    });
    let target = format!("http://{}/x", elsewhere.address());
    let server = ScriptedServer::start(move |asked: &Asked| match asked.path.as_str() {
        "/v2/steal" => manifest(),
        _ if asked.header("authorization").is_some() => Answer::redirect(&target),
        _ => wants("Basic realm=\"x\""),
    });
    *own.lock().unwrap() = server.address();
    let client = client(Settings::default());
    let source = Source::new(&image(&server), me());
    client.manifest(&source, LATEST).await.unwrap();
    assert!(!saw_authorization(&elsewhere.asked()));
}

#[tokio::test]
async fn mirrors_get_credentials_of_their_own_only() {
    let mirror = ScriptedServer::start_at("127.0.0.2", |asked: &Asked| {
        match asked.header("authorization") {
            // mirror:own
            Some("Basic bWlycm9yOm93bg==") => manifest(),
            _ => wants("Basic realm=\"mirror\""),
        }
    });
    let origin = ScriptedServer::start(|_| manifest());
    let rule = |mirror: &ScriptedServer| Rule {
        prefix: origin.address().parse().unwrap(),
        location: None,
        mirrors: vec![format!("{}/copies", mirror.address()).parse().unwrap()],
    };
    let without = client(Settings {
        rules: vec![rule(&mirror)],
        ..Settings::default()
    });
    let sources = without.sources(&image(&origin), &me());
    assert_eq!(sources.len(), 2);
    assert!(without.manifest(&sources[0], LATEST).await.is_err());
    assert!(
        !saw_authorization(&mirror.asked()),
        "the origin's stay at home"
    );
    let host = Host {
        credentials: Credentials {
            username: "mirror".into(),
            password: "own".into(),
            ..Credentials::default()
        },
        ..Host::default()
    };
    let with = client(Settings {
        rules: vec![rule(&mirror)],
        hosts: [(mirror.address(), host)].into(),
        ..Settings::default()
    });
    let sources = with.sources(&image(&origin), &me());
    with.manifest(&sources[0], LATEST).await.unwrap();
    assert!(!saw_secret(&mirror.asked()));
    let last = mirror.asked().pop().unwrap();
    assert_eq!(last.path, "/v2/copies/some/app/manifests/latest");
    assert_eq!(
        with.origin(&image(&origin), &me()).registry,
        origin.address()
    );
}

#[tokio::test]
async fn credentials_do_not_follow_a_name_that_is_rewritten_to_another_host() {
    let moved = ScriptedServer::start_at("127.0.0.2", |_| wants("Basic realm=\"x\""));
    let client = client(Settings {
        rules: vec![Rule {
            prefix: "docker.io".parse().unwrap(),
            location: Some(moved.address().parse().unwrap()),
            mirrors: Vec::new(),
        }],
        ..Settings::default()
    });
    let source = client.origin(&"busybox".parse().unwrap(), &me());
    let error = client.manifest(&source, LATEST).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(!saw_authorization(&moved.asked()));
}

#[tokio::test]
async fn a_mirror_that_nobody_answers_at_is_left_alone_for_a_while() {
    let origin = ScriptedServer::start(|_| manifest());
    let dead = format!("127.0.0.1:{}", sampan_testing::free_port());
    let client = client(Settings {
        rules: vec![Rule {
            prefix: origin.address().parse().unwrap(),
            location: None,
            mirrors: vec![dead.parse().unwrap()],
        }],
        ..Settings::default()
    });
    let sources = client.sources(&image(&origin), &me());
    assert!(sources[0].is_mirror);
    let error = client.manifest(&sources[0], LATEST).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let sources = client.sources(&image(&origin), &me());
    assert_eq!(sources.len(), 1);
    assert!(!sources[0].is_mirror);
}

#[tokio::test]
async fn logins_are_checked_by_password_and_by_token() {
    let basic = ScriptedServer::start(|asked: &Asked| {
        assert_eq!(asked.path, "/v2/");
        match asked.header("authorization") {
            Some("Basic bWU6aHVudGVyMg==") => Answer::new(200, "{}"),
            _ => wants("Basic realm=\"x\""),
        }
    });
    let client = client(Settings::default());
    assert_eq!(client.log_in(&basic.address(), &me()).await.unwrap(), "");
    let wrong = Credentials {
        password: "guess".into(),
        ..me()
    };
    let error = client.log_in(&basic.address(), &wrong).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "login attempt to http://{}/v2/ failed with status: 401 Unauthorized",
            basic.address()
        )
    );
    let own = Arc::new(Mutex::new(String::new()));
    let realm = own.clone();
    let token = ScriptedServer::start(move |asked: &Asked| {
        let right = asked.header("authorization") == Some("Basic bWU6aHVudGVyMg==");
        if asked.path.starts_with("/token") && right {
            assert!(asked.path.contains("offline_token=true"), "{}", asked.path);
            assert!(!asked.path.contains("scope="), "{}", asked.path);
            return Answer::new(200, r#"{"token":"t","refresh_token":"keep me"}"#);
        }
        match asked.header("authorization") {
            Some("Bearer t") => Answer::new(200, "{}"),
            _ if asked.path.starts_with("/token") => {
                Answer::new(401, r#"{"details":"incorrect username or password"}"#)
            }
            _ => wants(&format!(
                r#"Bearer realm="http://{}/token",service="s""#,
                realm.lock().unwrap()
            )),
        }
    });
    *own.lock().unwrap() = token.address();
    assert_eq!(
        client.log_in(&token.address(), &me()).await.unwrap(),
        "keep me"
    );
    let error = client.log_in(&token.address(), &wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(
        error
            .to_string()
            .ends_with("unauthorized: incorrect username or password"),
        "{error}"
    );
}

/// A server that speaks TLS by a certificate for 127.0.0.1 and answers every request alike.
struct TlsServer {
    address: String,
    authority: Vec<u8>,
}

impl TlsServer {
    fn start(answer: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let made = Certificates::make(directory.path());
        let chain = CertificateDer::pem_file_iter(&made.server).unwrap();
        let key = PrivateKeyDer::from_pem_file(&made.server_key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.map(Result::unwrap).collect(), key)
            .unwrap();
        let (config, answer) = (Arc::new(config), answer.to_owned());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let session = rustls::ServerConnection::new(config.clone()).unwrap();
                let mut stream = rustls::StreamOwned::new(session, connection);
                let mut request = [0; 4096];
                // One that does not trust the server goes away.
                if stream.read(&mut request).is_ok() {
                    let _ = stream.write_all(answer.as_bytes());
                }
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        });
        Self {
            authority: std::fs::read(&made.authority).unwrap(),
            address,
        }
    }

    fn settings(&self, authority: &[u8]) -> Settings {
        let host = Host {
            roots: vec![Arc::from(authority)],
            ..Host::default()
        };
        Settings {
            hosts: [(self.address.clone(), host)].into(),
            ..Settings::default()
        }
    }

    fn source(&self, credentials: Credentials) -> Source {
        let name = format!("{}/some/app:latest", self.address);
        Source::new(&name.parse().unwrap(), credentials)
    }
}

fn head(status: u16, header: &str) -> String {
    format!("HTTP/1.1 {status} X\r\n{header}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn what_began_encrypted_is_not_led_out_of_encryption() {
    let listener = ScriptedServer::start(|_| manifest());
    let address = listener.address();
    let redirect = format!("location: http://{address}/x");
    let realm = format!("www-authenticate: Bearer realm=\"http://{address}/token\"");
    for answer in [
        head(307, &redirect),
        head(302, &redirect),
        head(401, &realm),
    ] {
        let server = TlsServer::start(&answer);
        let client = client(server.settings(&server.authority));
        for credentials in [me(), Credentials::default()] {
            let source = server.source(credentials);
            let error = client.manifest(&source, LATEST).await.unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("it would leave the encrypted connection"),
                "{error}"
            );
        }
    }
    assert!(listener.asked().is_empty());
}

#[tokio::test]
async fn an_own_authority_is_trusted_and_no_other() {
    let server = TlsServer::start(&head(404, "x: y"));
    let other = TlsServer::start(&head(404, "x: y"));
    let right = client(server.settings(&server.authority));
    let source = server.source(Credentials::default());
    let error = right.manifest(&source, LATEST).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let wrong = client(server.settings(&other.authority));
    let error = wrong.manifest(&source, LATEST).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

/// Settings that a test changes.
#[derive(Debug, Default)]
struct Changing(Mutex<Arc<Settings>>);

impl SettingsSource for Changing {
    fn current(&self) -> Arc<Settings> {
        self.0.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn settings_change_while_the_client_lives() {
    let mirror = ScriptedServer::start_at("127.0.0.2", |_| manifest());
    let changing = Arc::new(Changing::default());
    let client = Client::new(Config {
        settings: changing.clone(),
        ..Config::default()
    });
    let name: Reference = "origin.io/some/app:latest".parse().unwrap();
    assert_eq!(client.sources(&name, &me()).len(), 1);
    *changing.0.lock().unwrap() = Arc::new(Settings {
        rules: vec![Rule {
            prefix: "origin.io".parse().unwrap(),
            location: None,
            mirrors: vec![mirror.address().parse().unwrap()],
        }],
        ..Settings::default()
    });
    let sources = client.sources(&name, &me());
    assert_eq!(sources.len(), 2);
    client.manifest(&sources[0], LATEST).await.unwrap();
}
