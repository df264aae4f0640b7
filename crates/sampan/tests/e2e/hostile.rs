//! Images made to break out: each is refused or harmless, and the host is
//! untouched.

use std::fs;
use std::path::Path;

use sampan_testing::{TestEngine, run};

use crate::engine;

/// Imports a tree whose special entries `make` adds, as image `hostile`.
fn import(engine: &TestEngine, make: impl Fn(&Path)) {
    let tree = engine.scratch().join("hostile");
    let _ = fs::remove_dir_all(&tree);
    fs::create_dir_all(tree.join("bin")).unwrap();
    fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
    make(&tree);
    let tar = engine.scratch().join("hostile.tar").display().to_string();
    let _ = run("tar", &["-C", tree.to_str().unwrap(), "-cf", &tar, "."]).ok();
    let _ = engine.sampan(&["import", &tar, "hostile"]).ok();
}

#[test]
fn symlinks_where_the_runtime_mounts_stay_inside() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let canary = engine.scratch().join("canary");
    fs::create_dir(&canary).unwrap();
    fs::write(canary.join("file"), "untouched").unwrap();
    let outside = canary.display().to_string();
    let relative = format!("../../../../../..{outside}");
    for name in [
        "dev",
        "proc",
        "sys",
        "etc",
        "run",
        "dev/null",
        "dev/pts",
        "dev/console",
        "proc/sys",
        "etc/hosts",
    ] {
        for target in [
            outside.as_str(),
            relative.as_str(),
            "/proc/self/root",
            "/proc/1/root",
            ".",
            "loop",
        ] {
            import(&engine, |tree| {
                let link = tree.join(name);
                fs::create_dir_all(link.parent().unwrap()).unwrap();
                std::os::unix::fs::symlink(target, link).unwrap();
            });
            let arguments = [
                "run",
                "--rm",
                "-v",
                "/vol",
                "hostile",
                "/bin/busybox",
                "sh",
                "-c",
                "echo x > /dev/x; echo ran",
            ];
            let ran = engine.sampan(&arguments);
            assert!(
                ran.stdout == "ran\n" || !ran.stderr.is_empty(),
                "{name} -> {target}: {ran:?}"
            );
            let left: Vec<_> = fs::read_dir(&canary)
                .unwrap()
                .flatten()
                .map(|e| e.file_name())
                .collect();
            assert_eq!(left, ["file"], "{name} -> {target}: {ran:?}");
            assert_eq!(
                fs::read_to_string(canary.join("file")).unwrap(),
                "untouched"
            );
        }
    }
    engine.ledger().assert_no_container();
}

#[test]
fn working_directories_in_proc_do_not_lead_out() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    import(&engine, |_| {});
    let look = ["hostile", "/bin/busybox", "sh", "-c", "ls -a .; pwd -P"];
    for number in 0..40 {
        let directory = format!("/proc/self/fd/{number}");
        let ran = engine.sampan(&[&["run", "--rm", "-w", &directory], look.as_slice()].concat());
        assert!(
            !ran.stdout.contains("vmlinuz") && !ran.stdout.contains("lost+found"),
            "{ran:?}"
        );
    }
}

#[test]
fn the_environment_of_the_host_does_not_leak() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    import(&engine, |_| {});
    let said = engine
        .sampan(&["run", "--rm", "hostile", "/bin/busybox", "env"])
        .ok();
    let names: Vec<&str> = said
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0))
        .collect();
    for name in &names {
        assert!(["PATH", "HOSTNAME", "HOME"].contains(name), "{said}");
    }
}

#[test]
fn state_is_closed_to_other_users() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    use std::os::unix::fs::PermissionsExt;
    let engine = engine();
    import(&engine, |_| {});
    let _ = engine
        .sampan(&["create", "--name", "box", "hostile", "/bin/busybox"])
        .ok();
    let mode = fs::metadata(engine.root()).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    let mode =
        fs::metadata(engine.run_directory().join("shims")).map_or(0, |m| m.permissions().mode());
    assert_eq!(mode & 0o077, 0, "{mode:o}");
}
