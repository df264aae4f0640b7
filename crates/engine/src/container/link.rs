//! Links on the default network: another container's name and variables.

use std::net::IpAddr;
use std::sync::Arc;

use super::config::{ContainerPort, Protocol};
use super::record::Record;
use super::service::Inner;
use crate::network::BRIDGE;
use crate::{Error, Result};

/// Reads `name:alias`, or a name that is its own alias.
pub(crate) fn parse(link: &str) -> Result<(&str, &str)> {
    let invalid = || Error::invalid(format!("bad format for links: {link}"));
    let mut parts = link.split(':');
    let (Some(name), alias, None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(invalid());
    };
    let name = name.trim_start_matches('/');
    // Tools write what an inspect has shown: `/db:/web/alias`.
    let alias = alias.unwrap_or(name);
    let alias = alias.rsplit('/').next().unwrap_or(alias);
    let strange = |c: char| c.is_whitespace() || c.is_control() || c == '#';
    if name.is_empty() || alias.is_empty() || alias.contains(strange) {
        return Err(invalid());
    }
    Ok((name, alias))
}

/// A link that can be followed.
struct Linked<'a> {
    alias: &'a str,
    other: Arc<Record>,
    address: IpAddr,
}

impl Inner {
    fn linked<'a>(&self, record: &'a Record) -> Result<Vec<Linked<'a>>> {
        if !record.host.network_mode.is_bridge() {
            return Ok(Vec::new());
        }
        let links = record.host.links.iter().map(|link| {
            let (name, alias) = parse(link)?;
            let other = self.registry.find(name)?.record();
            let endpoint = other.network.endpoints.get(BRIDGE);
            match endpoint.and_then(|endpoint| endpoint.address) {
                Some(address) => Ok(Linked {
                    alias,
                    other,
                    address,
                }),
                None => Err(Error::conflict(format!(
                    "Cannot link to a non running container: /{} AS /{}/{alias}",
                    other.name, record.name
                ))),
            }
        });
        links.collect()
    }

    /// Lines for a container's `hosts`: names and address of what it is linked to.
    pub(crate) fn link_hosts(&self, record: &Record) -> Result<Vec<(String, IpAddr)>> {
        let links = self.linked(record)?.into_iter();
        let hosts = links.map(|link| {
            let id = link.other.id.short();
            let name = link.other.name.as_str();
            let names = if name == link.alias {
                format!("{} {id}", link.alias)
            } else {
                format!("{} {id} {name}", link.alias)
            };
            (names, link.address)
        });
        Ok(hosts.collect())
    }

    /// Variables that tell a container of what it is linked to.
    pub(crate) fn link_variables(&self, record: &Record) -> Result<Vec<String>> {
        let links = self.linked(record)?;
        let each = links.iter().map(|link| {
            let other = &link.other;
            let ports: Vec<ContainerPort> = other.config.exposed_ports.iter().copied().collect();
            variables(
                &format!("/{}/{}", record.name, link.alias),
                link.alias,
                link.address,
                &ports,
                &other.config.env,
            )
        });
        Ok(each.flatten().collect())
    }
}

/// Docker's variables of one link.
fn variables(
    full_name: &str,
    alias: &str,
    address: IpAddr,
    ports: &[ContainerPort],
    env: &[String],
) -> Vec<String> {
    let prefix: String = alias.to_ascii_uppercase().replace(['-', '.'], "_");
    let mut ports = ports.to_vec();
    // By number, TCP first.
    ports.sort_by_key(|port| (port.port, port.protocol != Protocol::Tcp));
    let mut out = Vec::new();
    if let Some(first) = ports.first() {
        out.push(format!(
            "{prefix}_PORT={}://{address}:{}",
            first.protocol, first.port
        ));
    }
    for ContainerPort { port, protocol } in ports {
        let name = format!(
            "{prefix}_PORT_{port}_{}",
            protocol.to_string().to_ascii_uppercase()
        );
        out.push(format!("{name}={protocol}://{address}:{port}"));
        out.push(format!("{name}_ADDR={address}"));
        out.push(format!("{name}_PORT={port}"));
        out.push(format!("{name}_PROTO={protocol}"));
    }
    out.push(format!("{prefix}_NAME={full_name}"));
    for variable in env {
        match variable.split_once('=') {
            Some((name, value)) if !matches!(name, "HOME" | "PATH") => {
                out.push(format!("{prefix}_ENV_{name}={value}"));
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read() {
        assert_eq!(parse("db:database").unwrap(), ("db", "database"));
        assert_eq!(parse("db").unwrap(), ("db", "db"));
        assert_eq!(parse("/db:/web/alias").unwrap(), ("db", "alias"));
        for bad in ["", ":x", "a:b:c", "a:b c"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn variables_are_those_of_docker() {
        let found = variables(
            "/web/db",
            "db",
            "172.17.0.5".parse().unwrap(),
            &["80/tcp".parse().unwrap()],
            &["PATH=/bin".to_owned(), "A=b".to_owned()],
        );
        assert_eq!(
            found,
            [
                "DB_PORT=tcp://172.17.0.5:80",
                "DB_PORT_80_TCP=tcp://172.17.0.5:80",
                "DB_PORT_80_TCP_ADDR=172.17.0.5",
                "DB_PORT_80_TCP_PORT=80",
                "DB_PORT_80_TCP_PROTO=tcp",
                "DB_NAME=/web/db",
                "DB_ENV_A=b",
            ]
        );
    }
}
