//! Containers whose control groups systemd makes: an engine, and bundles, in a container that systemd
//! runs.

use std::fs;
use std::path::Path;

use sampan_kernel::requires;
use sampan_testing::{Fixture, Ran, TestEngine, fixture, until};
use serde_json::{Value, json};

use crate::SAMPAN;

/// Which control groups a system has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Layout {
    /// Those of the host.
    AsHere,
    /// Of version 1 alone.
    V1,
    /// Of version 2 alone. Where the host has both the controllers are elsewhere.
    V2,
}

impl Layout {
    /// What makes it so, before systemd looks at it.
    fn prelude(self) -> &'static str {
        match self {
            Self::AsHere => "true",
            Self::V1 => "umount /sys/fs/cgroup/unified",
            Self::V2 => "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup",
        }
    }

    /// What keeps systemd from mounting the other version again: a word of a kernel's command line.
    fn word(self) -> &'static str {
        match self {
            Self::AsHere | Self::V2 => "",
            Self::V1 => "systemd.legacy_systemd_cgroup_controller=1",
        }
    }

    /// How the line of `/proc/PID/cgroup` begins by which systemd tracks processes, behind its number.
    fn tracked(self) -> &'static str {
        match self {
            Self::AsHere | Self::V2 => "::",
            Self::V1 => ":name=systemd:",
        }
    }
}

/// A container that systemd runs, in which the executables under test are in the PATH.
struct Machine {
    engine: TestEngine,
    layout: Layout,
}

impl Machine {
    fn start(layout: Layout, flags: &[&str]) -> Self {
        let engine = TestEngine::start(SAMPAN);
        engine.load(Fixture::Systemd);
        let directory = Path::new(SAMPAN).parent().unwrap();
        let executables = format!("{}:/opt/sampan:ro", directory.display());
        let begin = format!(
            "{} && exec /lib/systemd/systemd {}",
            layout.prelude(),
            layout.word()
        );
        let mut words = vec!["run", "-d", "--name", "machine", "--privileged"];
        words.extend(["--cgroupns", "private", "-v", "/var/lib/sampan"]);
        // A group of its own in every hierarchy, which goes with it and all that systemd makes there.
        words.extend(["--security-opt", "writable-cgroups=true"]);
        words.extend(["-v", &executables]);
        words.extend(flags);
        words.extend(["systemd", "sh", "-c", &begin]);
        let _ = engine.docker(&words).ok();
        let machine = Self { engine, layout };
        until("systemd is up", || {
            let state = machine.run("systemctl is-system-running").stdout;
            state == "running\n" || state == "degraded\n"
        });
        machine
    }

    /// With an engine in it that has systemd make control groups.
    fn with_engine(layout: Layout, flags: &[&str]) -> Self {
        let image = fixture(Fixture::Busybox).archive();
        let image = format!("{}:/busybox.tar:ro", image.display());
        let machine = Self::start(layout, &["-v", &image]);
        let service = format!(
            "systemd-run -q --unit=sampan -p KillMode=process -p Delegate=yes -E PATH=$PATH \
             sampan daemon --exec-opt native.cgroupdriver=systemd {}",
            flags.join(" ")
        );
        machine.ok(&service);
        until("the engine answers", || {
            machine.run("test -S /run/sampan/sampan.sock").code == 0
        });
        machine.ok("sampan load -q -i /busybox.tar");
        machine
    }

    fn run(&self, script: &str) -> Ran {
        let script = format!("export PATH=$PATH:/opt/sampan; {script}");
        self.engine
            .docker(&["exec", "machine", "sh", "-c", &script])
    }

    #[track_caller]
    fn ok(&self, script: &str) -> String {
        self.run(script).ok()
    }

    /// A property of a unit.
    #[track_caller]
    fn property(&self, unit: &str, name: &str) -> String {
        self.ok(&format!("systemctl show --value -p {name} {unit}"))
    }

