//! What users say of registries: where a name is fetched from, and how a host is talked to.
//!
//! Plain data and pure decisions. Who reads the files, and when, is the caller's business: it
//! gives a [`SettingsSource`] that is asked before each operation.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use sampan_oci::Reference;

use crate::Credentials;
use crate::address::{api_host, bare_host, is_loopback, port_is_implied};

/// Everything a user says of registries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where names are fetched from. The rule with the longest prefix counts, alone.
    pub rules: Vec<Rule>,
    /// How hosts are talked to, by `host` or `host:port` as in a reference.
    pub hosts: BTreeMap<String, Host>,
    /// Registries and networks of registries that may be insecure. Loopback is, unless a host of
    /// it has roots of trust.
    pub insecure: Vec<Insecure>,
}

/// Where the repositories of a registry, or of a part of it, are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The repositories that this is about: `docker.io` or `docker.io/library`.
    pub prefix: Location,
    /// What takes the prefix's place; none to leave names as they are.
    pub location: Option<Location>,
    /// Who may have copies, in the order in which they are asked. Never pushed to.
    pub mirrors: Vec<Location>,
}

/// How a host is talked to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// How much the connection must be worth.
    pub security: Security,
    /// Roots of trust beside the system's, each a PEM bundle.
    pub roots: Vec<Arc<[u8]>>,
    /// What the client shows of itself.
    pub identity: Option<Identity>,
    /// Who asks when the request does not say, as with mirrors.
    pub credentials: Credentials,
    /// Hosts of token services, beyond those that are trusted anyway, that may have credentials.
    pub token_services: Vec<String>,
}

/// How much a connection must be worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// TLS with a certificate that can be verified.
    #[default]
    Verified,
    /// TLS with any certificate, or plain HTTP where nobody speaks TLS.
    Insecure,
    /// Plain HTTP.
    Plain,
}

/// A client's certificates with their private key, in PEM. `Debug` hides them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity(pub Arc<[u8]>);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// A registry or a path in it: `host[:port][/path]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    host: String,
    path: String,
    plain: bool,
}

/// Registries that may be insecure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Insecure {
    /// One, as in a reference.
    Host(String),
    /// All whose address, as it is written, is in a network.
    Network {
        /// Any address of it.
        address: IpAddr,
        /// How many bits the addresses have in common.
        bits: u8,
    },
}

/// Where one image is fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The registry, as in `docker.io` or `localhost:5000`.
    pub registry: String,
    /// The repository there.
    pub repository: String,
    /// Whether this is only a copy.
    pub is_mirror: bool,
    /// Whether it is the registry that the image's name says, whose credentials are given.
    pub is_named: bool,
}

/// Gives the settings as they are now.
pub trait SettingsSource: fmt::Debug + Send + Sync {
    /// Returns the settings; the same allocation as before if nothing changed.
    fn current(&self) -> Arc<Settings>;
}

/// Settings that stay as they are.
#[derive(Clone, Debug, Default)]
pub struct Fixed(Arc<Settings>);

impl From<Settings> for Fixed {
    fn from(settings: Settings) -> Self {
        Self(Arc::new(settings))
    }
}

impl SettingsSource for Fixed {
    fn current(&self) -> Arc<Settings> {
        self.0.clone()
    }
}

impl Settings {
    /// Returns where an image is fetched from, the best place first and the origin last.
    pub fn endpoints_for(&self, image: &Reference) -> Vec<Endpoint> {
        let (registry, repository) = (image.registry(), image.repository());
        let rule = self.rule_for(registry, repository);
        let endpoint = |location: &Location, rest: &str, is_mirror: bool| {
            let repository = join(&location.path, rest);
            (!repository.is_empty()).then(|| Endpoint {
                is_named: api_host(&location.host) == api_host(registry),
                registry: location.host.clone(),
                repository,
                is_mirror,
            })
        };
        let named = Location {
            host: registry.to_owned(),
            path: String::new(),
            plain: false,
        };
        let Some((rule, rest)) = rule else {
            return endpoint(&named, repository, false).into_iter().collect();
        };
        let mirrors = rule.mirrors.iter();
        let mut endpoints: Vec<_> = mirrors
            .filter_map(|mirror| endpoint(mirror, rest, true))
            .collect();
        let origin = match &rule.location {
            Some(location) => endpoint(location, rest, false),
            None => endpoint(&named, repository, false),
        };
        endpoints.extend(origin);
        endpoints
    }

