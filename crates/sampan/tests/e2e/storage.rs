//! What lies on disk: volumes with an image's content, binds, archives.

use std::fs;

use sampan_testing::{Fixture, fixture, run};

use crate::{engine, engine_with_busybox};

#[test]
fn a_new_volume_takes_over_what_the_image_has_there() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let names = engine
        .sampan(&["run", "--rm", "-v", "etc:/etc", "busybox", "ls", "/etc"])
        .ok();
    assert!(names.contains("passwd"), "{names}");
    let kept = engine
        .sampan(&["run", "--rm", "-v", "etc:/x", "busybox", "cat", "/x/group"])
        .ok();
    assert!(kept.contains("extra"), "{kept}");
    // A volume that has files keeps them as they are.
    let change = "echo mine > /x/group; rm /x/passwd";
    let _ = engine
        .sampan(&["run", "--rm", "-v", "etc:/x", "busybox", "sh", "-c", change])
        .ok();
    let look = "cat /etc/group; ls /etc";
    let kept = engine
        .sampan(&["run", "--rm", "-v", "etc:/etc", "busybox", "sh", "-c", look])
        .ok();
    assert!(
        kept.starts_with("mine\n") && !kept.contains("passwd"),
        "{kept}"
    );
    let empty = engine.sampan(&[
        "run",
        "--rm",
        "-v",
        "bare:/etc:nocopy",
        "busybox",
        "ls",
        "/etc",
    ]);
    assert!(!empty.stdout.contains("passwd"), "{empty:?}");
    let _ = engine.sampan(&["volume", "rm", "etc", "bare"]).ok();
}

#[test]
fn binds_are_the_hosts_directories() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let directory = engine.scratch().join("shared");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("in"), "from the host\n").unwrap();
    let bind = format!("{}:/shared", directory.display());
    let script = "cat /shared/in; echo from inside > /shared/out";
    let said = engine
        .sampan(&["run", "--rm", "-v", &bind, "busybox", "sh", "-c", script])
        .ok();
    assert_eq!(said, "from the host");
    assert_eq!(
        fs::read_to_string(directory.join("out")).unwrap(),
        "from inside\n"
    );
    let missing = engine.scratch().join("made");
    let bind = format!("{}:/m", missing.display());
    let _ = engine
        .sampan(&["run", "--rm", "-v", &bind, "busybox", "true"])
        .ok();
    assert!(missing.is_dir());
}

#[test]
fn archives_of_other_tools_are_loaded() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let image = fixture(Fixture::Busybox);
    let engine = engine();
    let plain = image.archive();
    let path = |name: &str| engine.scratch().join(name).display().to_string();
    let oci = path("oci.tar");
    let target = format!("oci-archive:{oci}:busybox:latest");
    let _ = run("skopeo", &["copy", "--quiet", &image.layout(), &target]).ok();
    let (gzip, zstd) = (path("plain.tar.gz"), path("plain.tar.zst"));
    let plain = plain.display().to_string();
    let _ = run("sh", &["-c", &format!("gzip -1c {plain} > {gzip}")]).ok();
    let _ = run("zstd", &["-q", "-1", &plain, "-o", &zstd]).ok();
    for archive in [&plain, &oci, &gzip, &zstd] {
        let said = engine.sampan(&["load", "-i", archive]).ok();
        assert!(said.contains("Loaded image"), "{archive}: {said}");
        let ids = engine.sampan(&["images", "-q"]).ok();
        assert_eq!(ids.lines().count(), 1, "{archive}");
        let said = engine
            .docker(&["run", "--rm", ids.trim(), "echo", "runs"])
            .ok();
        assert_eq!(said, "runs", "{archive}");
        let _ = engine.sampan(&["rmi", "-f", ids.trim()]).ok();
    }
    let bytes = fs::read(&plain).unwrap();
    let said = engine.sampan_with_input(&["load"], &bytes).ok();
    assert_eq!(said, "Loaded image: busybox:latest");
    let cut = engine.sampan_with_input(&["load"], &bytes[..bytes.len() / 2]);
    assert_ne!(cut.code, 0);
}

#[test]
fn a_tar_becomes_an_image() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let tree = engine.scratch().join("tree");
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::copy("/bin/busybox", tree.join("bin/sh")).unwrap();
    let tar = engine.scratch().join("tree.tar").display().to_string();
    let _ = run("tar", &["-C", tree.to_str().unwrap(), "-cf", &tar, "."]).ok();
    let id = engine
        .sampan(&[
            "import",
            "--change",
            "ENV A=b",
            "--change",
            "CMD [\"sh\", \"-c\", \"echo $A\"]",
            &tar,
            "made:1",
        ])
        .ok();
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(engine.sampan(&["run", "--rm", "made:1"]).ok(), "b");
}

#[test]
fn hello_world_needs_no_network() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let ran = engine.sampan(&["run", "--rm", "hello-world"]);
    assert!(
        ran.stderr
            .contains("Unable to find image 'hello-world:latest' locally")
    );
    assert!(ran.ok().contains("Hello from Sampan!"));
    let again = engine.docker(&["run", "--rm", "hello-world"]);
    assert!(again.ok().contains("Hello from Sampan!"));
}

