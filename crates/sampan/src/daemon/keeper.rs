//! The keeper: holds the listening sockets and keeps an engine running behind
//! them, so that a client that connects while an engine is killed, upgraded or
//! crashed waits a moment instead of being refused.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, kill_process};
use sampan_fs::DirLock;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::arguments::Settings;
use super::host::{self, Host};
use super::listen::Listener;
use super::{private_directory, unserved};

/// An engine that lived shorter than this has failed rather than been killed.
const SHORT_LIFE: Duration = Duration::from_secs(2);
/// So many engines in a row may fail before there is a pause.
const FORGIVEN: u32 = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long the engine before may take to be gone.
const PREDECESSOR: Duration = Duration::from_secs(5);
/// How long clients are told why there is no engine before the keeper gives up.
const FAREWELL: Duration = Duration::from_millis(300);
/// More than this of what an engine says is not read.
const LONGEST_WORD: u64 = 16 << 10;

/// Runs until a signal asks to stop, or until the engine ends by itself.
pub(super) fn run(settings: &Settings) -> anyhow::Result<()> {
    // The engine goes on without a bad file; who starts it is told at once.
    if !settings.comes_back {
        settings.registries.read().map_err(anyhow::Error::msg)?;
    }
    private_directory(&settings.paths.root)?;
    // Members of the socket's group must get through to the socket.
    sampan_fs::create_dir_all(&settings.paths.run, 0o755)?;
    let _lock = DirLock::try_acquire(&settings.paths.run, "keeper.lock")
        .context("another engine serves this run directory")?;
    let mut listeners = Vec::new();
    for host in &settings.hosts {
        listeners.push(Listener::open(host, settings.group.as_deref())?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let result = runtime.block_on(keep(settings, &listeners));
    for host in &settings.hosts {
        if let Host::Unix(path) = host {
            // Nobody will answer there any more.
            let _ = std::fs::remove_file(path);
        }
    }
    result
}

async fn keep(settings: &Settings, listeners: &[Listener]) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut reload = signal(SignalKind::hangup())?;
    let mut has_served = false;
    let mut failures = 0;
    // The engines behind this keeper are one session: what should run is started by the first.
    sampan_engine::begin_session(&settings.paths.run);
    loop {
        let started = Instant::now();
        // Open until the engine has ended: its end is how an engine notices that it is alone.
        let (mut engine, mut link) = spawn(settings, listeners)?;
        let (mut word, ear) = link.split();
        let ended = {
            let ended = async { tokio::join!(engine.wait(), hear(&mut word)) };
            tokio::pin!(ended);
            loop {
                tokio::select! {
                    ended = &mut ended => break Some(ended),
                    _ = terminate.recv() => break None,
                    _ = interrupt.recv() => break None,
                    // Heard as soon as the engine listens: a signal would end one that just starts.
                    _ = reload.recv() => {
                        // One that does not listen for long has enough to hear.
                        let _ = ear.try_write(&[RELOAD]);
                    }
                }
            }
        };
        let Some((status, said)) = ended else {
            return stop(engine).await;
        };
        let status = status?;
        if status.success() {
            return Ok(());
        }
        has_served |= said.served;
        let reason = said.refusal.unwrap_or_else(|| status.to_string());
        // It said itself that it cannot run, as against being killed.
        let refused = !said.served && status.code().is_some();
        if refused && !has_served {
            let sentence = format!("the engine cannot start: {reason}");
            unserved::answer(listeners, &sentence, FAREWELL).await?;
            anyhow::bail!(sentence);
        }
        failures = match () {
            () if refused => failures.max(FORGIVEN) + 1,
            () if !said.served => failures + 1,
            () if was_killed(status) || started.elapsed() > SHORT_LIFE => 0,
            () => failures + 1,
        };
        let pause = pause_after(failures);
        eprintln!(
            "sampan daemon: the engine ended ({reason}), starting another{}",
            if pause.is_zero() {
                String::new()
            } else {
                format!(" in {pause:?}")
            }
        );
        if pause.is_zero() {
            continue;
        }
        let sentence = format!("the engine cannot run and is started again in a while: {reason}");
        tokio::select! {
            answered = unserved::answer(listeners, &sentence, pause) => answered?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// How long to wait after so many failures in a row.
fn pause_after(failures: u32) -> Duration {
    match failures.checked_sub(FORGIVEN + 1) {
        None => Duration::ZERO,
        Some(more) => FIRST_PAUSE
            .saturating_mul(1 << more.min(16))
            .min(LONGEST_PAUSE),
    }
}

/// Whether somebody killed the engine, which is no fault of its own.
fn was_killed(status: ExitStatus) -> bool {
    use std::os::unix::process::ExitStatusExt;
    status.signal() == Some(Signal::KILL.as_raw())
}

/// What an engine has said to its keeper until its end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    /// It answers clients.
    served: bool,
    /// Why it does not.
    refusal: Option<String>,
}

const SERVING: &str = "serving";
const REFUSED: &str = "refused ";
/// What the keeper says to the engine.
const RELOAD: u8 = b'r';

async fn hear(word: &mut (impl AsyncRead + Unpin)) -> Said {
    let mut text = Vec::new();
    // What was said before a failure counts.
    let _ = word.take(LONGEST_WORD).read_to_end(&mut text).await;
    parse(&String::from_utf8_lossy(&text))
}

fn parse(text: &str) -> Said {
    let mut said = Said::default();
    for line in text.lines() {
        said.served |= line == SERVING;
        said.refusal = line
            .strip_prefix(REFUSED)
            .map(str::to_owned)
            .or(said.refusal);
    }
    said
}

/// The engine's end of the connection to its keeper.
#[derive(Debug)]
pub(super) struct KeeperLink {
    socket: std::os::unix::net::UnixStream,
}

impl KeeperLink {
    pub(super) fn new(descriptor: OwnedFd) -> Self {
        Self {
            socket: descriptor.into(),
        }
    }

    /// Says that clients are answered from now on.
    pub(super) fn serving(&self) {
        self.say(SERVING);
    }

    /// Says why this engine will not answer anybody.
    pub(super) fn refused(&self, error: &anyhow::Error) {
        let reason = format!("{error:#}").replace(['\n', '\r'], " ");
        self.say(&format!("{REFUSED}{reason}"));
    }

    fn say(&self, line: &str) {
        use std::io::Write;
        // A keeper that is gone hears nothing; that is noticed elsewhere.
        let _ = (&self.socket).write_all(format!("{line}\n").as_bytes());
    }

    /// Listens to the keeper.
    pub(super) fn ear(&self) -> std::io::Result<Ear> {
        let socket = self.socket.try_clone()?;
        socket.set_nonblocking(true)?;
        Ok(Ear(UnixStream::from_std(socket)?))
    }
}

/// Where an engine hears its keeper.
#[derive(Debug)]
pub(super) struct Ear(UnixStream);

/// What an engine hears of its keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The configuration is to be read again.
    Reload,
    /// There is no keeper any more.
    Gone,
}

impl Ear {
    /// Waits for the next word. Nothing is lost when it is given up.
    pub(super) async fn next(&mut self) -> Heard {
        let mut word = [0];
        loop {
            match self.0.read(&mut word).await {
                Ok(0) | Err(_) => return Heard::Gone,
                Ok(_) if word == [RELOAD] => return Heard::Reload,
                // Of a newer keeper.
                Ok(_) => {}
            }
        }
    }
}

async fn stop(mut engine: Child) -> anyhow::Result<()> {
    if let Some(pid) = engine.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        kill_process(pid, Signal::TERM)?;
    }
    let status = engine.wait().await?;
    anyhow::ensure!(status.success(), "the engine ended with {status}");
    Ok(())
}

/// Starts an engine; also returns what it will be heard on.
fn spawn(settings: &Settings, listeners: &[Listener]) -> anyhow::Result<(Child, UnixStream)> {
    let mut numbers = Vec::new();
    for listener in listeners {
        inherit(listener)?;
        numbers.push(listener.as_fd().as_raw_fd().to_string());
    }
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    inherit(&theirs)?;
    let mut command = Command::from(daemon(settings)?);
    command
        .args(["--listener-descriptors", &numbers.join(",")])
        .args(["--keeper-descriptor", &theirs.as_raw_fd().to_string()]);
    let engine = command.spawn().context("cannot start the engine")?;
    ours.set_nonblocking(true)?;
    Ok((engine, UnixStream::from_std(ours)?))
}

/// `sampan daemon` with these settings, for the other of the two processes.
fn daemon(settings: &Settings) -> anyhow::Result<std::process::Command> {
    let mut command = std::process::Command::new(own_executable()?);
    command
        .arg("daemon")
        .arg("--root")
        .arg(&settings.paths.root)
        .arg("--run")
        .arg(&settings.paths.run)
        .args(["--log-level", &settings.log_level])
        .args(["--warm-slots", &settings.warm_slots.to_string()])
        .args(settings.layers.arguments())
        .args(host::arguments(&settings.hosts, settings.tls.as_ref()))
        .args(&settings.collector_arguments)
        .args(&settings.containers.arguments)
        .args(settings.registries.arguments());
    if let Some(group) = &settings.group {
        command.args(["--group", group]);
    }
    Ok(command)
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
        let mut command = daemon(settings)?;
        for host in &settings.hosts {
            if let Host::Unix(path) = host {
                // It listens anew in their place; who waits in the old queue is
                // refused and tries again.
                drop(std::fs::remove_file(path));
            }
        }
        command.arg("--comes-back");
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
    lock(&file).context("another engine is running on this run directory")?;
    file.set_len(0)?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// Locks a file. A process that a killed engine was about to start has the lock, too, until it runs
/// its own program.
fn lock(file: &File) -> rustix::io::Result<()> {
    let deadline = Instant::now() + PREDECESSOR;
    loop {
        match rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_engines_say_is_understood() {
        assert_eq!(parse(""), Said::default());
        let said = parse("serving\nwhatever\n");
        assert!(said.served && said.refusal.is_none());
        let said = parse("refused the root is locked\n");
        assert_eq!(said.refusal.as_deref(), Some("the root is locked"));
        assert!(!said.served);
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let pauses: Vec<_> = (0..40).map(pause_after).collect();
        assert_eq!(pauses[..3], [Duration::ZERO; 3]);
        assert_eq!(pauses[3..5], [FIRST_PAUSE, FIRST_PAUSE * 2]);
        assert!(pauses.is_sorted());
        assert_eq!(pauses[39], LONGEST_PAUSE);
    }
}