    /// The rule with the longest prefix, and what the prefix leaves of the repository.
    fn rule_for<'a>(&self, registry: &str, repository: &'a str) -> Option<(&Rule, &'a str)> {
        self.rules
            .iter()
            .filter_map(|rule| Some((rule, rule.prefix.strip(registry, repository)?)))
            .max_by_key(|(rule, _)| rule.prefix.path.len())
    }

    /// Returns how a host is talked to, if something is said of it.
    pub fn host(&self, host: &str) -> Option<&Host> {
        self.hosts.iter().find_map(|(name, settings)| {
            (port_is_implied(api_host(name)) == port_is_implied(api_host(host))).then_some(settings)
        })
    }

    /// Returns how much a connection to a host must be worth.
    pub fn security(&self, host: &str) -> Security {
        let own = self.host(host);
        let said = own.map(|host| host.security);
        let has_roots = own.is_some_and(|host| !host.roots.is_empty());
        let plain = || {
            let mut locations = self
                .rules
                .iter()
                .flat_map(|rule| rule.mirrors.iter().chain(&rule.location));
            locations.any(|location| location.plain && location.host == host)
        };
        match said {
            Some(said @ (Security::Insecure | Security::Plain)) => said,
            _ if plain() => Security::Plain,
            _ if self.insecure.iter().any(|entry| entry.covers(host)) => Security::Insecure,
            // Who names a certificate's authority wants the certificate verified.
            _ if is_loopback(host) && !has_roots => Security::Insecure,
            _ => Security::Verified,
        }
    }

    /// Returns the mirrors of a whole registry.
    pub fn mirrors_of(&self, registry: &str) -> &[Location] {
        self.rules
            .iter()
            .find(|rule| rule.prefix.host == registry && rule.prefix.path.is_empty())
            .map_or(&[], |rule| &rule.mirrors)
    }
}

impl Host {
    /// Says what is wrong with the certificates.
    pub fn check(&self) -> Result<(), String> {
        for pem in &self.roots {
            let certificates = reqwest::Certificate::from_pem_bundle(pem);
            let certificates = certificates.map_err(|error| format!("certificate: {error}"))?;
            if certificates.is_empty() {
                return Err("there is no certificate in the file of a CA".to_owned());
            }
        }
        match &self.identity {
            Some(identity) => reqwest::Identity::from_pem(&identity.0)
                .map(drop)
                .map_err(|error| format!("client certificate: {error}")),
            None => Ok(()),
        }
    }

    /// Whether connections to it are unlike those to others.
    pub(crate) fn has_certificates(&self) -> bool {
        !self.roots.is_empty() || self.identity.is_some()
    }
}

fn join(path: &str, rest: &str) -> String {
    match (path, rest) {
        ("", rest) => rest.to_owned(),
        (path, "") => path.to_owned(),
        (path, rest) => format!("{path}/{rest}"),
    }
}

impl Location {
    /// Returns the registry, as in `docker.io` or `localhost:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the path below the registry; empty for the whole of it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is left of a repository that lies here.
    fn strip<'a>(&self, registry: &str, repository: &'a str) -> Option<&'a str> {
        if api_host(&self.host) != api_host(registry) {
            return None;
        }
        if self.path.is_empty() {
            return Some(repository);
        }
        match repository.strip_prefix(&self.path)? {
            "" => Some(""),
            rest => rest.strip_prefix('/'),
        }
    }
}

/// The address of a mirror, as `info` shows it.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.plain { "http" } else { "https" };
        write!(f, "{scheme}://{}/", self.host)?;
        match self.path.as_str() {
            "" => Ok(()),
            path => write!(f, "{path}/"),
        }
    }
}

/// A text that names no registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {reason}")]
pub struct InvalidLocation {
    text: String,
    reason: &'static str,
}

