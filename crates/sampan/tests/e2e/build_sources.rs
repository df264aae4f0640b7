//! Where the files of a build come from: archives, addresses, repositories, named contexts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use sampan_testing::{Answer, Asked, Ran, ScriptedServer, TestEngine, free_port, run, run_in};

use crate::build::{context, sampan_build};
use crate::engine_with_busybox;

pub(crate) fn build(engine: &TestEngine, directory: &Path, file: &str, more: &[&str]) -> Ran {
    fs::create_dir_all(directory).unwrap();
    fs::write(directory.join("Dockerfile"), file).unwrap();
    sampan_build(engine, "built", directory, more)
}

pub(crate) fn sh(engine: &TestEngine, script: &str) -> String {
    engine
        .sampan(&["run", "--rm", "built", "sh", "-c", script])
        .ok()
}

/// One entry of a tar, whatever its name.
pub(crate) fn entry(kind: tar::EntryType, name: &str, link: &str, text: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_mode(0o644);
    header.set_uid(3);
    header.set_gid(4);
    header.set_size(text.len() as u64);
    if matches!(kind, tar::EntryType::Block | tar::EntryType::Char) {
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
    }
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(text);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

#[test]
fn archives_of_every_packing_are_unpacked() {
    let engine = engine_with_busybox();
    let directory = context(
        &engine,
        "archives",
        &[("d/a.txt", "a\n"), ("d/run.sh", "#!/bin/sh\n")],
    );
    let from = directory.to_str().unwrap();
    let mut file = String::from("FROM busybox\n");
    for (flag, name) in [
        ("", "tar"),
        ("z", "gz"),
        ("j", "bz2"),
        ("J", "xz"),
        ("-zstd", "zst"),
    ] {
        let (flags, path) = (format!("-c{flag}f"), format!("{from}/packed.{name}"));
        let flags = match name {
            "zst" => vec!["--zstd", "-cf"],
            _ => vec![flags.as_str()],
        };
        let arguments = [
            &flags[..],
            &[&path, "-C", from, "--owner=5", "--group=6", "d"],
        ]
        .concat();
        let _ = run("tar", &arguments).ok();
        file.push_str(&format!(
            "ADD packed.{name} /{name}/\nADD --unpack=false packed.{name} /kept/\n"
        ));
        fs::write(
            directory.join(format!("broken.{name}")),
            &fs::read(&path).unwrap()[..40],
        )
        .unwrap();
    }
    file.push_str("COPY packed.xz /copied\nADD --chown=7:8 packed.bz2 /owned/\nADD broken.xz broken.bz2 /broken/\n");
    let _ = build(&engine, &directory, &file, &[]).ok();
    let seen = sh(
        &engine,
        "for n in tar gz bz2 xz zst; do cat /$n/d/a.txt && stat -c %u:%g /$n/d/a.txt && test -f /kept/packed.$n; done; \
         test -f /copied && stat -c %u:%g /owned/d/a.txt && ls /broken",
    );
    assert_eq!(seen, "a\n5:6\n".repeat(5) + "5:6\nbroken.bz2\nbroken.xz");
}

#[test]
fn archives_that_want_out_stay_inside_and_bombs_are_refused() {
    use tar::EntryType::{Char, Link, Regular, Symlink};
    let engine = engine_with_busybox();
    let directory = context(&engine, "escapes", &[("f", "")]);
    let outside = engine.scratch().join("outside");
    let absolute = outside.to_str().unwrap();
    let hostile = [
        archive(&[entry(Regular, absolute, "", b"x")]),
        archive(&[entry(
            Regular,
            &format!("../../../../../..{absolute}"),
            "",
            b"x",
        )]),
        archive(&[
            entry(Symlink, "l", engine.scratch().to_str().unwrap(), b""),
            entry(Regular, "l/outside", "", b"x"),
        ]),
        archive(&[entry(Link, "h", "/etc/hostname", b"")]),
        archive(&[entry(Char, "null", "", b"")]),
        archive(&[entry(Regular, ".wh.etc", "", b"")]),
    ];
    for (number, bytes) in hostile.iter().enumerate() {
        fs::write(directory.join("a.tar"), bytes).unwrap();
        let ran = build(&engine, &directory, "FROM busybox\nADD a.tar /in/\n", &[]);
        assert!(!outside.exists(), "{number}");
        if ran.code == 0 {
            let seen = sh(
                &engine,
                "test -e /etc/passwd && find /in -type c -o -type b",
            );
            assert_eq!(seen, "", "{number}");
        }
    }
    // More than 1 GiB of nothing: streams that follow each other are one.
    let head = entry(Regular, "bomb", "", b"");
    let mut header = tar::Header::from_byte_slice(&head[..512]).clone();
    header.set_size(1_200_000_000);
    header.set_cksum();
    fs::write(directory.join("start"), header.as_bytes()).unwrap();
    let pack = "bzip2 -1 < start > bomb.tar.bz2 && head -c 10000000 /dev/zero | bzip2 > piece && rm start && \
                for i in $(seq 120); do cat piece; done >> bomb.tar.bz2 && rm piece";
    let _ = run_in(&directory, "sh", &["-c", pack]).ok();
    let file = "FROM busybox\nADD bomb.tar.bz2 /in/\n";
    let failed = build(&engine, &directory, file, &[]).failed(1);
    assert!(failed.contains("larger than"), "{failed}");
    engine.ledger().assert_no_container();
}

#[test]
fn files_are_fetched_and_known_by_their_content() {
    let engine = engine_with_busybox();
    let text = Arc::new(Mutex::new("one\n".to_owned()));
    let tar = archive(&[entry(tar::EntryType::Regular, "inside", "", b"packed\n")]);
    let server = {
        let text = text.clone();
        ScriptedServer::start(move |asked: &Asked| match asked.path.as_str() {
            "/d/file.txt?x=1" => Answer::new(200, text.lock().unwrap().as_bytes())
                .with("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
            "/a.tar" => Answer::new(200, tar.clone()),
            "/moved" => Answer::redirect("/a.tar"),
            _ => Answer::new(404, "no"),
        })
    };
    let url = format!("http://{}", server.address());
    let directory = context(&engine, "fetched", &[]);
    let file = format!(
        "FROM busybox\nWORKDIR /w\nADD {url}/d/file.txt?x=1 .\nADD --chmod=644 --chown=1:2 {url}/d/file.txt?x=1 /other\n\
         ADD {url}/a.tar /kept/\nADD --unpack=true {url}/moved /unpacked/\n"
    );
    let _ = build(&engine, &directory, &file, &[]).ok();
    let seen = sh(
        &engine,
        "cat /w/file.txt; stat -c '%a %u:%g %Y' /w/file.txt /other; ls /kept /unpacked",
    );
    assert_eq!(
        seen,
        "one\n600 0:0 784111777\n644 1:2 784111777\n/kept:\na.tar\n\n/unpacked:\ninside"
    );
    let again = build(&engine, &directory, &file, &[]).ok();
    assert_eq!(again.matches("CACHED").count(), 5, "{again}");
    "two\n".clone_into(&mut text.lock().unwrap());
    let _ = build(&engine, &directory, &file, &[]).ok();
    assert_eq!(sh(&engine, "cat /w/file.txt"), "two");
    let sum = run("sh", &["-c", "printf 'two\\n' | sha256sum | cut -d' ' -f1"]).ok();
    let add = |more: &str| format!("FROM busybox\nADD {more} /x\n");
    let file = add(&format!("--checksum=sha256:{sum} {url}/d/file.txt?x=1"));
    let _ = build(&engine, &directory, &file, &[]).ok();
    let zeros = "0".repeat(64);
    for (more, message) in [
        (
            format!("--checksum=sha256:{zeros} {url}/d/file.txt?x=1"),
            "digest mismatch",
        ),
        (
            format!("--checksum=sha256:{sum} Dockerfile"),
            "checksum requires",
        ),
        (format!("{url}/missing"), "404"),
    ] {
        let failed = build(&engine, &directory, &add(&more), &[]).failed(1);
        assert!(failed.contains(message), "{more}: {failed}");
    }
}

#[test]
fn contexts_are_named_and_fetched() {
    let engine = engine_with_busybox();
    let file = "FROM busybox\nCOPY . /in/\nRUN ls /in > /list\n";
    let tar = archive(&[
        entry(tar::EntryType::Regular, "Dockerfile", "", file.as_bytes()),
        entry(tar::EntryType::Regular, "f", "", b"fetched\n"),
    ]);
    let server = ScriptedServer::start(move |asked: &Asked| match asked.path.as_str() {
        "/c.tar" => Answer::new(200, tar.clone()),
        "/text" => Answer::new(200, "FROM busybox\nRUN echo alone > /list\n"),
        "/noise" => Answer::new(200, [0u8; 100]),
        _ => Answer::new(404, "no"),
    });
    let url = format!("http://{}", server.address());
    let from = |address: &str| engine.sampan(&["build", "-t", "built", &format!("{url}{address}")]);
    let _ = from("/c.tar").ok();
    assert_eq!(sh(&engine, "cat /list /in/f"), "Dockerfile\nf\nfetched");
    let _ = from("/text").ok();
    assert_eq!(sh(&engine, "cat /list"), "alone");
    assert!(
        from("/noise")
            .failed(1)
            .contains("neither a tar nor a Dockerfile")
    );
    assert!(from("/missing").failed(1).contains("404"));
    let directory = context(&engine, "named", &[]);
    let file = "FROM base AS one\nRUN echo replaced > /r\nFROM scratch AS base2\n\
        FROM busybox\nCOPY --from=files f /f\nCOPY --from=one /r /r\n\
        RUN --mount=from=files,target=/m cat /m/f >> /r\n";
    let named = [
        "--build-context",
        "base=docker-image://busybox",
        "--build-context",
        &format!("files={url}/c.tar"),
    ];
    let _ = build(&engine, &directory, file, &named).ok();
    assert_eq!(sh(&engine, "cat /f /r"), "fetched\nreplaced\nfetched");
    let failed = build(
        &engine,
        &directory,
        file,
        &["--build-context", "files=oci-layout:///x"],
    )
    .failed(1);
    assert!(failed.contains("/x: "), "{failed}");
}

/// `git daemon` on loopback; ended with this.
struct GitServer {
    child: Child,
    port: u16,
}

impl GitServer {
    fn start(base: &Path) -> Self {
        let port = free_port();
        let child = Command::new("git")
            .args([
                "daemon",
                "--reuseaddr",
                "--export-all",
                "--listen=127.0.0.1",
            ])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", base.display()))
            .arg(base)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Self { child, port }
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        let daemon = self.child.id().to_string();
        let _ = run(
            "sh",
            &[
                "-c",
                &format!("kill $(ps -o pid= --ppid {daemon}) {daemon} 2>/dev/null"),
            ],
        );
        let _ = self.child.wait();
    }
}

pub(crate) fn git(directory: &Path, arguments: &[&str]) -> String {
    let identity = [
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@t",
        "-c",
        "init.defaultBranch=main",
    ];
    let more = [
        "-c",
        "protocol.file.allow=always",
        "-c",
        "advice.detachedHead=false",
    ];
    run_in(
        directory,
        "git",
        &[&identity[..], &more, arguments].concat(),
    )
    .ok()
}

/// A repository with two commits, a tag, a branch and attributes that leave things out.
pub(crate) fn repository(base: &Path) -> PathBuf {
    let at = base.join("r");
    fs::create_dir_all(at.join("sub/deep")).unwrap();
    git(&at, &["init", "-q"]);
    fs::write(at.join("a"), "first\n").unwrap();
    fs::write(at.join("sub/deep/b"), "deep\n").unwrap();
    fs::write(
        at.join(".gitattributes"),
        "a export-ignore\nsub export-ignore\n",
    )
    .unwrap();
    std::os::unix::fs::symlink("/etc/passwd", at.join("sub/link")).unwrap();
    git(&at, &["add", "-A"]);
    git(&at, &["commit", "-q", "-m", "one"]);
    git(&at, &["tag", "v1"]);
    fs::write(at.join("a"), "second\n").unwrap();
    fs::write(at.join("Dockerfile"), "FROM busybox\nCOPY . /in/\n").unwrap();
    git(&at, &["add", "-A"]);
    git(&at, &["commit", "-q", "-m", "two"]);
    at
}

#[test]
fn repositories_are_fetched_at_what_is_named() {
    let engine = engine_with_busybox();
    let base = engine.scratch().join("git");
    let at = repository(&base);
    let commit = git(&at, &["rev-parse", "v1"]);
    let server = GitServer::start(&base);
    let url = format!("git://127.0.0.1:{}/r", server.port);
    let directory = context(&engine, "git", &[]);
    let short = &commit[..12];
    let file = format!(
        "FROM busybox\nADD {url} /head\nADD {url}#v1 /v1\nADD {url}?tag=v1&subdir=sub/deep /deep/\n\
         ADD --keep-git-dir=true {url}#main /kept\nADD --checksum={short} {url}#v1 /sum\n\
         ADD {url}#{commit} /exact\nADD {url}#{short} /short\n"
    );
    let _ = build(&engine, &directory, &file, &[]).ok();
    let seen = sh(
        &engine,
        "cat /head/a /v1/a /deep/b /kept/a /sum/a /exact/a /short/a; ls -d /*/.git; cat /kept/.git/HEAD; \
         readlink /v1/sub/link; stat -c '%a %u:%g' /v1/a",
    );
    let head = git(&at, &["rev-parse", "main"]);
    let expected = format!(
        "second\nfirst\ndeep\nsecond\nfirst\nfirst\nfirst\n/kept/.git\n{head}\n/etc/passwd\n644 0:0"
    );
    assert_eq!(seen, expected);
    let again = build(&engine, &directory, &file, &[]).ok();
    assert_eq!(again.matches("CACHED").count(), 7, "{again}");
    // The context itself.
    let from = |address: &str| engine.sampan(&["build", "-t", "built", address]);
    let _ = from(&url).ok();
    assert_eq!(sh(&engine, "cat /in/a"), "second");
    assert!(
        from(&format!("{url}#v1"))
            .failed(1)
            .contains("failed to read dockerfile")
    );
    for (more, message) in [
        (format!("{url}#../x"), "is no name of a branch"),
        (
            format!("{url}#--upload-pack=touch"),
            "is no name of a branch",
        ),
        (format!("{url}#v1:../../etc"), "leads out"),
        (format!("{url}#v1:none"), "is not in"),
        (format!("{url}#nothing"), "git fetch failed"),
        (
            format!("--checksum=0123456789 {url}#v1"),
            "expected checksum",
        ),
        ("git@127.0.0.1:r.git".to_owned(), "SSH"),
    ] {
        let file = format!("FROM busybox\nADD {more} /x\n");
        let failed = build(&engine, &directory, &file, &[]).failed(1);
        assert!(failed.contains(message), "{more}: {failed}");
    }
    let scratch = fs::read_dir(engine.root().join("build/scratch")).unwrap();
    assert_eq!(scratch.count(), 0);
}

#[test]
fn submodules_come_along_and_hooks_do_not_run() {
    let engine = engine_with_busybox();
    let base = engine.scratch().join("git");
    let at = repository(&base);
    let outer = base.join("outer");
    fs::create_dir_all(&outer).unwrap();
    git(&outer, &["init", "-q"]);
    git(
        &outer,
        &["submodule", "--quiet", "add", at.to_str().unwrap(), "mod/r"],
    );
    git(
        &outer,
        &["config", "-f", ".gitmodules", "submodule.mod/r.url", "../r"],
    );
    git(&outer, &["add", "-A"]);
    git(&outer, &["commit", "-q", "-m", "outer"]);
    let server = GitServer::start(&base);
    let url = format!("git://127.0.0.1:{}/outer", server.port);
    let directory = context(&engine, "git", &[]);
    let file = format!("FROM busybox\nADD {url} /o\nADD {url}?submodules=false /n\n");
    let _ = build(&engine, &directory, &file, &[]).ok();
    assert_eq!(sh(&engine, "cat /o/mod/r/a; ls /n/mod/r"), "second");
    // One that is elsewhere is not followed to the host's own files.
    let own = format!("file://{}", at.display());
    for hostile in [own.as_str(), "/etc", "ext::sh -c touch% /tmp/x", "-u x"] {
        git(
            &outer,
            &[
                "config",
                "-f",
                ".gitmodules",
                "submodule.mod/r.url",
                hostile,
            ],
        );
        git(&outer, &["commit", "-q", "-a", "-m", "hostile"]);
        let failed = build(&engine, &directory, &file, &[]).failed(1);
        assert!(failed.contains("cannot be fetched"), "{hostile}: {failed}");
    }
}

#[test]
fn a_foreign_frontend_is_refused() {
    let engine = engine_with_busybox();
    let directory = context(&engine, "syntax", &[]);
    let file = "# syntax=evil.example/frontend:latest\nFROM busybox\n";
    let failed = build(&engine, &directory, file, &[]).failed(1);
    assert!(failed.contains("evil.example/frontend"), "{failed}");
    let own = "# syntax=docker/dockerfile:1\nFROM busybox\n";
    let _ = build(&engine, &directory, own, &[]).ok();
}
