//! The configuration file of a registry, as TOML.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::access::Rule;
use crate::http::Limits;
use crate::registry::Settings;

/// Everything that can be configured. What is left out is as by default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Address to listen on.
    pub listen: Option<SocketAddr>,
    /// Directory of what the registry holds.
    pub root: Option<PathBuf>,
    /// How clients reach the registry, where a proxy stands before it.
    pub public_url: Option<String>,
    /// Address of a second listener, for metrics alone.
    pub metrics_listen: Option<SocketAddr>,
    /// File of who did what.
    pub audit_log: Option<PathBuf>,
    /// Encryption.
    pub tls: Option<Tls>,
    /// How clients say who they are.
    pub auth: Auth,
    /// Who may do what.
    #[serde(rename = "rule")]
    pub rules: Option<Vec<Rule>>,
    /// Bounds.
    pub limits: LimitsConfig,
    /// Collecting what nobody needs.
    pub collect: Collect,
    /// A bucket in place of the directory for blobs and records.
    pub s3: Option<S3>,
    /// Copies of other registries.
    #[serde(rename = "cache")]
    pub caches: Vec<Cache>,
}

/// Files of encryption, in PEM form.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tls {
    /// The certificate and those that lead to its root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// The ways to say who one is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthScheme {
    /// Nobody is asked.
    #[default]
    None,
    /// By user name and password with each request.
    Basic,
    /// By tokens that this registry gives for user name and password.
    Token,
}

/// How clients say who they are.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Auth {
    /// In which way.
    pub scheme: AuthScheme,
    /// File of users, as `htpasswd -B` writes it.
    pub users: Option<PathBuf>,
    /// Name of the service that tokens are for.
    pub service: Option<String>,
}

/// Bounds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LimitsConfig {
    /// Bytes of a blob.
    pub max_blob: Option<Bytes>,
    /// Bytes of a manifest, at most 4 MiB.
    pub max_manifest: Option<Bytes>,
    /// Unfinished uploads at once.
    pub max_uploads: Option<usize>,
    /// Connections at once.
    pub connections: Option<usize>,
    /// Requests a second of one client.
    pub requests_per_second: Option<f64>,
    /// Requests at once beyond that.
    pub burst: Option<f64>,
    /// The longest silence in a body.
    pub body_timeout: Option<Time>,
    /// Bytes a second that a body must bring.
    pub slowest: Option<Bytes>,
    /// Whether an index may list manifests that are not there.
    pub sparse_indexes: bool,
}

/// Collecting what nobody needs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Collect {
    /// How often.
    pub every: Option<Time>,
    /// How long a blob stays that a client was told to be there and that no manifest needs.
    pub lease: Option<Time>,
    /// How long an upload stays to which nothing comes.
    pub uploads: Option<Time>,
    /// How long untagged manifests stay; for ever if left out.
    pub untagged: Option<Time>,
}

/// A bucket of an S3-compatible service.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct S3 {
    /// Its name.
    pub bucket: String,
    /// Where it is, if not at Amazon's.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// What stands before all names in the bucket.
    #[serde(default)]
    pub prefix: String,
    /// The key's name.
    pub access_key_id: Option<String>,
    /// The key.
    pub secret_access_key: Option<String>,
    /// File with the key.
    pub secret_access_key_file: Option<PathBuf>,
}

impl std::fmt::Debug for S3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3")
            .field("bucket", &self.bucket)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// A copy of another registry, filled as it is asked for.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cache {
    /// Repositories below this are of the cache; all if empty.
    #[serde(default)]
    pub prefix: String,
    /// The registry, as in `docker.io` or `https://registry.example.com`.
    pub upstream: String,
    /// Whether the upstream may speak plain HTTP or have a certificate of its own making.
    #[serde(default)]
    pub insecure: bool,
    /// The account there.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// Further hosts that may be given the password for a token, beside those of the registry's
    /// own domain.
    #[serde(default)]
    pub token_hosts: Vec<String>,
    /// How long a tag is taken for what it was.
    pub fresh: Option<Time>,
    /// How long a blob stays that nobody asks for.
    pub keep: Option<Time>,
}

impl Cache {
    /// A cache of a registry for all repositories, for nobody in particular.
    pub fn of(upstream: &str) -> Self {
        Self {
            prefix: String::new(),
            upstream: upstream.to_owned(),
            insecure: false,
            username: None,
            password: None,
            password_file: None,
            token_hosts: Vec::new(),
            fresh: None,
            keep: None,
        }
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache")
            .field("prefix", &self.prefix)
            .field("upstream", &self.upstream)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A number of bytes: `10 GiB`, `500M` (powers of 1024), or a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// A time: `90s`, `5m`, `2h`, `30d`, or a plain number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

/// A number with a unit, or without.
#[derive(Deserialize)]
#[serde(untagged)]
enum Quantity {
    Number(u64),
    Text(String),
}

fn scaled<'de, D: Deserializer<'de>>(
    deserializer: D,
    units: &[(&str, u64)],
    example: &str,
) -> Result<u64, D::Error> {
    let text = match Quantity::deserialize(deserializer)? {
        Quantity::Number(number) => return Ok(number),
        Quantity::Text(text) => text,
    };
    let digits = text
        .trim()
        .trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = text.trim()[digits.len()..].trim();
    let value = digits.parse::<u64>().ok().and_then(|number| {
        let (_, scale) = units
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
        number.checked_mul(*scale)
    });
    value.ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not of the form {example}")))
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let units = [
            ("", 1),
            ("B", 1),
            ("K", 1 << 10),
            ("KB", 1 << 10),
            ("KiB", 1 << 10),
            ("M", 1 << 20),
            ("MB", 1 << 20),
            ("MiB", 1 << 20),
            ("G", 1 << 30),
            ("GB", 1 << 30),
            ("GiB", 1 << 30),
            ("T", 1 << 40),
            ("TB", 1 << 40),
            ("TiB", 1 << 40),
        ];
        scaled(deserializer, &units, "\"10 GiB\"").map(Self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let units = [
            ("", 1),
            ("s", 1),
            ("m", 60),
            ("h", 3600),
            ("d", 86_400),
            ("w", 604_800),
        ];
        let seconds = scaled(deserializer, &units, "\"90s\" or \"2h\"")?;
        Ok(Self(Duration::from_secs(seconds)))
    }
}

/// The text is no configuration.
#[derive(Debug, thiserror::Error)]
#[error("the configuration is not valid: {0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads a configuration.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError(error.to_string()))?;
        config
            .check()
            .map_err(|text| ConfigError(text.to_owned()))?;
        Ok(config)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.auth.scheme != AuthScheme::None && self.auth.users.is_none() {
            return Err("auth.scheme needs auth.users, a file as `htpasswd -B` writes it");
        }
        if self
            .limits
            .requests_per_second
            .is_some_and(|rate| !(rate > 0.0 && rate.is_finite()))
        {
            return Err("limits.requests-per-second must be more than nothing");
        }
        for (number, cache) in self.caches.iter().enumerate() {
            if self.caches[..number]
                .iter()
                .any(|other| other.prefix == cache.prefix)
            {
                return Err("two caches have the same prefix");
            }
        }
        Ok(())
    }

