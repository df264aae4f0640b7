//! Who may do what.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sampan_registry::auth::{Authentication, Scheme, TokenKey, Users, hash_password};
use sampan_registry::{Policy, Right, Rule, Subject};

use crate::support::{Answer, MANIFEST, Server, Setup, manifest};

fn rule(pattern: &str, user: Subject, rights: &[Right]) -> Rule {
    Rule {
        repositories: vec![pattern.parse().unwrap()],
        users: vec![user],
        rights: rights.to_vec(),
    }
}

/// Alice may do everything below `alice/`, everybody may pull from `public/`.
fn server(tokens: bool) -> Server {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users");
    let hash = hash_password("secret").unwrap();
    std::fs::write(&file, format!("alice:{hash}\nbob:{hash}\n")).unwrap();
    let users = Users::open(&file).unwrap();
    let scheme = if tokens {
        let key = TokenKey::open(directory.path().join("key"), "test").unwrap();
        Scheme::Token(users, key)
    } else {
        Scheme::Basic(users)
    };
    let policy = Policy::new(vec![
        rule("public/**", Subject::Anyone, &[Right::Pull]),
        rule("public/**", Subject::User("alice".into()), &Right::ALL),
        rule("alice/**", Subject::User("alice".into()), &Right::ALL),
        rule("shared/**", Subject::Authenticated, &[Right::Pull]),
    ]);
    Server::with(Setup {
        authentication: Some(Authentication::new(scheme, Some(policy))),
        ..Setup::default()
    })
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn ask(server: &Server, method: &str, path: &str, authorization: &str) -> Answer {
    let headers = [("Authorization", authorization)];
    let headers = if authorization.is_empty() {
        &[][..]
    } else {
        &headers[..]
    };
    server.send(method, path, headers, b"")
}

#[test]
fn passwords_and_rules_decide() {
    let server = server(false);
    let (alice, bob) = (basic("alice", "secret"), basic("bob", "secret"));
    let start = |name: &str, who: &str| {
        ask(&server, "POST", &format!("/v2/{name}/blobs/uploads/"), who).status
    };
    let challenge = ask(&server, "GET", "/v2/", "").refused(401, "UNAUTHORIZED");
    assert_eq!(
        challenge.header("www-authenticate"),
        Some("Basic realm=\"sampan-registry\"")
    );
    assert_eq!(ask(&server, "GET", "/v2/", &alice).status, 200);
    for (user, password) in [
        ("alice", "wrong"),
        ("nobody", "secret"),
        ("", ""),
        ("alice", ""),
    ] {
        assert_eq!(
            ask(&server, "GET", "/v2/", &basic(user, password)).status,
            401
        );
    }
    assert_eq!(ask(&server, "GET", "/v2/", "Bearer x").status, 401);
    assert_eq!(start("alice/a", &alice), 202);
    assert_eq!(start("alice/a", &bob), 403);
    assert_eq!(start("alice/a", ""), 401);
    assert_eq!(start("public/a", &bob), 403);
    // What may be read is not there yet; what may not be read does not say so.
    assert_eq!(
        ask(&server, "GET", "/v2/public/a/tags/list", "").status,
        404
    );
    assert_eq!(ask(&server, "GET", "/v2/alice/a/tags/list", "").status, 401);
    assert_eq!(
        ask(&server, "GET", "/v2/alice/a/tags/list", &bob).status,
        403
    );
    assert_eq!(
        ask(&server, "GET", "/v2/shared/a/tags/list", &bob).status,
        404
    );
}

#[test]
fn who_says_neither_name_nor_password_is_nobody_and_reads_what_is_public() {
    let server = server(false);
    let nobody = basic("", "");
    let list =
        |name: &str, who: &str| ask(&server, "GET", &format!("/v2/{name}/tags/list"), who).status;
    assert_eq!(list("public/a", &nobody), 404, "it may be looked for");
    assert_eq!(list("alice/a", &nobody), 401);
    assert_eq!(list("public/a", &basic("", "secret")), 401);
    assert_eq!(list("public/a", &basic("alice", "")), 401);
}

fn token(server: &Server, scopes: &[&str], authorization: &str) -> String {
    let scopes: Vec<String> = scopes
        .iter()
        .map(|scope| format!("scope={scope}"))
        .collect();
    let path = format!("/token?service=test&{}", scopes.join("&"));
    let answer = ask(server, "GET", &path, authorization).expect(200).json();
    format!("Bearer {}", answer["token"].as_str().unwrap())
}

#[test]
fn tokens_give_what_they_say_and_the_rules_allow() {
    let server = server(true);
    let alice = basic("alice", "secret");
    let challenge = ask(&server, "GET", "/v2/alice/a/tags/list", "").refused(401, "UNAUTHORIZED");
    assert_eq!(
        challenge.header("www-authenticate"),
        Some(
            "Bearer realm=\"http://registry/token\",service=\"test\",scope=\"repository:alice/a:pull\""
        )
    );
    let pull = token(&server, &["repository:alice/a:pull"], &alice);
    let push = token(&server, &["repository:alice/a:pull,push"], &alice);
    let nobody = token(&server, &["repository:alice/a:pull,push"], "");
    let uploads = "/v2/alice/a/blobs/uploads/";
    assert_eq!(ask(&server, "POST", uploads, &push).status, 202);
    let refused = ask(&server, "POST", uploads, &pull).expect(401);
    assert!(
        refused
            .header("www-authenticate")
            .unwrap()
            .contains("insufficient_scope")
    );
    assert_eq!(ask(&server, "POST", uploads, &nobody).status, 401);
    assert_eq!(
        ask(&server, "POST", "/v2/alice/b/blobs/uploads/", &push).status,
        401
    );
    assert_eq!(ask(&server, "GET", "/v2/", &pull).status, 200);
    assert_eq!(ask(&server, "GET", "/v2/", "Bearer forged").status, 401);
    assert_eq!(
        ask(&server, "GET", "/token", &basic("alice", "wrong")).status,
        401
    );
    let form = "grant_type=password&service=test&username=alice&password=secret&scope=repository:alice/a:push";
    let answer = server
        .send("POST", "/token", &[], form.as_bytes())
        .expect(200);
    let bearer = format!("Bearer {}", answer.json()["access_token"].as_str().unwrap());
    assert_eq!(ask(&server, "POST", uploads, &bearer).status, 202);
}

#[test]
fn a_blob_is_only_seen_through_a_repository_that_has_it() {
    let server = server(false);
    let alice = basic("alice", "secret");
    let headers = [("Authorization", alice.as_str())];
    let secret = sampan_oci::Digest::of(b"secret layer");
    let path = format!("/v2/alice/a/blobs/uploads/?digest={secret}");
    server
        .send("POST", &path, &headers, b"secret layer")
        .expect(201);
    let bob = basic("bob", "secret");
    for (path, who) in [
        (format!("/v2/alice/a/blobs/{secret}"), bob.as_str()),
        (format!("/v2/public/a/blobs/{secret}"), ""),
        (format!("/v2/shared/a/blobs/{secret}"), bob.as_str()),
    ] {
        let status = ask(&server, "GET", &path, who).status;
        assert!(matches!(status, 403 | 404), "{path}: {status}");
    }
    // Neither by a manifest that claims it.
    let config = sampan_oci::Digest::of(b"{}");
    let path = format!("/v2/public/a/blobs/uploads/?digest={config}");
    server.send("POST", &path, &headers, b"{}").expect(201);
    let text = manifest(&[(config, 2)], &[(secret, 12)], "");
    let headers = [
        ("Authorization", alice.as_str()),
        ("Content-Type", MANIFEST),
    ];
    server
        .send(
            "PUT",
            "/v2/public/a/manifests/v1",
            &headers,
            text.as_bytes(),
        )
        .refused(400, "MANIFEST_BLOB_UNKNOWN");
    // Nor by mounting from where the client may not read.
    let path = format!("/v2/public/a/blobs/uploads/?mount={secret}&from=alice/a");
    assert_eq!(ask(&server, "POST", &path, &bob).status, 403);
    assert_eq!(ask(&server, "POST", &path, &alice).status, 201);
}

#[test]
fn lists_show_what_may_be_read() {
    let server = server(false);
    let alice = basic("alice", "secret");
    for name in ["alice/a", "public/a"] {
        let config = sampan_oci::Digest::of(b"{}");
        let headers = [("Authorization", alice.as_str())];
        let path = format!("/v2/{name}/blobs/uploads/?digest={config}");
        server.send("POST", &path, &headers, b"{}").expect(201);
        let text = manifest(&[(config, 2)], &[], "");
        let headers = [
            ("Authorization", alice.as_str()),
            ("Content-Type", MANIFEST),
        ];
        let path = format!("/v2/{name}/manifests/v1");
        server
            .send("PUT", &path, &headers, text.as_bytes())
            .expect(201);
    }
    let list = |who: &str| ask(&server, "GET", "/v2/_catalog", who).expect(200).json();
    assert_eq!(
        list(&alice)["repositories"],
        serde_json::json!(["alice/a", "public/a"])
    );
    let bob = basic("bob", "secret");
    assert_eq!(list(&bob)["repositories"], serde_json::json!(["public/a"]));
}
