//! What the people who run a registry look at: encryption, metrics, health, the audit log, pages.

use std::time::Duration;

use sampan_registry::{AuditLog, Limits, Settings};

use crate::support::{Server, Setup};

#[test]
fn health_and_metrics_are_told() {
    let server = Server::start();
    for path in ["/healthz", "/healthz/live", "/healthz/ready"] {
        assert_eq!(server.get(path).expect(200).text(), "ok\n");
    }
    let _ = server.push_image("a", "v1", &[1; 1000]);
    let layer = sampan_oci::Digest::of(&[1; 1000]);
    server.get(&format!("/v2/a/blobs/{layer}")).expect(200);
    server.get("/v2/a/manifests/absent").expect(404);
    let text = server.get("/metrics").expect(200).text();
    for line in [
        "sampan_registry_repositories 1",
        "sampan_registry_manifests 1",
        "sampan_registry_blobs 2",
        "sampan_registry_blob_bytes 1002",
        "sampan_registry_sent_bytes_total 1000",
        "sampan_registry_requests_total{route=\"blob\",method=\"GET\",status=\"200\"} 1",
        "sampan_registry_requests_total{route=\"manifest\",method=\"GET\",status=\"404\"} 1",
        "sampan_registry_requests_total{route=\"upload\",method=\"POST\",status=\"201\"} 2",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}\n{text}");
    }
}

#[test]
fn the_audit_log_has_a_line_for_each_change_and_pull() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit");
    let server = Server::with(Setup {
        audit: Some(AuditLog::open(&file).unwrap()),
        ..Setup::default()
    });
    let digest = server.push_image("a/b", "v1", b"layer");
    server
        .send(
            "GET",
            "/v2/a/b/manifests/v1",
            &[("User-Agent", "test\"\\")],
            b"",
        )
        .expect(200);
    server
        .send("HEAD", "/v2/a/b/manifests/v1", &[], b"")
        .expect(200);
    server.get("/v2/a/b/manifests/absent").expect(404);
    server
        .send("DELETE", "/v2/a/b/manifests/v1", &[], b"")
        .expect(202);
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let actions: Vec<&str> = lines
        .iter()
        .map(|line| line["action"].as_str().unwrap())
        .collect();
    assert_eq!(actions, ["upload", "upload", "push", "pull", "delete"]);
    let pull = &lines[3];
    assert_eq!(pull["repository"], "a/b");
    assert_eq!(pull["reference"], "v1");
    assert_eq!(pull["digest"], digest.to_string());
    assert_eq!(pull["client"], "127.0.0.1");
    assert_eq!(pull["agent"], "test\"\\");
}

#[test]
fn a_client_that_asks_too_often_is_told_to_wait() {
    let server = Server::with(Setup {
        limits: Limits {
            requests: Some((1.0, 5.0)),
            drain: Duration::from_secs(1),
            ..Limits::default()
        },
        ..Setup::default()
    });
    let mut limited = 0;
    for _ in 0..20 {
        let answer = server.get("/v2/");
        if answer.status == 429 {
            limited += 1;
            let answer = answer.refused(429, "TOOMANYREQUESTS");
            assert!(answer.header("retry-after").is_some());
        }
    }
    assert!(limited > 5, "{limited}");
}

#[test]
fn deleted_images_give_their_space_back_while_the_registry_runs() {
    let server = Server::with(Setup {
        settings: Settings {
            lease: Duration::from_millis(100),
            ..Settings::default()
        },
        limits: Limits {
            collect_every: Duration::from_millis(50),
            drain: Duration::from_secs(1),
            ..Limits::default()
        },
        ..Setup::default()
    });
    let keep = server.push_image("a", "keep", &[1; 5000]);
    let gone = server.push_image("a", "gone", &[2; 7000]);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        server.stored(),
        5000 + 7000 + 2,
        "what manifests need stays"
    );
    server
        .send("DELETE", &format!("/v2/a/manifests/{gone}"), &[], b"")
        .expect(202);
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(50));
        if server.stored() == 5002 {
            break;
        }
    }
    assert_eq!(server.stored(), 5002);
    server.get(&format!("/v2/a/manifests/{keep}")).expect(200);
    // What was collected can be pushed again.
    let again = server.push_image("a", "gone", &[2; 7000]);
    assert_eq!(again, gone);
    assert_eq!(server.stored(), 12_002);
}

#[test]
fn pages_show_what_there_is_and_nothing_else_as_markup() {
    let server = Server::start();
    let digest = server.push_image("team/app", "v1", b"layer");
    let front = server.get("/").expect(200);
    assert!(
        front
            .header("content-security-policy")
            .unwrap()
            .starts_with("default-src 'none'")
    );
    assert!(
        front
            .text()
            .contains("<a href=\"/repositories/team/app\">team/app</a>")
    );
    let tags = server.get("/repositories/team/app").expect(200).text();
    assert!(tags.contains(&digest.short()), "{tags}");
    let image = server.get("/repositories/team/app/_/v1").expect(200).text();
    assert!(
        image.contains(&sampan_oci::Digest::of(b"layer").to_string()),
        "{image}"
    );
    let config = server.push_blob("team/app", b"{}");
    let evil = crate::support::manifest(
        &[(config, 2)],
        &[],
        r#","annotations":{"<script>alert(1)</script>":"\"><img src=x>"}"#,
    );
    let _ = server.push_manifest("team/app", "evil", &evil);
    let page = server
        .get("/repositories/team/app/_/evil")
        .expect(200)
        .text();
    assert!(page.contains("&lt;script&gt;"), "{page}");
    assert!(
        !page.contains("<script") && !page.contains("<img"),
        "{page}"
    );
    let search = server.get("/?q=%22%3E%3Cscript%3E").expect(200).text();
    assert!(!search.contains("<script"), "{search}");
    server.get("/repositories/absent").expect(404);
    server.get("/repositories/team/app/_/absent").expect(404);
    server.get("/style.css").expect(200);
    server.get("/other").expect(404);
}
