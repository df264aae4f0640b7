//! From start to exit.

use std::collections::BTreeMap;

use sampan_oci::runtime::{LinuxResources, MemoryResources};
use sampan_shim_protocol::{
    Event, FailureKind, LaunchDescriptors, Reply, Request, StartFailureKind, Status,
};

use crate::harness::{SOON, Shim, eventually, framed};
use crate::needs_containers;

#[test]
fn output_log_and_exit_are_complete() {
    needs_containers!();
    let mut shim = Shim::new("echo out; echo err >&2; printf partial; exit 7");
    shim.launch.auto_remove = false;
    shim.launch.log.attrs = BTreeMap::from([("tag".into(), "x".into())]);
    let mut descriptors = LaunchDescriptors::default();
    let attached = shim.attach_early(&mut descriptors, framed());
    let pid = shim.start_with(descriptors);
    assert!(pid > 0);
    let exit = shim.exited();
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (7, None, false));
    assert!(exit.started_at < exit.finished_at);
    assert_eq!(shim.exit_file(), Some(exit.clone()));
    let (out, err) = attached.rest();
    assert_eq!(out, b"out\npartial");
    assert_eq!(err, b"err\n");
    let mut entries = shim.log_entries();
    entries.sort();
    assert_eq!(entries, [&b"err\n"[..], b"out\n", b"partial"]);
    let state = shim.state();
    assert_eq!((state.status, state.exit), (Status::Exited, Some(exit)));
    let journal = shim.launch.directory.join("shim/journal.jsonl");
    let journal = std::fs::read_to_string(journal).unwrap();
    assert_eq!(journal.lines().count(), 2, "{journal}");
    shim.release();
}

#[test]
fn steps_are_told_before_the_end_where_asked_for() {
    needs_containers!();
    let mut shim = Shim::with_command(&["/bin/true"]);
    shim.launch.note_steps = true;
    shim.start();
    let first = shim.client.wait_event(SOON).unwrap();
    let Event::Steps(steps) = first else {
        panic!("{first:?}");
    };
    let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names.first(), Some(&"launch heard"));
    assert_eq!(names.last(), Some(&"exit written"));
    assert!(names.contains(&"program runs"), "{names:?}");
    let times: Vec<jiff::Timestamp> = steps.iter().map(|step| step.at.parse().unwrap()).collect();
    assert!(times.is_sorted(), "{steps:?}");
    assert_eq!(shim.exited().code, 0);
    shim.release();
}

#[test]
fn a_signal_ends_it_with_128_and_its_number() {
    needs_containers!();
    let mut shim = Shim::with_command(&["/bin/sleep", "1000"]);
    shim.start();
    shim.signal(9);
    let exit = shim.exited();
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    shim.release();
}

#[test]
fn what_cannot_be_run_is_told_with_its_exit_code() {
    needs_containers!();
    for (command, kind, code) in [
        ("nothing-here", StartFailureKind::CommandNotFound, 127),
        ("/nothing/here", StartFailureKind::CommandNotFound, 127),
        ("/etc", StartFailureKind::NotExecutable, 126),
    ] {
        let mut shim = Shim::with_command(&[command]);
        let mut descriptors = LaunchDescriptors::default();
        let attached = shim.attach_early(&mut descriptors, framed());
        match shim.try_start(descriptors) {
            Reply::StartFailed(failure) => {
                assert_eq!((failure.kind, failure.exit_code), (kind, code), "{failure}");
                assert!(failure.message.contains(command), "{failure}");
            }
            other => panic!("{other:?}"),
        }
        shim.ends();
        assert_eq!(attached.rest(), (Vec::new(), Vec::new()));
    }
}

#[test]
fn the_end_of_the_first_process_ends_all() {
    needs_containers!();
    let mut shim = Shim::new("sleep 1000 & sleep 1001 & sleep 0.2; exit 4");
    shim.start();
    let (reply, attached) = shim.exec("e", &["/bin/sleep", "1002"], false, false);
    let Reply::ExecStarted { pid } = reply else {
        panic!("{reply:?}");
    };
    let exec = shim.exec_ended("e");
    assert_eq!(exec.exit_code, Some(137));
    assert_eq!(shim.exited().code, 4);
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    attached.rest();
    shim.release();
}

#[test]
fn the_end_of_the_first_process_ends_all_in_a_shared_pid_namespace_too() {
    needs_containers!();
    let mut shim = Shim::new("sh -c 'sleep 1003 & sleep 1004 &'; sleep 1005 & echo $!; exit 4");
    let linux = shim.launch.spec.linux.as_mut().unwrap();
    linux
        .namespaces
        .retain(|namespace| namespace.kind != sampan_oci::runtime::NamespaceKind::Pid);
    shim.start();
    assert_eq!(shim.exited().code, 4);
    let pid = String::from_utf8(shim.log()).unwrap();
    let stat = std::path::PathBuf::from(format!("/proc/{}/stat", pid.trim()));
    assert!(!stat.exists(), "a process or its zombie is left");
    shim.release();
}

