//! Finds the engine, or starts one on demand.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use sampan_fs::DirLock;
use sampan_kernel::exec::ArgumentList;
use sampan_kernel::pidfd;
use sampan_kernel::spawn::{Spawn, spawn};

use super::Paths;
use super::keeper::own_executable;

/// How long a started engine may take until its socket answers.
const PATIENCE: Duration = Duration::from_secs(15);

/// Returns when something listens on the socket of `paths`, having started a
/// keeper if nothing did. Commands that race start only one.
///
/// # Errors
/// When the run directory cannot be made (not root), or the engine does not
/// start; the message ends with what it printed.
pub(crate) fn ensure_running(paths: &Paths) -> anyhow::Result<()> {
    let socket = paths.socket();
    if UnixStream::connect(&socket).is_ok() {
        return Ok(());
    }
    sampan_fs::create_dir_all(&paths.run, 0o755).with_context(|| {
        format!(
            "no engine is running, and starting one needs to be root (cannot make {})",
            paths.run.display()
        )
    })?;
    let _only_one = DirLock::acquire(&paths.run, "start.lock")?;
    if UnixStream::connect(&socket).is_ok() {
        return Ok(());
    }
    let log = paths.run.join("daemon.log");
    let keeper = spawn_keeper(paths, &log)?;
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(500);
    while UnixStream::connect(&socket).is_err() {
        if let Some(ending) = pidfd::try_wait(keeper.pidfd.as_fd())? {
            let said = last_lines(&log);
            anyhow::bail!("the engine did not start ({ending:?}){said}");
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "the engine did not answer within {PATIENCE:?}, see {}",
            log.display()
        );
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    Ok(())
}

fn spawn_keeper(paths: &Paths, log: &Path) -> anyhow::Result<sampan_kernel::clone::Child> {
    let program = File::open(own_executable()?).context("cannot open the own executable")?;
    let null = File::open("/dev/null").context("cannot open /dev/null")?;
    let log = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    let word = |bytes: &[u8]| CString::new(bytes).context("a path has a NUL byte");
    let arguments = ArgumentList::new(vec![
        c"sampan".to_owned(),
        c"daemon".to_owned(),
        c"--root".to_owned(),
        word(paths.root.as_os_str().as_bytes())?,
        c"--run".to_owned(),
        word(paths.run.as_os_str().as_bytes())?,
        // Whatever SAMPAN_HOST says: the caller waits for this socket.
        c"--host".to_owned(),
        word(format!("unix://{}", paths.socket().display()).as_bytes())?,
    ]);
    let environment = std::env::vars_os()
        .filter(|(name, _)| {
            let name = name.to_string_lossy();
            // An engine outlives the command that started it: it takes over
            // what says how to reach the world, not the user's whole shell.
            name == "PATH"
                || name == "SAMPAN_REGISTRIES"
                || name.to_ascii_lowercase().ends_with("_proxy")
        })
        .map(|(name, value)| word(&[name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let environment = ArgumentList::new(environment);
    spawn(&Spawn {
        program: program.as_fd(),
        arguments: &arguments,
        environment: &environment,
        descriptors: &[(null.as_fd(), 0), (log.as_fd(), 1), (log.as_fd(), 2)],
        new_session: true,
        cgroup: None,
    })
    .context("cannot start the engine")
}

/// The end of the log, as the tail of an error message.
fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(5)..];
    if last.is_empty() {
        return String::new();
    }
    format!(": {}", last.join("; "))
}