impl FromStr for Location {
    type Err = InvalidLocation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |reason| InvalidLocation {
            text: text.to_owned(),
            reason,
        };
        let (plain, rest) = match text.split_once("://") {
            Some(("https", rest)) => (false, rest),
            Some(("http", rest)) => (true, rest),
            Some(_) => return Err(invalid("has a scheme that is neither http nor https")),
            None => (false, text),
        };
        if rest.contains('@') {
            return Err(invalid("may not hold a user name or a password"));
        }
        if rest.contains(['?', '#']) {
            return Err(invalid("may not have a query or a fragment"));
        }
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_end_matches('/');
        let is_host = reqwest::Url::parse(&format!("https://{host}/"))
            .is_ok_and(|url| url.host_str().is_some_and(|name| name == bare_host(host)))
            && host.is_ascii();
        if host.is_empty() || !is_host {
            return Err(invalid("does not begin with the name of a host"));
        }
        // The grammar of repositories is the reference's.
        if !path.is_empty() && format!("x.io/{path}").parse::<Reference>().is_err()
            || path.contains(':')
        {
            return Err(invalid("has a path that is no repository's"));
        }
        Ok(Self {
            host: host.to_owned(),
            path: path.to_owned(),
            plain,
        })
    }
}

impl Insecure {
    fn covers(&self, host: &str) -> bool {
        match self {
            Self::Host(name) => name == host,
            Self::Network { address, bits } => {
                let literal = bare_host(host).trim_matches(['[', ']']);
                literal
                    .parse()
                    .is_ok_and(|ip| same_network(*address, ip, *bits))
            }
        }
    }
}

fn same_network(a: IpAddr, b: IpAddr, bits: u8) -> bool {
    let left = |width: u32| width.saturating_sub(u32::from(bits));
    match (a.to_canonical(), b.to_canonical()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (a.to_bits() ^ b.to_bits())
                .checked_shr(left(32))
                .unwrap_or(0)
                == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (a.to_bits() ^ b.to_bits())
                .checked_shr(left(128))
                .unwrap_or(0)
                == 0
        }
        _ => false,
    }
}

impl fmt::Display for Insecure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => f.write_str(name),
            Self::Network { address, bits } => write!(f, "{address}/{bits}"),
        }
    }
}

