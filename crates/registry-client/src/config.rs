//! What a client is told. It reads no environment and no file but the system's certificates.

use std::sync::Arc;
use std::time::Duration;

use crate::settings::{Fixed, SettingsSource};

/// How to reach registries.
#[derive(Clone, Debug)]
pub struct Config {
    /// How the client names itself.
    pub user_agent: String,
    /// What users say of registries.
    pub settings: Arc<dyn SettingsSource>,
    /// Proxies.
    pub proxies: Proxies,
    /// Additional roots of trust, each a PEM bundle.
    pub roots: Vec<Vec<u8>>,
    /// Hosts (`host` or `host:port`) whose token services may have any registry's credentials,
    /// beside those of the registry's own site and those that the settings name for it.
    pub token_hosts: Vec<String>,
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
            settings: Arc::new(Fixed::default()),
            proxies: Proxies::default(),
            roots: Vec::new(),
            token_hosts: Vec::new(),
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            slowest: 512,
            attempts: 5,
            backoff: Duration::from_millis(250),
        }
    }
}
