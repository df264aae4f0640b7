//! Asks systemd for control groups: a transient *scope* for each container.
//!
//! Where systemd runs a host, the tree of control groups is its own, and whoever wants a part of it
//! asks for one that is *delegated* (<https://systemd.io/CGROUP_DELEGATION/>): below a delegated
//! scope systemd writes nothing, now or when it is told to reload. A scope is made over a process
//! that is there and is gone when the last one of it has ended, so it needs one that holds it:
//!
//! ```text
//! system.slice/                    or another slice
//!   NAME.scope/                    no process is in it
//!     supervisor/                  who holds it
//!     container/                   the container's own control group
//! ```
//!
//! Every call is a conversation of its own by the system bus (D-Bus) and blocks until it has come to
//! its end.
//!
//! This crate knows nothing of containers and touches no control group itself.
//!
//! * [`Slice`], [`Scope`]: names, and the paths that follow from them;
//! * [`start`], [`stop`], [`find`]: what systemd is asked.

mod error;
mod manager;
mod scope;
mod slice;

use std::future::Future;
use std::time::Duration;

pub use error::Error;
pub use scope::Scope;
pub use slice::Slice;

use manager::Manager;

/// How long systemd may take for one call.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether systemd runs this system (sd_booted(3)).
#[must_use]
pub fn is_running() -> bool {
    std::fs::symlink_metadata("/run/systemd/system").is_ok_and(|found| found.is_dir())
}

/// Has systemd make a delegated scope with one process in it, and waits until that is done. A unit
/// of the same name that has failed makes room for it.
///
/// # Errors
/// When systemd cannot be asked or refuses, as it does for a name that is in use; and when the scope
/// has come to lie elsewhere than [`Scope::control_group`] says, in which case it is taken back.
pub fn start(scope: &Scope, description: &str, process: u32) -> Result<(), Error> {
    converse(async {
        let manager = Manager::connect().await?;
        manager.start(scope, description, process).await?;
        let found = manager.control_group(scope.name()).await?;
        let wanted = format!("/{}", scope.control_group());
        if found.as_deref() == Some(&wanted) {
            return Ok(());
        }
        // Where it lies is the error that explains.
        let _ = manager.stop(scope.name()).await;
        Err(Error::Elsewhere {
            name: scope.name().to_owned(),
            found: found.unwrap_or_default(),
        })
    })
}

/// Has systemd end what is in a scope and take it away, and waits until that is done. One that is
/// not there is no error.
///
/// # Errors
/// When systemd cannot be asked or refuses.
pub fn stop(name: &str) -> Result<(), Error> {
    converse(async { Manager::connect().await?.stop(name).await })
}

/// Finds a scope by its name, `NAME.scope`; `None` where there is no such scope.
///
/// # Errors
/// When systemd cannot be asked.
pub fn find(name: &str) -> Result<Option<Scope>, Error> {
    converse(async {
        let found = Manager::connect().await?.control_group(name).await?;
        found.map(|path| Scope::at(&path)).transpose()
    })
}

/// Carries a conversation out on this thread, or, where an async runtime may be driving this thread
/// that would have to wait, on one that is gone when this returns.
fn converse<T: Send>(
    conversation: impl Future<Output = Result<T, Error>> + Send,
) -> Result<T, Error> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(Error::Runtime)?;
        runtime.block_on(async {
            let answer = tokio::time::timeout(PATIENCE, conversation).await;
            answer.unwrap_or(Err(Error::Silent(PATIENCE)))
        })
    };
    if tokio::runtime::Handle::try_current().is_err() {
        return run();
    }
    std::thread::scope(|scope| {
        let ended = scope.spawn(run).join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
