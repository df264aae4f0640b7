//! A container's life, command by command, with the sentences and codes that callers read.

use std::fs;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use sampan_kernel::ancillary::receive_with_descriptors;
use sampan_kernel::requires;
use sampan_testing::until;
use serde_json::{Value, json};

use crate::bundle::{Bundle, SAMPAN};

fn bundle(shell: &str) -> Bundle {
    let bundle = Bundle::new(SAMPAN);
    bundle.shell(shell);
    bundle
}

/// A container that runs until it is killed.
fn running() -> Bundle {
    let bundle = bundle("exec sleep 1000");
    let _ = bundle.create(&["create", &bundle.id]).ok();
    let _ = bundle.call(&["start", &bundle.id]).ok();
    bundle
}

#[test]
fn a_container_waits_for_its_start_and_outlives_its_maker() {
    requires!(root, cgroups);
    let bundle = bundle("echo started; exec sleep 1000");
    let pid_file = bundle.path().join("pid");
    let pid_file = pid_file.to_str().unwrap();
    let _ = bundle
        .create(&["create", "--pid-file", pid_file, &bundle.id])
        .ok();
    let state: Value = serde_json::from_str(&bundle.call(&["state", &bundle.id]).ok()).unwrap();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], bundle.id);
    assert_eq!(state["ociVersion"], "1.0.2");
    assert_eq!(state["bundle"], bundle.path().to_str().unwrap());
    assert_eq!(
        fs::read_to_string(pid_file).unwrap(),
        state["pid"].to_string()
    );
    assert_eq!(bundle.output(), "");

    let _ = bundle.call(&["start", &bundle.id]).ok();
    until("its program runs", || bundle.output() == "started\n");
    assert_eq!(bundle.status(), "running");
    let again = bundle.call(&["start", &bundle.id]).failed(1);
    assert!(
        again.contains("cannot start an already running container"),
        "{again}"
    );
    let refused = bundle.call(&["delete", &bundle.id]).failed(1);
    assert!(
        refused.contains("that is not stopped: running"),
        "{refused}"
    );

    let _ = bundle.call(&["kill", &bundle.id, "KILL"]).ok();
    until("it has ended", || bundle.status() == "stopped");
    let refused = bundle.call(&["kill", &bundle.id, "KILL"]).failed(1);
    assert!(refused.contains("container not running"), "{refused}");
    let refused = bundle.call(&["start", &bundle.id]).failed(1);
    assert!(
        refused.contains("cannot start a container that has stopped"),
        "{refused}"
    );
    let _ = bundle.call(&["delete", &bundle.id]).ok();
    let gone = bundle.call(&["state", &bundle.id]).failed(1);
    assert!(gone.contains("container does not exist"), "{gone}");
    let _ = bundle.call(&["delete", &bundle.id]).failed(1);
    let _ = bundle.call(&["delete", "--force", &bundle.id]).ok();
}

#[test]
fn failures_are_in_the_log_and_leave_nothing() {
    requires!(root, cgroups);
    let bundle = bundle("true");
    bundle.change(|config| config["process"]["args"] = json!(["/nope"]));
    let log = bundle.path().join("log.json");
    let log_flag = log.to_str().unwrap();
    let _ = bundle
        .create(&[
            "--log",
            log_flag,
            "--log-format",
            "json",
            "create",
            &bundle.id,
        ])
        .failed(1);
    let line: Value = serde_json::from_str(fs::read_to_string(&log).unwrap().trim()).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(
        line["msg"],
        "sampan-runtime create failed: unable to start container process: \
         exec: \"/nope\": stat /nope: no such file or directory"
    );
    assert_eq!(bundle.call(&["list", "-q"]).ok(), "");
    let _ = bundle.call(&["state", &bundle.id]).failed(1);

    bundle.shell("true");
    let _ = bundle.create(&["create", &bundle.id]).ok();
    let twice = bundle.create(&["create", &bundle.id]);
    assert_eq!(twice.code, 1);
    assert!(
        twice
            .stdout
            .contains("container with given ID already exists")
    );
    let bad = bundle.call(&["state", "../x"]).failed(1);
    assert!(bad.contains("invalid container ID format"), "{bad}");
    if !std::path::Path::new("/run/systemd/system").exists() {
        let cgroup = bundle.call(&["--systemd-cgroup", "list"]).failed(1);
        assert!(
            cgroup.contains("this system does not run systemd"),
            "{cgroup}"
        );
    }
    let checkpoint = bundle
        .call(&["checkpoint", "--image-path", "x", "y"])
        .failed(1);
    assert!(checkpoint.contains("not supported"), "{checkpoint}");
}

