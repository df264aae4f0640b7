//! Where the engine listens, and how what comes by TCP is protected.

use std::fmt;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};

use sampan_server::TlsFiles;

/// Where the engine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// A socket of this path.
    Unix(PathBuf),
    /// `address:port`.
    Tcp(String),
}

impl Host {
    /// Reads `unix:///path` or `tcp://address[:port]`. Docker's port with TLS is another one.
    pub(super) fn parse(text: &str, tls: bool) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(("unix", path)) => Err(format!("the socket path {path:?} is not absolute")),
            Some(("tcp", address)) => {
                let address = address.trim_end_matches('/');
                let after = address.rsplit(']').next().unwrap_or(address);
                let whole = match after.contains(':') {
                    true => address.to_owned(),
                    false => format!("{address}:{}", if tls { 2376 } else { 2375 }),
                };
                match whole.starts_with(':') || whole.contains('/') {
                    true => Err(format!(
                        "invalid --host {text:?}: name the address, as in tcp://127.0.0.1:2376"
                    )),
                    false => Ok(Self::Tcp(whole)),
                }
            }
            _ => Err(format!(
                "invalid --host {text:?}: it has the form unix:///path/of.sock, \
                 tcp://address:port or fd://"
            )),
        }
    }

    /// Whether only programs of this machine reach it.
    fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(address) => address
                .to_socket_addrs()
                .is_ok_and(|mut all| all.all(|address| address.ip().is_loopback())),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// How `--tls*` were given.
#[derive(Clone, Debug)]
pub(super) struct TlsArguments {
    pub(super) on: bool,
    pub(super) verify: bool,
    pub(super) insecure: bool,
    pub(super) authority: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

impl TlsArguments {
    /// Docker's places of the files.
    pub(super) fn from_environment() -> Self {
        let directory = crate::cli::certificates();
        Self {
            on: false,
            verify: false,
            insecure: false,
            authority: directory.join("ca.pem"),
            certificate: directory.join("cert.pem"),
            key: directory.join("key.pem"),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.on || self.verify
    }

    /// Who comes by TCP must be known, or come from this machine and be wished for.
    pub(super) fn check(&self, hosts: &[Host]) -> Result<(), String> {
        for host in hosts.iter().filter(|host| matches!(host, Host::Tcp(_))) {
            if self.verify {
                continue;
            }
            let who = "whoever can connect has all powers over this machine";
            if !host.is_local() {
                return Err(format!(
                    "{host} is not protected, and {who}: use --tlsverify with --tlscacert, \
                     --tlscert and --tlskey, or ssh://"
                ));
            }
            if !self.insecure && !self.on {
                return Err(format!(
                    "{host} is not protected, and {who}: use --tlsverify, or --insecure-tcp if \
                     all programs and users of this machine may have them"
                ));
            }
        }
        Ok(())
    }

    pub(super) fn files(&self) -> Option<TlsFiles> {
        let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        self.is_on().then(|| TlsFiles {
            certificate: whole(&self.certificate),
            key: whole(&self.key),
            client_authority: self.verify.then(|| whole(&self.authority)),
        })
    }
}

/// What hands these on to the other of the two processes.
pub(super) fn arguments(hosts: &[Host], tls: Option<&TlsFiles>) -> Vec<String> {
    let mut arguments = Vec::new();
    for host in hosts {
        arguments.extend(["--host".to_owned(), host.to_string()]);
    }
    let Some(tls) = tls else {
        // It has been asked for, or no host is of TCP.
        arguments.push("--insecure-tcp".to_owned());
        return arguments;
    };
    let path = |path: &Path| path.to_string_lossy().into_owned();
    arguments.extend(["--tls".to_owned(), "--tlscert".to_owned()]);
    arguments.extend([
        path(&tls.certificate),
        "--tlskey".to_owned(),
        path(&tls.key),
    ]);
    if let Some(authority) = &tls.client_authority {
        arguments.extend(["--tlsverify".to_owned(), "--tlscacert".to_owned()]);
        arguments.push(path(authority));
    }
    arguments
}