#[test]
fn an_engine_is_started_on_demand() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    let ledger = sampan_testing::Ledger::open(&run);
    let sampan = |arguments: &[&str]| {
        let mut command = std::process::Command::new(crate::SAMPAN);
        command
            .args(arguments)
            .env("SAMPAN_ROOT", directory.path().join("root"))
            .env("SAMPAN_RUN", &run)
            .env_remove("DOCKER_HOST");
        sampan_testing::Ran::from(command.output().unwrap())
    };
    // Two that race start one engine.
    std::thread::scope(|scope| {
        let other = scope.spawn(|| sampan(&["run", "--rm", "hello-world"]).ok());
        assert!(
            sampan(&["run", "--rm", "hello-world"])
                .ok()
                .contains("Hello")
        );
        assert!(other.join().unwrap().contains("Hello"));
    });
    let keepers: Vec<String> = ledger
        .entries()
        .into_iter()
        .filter(|entry| {
            entry.contains("sampan daemon") && !entry.contains("--listener-descriptors")
        })
        .collect();
    assert_eq!(keepers.len(), 1, "{keepers:?}");
    let pid: i32 = keepers[0].split(' ').nth(1).unwrap().parse().unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    ledger.assert_balanced();
}

#[test]
fn parts_of_volumes_and_images_are_mounted() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let mut engine = engine_with_busybox();
    let fill = "mkdir -p /v/a/b; echo inner > /v/a/b/file; ln -s /etc /v/out; ln -s a/b /v/in";
    let _ = engine
        .docker(&["run", "--rm", "-v", "vol:/v", "busybox", "sh", "-c", fill])
        .ok();
    let part = |path: &str| format!("type=volume,src=vol,dst=/part,volume-subpath={path}");
    let show = "cat /part/file; echo more >> /part/added; ls /part";
    for runtime in ["sampan", "runc"] {
        for path in ["a/b", "in"] {
            let mount = part(path);
            let words = [
                "run",
                "--rm",
                "--runtime",
                runtime,
                "--mount",
                &mount,
                "busybox",
            ];
            let said = engine.docker(&[&words[..], &["sh", "-c", show]].concat());
            assert_eq!(said.ok(), "inner\nadded\nfile", "{runtime} {path}");
        }
        let mount = "type=image,src=busybox,dst=/image,image-subpath=bin";
        let look =
            "test -e /image/busybox && echo there; touch /image/x 2>/dev/null || echo read-only";
        let words = [
            "run",
            "--rm",
            "--runtime",
            runtime,
            "--mount",
            mount,
            "busybox",
        ];
        let said = engine.docker(&[&words[..], &["sh", "-c", look]].concat());
        assert_eq!(said.ok(), "there\nread-only", "{runtime}");
    }
    let file = part("a/b/file").replace("dst=/part", "dst=/one");
    let said = engine.docker(&["run", "--rm", "--mount", &file, "busybox", "cat", "/one"]);
    assert_eq!(said.ok(), "inner");
    // No link leads out of the volume.
    let refused = |path: &str, words: &str| {
        let said = engine.docker(&["run", "--rm", "--mount", &part(path), "busybox", "true"]);
        let said = said.failed(125);
        assert!(said.contains(words), "{said}");
    };
    refused("out", "cannot access path \"out\" of the volume for /part");
    refused("../x", "subpath must be a relative path within the volume");
    refused("/a", "subpath must be a relative path within the volume");
    let none = [
        "run",
        "--rm",
        "--mount",
        "type=image,src=nothing,dst=/i",
        "busybox",
        "true",
    ];
    assert!(
        engine
            .docker(&none)
            .failed(125)
            .contains("No such image: nothing")
    );

    // Shown, copied from, kept while it is used, there after restarts without an engine.
    let whole = "type=image,src=busybox,dst=/image";
    let flags = [
        "run",
        "-d",
        "--name",
        "one",
        "--restart",
        "always",
        "--mount",
        whole,
        "--mount",
    ];
    let mount = part("a");
    let words = [&flags[..], &[&mount, "busybox", "sleep", "1000"]].concat();
    let _ = engine.docker(&words).ok();
    let shown = "{{range .Mounts}}{{.Type}} {{.Destination}} {{.RW}};{{end}}";
    let shown = engine.docker(&["inspect", "-f", shown, "one"]).ok();
    assert!(
        shown.contains("image /image false;") && shown.contains("volume /part true;"),
        "{shown}"
    );
    let pid = engine
        .docker(&["inspect", "-f", "{{.State.Pid}}", "one"])
        .ok();
    engine.kill_with_keeper();
    let process = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    engine.start_again();
    sampan_testing::until("it runs again", || {
        engine
            .docker(&["exec", "one", "cat", "/part/b/file", "/image/etc/passwd"])
            .code
            == 0
    });
    let _ = engine.docker(&["stop", "-t", "0", "one"]).ok();
    for (path, name) in [
        ("one:/part/b/file", "file"),
        ("one:/image/bin/busybox", "busybox"),
    ] {
        let to = engine.scratch().join(name);
        let _ = engine.docker(&["cp", path, to.to_str().unwrap()]).ok();
        assert!(fs::metadata(to).unwrap().len() > 0);
    }
    let _ = engine.docker(&["rm", "one"]).ok();
    let _ = engine.docker(&["volume", "rm", "vol"]).ok();
    let said = engine.docker(&["run", "--rm", "--storage-opt", "size=1g", "busybox", "true"]);
    let said = said.failed(125);
    assert!(
        said.contains("--storage-opt size is not supported: the engine sets no project"),
        "{said}"
    );
    engine.ledger().assert_no_container();
}
