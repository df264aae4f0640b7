//! Containers that another program makes: runc, crun, and this project's own runtime as a program.

use std::path::{Path, PathBuf};

use sampan_testing::{Fixture, TestEngine, until};

use crate::SAMPAN;
use crate::sessions::on_terminal;

const RUNTIMES: [&str; 3] = ["runc", "crun", "own"];

/// An engine with the executable of this project's own runtime as another one.
fn engine() -> TestEngine {
    let own = Path::new(SAMPAN).with_file_name("sampan-runtime");
    let own = format!("own={} --debug", own.display());
    let engine = TestEngine::start_with(SAMPAN, &["--add-runtime", &own]);
    engine.load(Fixture::Busybox);
    engine
}

fn inspect(engine: &TestEngine, name: &str, template: &str) -> String {
    let told = engine.docker(&["inspect", "-f", template, name]).ok();
    told.trim().to_owned()
}

/// What the runtimes of an engine know of.
fn known(engine: &TestEngine) -> Vec<PathBuf> {
    let state = engine.run_directory().join("runtimes");
    let directories = std::fs::read_dir(state).into_iter().flatten().flatten();
    let entries = directories.flat_map(|directory| std::fs::read_dir(directory.path()).unwrap());
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The start of `run` with a runtime.
fn run<'a>(runtime: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--runtime", runtime], rest].concat()
}

#[test]
fn a_container_of_another_runtime_runs_like_any() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    for runtime in RUNTIMES {
        let ran = engine.docker(&run(
            runtime,
            &[
                "--rm",
                "busybox",
                "sh",
                "-c",
                "echo out; echo err >&2; exit 7",
            ],
        ));
        assert_eq!((ran.code, ran.stdout.as_str()), (7, "out\n"), "{ran:?}");
        assert_eq!(ran.stderr, "err\n");
        // Input, network, user, volume, limits, init, domain name, read-only root.
        let said = engine.docker_with_input(
            &run(runtime, &["--rm", "-i", "busybox", "cat"]),
            b"through\n",
        );
        assert_eq!(said.ok(), "through");
        let flags = [
            "--rm",
            "--init",
            "--read-only",
            "--domainname",
            "example.org",
            "--memory",
            "64m",
            "--user",
            "user",
            "--tmpfs",
            "/run",
            "-v",
            "data:/data",
            "busybox",
            "sh",
            "-c",
            "id -un; cat /proc/1/comm; cat /proc/sys/kernel/domainname; \
             cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; \
             ls /sys/class/net; touch /x 2>/dev/null || echo read-only; mount | grep -c ' /data '",
        ];
        let said = engine.docker(&run(runtime, &flags)).ok();
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(
            lines,
            [
                "user",
                "docker-init",
                "example.org",
                "67108864",
                "eth0",
                "lo",
                "read-only",
                "1"
            ],
            "{runtime}"
        );
        let (screen, code) = on_terminal(
            &engine,
            &format!("docker run --rm -it --runtime {runtime} busybox sh"),
            &[("stty size; tty\r", 2500), ("exit 4\r", 500)],
        );
        assert_eq!(code, 4, "{screen}");
        assert!(
            screen.contains("/dev/pts/0") || screen.contains("/dev/console"),
            "{screen}"
        );
        until("the runtime has forgotten it", || known(&engine).is_empty());
    }
    let _ = engine.docker(&["volume", "rm", "data"]).ok();
    engine.ledger().assert_no_container();
    let info = engine.docker(&["info", "-f", "{{json .Runtimes}} {{.DefaultRuntime}}"]);
    let info = info.ok();
    for shown in ["\"own\":{\"path\":", "\"runc\":", "\"sampan\":{", " sampan"] {
        assert!(info.contains(shown), "{info}");
    }
}

