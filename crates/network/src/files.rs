//! Contents of `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` in a container.
//!
//! Pure: the caller reads the host's file and writes the result.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a container's `/etc/hosts` is made from.
#[derive(Clone, Debug, Default)]
pub struct Hosts<'a> {
    /// Whether the container has IPv6 at all; its lines are left out otherwise.
    pub ipv6: bool,
    /// `--add-host` entries and links, in order: name, address.
    pub extra: &'a [(String, IpAddr)],
    /// The container's own addresses.
    pub own: &'a [IpAddr],
    /// The container's host name.
    pub hostname: &'a str,
    /// Its domain, or nothing.
    pub domain: &'a str,
}

impl Hosts<'_> {
    /// Renders the file.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::from("127.0.0.1\tlocalhost\n");
        if self.ipv6 {
            text.push_str(
                "::1\tlocalhost ip6-localhost ip6-loopback\n\
                 fe00::\tip6-localnet\n\
                 ff00::\tip6-mcastprefix\n\
                 ff02::1\tip6-allnodes\n\
                 ff02::2\tip6-allrouters\n",
            );
        }
        for (name, address) in self.extra {
            push_line(&mut text, *address, name);
        }
        let names = match self.domain {
            "" => self.hostname.to_owned(),
            domain => format!("{}.{domain} {}", self.hostname, self.hostname),
        };
        for address in self.own {
            push_line(&mut text, *address, &names);
        }
        text
    }
}

fn push_line(text: &mut String, address: IpAddr, names: &str) {
    writeln!(text, "{address}\t{names}").expect("writing to a string cannot fail");
}

/// Renders `/etc/hostname`.
#[must_use]
pub fn hostname_file(hostname: &str) -> String {
    format!("{hostname}\n")
}

/// The `--dns`, `--dns-search` and `--dns-option` of a container; an empty
/// list means the host's.
#[derive(Clone, Debug, Default)]
pub struct DnsOptions {
    /// Name servers.
    pub servers: Vec<IpAddr>,
    /// Search domains; a single `.` means none at all.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// Name servers used when the host has none that a container could reach.
const PUBLIC_SERVERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)),
    IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4)),
];

/// Where the real name servers are when the host's file names only
/// systemd-resolved's stub.
pub const RESOLVED_FILE: &str = "/run/systemd/resolve/resolv.conf";

/// Tells whether a `resolv.conf` names systemd-resolved's stub and nothing
/// else, so that [`RESOLVED_FILE`] should be read in its place.
#[must_use]
pub fn is_resolved_stub(host: &str) -> bool {
    let servers = Resolver::parse(host).servers;
    servers == ["127.0.0.53"]
}

/// Renders `/etc/resolv.conf` for a container with its own network: the
/// host's, without the name servers that only the host can reach
/// (loopback, and IPv6 ones when the container has no IPv6).
#[must_use]
pub fn resolv_conf(host: &str, dns: &DnsOptions, ipv6: bool) -> String {
    let host = Resolver::parse(host);
    let mut servers: Vec<String> = dns.servers.iter().map(IpAddr::to_string).collect();
    if servers.is_empty() {
        servers = host
            .servers
            .into_iter()
            .filter(|server| is_reachable(server, ipv6))
            .collect();
    }
    if servers.is_empty() {
        servers = PUBLIC_SERVERS.iter().map(IpAddr::to_string).collect();
    }
    let search = match dns.search.as_slice() {
        [] => host.search,
        [dot] if dot == "." => Vec::new(),
        search => search.to_vec(),
    };
    let options = if dns.options.is_empty() {
        host.options
    } else {
        dns.options.clone()
    };
    Resolver {
        servers,
        search,
        options,
    }
    .render()
}

/// Renders `/etc/resolv.conf` for a container in the host's network: the
/// host's file as it is, unless options replace parts of it.
#[must_use]
pub fn host_mode_resolv_conf(host: &str, dns: &DnsOptions) -> String {
    if dns.servers.is_empty() && dns.search.is_empty() && dns.options.is_empty() {
        return host.to_owned();
    }
    let keep = DnsOptions {
        servers: if dns.servers.is_empty() {
            Resolver::parse(host)
                .servers
                .iter()
                .filter_map(|server| server.parse().ok())
                .collect()
        } else {
            dns.servers.clone()
        },
        ..dns.clone()
    };
    resolv_conf(host, &keep, true)
}

#[derive(Debug, Default)]
struct Resolver {
    servers: Vec<String>,
    search: Vec<String>,
    options: Vec<String>,
}