    /// Asserts that nothing is left of a scope.
    #[track_caller]
    fn assert_gone(&self, scope: &str) {
        assert_eq!(self.property(scope, "LoadState"), "not-found", "{scope}");
        let left = self.ok(&format!("find /sys/fs/cgroup -name {scope}"));
        assert_eq!(left, "", "{scope}");
    }

    /// Asserts that a process is in the container's part of a scope, wherever systemd makes it.
    #[track_caller]
    fn assert_in(&self, scope: &str, pid: &str) {
        let groups = self.ok(&format!("cat /proc/{pid}/cgroup"));
        let place = format!("{}/container", self.property(scope, "ControlGroup"));
        for line in groups.lines() {
            let mut names = vec![self.layout.tracked()];
            if self.layout != Layout::V2 {
                names.extend([":memory:", ":pids:", ":devices:"]);
            }
            if names.iter().any(|name| line.contains(name)) {
                assert!(line.ends_with(&place), "{place}\n{groups}");
            }
        }
    }

    /// A control file of the cgroup in which a process is, by its name in either version.
    #[track_caller]
    fn control(&self, pid: &str, controller: &str, names: &[&str]) -> String {
        let group = format!(
            "g=$(sed -n 's/^[0-9]*:{controller}://p' /proc/{pid}/cgroup); u=$(sed -n 's/^0:://p' /proc/{pid}/cgroup)"
        );
        let files: Vec<String> = names
            .iter()
            .flat_map(|name| {
                [
                    format!("/sys/fs/cgroup/{controller}$g/{name}"),
                    format!("/sys/fs/cgroup$u/{name}"),
                ]
            })
            .collect();
        self.ok(&format!(
            "{group}; for f in {}; do if [ -e $f ]; then cat $f; break; fi; done",
            files.join(" ")
        ))
    }
}

fn pid_of(machine: &Machine, container: &str) -> String {
    machine.ok(&format!(
        "sampan inspect -f '{{{{.State.Pid}}}}' {container}"
    ))
}

/// Which layouts this host can show, and whether limits can be tried in them.
fn layouts() -> Vec<(Layout, bool)> {
    let has_both = Path::new("/sys/fs/cgroup/unified").exists();
    if has_both {
        vec![
            (Layout::AsHere, true),
            (Layout::V1, true),
            (Layout::V2, false),
        ]
    } else {
        vec![(Layout::AsHere, true)]
    }
}

