//! What a client is told. It reads no environment and no file but the system's certificates.

use std::time::Duration;

/// How to reach registries.
#[derive(Clone, Debug)]
pub struct Config {
    /// How the client names itself.
    pub user_agent: String,
    /// Registries (`host` or `host:port`) that need no valid certificate and may speak plain
    /// HTTP. Those on loopback always are.
    pub insecure: Vec<String>,
    /// Proxies.
    pub proxies: Proxies,
    /// Additional roots of trust, each a PEM bundle.
    pub roots: Vec<Vec<u8>>,
    /// Hosts that may be given credentials as token services, beside those of the registry's own
    /// domain. None leaves it to the registry, as Docker does.
    pub token_hosts: Option<Vec<String>>,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long to wait for the next bytes.
    pub stall_timeout: Duration,
    /// Bytes a second that a download must bring on average over [`Config::stall_timeout`].
    pub slowest: u64,
    /// How often to try, the first time included.
    pub attempts: u32,
    /// How long to wait before the second attempt; doubled before each further one.
    pub backoff: Duration,
}

/// Proxies, as the variables of the environment have them.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// For plain HTTP.
    pub http: Option<String>,
    /// For HTTPS.
    pub https: Option<String>,
    /// Hosts, domains and networks that are reached without, separated by commas.
    pub none: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            user_agent: concat!("sampan/", env!("CARGO_PKG_VERSION")).to_owned(),
            insecure: Vec::new(),
            proxies: Proxies::default(),
            roots: Vec::new(),
            token_hosts: None,
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            slowest: 512,
            attempts: 5,
            backoff: Duration::from_millis(250),
        }
    }
}
