//! Process 1 of a container with `--init`: forwards signals, reaps orphans, ends as its child does.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::process::{Command, ExitCode};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process};
use sampan_kernel::{pidfd, signalfd, signals};

/// Runs the command after an optional `--`.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    let command = match arguments {
        [first, rest @ ..] if first == "--" => rest,
        all => all,
    };
    let [program, rest @ ..] = command else {
        eprintln!("docker-init: no command");
        return ExitCode::from(2);
    };
    match supervise(program, rest) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("docker-init: exec {} failed: {error}", program.display());
            ExitCode::from(match error.kind() {
                io::ErrorKind::NotFound => 127,
                io::ErrorKind::PermissionDenied => 126,
                _ => 1,
            })
        }
    }
}

fn supervise(program: &OsString, arguments: &[OsString]) -> io::Result<u8> {
    if !getpid().is_init() {
        // Without a PID namespace of its own, orphans come here only by asking for them.
        rustix::process::set_child_subreaper(Some(getpid()))?;
    }
    // Before the child is there, so that no signal falls between.
    signals::block_all()?;
    let pending = signalfd::descriptor_of_all()?;
    let mut command = Command::new(program);
    command.args(arguments);
    let child = signalfd::in_foreground(&mut command).spawn()?;
    let child = Pid::from_child(&child);
    loop {
        poll(&mut [PollFd::new(&pending, PollFlags::IN)], None)?;
        while let Some(number) = signalfd::take(pending.as_fd())? {
            if number == Signal::CHILD.as_raw() {
                if let Some(code) = reap(child)? {
                    return Ok(code);
                }
            } else if let Some(signal) = pidfd::signal(number) {
                // The child may be gone, which the next SIGCHLD tells.
                let _ = kill_process(child, signal);
            }
        }
    }
}

/// Takes away every zombie; the exit code once `child` is among them.
fn reap(child: Pid) -> io::Result<Option<u8>> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == child => {
                let code = status
                    .exit_status()
                    .or_else(|| status.terminating_signal().map(|signal| 128 + signal));
                return Ok(Some(u8::try_from(code.unwrap_or(255)).unwrap_or(255)));
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
}
