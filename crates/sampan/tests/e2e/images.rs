//! Images on their way out and back: commit, push, save, export, with both clients, and with what
//! other programs make of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use sampan_testing::{Fixture, Login, Ran, Registry, TestEngine, fixture, run};

use crate::{engine, engine_with_busybox};

pub(crate) type Client = fn(&TestEngine, &[&str]) -> Ran;

pub(crate) const CLIENTS: [(&str, Client); 2] = [
    ("sampan", |engine, arguments| engine.sampan(arguments)),
    ("docker", |engine, arguments| engine.docker(arguments)),
];

/// Changes a container of `image` by a script and commits it as `name`.
pub(crate) fn commit(
    engine: &TestEngine,
    client: Client,
    image: &str,
    script: &str,
    name: &str,
) -> String {
    let container = client(engine, &["run", "-d", image, "sleep", "1000"]).ok();
    let _ = client(engine, &["exec", &container, "sh", "-c", script]).ok();
    let id = client(engine, &["commit", &container, name]).ok();
    let _ = client(engine, &["rm", "-f", &container]).ok();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    id
}

/// An image of `count` more layers than busybox has.
pub(crate) fn layered(engine: &TestEngine, client: Client, count: usize, name: &str) {
    let mut base = "busybox".to_owned();
    for layer in 1..=count {
        let script = format!("head -c 100000 /dev/urandom > /layer-{layer}");
        let next = if layer == count {
            name.to_owned()
        } else {
            format!("step:{layer}")
        };
        let _ = commit(engine, client, &base, &script, &next);
        base = next;
    }
}

pub(crate) fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The diff IDs of an image.
pub(crate) fn layers(engine: &TestEngine, image: &str) -> Vec<String> {
    let format = "{{json .RootFS.Layers}}";
    let text = engine
        .sampan(&["image", "inspect", "--format", format, image])
        .ok();
    serde_json::from_str(&text).unwrap()
}

pub(crate) fn id(engine: &TestEngine, image: &str) -> String {
    engine
        .sampan(&["image", "inspect", "--format", "{{.Id}}", image])
        .ok()
}

pub(crate) fn count(text: &str, word: &str) -> usize {
    text.lines().filter(|line| line.contains(word)).count()
}

/// The digest that a push has told.
pub(crate) fn pushed_digest(said: &str) -> String {
    let line = said
        .lines()
        .find(|line| line.contains(": digest: sha256:"))
        .unwrap_or_else(|| panic!("no digest: {said}"));
    let digest = line.split(' ').nth(2).unwrap().to_owned();
    let size = line.split("size: ").nth(1).unwrap();
    assert!(size.parse::<u64>().unwrap() > 0);
    digest
}

/// The digest that the registry has for a name.
pub(crate) fn digest_at(reference: &str) -> String {
    let source = format!("docker://{reference}");
    let format = [
        "inspect",
        "--tls-verify=false",
        "--format",
        "{{.Digest}}",
        &source,
    ];
    run("skopeo", &format).ok()
}

#[test]
fn a_pulled_image_keeps_its_digest_elsewhere() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let (one, two) = (Registry::start(), Registry::start());
    for (kind, flags) in [
        ("oci", &["--format=oci"][..]),
        ("docker", &["--format=v2s2"]),
        ("zstd", &["--format=oci", "--dest-compress-format=zstd"]),
    ] {
        let source = one.push_with(&fixture(Fixture::Busybox), flags);
        let digest = digest_at(&source);
        let engine = engine();
        let _ = engine.sampan(&["pull", &source]).ok();
        // Each has repositories of its own, so that none finds what another has left.
        let target = format!("{}/copy/{kind}:latest", two.address());
        let _ = engine.sampan(&["tag", &source, &target]).ok();
        let said = engine.docker(&["push", &target]).ok();
        assert_eq!(pushed_digest(&said), digest, "{flags:?}");
        assert_eq!(digest_at(&target), digest, "{flags:?}");
        // In the same registry nothing is sent at all.
        let neighbour = format!("{}/neighbour/{kind}:latest", one.address());
        let _ = engine.sampan(&["tag", &source, &neighbour]).ok();
        let said = engine.sampan(&["push", &neighbour]).ok();
        assert_eq!(count(&said, ": Mounted from busybox"), 1, "{said}");
        assert_eq!(pushed_digest(&said), digest, "{flags:?}");
        // Nor is anything lost when the cache of blobs is.
        let blobs = engine.root().join("content/blobs/sha256");
        fs::remove_dir_all(&blobs).unwrap();
        fs::create_dir(&blobs).unwrap();
        engine.kill();
        let third = format!("{}/third/{kind}:latest", two.address());
        let _ = engine.sampan(&["tag", &source, &third]).ok();
        let said = engine.sampan(&["push", &third]).ok();
        assert_eq!(pushed_digest(&said), digest, "{flags:?}");
    }
}

