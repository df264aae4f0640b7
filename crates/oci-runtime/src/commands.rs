//! One file per command, or per few that belong together.

mod create;
mod delete;
mod events;
mod exec;
mod features;
mod list;
mod process;
mod spec;
mod update;

use std::path::Path;

use anyhow::{Context as _, bail};
use sampan_oci::runtime::Status;

use crate::Failed;
use crate::arguments::{Call, Global};
use crate::bundle::Manager;
use crate::container::Container;
use crate::log::Log;
use crate::reexec;

/// Runs a command; gives the exit code.
pub(crate) fn run(global: &Global, log: &Log, call: Call) -> Result<u8, Failed> {
    let root = global.root.as_path();
    let manager = if global.systemd_cgroup {
        Manager::Systemd
    } else {
        Manager::Cgroupfs
    };
    match call {
        Call::Create(create) => {
            reexec::from_read_only()?;
            create::create(root, log, &create, manager)?;
        }
        Call::Start(id) => create::start(root, log, &id)?,
        Call::Run(run) => {
            reexec::from_read_only()?;
            return Ok(create::run(root, log, &run, manager)?);
        }
        Call::State(id) => list::state(root, &id)?,
        Call::Kill { id, signal, all } => process::kill(root, &id, &signal, all)?,
        Call::Delete { id, force } => delete::delete(root, log, &id, force)?,
        Call::Exec(exec) => {
            let done = reexec::from_read_only().and_then(|()| exec::exec(root, &exec));
            // By this code callers tell that the process has not run.
            return done.map_err(|error| Failed {
                code: 255,
                error: error.context("exec failed"),
            });
        }
        Call::List { json, quiet } => list::list(root, json, quiet)?,
        Call::Ps { id, json, options } => process::ps(root, &id, json, &options)?,
        Call::Pause(id) => pause(root, &id)?,
        Call::Resume(id) => resume(root, &id)?,
        Call::Update(update) => update::update(root, &update)?,
        Call::Events {
            id,
            stats,
            interval,
        } => events::events(root, &id, stats, interval)?,
        Call::Features => features::features()?,
        Call::Spec { bundle, rootless } => spec::spec(bundle.as_deref(), rootless)?,
        Call::Unsupported(name) => {
            return Err(anyhow::anyhow!(
                "{name} is not supported: a container's processes cannot be saved"
            )
            .into());
        }
    }
    Ok(0)
}

fn pause(root: &Path, id: &str) -> anyhow::Result<()> {
    let container = Container::open(root, id)?;
    match container.status()? {
        Status::Running | Status::Created => Ok(container.running()?.pause()?),
        status => bail!("container not running: it is {status}"),
    }
}

fn resume(root: &Path, id: &str) -> anyhow::Result<()> {
    let container = Container::open(root, id)?;
    match container.status()? {
        Status::Paused => Ok(container.running()?.resume()?),
        status => bail!("container not paused: it is {status}"),
    }
}

/// Prints a value as runc does: JSON, indented.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Writes to standard output; a reader that has gone is an error like any other.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut output = std::io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .context("cannot write to standard output")
}
