//! Containers whose users are not the host's: ids inside are what the image says, ids on the host
//! are subordinate ones.

use std::os::unix::fs::MetadataExt;

use sampan_testing::{Fixture, TestEngine, run};

use crate::{SAMPAN, engine_with_busybox};

/// Skips a test where the kernel has no id-mapped mounts of all file systems in question.
macro_rules! needs_mapped_owners {
    () => {
        sampan_kernel::requires!(root, cgroups, overlay, nftables);
        if !maps_owners() {
            eprintln!("SKIP: this kernel cannot map the owners of every file system");
            return;
        }
    };
}

fn maps_owners() -> bool {
    sampan_kernel::requires::kernel_at_least(6, 3)
}

/// The first subordinate id that tests remap to.
const FIRST: u32 = 700_000;

/// The files that say whose subordinate ids are which, with some more; as before when it is
/// dropped.
struct SubordinateIds {
    before: [(&'static str, Option<String>); 2],
    /// Tests run beside each other.
    _lock: std::fs::File,
}

impl SubordinateIds {
    fn add(user: &str, group: &str) -> Self {
        let lock = std::env::temp_dir().join("sampan-subordinate-ids.lock");
        let lock = std::fs::File::create(lock).unwrap();
        lock.lock().unwrap();
        let before = [("/etc/subuid", user), ("/etc/subgid", group)].map(|(file, name)| {
            let before = std::fs::read_to_string(file).ok();
            let text = before.clone().unwrap_or_default();
            std::fs::write(file, format!("{text}{name}:{FIRST}:65536\n")).unwrap();
            (file, before)
        });
        Self {
            before,
            _lock: lock,
        }
    }
}

impl Drop for SubordinateIds {
    fn drop(&mut self) {
        for (file, before) in &self.before {
            match before {
                Some(text) => std::fs::write(file, text).unwrap(),
                None => std::fs::remove_file(file).unwrap(),
            }
        }
    }
}

/// An engine that remaps to subordinate ids of a user of the host.
fn remapped() -> TestEngine {
    remapped_with(&[])
}

/// The same with further arguments.
fn remapped_with(arguments: &[&str]) -> TestEngine {
    let ids = SubordinateIds::add("nobody", "nogroup");
    let remap = ["--userns-remap", "nobody:nogroup"];
    let engine = TestEngine::start_with(SAMPAN, &[&remap, arguments].concat());
    // By then it has read them.
    engine.load(Fixture::Busybox);
    drop(ids);
    engine
}

fn owner(path: impl AsRef<std::path::Path>) -> (u32, u32) {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

#[test]
fn a_kernel_that_cannot_map_owners_is_told_of_and_nothing_is_left() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    if maps_owners() {
        return;
    }
    let engine = remapped();
    for flags in [&[][..], &["--userns", "0:800000:65536"]] {
        let run = [&["run", "--rm"], flags, &["busybox", "true"]].concat();
        let said = engine.sampan(&run).failed(125);
        assert!(
            said.contains("users of their own (--userns) take mounts with mapped owners"),
            "{said}"
        );
        assert!(said.contains("Linux 6.3"), "{said}");
    }
    let host = ["run", "--rm", "--userns", "host", "busybox", "echo", "ran"];
    assert_eq!(engine.sampan(&host).ok(), "ran");
    engine.ledger().assert_no_container();
}

#[test]
fn ids_are_the_images_inside_and_subordinate_ones_outside() {
    needs_mapped_owners!();
    let engine = remapped();
    let info = engine.docker(&["info", "-f", "{{.SecurityOptions}}"]).ok();
    assert!(info.contains("name=userns"), "{info}");
    let look = "cat /proc/self/uid_map | tr -s ' '; stat -c %u:%g / /etc/passwd /etc/hosts /proc/1; \
                id -u; touch /x && stat -c %u:%g /x; mount | grep -c ' /sys '; ip addr | grep -c 172; \
                echo 1 > /proc/sys/net/ipv4/ip_forward 2>/dev/null || echo protected";
    let said = engine
        .docker(&["run", "--rm", "busybox", "sh", "-c", look])
        .ok();
    let lines: Vec<&str> = said.lines().collect();
    let map = format!(" 0 {FIRST} 65536");
    let expected = [
        map.as_str(),
        "0:0",
        "0:0",
        "0:0",
        "0:0",
        "0",
        "0:0",
        "1",
        "1",
        "protected",
    ];
    assert_eq!(lines, expected);

    // A volume and a bind mount have the ids of the host.
    let shared = engine.scratch().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::os::unix::fs::chown(&shared, Some(FIRST), Some(FIRST)).unwrap();
    let bind = format!("{}:/shared", shared.display());
    let script = "touch /shared/a /data/a; chown 7:8 /data/a; stat -c %u:%g /data /data/a";
    let said = engine.docker(&[
        "run",
        "--rm",
        "-v",
        &bind,
        "-v",
        "vol:/data",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(said.ok(), "0:0\n7:8");
    assert_eq!(owner(shared.join("a")), (FIRST, FIRST));
    let data = engine.root().join("volumes/vol/_data");
    assert_eq!(owner(&data), (FIRST, FIRST));
    assert_eq!(owner(data.join("a")), (FIRST + 7, FIRST + 8));
    // One that is filled from the image has its owners.
    let said = engine.docker(&[
        "run",
        "--rm",
        "-v",
        "etc:/etc",
        "busybox",
        "stat",
        "-c",
        "%u",
        "/etc/passwd",
    ]);
    assert_eq!(said.ok(), "0");
    assert_eq!(
        owner(engine.root().join("volumes/etc/_data/passwd")).0,
        FIRST
    );

    let _ = engine
        .docker(&["run", "-d", "--name", "one", "busybox", "sleep", "1000"])
        .ok();
    let pid = engine
        .docker(&["inspect", "-f", "{{.State.Pid}}", "one"])
        .ok();
    assert_eq!(owner(format!("/proc/{pid}")).0, FIRST);
    let said = engine.docker(&[
        "exec",
        "one",
        "sh",
        "-c",
        "id -u; touch /made; stat -c %u /made",
    ]);
    assert_eq!(said.ok(), "0\n0");
    let said = engine.docker(&["exec", "-u", "1000", "one", "sh", "-c", "id -u; id -g"]);
    assert_eq!(said.ok(), "1000\n1000");
    let refused = engine.docker(&["exec", "one", "sh", "-c", "mount -t tmpfs x /mnt"]);
    assert_ne!(refused.code, 0);
    let terminal = crate::sessions::on_terminal(
        &engine,
        "docker exec -it one sh -c 'tty; stat -c %u $(tty)'",
        &[],
    );
    assert!(terminal.0.contains("/dev/pts/"), "{terminal:?}");
    // What the container has changed has its own ids on the disk.
    let upper = std::fs::read_dir(engine.root().join("containers")).unwrap();
    let upper: Vec<_> = upper
        .map(|entry| entry.unwrap().path().join("upper/made"))
        .collect();
    assert!(
        upper
            .iter()
            .any(|made| made.exists() && owner(made) == (0, 0)),
        "{upper:?}"
    );
    let _ = engine.docker(&["rm", "-f", "one"]).ok();
    let _ = engine.docker(&["volume", "rm", "vol", "etc"]).ok();
    engine.ledger().assert_no_container();
}

#[test]
fn copies_images_and_builds_of_a_remapped_engine_have_the_ids_inside() {
    needs_mapped_owners!();
    let engine = remapped();
    let script = "mkdir /d; touch /d/own; chown 12:34 /d/own; sleep 1000";
    let _ = engine
        .docker(&[
            "run",
            "-d",
            "--name",
            "one",
            "-v",
            "vol:/data",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok();
    sampan_testing::until("it has written", || {
        engine.docker(&["exec", "one", "test", "-e", "/d/own"]).code == 0
    });
    let listed = |from: &str| {
        let mut copy = engine.docker_command(&["cp", from, "-"]);
        let tar = copy.output().unwrap().stdout;
        let path = engine.scratch().join("copied.tar");
        std::fs::write(&path, tar).unwrap();
        run("tar", &["--numeric-owner", "-tvf", path.to_str().unwrap()]).ok()
    };
    let file = engine.scratch().join("file");
    std::fs::write(&file, "word").unwrap();
    let file = file.to_str().unwrap();
    for state in ["running", "stopped"] {
        let shown = listed("one:/d");
        assert!(
            shown.contains(" 0/0 ") && shown.contains(" 12/34 "),
            "{state}: {shown}"
        );
        for target in ["one:/d/copied", "one:/data/copied"] {
            let _ = engine.docker(&["cp", file, target]).ok();
        }
        assert!(listed("one:/d/copied").contains(" 0/0 "), "{state}");
        assert!(listed("one:/data/copied").contains(" 0/0 "), "{state}");
        assert_eq!(
            owner(engine.root().join("volumes/vol/_data/copied")),
            (FIRST, FIRST)
        );
        if state == "running" {
            let seen = engine.docker(&[
                "exec",
                "one",
                "stat",
                "-c",
                "%u:%g",
                "/d/copied",
                "/data/copied",
            ]);
            assert_eq!(seen.ok(), "0:0\n0:0");
            let _ = engine.docker(&["stop", "-t", "0", "one"]).ok();
        }
    }
    let changed = engine.docker(&["diff", "one"]).ok();
    assert_eq!(changed, "A /d\nA /d/copied\nA /d/own\nA /data");
    let _ = engine.docker(&["commit", "one", "made"]).ok();
    // A container with the host's users, and one with others, see the same.
    for users in ["host", "0:900000:70000"] {
        let seen = engine.sampan(&[
            "run", "--rm", "--userns", users, "made", "stat", "-c", "%u:%g", "/d/own",
        ]);
        assert_eq!(seen.ok(), "12:34", "{users}");
    }
    let context = engine.scratch().join("context");
    std::fs::create_dir(&context).unwrap();
    let dockerfile = "FROM busybox\nCOPY --chown=5:6 Dockerfile /copied\n\
                      RUN --mount=type=cache,target=/cache --mount=type=bind,target=/context \
                      cat /proc/self/uid_map > /map && stat -c %u:%g /cache /context/Dockerfile /copied > /seen && \
                      touch /cache/x && echo x > /made && chown 8:9 /made\n";
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let _ = engine
        .sampan(&["build", "-t", "built", context.to_str().unwrap()])
        .ok();
    let said = engine.docker(&[
        "run",
        "--rm",
        "built",
        "sh",
        "-c",
        "cat /seen; stat -c %u:%g /made; tr -s ' ' < /map",
    ]);
    let lines = said.ok();
    assert!(lines.starts_with("0:0\n0:0\n5:6\n8:9\n"), "{lines}");
    assert!(lines.ends_with(&format!(" 0 {FIRST} 65536")), "{lines}");
    let _ = engine.docker(&["rm", "-v", "one"]).ok();
    let _ = engine.docker(&["volume", "rm", "vol"]).ok();
    engine.ledger().assert_no_container();
}

#[test]
fn what_cannot_go_with_other_users_is_refused() {
    needs_mapped_owners!();
    let engine = remapped();
    let refused = |flags: &[&str], words: &str| {
        let words_typed = [&["run", "--rm"], flags, &["busybox", "true"]].concat();
        let said = engine.docker(&words_typed).failed(125);
        assert!(said.contains(words), "{said}");
    };
    refused(
        &["--privileged"],
        "privileged mode is incompatible with user namespaces",
    );
    refused(
        &["--network", "host"],
        "cannot share the host's network namespace when user namespaces",
    );
    refused(
        &["--pid", "host"],
        "cannot share the host PID namespace when user namespaces",
    );
    refused(
        &["--runtime", "runc"],
        "user namespaces are not supported with the runtime runc",
    );
    for mode in ["0:1:0", "auto"] {
        let said = engine.sampan(&["run", "--rm", "--userns", mode, "busybox", "true"]);
        let words = format!("invalid user namespace mode: {mode}");
        assert!(said.failed(125).contains(&words), "{mode}");
    }
    for flags in [
        &["--privileged"][..],
        &["--network", "host"],
        &["--pid", "host"],
    ] {
        let words = [
            &["run", "--rm", "--userns", "host"],
            flags,
            &["busybox", "cat", "/proc/self/uid_map"],
        ];
        let said = engine.docker(&words.concat()).ok();
        assert!(said.contains("4294967295"), "{said}");
    }
    // Who joins another has its users.
    let _ = engine
        .docker(&["run", "-d", "--name", "one", "busybox", "sleep", "1000"])
        .ok();
    let joined = engine.docker(&[
        "run",
        "--rm",
        "--network",
        "container:one",
        "--pid",
        "container:one",
        "busybox",
        "ps",
    ]);
    assert!(joined.ok().contains("sleep 1000"));
    refused(
        &["--network", "container:one", "--userns", "host"],
        "it has other users",
    );
    refused(
        &["--pid", "container:one"],
        "joins all of another one's namespaces",
    );
    let _ = engine.docker(&["rm", "-f", "one"]).ok();
    engine.ledger().assert_no_container();
}

#[test]
fn a_container_can_have_users_of_its_own_in_any_engine_and_keeps_them() {
    needs_mapped_owners!();
    let mut engine = engine_with_busybox();
    let flags = [
        "run",
        "-d",
        "--name",
        "one",
        "--restart",
        "always",
        "--userns",
        "0:800000:65536",
    ];
    let _ = engine
        .sampan(
            &[
                &flags[..],
                &["busybox", "sh", "-c", "touch /own; sleep 1000"],
            ]
            .concat(),
        )
        .ok();
    let pid = |engine: &TestEngine| {
        engine
            .docker(&["inspect", "-f", "{{.State.Pid}}", "one"])
            .ok()
    };
    let before = pid(&engine);
    assert_eq!(owner(format!("/proc/{before}")).0, 800_000);
    engine.kill_with_keeper();
    let process = rustix::process::Pid::from_raw(before.parse().unwrap()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    engine.start_again();
    sampan_testing::until("it runs again", || {
        let pid = pid(&engine);
        pid != "0" && pid != before
    });
    let said = engine.docker(&["exec", "one", "stat", "-c", "%u", "/own"]);
    assert_eq!(said.ok(), "0");
    let _ = engine.docker(&["rm", "-f", "one"]).ok();
    engine.ledger().assert_no_container();
}

#[test]
fn layers_that_are_unpacked_and_attached_have_mapped_owners_too() {
    needs_mapped_owners!();
    let engine = remapped_with(&["--layer-driver", "directory", "--layer-mounts", "attached"]);
    let script = "stat -c %u:%g /etc/passwd /etc/hosts /proc/1; touch /made; stat -c %u /made";
    let said = engine.docker(&["run", "--name", "one", "busybox", "sh", "-c", script]);
    assert_eq!(said.ok(), "0:0\n0:0\n0:0\n0");
    let _ = engine.docker(&["commit", "one", "made"]).ok();
    let said = engine.docker(&["run", "--rm", "made", "stat", "-c", "%u", "/made"]);
    assert_eq!(said.ok(), "0");
    let _ = engine.docker(&["rm", "one"]).ok();
}