#[test]
fn run_passes_on_the_exit_code_and_signals() {
    requires!(root, cgroups);
    let bundle = bundle("exit 7");
    assert_eq!(bundle.call(&["run", &bundle.id]).code, 7);
    bundle.shell("kill -9 $$");
    bundle.call(&["run", "--keep", &bundle.id]);
    assert_eq!(bundle.status(), "stopped");
    let _ = bundle.call(&["delete", &bundle.id]).ok();

    bundle.shell("trap 'echo asked to end; exit 3' TERM; echo ready; while :; do sleep 0.1; done");
    let output = bundle.path().join("output");
    let file = fs::File::create(&output).unwrap();
    let mut command = bundle.command(&["run", &bundle.id]);
    let mut child = command.stdout(file).spawn().unwrap();
    until("it listens", || bundle.output() == "ready\n");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(bundle.output(), "ready\nasked to end\n");
    let _ = bundle.call(&["state", &bundle.id]).failed(1);
}

#[test]
fn exec_by_flags_and_by_file() {
    requires!(root, cgroups);
    let bundle = running();
    let exec = |arguments: &[&str]| {
        let mut all = vec!["exec"];
        all.extend(arguments);
        bundle.call(&all)
    };
    let id = bundle.id.as_str();
    assert_eq!(exec(&[id, "sh", "-c", "exit 5"]).code, 5);
    let ran = exec(&[
        "--user",
        "7:8",
        "-g",
        "9",
        "--env",
        "A=1",
        "-e",
        "B=2",
        "--cwd",
        "/srv",
        "--cap",
        "CAP_SYS_TIME",
        id,
        "sh",
        "-c",
        "id -u; id -G; echo $A$B; pwd; grep CapBnd /proc/self/status",
    ]);
    assert_eq!(ran.ok(), "7\n8 9\n12\n/srv\nCapBnd:\t0000000022000420");
    // By this code callers know that nothing has run.
    let missing = exec(&[id, "nope"]).failed(255);
    assert!(
        missing.contains("executable file not found in $PATH"),
        "{missing}"
    );

    let process = json!({"args": ["sh", "-c", "echo $0 $C; sleep 1000"], "env": ["PATH=/bin", "C=3"],
        "cwd": "/", "user": {"uid": 0, "gid": 0}});
    let file = bundle.path().join("process.json");
    fs::write(&file, process.to_string()).unwrap();
    let pid_file = bundle.path().join("exec.pid");
    let arguments = [
        "exec",
        "--detach",
        "--process",
        file.to_str().unwrap(),
        "--pid-file",
        pid_file.to_str().unwrap(),
        id,
    ];
    let _ = bundle.create(&arguments).ok();
    until("it has spoken", || bundle.output() == "sh 3\n");
    let pid = fs::read_to_string(&pid_file).unwrap();
    let processes: Vec<i32> =
        serde_json::from_str(&bundle.call(&["ps", "--format", "json", id]).ok()).unwrap();
    assert!(
        processes.contains(&pid.parse().unwrap()),
        "{processes:?} has no {pid}"
    );
    let table = bundle.call(&["ps", id]).ok();
    assert!(
        table.contains("sleep 1000") && table.starts_with("UID"),
        "{table}"
    );

    let _ = bundle.call(&["pause", id]).ok();
    assert_eq!(bundle.status(), "paused");
    let refused = exec(&[id, "true"]).failed(255);
    assert!(
        refused.contains("cannot exec in a paused container"),
        "{refused}"
    );
    let _ = bundle.call(&["resume", id]).ok();
    assert!(
        bundle
            .call(&["resume", id])
            .failed(1)
            .contains("container not paused")
    );
    let _ = bundle.call(&["kill", "--all", id, "9"]).ok();
    until("it has ended", || bundle.status() == "stopped");
    assert!(exec(&[id, "true"]).failed(255).contains("stopped"));
}

