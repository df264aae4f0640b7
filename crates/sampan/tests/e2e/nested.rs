//! Engines and inits in containers.

use std::path::Path;

use sampan_testing::{Fixture, TestEngine, until};

use crate::{SAMPAN, engine_with_busybox};

/// Binds the executables under test.
fn executables() -> String {
    let directory = Path::new(SAMPAN).parent().unwrap();
    format!("{}:/opt/sampan:ro", directory.display())
}

/// What an engine in a privileged container says to a command.
fn nested(engine: &TestEngine, image: &str, flags: &[&str], script: &str) -> sampan_testing::Ran {
    let executables = executables();
    let words = ["run", "--rm", "--privileged", "-v", &executables];
    let command = format!("export PATH=$PATH:/opt/sampan; {script}");
    engine.docker(&[&words[..], flags, &[image, "sh", "-c", &command]].concat())
}

#[test]
fn an_engine_runs_in_a_container() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let volume = ["-v", "/var/lib/sampan"];
    let hello = "sampan run --rm hello-world";
    let said = nested(&engine, "busybox", &volume, hello).ok();
    assert!(said.contains("Hello from Sampan!"), "{said}");
    // It has a network of its own, limits, and leaves with its container whatever runs in it.
    let load = "sampan load -q -i /busybox.tar >/dev/null";
    let image = sampan_testing::fixture(Fixture::Busybox).archive();
    let image = format!("{}:/busybox.tar:ro", image.display());
    let flags = [&volume[..], &["-v", &image]].concat();
    let script = format!(
        "{load}; sampan run -d --name one -m 32m busybox sh -c 'echo word > /tmp/x; sleep 1000' > /dev/null; \
         sampan exec one cat /tmp/x; sampan run --rm --network container:one busybox ip -4 -o addr show eth0 | \
         grep -c 'inet 172'; sampan ps -q | wc -l"
    );
    assert_eq!(
        nested(&engine, "busybox", &flags, &script).ok(),
        "word\n1\n1"
    );
    // Without a volume it says what it needs.
    let refused = nested(&engine, "busybox", &[], hello);
    assert_eq!(refused.code, 125, "{refused:?}");
    assert!(
        refused
            .stderr
            .contains("put it on a volume (-v /var/lib/sampan)"),
        "{refused:?}"
    );
    engine.ledger().assert_no_container();
}

#[test]
fn another_runtime_runs_in_a_container() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    engine.load(Fixture::Systemd);
    let volume = ["-v", "/var/lib/sampan"];
    let hello = "sampan run --rm --runtime runc hello-world";
    let said = nested(&engine, "systemd", &volume, hello).ok();
    assert!(said.contains("Hello from Sampan!"), "{said}");
    engine.ledger().assert_no_container();
}

#[test]
fn systemd_is_the_init_of_a_container() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    engine.load(Fixture::Systemd);
    let recipe = [
        "--tmpfs",
        "/run",
        "--tmpfs",
        "/run/lock",
        "--cgroupns",
        "private",
        "--security-opt",
        "writable-cgroups=true",
    ];
    for flags in [&["--privileged"][..], &recipe] {
        let words = ["run", "-d", "--name", "one"];
        let _ = engine
            .docker(&[&words[..], flags, &["systemd"]].concat())
            .ok();
        let state = || {
            engine
                .docker(&["exec", "one", "systemctl", "is-system-running"])
                .stdout
        };
        until("it is up", || {
            let state = state();
            state == "running\n" || state == "degraded\n"
        });
        let unit = [
            "exec",
            "one",
            "systemd-run",
            "--wait",
            "--pipe",
            "-q",
            "echo",
            "a unit",
        ];
        assert_eq!(engine.docker(&unit).ok(), "a unit", "{flags:?}");
        let _ = engine.docker(&["stop", "one"]).ok();
        let code = engine
            .docker(&["inspect", "-f", "{{.State.ExitCode}}", "one"])
            .ok();
        assert_ne!(code, "137", "it was killed");
        let _ = engine.docker(&["rm", "one"]).ok();
    }
    // Without a word about it the control groups are read-only.
    let look = "touch /sys/fs/cgroup/x 2>&1; for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir $d/x 2>/dev/null; done; true";
    let said = engine
        .docker(&["run", "--rm", "busybox", "sh", "-c", look])
        .ok();
    assert!(said.contains("Read-only file system"), "{said}");
    engine.ledger().assert_no_container();
}

#[test]
fn who_may_make_groups_has_one_of_its_own_in_every_hierarchy() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    for flags in [
        &["--privileged"][..],
        &[
            "--security-opt",
            "writable-cgroups=true",
            "--cgroupns=private",
        ],
    ] {
        let words = ["run", "-d", "--name", "one"];
        let command = ["busybox", "sleep", "1000"];
        let id = engine.docker(&[&words[..], flags, &command].concat()).ok();
        let pid = engine
            .docker(&["inspect", "-f", "{{.State.Pid}}", "one"])
            .ok();
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        // Containers of other tests may have made hierarchies that are mounted nowhere here.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let is_mounted = |controllers: &str| {
            let mut groups = mounts.lines().filter(|line| line.contains(" - cgroup"));
            groups.any(|line| controllers.is_empty() || line.ends_with(&format!(",{controllers}")))
        };
        for group in groups.lines() {
            let controllers = group.split(':').nth(1).unwrap();
            assert!(
                group.contains(&id) || !is_mounted(controllers),
                "{flags:?}: {groups}"
            );
        }
        // Groups that it leaves behind go with it, as do the processes in them.
        let make = "for d in /sys/fs/cgroup /sys/fs/cgroup/*; do mkdir -p $d/a/b 2>/dev/null; done; \
                    sleep 1000 & for d in /sys/fs/cgroup /sys/fs/cgroup/*; do \
                    echo $! > $d/a/b/cgroup.procs 2>/dev/null; done; true";
        let _ = engine.docker(&["exec", "one", "sh", "-c", make]).ok();
        let _ = engine.docker(&["kill", "one"]).ok();
        let _ = engine.docker(&["rm", "one"]).ok();
        engine.ledger().assert_no_container();
    }
}