#[test]
fn strays_that_hold_the_output_do_not_hold_up_the_exit() {
    needs_containers!();
    // The harness keeps a copy of the container's standard output by way of /proc.
    let mut shim = Shim::new("sleep 0.5; echo last; exit 0");
    let pid = shim.start();
    let kept = std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/fd/1"))
        .unwrap();
    assert_eq!(shim.exited().code, 0);
    assert_eq!(shim.log(), b"last\n");
    drop(kept);
    shim.release();
}

#[test]
fn a_paused_container_stands_still() {
    needs_containers!();
    let mut shim = Shim::new("while :; do echo x; sleep 0.01; done");
    shim.start();
    eventually("output", || !shim.log().is_empty());
    assert!(matches!(shim.call(&Request::Pause), Reply::Done));
    assert_eq!(shim.state().status, Status::Paused);
    let (reply, _attached) = shim.exec("e", &["/bin/true"], false, false);
    assert!(matches!(reply, Reply::Error(failure) if failure.kind == FailureKind::Paused));
    std::thread::sleep(std::time::Duration::from_millis(50));
    let before = shim.log().len();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(shim.log().len(), before);
    assert!(matches!(shim.call(&Request::Resume), Reply::Done));
    eventually("more output", || shim.log().len() > before);
    assert!(matches!(shim.call(&Request::Pause), Reply::Done));
    shim.signal(9);
    assert_eq!(shim.exited().code, 137);
    shim.release();
}

#[test]
fn want_of_memory_is_told() {
    needs_containers!();
    let mut shim = Shim::new("tail /dev/zero");
    shim.launch.spec.linux.as_mut().unwrap().resources = Some(LinuxResources {
        memory: Some(MemoryResources {
            limit: Some(8 << 20),
            swap: Some(8 << 20),
            ..MemoryResources::default()
        }),
        ..LinuxResources::default()
    });
    shim.start();
    let exit = shim.exited();
    assert!(exit.oom_killed);
    assert_eq!(exit.code, 137);
    shim.release();
}

#[test]
fn a_stale_exit_file_is_taken_away_at_the_start() {
    needs_containers!();
    let mut shim = Shim::new("sleep 1000");
    let directory = shim.launch.directory.join("shim");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("exit.json"), "{}").unwrap();
    shim.start();
    assert!(!directory.join("exit.json").exists());
    shim.signal(9);
    shim.exited();
    shim.release();
}

#[test]
fn the_shim_keeps_nothing_of_who_started_it() {
    needs_containers!();
    let mut shim = Shim::new("cat /proc/self/oom_score_adj; ls /proc/self/fd | wc -l");
    let id = shim.child.id();
    shim.start();
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<_> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    assert_eq!(fields[3], id.to_string(), "it leads its session");
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let score = std::fs::read_to_string(format!("/proc/{id}/oom_score_adj")).unwrap();
    if may_lower_oom_score() {
        assert_eq!(score.trim(), "-999");
    } else {
        assert_eq!(score, own);
    }
    shim.exited();
    // Standard streams and the directory that is listed.
    assert_eq!(shim.log(), format!("{}\n4\n", own.trim()).as_bytes());
    shim.release();
}

/// Containers of test machines often lack `CAP_SYS_RESOURCE`.
fn may_lower_oom_score() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("CapEff:"))
        .unwrap();
    let mask = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
    mask >> CAP_SYS_RESOURCE & 1 == 1
}