#[test]
fn a_container_lies_in_a_scope_of_systemd() {
    requires!(root, cgroups, overlay, nftables);
    for (layout, limits) in layouts() {
        let machine = Machine::with_engine(layout, &[]);
        let driver = machine.ok("sampan info -f '{{.CgroupDriver}}'");
        assert_eq!(driver, "systemd");
        let flags = if limits { "-m 64m --pids-limit 50" } else { "" };
        let id = machine.ok(&format!(
            "sampan run -d --name one {flags} busybox sleep 1000"
        ));
        let scope = format!("sampan-{id}.scope");
        let show = |name: &str| machine.property(&scope, name);
        assert_eq!(show("Slice"), "system.slice", "{layout:?}");
        assert_eq!(show("ControlGroup"), format!("/system.slice/{scope}"));
        assert_eq!(show("Delegate"), "yes");
        assert_eq!(show("ActiveState"), "active");
        let pid = pid_of(&machine, "one");
        machine.assert_in(&scope, &pid);
        if limits {
            let files = ["memory.max", "memory.limit_in_bytes"];
            assert_eq!(machine.control(&pid, "memory", &files), "67108864");
            assert_eq!(machine.control(&pid, "pids", &["pids.max"]), "50");
            machine.ok("sampan update -m 48m --memory-swap 48m one");
            assert_eq!(machine.control(&pid, "memory", &files), "50331648");
            let stats = machine.ok("sampan stats --no-stream --format '{{.MemUsage}}' one");
            assert!(stats.contains("/ 48MiB"), "{stats}");
        }
        assert_eq!(machine.ok("sampan exec one echo hello"), "hello");
        let top = machine.ok("sampan top one");
        assert!(top.contains("sleep 1000"), "{top}");
        machine.ok("sampan pause one && sampan unpause one");

        // Again and again, in the same scope.
        machine.ok("sampan restart -t 0 one && sampan stop -t 0 one && sampan start one");
        machine.assert_in(&scope, &pid_of(&machine, "one"));

        // In a slice that was asked for, with a policy.
        let id = machine.ok(
            "sampan run -d --name two --cgroup-parent my-own.slice --restart always busybox sleep 1000",
        );
        let second = format!("sampan-{id}.scope");
        assert_eq!(machine.property(&second, "Slice"), "my-own.slice");
        let place = format!("/my.slice/my-own.slice/{second}");
        assert_eq!(machine.property(&second, "ControlGroup"), place);
        let pid = pid_of(&machine, "two");
        machine.assert_in(&second, &pid);
        machine.ok(&format!("kill -9 {pid}"));
        until("it runs again", || {
            machine.ok("sampan inspect -f '{{.RestartCount}} {{.State.Status}}' two") == "1 running"
        });
        machine.assert_in(&second, &pid_of(&machine, "two"));
        let refused = machine.run("sampan run --rm --cgroup-parent /mine busybox true");
        let refused = refused.failed(125);
        assert!(
            refused.contains(
                "cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\""
            ),
            "{refused}"
        );

        // Without the engine they go on, and the next one knows where they are.
        machine.ok("kill -9 $(cat /run/sampan/engine.pid)");
        machine.ok("sampan exec one true && sampan exec two true");
        machine.assert_in(&scope, &pid_of(&machine, "one"));
        machine.ok("sampan top two");
        assert_eq!(
            machine.run("sampan run --rm busybox sh -c 'exit 3'").code,
            3
        );

        machine.ok("sampan rm -f one two");
        machine.assert_gone(&scope);
        machine.assert_gone(&second);
    }
}

#[test]
fn what_systemd_does_by_itself_takes_nothing_from_a_container() {
    requires!(root, cgroups, overlay, nftables);
    let machine = Machine::with_engine(Layout::AsHere, &["--warm-slots", "0"]);
    let id = machine.ok(
        "sampan run -d --name one --device /dev/loop-control --pids-limit 50 busybox sleep 1000",
    );
    let scope = format!("sampan-{id}.scope");
    let open = "sampan exec one sh -c ': < /dev/loop-control'";
    machine.ok(open);
    machine.ok("systemctl daemon-reload");
    // What belongs to nobody else makes systemd look at all of the slice.
    machine.ok("systemd-run -q --scope --slice=system.slice -p MemoryMax=50M true");
    machine.ok(&format!(
        "systemctl set-property --runtime {scope} CPUWeight=50 2>/dev/null || true"
    ));
    machine.ok("systemctl daemon-reexec");
    until("systemd is back", || {
        !machine.run("systemctl is-system-running").stdout.is_empty()
    });
    machine.ok(open);
    let pid = pid_of(&machine, "one");
    machine.assert_in(&scope, &pid);
    assert_eq!(machine.control(&pid, "pids", &["pids.max"]), "50");

    // A shim that is killed takes its container with it, and the next run has a scope of its own.
    let shim = machine.ok(&format!("cut -d' ' -f4 /proc/{pid}/stat"));
    machine.ok(&format!("kill -9 {shim}"));
    until("its end is noted", || {
        machine.ok("sampan inspect -f '{{.State.Running}}' one") == "false"
    });
    machine.ok("sampan start one");
    machine.assert_in(&scope, &pid_of(&machine, "one"));

    // So has one that systemd has ended.
    machine.ok(&format!("systemctl stop {scope}"));
    until("its end is noted", || {
        machine.ok("sampan inspect -f '{{.State.Running}}' one") == "false"
    });
    machine.ok("sampan start one");
    machine.ok(open);
    machine.ok("sampan rm -f one");
    machine.assert_gone(&scope);

    // A start that fails leaves nothing, and another runtime keeps to the scope.
    let failed = machine.run("sampan run --name two busybox /nope");
    assert_eq!(failed.code, 127, "{failed:?}");
    let id = machine.ok("sampan inspect -f '{{.Id}}' two");
    machine.assert_gone(&format!("sampan-{id}.scope"));
    let id =
        machine.ok("sampan run -d --name three --runtime runc --pids-limit 40 busybox sleep 1000");
    let scope = format!("sampan-{id}.scope");
    let pid = pid_of(&machine, "three");
    machine.assert_in(&scope, &pid);
    assert_eq!(machine.control(&pid, "pids", &["pids.max"]), "40");
    machine.ok("sampan rm -f two three");
    machine.assert_gone(&scope);
}