#[test]
fn exec_runs_on_the_processors_and_in_the_cgroup_that_are_asked_for() {
    requires!(root, cgroups);
    let bundle = running();
    let id = bundle.id.as_str();
    let process = json!({"args": ["grep", "Cpus_allowed_list", "/proc/self/status"],
        "env": ["PATH=/bin"], "cwd": "/", "execCPUAffinity": {"initial": "0", "final": "0"}});
    let file = bundle.path().join("process.json");
    fs::write(&file, process.to_string()).unwrap();
    let ran = bundle.call(&["exec", "-p", file.to_str().unwrap(), id]);
    assert_eq!(ran.ok(), "Cpus_allowed_list:\t0");
    let refused = bundle.call(&["exec", "--cgroup", "missing", id, "true"]);
    assert!(refused.failed(255).contains("the container has no cgroup"));
    for cgroup in bundle.cgroups() {
        let below = cgroup.join("below");
        fs::create_dir(&below).unwrap();
        for file in ["cpuset.cpus", "cpuset.mems"] {
            // On v1 nobody may enter while they are empty.
            if let Ok(above) = fs::read_to_string(cgroup.join(file)) {
                let _ = fs::write(below.join(file), above.trim());
            }
        }
    }
    let ran = bundle.call(&["exec", "--cgroup", "below", id, "cat", "/proc/self/cgroup"]);
    assert!(ran.ok().lines().all(|line| line.ends_with(":/below")));
}

#[test]
fn a_root_that_cannot_be_pivoted_to_is_entered_all_the_same() {
    requires!(root, cgroups);
    let bundle = bundle("ls /; ls /proc/1/root | head -n 1");
    let ran = bundle.call(&["run", "--no-pivot", &bundle.id]).ok();
    assert_eq!(ran, "bin\ndev\netc\nproc\nsrv\nsys\ntmp\nbin");
}

#[test]
fn what_is_not_there_to_be_had_is_refused_by_name() {
    requires!(root, cgroups);
    let refused = |change: fn(&mut Value)| {
        let bundle = bundle("true");
        bundle.change(change);
        let failed = bundle.call(&["run", &bundle.id]).failed(1);
        assert_eq!(bundle.call(&["list", "-q"]).ok(), "");
        failed
    };
    let mounts = refused(|config| {
        let list = config["linux"]["namespaces"].as_array_mut().unwrap();
        list.retain(|namespace| namespace["type"] != "mount");
        list.push(json!({"type": "mount", "path": "/proc/self/ns/mnt"}));
    });
    assert!(
        mounts.contains("joining a mount namespace is not supported"),
        "{mounts}"
    );
    let rdma = refused(|config| {
        config["linux"]["resources"]["rdma"] = json!({"boat": {"hcaHandles": 3}});
    });
    assert!(rdma.contains("rdma"), "{rdma}");
    let personality = refused(|config| {
        config["linux"]["personality"] = json!({"domain": "LINUX", "flags": ["BOAT"]});
    });
    assert!(
        personality.contains("linux.personality.flags"),
        "{personality}"
    );
    let version = refused(|config| config["ociVersion"] = "2.0.0".into());
    assert!(version.contains("unsupported spec version"), "{version}");
    let hook = refused(|config| {
        config["hooks"] = json!({"poststop": [{"path": "/bin/true", "timeout": 0}]});
    });
    assert!(hook.contains("must be greater than zero"), "{hook}");
    let process = refused(|config| config["process"] = Value::Null);
    assert!(
        process.contains("process property must not be empty"),
        "{process}"
    );
    let call = refused(|config| {
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_NOTIFY"});
    });
    assert!(
        call.contains("SCMP_ACT_NOTIFY cannot be used as default action"),
        "{call}"
    );
}

