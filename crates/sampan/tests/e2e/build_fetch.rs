//! What builds fetch by HTTP: repositories, files and images that want to know who asks.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sampan_testing::{Answer, Asked, Fixture, Login, Registry, ScriptedServer, fixture};

use crate::build::context;
use crate::build_sources::{build, git, repository, sh};
use crate::buildkit::Builder;
use crate::engine_with_busybox;

const TOKEN: &str = "a-token-of-git";

/// A server with the files of a repository, which knows nothing of git.
fn files(base: PathBuf) -> ScriptedServer {
    ScriptedServer::start(move |asked: &Asked| {
        let path = asked.path.split('?').next().unwrap();
        assert!(!path.contains(".."));
        match std::fs::read(base.join(path.trim_start_matches('/'))) {
            Ok(bytes) => Answer::new(200, bytes),
            Err(_) => Answer::new(404, "no"),
        }
    })
}

/// What git's own program for servers answers.
fn backend(base: &Path, asked: &Asked) -> Answer {
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    let mut child = Command::new("/usr/lib/git-core/git-http-backend")
        .env("GIT_PROJECT_ROOT", base)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("REQUEST_METHOD", &asked.method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", asked.header("content-type").unwrap_or(""))
        .env(
            "HTTP_CONTENT_ENCODING",
            asked.header("content-encoding").unwrap_or(""),
        )
        .env("CONTENT_LENGTH", asked.body.len().to_string())
        .env("GIT_PROTOCOL", asked.header("git-protocol").unwrap_or(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&asked.body).unwrap();
    let output = child.wait_with_output().unwrap().stdout;
    let end = output.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = output.split_at(end.unwrap() + 4);
    let head = String::from_utf8_lossy(head);
    let mut answer = Answer::new(200, body);
    for (name, value) in head.lines().filter_map(|line| line.split_once(": ")) {
        match name {
            "Status" => answer.status = value[..3].parse().unwrap(),
            name => answer = answer.with(name, value),
        }
    }
    answer
}

#[test]
fn repositories_are_fetched_by_http_also_from_servers_that_know_nothing_of_git() {
    let engine = engine_with_busybox();
    let base = engine.scratch().join("git");
    let at = repository(&base);
    git(&at, &["update-server-info"]);
    let directory = context(&engine, "git", &[]);
    let commit = git(&at, &["rev-parse", "v1"]);
    let plain = files(base.clone());
    let clever = ScriptedServer::start(move |asked: &Asked| backend(&base, asked));
    for server in [&plain, &clever] {
        let url = format!("http://{}/r/.git", server.address());
        let file = format!(
            "FROM busybox\nADD {url} /head\nADD {url}#v1 /v1\nADD {url}#{commit}:sub/deep /deep\n"
        );
        let _ = build(&engine, &directory, &file, &["--no-cache"]).ok();
        let seen = sh(&engine, "cat /head/a /v1/a /deep/b; test ! -e /head/.git");
        assert_eq!(seen, "second\nfirst\ndeep");
        let _ = engine.sampan(&["build", "-t", "built", &url]).ok();
        assert_eq!(sh(&engine, "cat /in/a"), "second");
    }
}

#[test]
fn a_token_goes_to_the_repository_that_it_is_for_and_nowhere_else() {
    let engine = engine_with_busybox();
    let base = engine.scratch().join("git");
    let _ = repository(&base);
    let expected = STANDARD.encode(format!("x-access-token:{TOKEN}"));
    let server = ScriptedServer::start(move |asked: &Asked| {
        let given = asked.header("authorization").unwrap_or_default();
        match given.strip_prefix("basic ") == Some(&expected) {
            true => backend(&base, asked),
            false => Answer::new(401, "no").with("www-authenticate", "Basic realm=\"r\""),
        }
    });
    let url = format!("http://{}/r/.git", server.address());
    let directory = context(&engine, "git", &[]);
    let file = format!("FROM busybox\nADD {url} /head\n");
    let token = engine.scratch().join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let from = format!("src={}", token.display());
    let failed = build(&engine, &directory, &file, &[]).failed(1);
    assert!(!failed.contains(TOKEN), "{failed}");
    let other = ["--secret", &format!("id=GIT_AUTH_TOKEN.example.org,{from}")];
    let _ = build(&engine, &directory, &file, &other).failed(1);
    for id in [
        "GIT_AUTH_TOKEN".to_owned(),
        format!("GIT_AUTH_TOKEN.{}", server.address()),
    ] {
        let secret = format!("id={id},{from}");
        let _ = build(
            &engine,
            &directory,
            &file,
            &["--no-cache", "--secret", &secret],
        )
        .ok();
        assert_eq!(sh(&engine, "cat /head/a"), "second");
        let remote = ["build", "-t", "built", "--secret", &secret, &url];
        let _ = engine.sampan(&remote).ok();
        assert_eq!(sh(&engine, "cat /in/a"), "second");
    }
    let history = engine.sampan(&["history", "--no-trunc", "built"]).ok();
    assert!(!history.contains(TOKEN), "{history}");
}

#[test]
fn a_file_that_wants_to_know_who_asks_is_added_with_a_secret() {
    let engine = engine_with_busybox();
    let server = ScriptedServer::start(|asked: &Asked| match asked.header("authorization") {
        Some("Bearer one") => Answer::new(200, "bearer\n"),
        Some("Digest two") => Answer::new(200, "header\n"),
        _ => Answer::new(401, "no"),
    });
    let directory = context(&engine, "files", &[("one", "one"), ("two", "Digest two")]);
    let file = format!("FROM busybox\nADD http://{}/f /f\n", server.address());
    let failed = build(&engine, &directory, &file, &[]).failed(1);
    assert!(failed.contains("401"), "{failed}");
    for (kind, from, seen) in [("TOKEN", "one", "bearer"), ("HEADER", "two", "header")] {
        let path = directory.join(from);
        let id = format!("HTTP_AUTH_{kind}_{}", server.address());
        let secret = format!("id={id},src={}", path.display());
        let _ = build(&engine, &directory, &file, &["--secret", &secret]).ok();
        assert_eq!(sh(&engine, "cat /f"), seen);
    }
}

#[test]
fn a_private_base_image_is_fetched_with_the_credentials_of_dockers_client() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let login = Login {
        user: "captain".to_owned(),
        password: "correct horse".to_owned(),
    };
    let registry = Registry::with_login(login.clone());
    let base = registry.push(&fixture(Fixture::Whiteouts));
    let file = format!("FROM {base}\nRUN echo private > /p\n");
    let directory = builder.context("private", &[("Dockerfile", &file)]);
    let refused = builder.try_build(&directory, &["-t", "private"]).failed(1);
    for expected in [
        format!("[internal] load metadata for {base}"),
        "no basic auth credentials".to_owned(),
        "Dockerfile:1\n".to_owned(),
        format!(">>> FROM {base}\n"),
    ] {
        assert!(refused.contains(&expected), "{expected}: {refused}");
    }
    let auth = STANDARD.encode(format!("{}:{}", login.user, login.password));
    let config = builder.engine.scratch().join("docker/config.json");
    let text = format!(
        r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#,
        registry.address()
    );
    std::fs::write(&config, text).unwrap();
    let told = builder.build(&directory, &["-t", "private"]);
    assert!(
        told.contains(&format!("[internal] load metadata for {base}")),
        "{told}"
    );
    assert!(
        told.contains("downloading ") || told.contains("extracting "),
        "{told}"
    );
    assert!(
        !told.contains(&login.password) && !told.contains(&auth),
        "{told}"
    );
    assert_eq!(builder.run("private", "cat /p"), "private");
}