#[test]
fn starts_prepared_ahead_have_their_scopes() {
    requires!(root, cgroups, overlay, nftables);
    let machine = Machine::with_engine(Layout::AsHere, &[]);
    let scopes = || {
        let units = machine.ok("systemctl list-units --plain --no-legend 'sampan-*.scope'");
        units.lines().count()
    };
    machine.ok("sampan run --rm busybox true");
    until("starts are prepared", || scopes() > 0);
    for _ in 0..6 {
        machine.ok("sampan run --rm busybox true");
    }
    let id = machine.ok("sampan run -d --name one busybox sleep 1000");
    let scope = format!("sampan-{id}.scope");
    machine.assert_in(&scope, &pid_of(&machine, "one"));
    // One that was prepared, and whose supervisor somebody has killed.
    until("starts are prepared", || scopes() > 2);
    let id = machine.ok("sampan create --name two busybox sleep 1000");
    let second = format!("sampan-{id}.scope");
    let supervisors = format!(
        "for p in $(cat $(find /sys/fs/cgroup -path '*{second}/supervisor/cgroup.procs') | sort -u); do kill -9 $p; done"
    );
    machine.ok(&supervisors);
    machine.ok("sampan start two");
    machine.assert_in(&second, &pid_of(&machine, "two"));
    machine.ok("sampan rm -f one two");
    machine.assert_gone(&scope);
    machine.assert_gone(&second);
    // What was prepared goes with its engine, or with the next one.
    machine.ok("kill -9 $(cat /run/sampan/engine.pid)");
    machine.ok("sampan version >/dev/null");
    until("all is gone", || scopes() == 0);
}

