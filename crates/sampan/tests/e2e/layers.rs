//! Layers of every driver below a container, and what is left of its changes above them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sampan_testing::{Fixture, Registry, TestEngine, fixture};

use crate::{SAMPAN, engine_with_busybox};

/// Every path below `top`; a whiteout has a minus in front.
fn changes(top: &Path) -> BTreeSet<String> {
    fn walk(top: &Path, directory: &Path, found: &mut BTreeSet<String>) {
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(top).unwrap().display().to_string();
            if metadata.file_type().is_char_device() && metadata.rdev() == 0 {
                found.insert(format!("-{name}"));
                continue;
            }
            found.insert(name);
            if metadata.is_dir() {
                walk(top, &path, found);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(top, top, &mut found);
    found
}

fn upper(engine: &TestEngine, id: &str) -> std::path::PathBuf {
    engine.root().join("containers").join(id).join("upper")
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn the_upper_directory_holds_the_containers_own_changes_and_no_others() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let id = engine.sampan(&["create", "-t", "busybox", "true"]).ok();
    let _ = engine.sampan(&["start", "-a", &id]).ok();
    assert_eq!(changes(&upper(&engine, &id)), set([]));

    let script = "echo x > /new; echo y >> /etc/passwd; rm /etc/group; \
                  test -e /.dockerenv && readlink /etc/mtab";
    let id = engine
        .sampan(&[
            "create",
            "-v",
            "/made/volume",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok();
    for expected in ["/proc/mounts", "/proc/mounts"] {
        let ran = engine.sampan(&["start", "-a", &id]);
        assert!(ran.stdout.contains(expected), "{ran:?}");
    }
    // As with Docker, a place that only this container has something mounted on is its own.
    assert_eq!(
        changes(&upper(&engine, &id)),
        set([
            "new",
            "etc",
            "etc/passwd",
            "-etc/group",
            "made",
            "made/volume"
        ])
    );
}

#[test]
fn links_of_an_image_lead_no_mount_elsewhere() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = TestEngine::start(SAMPAN);
    let tree = engine.scratch().join("tree");
    for directory in ["bin", "elsewhere", "etc"] {
        fs::create_dir_all(tree.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", tree.join("bin/sh")).unwrap();
    for (link, target) in [
        ("etc/resolv.conf", "../run/stub-resolv.conf"),
        ("etc/hosts", "/elsewhere/hosts"),
        ("etc/mtab", "/elsewhere/mtab"),
        ("dev", "/elsewhere"),
        ("proc", "elsewhere"),
        ("sys", "/nowhere"),
    ] {
        std::os::unix::fs::symlink(target, tree.join(link)).unwrap();
    }
    let tar = engine.scratch().join("tree.tar").display().to_string();
    let _ = sampan_testing::run("tar", &["-C", tree.to_str().unwrap(), "-cf", &tar, "."]).ok();
    let _ = engine.sampan(&["import", &tar, "links"]).ok();
    let script = "test -f /etc/resolv.conf -a ! -L /etc/resolv.conf -a -c /dev/null -a ! -L /proc \
                  && while read -r line; do case $line in *localhost*) echo $line;; esac; done \
                  < /etc/hosts";
    let id = engine
        .sampan(&["create", "links", "/bin/sh", "-c", script])
        .ok();
    let ran = engine.sampan(&["start", "-a", &id]);
    assert!(ran.stdout.starts_with("127.0.0.1"), "{ran:?}");
    assert_eq!(changes(&upper(&engine, &id)), set([]));
}

#[test]
fn resolv_conf_is_renewed_unless_the_container_has_changed_it() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let create = |script: &str| {
        engine
            .sampan(&[
                "create",
                "--dns",
                "192.0.2.1",
                "busybox",
                "sh",
                "-c",
                script,
            ])
            .ok()
    };
    let show = "cat /etc/resolv.conf";
    let plain = create(show);
    let file = engine
        .root()
        .join("containers")
        .join(&plain)
        .join("resolv.conf");
    let first = engine.sampan(&["start", "-a", &plain]).ok();
    assert!(first.contains("192.0.2.1"), "{first}");
    // As if it had been lost: nobody but the container may change it.
    fs::remove_file(&file).unwrap();
    assert_eq!(engine.sampan(&["start", "-a", &plain]).ok(), first);

    let changing = create("cat /etc/resolv.conf; echo nameserver 192.0.2.9 > /etc/resolv.conf");
    assert_eq!(engine.sampan(&["start", "-a", &changing]).ok(), first);
    for _ in 0..2 {
        let kept = engine.sampan(&["start", "-a", &changing]).ok();
        assert_eq!(kept, "nameserver 192.0.2.9");
    }
}

/// What must work with every driver and wherever the mounts are.
fn layers_work(arguments: &[&str]) {
    let registry = Registry::start();
    let reference = registry.push(&fixture(Fixture::Busybox));
    let engine = TestEngine::start_with(SAMPAN, arguments);
    let _ = engine.sampan(&["pull", &reference]).ok();
    let _ = engine.sampan(&["tag", &reference, "busybox"]).ok();
    let said = engine
        .sampan(&["run", "--rm", "--init", "busybox", "echo", "runs"])
        .ok();
    assert_eq!(said, "runs");
    assert!(
        engine
            .sampan(&["run", "--rm", "hello-world"])
            .ok()
            .contains("Hello")
    );

    engine.load(Fixture::Whiteouts);
    let script = "test ! -e /etc/passwd && ls /root && cat /etc/group | head -n 1";
    let said = engine
        .sampan(&["run", "--rm", "whiteouts", "sh", "-c", script])
        .ok();
    assert!(said.starts_with("kept\n"), "{said}");

    // The engine that comes back finds all of it, and the container goes on meanwhile.
    let script = "while sleep 0.1; do cat /etc/passwd > /dev/null || exit 3; done";
    let id = engine
        .sampan(&["run", "-d", "busybox", "sh", "-c", script])
        .ok();
    engine.kill();
    let said = engine
        .sampan(&["exec", &id, "sh", "-c", "head -n 1 /etc/passwd"])
        .ok();
    assert!(said.starts_with("root:"), "{said}");
    let _ = engine.sampan(&["restart", "-t", "0", &id]).ok();
    let _ = engine.sampan(&["rm", "-f", &id]).ok();

    for image in ["whiteouts", "busybox", &reference, "hello-world"] {
        let _ = engine.sampan(&["rmi", "-f", image]).ok();
    }
    let layers = engine.root().join("layers");
    let left: Vec<_> = fs::read_dir(layers)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(
        left.iter().all(|name| name == "lock" || name == "mounts"),
        "{left:?}"
    );
}

#[test]
fn a_kernel_without_file_backed_erofs_runs_unpacked_layers() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    layers_work(&["--layer-driver", "directory"]);
}

#[test]
fn a_kernel_that_cannot_stack_detached_mounts_has_them_attached() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    layers_work(&["--layer-driver", "directory", "--layer-mounts", "attached"]);
}

#[test]
fn indexes_can_be_attached_too() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables, erofs_file_backed);
    layers_work(&["--layer-driver", "erofs", "--layer-mounts", "attached"]);
}
