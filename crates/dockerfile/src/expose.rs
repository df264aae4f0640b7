//! `EXPOSE`: `port[-port][/protocol]`; an address and a port of the host in front
//! are understood and mean nothing.

use std::net::IpAddr;

use crate::error::{Error, ErrorKind};

/// A port as written, in parts.
pub(crate) struct Parts<'a> {
    pub(crate) address: &'a str,
    pub(crate) host: &'a str,
    pub(crate) container: &'a str,
}

pub(crate) fn parts(text: &str) -> Parts<'_> {
    let (front, container) = text.rsplit_once(':').unwrap_or(("", text));
    let (address, host) = front.rsplit_once(':').unwrap_or(("", front));
    Parts {
        address,
        host,
        container,
    }
}

/// All ports of three protocols.
const MAX_PORTS: usize = 3 << 16;

/// The ports of an expanded `EXPOSE` as an image has them: `80/tcp`, one by one.
pub fn exposed_ports(specs: &[String]) -> Result<Vec<String>, Error> {
    let mut ports = Vec::new();
    for spec in specs {
        let (first, last, protocol) = read(spec)?;
        if ports.len() + usize::from(last - first) >= MAX_PORTS {
            let message = "EXPOSE names more ports than there are";
            return Err(Error::new(ErrorKind::Limit, message));
        }
        ports.extend((first..=last).map(|port| format!("{port}/{protocol}")));
    }
    Ok(ports)
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::Arguments, message)
}

fn read(spec: &str) -> Result<(u16, u16, String), Error> {
    let parts = parts(spec);
    let (port, protocol) = parts
        .container
        .split_once('/')
        .unwrap_or((parts.container, ""));
    if port.is_empty() {
        return Err(wrong(format!("no port specified: {spec}<empty>")));
    }
    let protocol = match protocol.to_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        other => return Err(wrong(format!("invalid proto: {other}"))),
    };
    let address = parts.address.trim_start_matches('[').trim_end_matches(']');
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(wrong(format!("invalid IP address: {}", parts.address)));
    }
    let (first, last) =
        range(port).ok_or_else(|| wrong(format!("invalid containerPort: {port}")))?;
    if !parts.host.is_empty() {
        let (from, to) =
            range(parts.host).ok_or_else(|| wrong(format!("invalid hostPort: {}", parts.host)))?;
        if last - first != to - from && first != last {
            return Err(wrong(format!(
                "invalid ranges specified for container and host Ports: {port} and {}",
                parts.host
            )));
        }
    }
    Ok((first, last, protocol))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse().ok())
            .flatten()
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        let cases = [
            ("80", Ok("80/tcp")),
            ("80/", Ok("80/tcp")),
            ("53/UDP", Ok("53/udp")),
            ("1-3/sctp", Ok("1/sctp 2/sctp 3/sctp")),
            ("8080:80", Ok("80/tcp")),
            ("127.0.0.1:8080:80", Ok("80/tcp")),
            ("[::1]:8080:80", Ok("80/tcp")),
            ("8000-8010:80", Ok("80/tcp")),
            ("", Err("no port specified: <empty>")),
            ("/tcp", Err("no port specified: /tcp<empty>")),
            ("80/http", Err("invalid proto: http")),
            ("x", Err("invalid containerPort: x")),
            ("3-1", Err("invalid containerPort: 3-1")),
            ("65536", Err("invalid containerPort: 65536")),
            ("x:80", Err("invalid hostPort: x")),
            ("a.b:1:80", Err("invalid IP address: a.b")),
            (
                "1-3:1-2",
                Err("invalid ranges specified for container and host Ports: 1-2 and 1-3"),
            ),
        ];
        for (spec, expected) in cases {
            let got = exposed_ports(&[spec.to_owned()]);
            let got = got
                .map(|ports| ports.join(" "))
                .map_err(|error| error.message().to_owned());
            assert_eq!(
                got,
                expected.map(str::to_owned).map_err(str::to_owned),
                "{spec}"
            );
        }
    }
}
