//! `create`, `start` and `run`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{PidfdFlags, pidfd_open};
use sampan_oci::runtime::Status;
use sampan_runtime::{Created, Gate, start_at};

use crate::arguments::{Create, Run};
use crate::bundle::{Manager, Place};
use crate::container::Container;
use crate::foreground::{self, Signals};
use crate::log::Log;
use crate::record::{Directory, Process, Record};
use crate::scope::HeldScope;
use crate::{bundle, console};

pub(crate) fn create(root: &Path, log: &Log, create: &Create, manager: Manager) -> Result<()> {
    let made =
        make(root, log, create, manager, Detach::Yes).context("sampan-runtime create failed")?;
    made.created.leave();
    Ok(())
}

/// Whether the container goes on without this process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Detach {
    Yes,
    No,
}

struct Made {
    created: Created,
    /// This end of its terminal, where nobody else has it.
    terminal: Option<OwnedFd>,
    container: Container,
}

/// Makes a container and its record; when it fails nothing is left.
fn make(root: &Path, log: &Log, create: &Create, manager: Manager, detach: Detach) -> Result<Made> {
    let on_disk = bundle::read(create.bundle.as_deref())?;
    let process = on_disk.spec.process.as_ref();
    let terminal = process
        .context("process property must not be empty")?
        .terminal;
    let socket = create.console_socket.as_deref();
    console::check(terminal, detach == Detach::Yes, socket)?;
    let place = bundle::place(&on_disk.spec, &create.id, manager)?;
    let directory = Directory::create(root, &create.id)?;
    let record = Record {
        id: create.id.clone(),
        bundle: on_disk.directory,
        rootfs: on_disk.rootfs,
        created: jiff::Timestamp::now().to_string(),
        cgroup: place.cgroup().to_string(),
        default_cgroup: place.is_default(),
        scope: place.scope().map(|scope| scope.name().to_owned()),
        keyring: (!create.no_new_keyring).then(|| format!("_ses.{}", create.id)),
        spec: on_disk.spec,
        maker: Process::own()?,
        init: None,
    };
    let written = directory.write(&record);
    let mut container = Container::of(directory, record)?;
    let made = written.and_then(|()| make_in(&mut container, create, &place));
    match made {
        Ok((created, terminal)) => Ok(Made {
            created,
            terminal,
            container,
        }),
        Err(error) => {
            // The first error is the one that explains.
            if let Err(error) = container.destroy(log) {
                log.debug(&format!("{error:#}"));
            }
            Err(error)
        }
    }
}

fn make_in(
    container: &mut Container,
    create: &Create,
    place: &Place,
) -> Result<(Created, Option<OwnedFd>)> {
    let held = place
        .scope()
        .map(|scope| HeldScope::make(&container.hierarchies, scope, &create.id))
        .transpose()?;
    let gate = Gate::Socket(container.directory.listen()?);
    let bundle = bundle::plan(&container.record, gate, create)?;
    let mut created = sampan_runtime::create(&container.hierarchies, bundle)
        .map_err(with_hint)
        .context("unable to start container process")?;
    // From here on the container's own process holds it.
    drop(held);
    container.record.init = Some(Process::of(created.pid())?);
    container.directory.write(&container.record)?;
    let terminal = match (created.take_terminal(), &create.console_socket) {
        (Some(terminal), Some(socket)) => {
            console::hand_over(socket, &terminal)?;
            None
        }
        (terminal, _) => terminal,
    };
    if let Some(path) = &create.pid_file {
        bundle::write_pid(path, created.pid().as_raw_nonzero().get())?;
    }
    Ok((created, terminal))
}

/// An error with what a person can do about it.
pub(crate) fn with_hint(error: sampan_runtime::Error) -> anyhow::Error {
    match error.hint() {
        Some(hint) => anyhow::anyhow!("{error}: {hint}"),
        None => error.into(),
    }
}

pub(crate) fn start(root: &Path, log: &Log, id: &str) -> Result<()> {
    let directory = Directory::open(root, id)?;
    let _lock = directory.lock()?;
    drop(directory);
    let container = Container::open(root, id)?;
    match container.status()? {
        Status::Created => start_waiting(&container, log),
        Status::Stopped => bail!("cannot start a container that has stopped"),
        Status::Running | Status::Paused => bail!("cannot start an already running container"),
        Status::Creating => bail!("cannot start a container that is being created"),
    }
}

fn start_waiting(container: &Container, log: &Log) -> Result<()> {
    let running = container.running()?;
    let spec = &container.record.spec;
    let state = container.state(Status::Created);
    if let Some(hooks) = spec
        .hooks
        .as_ref()
        .filter(|hooks| !hooks.start_container.is_empty())
    {
        let process = spec.process.clone().unwrap_or_default();
        let filter = bundle::filter(spec)?;
        let done =
            running.run_start_hooks(&hooks.start_container, &state, &process, filter.as_ref());
        if let Err(error) = done {
            container.end()?;
            return Err(error.into());
        }
    }
    let socket = container.directory.connect()?;
    start_at(running, socket.as_fd(), spec, state)
        .map_err(with_hint)
        .context("unable to start container process")?;
    if let Some(hooks) = &spec.hooks {
        let state = container.state(Status::Running);
        for hook in &hooks.poststart {
            // By the specification the container goes on as if it had succeeded.
            let one = std::slice::from_ref(hook);
            if let Err(error) = sampan_runtime::run_hooks("poststart", one, &state) {
                log.warn(&error.to_string());
            }
        }
    }
    Ok(())
}

pub(crate) fn run(root: &Path, log: &Log, run: &Run, manager: Manager) -> Result<u8> {
    let detach = if run.detach { Detach::Yes } else { Detach::No };
    // Before a child is there that could end.
    let signals = (!run.detach).then(Signals::take).transpose()?;
    let made =
        make(root, log, &run.create, manager, detach).context("sampan-runtime run failed")?;
    let child = pidfd_open(made.created.pid(), PidfdFlags::empty());
    made.created.leave();
    let id = &run.create.id;
    // Found anew: what it is by now is what its record says.
    let container = Container::open(root, id)?;
    if let Err(error) = start_waiting(&container, log) {
        container.end()?;
        container.destroy(log)?;
        return Err(error.context("sampan-runtime run failed"));
    }
    let Some(signals) = signals else {
        return Ok(0);
    };
    ensure!(
        made.container.record.id == *id,
        "the record is another container's"
    );
    let ending = foreground::wait(&signals, child?.as_fd(), made.terminal)?;
    if !run.keep {
        let container = Container::open(root, id)?;
        container.end()?;
        container.destroy(log)?;
    }
    Ok(u8::try_from(ending.code()).unwrap_or(u8::MAX))
}
