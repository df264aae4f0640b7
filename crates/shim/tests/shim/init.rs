//! The executable's other face.

use std::process::Command;

use crate::harness::{Shim, eventually, executable};
use crate::needs_containers;

/// Before Linux 6.15 the engine hands the init over, attached somewhere: what is attached nowhere
/// cannot be bound there.
macro_rules! needs_own_init {
    () => {
        needs_containers!();
        if !sampan_kernel::requires::kernel_at_least(6, 15) {
            eprintln!("SKIP: on this kernel the engine hands the init over");
            return;
        }
    };
}

#[test]
fn its_exit_code_is_the_commands() {
    let run = |command: &[&str]| {
        let output = Command::new(executable())
            .args(["init", "--"])
            .args(command)
            .output()
            .unwrap();
        output.status.code()
    };
    assert_eq!(run(&["/bin/busybox", "sh", "-c", "exit 9"]), Some(9));
    assert_eq!(run(&["/bin/busybox", "sh", "-c", "kill -9 $$"]), Some(137));
    assert_eq!(run(&["/nothing/here"]), Some(127));
    assert_eq!(run(&["/etc/passwd"]), Some(126));
    assert_eq!(run(&[]), Some(2));
}

#[test]
fn as_process_1_it_reaps_and_forwards_signals() {
    needs_own_init!();
    let script = "trap 'echo got TERM; exit 5' TERM; \
        for i in 1 2 3; do sh -c 'sleep 0.05 &'; done; sleep 0.5; \
        ps -o stat,comm | grep -c ^Z; tr '\\000' ' ' </proc/1/cmdline | head -c 28; echo; echo ready; \
        while :; do sleep 0.01; done";
    let mut shim = Shim::new(script);
    shim.launch.init = true;
    shim.start();
    eventually("it is ready", || shim.log().ends_with(b"ready\n"));
    assert!(
        shim.log().starts_with(b"0\n/sbin/docker-init -- /bin/sh\n"),
        "{}",
        String::from_utf8_lossy(&shim.log())
    );
    shim.signal(15);
    assert_eq!(shim.exited().code, 5);
    assert!(shim.log().ends_with(b"got TERM\n"));
    shim.release();
}

#[test]
fn its_executable_cannot_be_written_from_inside() {
    needs_own_init!();
    let script = "(echo x >/proc/1/exe) 2>/dev/null && echo written; \
        (echo x >>/sbin/docker-init) 2>/dev/null && echo written; exit 0";
    let mut shim = Shim::new(script);
    shim.launch.init = true;
    shim.start();
    assert_eq!(shim.exited().code, 0);
    assert_eq!(shim.log(), b"");
    shim.release();
}

#[test]
fn without_it_signals_end_a_command_only_as_the_kernel_allows() {
    needs_own_init!();
    let mut shim = Shim::with_command(&["/bin/sleep", "1000"]);
    shim.launch.init = true;
    shim.start();
    // Under the init the command is not process 1, so that the default action applies.
    std::thread::sleep(std::time::Duration::from_millis(100));
    shim.signal(15);
    assert_eq!(shim.exited().code, 143);
    shim.release();
}