#[test]
fn limits_are_changed_and_use_is_told() {
    requires!(root, cgroups);
    let bundle = running();
    let id = bundle.id.as_str();
    let _ = bundle
        .call(&["update", "--memory", "64m", "--pids-limit", "9", id])
        .ok();
    let events = bundle.call(&["events", "--stats", id]).ok();
    let events: Value = serde_json::from_str(&events).unwrap();
    assert_eq!(events["type"], "stats");
    assert_eq!(events["data"]["memory"]["usage"]["limit"], 64 << 20);
    assert_eq!(events["data"]["pids"], json!({"current": 1, "limit": 9}));
    assert!(events["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
    let file = bundle.path().join("resources.json");
    fs::write(&file, r#"{"pids":{"limit":11},"memory":{}}"#).unwrap();
    let _ = bundle
        .call(&["update", "-r", file.to_str().unwrap(), id])
        .ok();
    let events = bundle.call(&["events", "--stats", id]).ok();
    assert!(events.contains(r#""limit":11"#), "{events}");
    let refused = bundle
        .call(&["update", "--cpuset-cpus", "9999", id])
        .failed(1);
    assert!(refused.contains("cpuset.cpus"), "{refused}");
}

#[test]
fn a_terminal_is_handed_over_at_the_console_socket() {
    requires!(root, cgroups);
    for users in [false, true] {
        let bundle = bundle("tty; exec sleep 1000");
        bundle.change(|config| {
            config["process"]["terminal"] = true.into();
            config["process"]["consoleSize"] = json!({"height": 33, "width": 99});
            if users {
                own_users(config, &bundle);
            }
        });
        let id = bundle.id.as_str();
        let refused = bundle.call(&["create", id]).failed(1);
        assert!(
            refused.contains("without setting console socket"),
            "{refused}"
        );
        let path = bundle.path().join("console");
        let listener = UnixListener::bind(&path).unwrap();
        let path = path.to_str().unwrap();
        let _ = bundle
            .create(&["create", "--console-socket", path, id])
            .ok();
        let terminal = receive_terminal(&listener);
        let size = rustix::termios::tcgetwinsize(&terminal).unwrap();
        assert_eq!((size.ws_row, size.ws_col), (33, 99));
        let _ = bundle.call(&["start", id]).ok();
        assert_eq!(first_line(&terminal), "/dev/pts/0");

        let process = json!({"args": ["tty"], "cwd": "/", "terminal": true, "env": ["PATH=/bin"]});
        let file = bundle.path().join("process.json");
        fs::write(&file, process.to_string()).unwrap();
        let file = file.to_str().unwrap();
        let _ = bundle
            .call(&["exec", "-d", "-p", file, "--console-socket", path, id])
            .ok();
        let terminal = receive_terminal(&listener);
        assert_eq!(first_line(&terminal), "/dev/pts/1");
    }
}

fn receive_terminal(listener: &UnixListener) -> OwnedFd {
    let (stream, _) = listener.accept().unwrap();
    let mut descriptors = Vec::new();
    receive_with_descriptors(stream.as_fd(), &mut [0; 64], &mut descriptors).unwrap();
    descriptors.pop().unwrap()
}

fn first_line(terminal: &OwnedFd) -> String {
    let mut file = fs::File::from(terminal.try_clone().unwrap());
    let mut text = String::new();
    let mut byte = [0];
    while file.read_exact(&mut byte).is_ok() && byte[0] != b'\n' {
        text.push(char::from(byte[0]));
    }
    text.trim_end().to_owned()
}

fn own_users(config: &mut Value, bundle: &Bundle) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.push(json!({"type": "user"}));
    let owner = std::process::Command::new("chown")
        .args(["-hR", "100000:100000"])
        .arg(bundle.rootfs())
        .status();
    assert!(owner.unwrap().success());
}

#[test]
fn namespaces_of_another_container_are_joined() {
    requires!(root, cgroups);
    for users in [false, true] {
        let first = bundle("exec sleep 1000");
        if users {
            first.change(|config| own_users(config, &first));
        }
        let _ = first.create(&["create", &first.id]).ok();
        let _ = first.call(&["start", &first.id]).ok();
        let state: Value = serde_json::from_str(&first.call(&["state", &first.id]).ok()).unwrap();
        let pid = &state["pid"];
        let kinds = ["pid", "network", "ipc", "uts", "cgroup", "user"];
        let files = ["pid", "net", "ipc", "uts", "cgroup", "user"];
        let second = bundle(
            "for n in pid net ipc uts cgroup user; do readlink /proc/self/ns/$n; done; ps | grep -c 'sleep 1000'",
        );
        second.change(|config| {
            if users {
                own_users(config, &second);
                config["linux"]["uidMappings"] = json!([]);
                config["linux"]["gidMappings"] = json!([]);
            }
            config["hostname"] = Value::Null;
            let list = config["linux"]["namespaces"].as_array_mut().unwrap();
            list.retain(|namespace| namespace["type"] == "mount");
            for (kind, file) in kinds.iter().zip(files) {
                if *kind != "user" || users {
                    list.push(json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
                }
            }
        });
        let seen = second.call(&["run", &second.id]).ok();
        let expected: Vec<String> = files
            .iter()
            .map(|file| {
                let link = fs::read_link(format!("/proc/{pid}/ns/{file}")).unwrap();
                link.to_str().unwrap().to_owned()
            })
            .collect();
        // Both the pattern's own process and the first container's are there to be seen.
        let lines: Vec<&str> = seen.lines().collect();
        assert_eq!(lines[..6], expected);
        assert_ne!(lines[6], "0");
        assert_eq!(first.status(), "running");
    }
}

#[test]
fn hooks_run_at_their_points_with_the_state() {
    requires!(root, cgroups);
    let bundle = bundle("echo program >> /srv/data/file; sleep 1000");
    let log = bundle.rootfs().join("srv/data/file");
    fs::write(&log, "").unwrap();
    let log_path = log.to_str().unwrap();
    bundle.change(|config| {
        config["root"]["readonly"] = false.into();
        let hook = |name: &str, file: &str, more: &str| {
            let line = format!(
                "echo {name} $(cat /proc/sys/kernel/hostname) $(sed 's/.*\"status\":\"\\([a-z]*\\)\".*/\\1/') {more} >> {file}"
            );
            json!([{"path": "/bin/sh", "args": ["sh", "-c", line], "env": ["PATH=/usr/bin:/bin"]}])
        };
        config["hooks"] = json!({
            "prestart": hook("prestart", log_path, ""),
            "createRuntime": hook("createRuntime", log_path, ""),
            // What it mounts is seen in the container, and nowhere else.
            "createContainer": hook("createContainer", log_path,
                &format!("$(mount -t tmpfs hook {}/tmp && echo mounted)", bundle.rootfs().display())),
            "startContainer": hook("startContainer", "/srv/data/file", "$(id -u)"),
            "poststart": hook("poststart", log_path, ""),
            "poststop": hook("poststop", log_path, ""),
        });
        config["hostname"] = "boat".into();
        config["annotations"] = json!({"a": "b"});
    });
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = host.trim();
    let _ = bundle.create(&["create", &bundle.id]).ok();
    let before = format!(
        "prestart {host} creating\ncreateRuntime {host} creating\ncreateContainer boat creating mounted\n"
    );
    assert_eq!(fs::read_to_string(&log).unwrap(), before);
    let _ = bundle.call(&["start", &bundle.id]).ok();
    let words = || -> Vec<String> {
        let text = fs::read_to_string(&log).unwrap();
        text.lines().map(str::to_owned).collect()
    };
    until("the program has spoken", || {
        words().contains(&"program".to_owned())
    });
    assert_eq!(words()[3], "startContainer boat created 0");
    assert!(words().contains(&format!("poststart {host} running")));
    let seen = bundle.call(&[
        "exec",
        &bundle.id,
        "grep",
        "-c",
        "hook /tmp",
        "/proc/mounts",
    ]);
    assert_eq!(seen.ok(), "1");
    let _ = bundle.call(&["delete", "--force", &bundle.id]).ok();
    assert_eq!(words().last().unwrap(), &format!("poststop {host} stopped"));
    assert!(
        !fs::read_to_string("/proc/mounts")
            .unwrap()
            .contains("hook /")
    );
}

#[test]
fn a_hook_that_fails_or_takes_too_long_ends_the_container() {
    requires!(root, cgroups);
    for (point, arguments, words) in [
        (
            "createRuntime",
            json!(["sh", "-c", "echo because >&2; exit 3"]),
            "exit status 3, output: because",
        ),
        (
            "createContainer",
            json!(["sh", "-c", "exit 4"]),
            "exit status 4",
        ),
        (
            "prestart",
            json!(["sh", "-c", "sleep 1000"]),
            "hook ran past specified timeout",
        ),
    ] {
        let bundle = bundle("true");
        bundle.change(|config| {
            config["hooks"] = json!({point: [{"path": "/bin/sh", "args": arguments, "timeout": 1,
                "env": ["PATH=/usr/bin:/bin"]}]});
        });
        let failed = bundle.create(&["create", &bundle.id]);
        assert_eq!(failed.code, 1);
        let named = format!("error running {point} hook #0: {words}");
        assert!(failed.stdout.contains(&named), "{}", failed.stdout);
        let _ = bundle.call(&["state", &bundle.id]).failed(1);
        assert!(bundle.cgroups().is_empty());
    }
}

#[test]
fn an_agent_is_asked_about_system_calls() {
    requires!(root, cgroups);
    let bundle = bundle("mkdir /tmp/asked; echo $?");
    let path = bundle.path().join("agent");
    let listener = UnixListener::bind(&path).unwrap();
    bundle.change(|config| {
        config["root"]["readonly"] = false.into();
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": path, "listenerMetadata": "words",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        });
    });
    let agent = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut descriptors = Vec::new();
        let mut buffer = [0; 64 * 1024];
        let length =
            receive_with_descriptors(stream.as_fd(), &mut buffer, &mut descriptors).unwrap();
        // To close it is to answer ENOSYS to whoever asks.
        drop(descriptors.pop().unwrap());
        let told: Value = serde_json::from_slice(&buffer[..length]).unwrap();
        told
    });
    let ran = bundle.call(&["run", &bundle.id]);
    assert_eq!(ran.stdout, "1\n");
    assert!(
        ran.stderr.contains("Function not implemented"),
        "{}",
        ran.stderr
    );
    let told = agent.join().unwrap();
    assert_eq!(told["fds"], json!(["seccompFd"]));
    assert_eq!(told["metadata"], "words");
    assert_eq!(told["state"]["id"], bundle.id);
    assert!(told["pid"].as_i64().unwrap() > 1);
    // Without anybody to ask the program does not run.
    fs::remove_file(&path).unwrap();
    let failed = bundle.call(&["run", &bundle.id]).failed(1);
    assert!(failed.contains("seccomp agent"), "{failed}");
}

#[test]
fn a_maker_that_is_killed_leaves_what_delete_takes_away() {
    requires!(root, cgroups);
    let bundle = bundle("true");
    // The hook keeps the maker where it has a child and a cgroup and no record of the child.
    bundle.change(|config| {
        config["hooks"] = json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"],
            "env": ["PATH=/bin"]}]});
    });
    let mut maker = bundle.command(&["create", &bundle.id]);
    let output = fs::File::create(bundle.path().join("output")).unwrap();
    let mut maker = maker
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap();
    until("it is being made", || {
        let state = bundle.call(&["state", &bundle.id]);
        state.code == 0 && state.stdout.contains("creating") && hook_of(maker.id()).is_some()
    });
    let hook = hook_of(maker.id()).unwrap();
    maker.kill().unwrap();
    maker.wait().unwrap();
    rustix::process::kill_process(hook, rustix::process::Signal::KILL).unwrap();
    assert_eq!(bundle.status(), "stopped");
    let _ = bundle.call(&["delete", "--force", &bundle.id]).ok();
    let _ = bundle.call(&["state", &bundle.id]).failed(1);
    assert!(bundle.cgroups().is_empty());
}

