//! Which hosts are what.

use std::net::{IpAddr, Ipv4Addr};

use reqwest::Url;

const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";

/// Returns the host, with port if any, that serves a registry's API.
pub(crate) fn api_host(registry: &str) -> &str {
    if registry == HUB { HUB_HOST } else { registry }
}

/// Returns a host without its port; addresses of IPv6 keep their brackets.
pub(crate) fn bare_host(host: &str) -> &str {
    let end = match host.strip_prefix('[') {
        Some(rest) => rest.find(']').map(|end| end + 2),
        None => host.find(':'),
    };
    &host[..end.unwrap_or(host.len())]
}

/// Returns a host without a port that goes without saying.
pub(crate) fn port_is_implied(host: &str) -> &str {
    host.strip_suffix(":443").unwrap_or(host)
}

/// Returns `host` or `host:port` of an address.
pub(crate) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether `host` or `host:port` is this machine by its very name.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = bare_host(host).trim_matches(['[', ']']);
    bare.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|ip| canonical(ip).is_loopback())
}

fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// Says why a server at `from` must not send the client to `to`; none when it may.
///
/// A registry on the internet has no business with this machine or with link-local services such
/// as the metadata of clouds; one that is on loopback itself may point to its neighbours. What
/// began encrypted stays encrypted.
pub(crate) fn refuse(from: &Url, to: &Url) -> Option<&'static str> {
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => {}
        ("https", "http") => return Some("it would leave the encrypted connection"),
        _ => return Some("it is neither http nor https"),
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Some("it has credentials of its own");
    }
    let Some(host) = to.host_str() else {
        return Some("it has no host");
    };
    let ip = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>()
        .map(canonical);
    match ip {
        Ok(IpAddr::V4(ip)) if ip.is_link_local() || ip == Ipv4Addr::UNSPECIFIED => {
            return Some("it is a link-local address");
        }
        Ok(IpAddr::V6(ip)) if ip.is_unicast_link_local() || ip.is_unspecified() => {
            return Some("it is a link-local address");
        }
        _ => {}
    }
    let from_loopback = from.host_str().is_some_and(is_loopback);
    if is_loopback(host) && !from_loopback {
        return Some("it is on this machine and the registry is not");
    }
    // Plain HTTP beyond this machine is only for a registry that is reached so already.
    if to.scheme() == "http" && from_loopback && !is_loopback(host) {
        return Some("it would leave this machine without encryption");
    }
    None
}

/// Whether a request to `b` may carry what was meant for `a`.
pub(crate) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Domains under which strangers have names of their own.
const SHARED: &[&str] = &[
    "amazonaws.com",
    "appspot.com",
    "azurecr.io",
    "azurewebsites.net",
    "cloudfront.net",
    "duckdns.org",
    "fly.dev",
    "github.io",
    "gitlab.io",
    "herokuapp.com",
    "jfrog.io",
    "netlify.app",
    "ngrok.app",
    "ngrok.io",
    "pages.dev",
    "run.app",
    "scw.cloud",
    "vercel.app",
    "workers.dev",
];

/// Token services under another domain than their registries'.
const KNOWN_SERVICES: &[(&str, &str)] = &[(".scw.cloud", "api.scaleway.com")];

/// Second levels below which the domains of a country begin.
const SECOND_LEVELS: &[&str] = &[
    "ac", "asn", "co", "com", "edu", "go", "gob", "gov", "gv", "id", "mil", "ne", "net", "or",
    "org",
];

/// Whether the token service at `realm` may have what a user gave for the registry at `registry`.
///
/// It may when it is the registry's own host, or, encrypted, one of the same site as
/// `auth.docker.io` is of `registry-1.docker.io`, or one that the user allowed. To everybody
/// else a registry, or who speaks in its place, could send the credentials of its users.
pub(crate) fn is_trusted_service(registry: &Url, realm: &Url, allowed: &[String]) -> bool {
    let (Some(registry_host), Some(realm_host)) = (registry.host_str(), realm.host_str()) else {
        return false;
    };
    if registry_host == realm_host {
        return realm.scheme() == "https" || registry.scheme() == "http";
    }
    if realm.scheme() != "https" {
        return false;
    }
    let full = host_of(realm);
    if allowed
        .iter()
        .any(|host| *host == full || host == realm_host)
    {
        return true;
    }
    let known = KNOWN_SERVICES
        .iter()
        .any(|(registries, service)| registry_host.ends_with(registries) && realm_host == *service);
    known || site(registry_host).is_some_and(|own| site(realm_host) == Some(own))
}

