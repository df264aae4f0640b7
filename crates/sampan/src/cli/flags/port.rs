//! `-p [ip:][host[-range]:]container[-range][/protocol]`.

use std::net::IpAddr;

use sampan_api::types::host_config::PortBinding;

use super::go_reason;

/// A published port: `80/tcp` and where it is bound.
pub(crate) type Published = (String, PortBinding);

/// Reads a published port or range of ports.
pub(crate) fn parse(text: &str) -> Result<Vec<Published>, String> {
    let (ip, host, container) = split(text);
    let (container, protocol) = match container.split_once('/') {
        Some((port, protocol)) if !protocol.is_empty() => (port, protocol.to_ascii_lowercase()),
        Some((port, _)) => (port, "tcp".to_owned()),
        None => (container, "tcp".to_owned()),
    };
    let ip = ip.strip_prefix('[').unwrap_or(ip);
    let ip = ip.strip_suffix(']').unwrap_or(ip);
    if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    if container.is_empty() {
        return Err(format!("no port specified: {text}<empty>"));
    }
    let inside = range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    let outside = match host {
        "" => None,
        host => Some(range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?),
    };
    let length = |range: (u16, u16)| range.1 - range.0;
    if let Some(outside) = outside
        && length(outside) != length(inside)
        && length(inside) != 0
    {
        return Err(format!(
            "invalid ranges specified for container and host Ports: {container} and {host}"
        ));
    }
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    let bindings = (0..=length(inside)).map(|offset| {
        let host_port = match outside {
            None => String::new(),
            // One port in the container takes the first free one of the host's range.
            Some((first, last)) if length(inside) == 0 && first != last => {
                format!("{first}-{last}")
            }
            Some((first, _)) => (first + offset).to_string(),
        };
        (
            format!("{}/{protocol}", inside.0 + offset),
            PortBinding {
                host_ip: ip.to_owned(),
                host_port,
            },
        )
    });
    Ok(bindings.collect())
}

/// Reads `80`, `80-90/udp` of `--expose`.
pub(crate) fn exposed(text: &str) -> Result<Vec<String>, String> {
    if text.contains(':') {
        return Err(format!("invalid port format for --expose: {text}"));
    }
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        // The engine refuses it.
        other => other.to_owned(),
    };
    let (first, last) = range(ports).ok_or_else(|| {
        let why = wrong_range(ports);
        format!("invalid range format for --expose: {text}, error: {why}")
    })?;
    Ok((first..=last)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

/// Cuts address, host ports and container ports apart.
fn split(text: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = text.rsplit_once(':') else {
        return ("", "", text);
    };
    match rest.rsplit_once(':') {
        // A colon inside of brackets belongs to the address.
        _ if rest.ends_with(']') => (rest, "", container),
        Some((ip, host)) => (ip, host, container),
        None => ("", rest, container),
    }
}

/// Why a text is no range of ports, in Go's words.
fn wrong_range(text: &str) -> String {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    for part in [first, last] {
        if let Err(error) = part.parse::<u16>() {
            let why = go_reason(error.kind());
            return format!("strconv.ParseUint: parsing {part:?}: {why}");
        }
    }
    format!("invalid range specified for port: {text}")
}

fn range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse::<u16>().ok())
            .flatten()
    };
    match text.split_once('-') {
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            (first <= last).then_some((first, last))
        }
        None => port(text).map(|port| (port, port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, String> {
        let ports = parse(text)?;
        let shown: Vec<String> = ports
            .into_iter()
            .map(|(port, binding)| format!("{}|{}->{port}", binding.host_ip, binding.host_port))
            .collect();
        Ok(shown.join(" "))
    }

    #[test]
    fn ports_pair_up() {
        for (text, expected) in [
            ("80", "|->80/tcp"),
            ("8080:80", "|8080->80/tcp"),
            ("8080:80/udp", "|8080->80/udp"),
            ("8080:80/TCP", "|8080->80/tcp"),
            ("127.0.0.1:8080:80", "127.0.0.1|8080->80/tcp"),
            ("127.0.0.1::80", "127.0.0.1|->80/tcp"),
            ("[::1]:8080:80", "::1|8080->80/tcp"),
            ("[::1]::80", "::1|->80/tcp"),
            ("0:80", "|0->80/tcp"),
            ("8000-8001:80-81", "|8000->80/tcp |8001->81/tcp"),
            ("8000-8010:80", "|8000-8010->80/tcp"),
            ("80-81", "|->80/tcp |->81/tcp"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn mistakes_are_told_in_dockers_words() {
        for (text, expected) in [
            ("80:x", "invalid containerPort: x"),
            ("x:80", "invalid hostPort: x"),
            ("70000:80", "invalid hostPort: 70000"),
            ("81-80", "invalid containerPort: 81-80"),
            ("80/foo", "invalid proto: foo"),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            (
                "8000-8001:80-82",
                "invalid ranges specified for container and host Ports: 80-82 and 8000-8001",
            ),
            ("80:", "no port specified: 80:<empty>"),
            ("", "no port specified: <empty>"),
        ] {
            assert_eq!(shown(text), Err(expected.to_owned()), "{text}");
        }
    }
}
