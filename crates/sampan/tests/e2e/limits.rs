//! Limits and what holds a container's processes together, with any kind of control groups.

use crate::engine_with_busybox;

#[test]
fn limits_hold_and_are_seen_inside() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    // The files of version 2, or those of version 1.
    let show = "cd /sys/fs/cgroup; cat memory.max memory/memory.limit_in_bytes 2>/dev/null; \
                cat pids.max pids/pids.max 2>/dev/null; \
                cat cpu.max cpu/cpu.cfs_quota_us 2>/dev/null | cut -d' ' -f1";
    let limits = ["--memory", "64m", "--pids-limit", "40", "--cpus", "0.5"];
    let run = [&["run", "--rm"], &limits[..], &["busybox", "sh", "-c"]].concat();
    let said = engine.sampan(&[&run[..], &[show]].concat()).ok();
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        ["67108864", "40", "50000"]
    );

    // An array that grows beyond the memory.
    let greedy = "awk 'BEGIN { while (1) a[++i] = sprintf(\"%1000d\", i) }'; exit 137";
    let ran = engine.sampan(&[&run[..], &[greedy]].concat());
    assert_eq!(ran.code, 137, "{ran:?}");

    let forks = "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i + 1)); done; echo all";
    let ran = engine.sampan(&[&run[..], &[forks]].concat());
    assert!(!ran.stdout.contains("all"), "{ran:?}");
}

#[test]
fn memory_that_runs_out_is_told() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let greedy = "BEGIN { while (1) a[++i] = sprintf(\"%1000d\", i) }";
    let id = engine
        .sampan(&["run", "-d", "-m", "32m", "busybox", "awk", greedy])
        .ok();
    assert_eq!(engine.sampan(&["wait", &id]).ok(), "137");
    let format = "{{.State.OOMKilled}}";
    assert_eq!(engine.sampan(&["inspect", "-f", format, &id]).ok(), "true");
}

#[test]
fn a_process_that_is_added_is_stopped_and_killed_with_the_others() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let count = "while :; do echo x; sleep 0.05; done";
    let id = engine
        .sampan(&["run", "-d", "busybox", "sh", "-c", count])
        .ok();
    let own = engine.sampan(&["exec", &id, "cat", "/proc/1/cgroup"]).ok();
    let added = engine
        .sampan(&["exec", &id, "cat", "/proc/self/cgroup"])
        .ok();
    assert_eq!(own, added);
    // In a namespace of its own, or with the host's names.
    assert!(own == "0::/" || own.contains(&id), "{own}");

    let _ = engine.sampan(&["exec", "-d", &id, "sleep", "1000"]).ok();
    let _ = engine.sampan(&["pause", &id]).ok();
    let lines = || engine.sampan(&["logs", &id]).ok().lines().count();
    let before = lines();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(lines(), before);
    let _ = engine.sampan(&["unpause", &id]).ok();
    sampan_testing::until("it goes on", || lines() > before);
    let _ = engine.sampan(&["kill", &id]).ok();
    assert_eq!(engine.sampan(&["wait", &id]).ok(), "137");
    let _ = engine.sampan(&["rm", &id]).ok();
    engine.ledger().assert_no_container();
}

#[test]
fn devices_that_were_not_given_cannot_be_opened() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let open = "mknod /tmp/d c 1 11 && head -c 1 /tmp/d > /dev/null";
    let refused = engine.sampan(&["run", "--rm", "busybox", "sh", "-c", open]);
    assert!(
        refused.stderr.contains("Operation not permitted"),
        "{refused:?}"
    );
    let zero = "head -c 3 /dev/zero | wc -c";
    assert_eq!(
        engine
            .sampan(&["run", "--rm", "busybox", "sh", "-c", zero])
            .ok(),
        "3"
    );
    let given = [
        "run",
        "--rm",
        "--device",
        "/dev/null:/dev/given:r",
        "busybox",
        "cat",
        "/dev/given",
    ];
    assert_eq!(engine.sampan(&given).ok(), "");
    // A container with all devices may open them all.
    let open = "mknod /tmp/d c 1 8 && head -c 1 /tmp/d | wc -c";
    let run = ["run", "--rm", "--privileged", "busybox", "sh", "-c", open];
    assert_eq!(engine.sampan(&run).ok(), "1");
}

#[test]
fn a_container_lies_in_the_control_group_that_was_asked_for() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let parent = format!("sampan-parent-{}", std::process::id());
    let engine = sampan_testing::TestEngine::start_with(
        crate::SAMPAN,
        &[
            "--cgroup-parent",
            &parent,
            "--exec-opt",
            "native.cgroupdriver=cgroupfs",
        ],
    );
    engine.load(sampan_testing::Fixture::Busybox);
    let other = format!("/{parent}/below");
    for (runtime, flags, place) in [
        ("sampan", &[][..], format!("/{parent}/")),
        ("sampan", &["--cgroup-parent", &other], format!("{other}/")),
        ("runc", &["--cgroup-parent", &other], format!("{other}/")),
    ] {
        let words = [
            "run",
            "-d",
            "--runtime",
            runtime,
            "-m",
            "64m",
            "--name",
            "one",
        ];
        let words = [&words[..], flags, &["busybox", "sleep", "1000"]].concat();
        let id = engine.docker(&words).ok();
        let pid = engine
            .docker(&["inspect", "-f", "{{.State.Pid}}", "one"])
            .ok();
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(groups.contains(&format!(":{place}{id}\n")), "{groups}");
        let _ = engine
            .docker(&["update", "-m", "48m", "--memory-swap", "48m", "one"])
            .ok();
        let stats = ["stats", "--no-stream", "--format", "{{.MemUsage}}", "one"];
        let stats = engine.docker(&stats).ok();
        assert!(stats.contains("/ 48MiB"), "{stats}");
        let _ = engine.docker(&["rm", "-f", "one"]).ok();
    }
    let refused = |parent: &str, words: &str| {
        let said = engine.docker(&["run", "--rm", "--cgroup-parent", parent, "busybox", "true"]);
        let said = said.failed(125);
        assert!(said.contains(words), "{said}");
    };
    refused(
        "system.slice",
        "cgroup parent system.slice is a slice of systemd",
    );
    refused("../../x", "invalid cgroup parent: ../../x");
    engine.ledger().assert_no_container();
    // As with Docker, whoever names a group has it.
    let roots = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let roots = roots.lines().filter(|line| line.contains(" - cgroup"));
    for root in roots.filter_map(|line| line.split(' ').nth(4)) {
        for group in [format!("{parent}/below"), parent.clone()] {
            let group = std::path::Path::new(root).join(group);
            assert!(
                !group.exists() || std::fs::remove_dir(&group).is_ok(),
                "{}",
                group.display()
            );
        }
    }
}