#[test]
fn what_runs_by_another_runtime_is_managed_like_any() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    for runtime in RUNTIMES {
        let count = "trap 'echo bye; exit 5' TERM; while :; do echo x; sleep 0.05; done";
        let id = engine
            .docker(&run(
                runtime,
                &["-d", "--name", "one", "busybox", "sh", "-c", count],
            ))
            .ok();
        assert_eq!(inspect(&engine, "one", "{{.HostConfig.Runtime}}"), runtime);
        let exec = |words: &[&str]| engine.docker(&[&["exec"], words].concat());
        let ran = exec(&[
            "-u",
            "user",
            "-e",
            "A=b",
            "one",
            "sh",
            "-c",
            "id -un; echo $A; exit 3",
        ]);
        assert_eq!((ran.code, ran.stdout.as_str()), (3, "user\nb\n"), "{ran:?}");
        let (screen, code) = on_terminal(
            &engine,
            "docker exec -it one sh",
            &[("tty\r", 1500), ("exit 6\r", 500)],
        );
        assert_eq!(code, 6, "{screen}");
        assert!(screen.contains("/dev/pts/"), "{screen}");
        let missing = exec(&["one", "nosuch"]);
        assert_eq!(missing.code, 127, "{missing:?}");
        let said = format!("{}{}", missing.stdout, missing.stderr);
        assert!(said.contains("not found in $PATH"), "{said}");
        let _ = exec(&["-d", "one", "sleep", "1000"]).ok();
        assert!(engine.docker(&["top", "one"]).ok().contains("sleep 1000"));

        let _ = engine.docker(&["pause", "one"]).ok();
        let lines = || engine.docker(&["logs", "one"]).ok().lines().count();
        let before = lines();
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert_eq!(lines(), before);
        let _ = engine.docker(&["unpause", "one"]).ok();
        until("it goes on", || lines() > before);
        let _ = engine
            .docker(&["update", "--memory", "48m", "--memory-swap", "96m", "one"])
            .ok();
        let limit = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; true";
        assert_eq!(exec(&["one", "sh", "-c", limit]).ok(), "50331648");
        let _ = engine
            .docker(&["cp", "/etc/hostname", "one:/tmp/copied"])
            .ok();
        let _ = exec(&["one", "test", "-s", "/tmp/copied"]).ok();

        // The engine is killed meanwhile.
        engine.kill();
        until("another engine answers", || {
            engine.docker(&["ps"]).code == 0
        });
        let _ = exec(&["one", "true"]).ok();
        let _ = engine.docker(&["stop", "one"]).ok();
        assert_eq!(inspect(&engine, "one", "{{.State.ExitCode}}"), "5");
        assert!(engine.docker(&["logs", "one"]).ok().ends_with("bye"));
        let _ = engine.docker(&["start", "one"]).ok();
        let _ = engine.docker(&["kill", "one"]).ok();
        assert_eq!(engine.docker(&["wait", &id]).ok(), "137");
        let _ = engine.docker(&["rm", "one"]).ok();
        until("the runtime has forgotten it", || known(&engine).is_empty());
        engine.ledger().assert_no_container();
    }
}

#[test]
fn starts_that_fail_say_why_in_the_runtimes_words() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    for runtime in RUNTIMES {
        // The client goes by the words, and crun's are not those that it knows.
        let code = |code| if runtime == "crun" { 125 } else { code };
        let missing = engine.docker(&run(runtime, &["--name", "one", "busybox", "nosuch"]));
        let said = missing.failed(code(127));
        assert!(
            said.contains("OCI runtime create failed: ") && said.contains("not found in $PATH"),
            "{said}"
        );
        assert_eq!(inspect(&engine, "one", "{{.State.ExitCode}}"), "127");
        let _ = engine.docker(&["rm", "one"]).ok();
        let denied = engine.docker(&run(runtime, &["--rm", "busybox", "/etc/passwd"]));
        let said = denied.failed(code(126));
        assert!(said.to_lowercase().contains("permission denied"), "{said}");
        until("the runtime has forgotten it", || known(&engine).is_empty());
    }
    let unknown = engine.docker(&run("nobody", &["--rm", "busybox", "true"]));
    let said = unknown.failed(125);
    assert!(
        said.contains("unknown or invalid runtime name: nobody"),
        "{said}"
    );
    engine.ledger().assert_no_container();
}