impl FromStr for Insecure {
    type Err = InvalidLocation;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains("://") {
            return Err(InvalidLocation {
                text: text.to_owned(),
                reason: "should not contain '://'",
            });
        }
        if let Some((address, bits)) = text.split_once('/') {
            let network = || {
                let address: IpAddr = address.parse().ok()?;
                let bits: u8 = bits.parse().ok()?;
                let most = if address.is_ipv4() { 32 } else { 128 };
                (bits <= most).then_some(Self::Network { address, bits })
            };
            return network().ok_or_else(|| InvalidLocation {
                text: text.to_owned(),
                reason: "is neither a registry's host nor a network such as 10.0.0.0/8",
            });
        }
        Ok(Self::Host(text.parse::<Location>()?.host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(prefix: &str, location: Option<&str>, mirrors: &[&str]) -> Rule {
        Rule {
            prefix: prefix.parse().unwrap(),
            location: location.map(|text| text.parse().unwrap()),
            mirrors: mirrors.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn shown(endpoint: &Endpoint) -> String {
        let mark = |set, mark| if set { mark } else { "" };
        format!(
            "{}{}/{}{}",
            mark(endpoint.is_mirror, "~"),
            endpoint.registry,
            endpoint.repository,
            mark(endpoint.is_named, "*")
        )
    }

    /// `~` marks a mirror, `*` the host that the credentials of the name are for.
    #[test]
    fn names_lead_to_endpoints() {
        let settings = Settings {
            rules: vec![
                rule("docker.io", None, &["m1.io", "http://m2.io:5000/hub"]),
                rule("docker.io/library", None, &["m3.io/official"]),
                rule("old.io", Some("new.io/archive"), &[]),
                rule("a.io/team", Some("b.io"), &["a.io/copy"]),
                rule("a.io/team/app", None, &[]),
            ],
            ..Settings::default()
        };
        for (image, endpoints) in [
            (
                "busybox",
                &["~m3.io/official/busybox", "docker.io/library/busybox*"][..],
            ),
            (
                "me/app",
                &[
                    "~m1.io/me/app",
                    "~m2.io:5000/hub/me/app",
                    "docker.io/me/app*",
                ],
            ),
            ("old.io/x", &["new.io/archive/x"]),
            ("a.io/x", &["a.io/x*"]),
            ("a.io/teams/x", &["a.io/teams/x*"]),
            ("a.io/team/x", &["~a.io/copy/x*", "b.io/x"]),
            ("a.io/team/app", &["a.io/team/app*"]),
            ("a.io/team/app/sub", &["a.io/team/app/sub*"]),
            ("a.io/team", &["~a.io/copy*"]),
            ("c.io:5000/x", &["c.io:5000/x*"]),
        ] {
            let found = settings.endpoints_for(&image.parse().unwrap());
            let found: Vec<_> = found.iter().map(shown).collect();
            assert_eq!(found, endpoints, "{image}");
        }
    }

    #[test]
    fn connections_are_as_secure_as_is_said() {
        let host = |security| Host {
            security,
            ..Host::default()
        };
        let settings = Settings {
            rules: vec![rule("docker.io", None, &["http://m.io", "s.io"])],
            hosts: [
                ("plain.io".to_owned(), host(Security::Plain)),
                ("lax.io:5000".to_owned(), host(Security::Insecure)),
                ("ca.io".to_owned(), host(Security::Verified)),
                (
                    "127.0.0.1:2".to_owned(),
                    Host {
                        roots: vec![Arc::from(&b"PEM"[..])],
                        ..Host::default()
                    },
                ),
            ]
            .into(),
            insecure: ["10.0.0.0/8", "fd00::/8", "named.io", "ported.io:81"]
                .map(|text| text.parse().unwrap())
                .into(),
        };
        for (host, security) in [
            ("docker.io", Security::Verified),
            ("m.io", Security::Plain),
            ("s.io", Security::Verified),
            ("plain.io", Security::Plain),
            ("lax.io:5000", Security::Insecure),
            ("lax.io", Security::Verified),
            ("ca.io", Security::Verified),
            ("10.1.2.3:5000", Security::Insecure),
            ("11.1.2.3", Security::Verified),
            ("10.evil.io", Security::Verified),
            ("[fd00::1]:5000", Security::Insecure),
            ("[fe00::1]:5000", Security::Verified),
            ("named.io", Security::Insecure),
            ("sub.named.io", Security::Verified),
            ("ported.io", Security::Verified),
            ("ported.io:81", Security::Insecure),
            ("127.0.0.1:1", Security::Insecure),
            ("127.0.0.1:2", Security::Verified),
            ("localhost", Security::Insecure),
        ] {
            assert_eq!(settings.security(host), security, "{host}");
        }
    }

    #[test]
    fn settings_of_a_host_are_found_by_any_of_its_names() {
        let settings = Settings {
            hosts: [
                ("docker.io".to_owned(), Host::default()),
                ("a.io:443".to_owned(), Host::default()),
            ]
            .into(),
            ..Settings::default()
        };
        for (host, found) in [
            ("registry-1.docker.io", true),
            ("docker.io", true),
            ("a.io", true),
            ("a.io:443", true),
            ("a.io:5000", false),
        ] {
            assert_eq!(settings.host(host).is_some(), found, "{host}");
        }
    }

    #[test]
    fn locations_are_read_and_shown() {
        for (text, shown) in [
            ("m.io", "https://m.io/"),
            ("https://m.io/", "https://m.io/"),
            ("http://m.io:5000/hub/", "http://m.io:5000/hub/"),
            ("[::1]:5000", "https://[::1]:5000/"),
        ] {
            assert_eq!(text.parse::<Location>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "ftp://m.io",
            "https://u:p@m.io",
            "https://m.io/?x=y",
            "https://m.io/#x",
            "m.io/UPPER",
            "m.io/a/../b",
            "m.io/a:tag",
            "a b",
            "https:///x",
        ] {
            assert!(bad.parse::<Location>().is_err(), "{bad} was taken");
        }
        for bad in ["http://m.io", "10.0.0.0/33", "x/8", "", "m.io/path"] {
            assert!(bad.parse::<Insecure>().is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn private_keys_are_not_shown() {
        let host = Host {
            identity: Some(Identity(Arc::from(&b"KEY"[..]))),
            ..Host::default()
        };
        assert!(!format!("{host:?}").contains("75"), "{host:?}");
    }
}
