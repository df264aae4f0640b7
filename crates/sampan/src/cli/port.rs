//! `sampan port`.

use super::command::{Arguments, Command, Parsed};
use super::failure::Failure;
use super::flags::go_reason;
use super::format::data::Data;
use super::output;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["container port", "port"],
    usage: "CONTAINER [PRIVATE_PORT[/PROTO]]",
    about: "List port mappings or a specific mapping for the container",
    arguments: Arguments::Between(1, 2),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let arguments = parsed.arguments();
    let client = session.client()?;
    let container = session.wait(async {
        let path = format!(
            "/containers/{}/json",
            sampan_api::client::encode_segment(arguments[0])
        );
        let response = client.request(http::Method::GET, path).send().await?;
        super::read_data(response).await
    })?;
    let ports = container.sorted_at("NetworkSettings.Ports");
    let lines = match arguments.get(1).filter(|wanted| !wanted.is_empty()) {
        Some(wanted) => of_port(&ports, wanted, arguments[0])?,
        None => all(&ports),
    };
    output::text(&lines);
    Ok(0)
}

fn of_port(ports: &[(&str, &Data)], wanted: &str, container: &str) -> Result<String, Failure> {
    let (number, protocol) = match wanted.split_once('/') {
        Some((number, protocol)) if !protocol.is_empty() => (number, protocol),
        Some((number, _)) => (number, "tcp"),
        None => (wanted, "tcp"),
    };
    if let Err(error) = number.parse::<u16>() {
        let why = go_reason(error.kind());
        return Err(Failure::message(format!(
            "Error: invalid port ({number}): strconv.ParseUint: parsing {number:?}: {why}"
        )));
    }
    let key = format!("{number}/{protocol}");
    let found = ports.iter().find(|(port, _)| *port == key);
    let bindings = found.map(|(_, bindings)| bindings.items());
    match bindings {
        Some(bindings) if !bindings.is_empty() => Ok(bindings
            .iter()
            .map(|binding| format!("{}\n", address(binding)))
            .collect()),
        _ => Err(Failure::message(format!(
            "Error: No public port '{wanted}' published for {container}"
        ))),
    }
}

/// In the order of the numbers, as Docker sorts them.
fn all(ports: &[(&str, &Data)]) -> String {
    let mut lines: Vec<(u16, String)> = Vec::new();
    for (port, bindings) in ports {
        let number = port.split('/').next().unwrap_or_default();
        for binding in bindings.items() {
            lines.push((
                number.parse().unwrap_or(0),
                format!("{port} -> {}\n", address(binding)),
            ));
        }
    }
    lines.sort_by_key(|(number, _)| *number);
    lines.into_iter().map(|(_, line)| line).collect()
}

fn address(binding: &Data) -> String {
    let (ip, port) = (binding.text_at("HostIp"), binding.text_at("HostPort"));
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_and_listed_by_number() {
        let data = Data::parse(
            br#"{"443/tcp":[{"HostIp":"0.0.0.0","HostPort":"8443"},{"HostIp":"::","HostPort":"8443"}],
                "80/tcp":[{"HostIp":"127.0.0.1","HostPort":"80"}],"9/udp":null}"#,
        )
        .unwrap();
        let ports = data.sorted();
        assert_eq!(
            all(&ports),
            "80/tcp -> 127.0.0.1:80\n443/tcp -> 0.0.0.0:8443\n443/tcp -> [::]:8443\n"
        );
        assert_eq!(
            of_port(&ports, "443", "c").unwrap(),
            "0.0.0.0:8443\n[::]:8443\n"
        );
        for (wanted, message) in [
            ("9/udp", "Error: No public port '9/udp' published for c"),
            ("81", "Error: No public port '81' published for c"),
        ] {
            assert_eq!(of_port(&ports, wanted, "c").unwrap_err().text(), message);
        }
        assert!(of_port(&ports, "x", "c").is_err());
    }
}