impl Resolver {
    /// Reads the lines of resolv.conf(5) that matter: the last `search` (or
    /// `domain`) wins, name servers and options add up.
    fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => resolver.search = words.map(str::to_owned).collect(),
                Some("options") => resolver.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        resolver
    }

    fn render(&self) -> String {
        let mut text = String::new();
        for server in &self.servers {
            writeln!(text, "nameserver {server}").expect("writing to a string cannot fail");
        }
        for (word, values) in [("search", &self.search), ("options", &self.options)] {
            if !values.is_empty() {
                writeln!(text, "{word} {}", values.join(" "))
                    .expect("writing to a string cannot fail");
            }
        }
        text
    }
}

fn is_reachable(server: &str, ipv6: bool) -> bool {
    let (address, zone) = server
        .split_once('%')
        .map_or((server, None), |(address, zone)| (address, Some(zone)));
    match address.parse() {
        Ok(IpAddr::V4(address)) => !address.is_loopback() && !address.is_unspecified(),
        // A zone names an interface that the container does not have.
        Ok(IpAddr::V6(address)) => ipv6 && zone.is_none() && address != Ipv6Addr::LOCALHOST,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_has_own_names_last() {
        let extra = [("db".to_owned(), "10.0.0.9".parse().unwrap())];
        let own = ["172.17.0.2".parse().unwrap()];
        let hosts = Hosts {
            ipv6: true,
            extra: &extra,
            own: &own,
            hostname: "0123456789ab",
            domain: "",
        };
        assert_eq!(
            hosts.render(),
            "127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::\tip6-localnet\n\
             ff00::\tip6-mcastprefix\n\
             ff02::1\tip6-allnodes\n\
             ff02::2\tip6-allrouters\n\
             10.0.0.9\tdb\n\
             172.17.0.2\t0123456789ab\n"
        );
        let hosts = Hosts {
            ipv6: false,
            extra: &[],
            own: &own,
            hostname: "web",
            domain: "example.org",
        };
        assert_eq!(
            hosts.render(),
            "127.0.0.1\tlocalhost\n172.17.0.2\tweb.example.org web\n"
        );
    }

    #[test]
    fn loopback_servers_are_dropped() {
        let host = "# comment\nnameserver 127.0.0.53\nnameserver 10.0.0.1 # ours\nnameserver ::1\nnameserver fd00::1\n\
                    domain a\nsearch b c\noptions edns0\noptions trust-ad\n";
        let none = DnsOptions::default();
        assert_eq!(
            resolv_conf(host, &none, false),
            "nameserver 10.0.0.1\nsearch b c\noptions edns0 trust-ad\n"
        );
        assert_eq!(
            resolv_conf(host, &none, true),
            "nameserver 10.0.0.1\nnameserver fd00::1\nsearch b c\noptions edns0 trust-ad\n"
        );
    }

    #[test]
    fn none_left_means_public_ones() {
        for host in [
            "",
            "nameserver 127.0.0.1\n",
            "nameserver fe80::1%eth0\n",
            "garbage\0\n",
        ] {
            assert_eq!(
                resolv_conf(host, &DnsOptions::default(), true),
                "nameserver 8.8.8.8\nnameserver 8.8.4.4\n",
                "{host:?}"
            );
        }
    }

    #[test]
    fn options_replace_the_hosts() {
        let host = "nameserver 10.0.0.1\nsearch b\noptions edns0\n";
        let dns = DnsOptions {
            servers: vec!["127.0.0.1".parse().unwrap()],
            search: vec!["x".into(), "y".into()],
            options: vec!["ndots:2".into()],
        };
        assert_eq!(
            resolv_conf(host, &dns, false),
            "nameserver 127.0.0.1\nsearch x y\noptions ndots:2\n"
        );
        let no_search = DnsOptions {
            search: vec![".".into()],
            ..DnsOptions::default()
        };
        assert_eq!(
            resolv_conf(host, &no_search, false),
            "nameserver 10.0.0.1\noptions edns0\n"
        );
    }

    #[test]
    fn host_mode_keeps_the_file() {
        let host = "# mine\nnameserver 127.0.0.53\n";
        assert_eq!(host_mode_resolv_conf(host, &DnsOptions::default()), host);
        let search = DnsOptions {
            search: vec!["x".into()],
            ..DnsOptions::default()
        };
        assert_eq!(
            host_mode_resolv_conf(host, &search),
            "nameserver 127.0.0.53\nsearch x\n"
        );
    }

    #[test]
    fn the_stub_is_recognised() {
        assert!(is_resolved_stub("nameserver 127.0.0.53\noptions edns0\n"));
        assert!(!is_resolved_stub(
            "nameserver 127.0.0.53\nnameserver 10.0.0.1\n"
        ));
        assert!(!is_resolved_stub(""));
    }
}
