//! The composition root: builds the engine from the settings and serves it.

use std::fs::File;
use std::os::fd::{AsFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use sampan_engine::{Bundled, Config, Engine};
use sampan_server::Tls;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::arguments::{Mode, Settings};
use super::keeper::{Ear, Heard, KeeperLink};
use super::listen::Listener;
use super::registries::{self, Files};
use super::{hello, keeper, private_directory, unpack};

/// Threads that may block at once: each serves a follower of logs, a pull's
/// decompression or a start.
const BLOCKING_THREADS: usize = 256;

/// Why the engine ends.
enum End {
    Asked,
    KeeperLost,
}

/// Runs the engine until a signal asks to stop. What keeps it from answering clients is told to the
/// keeper, too, who tells the clients.
pub(super) fn run(settings: &Settings) -> anyhow::Result<()> {
    let Mode::Engine { listeners, keeper } = &settings.mode else {
        anyhow::bail!("the engine needs listening sockets");
    };
    let keeper = keeper.map(sampan_kernel::inherited::take).transpose()?;
    let keeper = keeper.map(KeeperLink::new);
    let end = prepare(settings, listeners).and_then(|(listeners, _pid)| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4)))
            .max_blocking_threads(BLOCKING_THREADS)
            .enable_all()
            .build()?;
        let end = runtime.block_on(serve(settings, listeners, keeper.as_ref()));
        runtime.shutdown_timeout(std::time::Duration::from_secs(2));
        end
    });
    match end {
        Ok(End::Asked) => Ok(()),
        Ok(End::KeeperLost) => Err(keeper::replace_lost_keeper(settings)),
        Err(error) => {
            if let Some(keeper) = &keeper {
                keeper.refused(&error);
            }
            Err(error)
        }
    }
}

/// Takes what the engine needs before anything of it runs: the sockets, and the file of its pid,
/// which is locked as long as it is open.
fn prepare(settings: &Settings, listeners: &[RawFd]) -> anyhow::Result<(Vec<Listener>, File)> {
    tracing_subscriber::fmt()
        .with_env_filter(format!("warn,sampan={0},sampan_engine={0},sampan_server={0},sampan_images={0},sampan_registry_client={0}", settings.log_level))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    sampan_kernel::memory::limit_arenas(2);
    private_directory(&settings.paths.root)?;
    sampan_fs::create_dir_all(&settings.paths.run, 0o755)?;
    let pid = keeper::write_pid(&settings.paths.pid_file())?;
    Ok((adopt(listeners)?, pid))
}

async fn serve(
    settings: &Settings,
    listeners: Vec<Listener>,
    keeper: Option<&KeeperLink>,
) -> anyhow::Result<End> {
    let mut reload = signal(SignalKind::hangup())?;
    let mut config = Config::new(
        &settings.paths.root,
        &settings.paths.run,
        shim_executable()?,
    );
    config.layers = sampan_layers::Options {
        driver: settings.layers.driver,
        mounts: settings.layers.mounts,
        worker: unpack::worker(),
        ..sampan_layers::Options::default()
    };
    config.collector = settings.collector;
    config.warm_slots = settings.warm_slots;
    config.bundled = vec![Bundled {
        name: hello::REFERENCE,
        archive: hello::archive,
    }];
    let registries = Arc::new(Files::open(settings.registries.clone()));
    config.registries = registries.clone();
    config.proxies = registries::proxies();
    config.runtimes = settings.containers.runtimes.clone();
    config.cgroup_driver = settings.containers.cgroup_driver;
    config
        .cgroup_parent
        .clone_from(&settings.containers.cgroup_parent);
    config.cdi = settings.containers.cdi.clone();
    config.users = settings.containers.users.clone();
    let engine = Arc::new(
        Engine::open(config)
            .await
            .context("cannot open the engine")?,
    );
    let tls = settings
        .tls
        .clone()
        .map(Tls::open)
        .transpose()?
        .map(Arc::new);
    let reread = || {
        registries.reload();
        if let Some(tls) = &tls
            && let Err(error) = tls.reload()
        {
            tracing::error!(%error, "the certificates stay as they are");
        }
    };
    let stop = CancellationToken::new();
    let mut edges = tokio::task::JoinSet::new();
    for listener in listeners {
        let (engine, stop) = (engine.clone(), stop.clone());
        let limits = sampan_server::Limits::default();
        match (listener, &tls) {
            (Listener::Unix(listener), _) => {
                edges.spawn(sampan_server::serve(listener, engine, limits, stop));
            }
            (Listener::Tcp(listener), Some(tls)) => {
                let tls = tls.clone();
                edges.spawn(sampan_server::serve_tls(
                    listener, tls, engine, limits, stop,
                ));
            }
            (Listener::Tcp(listener), None) => {
                tracing::warn!(
                    "all programs and users of this machine can reach the engine by TCP"
                );
                edges.spawn(sampan_server::serve_tcp(listener, engine, limits, stop));
            }
        }
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut ear = keeper.map(KeeperLink::ear).transpose()?;
    if let Some(keeper) = keeper {
        keeper.serving();
    }
    let end = loop {
        tokio::select! {
            _ = terminate.recv() => break End::Asked,
            _ = interrupt.recv() => break End::Asked,
            _ = reload.recv() => reread(),
            heard = hear(ear.as_mut()) => match heard {
                Heard::Reload => reread(),
                Heard::Gone => break End::KeeperLost,
            },
            Some(ended) = edges.join_next() => {
                ended?.context("the server ended")?;
                break End::Asked;
            }
        }
    };
    stop.cancel();
    while let Some(ended) = edges.join_next().await {
        ended?.context("the server ended badly")?;
    }
    engine.close().await;
    Ok(end)
}

async fn hear(ear: Option<&mut Ear>) -> Heard {
    match ear {
        Some(ear) => ear.next().await,
        None => std::future::pending().await,
    }
}

fn adopt(numbers: &[RawFd]) -> anyhow::Result<Vec<Listener>> {
    let adopt = |number: &RawFd| -> anyhow::Result<Listener> {
        let descriptor = sampan_kernel::inherited::take(*number)
            .with_context(|| format!("descriptor {number} was not passed"))?;
        rustix::net::sockopt::socket_acceptconn(descriptor.as_fd())
            .ok()
            .filter(|listening| *listening)
            .with_context(|| format!("descriptor {number} is not a listening socket"))?;
        let family = rustix::net::sockopt::socket_domain(descriptor.as_fd())?;
        Ok(match family {
            rustix::net::AddressFamily::UNIX => Listener::Unix(descriptor.into()),
            _ => Listener::Tcp(descriptor.into()),
        })
    };
    numbers.iter().map(adopt).collect()
}

/// The shim lies beside the own executable.
fn shim_executable() -> anyhow::Result<PathBuf> {
    let own = keeper::own_executable()?;
    let shim = own.with_file_name("sampan-shim");
    anyhow::ensure!(
        shim.is_file(),
        "sampan-shim is missing beside {}: build or install both",
        own.display()
    );
    Ok(shim)
}