#[test]
fn all_tags_quiet_and_errors_are_as_with_docker() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let registry = Registry::start();
    let engine = engine_with_busybox();
    for (who, client) in CLIENTS {
        let name = format!("{}/{who}/app", registry.address());
        for tag in ["a", "b"] {
            let _ = client(&engine, &["tag", "busybox", &format!("{name}:{tag}")]).ok();
        }
        let said = client(&engine, &["push", "--all-tags", &name]).ok();
        assert!(said.contains("\na: digest: "), "{who}: {said}");
        assert!(said.contains("\nb: digest: "), "{who}: {said}");
        assert_eq!(count(&said, "The push refers to"), 1, "{who}: {said}");
        let quiet = client(&engine, &["push", "-q", &format!("{name}:a")]).ok();
        assert_eq!(quiet, format!("{name}:a"), "{who}");
        let missing = client(&engine, &["push", &name]);
        assert!(
            missing.stdout.starts_with("Using default tag: latest\n"),
            "{who}"
        );
        assert!(
            missing.stderr.contains("tag does not exist: "),
            "{who}: {missing:?}"
        );
        assert_eq!(missing.code, 1, "{who}");
        let unknown = client(&engine, &["push", "no/such:image"]);
        assert!(
            unknown
                .stderr
                .contains("An image does not exist locally with the tag: no/such"),
            "{who}: {unknown:?}"
        );
        let both = client(&engine, &["push", "-a", &format!("{name}:a")]);
        assert!(
            both.stderr.contains("tag can't be used with --all-tags/-a"),
            "{who}: {both:?}"
        );
    }
}

#[test]
fn credentials_go_to_the_registry_that_wants_them() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let login = Login {
        user: "me".into(),
        password: "secret".into(),
    };
    let registry = Registry::with_login(login);
    let engine = engine_with_busybox();
    let target = format!("{}/app:v1", registry.address());
    let _ = engine.sampan(&["tag", "busybox", &target]).ok();
    for (who, client) in CLIENTS {
        let refused = client(&engine, &["push", &target]);
        assert!(
            refused.stderr.contains("no basic auth credentials"),
            "{who}: {refused:?}"
        );
    }
    let config = engine.scratch().join("docker-config");
    fs::create_dir_all(&config).unwrap();
    let auths = format!(
        r#"{{"auths":{{"{}":{{"auth":"bWU6c2VjcmV0"}}}}}}"#,
        registry.address()
    );
    fs::write(config.join("config.json"), auths).unwrap();
    for (who, client) in CLIENTS {
        let said = client(&engine, &["push", &target]).ok();
        assert!(said.contains("v1: digest: sha256:"), "{who}: {said}");
    }
}

#[test]
fn zstd_on_request_and_other_programs_read_it() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let registry = Registry::start();
    let engine = engine_with_busybox();
    let target = format!("{}/packed:zstd", registry.address());
    let _ = engine.sampan(&["tag", "busybox", &target]).ok();
    let said = engine
        .sampan(&["push", "--compression", "zstd", &target])
        .ok();
    let digest = pushed_digest(&said);
    let source = format!("docker://{target}");
    let raw = run(
        "skopeo",
        &["inspect", "--raw", "--tls-verify=false", &source],
    )
    .ok();
    assert!(raw.contains("layer.v1.tar+zstd"), "{raw}");
    let again = engine
        .sampan(&["push", "--compression", "zstd", &target])
        .ok();
    assert_eq!(pushed_digest(&again), digest);
    let copy = format!("dir:{}", engine.scratch().join("copy").display());
    let copied = ["copy", "--quiet", "--src-tls-verify=false", &source, &copy];
    let _ = run("skopeo", &copied).ok();
    let gzip = format!("{}/packed:gzip", registry.address());
    let _ = engine.sampan(&["tag", "busybox", &gzip]).ok();
    let _ = engine.sampan(&["push", &gzip]).ok();
    let source = format!("docker://{gzip}");
    let raw = run(
        "skopeo",
        &["inspect", "--raw", "--tls-verify=false", &source],
    )
    .ok();
    assert!(raw.contains("rootfs.diff.tar.gzip"), "{raw}");
    let wrong = engine.sampan(&["push", "--compression", "lzma", &gzip]);
    assert!(
        wrong.stderr.contains("gzip and zstd are known"),
        "{wrong:?}"
    );
}