    /// Returns how the registry works.
    pub fn settings(&self) -> Settings {
        let usual = Settings::default();
        Settings {
            lease: self.collect.lease.map_or(usual.lease, |time| time.0),
            upload_life: self
                .collect
                .uploads
                .map_or(usual.upload_life, |time| time.0),
            max_uploads: self.limits.max_uploads.unwrap_or(usual.max_uploads),
            max_blob: self.limits.max_blob.map_or(usual.max_blob, |bytes| bytes.0),
            max_manifest: self
                .limits
                .max_manifest
                .map_or(usual.max_manifest, |bytes| bytes.0.min(usual.max_manifest)),
            sparse_indexes: self.limits.sparse_indexes,
            untagged_life: self.collect.untagged.map(|time| time.0),
        }
    }

    /// Returns the bounds on clients.
    pub fn limits(&self) -> Limits {
        let usual = Limits::default();
        Limits {
            connections: self.limits.connections.unwrap_or(usual.connections),
            stall: self.limits.body_timeout.map_or(usual.stall, |time| time.0),
            slowest: self.limits.slowest.map_or(usual.slowest, |bytes| bytes.0),
            collect_every: self
                .collect
                .every
                .map_or(usual.collect_every, |time| time.0),
            requests: self.limits.requests_per_second.map(|rate| {
                let burst = self.limits.burst.unwrap_or(rate * 10.0);
                (rate, burst)
            }),
            ..usual
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = r#"
        listen = "0.0.0.0:5000"
        root = "/srv/registry"
        public-url = "https://registry.example.com"
        metrics-listen = "127.0.0.1:9100"
        audit-log = "/var/log/registry"
        tls = { certificate = "cert.pem", key = "key.pem" }
        [auth]
        scheme = "token"
        users = "users"
        service = "registry.example.com"
        [[rule]]
        repositories = ["team/**", "public/*"]
        users = ["alice", "@authenticated"]
        rights = ["pull", "push", "delete"]
        [limits]
        max-blob = "10 GiB"
        max-manifest = "1M"
        max-uploads = 5
        connections = 100
        requests-per-second = 50
        body-timeout = "30s"
        slowest = 100
        [collect]
        every = "5m"
        lease = "2h"
        uploads = "1d"
        untagged = "4w"
        [s3]
        bucket = "images"
        endpoint = "http://127.0.0.1:9000"
        secret-access-key = "hidden"
        [[cache]]
        prefix = "hub"
        upstream = "docker.io"
        password = "hidden"
        fresh = "10m"
    "#;

    #[test]
    fn everything_is_read() {
        let config = Config::parse(ALL).unwrap();
        let settings = config.settings();
        assert_eq!(settings.max_blob, 10 << 30);
        assert_eq!(settings.max_manifest, 1 << 20);
        assert_eq!(settings.lease, Duration::from_secs(7200));
        assert_eq!(
            settings.untagged_life,
            Some(Duration::from_secs(28 * 86_400))
        );
        let limits = config.limits();
        assert_eq!(limits.stall, Duration::from_secs(30));
        assert_eq!(limits.requests, Some((50.0, 500.0)));
        assert_eq!(config.rules.as_ref().unwrap().len(), 1);
        assert!(!format!("{config:?}").contains("hidden"));
        assert!(Config::parse("").unwrap().rules.is_none());
    }

    #[test]
    fn mistakes_are_told() {
        for (text, word) in [
            ("lisen = \"x\"", "lisen"),
            ("[limits]\nmax-blob = \"10 parsecs\"", "parsecs"),
            ("[collect]\nlease = \"-1s\"", "-1s"),
            ("[auth]\nscheme = \"basic\"", "auth.users"),
            ("[limits]\nrequests-per-second = 0", "requests-per-second"),
            (
                "[[rule]]\nrepositories=[\"A\"]\nusers=[]\nrights=[]",
                "no repository",
            ),
            (
                "[[rule]]\nrepositories=[]\nusers=[\"@all\"]\nrights=[]",
                "nobody",
            ),
            (
                "[[cache]]\nupstream=\"a\"\n[[cache]]\nupstream=\"b\"",
                "same prefix",
            ),
        ] {
            let error = Config::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
