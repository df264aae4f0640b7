//! Every client pushes and pulls; all see the same digests.

use std::path::Path;

use sampan_testing::{Fixture, Ran, Registry, TestEngine, run};

use crate::SAMPAN;
use crate::server::Server;

/// A tool with storage of its own, which podman and buildah share the form of.
struct Tool {
    program: &'static str,
    storage: Vec<String>,
}

impl Tool {
    fn new(program: &'static str, scratch: &Path) -> Self {
        let scratch = scratch.join(program);
        let storage = vec![
            format!("--root={}", scratch.join("root").display()),
            format!("--runroot={}", scratch.join("run").display()),
            "--storage-driver=vfs".to_owned(),
        ];
        Self { program, storage }
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Ran {
        let storage: Vec<&str> = self.storage.iter().map(String::as_str).collect();
        run(self.program, &[storage.as_slice(), arguments].concat())
    }

    /// Pulls an image and answers the digest that it then has.
    #[track_caller]
    fn pull(&self, reference: &str) -> String {
        // An image that came twice is shown with the digest that it had first.
        let _ = self.run(&["rmi", "--all", "--force"]);
        let _ = self
            .run(&["pull", "--quiet", "--tls-verify=false", reference])
            .ok();
        let digests = ["images", "--digests", "--format={{.Digest}}", reference];
        self.run(&digests).ok()
    }

    /// Pushes an image that it pulled, and answers the digest that it was told.
    #[track_caller]
    fn push(&self, from: &str, to: &str, scratch: &Path) -> String {
        let file = scratch.join("digest");
        let file = format!("--digestfile={}", file.display());
        let _ = self
            .run(&[
                "push",
                "--quiet",
                "--tls-verify=false",
                &file,
                from,
                &format!("docker://{to}"),
            ])
            .ok();
        std::fs::read_to_string(scratch.join("digest"))
            .unwrap()
            .trim()
            .to_owned()
    }
}

#[track_caller]
pub(crate) fn skopeo_digest(reference: &str) -> String {
    let reference = format!("docker://{reference}");
    run(
        "skopeo",
        &[
            "inspect",
            "--tls-verify=false",
            "--format={{.Digest}}",
            &reference,
        ],
    )
    .ok()
}

/// The digest in the last lines of `docker pull` and its like.
#[track_caller]
fn told(ran: Ran) -> String {
    let text = ran.ok();
    let line = text.lines().find_map(|line| line.strip_prefix("Digest: "));
    line.unwrap_or_else(|| panic!("{text}")).to_owned()
}

#[test]
fn all_clients_push_and_pull_the_same_digests() {
    let server = Server::start(&[]);
    let address = server.address();
    let first = format!("{address}/skopeo/busybox:latest");
    let source = Fixture::Busybox.layout();
    let target = format!("docker://{first}");
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
    let mut pushed = vec![(first.clone(), skopeo_digest(&first))];

    let tools = [
        Tool::new("podman", server.scratch()),
        Tool::new("buildah", server.scratch()),
    ];
    for tool in &tools {
        assert_eq!(tool.pull(&first), pushed[0].1, "{}", tool.program);
        let reference = format!("{address}/{}/busybox:latest", tool.program);
        let digest = tool.push(&first, &reference, server.scratch());
        pushed.push((reference, digest));
    }

    let engine = TestEngine::start(SAMPAN);
    for (reference, digest) in &pushed {
        assert_eq!(skopeo_digest(reference), *digest, "{reference}");
        for tool in &tools {
            assert_eq!(
                tool.pull(reference),
                *digest,
                "{} {reference}",
                tool.program
            );
        }
        assert_eq!(
            told(engine.docker(&["pull", reference])),
            *digest,
            "{reference}"
        );
        assert_eq!(
            told(engine.sampan(&["pull", reference])),
            *digest,
            "{reference}"
        );
    }
    let output = engine
        .docker(&["run", "--rm", &pushed[1].0, "echo", "hello"])
        .ok();
    assert_eq!(output, "hello");
}

#[test]
fn skopeo_deletes_lists_and_mounts() {
    let server = Server::start(&[]);
    let address = server.address();
    let source = Fixture::Busybox.layout();
    for target in ["a/one:v1", "a/one:v2", "b/two:v1"] {
        let target = format!("docker://{address}/{target}");
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
    }
    let tags = run(
        "skopeo",
        &[
            "list-tags",
            "--tls-verify=false",
            &format!("docker://{address}/a/one"),
        ],
    );
    assert!(tags.ok().contains("\"v2\""));
    let blobs = || {
        std::fs::read_dir(server.root().join("blobs/sha256"))
            .unwrap()
            .count()
    };
    assert_eq!(
        blobs(),
        2,
        "one layer and one configuration, however many have them"
    );
    let delete = |reference: &str| {
        let reference = format!("docker://{address}/{reference}");
        run("skopeo", &["delete", "--tls-verify=false", &reference])
    };
    let _ = delete("a/one:v1").ok();
    // Both tags were of one manifest, which skopeo deletes.
    assert_ne!(delete("a/one:v2").code, 0);
    assert!(skopeo_digest(&format!("{address}/b/two:v1")).starts_with("sha256:"));
}

#[test]
fn many_platforms_are_pushed_and_pulled_whole() {
    let server = Server::start(&[]);
    let address = server.address();
    let tool = Tool::new("buildah", server.scratch());
    let source = Fixture::Busybox.layout();
    let single = format!("{address}/many/single:latest");
    let _ = run(
        "skopeo",
        &[
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            &source,
            &format!("docker://{single}"),
        ],
    )
    .ok();
    let _ = tool.run(&["manifest", "create", "list"]).ok();
    let _ = tool
        .run(&[
            "manifest",
            "add",
            "--tls-verify=false",
            "list",
            &format!("docker://{single}"),
        ])
        .ok();
    let target = format!("docker://{address}/many/all:latest");
    let _ = tool
        .run(&[
            "manifest",
            "push",
            "--all",
            "--tls-verify=false",
            "list",
            &target,
        ])
        .ok();
    let raw = run(
        "skopeo",
        &["inspect", "--raw", "--tls-verify=false", &target],
    )
    .ok();
    assert!(raw.contains("\"manifests\""), "{raw}");
    let again = format!("docker://{address}/many/again:latest");
    let _ = run(
        "skopeo",
        &[
            "copy",
            "--all",
            "--quiet",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            &target,
            &again,
        ],
    )
    .ok();
    let copied = run(
        "skopeo",
        &["inspect", "--raw", "--tls-verify=false", &again],
    )
    .ok();
    assert_eq!(raw, copied);
}

#[test]
fn passwords_are_asked_for_and_tokens_given() {
    for scheme in ["basic", "token"] {
        let directory = tempfile::tempdir().unwrap();
        let users = directory.path().join("users");
        let line = run("htpasswd", &["-Bbn", "alice", "secret"]).ok();
        std::fs::write(&users, line).unwrap();
        let config = directory.path().join("config.toml");
        let text = format!(
            "[auth]\nscheme = \"{scheme}\"\nusers = {:?}\n\
             [[rule]]\nrepositories = [\"public/**\"]\nusers = [\"@anyone\"]\nrights = [\"pull\"]\n\
             [[rule]]\nrepositories = [\"**\"]\nusers = [\"alice\"]\nrights = [\"pull\", \"push\", \"delete\"]\n",
            users.display().to_string()
        );
        std::fs::write(&config, text).unwrap();
        let server = Server::start(&["--config", config.to_str().unwrap()]);
        let address = server.address();
        let source = Fixture::Busybox.layout();
        let copy = |credentials: &str, target: &str| {
            let target = format!("docker://{address}/{target}");
            let credentials = format!("--dest-creds={credentials}");
            run(
                "skopeo",
                &[
                    "copy",
                    "--quiet",
                    "--dest-tls-verify=false",
                    &credentials,
                    &source,
                    &target,
                ],
            )
        };
        assert_ne!(copy("alice:wrong", "public/a:v1").code, 0);
        for target in ["public/a:v1", "private/a:v1"] {
            let _ = copy("alice:secret", target).ok();
        }
        let inspect = |flags: &[&str], name: &str| {
            let name = format!("docker://{address}/{name}");
            run(
                "skopeo",
                &[&["inspect", "--tls-verify=false"], flags, &[&name]].concat(),
            )
            .code
        };
        assert_eq!(inspect(&["--no-creds"], "public/a:v1"), 0, "{scheme}");
        assert_ne!(inspect(&["--no-creds"], "private/a:v1"), 0, "{scheme}");
        assert_eq!(
            inspect(&["--creds=alice:secret"], "private/a:v1"),
            0,
            "{scheme}"
        );
    }
}

#[test]
fn a_cache_asks_its_upstream_once_and_goes_on_without_it() {
    let upstream = Registry::start();
    let _ = upstream.push(&Fixture::Busybox);
    let proxy = format!("http://{}", upstream.address());
    let server = Server::start(&["--proxy", &proxy]);
    let reference = format!("{}/busybox:latest", server.address());
    let direct = skopeo_digest(&format!("{}/busybox:latest", upstream.address()));
    assert_eq!(skopeo_digest(&reference), direct);
    let engines = [TestEngine::start(SAMPAN), TestEngine::start(SAMPAN)];
    std::thread::scope(|scope| {
        for engine in &engines {
            let (reference, direct) = (&reference, &direct);
            let _ = scope.spawn(move || {
                assert_eq!(told(engine.sampan(&["pull", reference])), *direct);
            });
        }
    });
    drop(upstream);
    let third = TestEngine::start(SAMPAN);
    assert_eq!(told(third.docker(&["pull", &reference])), direct);
    let source = Fixture::Busybox.layout();
    let target = format!("docker://{}/other:latest", server.address());
    let refused = run(
        "skopeo",
        &[
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            &source,
            &target,
        ],
    );
    assert_ne!(refused.code, 0, "a cache takes no pushes");
}

#[test]
fn encrypted_connections_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).display().to_string();
    let (certificate, key) = (file("ca.crt"), file("server.key"));
    let _ = run(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=registry",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            &key,
            "-out",
            &certificate,
        ],
    )
    .ok();
    let server = Server::start(&["--tls-cert", &certificate, "--tls-key", &key]);
    let trusted = directory.path().join("trusted");
    std::fs::create_dir(&trusted).unwrap();
    std::fs::copy(&certificate, trusted.join("ca.crt")).unwrap();
    let trusted = trusted.display().to_string();
    let source = Fixture::Busybox.layout();
    let target = format!("docker://{}/a/busybox:v1", server.address());
    let flag = format!("--dest-cert-dir={trusted}");
    let _ = run("skopeo", &["copy", "--quiet", &flag, &source, &target]).ok();
    let layout = format!("dir:{}", file("copy"));
    let flag = format!("--src-cert-dir={trusted}");
    let _ = run("skopeo", &["copy", "--quiet", &flag, &target, &layout]).ok();
    assert_ne!(
        run("skopeo", &["inspect", &target]).code,
        0,
        "nobody vouches for it"
    );
}