/// Members of a tar: path to kind, mode, owner, link and content.
fn members(tar: &Path) -> BTreeMap<String, (u8, u32, String, Vec<u8>)> {
    let mut archive = tar::Archive::new(fs::File::open(tar).unwrap());
    let mut members = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let link = entry
            .link_name_bytes()
            .map(|link| String::from_utf8_lossy(&link).into_owned())
            .unwrap_or_default();
        let kind = entry.header().entry_type().as_byte();
        let mode = entry.header().mode().unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        members.insert(path, (kind, mode, link, content));
    }
    members
}

/// Writes what a client prints into a file.
fn into_file(engine: &TestEngine, docker: bool, arguments: &[&str], name: &str) -> PathBuf {
    let path = engine.scratch().join(name);
    let mut command = if docker {
        engine.docker_command(arguments)
    } else {
        engine.command(arguments)
    };
    let file = fs::File::create(&path).unwrap();
    let status = command.stdout(file).status().unwrap();
    assert!(status.success(), "{arguments:?}");
    path
}

#[test]
fn a_commit_is_exactly_what_the_container_changed() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let script = "
        mkdir -p /d/e && echo one > /d/file && ln /d/file /d/e/again && ln -s file /d/link
        chmod 4755 /d/file && mknod /d/null c 1 3 && mkfifo /d/pipe
        rm /etc/group && rm -r /var && mkdir /var && echo new > /var/new
        dd if=/dev/zero of=/sparse bs=1 count=1 seek=50000000 2>/dev/null
        mv /home /moved && chown 1000:1000 /moved && touch /.wh.trick";
    let name = "changed:1";
    let container = engine
        .sampan(&["run", "-d", "-v", "vol:/data", "busybox", "sleep", "1000"])
        .ok();
    let _ = engine
        .sampan(&["exec", &container, "sh", "-c", script])
        .ok();
    let _ = engine
        .docker(&[
            "commit",
            "-a",
            "Somebody",
            "-m",
            "why",
            "-c",
            "ENV A=b",
            "-c",
            "CMD [\"sh\", \"-c\", \"echo $A\"]",
            &container,
            name,
        ])
        .ok();
    let running = engine
        .sampan(&["inspect", "--format", "{{.State.Status}}", &container])
        .ok();
    assert_eq!(running, "running");
    let _ = engine.sampan(&["rm", "-f", "-v", &container]).ok();
    assert_eq!(engine.sampan(&["run", "--rm", name]).ok(), "b");
    let check = "
        cat /d/file /d/e/again; readlink /d/link; stat -c %a /d/file
        stat -c '%h %i' /d/file | sed 's/ .*//'; stat -c '%F %t:%T' /d/null; stat -c %F /d/pipe
        ls /etc/group 2>/dev/null; ls /var; stat -c %s /sparse; stat -c %u:%g /moved
        ls -d /home /data /.wh.trick 2>/dev/null; true";
    let seen = engine
        .sampan(&["run", "--rm", name, "sh", "-c", check])
        .ok();
    let expected =
        "one\none\nfile\n4755\n2\ncharacter special file 1:3\nfifo\nnew\n50000001\n1000:1000";
    assert_eq!(seen, expected);
    let inspected = json(&engine.sampan(&["image", "inspect", name]).ok());
    assert_eq!(inspected[0]["Author"], "Somebody");
    assert_eq!(inspected[0]["Comment"], "why");
    let parent = id(&engine, "busybox");
    assert_eq!(inspected[0]["Parent"], parent);
    let history = engine
        .sampan(&[
            "history",
            "--no-trunc",
            "--format",
            "{{.CreatedBy}}|{{.Comment}}|{{.Size}}",
            name,
        ])
        .ok();
    let first = history.lines().next().unwrap();
    assert!(first.starts_with("sleep 1000|why|"), "{history}");
    // What is sparse takes no space in the layer.
    let tar = into_file(&engine, false, &["save", name], "saved.tar");
    assert!(fs::metadata(tar).unwrap().len() < 10_000_000);
    // A container that changed nothing adds no layer.
    let stopped = engine.sampan(&["create", "busybox"]).ok();
    let _ = engine.sampan(&["commit", &stopped, "same:1"]).ok();
    assert_eq!(layers(&engine, "same:1"), layers(&engine, "busybox"));
    let _ = engine.sampan(&["volume", "rm", "vol"]);
}

