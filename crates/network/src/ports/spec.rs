//! The text form of published ports.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::{HostPort, PortRequest, Protocol};
use crate::error::{Error, Result};

/// Reads `[ip:][hostPort[-hostPort]]:containerPort[-containerPort][/protocol]`.
///
/// Ranges of equal length are paired; a host range for a single container port
/// means the first free one.
///
/// # Errors
/// With Docker's wording for what does not parse; `sctp` is refused by name.
pub fn parse_publish(text: &str) -> Result<Vec<PortRequest>> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol: Protocol = if protocol.is_empty() {
        Protocol::Tcp
    } else {
        protocol.parse()?
    };
    let (host_ip, host, container) = split(ports);

    if container.is_empty() {
        return Err(invalid(format!("no port specified: {text}<empty>")));
    }
    let host_ip = parse_ip(host_ip)?;
    let container = parse_range(container)
        .ok_or_else(|| invalid(format!("invalid containerPort: {container}")))?;
    let host = match host {
        "" => None,
        host => {
            Some(parse_range(host).ok_or_else(|| invalid(format!("invalid hostPort: {host}")))?)
        }
    };
    if *container.start() == 0 {
        return Err(invalid("invalid containerPort: 0".to_owned()));
    }
    let request = |host: HostPort, container: u16| PortRequest {
        host_ip,
        host,
        container,
        protocol,
    };
    match host {
        None => Ok(container
            .map(|port| request(HostPort::Ephemeral, port))
            .collect()),
        Some(host) if container.len() == 1 => {
            let wanted = match (*host.start(), *host.end()) {
                (0, 0) => HostPort::Ephemeral,
                (first, last) if first == last => HostPort::Exact(first),
                (0, _) => {
                    return Err(invalid(format!(
                        "invalid hostPort: {}-{}",
                        host.start(),
                        host.end()
                    )));
                }
                _ => HostPort::Range(host),
            };
            Ok(vec![request(wanted, *container.start())])
        }
        Some(host) if host.len() == container.len() && *host.start() != 0 => Ok(host
            .zip(container)
            .map(|(host, container)| request(HostPort::Exact(host), container))
            .collect()),
        Some(host) => Err(invalid(format!(
            "invalid ranges specified for container and host Ports: {}-{} and {}-{}",
            container.start(),
            container.end(),
            host.start(),
            host.end()
        ))),
    }
}

/// Splits from the right, because an IPv6 address has colons of its own.
fn split(ports: &str) -> (&str, &str, &str) {
    match ports.rsplit_once(':') {
        None => ("", "", ports),
        Some((rest, container)) => match rest.rsplit_once(':') {
            None => ("", rest, container),
            Some((ip, host)) => (ip, host, container),
        },
    }
}

fn parse_ip(text: &str) -> Result<Option<IpAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    bare.parse()
        .map(Some)
        .map_err(|_| invalid(format!("invalid IP address: {text}")))
}

fn parse_range(text: &str) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse::<u16>().ok())?
    };
    let (first, last) = match text.split_once('-') {
        None => (number(text)?, number(text)?),
        Some((first, last)) => (number(first)?, number(last)?),
    };
    (first <= last).then_some(first..=last)
}

fn invalid(reason: String) -> Error {
    Error::InvalidPort { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> String {
        match parse_publish(text) {
            Err(error) => format!("error: {error}"),
            Ok(requests) => requests
                .iter()
                .map(|request| {
                    let ip = request
                        .host_ip
                        .map_or_else(|| "*".to_owned(), |ip| ip.to_string());
                    let host = match &request.host {
                        HostPort::Ephemeral => "?".to_owned(),
                        HostPort::Exact(port) => port.to_string(),
                        HostPort::Range(range) => format!("{}..{}", range.start(), range.end()),
                    };
                    format!("{ip} {host}->{}/{}", request.container, request.protocol)
                })
                .collect::<Vec<_>>()
                .join(", "),
        }
    }

    #[test]
    fn publish_specifications() {
        let table = [
            ("80", "* ?->80/tcp"),
            ("8080:80", "* 8080->80/tcp"),
            ("8080:80/udp", "* 8080->80/udp"),
            ("8080:80/TCP", "* 8080->80/tcp"),
            ("0:80", "* ?->80/tcp"),
            ("127.0.0.1:8080:80", "127.0.0.1 8080->80/tcp"),
            ("127.0.0.1::80", "127.0.0.1 ?->80/tcp"),
            ("[::1]:8080:80", "::1 8080->80/tcp"),
            ("::1:8080:80", "::1 8080->80/tcp"),
            ("8000-8001:80-81", "* 8000->80/tcp, * 8001->81/tcp"),
            ("80-81", "* ?->80/tcp, * ?->81/tcp"),
            ("8000-8010:80", "* 8000..8010->80/tcp"),
            ("", "error: no port specified: <empty>"),
            ("8080:", "error: no port specified: 8080:<empty>"),
            ("x", "error: invalid containerPort: x"),
            ("+80", "error: invalid containerPort: +80"),
            ("65536", "error: invalid containerPort: 65536"),
            ("0", "error: invalid containerPort: 0"),
            ("81-80", "error: invalid containerPort: 81-80"),
            ("x:80", "error: invalid hostPort: x"),
            ("1.2.3:80:80", "error: invalid IP address: 1.2.3"),
            ("80:80/icmp", "error: invalid proto: icmp"),
            (
                "80:80/sctp",
                "error: publishing sctp ports is not supported",
            ),
            (
                "8000-8002:80-81",
                "error: invalid ranges specified for container and host Ports: 80-81 and 8000-8002",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(show(text), expected, "{text}");
        }
    }
}
