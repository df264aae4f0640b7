//! A typed client of the Engine API over a unix or TCP socket.
//!
//! One connection per request, so that a stream that nobody reads holds up nothing else; on a
//! unix socket a connection costs some ten microseconds. Nothing is retried: what to do when
//! the engine is away is the caller's decision. Dropping a future or a stream closes its
//! connection, which is how a request is given up.
//!
//! [`Client::request`] begins any request; the methods in the modules below are the ones with
//! types, each named after its route.

mod connection;
mod container;
mod error;
mod exec;
mod hijack;
mod image;
mod network;
mod request;
mod response;
mod system;
mod tls;
mod volume;

use std::path::PathBuf;
use std::str::FromStr;

pub use container::{
    AttachOptions, CommitOptions, ListOptions, LogsOptions, PendingWait, WaitCondition,
};
pub use error::{Error, Kind};
pub use hijack::{Hijacked, Socket};
pub use image::{ImportOptions, PullOptions, PushOptions};
pub use request::{Request, encode_segment};
pub use response::{ByteStream, JsonStream, Response};
pub use tls::{Tls, TlsError, TlsFiles, Trust};

use crate::version::ApiVersion;

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
    /// A program whose input and output are the connection, with its arguments.
    Program(Vec<String>),
}

/// The text names no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse docker host `{0}`")]
pub struct InvalidEndpoint(String);

impl FromStr for Endpoint {
    type Err = InvalidEndpoint;

    /// Reads `unix:///path`, `tcp://host[:port]` or an absolute path.
    fn from_str(text: &str) -> Result<Self, InvalidEndpoint> {
        let invalid = || InvalidEndpoint(text.to_owned());
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        match text.split_once("://").ok_or_else(invalid)? {
            ("unix", path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            ("tcp" | "http", address) => {
                let address = address.trim_end_matches('/');
                if address.is_empty() || address.contains('/') {
                    return Err(invalid());
                }
                // A colon inside of brackets belongs to an IPv6 address.
                let port = address.rsplit(']').next().unwrap_or(address);
                Ok(Self::Tcp(if port.contains(':') {
                    address.to_owned()
                } else {
                    format!("{address}:2375")
                }))
            }
            _ => Err(invalid()),
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Program(words) => f.write_str(&words.join(" ")),
        }
    }
}

/// A client of one engine. Cheap to clone; holds no connection.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
    tls: Option<Tls>,
    version: ApiVersion,
}

impl Client {
    /// A client that speaks the newest version.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            tls: None,
            version: ApiVersion::NEWEST,
        }
    }

    /// The same client, which encrypts what goes by TCP.
    #[must_use]
    pub fn with_tls(self, tls: Option<Tls>) -> Self {
        Self { tls, ..self }
    }

    /// Opens a connection on which nothing is said yet.
    pub async fn connect(&self) -> Result<Socket, Error> {
        connection::connect(&self.endpoint, self.tls.as_ref()).await
    }

    /// The same client, speaking another version.
    #[must_use]
    pub fn with_version(self, version: ApiVersion) -> Self {
        Self { version, ..self }
    }

    /// Where the engine listens.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The version that is spoken.
    #[must_use]
    pub fn version(&self) -> ApiVersion {
        self.version
    }

    /// Begins a request. `path` starts with a slash, has no version, and its parts are encoded
    /// already (see [`encode_segment`]).
    pub fn request(&self, method: http::Method, path: impl AsRef<str>) -> Request<'_> {
        Request::new(self, method, format!("/v{}{}", self.version, path.as_ref()))
    }

    /// Begins a request of a path without a version, such as `/_ping`.
    pub fn unversioned(&self, method: http::Method, path: impl Into<String>) -> Request<'_> {
        Request::new(self, method, path.into())
    }

    fn get(&self, path: impl AsRef<str>) -> Request<'_> {
        self.request(http::Method::GET, path)
    }

    fn post(&self, path: impl AsRef<str>) -> Request<'_> {
        self.request(http::Method::POST, path)
    }

    fn delete(&self, path: impl AsRef<str>) -> Request<'_> {
        self.request(http::Method::DELETE, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_as_docker_reads_them() {
        let endpoint = |text: &str| text.parse::<Endpoint>();
        assert_eq!(
            endpoint("unix:///run/x"),
            Ok(Endpoint::Unix("/run/x".into()))
        );
        assert_eq!(endpoint("tcp://h"), Ok(Endpoint::Tcp("h:2375".into())));
        assert_eq!(endpoint("tcp://h:1/"), Ok(Endpoint::Tcp("h:1".into())));
        assert_eq!(
            endpoint("tcp://[::1]"),
            Ok(Endpoint::Tcp("[::1]:2375".into()))
        );
        assert_eq!(
            endpoint("tcp://[::1]:9"),
            Ok(Endpoint::Tcp("[::1]:9".into()))
        );
        for bad in ["", "x", "unix://relative", "tcp://", "ftp://h", "tcp://h/p"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