#[test]
fn saved_images_come_back_bit_by_bit() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    for (who, client) in CLIENTS {
        let engine = engine_with_busybox();
        layered(&engine, client, 2, "made:1");
        let _ = engine.sampan(&["tag", "busybox", "busybox:second"]).ok();
        let (made, busybox) = (id(&engine, "made:1"), id(&engine, "busybox"));
        let path = engine.scratch().join("saved.tar").display().to_string();
        // Flags may come behind the names.
        let _ = client(&engine, &["save", "made:1", "busybox", "-o", &path]).ok();
        let piped = into_file(
            &engine,
            who == "docker",
            &["save", "made:1", "busybox"],
            "piped.tar",
        );
        assert!(
            fs::read(&path).unwrap() == fs::read(piped).unwrap(),
            "{who}"
        );
        let names: Vec<String> = members(Path::new(&path)).into_keys().collect();
        for name in ["index.json", "manifest.json", "oci-layout", "repositories"] {
            assert!(names.iter().any(|n| n == name), "{who}: {names:?}");
        }
        let other = crate::engine();
        let said = client(&other, &["load", "-i", &path]).ok();
        for name in ["made:1", "busybox:latest", "busybox:second"] {
            assert!(
                said.contains(&format!("Loaded image: {name}")),
                "{who}: {said}"
            );
        }
        assert_eq!(id(&other, "made:1"), made, "{who}");
        assert_eq!(id(&other, "busybox:second"), busybox, "{who}");
        assert_eq!(layers(&other, "made:1"), layers(&engine, "made:1"), "{who}");
        // By its identity it has no name.
        let _ = client(&engine, &["save", "-o", &path, &made[7..19]]).ok();
        let third = crate::engine();
        let said = client(&third, &["load", "-i", &path]).ok();
        assert_eq!(said, format!("Loaded image ID: {made}"), "{who}");
        let missing = client(&engine, &["save", "-o", &path, "no-such"]);
        assert_eq!(missing.code, 1, "{who}");
        assert!(
            missing.stderr.contains("No such image: no-such"),
            "{missing:?}"
        );
    }
}

/// The digest of the configuration in an archive, as skopeo finds it.
fn config_in(source: &str) -> String {
    let raw = run("skopeo", &["inspect", "--raw", source]).ok();
    let digest = &json(&raw)["config"]["digest"];
    digest.as_str().unwrap().to_owned()
}

