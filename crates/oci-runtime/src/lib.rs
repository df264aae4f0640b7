//! The OCI runtime as a command line: `sampan-runtime`, and `sampan runtime`.
//!
//! The flags, exit codes and sentences are runc's, because podman, containerd and Docker read
//! them. The work is done by [`sampan_runtime`]; here a container outlives the process that made
//! it, and what is known of it lies on disk.
//!
//! What the crate must not know: images, networks, the engine.
//!
//! ```text
//! ROOT/<id>/record.json   what the container was made of, checksummed, replaced whole
//! ROOT/<id>/start.sock    where its first process waits to be started; gone from then on
//! ROOT/<id>/lock          held by whoever starts or deletes it
//! ```
//!
//! Killed at any point, what there is of a container is found by its record and its cgroup, and
//! `delete --force` takes it away.

mod arguments;
mod bundle;
mod commands;
mod console;
mod container;
mod foreground;
mod log;
mod record;
mod reexec;
mod scope;

use std::ffi::OsString;
use std::process::ExitCode;

use arguments::{Global, Invocation};
use log::Log;

/// Runs the command line that follows the program's name. `name` is what the program is called
/// in messages.
#[must_use]
pub fn main(name: &'static str, arguments: Vec<OsString>) -> ExitCode {
    let Invocation { global, command } = match arguments::parse(name, arguments) {
        Ok(invocation) => invocation,
        Err(error) => {
            // Nobody is left to tell when the streams are gone.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let log = match Log::open(&global) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let failed = match prepare(&global).and_then(|()| commands::run(&global, &log, command)) {
        Ok(code) => return ExitCode::from(code),
        Err(failed) => failed,
    };
    log.error(&format!("{:#}", failed.error));
    ExitCode::from(failed.code)
}

fn prepare(global: &Global) -> Result<(), Failed> {
    if global.systemd_cgroup && !sampan_systemd::is_running() {
        return Err(anyhow::anyhow!(
            "systemd cgroup flag passed, but systemd support for managing cgroups is not \
             available: this system does not run systemd; leave --systemd-cgroup out"
        )
        .into());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(anyhow::anyhow!(
            "must be run as root: containers without root are not supported"
        )
        .into());
    }
    Ok(())
}

/// A failure and the exit code that follows.
#[derive(Debug)]
struct Failed {
    code: u8,
    error: anyhow::Error,
}

impl<E: Into<anyhow::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self {
            code: 1,
            error: error.into(),
        }
    }
}
