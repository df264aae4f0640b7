//! The pages, as a browser shows them.

use std::process::Command;

use sampan_testing::{Fixture, run};

use crate::server::Server;

/// What Chromium makes of a page, scripts off and on alike.
fn browse(server: &Server, path: &str, flag: &str) -> String {
    let profile = server.scratch().join("chromium");
    let output = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1000,700",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(flag)
        .arg(format!("http://{}{path}", server.address()))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn pages_show_repositories_tags_and_layers() {
    let server = Server::start(&[]);
    let source = Fixture::Busybox.layout();
    let target = format!("docker://{}/team/busybox:v1", server.address());
    let _ = run(
        "skopeo",
        &[
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            &source,
            &target,
        ],
    )
    .ok();
    let front = browse(&server, "/", "--dump-dom");
    assert!(
        front.contains("href=\"/repositories/team/busybox\""),
        "{front}"
    );
    let tags = browse(&server, "/repositories/team/busybox", "--dump-dom");
    assert!(tags.contains("/repositories/team/busybox/_/v1"), "{tags}");
    let image = browse(&server, "/repositories/team/busybox/_/v1", "--dump-dom");
    assert!(image.contains("<h2>Layers</h2>"), "{image}");
    let picture = server.scratch().join("page.png");
    let flag = format!("--screenshot={}", picture.display());
    let _ = browse(&server, "/repositories/team/busybox/_/v1", &flag);
    assert!(std::fs::metadata(&picture).unwrap().len() > 2000);
}