#[test]
fn other_programs_read_what_is_saved_and_are_read() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    layered(&engine, CLIENTS[0].1, 2, "made:1");
    let path = |name: &str| engine.scratch().join(name).display().to_string();
    let saved = path("saved.tar");
    let _ = engine.sampan(&["save", "-o", &saved, "made:1"]).ok();
    let want = id(&engine, "made:1");
    // The image is its configuration, byte for byte, whichever of the two forms is read.
    let (as_docker, as_oci) = (
        format!("docker-archive:{saved}"),
        format!("oci-archive:{saved}"),
    );
    for source in [&as_docker, &as_oci] {
        assert_eq!(config_in(source), want, "{source}");
    }
    let copy = |from: &str, to: &str| {
        let _ = run("skopeo", &["copy", "--quiet", from, to]).ok();
    };
    // What other programs write of it without another form comes back as the same image.
    let (oci, old, layout) = (path("oci.tar"), path("old.tar"), path("layout"));
    copy(&as_oci, &format!("oci-archive:{oci}:made:2"));
    copy(&as_docker, &format!("docker-archive:{old}:made:3"));
    copy(&as_oci, &format!("oci:{layout}:made:4"));
    let umoci = path("umoci.tar");
    let _ = run("umoci", &["gc", "--layout", &layout]).ok();
    let _ = run("tar", &["-C", &layout, "-cf", &umoci, "."]).ok();
    for archive in [&oci, &old, &umoci] {
        let other = crate::engine();
        let _ = other.sampan(&["load", "-i", archive]).ok();
        let ids = other.sampan(&["images", "-q", "--no-trunc"]).ok();
        assert_eq!(ids, want, "{archive}");
    }
    // What they turn into another form has a configuration of theirs and the same layers.
    let storage = path("storage");
    let _ = fs::create_dir(&storage);
    for (program, form) in [
        ("podman", "docker-archive"),
        ("podman", "oci-archive"),
        ("buildah", "oci-archive"),
    ] {
        let own = [
            "--root",
            &storage,
            "--runroot",
            &path("runroot"),
            "--storage-driver",
            "vfs",
        ];
        let out = path(&format!("{program}-{form}.tar"));
        let target = format!("{form}:{out}");
        let steps: Vec<Vec<&str>> = if program == "podman" {
            vec![
                vec!["load", "-q", "-i", &saved],
                vec!["save", "-q", "--format", form, "-o", &out, "made:1"],
            ]
        } else {
            vec![vec!["push", "-q", "docker.io/library/made:1", &target]]
        };
        for step in &steps {
            let arguments = [&own[..], step].concat();
            let _ = run(program, &arguments).ok();
        }
        let other = crate::engine();
        let _ = other.docker(&["load", "-i", &out]).ok();
        let loaded = other.sampan(&["images", "-q", "--no-trunc"]).ok();
        assert_eq!(loaded, config_in(&target), "{program} {form}");
        assert_eq!(
            layers(&other, &loaded),
            layers(&engine, "made:1"),
            "{program} {form}"
        );
    }
}

#[test]
fn exported_files_are_the_containers_without_its_mounts() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let shared = engine.scratch().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("secret"), "of the host").unwrap();
    let bind = format!("{}:/shared", shared.display());
    let script =
        "echo mine > /mine; rm /etc/group; mv /home /moved; ln -s /shared/secret /trap; sleep 1000";
    let container = engine
        .sampan(&["run", "-d", "-v", &bind, "busybox", "sh", "-c", script])
        .ok();
    sampan_testing::until("the script is through", || {
        engine.sampan(&["exec", &container, "ls", "/trap"]).code == 0
    });
    for running in [true, false] {
        for (who, docker) in [("sampan", false), ("docker", true)] {
            let tar = into_file(&engine, docker, &["export", &container], "export.tar");
            let files = members(&tar);
            let content = |path: &str| files.get(path).map(|member| member.3.clone());
            assert_eq!(content("mine"), Some(b"mine\n".to_vec()), "{who}");
            assert!(files.contains_key("bin/busybox"), "{who}");
            assert!(files.contains_key("moved/"), "{who} {running}");
            assert!(!files.contains_key("home/"), "{who}");
            assert!(!files.contains_key("etc/group"), "{who}");
            assert!(!files.keys().any(|path| path.contains("secret")), "{who}");
            assert!(
                !files
                    .keys()
                    .any(|path| path.starts_with("proc/") && path.len() > 5),
                "{who}"
            );
            assert_eq!(files["trap"].2, "/shared/secret", "{who}");
            let path = tar.display().to_string();
            let id = engine.sampan(&["import", &path, "exported:1"]).ok();
            assert!(id.starts_with("sha256:"), "{who}");
            let said = engine
                .sampan(&["run", "--rm", "exported:1", "cat", "/mine"])
                .ok();
            assert_eq!(said, "mine", "{who}");
        }
        let _ = engine.sampan(&["stop", "-t", "0", &container]).ok();
    }
    let out = engine.scratch().join("out.tar").display().to_string();
    let _ = engine.docker(&["export", "-o", &out, &container]).ok();
    let whole = fs::read(&out).unwrap();
    let _ = engine
        .sampan(&["export", "--output", &out, &container])
        .ok();
    assert!(fs::read(&out).unwrap() == whole);
    let missing = engine.sampan(&["export", "-o", &out, "no-such"]);
    assert_eq!(missing.code, 1);
    assert!(
        missing.stderr.contains("No such container: no-such"),
        "{missing:?}"
    );
    assert!(
        fs::read(&out).unwrap() == whole,
        "what was there stays when it fails"
    );
}

