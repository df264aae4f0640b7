//! Which hosts are what.

use std::net::{IpAddr, Ipv4Addr};

use reqwest::Url;

const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";

/// Returns the host, with port if any, that serves a registry's API.
pub(crate) fn api_host(registry: &str) -> &str {
    if registry == HUB { HUB_HOST } else { registry }
}

/// Whether `host` or `host:port` is this machine by its very name.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
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

/// Whether both hosts are of one owner, as far as their names tell: `auth.docker.io` and
/// `registry-1.docker.io`. Names below a suffix that many owners share, as in `a.co.uk` and
/// `b.co.uk`, are not.
pub(crate) fn same_domain(a: &Url, b: &Url) -> bool {
    let (Some(a), Some(b)) = (a.host_str(), b.host_str()) else {
        return false;
    };
    if a == b {
        return true;
    }
    let is_name = |host: &str| host.parse::<IpAddr>().is_err() && !host.starts_with('[');
    if !is_name(a) || !is_name(b) {
        return false;
    }
    let shared: Vec<&str> = a
        .rsplit('.')
        .zip(b.rsplit('.'))
        .take_while(|(a, b)| a == b)
        .map(|(label, _)| label)
        .collect();
    let needed = match shared.get(1) {
        Some(second) if second.len() <= 3 => 3,
        _ => 2,
    };
    shared.len() >= needed
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn owners_are_told_by_their_domain() {
        for (a, b, same) in [
            ("registry-1.docker.io", "auth.docker.io", true),
            ("ghcr.io", "ghcr.io", true),
            ("ghcr.io", "evil.io", false),
            ("a.co.uk", "b.co.uk", false),
            ("x.a.co.uk", "y.a.co.uk", true),
            ("docker.io.evil.com", "docker.io", false),
            ("evildocker.io", "docker.io", false),
            ("10.0.0.1", "10.0.1.1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("[::1]", "[::2]", false),
            ("localhost", "evil", false),
        ] {
            let url = |host: &str| Url::parse(&format!("https://{host}/")).unwrap();
            assert_eq!(same_domain(&url(a), &url(b)), same, "{a} {b}");
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
