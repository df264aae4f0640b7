//! The keeper: holds the listening sockets and keeps an engine running behind
//! them, so that a client that connects while an engine is killed, upgraded or
//! crashed waits a moment instead of being refused.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, kill_process};
use sampan_fs::DirLock;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::arguments::Settings;
use super::{listen, private_directory};

/// An engine that lived shorter than this counts as failing at start.
const SHORT_LIFE: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Runs until a signal asks to stop, or until the engine ends by itself.
pub(super) fn run(settings: &Settings) -> anyhow::Result<()> {
    private_directory(&settings.paths.root)?;
    // Members of the socket's group must get through to the socket.
    sampan_fs::create_dir_all(&settings.paths.run, 0o755)?;
    let _lock = DirLock::try_acquire(&settings.paths.run, "keeper.lock")
        .context("another engine serves this run directory")?;
    let mut listeners = Vec::new();
    for socket in &settings.sockets {
        listeners.push(listen::listen(socket, settings.group.as_deref())?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let result = runtime.block_on(keep(settings, &listeners));
    for socket in &settings.sockets {
        // Nobody will answer there any more.
        let _ = std::fs::remove_file(socket);
    }
    result
}

async fn keep(settings: &Settings, listeners: &[UnixListener]) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // The engine sees the end of this pipe when the keeper is gone.
    let (alive, _held) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        let mut engine = spawn(settings, listeners, &alive)?;
        let status = tokio::select! {
            status = engine.wait() => status?,
            _ = terminate.recv() => return stop(engine).await,
            _ = interrupt.recv() => return stop(engine).await,
        };
        if status.success() {
            return Ok(());
        }
        if started.elapsed() > SHORT_LIFE {
            pause = FIRST_PAUSE;
        } else if is_refusal(status) {
            anyhow::bail!("the engine did not start ({status})");
        }
        eprintln!("sampan daemon: the engine ended ({status}), starting another");
        if started.elapsed() < SHORT_LIFE {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Whether the engine said itself that it cannot run, as against being killed.
fn is_refusal(status: ExitStatus) -> bool {
    status.code().is_some()
}

async fn stop(mut engine: Child) -> anyhow::Result<()> {
    if let Some(pid) = engine.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        kill_process(pid, Signal::TERM)?;
    }
    let status = engine.wait().await?;
    anyhow::ensure!(status.success(), "the engine ended with {status}");
    Ok(())
}

fn spawn(
    settings: &Settings,
    listeners: &[UnixListener],
    alive: &OwnedFd,
) -> anyhow::Result<Child> {
    let mut numbers = Vec::new();
    for listener in listeners {
        inherit(listener)?;
        numbers.push(listener.as_raw_fd().to_string());
    }
    inherit(alive)?;
    let mut command = Command::new(own_executable()?);
    command
        .arg("daemon")
        .arg("--root")
        .arg(&settings.paths.root)
        .arg("--run")
        .arg(&settings.paths.run)
        .args(["--log-level", &settings.log_level])
        .args(settings.layers.arguments())
        .args(["--listener-descriptors", &numbers.join(",")])
        .args(["--keeper-descriptor", &alive.as_raw_fd().to_string()]);
    for socket in &settings.sockets {
        command
            .arg("--host")
            .arg(format!("unix://{}", socket.display()));
    }
    if let Some(group) = &settings.group {
        command.args(["--group", group]);
    }
    command.spawn().context("cannot start the engine")
}

/// Lets a child have the descriptor: the keeper starts nothing but engines.
fn inherit(descriptor: impl AsFd) -> anyhow::Result<()> {
    rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
    Ok(())
}

/// The executable by the name it was started from, so that a new version in
/// the same place is what the next engine runs.
pub(super) fn own_executable() -> anyhow::Result<std::path::PathBuf> {
    let path = std::env::current_exe().context("cannot find the own executable")?;
    let text = path.to_string_lossy();
    let replaced = text.strip_suffix(" (deleted)").map(Path::new);
    match replaced {
        Some(path) if path.exists() => Ok(path.to_owned()),
        _ => Ok(path),
    }
}

/// Becomes a keeper in place of the engine whose keeper has gone: the same
/// process, the sockets still open, so that no client is refused.
pub(super) fn replace_lost_keeper(settings: &Settings) -> anyhow::Error {
    use std::os::unix::process::CommandExt;
    let build = || -> anyhow::Result<std::process::Command> {
        let mut command = std::process::Command::new(own_executable()?);
        command
            .arg("daemon")
            .arg("--root")
            .arg(&settings.paths.root)
            .arg("--run")
            .arg(&settings.paths.run)
            .args(["--log-level", &settings.log_level])
            .args(settings.layers.arguments());
        for socket in &settings.sockets {
            // It listens anew in their place; who waits in the old queue is
            // refused and tries again.
            drop(std::fs::remove_file(socket));
            command
                .arg("--host")
                .arg(format!("unix://{}", socket.display()));
        }
        if let Some(group) = &settings.group {
            command.args(["--group", group]);
        }
        Ok(command)
    };
    match build() {
        Ok(mut command) => command.exec().into(),
        Err(error) => error,
    }
}

/// Keeps the pid of the engine where tools look for it.
pub(super) fn write_pid(path: &Path) -> anyhow::Result<File> {
    use std::io::Write;
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .context("another engine is running on this run directory")?;
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}