#[test]
fn all_tags_of_a_repository_are_pulled_and_registries_are_searched() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let registry = Registry::start();
    let source = registry.push(&fixture(Fixture::Busybox));
    let name = source.trim_end_matches(":latest");
    let second = format!("docker://{name}:second");
    let copy = [
        "copy",
        "--quiet",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
    ];
    let from = format!("docker://{source}");
    let _ = run("skopeo", &[&copy[..], &[&from, &second]].concat()).ok();
    for (who, client) in CLIENTS {
        let engine = engine();
        let said = client(&engine, &["pull", "--all-tags", name]).ok();
        assert!(said.ends_with(name), "{who}: {said}");
        let listed = engine
            .sampan(&["images", "--format", "{{.Repository}}:{{.Tag}}"])
            .ok();
        let mut tags: Vec<&str> = listed.lines().collect();
        tags.sort_unstable();
        assert_eq!(
            tags,
            [format!("{name}:latest"), format!("{name}:second")],
            "{who}"
        );
        let both = client(&engine, &["pull", "-a", &source]);
        assert!(
            both.stderr.contains("tag can't be used with --all-tags/-a"),
            "{who}: {both:?}"
        );
        let digest = digest_at(&source);
        let by_digest = format!("{name}@{digest}");
        let said = client(&engine, &["pull", &by_digest]).ok();
        assert!(said.ends_with(&by_digest), "{who}: {said}");
        let term = format!("{}/busy", registry.address());
        let found = client(
            &engine,
            &[
                "search",
                "--format",
                "{{.Name}}|{{.StarCount}}|{{.IsOfficial}}",
                &term,
            ],
        )
        .ok();
        assert_eq!(found, format!("{name}|0|"), "{who}");
        let table = client(&engine, &["search", &term]).ok();
        assert!(table.starts_with("NAME"), "{who}: {table}");
    }
}

#[test]
fn files_of_other_servers_and_pipes_are_imported() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let mut tar = tar::Builder::new(Vec::new());
    let busybox = fs::read("/bin/busybox").unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(busybox.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, "bin/sh", &busybox[..])
        .unwrap();
    let tar = tar.into_inner().unwrap();
    let served = tar.clone();
    let server = sampan_testing::ScriptedServer::start(move |asked| {
        if asked.path == "/root.tar" {
            sampan_testing::Answer::new(200, served.clone())
        } else {
            sampan_testing::Answer::new(404, "")
        }
    });
    let engine = engine();
    for (who, client) in CLIENTS {
        let url = format!("http://{}/root.tar", server.address());
        let name = format!("{who}:1");
        let said = client(
            &engine,
            &[
                "import",
                "--message",
                "hello",
                "--change",
                "ENV A=b",
                &url,
                &name,
            ],
        )
        .ok();
        assert!(
            said.contains(&format!("Downloading from {url}")),
            "{who}: {said}"
        );
        assert!(
            said.lines().last().unwrap().starts_with("sha256:"),
            "{who}: {said}"
        );
        let shown = client(&engine, &["run", "--rm", &name, "/bin/sh", "-c", "echo $A"]).ok();
        assert_eq!(shown, "b", "{who}");
        let comment = client(&engine, &["history", "--format", "{{.Comment}}", &name]).ok();
        assert_eq!(comment, "hello", "{who}");
        // The same from a pipe has the same layer.
        let import = ["import", "-c", "ENV A=c", "-", "piped:1"];
        let piped = if who == "docker" {
            engine.docker_with_input(&import, &tar)
        } else {
            engine.sampan_with_input(&import, &tar)
        };
        assert!(piped.ok().starts_with("sha256:"), "{who}");
        assert_eq!(layers(&engine, "piped:1"), layers(&engine, &name), "{who}");
        let missing = format!("http://{}/other.tar", server.address());
        let refused = client(&engine, &["import", &missing, "x:1"]);
        assert_eq!(refused.code, 1, "{who}");
        assert!(refused.stderr.contains("404"), "{who}: {refused:?}");
    }
}