#[test]
fn another_runtime_restarts_and_checks_without_an_engine() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let mut engine = engine();
    for runtime in RUNTIMES {
        let flags = [
            "-d",
            "--name",
            runtime,
            "--restart",
            "always",
            "--health-cmd",
            "test -e /ok",
            "--health-interval",
            "200ms",
            "-v",
            "/marks",
            "busybox",
            "sh",
            "-c",
            "touch /ok; sleep 1000",
        ];
        let _ = engine.docker(&run(runtime, &flags)).ok();
    }
    let health = |engine: &TestEngine, name| inspect(engine, name, "{{.State.Health.Status}}");
    let pid = |engine: &TestEngine, name| -> i32 {
        inspect(engine, name, "{{.State.Pid}}").parse().unwrap()
    };
    for runtime in RUNTIMES {
        until("it is healthy", || health(&engine, runtime) == "healthy");
    }
    let before: Vec<i32> = RUNTIMES.iter().map(|name| pid(&engine, name)).collect();
    engine.kill_with_keeper();
    for pid in &before {
        let pid = rustix::process::Pid::from_raw(*pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_secs(2));
    engine.start_again();
    for (runtime, before) in RUNTIMES.iter().zip(before) {
        until("it runs again", || {
            let pid = pid(&engine, runtime);
            pid != 0 && pid != before
        });
        assert_eq!(inspect(&engine, runtime, "{{.RestartCount}}"), "1");
        until("it is healthy again", || {
            health(&engine, runtime) == "healthy"
        });
    }
    for runtime in RUNTIMES {
        let _ = engine.docker(&["rm", "-f", "-v", runtime]).ok();
    }
    until("the runtime has forgotten it", || known(&engine).is_empty());
    engine.ledger().assert_no_container();
}

#[test]
fn a_killed_shim_leaves_nothing_of_another_runtime() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    for runtime in RUNTIMES {
        let flags = ["-d", "--name", "one", "busybox", "sleep", "1000"];
        let id = engine.docker(&run(runtime, &flags)).ok();
        let shim = shim_of(&id);
        rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
        until("its loss is seen", || {
            inspect(&engine, "one", "{{.State.Status}}") == "exited"
        });
        let _ = engine.docker(&["start", "one"]).ok();
        assert_eq!(engine.docker(&["exec", "one", "echo", "back"]).ok(), "back");
        let _ = engine.docker(&["rm", "-f", "one"]).ok();
        until("the runtime has forgotten it", || known(&engine).is_empty());
    }
    engine.ledger().assert_no_container();
}

/// The supervisor of a container.
fn shim_of(id: &str) -> rustix::process::Pid {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let shim = pids.find(|pid| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.starts_with("sampan-shim\0") && command.contains(id)
    });
    rustix::process::Pid::from_raw(shim.unwrap()).unwrap()
}

#[test]
fn the_default_runtime_can_be_another() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = TestEngine::start_with(SAMPAN, &["--default-runtime", "runc"]);
    engine.load(Fixture::Busybox);
    let _ = engine
        .docker(&["run", "-d", "--name", "one", "busybox", "sleep", "1000"])
        .ok();
    assert_eq!(inspect(&engine, "one", "{{.HostConfig.Runtime}}"), "runc");
    assert_eq!(known(&engine).len(), 1);
    // The one that is linked in has its name, and is what builds have.
    let said = engine.docker(&[
        "run",
        "--rm",
        "--runtime",
        "sampan",
        "busybox",
        "echo",
        "ours",
    ]);
    assert_eq!(said.ok(), "ours");
    let _ = engine.docker(&["rm", "-f", "one"]).ok();
    engine.ledger().assert_no_container();
}