#[test]
fn a_bundle_lies_in_the_scope_that_its_configuration_names() {
    requires!(root, cgroups, overlay, nftables);
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path();
    let rootfs = bundle.join("rootfs");
    for name in ["bin", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(rootfs.join(name)).unwrap();
    }
    let copied = sampan_testing::run(
        "cp",
        &["/bin/busybox", rootfs.join("bin").to_str().unwrap()],
    );
    let _ = copied.ok();
    for name in ["sh", "sleep", "cat", "echo"] {
        std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).unwrap();
    }
    let _ = sampan_testing::run_in(bundle, SAMPAN, &["runtime", "spec"]).ok();
    let configure = |limits: bool, args: &[&str]| {
        let path = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = false.into();
        config["process"]["args"] = json!(args);
        config["ociVersion"] = "1.0.2".into();
        config["linux"]["cgroupsPath"] = "my-own.slice:test:one".into();
        // runc of the fixture is older than the kind.
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "time");
        let resources = if limits {
            json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 50}})
        } else {
            json!({})
        };
        config["linux"]["resources"] = resources;
        fs::write(&path, config.to_string()).unwrap();
    };
    let volume = format!("{}:/bundle", bundle.display());
    for (layout, limits) in layouts() {
        let machine = Machine::start(layout, &["-v", &volume]);
        let scope = "test-one.scope";
        let runtimes: &[(&str, &str)] = match layout {
            // runc leaves the scope to itself where there are no controllers.
            Layout::V2 => &[("sampan runtime", "/container")],
            Layout::AsHere | Layout::V1 => &[("sampan runtime", "/container"), ("runc", "")],
        };
        for &(runtime, below) in runtimes {
            let call = |words: &str| machine.run(&format!("{runtime} --systemd-cgroup {words}"));
            let make = |words: &str| {
                call(&format!(
                    "{words} --bundle /bundle one </dev/null >/dev/null 2>/tmp/said"
                ))
            };
            let pid = || -> String {
                let state: Value = serde_json::from_str(&call("state one").ok()).unwrap();
                state["pid"].to_string()
            };
            configure(limits, &["sleep", "1000"]);
            let made = make("run -d");
            assert_eq!(
                made.code,
                0,
                "{runtime} {layout:?}: {}",
                machine.ok("cat /tmp/said")
            );
            assert_eq!(machine.property(scope, "Slice"), "my-own.slice");
            let place = machine.property(scope, "ControlGroup");
            assert_eq!(place, format!("/my.slice/my-own.slice/{scope}"));
            assert_eq!(machine.property(scope, "Delegate"), "yes");
            let groups = machine.ok(&format!("cat /proc/{}/cgroup", pid()));
            let inner = format!("{place}{below}");
            let tracked = groups
                .lines()
                .find(|line| line.contains(layout.tracked()))
                .unwrap();
            assert!(tracked.ends_with(&inner), "{runtime} {layout:?}\n{groups}");
            if limits {
                let files = ["memory.max", "memory.limit_in_bytes"];
                let memory = || machine.control(&pid(), "memory", &files);
                assert_eq!(memory(), "67108864", "{runtime}");
                assert_eq!(machine.control(&pid(), "pids", &["pids.max"]), "50");
                let _ = call("update --memory 50331648 one").ok();
                assert_eq!(memory(), "50331648", "{runtime}");
            }
            assert_eq!(call("exec one echo hello").ok(), "hello");
            let _ = call("pause one").ok();
            let _ = call("resume one").ok();
            machine.ok("systemctl daemon-reload");
            assert_eq!(call("exec one echo hello").ok(), "hello");
            let _ = call("delete --force one").ok();
            until("it is gone", || {
                machine.property(scope, "LoadState") == "not-found"
            });
            if runtime == "runc" {
                continue;
            }
            machine.assert_gone(scope);

            // In two steps.
            assert_eq!(make("create").code, 0, "{}", machine.ok("cat /tmp/said"));
            assert_eq!(machine.property(scope, "ActiveState"), "active");
            let _ = call("start one").ok();
            let stats = call("events --stats one").ok();
            assert!(stats.contains("\"pids\""), "{stats}");
            let _ = call("kill --all one KILL").ok();
            until("it has stopped", || {
                call("state one").ok().contains("\"stopped\"")
            });
            let _ = call("delete one").ok();
            machine.assert_gone(scope);

            // To its end.
            configure(limits, &["sh", "-c", "exit 3"]);
            assert_eq!(make("run").code, 3, "{}", machine.ok("cat /tmp/said"));
            machine.assert_gone(scope);

            // What fails leaves nothing.
            configure(limits, &["/nope"]);
            assert_eq!(make("create").code, 1);
            assert_eq!(call("list -q").ok(), "");
            machine.assert_gone(scope);
        }
        let bad = "sed -i s/my-own.slice:test:one/plain/ /bundle/config.json; \
                   sampan runtime --systemd-cgroup create --bundle /bundle one";
        let said = machine.run(bad).failed(1);
        assert!(said.contains("slice:prefix:name"), "{said}");
    }
}

#[test]
fn where_no_systemd_runs_nobody_asks_it() {
    requires!(root, cgroups);
    if Path::new("/run/systemd/system").exists() {
        // What happens then is what the other tests show.
        return;
    }
    let words = ["daemon", "--exec-opt", "native.cgroupdriver=systemd"];
    let refused = sampan_testing::run(SAMPAN, &words);
    assert_ne!(refused.code, 0);
    assert!(
        refused
            .stderr
            .contains("systemd, which does not run this system"),
        "{refused:?}"
    );
}