/// Pushes busybox for two machines under one name, whose index has this digest.
fn push_for_two_machines(engine: &TestEngine, name: &str) -> String {
    let layout = engine.scratch().join("machines");
    let at = |tag: &str| format!("{}:{tag}", layout.display());
    let source = fixture(Fixture::Busybox).layout();
    let _ = run(
        "skopeo",
        &["copy", "-q", &source, &format!("oci:{}", at("amd64"))],
    )
    .ok();
    let other = ["config", "--image", &at("amd64"), "--tag", "arm64"];
    let _ = run(
        "umoci",
        &[&other[..], &["--architecture", "arm64"]].concat(),
    )
    .ok();
    let list = layout.join("index.json");
    let mut index = json(&fs::read_to_string(&list).unwrap());
    let mut entries = index["manifests"].as_array().unwrap().clone();
    for entry in &mut entries {
        let annotations = entry.as_object_mut().unwrap().remove("annotations");
        let architecture = annotations.unwrap()["org.opencontainers.image.ref.name"].clone();
        entry["platform"] = serde_json::json!({"architecture": architecture, "os": "linux"});
    }
    let media_type = "application/vnd.oci.image.index.v1+json";
    let both = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": entries,
    })
    .to_string();
    let digest = sampan_oci::Digest::of(both.as_bytes());
    fs::write(layout.join("blobs/sha256").join(digest.hex()), &both).unwrap();
    index["manifests"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({
            "mediaType": media_type,
            "digest": digest,
            "size": both.len(),
            "annotations": {"org.opencontainers.image.ref.name": "both"},
        }));
    fs::write(list, index.to_string()).unwrap();
    let (from, to) = (format!("oci:{}", at("both")), format!("docker://{name}"));
    let copy = ["copy", "-q", "--all", "--dest-tls-verify=false", &from, &to];
    let _ = run("skopeo", &copy).ok();
    digest.to_string()
}

#[test]
fn images_of_several_machines_are_pulled_saved_and_pushed_on() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let (registry, other) = (Registry::start(), Registry::start());
    for (who, client) in CLIENTS {
        let engine = engine();
        let name = format!("{}/{who}/many:1", registry.address());
        let index = push_for_two_machines(&engine, &name);
        let architecture = || {
            let format = ["image", "inspect", "--format", "{{.Architecture}}", &name];
            engine.sampan(&format).ok()
        };
        for machine in ["amd64", "arm64"] {
            let platform = format!("linux/{machine}");
            let said = client(&engine, &["pull", "--platform", &platform, &name]).ok();
            assert!(said.contains(&format!("Digest: {index}")), "{who}: {said}");
            assert_eq!(architecture(), machine, "{who}");
        }
        let none = client(&engine, &["pull", "--platform", "linux/s390x", &name]);
        assert_eq!(none.code, 1, "{who}: {none:?}");
        // All that the index names is here, so that it goes on as it is.
        let whole = format!("{}/{who}/whole:1", other.address());
        let _ = client(&engine, &["tag", &name, &whole]).ok();
        let said = client(&engine, &["push", &whole]).ok();
        assert_eq!(pushed_digest(&said), index, "{who}");
        assert_eq!(digest_at(&whole), index, "{who}");
        let one = client(&engine, &["push", "--platform", "linux/arm64", &whole]).ok();
        assert_ne!(pushed_digest(&one), index, "{who}");
        let wrong = client(&engine, &["push", "--platform", "linux/s390x", &whole]);
        assert!(
            wrong
                .stderr
                .contains("does not provide the specified platform"),
            "{who}: {wrong:?}"
        );

        let file = engine.scratch().join("many.tar").display().to_string();
        let save = |platform| {
            let arguments = ["save", "--platform", platform, "-o", &file, &name];
            client(&engine, &arguments)
        };
        let wrong = save("linux/s390x");
        assert!(
            wrong
                .stderr
                .contains("does not provide the specified platform"),
            "{who}: {wrong:?}"
        );
        let _ = save("linux/arm64").ok();
        let there = crate::engine();
        let wrong = client(&there, &["load", "--platform", "linux/amd64", "-i", &file]);
        assert_eq!(wrong.code, 1, "{who}: {wrong:?}");
        let load = ["load", "--platform", "linux/arm64", "-i", &file];
        let _ = client(&there, &load).ok();
        assert_eq!(id(&there, &name), id(&engine, &name), "{who}");
    }
}

