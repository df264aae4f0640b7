//! One call of the command line: which engine it talks to and how it waits for answers.

use std::cell::OnceCell;
use std::future::Future;
use std::path::{Path, PathBuf};

use sampan_api::Client;
use sampan_api::client::{Endpoint, InvalidEndpoint};

use super::failure::Failure;
use super::format::data::Data;
use super::remote::{self, TlsFlags};
use crate::daemon::{self, Paths};

/// The context of a command.
pub(crate) struct Session {
    client: Client,
    /// The engine that is started when nobody listens; none when another one was named.
    own: Option<Paths>,
    running: OnceCell<()>,
    runtime: tokio::runtime::Runtime,
    configuration: PathBuf,
    settings: OnceCell<Data>,
}

impl Session {
    /// Chooses the engine: `host`, `SAMPAN_HOST`, `DOCKER_HOST`, or the socket in the run
    /// directory. `configuration` is the directory of `config.json`.
    pub(crate) fn open(
        host: Option<&str>,
        configuration: Option<&str>,
        tls: &TlsFlags,
    ) -> Result<Self, Failure> {
        let paths = Paths::from_environment();
        let usual = Endpoint::Unix(paths.socket());
        let named = host
            .map(str::to_owned)
            .or_else(|| variable("SAMPAN_HOST"))
            .or_else(|| variable("DOCKER_HOST"));
        let endpoint = match named {
            Some(text) => named_endpoint(&text, tls).map_err(Failure::message)?,
            None => usual.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::message(format!("cannot wait for input: {error}")))?;
        Ok(Self {
            client: Client::new(endpoint.clone()).with_tls(tls.open(&endpoint)?),
            own: (endpoint == usual).then_some(paths),
            running: OnceCell::new(),
            runtime,
            configuration: configuration
                .map(str::to_owned)
                .or_else(|| variable("DOCKER_CONFIG"))
                .map_or_else(default_configuration, PathBuf::from),
            settings: OnceCell::new(),
        })
    }

    /// A client of an engine that runs; starts it if it is ours and does not.
    pub(crate) fn client(&self) -> Result<&Client, Failure> {
        if let (Some(paths), None) = (&self.own, self.running.get()) {
            daemon::ensure_running(paths)
                .map_err(|error| Failure::message(format!("{error:#}")))?;
            self.running.get_or_init(|| ());
        }
        Ok(&self.client)
    }

    /// A client of an engine that runs already; none where ours does not.
    pub(crate) fn running_client(&self) -> Option<&Client> {
        let socket = self.own.as_ref().map(Paths::socket);
        match socket {
            Some(socket) if std::os::unix::net::UnixStream::connect(&socket).is_err() => None,
            _ => Some(&self.client),
        }
    }

    /// Waits for a future.
    pub(crate) fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// The directory of `config.json`.
    pub(crate) fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// A text setting of `config.json`. A file that cannot be read has none.
    pub(crate) fn setting(&self, name: &str) -> Option<&str> {
        let settings = self.settings.get_or_init(|| {
            std::fs::read(self.configuration.join("config.json"))
                .ok()
                .and_then(|json| Data::parse(&json).ok())
                .unwrap_or(Data::Object(Vec::new()))
        });
        settings
            .get(name)
            .and_then(Data::as_text)
            .filter(|text| !text.is_empty())
    }
}

/// Reads the name of an engine. Docker's port with TLS is another one.
fn named_endpoint(text: &str, tls: &TlsFlags) -> Result<Endpoint, String> {
    if text.starts_with("ssh://") {
        return remote::ssh(text);
    }
    let endpoint = text
        .parse()
        .map_err(|error: InvalidEndpoint| error.to_string())?;
    Ok(match endpoint {
        Endpoint::Tcp(address) if tls.is_on() && !text.trim_end_matches('/').ends_with(":2375") => {
            let usual = address.strip_suffix(":2375");
            Endpoint::Tcp(usual.map_or(address.clone(), |host| format!("{host}:2376")))
        }
        other => other,
    })
}

/// An environment variable that is not empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Docker's directory of the user.
pub(crate) fn default_configuration() -> PathBuf {
    let home = variable("HOME").unwrap_or_else(|| "/root".to_owned());
    Path::new(&home).join(".docker")
}
