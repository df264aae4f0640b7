//! `sampan registry`: the registry server. It needs no engine.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use sampan_registry::config::{AuthScheme, Cache, Config, Tls};
use sampan_registry::{Service, serve_metrics};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::output;
use super::session::Session;

const LISTEN: &str = "127.0.0.1:5000";
const ROOT: &str = "/var/lib/sampan-registry";

pub(crate) const SERVE: Command = Command {
    names: &["registry serve"],
    usage: "[OPTIONS]",
    about: "Serve a registry",
    flags: &[&[
        Flag::one(
            "audit-log",
            "string",
            "File of who did what, as lines of JSON",
        ),
        Flag::one(
            "config",
            "string",
            "Configuration file (TOML); flags come first",
        ),
        Flag::one("listen", "string", "Address to listen on").default(LISTEN),
        Flag::one("log-level", "string", "error, warn, info, debug or trace")
            .short('l')
            .default("info"),
        Flag::one("metrics-listen", "string", "Address to serve metrics on"),
        Flag::one("proxy", "string", "Registry to be a cache of"),
        Flag::one("root", "string", "Directory of what the registry holds").default(ROOT),
        Flag::one("tls-cert", "string", "File of the certificate"),
        Flag::one("tls-key", "string", "File of its private key"),
        Flag::one(
            "users",
            "string",
            "File of users and passwords, as written by \"registry user\"",
        ),
    ]],
    arguments: Arguments::None,
    run: serve,
    ..Command::PLAIN
};

pub(crate) const USER: Command = Command {
    names: &["registry user"],
    usage: "NAME",
    about: "Print a line for the file of users; the password comes from standard input",
    arguments: Arguments::Exactly(1),
    run: user,
    ..Command::PLAIN
};

fn serve(_: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    log(parsed.text("log-level").unwrap_or("info"))?;
    let config = configuration(parsed)?;
    let listen = config.listen.unwrap_or_else(|| {
        let usual: SocketAddr = LISTEN.parse().expect("a constant address");
        usual
    });
    let root = config.root.clone().unwrap_or_else(|| PathBuf::from(ROOT));
    let listener = bind(listen)?;
    let metrics = config.metrics_listen.map(bind).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("registry")
        .max_blocking_threads(64)
        .build()
        .map_err(|error| Failure::message(format!("cannot start threads: {error}")))?;
    runtime.block_on(run(&config, &root, listener, metrics))?;
    Ok(0)
}

fn bind(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .map_err(|error| Failure::message(format!("cannot listen on {address}: {error}")))
}

/// The configuration file with the flags over it.
fn configuration(parsed: &Parsed<'_>) -> Result<Config, Failure> {
    let mut config = match parsed.text("config") {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::message(format!("cannot read {path}: {error}")))?;
            Config::parse(&text).map_err(|error| Failure::message(format!("{path}: {error}")))?
        }
        None => Config::default(),
    };
    let address = |flag: &str| {
        let parse = |text: &str| {
            text.parse::<SocketAddr>().map_err(|_| {
                Failure::message(format!(
                    "invalid --{flag} {text:?}: it has the form ADDRESS:PORT, as in 0.0.0.0:5000"
                ))
            })
        };
        parsed.text(flag).map(parse).transpose()
    };
    config.listen = address("listen")?.or(config.listen);
    config.metrics_listen = address("metrics-listen")?.or(config.metrics_listen);
    config.root = parsed.text("root").map(PathBuf::from).or(config.root);
    config.audit_log = parsed
        .text("audit-log")
        .map(PathBuf::from)
        .or(config.audit_log);
    match (parsed.text("tls-cert"), parsed.text("tls-key")) {
        (Some(certificate), Some(key)) => {
            config.tls = Some(Tls {
                certificate: certificate.into(),
                key: key.into(),
            });
        }
        (None, None) => {}
        _ => return Err(Failure::message("--tls-cert and --tls-key go together")),
    }
    if let Some(users) = parsed.text("users") {
        config.auth.users = Some(users.into());
        if config.auth.scheme == AuthScheme::None {
            config.auth.scheme = AuthScheme::Basic;
        }
    }
    if let Some(upstream) = parsed.text("proxy") {
        config.caches.push(Cache::of(upstream));
    }
    Ok(config)
}

async fn run(
    config: &Config,
    root: &Path,
    listener: TcpListener,
    metrics: Option<TcpListener>,
) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::message(format!("cannot wait: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    let service = Service::start(config, root).await.map_err(because)?;
    let address = listener.local_addr().map_err(failed)?;
    let totals = service.totals();
    tracing::info!(%address, root = %root.display(), ?totals, "the registry listens");
    let stop = CancellationToken::new();
    if let Some(metrics) = metrics {
        tokio::spawn(serve_metrics(metrics, service.clone(), stop.clone()));
    }
    let serving = sampan_registry::serve(listener, service.clone(), stop.clone());
    let mut serving = std::pin::pin!(serving);
    loop {
        tokio::select! {
            result = &mut serving => return result.map_err(failed),
            _ = terminate.recv() => stop.cancel(),
            _ = interrupt.recv() => stop.cancel(),
            _ = hangup.recv() => {
                for failure in service.reload() {
                    tracing::error!("{failure}");
                }
                tracing::info!("users, certificate and audit log were read again");
            }
        }
    }
}

fn log(level: &str) -> Result<(), Failure> {
    if !["error", "warn", "info", "debug", "trace"].contains(&level) {
        return Err(Failure::message(format!(
            "invalid log level {level:?}: use error, warn, info, debug or trace"
        )));
    }
    let filter = EnvFilter::new(format!("warn,sampan_registry={level},sampan={level}"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

fn user(_: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let name = parsed.arguments()[0];
    if name.is_empty() || name.contains(':') || name.chars().any(char::is_control) {
        return Err(Failure::message(format!(
            "{name:?} cannot be a user's name"
        )));
    }
    let mut password = String::new();
    std::io::stdin()
        .take(1024)
        .read_to_string(&mut password)
        .map_err(|error| Failure::message(format!("cannot read the password: {error}")))?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(Failure::message("the password is empty"));
    }
    if password.len() > 72 {
        return Err(Failure::message("the password is longer than 72 bytes"));
    }
    let hash = sampan_registry::auth::hash_password(password).map_err(Failure::message)?;
    output::line(&format!("{name}:{hash}"));
    Ok(0)
}

/// A sentence with all its causes.
fn because(error: impl Into<anyhow::Error>) -> Failure {
    Failure::message(format!("{:#}", error.into()))
}