/// Paths of the topmost layer of the only image in an archive.
fn top_layer(archive: &Path) -> Vec<String> {
    let mut members = members(archive);
    let manifest = String::from_utf8(members.remove("manifest.json").unwrap().3).unwrap();
    let top = json(&manifest)[0]["Layers"]
        .as_array()
        .unwrap()
        .last()
        .cloned();
    let layer = members.remove(top.unwrap().as_str().unwrap()).unwrap().3;
    let mut layer = tar::Archive::new(&layer[..]);
    let path =
        |entry: tar::Entry<'_, &[u8]>| String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    layer
        .entries()
        .unwrap()
        .map(|entry| path(entry.unwrap()))
        .collect()
}

#[test]
fn a_commit_takes_the_upper_layer_alone_of_containers_that_run_or_ended() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    for (who, client) in CLIENTS {
        let engine = engine_with_busybox();
        let (volume, bind) = (format!("{who}:/data"), "/proc/uptime:/bound:ro");
        let run = ["run", "-v", &volume, "-v", bind, "--tmpfs", "/fast"];
        let script = "echo 1 > /one; echo 2 > /data/two; echo 3 > /fast/three";
        let shell = ["busybox", "sh", "-c", script];
        let ended = ["--name", "ended", "--hostname", "mine", "--dns", "10.1.2.3"];
        let _ = client(&engine, &[&run[..], &ended, &shell].concat()).ok();
        let image = client(&engine, &["commit", "ended"]).ok();
        let file = into_file(&engine, who == "docker", &["save", &image], "ended.tar");
        assert_eq!(top_layer(&file), ["one"], "{who}");

        let since = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let sleep = ["-d", "--name", "runs", "busybox", "sleep", "1000"];
        let _ = client(&engine, &[&run[..], &sleep].concat()).ok();
        let _ = client(&engine, &["exec", "runs", "rm", "/etc/passwd"]).ok();
        let told = || {
            let until = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs()
                + 1;
            let (since, until) = (since.to_string(), until.to_string());
            let events = ["events", "--since", &since, "--until", &until];
            let format = ["-f", "container=runs", "--format", "{{.Action}}"];
            client(&engine, &[&events[..], &format].concat()).ok()
        };
        let _ = client(&engine, &["commit", "--pause=false", "runs", "going:1"]).ok();
        assert_eq!(count(&told(), "pause"), 0, "{who}");
        let file = into_file(&engine, who == "docker", &["save", "going:1"], "going.tar");
        assert_eq!(top_layer(&file), ["etc/", "etc/.wh.passwd"], "{who}");
        let _ = client(&engine, &["commit", "runs", "stood:1"]).ok();
        let said = told();
        assert_eq!(count(&said, "pause"), 2, "{who}: {said}");
        let status = ["inspect", "--format", "{{.State.Status}}", "runs"];
        assert_eq!(client(&engine, &status).ok(), "running", "{who}");
        // One that stands still already stays so.
        let _ = client(&engine, &["pause", "runs"]).ok();
        let _ = client(&engine, &["commit", "runs", "still:1"]).ok();
        assert_eq!(client(&engine, &status).ok(), "paused", "{who}");
        assert_eq!(
            layers(&engine, "still:1"),
            layers(&engine, "going:1"),
            "{who}"
        );
        let _ = client(&engine, &["unpause", "runs"]).ok();
        engine.remove_all();
        let _ = client(&engine, &["volume", "rm", who]).ok();
    }
}

#[test]
fn a_container_that_a_killed_engine_froze_for_a_commit_goes_on() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let sleep = ["run", "-d", "busybox", "sleep", "1000"];
    let (frozen, paused) = (engine.sampan(&sleep).ok(), engine.sampan(&sleep).ok());
    let _ = engine.sampan(&["pause", &frozen, &paused]).ok();
    // What is on disk while a commit is under way.
    let mark = engine.root().join("containers").join(&frozen);
    fs::write(mark.join("frozen-for-commit"), "").unwrap();
    engine.kill();
    let status = |container: &str| {
        let format = ["inspect", "--format", "{{.State.Status}}", container];
        engine.sampan(&format).ok()
    };
    sampan_testing::until("the container goes on", || status(&frozen) == "running");
    assert!(!mark.join("frozen-for-commit").exists());
    assert_eq!(status(&paused), "paused");
    engine.remove_all();
}