/// The process of a maker that runs a hook.
fn hook_of(maker: u32) -> Option<rustix::process::Pid> {
    let children = fs::read_to_string(format!("/proc/{maker}/task/{maker}/children")).ok()?;
    children.split_whitespace().find_map(|pid| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        let is_hook = command.starts_with("sleep");
        is_hook.then(|| rustix::process::Pid::from_raw(pid.parse().ok()?))?
    })
}

#[test]
fn a_damaged_record_is_taken_away_by_force() {
    requires!(root, cgroups);
    let bundle = bundle("true");
    bundle.change(|config| {
        // Where nothing is known of a container its cgroup is the one that it has by default.
        config["linux"]
            .as_object_mut()
            .unwrap()
            .remove("cgroupsPath");
    });
    let _ = bundle.create(&["create", &bundle.id]).ok();
    let record = bundle
        .path()
        .join("state")
        .join(&bundle.id)
        .join("record.json");
    let text = fs::read_to_string(&record)
        .unwrap()
        .replace("rootfs", "rootfz");
    fs::write(&record, text).unwrap();
    let damaged = bundle.call(&["state", &bundle.id]).failed(1);
    assert!(damaged.contains("checksum does not match"), "{damaged}");
    let _ = bundle.call(&["delete", &bundle.id]).failed(1);
    let _ = bundle.call(&["delete", "--force", &bundle.id]).ok();
    assert_eq!(bundle.call(&["list", "-q"]).ok(), "");
}

