//! Engines elsewhere: how they are named and reached.

use std::path::{Path, PathBuf};

use sampan_api::client::{Endpoint, Tls, TlsFiles, Trust};

use super::failure::Failure;
use super::session::variable;

/// How `--tls*` were given in front of the command.
#[derive(Debug, Default)]
pub(crate) struct TlsFlags {
    pub(crate) on: bool,
    /// Present when it was given, whatever its value.
    pub(crate) verify: Option<bool>,
    pub(crate) authority: Option<String>,
    pub(crate) certificate: Option<String>,
    pub(crate) key: Option<String>,
}

/// The directory of certificates: `DOCKER_CERT_PATH`, or that of the client's configuration.
pub(crate) fn certificates() -> PathBuf {
    variable("DOCKER_CERT_PATH").map_or_else(super::session::default_configuration, PathBuf::from)
}

impl TlsFlags {
    /// Whether anything of TLS is wished for. `--tlsverify=false` is a wish, too.
    pub(crate) fn is_on(&self) -> bool {
        self.on
            || self.verify.is_some()
            || variable("DOCKER_TLS").is_some()
            || variable("DOCKER_TLS_VERIFY").is_some()
    }

    /// The files by flags and environment, by Docker's rules.
    fn files(&self, directory: &Path) -> TlsFiles {
        let place = |given: &Option<String>, usual: &str| match given {
            Some(path) => PathBuf::from(path),
            None => directory.join(usual),
        };
        let certificate = place(&self.certificate, "cert.pem");
        let key = place(&self.key, "key.pem");
        // The usual files are used when they are there; named ones have to be.
        let named = self.certificate.is_some() || self.key.is_some();
        let verify = self
            .verify
            .unwrap_or_else(|| variable("DOCKER_TLS_VERIFY").is_some());
        TlsFiles {
            trust: match verify {
                true => Trust::Authority(place(&self.authority, "ca.pem")),
                false => Trust::Anybody,
            },
            own: (named || (certificate.exists() && key.exists())).then_some((certificate, key)),
        }
    }

    /// Reads the files for an engine that is reached by TCP.
    pub(crate) fn open(&self, endpoint: &Endpoint) -> Result<Option<Tls>, Failure> {
        if !self.is_on() || !matches!(endpoint, Endpoint::Tcp(_)) {
            return Ok(None);
        }
        let opened = Tls::open(&self.files(&certificates()));
        opened
            .map(Some)
            .map_err(|error| Failure::message(error.to_string()))
    }
}

/// Reads `ssh://[user@]host[:port][/path of a socket]`: a program that runs `ssh`, and on the other
/// machine what connects to the engine there.
pub(crate) fn ssh(text: &str) -> Result<Endpoint, String> {
    let invalid = |why: &str| format!("unable to parse docker host `{text}`: {why}");
    let rest = text.strip_prefix("ssh://").unwrap_or(text);
    if rest.contains(['?', '#']) {
        return Err(invalid("extra query or fragment after the host"));
    }
    let (place, socket) = match rest.split_once('/') {
        Some((place, "")) => (place, None),
        Some((place, path)) => (place, Some(format!("/{path}"))),
        None => (rest, None),
    };
    let (user, address) = match place.rsplit_once('@') {
        Some((user, _)) if user.contains(':') => {
            return Err(invalid("plain-text password is not supported"));
        }
        Some((user, address)) => (Some(user), address),
        None => (None, place),
    };
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest
                .split_once(']')
                .ok_or_else(|| invalid("no host specified"))?;
            (host, port.strip_prefix(':'))
        }
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    if host.is_empty() {
        return Err(invalid("no host specified"));
    }
    // Neither may become an option of ssh.
    if [user, Some(host)]
        .into_iter()
        .flatten()
        .any(|word| word.starts_with('-'))
    {
        return Err(invalid("a name begins with a dash"));
    }
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(invalid("bad port"));
    }
    let mut words = vec!["ssh", "-o", "ConnectTimeout=30", "-T"];
    if let Some(user) = user {
        words.extend(["-l", user]);
    }
    if let Some(port) = port {
        words.extend(["-p", port]);
    }
    words.extend(["--", host, "sampan"]);
    let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    if let Some(socket) = socket {
        words.extend(["--host".to_owned(), quoted(&format!("unix://{socket}"))]);
    }
    words.extend(["system", "dial-stdio"].map(str::to_owned));
    Ok(Endpoint::Program(words))
}

/// A word for the shell of the other machine.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_is_run_as_docker_runs_it() {
        for (text, expected) in [
            (
                "ssh://host",
                "ssh -o ConnectTimeout=30 -T -- host sampan system dial-stdio",
            ),
            (
                "ssh://me@host:22/",
                "ssh -o ConnectTimeout=30 -T -l me -p 22 -- host sampan system dial-stdio",
            ),
            (
                "ssh://[::1]:22/run/x y.sock",
                "ssh -o ConnectTimeout=30 -T -p 22 -- ::1 sampan --host 'unix:///run/x y.sock' system dial-stdio",
            ),
        ] {
            assert_eq!(ssh(text).unwrap().to_string(), expected);
        }
        for bad in [
            "ssh://",
            "ssh://me:secret@host",
            "ssh://-oProxyCommand=x",
            "ssh://-x@host",
            "ssh://host:x",
            "ssh://host?q",
        ] {
            assert!(ssh(bad).is_err(), "{bad}");
        }
    }
}