#[test]
fn a_shim_without_a_launch_ends_with_its_engine() {
    let (client, mut child) =
        sampan_shim_protocol::Client::spawn(crate::harness::executable(), "none").unwrap();
    drop(client);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_second_launch_and_an_early_release_are_refused() {
    needs_containers!();
    let mut shim = Shim::new("sleep 1000");
    shim.start();
    let reply = shim.try_start(LaunchDescriptors::default());
    assert!(matches!(reply, Reply::Error(failure) if failure.kind == FailureKind::Exists));
    let reply = shim.call(&Request::Release);
    assert!(matches!(reply, Reply::Error(failure) if failure.kind == FailureKind::Invalid));
    shim.signal(9);
    shim.exited();
    let reply = shim.call(&Request::Signal {
        signal: 9,
        all: true,
        last: false,
    });
    assert!(matches!(reply, Reply::Error(failure) if failure.kind == FailureKind::NotRunning));
    shim.release();
}

#[test]
fn a_program_finds_its_signals_as_usual() {
    needs_containers!();
    const COMMAND: [&str; 4] = ["/bin/grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"];
    let mut shim = Shim::new(&format!(
        "{} '{}' {}; sleep 1000",
        COMMAND[..2].join(" "),
        COMMAND[2],
        COMMAND[3]
    ));
    shim.start();
    eventually("output", || shim.log_entries().len() == 2);
    let (_, client) = shim.exec("e", &COMMAND, false, false);
    for text in [client.text(), String::from_utf8(shim.log()).unwrap()] {
        for line in text.lines() {
            let mask = line.split_whitespace().nth(1).unwrap();
            // 32 and 33 are glibc's own; its posix_spawn leaves them ignored.
            let mask = u64::from_str_radix(mask, 16).unwrap() & !(3 << 31);
            assert_eq!(mask, 0, "{line}");
        }
    }
    shim.signal(9);
    shim.exited();
    shim.release();
}

#[test]
fn a_shim_that_waits_uses_no_time() {
    needs_containers!();
    // Ends that have come and ends that have not, of every kind of descriptor.
    let mut shim = Shim::new("exec >&- 2>&- <&-; sleep 1000");
    shim.launch.open_stdin = true;
    shim.launch.stdin_once = true;
    shim.start();
    let mut half_closed = shim.attach(framed());
    half_closed.end_input();
    let _open = shim.attach(framed());
    drop(shim.attach(framed()));
    let (_, _silent) = shim.exec("silent", &["/bin/sleep", "1000"], true, false);
    let (_, mut typing) = shim.exec(
        "tty",
        &["/bin/sh", "-c", "exec >&- 2>&- <&-; sleep 1000"],
        true,
        true,
    );
    typing.send("unread\n");
    let (_, full) = shim.exec("full", &["/bin/yes"], false, false);
    let (_, gone) = shim.exec("gone", &["/bin/sleep", "1000"], false, false);
    drop(gone);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let ticks = |shim: &Shim| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", shim.child.id())).unwrap();
        let fields: Vec<_> = stat
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks(&shim);
    std::thread::sleep(std::time::Duration::from_millis(700));
    let used = ticks(&shim) - before;
    assert!(used <= 2, "{used} ticks");
    // What waits for it would be waited for beyond the end.
    drop(full);
    shim.signal(9);
    assert_eq!(shim.exited().code, 137);
    shim.release();
}

#[test]
fn the_shim_moves_to_the_cgroup_it_is_given() {
    needs_containers!();
    let mut shim = Shim::new("sleep 1000");
    let path = shim.launch.cgroup.replace("/container", "/shims");
    shim.launch.shim_cgroup = Some(path.clone());
    shim.start();
    let id = shim.child.id();
    let own = std::fs::read_to_string(format!("/proc/{id}/cgroup")).unwrap();
    let mut named = 0;
    for line in own.lines() {
        let (hierarchy, place) = line.rsplit_once(':').unwrap();
        if hierarchy.ends_with(':') || hierarchy.contains("name=") {
            assert_eq!(place, format!("/{path}"), "{line}");
            named += 1;
        } else {
            assert_eq!(place, "/", "{line}");
        }
    }
    assert!(named > 0);
    shim.signal(9);
    shim.exited();
    shim.release();
    let hierarchies = sampan_cgroups::Hierarchies::detect().unwrap();
    for hierarchy in hierarchies.all() {
        let directory = hierarchy.mount_point.join(&path);
        eventually("the cgroup is empty", || {
            !directory.exists() || std::fs::remove_dir(&directory).is_ok()
        });
    }
    let parent = path.rsplit_once('/').unwrap().0.parse().unwrap();
    sampan_cgroups::remove_parent(&hierarchies, &parent);
}

#[test]
fn twenty_shims_need_little_memory() {
    needs_containers!();
    let mut shims: Vec<Shim> = (0..20)
        .map(|_| {
            let mut shim = Shim::with_command(&["/bin/sleep", "1000"]);
            shim.start();
            shim
        })
        .collect();
    let sum = |field| {
        let sum: u64 = shims
            .iter()
            .map(|shim| shim.memory("smaps_rollup", field))
            .sum();
        sum / 20
    };
    let (proportional, private) = (sum("Pss:"), sum("Private_Dirty:"));
    println!("each of 20 shims: PSS {proportional} kB, private dirty {private} kB");
    assert!(proportional <= 700, "{proportional} kB");
    for shim in &mut shims {
        shim.signal(9);
    }
    for mut shim in shims {
        assert_eq!(shim.exited().code, 137);
        shim.release();
    }
}