#[test]
fn the_runtime_s_own_executable_cannot_be_written_from_inside() {
    requires!(root, cgroups);
    let bundle = bundle("true");
    bundle.change(|config| {
        config["process"]["args"] = json!(["/proc/self/exe", "--version"]);
        config["root"]["readonly"] = false.into();
    });
    let before = fs::read(SAMPAN).unwrap();
    assert!(
        bundle
            .call(&["run", &bundle.id])
            .ok()
            .contains("sampan-runtime version")
    );
    // The program is the runtime's own, and somebody inside tries to write to it.
    bundle.change(|config| config["process"]["args"] = json!(["sleep", "1000"]));
    let _ = bundle.create(&["create", &bundle.id]).ok();
    let _ = bundle.call(&["start", &bundle.id]).ok();
    let listening = "exec 7</proc/self/exe; /proc/self/exe true; ls -l /proc/1/exe >/dev/null; \
                     echo x 2>/dev/null > /proc/1/exe || echo refused";
    assert_eq!(
        bundle
            .call(&["exec", &bundle.id, "sh", "-c", listening])
            .stdout
            .lines()
            .last(),
        Some("refused")
    );
    assert_eq!(fs::read(SAMPAN).unwrap(), before);
}

#[test]
fn descriptors_are_preserved_and_others_are_not() {
    requires!(root, cgroups);
    let bundle = bundle("cat <&3; ls /proc/self/fd | tr '\\n' ' '");
    fs::write(bundle.path().join("file"), "kept ").unwrap();
    let line = format!(
        "exec 3<file 4<file 9<file; exec {SAMPAN} --root {} run --preserve-fds 1 {}",
        bundle.path().join("state").display(),
        bundle.id
    );
    let ran = sampan_testing::run_in(bundle.path(), "sh", &["-c", &line]);
    // The last is the one that ls has open on the directory itself.
    assert_eq!(ran.ok(), "kept 0 1 2 3 4 ");
}

#[test]
fn what_the_runtime_says_of_itself() {
    requires!(root, cgroups);
    let bundle = Bundle::new(SAMPAN);
    let features: Value = serde_json::from_str(&bundle.call(&["features"]).ok()).unwrap();
    assert_eq!(features["ociVersionMax"], "1.2.1");
    assert_eq!(
        features["linux"]["mountExtensions"]["idmap"]["enabled"],
        true
    );
    let table = bundle.call(&["list"]).ok();
    assert!(
        table.starts_with("ID          PID         STATUS"),
        "{table}"
    );
    assert_eq!(bundle.call(&["list", "-f", "json"]).ok(), "null");
    let refused = bundle.call(&["spec"]).failed(1);
    assert!(refused.contains("exists. Remove it first"), "{refused}");
    let version = bundle.call(&["--version"]).ok();
    assert!(version.contains("\nspec: 1.2.1"), "{version}");
    // Usage is an error of its own.
    let _ = bundle.call(&["nonsense"]).failed(1);
}
