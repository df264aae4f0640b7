//! Cgroups against the kernel of the machine: needs root and a writable
//! cgroup mount. Every test works in a cgroup of its own.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sampan_cgroups::{Cgroup, CgroupPath, Controller, Error, Hierarchies, remove_parent};
use sampan_oci::runtime::{
    CpuResources, DeviceRule, LinuxResources, MemoryResources, PidsResources,
};

/// A cgroup that is removed, with what runs in it, when the test ends.
struct Sandbox {
    hierarchies: Hierarchies,
    parent: CgroupPath,
    cgroup: Cgroup,
}

impl Sandbox {
    fn new(name: &str, resources: &LinuxResources) -> Self {
        let hierarchies = Hierarchies::detect().unwrap();
        let parent: CgroupPath = format!("sampan-test-{}-{name}", std::process::id())
            .parse()
            .unwrap();
        let path = format!("{parent}/container").parse().unwrap();
        let cgroup = Cgroup::create(&hierarchies, &path, resources).unwrap();
        Self {
            hierarchies,
            parent,
            cgroup,
        }
    }

    /// Runs a shell that enters the cgroup and then does `script`.
    fn shell(&self, script: &str) -> Child {
        let mut enter = String::new();
        for mount in self.cgroup.mounts() {
            enter.push_str(&format!(
                "echo $$ > {}/cgroup.procs\n",
                mount.source.display()
            ));
        }
        Command::new("/bin/sh")
            .args(["-c", &format!("set -e\n{enter}set +e\n{script}")])
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.cgroup.kill_all().unwrap();
        self.cgroup.delete().unwrap();
        assert!(remove_parent(&self.hierarchies, &self.parent));
        for mount in self.hierarchies.all() {
            assert!(!mount.mount_point.join(self.parent.as_str()).exists());
        }
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_memory_limit_kills_and_is_counted() {
    sampan_kernel::requires!(root, cgroups);
    let resources = LinuxResources {
        memory: Some(MemoryResources {
            limit: Some(16 << 20),
            swap: Some(16 << 20),
            ..MemoryResources::default()
        }),
        ..LinuxResources::default()
    };
    let sandbox = Sandbox::new("memory", &resources);
    let mut child =
        sandbox.shell("head -c 64000000 /dev/zero | tail -c 60000000 | wc -c >/dev/null; exit 0");
    child.wait().unwrap();
    assert!(sandbox.cgroup.oom_kill_count() >= 1);
}

#[test]
fn a_pids_limit_stops_forks() {
    sampan_kernel::requires!(root, cgroups);
    let resources = LinuxResources {
        pids: Some(PidsResources { limit: Some(4) }),
        ..LinuxResources::default()
    };
    let sandbox = Sandbox::new("pids", &resources);
    let mut child = sandbox.shell("for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait");
    assert!(!child.wait().unwrap().success());
    assert!(sandbox.cgroup.procs().unwrap().len() <= 4);
}

#[test]
fn device_rules_shut_a_device_off() {
    sampan_kernel::requires!(root, cgroups);
    let rule = |allow, kind: &str, major, minor, access: &str| DeviceRule {
        allow,
        kind: Some(kind.into()),
        major,
        minor,
        access: Some(access.into()),
    };
    let resources = LinuxResources {
        devices: vec![
            rule(false, "a", None, None, "rwm"),
            rule(true, "c", Some(1), Some(3), "rwm"),
        ],
        ..LinuxResources::default()
    };
    let sandbox = Sandbox::new("devices", &resources);
    let mut null = sandbox.shell("echo x > /dev/null");
    assert!(null.wait().unwrap().success());
    let mut zero = sandbox.shell("head -c 1 /dev/zero > /dev/null");
    assert!(!zero.wait().unwrap().success());
}

#[test]
fn frozen_processes_stand_still_until_thawed() {
    sampan_kernel::requires!(root, cgroups);
    let sandbox = Sandbox::new("freeze", &LinuxResources::default());
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("beats");
    let mut child = sandbox.shell(&format!(
        "while :; do echo . >> {}; sleep 0.01; done",
        file.display()
    ));
    let beats = || fs::metadata(&file).map_or(0, |meta| meta.len());
    wait_until("it beats", || beats() > 4);
    sandbox.cgroup.freeze().unwrap();
    assert!(sandbox.cgroup.is_frozen().unwrap());
    let frozen_at = beats();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(beats(), frozen_at);
    sandbox.cgroup.thaw().unwrap();
    wait_until("it beats again", || beats() > frozen_at);
    sandbox.cgroup.kill_all().unwrap();
    child.wait().unwrap();
    wait_until("all are gone", || {
        sandbox.cgroup.procs().unwrap().is_empty()
    });
}

#[test]
fn limits_that_come_later_join_their_hierarchy() {
    sampan_kernel::requires!(root, cgroups);
    let mut sandbox = Sandbox::new("update", &LinuxResources::default());
    let mut child = sandbox.shell("sleep 1000");
    wait_until("it is in", || !sandbox.cgroup.procs().unwrap().is_empty());
    let resources = LinuxResources {
        cpu: Some(CpuResources {
            quota: Some(20_000),
            period: Some(100_000),
            cpus: Some("0".into()),
            ..CpuResources::default()
        }),
        ..LinuxResources::default()
    };
    let hierarchies = sandbox.hierarchies.clone();
    sandbox.cgroup.update(&hierarchies, &resources).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
    sandbox.cgroup.kill_all().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_refused_limit_leaves_nothing_behind() {
    sampan_kernel::requires!(root, cgroups);
    let hierarchies = Hierarchies::detect().unwrap();
    let path: CgroupPath = format!("sampan-test-{}-refused", std::process::id())
        .parse()
        .unwrap();
    let resources = LinuxResources {
        cpu: Some(CpuResources {
            cpus: Some("0-4294967295".into()),
            ..CpuResources::default()
        }),
        ..LinuxResources::default()
    };
    let error = Cgroup::create(&hierarchies, &path, &resources).unwrap_err();
    assert!(matches!(error, Error::Write { .. }), "{error}");
    for mount in hierarchies.all() {
        assert!(!mount.mount_point.join(path.as_str()).exists());
    }
}

#[test]
fn a_tree_of_cgroups_is_removed_whole() {
    sampan_kernel::requires!(root, cgroups);
    let sandbox = Sandbox::new("tree", &LinuxResources::default());
    for mount in sandbox.cgroup.mounts() {
        fs::create_dir_all(mount.source.join("a/b/c")).unwrap();
    }
    sandbox.cgroup.delete().unwrap();
    sandbox.cgroup.delete().unwrap();
    assert!(sandbox.hierarchies.supports(Controller::Memory));
}
