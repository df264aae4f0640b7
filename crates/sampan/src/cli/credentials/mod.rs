//! Credentials for registries: found, saved and erased.
//!
//! Where the user configured a credential helper or store, that is asked, as Docker does. Where
//! not, what `login` saves is sealed ([`sealed`]); what Docker saved in `config.json` is read.

mod docker;
mod key;
mod sealed;

use std::fmt;

use sampan_api::types::auth::{AuthConfig, AuthFields};
use sampan_oci::reference::Reference;
use sampan_text::with_causes;
use zeroize::Zeroizing;

use super::session::{Session, variable};
use docker::{DockerConfig, Helper};
pub(crate) use key::KeyKind;
use sealed::Sealed;

/// Docker Hub's key in `config.json` and in credential helpers.
pub(crate) const HUB: &str = "https://index.docker.io/v1/";

/// The variable that may hold another `config.json`.
const DOCKER_AUTH_CONFIG: &str = "DOCKER_AUTH_CONFIG";

/// What a user gave for one registry. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// The account; may be empty beside a token.
    pub(crate) username: String,
    pub(crate) secret: Zeroizing<String>,
    /// Whether the secret takes the password's place.
    pub(crate) is_token: bool,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl Login {
    /// The form in which the engine takes it.
    pub(crate) fn for_engine(&self, server: &str) -> AuthConfig {
        let secret = self.secret.to_string();
        let fields = AuthFields {
            username: self.username.clone(),
            server_address: server.to_owned(),
            ..AuthFields::default()
        };
        AuthConfig(match self.is_token {
            true => AuthFields {
                identity_token: secret,
                ..fields
            },
            false => AuthFields {
                password: secret,
                ..fields
            },
        })
    }
}

/// Why credentials could not be found, saved or erased.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the credential helper docker-credential-{name} failed: {reason}")]
    Helper { name: String, reason: String },
    #[error("cannot read {file}: {reason}")]
    File { file: String, reason: String },
    #[error("cannot {action}")]
    Io {
        action: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Store(#[from] sampan_fs::Error),
    /// They are there, and their key is gone for good.
    #[error("the saved credentials cannot be opened any more: {0}")]
    KeyLost(&'static str),
    /// They are there, and their key is not to be had now.
    #[error("the saved credentials are locked: {0}")]
    Locked(String),
    #[error("cannot protect credentials by {kind}: {reason}")]
    Protect { kind: &'static str, reason: String },
}

impl Error {
    pub(crate) fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}

/// The key of a server's credentials: Docker Hub has one of old, others are a host.
pub(crate) fn server_key(server: &str) -> String {
    let host = hostname(server);
    match host {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB.to_owned(),
        other => other.to_owned(),
    }
}

/// An address without scheme and path.
fn hostname(server: &str) -> &str {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

/// The credentials for the registry of an image; none when there are none. What stands in the
/// way is told on standard error: the operation goes on without.
pub(crate) fn find(session: &Session, image: &Reference) -> Option<AuthConfig> {
    let server = server_key(image.registry());
    match lookup(session, &server) {
        Ok(login) => login.map(|login| login.for_engine(&server)),
        Err(error) => {
            eprintln!("WARNING: {}", with_causes(&error));
            None
        }
    }
}

/// The credentials saved for a server, by the key that [`server_key`] gives.
pub(crate) fn lookup(session: &Session, server: &str) -> Result<Option<Login>, Error> {
    if let Some(text) = variable(DOCKER_AUTH_CONFIG) {
        let config = DockerConfig::from_variable(DOCKER_AUTH_CONFIG, &text)?;
        if let Some(login) = config.login(server)? {
            return Ok(Some(login));
        }
    }
    let config = DockerConfig::open(session.configuration())?;
    if let Some(helper) = config.helper(server) {
        return helper.get(server);
    }
    if let Some(login) = sealed(session).load(server)? {
        return Ok(Some(login));
    }
    config.login(server)
}

/// Saves credentials where the user wants them. Returns one sentence when the person should know
/// how they are protected.
pub(crate) fn save(
    session: &Session,
    server: &str,
    login: &Login,
    key: Option<KeyKind>,
) -> Result<Option<String>, Error> {
    let mut config = DockerConfig::open(session.configuration())?;
    if let Some(helper) = config.helper(server) {
        helper.store(server, login)?;
        config.note(server);
        config.write()?;
        return Ok(None);
    }
    sealed(session).save(server, login, key).map(Some)
}

/// Forgets what is saved for a server, wherever it is.
pub(crate) fn erase(session: &Session, server: &str) -> Result<(), Error> {
    let mut config = DockerConfig::open(session.configuration())?;
    let by_helper = config
        .helper(server)
        .map_or(Ok(()), |helper: Helper| helper.erase(server));
    let by_seal = sealed(session).erase(server);
    if config.forget(server) {
        config.write()?;
    }
    by_helper.and(by_seal)
}

fn sealed(session: &Session) -> Sealed {
    Sealed::new(&session.configuration().join("sampan"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_dockers_keys() {
        for (server, key) in [
            ("docker.io", HUB),
            ("index.docker.io", HUB),
            (HUB, HUB),
            ("https://index.docker.io/v1", HUB),
            ("registry-1.docker.io", HUB),
            ("localhost:5000", "localhost:5000"),
            ("https://r.io/v2/", "r.io"),
            ("http://r.io:81/", "r.io:81"),
        ] {
            assert_eq!(server_key(server), key, "{server}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let login = Login {
            username: "me".into(),
            secret: Zeroizing::new("hunter2".into()),
            is_token: false,
        };
        let shown = format!("{login:?} {:?}", login.for_engine("r.io"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