/// Returns the domain that somebody registered, none where that cannot be told.
fn site(host: &str) -> Option<&str> {
    if host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok() {
        return None;
    }
    let last = |count: usize| {
        let mut dots = host.rmatch_indices('.').map(|(at, _)| at);
        match dots.nth(count - 1) {
            Some(at) => Some(&host[at + 1..]),
            None => (host.split('.').count() == count).then_some(host),
        }
    };
    let two = last(2)?;
    let (second, top) = two.split_once('.')?;
    if SHARED.contains(&two) {
        return None;
    }
    if top.len() == 2 && SECOND_LEVELS.contains(&second) {
        return last(3);
    }
    Some(two)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_to_token_services_of_the_same_site_only() {
        let allowed = ["login.partner.io".to_owned(), "sso.io:8443".to_owned()];
        for (registry, realm, good) in [
            (
                "https://registry-1.docker.io",
                "https://auth.docker.io/token",
                true,
            ),
            (
                "https://registry-1.docker.io",
                "http://auth.docker.io/token",
                false,
            ),
            (
                "https://registry-1.docker.io",
                "https://auth.docker.io.evil.io/token",
                false,
            ),
            (
                "https://registry-1.docker.io",
                "https://auth-docker.io/token",
                false,
            ),
            ("https://registry.corp.io", "https://corp.io/jwt", true),
            ("https://registry.a.co.uk", "https://auth.a.co.uk", true),
            ("https://registry.a.co.uk", "https://auth.b.co.uk", false),
            ("https://a.azurecr.io", "https://a.azurecr.io/oauth2", true),
            ("https://a.azurecr.io", "https://b.azurecr.io/oauth2", false),
            ("https://a.github.io", "https://github.io", false),
            (
                "https://rg.fr-par.scw.cloud",
                "https://api.scaleway.com/x",
                true,
            ),
            ("https://r.io:5000", "https://r.io:5001/token", true),
            ("https://r.io:5000", "http://r.io:5001/token", false),
            ("http://r.io:5000", "http://r.io:5001/token", true),
            ("http://r.io:5000", "https://evil.io/token", false),
            ("http://r.io:5000", "http://auth.r.io/token", false),
            ("https://r.io", "https://login.partner.io/token", true),
            ("https://r.io", "http://login.partner.io/token", false),
            ("https://r.io", "https://sso.io:8443/token", true),
            ("https://r.io", "https://sso.io/token", false),
            ("http://127.0.0.1:1", "http://127.0.0.1:2", true),
            ("http://127.0.0.1:1", "http://127.0.0.2:1", false),
            ("https://10.0.0.1", "https://10.0.0.2", false),
            ("https://[::1]:1", "https://[::1]:2", true),
            ("https://ghcr.io", "https://evil.io", false),
            ("https://docker.io.evil.com", "https://docker.io", false),
            ("https://evildocker.io", "https://docker.io", false),
            ("https://localhost", "https://evil", false),
            ("https://registry", "https://auth", false),
            ("https://registry", "https://registry:444", true),
        ] {
            let parse = |text: &str| Url::parse(text).unwrap();
            let trusted = is_trusted_service(&parse(registry), &parse(realm), &allowed);
            assert_eq!(trusted, good, "{registry} -> {realm}");
        }
    }

    #[test]
    fn hosts_are_taken_apart() {
        for (host, bare) in [
            ("a.io", "a.io"),
            ("a.io:5000", "a.io"),
            ("[::1]:5000", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(bare_host(host), bare);
        }
    }

    #[test]
    fn loopback_is_told_by_name_and_address() {
        for host in [
            "localhost",
            "localhost:5000",
            "LOCALHOST",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:5000",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "docker.io",
            "localhost.evil.io",
            "127.0.0.1.evil.io",
            "10.0.0.1",
            "[::2]:5000",
            "",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn dangerous_targets_are_refused() {
        for (from, to, good) in [
            ("https://a.io/v2/", "https://cdn.io/x", true),
            ("https://a.io/v2/", "http://cdn.io/x", false),
            ("https://a.io/v2/", "ftp://cdn.io/x", false),
            ("https://a.io/v2/", "file:///etc/passwd", false),
            ("https://a.io/v2/", "https://u:p@cdn.io/x", false),
            ("https://a.io/v2/", "https://127.0.0.1/x", false),
            ("https://a.io/v2/", "https://localhost/x", false),
            ("https://a.io/v2/", "https://[::1]/x", false),
            ("https://a.io/v2/", "https://169.254.169.254/x", false),
            ("https://a.io/v2/", "https://[fe80::1]/x", false),
            ("http://127.0.0.1:1/", "http://127.0.0.1:2/", true),
            ("http://127.0.0.1:1/", "http://169.254.169.254/", false),
            ("http://127.0.0.1:1/", "http://cdn.io/", false),
            ("http://127.0.0.1:1/", "https://cdn.io/", true),
            ("http://10.0.0.1/", "http://10.0.0.2/", true),
        ] {
            let refused = refuse(&Url::parse(from).unwrap(), &Url::parse(to).unwrap());
            assert_eq!(refused.is_none(), good, "{from} -> {to}: {refused:?}");
        }
    }
}
