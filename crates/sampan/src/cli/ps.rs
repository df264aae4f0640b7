//! `sampan ps`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sampan_api::Filters;

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::flags::{filter, integer};
use super::format::data::{Data, Nil};
use super::format::list::{self, Row, Style};
use super::format::quote::{ellipsis, quote, short_id};
use super::format::template::{Scope, Template, TemplateError};
use super::format::units;
use super::output;
use super::session::Session;

/// The help of `--format` of lists.
pub(crate) const FORMAT_HELP: &str = "\
Format output using a custom template:
'table':            Print output in table format with column headers (default)
'table TEMPLATE':   Print output in table format using the given Go template
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates";

pub(crate) const COMMAND: Command = Command {
    names: &["container ls", "container list", "container ps", "ps"],
    usage: "[OPTIONS]",
    about: "List containers",
    flags: &[&[
        Flag::switch("all", "Show all containers (default shows just running)").short('a'),
        Flag::many(
            "filter",
            "filter",
            "Filter output based on conditions provided",
        )
        .short('f'),
        Flag::one("format", "string", FORMAT_HELP),
        Flag::one(
            "last",
            "int",
            "Show n last created containers (includes all states)",
        )
        .short('n')
        .default("-1"),
        Flag::switch(
            "latest",
            "Show the latest created container (includes all states)",
        )
        .short('l'),
        Flag::switch("no-trunc", "Don't truncate output"),
        Flag::switch("quiet", "Only display container IDs").short('q'),
        Flag::switch("size", "Display total file sizes").short('s'),
    ]],
    arguments: Arguments::None,
    run,
    ..Command::PLAIN
};

const HEADERS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
];

/// Go's name of a line's type.
const TYPE_NAME: &str = "*formatter.ContainerContext";

const TABLE: &str = "table {{.ID}}\\t{{.Image}}\\t{{.Command}}\\t{{.RunningFor}}\\t{{.Status}}\\t{{.Ports}}\\t{{.Names}}";

const RAW: &str = "container_id: {{.ID}}\\nimage: {{.Image}}\\ncommand: {{.Command}}\\ncreated_at: {{.CreatedAt}}\\nstate: {{- pad .State 1 0}}\\nstatus: {{- pad .Status 1 0}}\\nnames: {{.Names}}\\nlabels: {{- pad .Labels 1 0}}\\nports: {{- pad .Ports 1 0}}\\n";

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let filters = filter::collect(parsed.values("filter", filter::parse)?);
    let last = parsed.value("last", integer)?.unwrap_or(-1);
    let latest = parsed.switch("latest")?;
    let limit = if latest && last <= 0 { 1 } else { last };
    let all = parsed.switch("all")? || limit > 0;
    let quiet = parsed.switch("quiet")?;
    let format = format(
        parsed.text("format").filter(|text| !text.is_empty()),
        session,
        quiet,
        parsed.switch("size")?,
    );
    let size = parsed.switch("size")? || (!quiet && asks_for_size(&format));
    let mistake = parsed.text("format").and_then(|given| try_out(given).err());
    let client = session.client()?;
    let containers = session.wait(fetch(client, all, limit, size, &filters))?;
    let now = Timestamp::now();
    let full = parsed.switch("no-trunc")?;
    let rows: Vec<Row> = containers
        .items()
        .iter()
        .map(|container| row(container, full, now))
        .collect();
    let style = Style {
        format: &format,
        headers: HEADERS,
        type_name: TYPE_NAME,
    };
    let has_rows = !rows.is_empty();
    let shown = list::render(rows, &style);
    if let Some(mistake) = mistake
        && (shown.is_err() || !has_rows || quiet)
    {
        return Err(mistake);
    }
    output::text(&shown?);
    Ok(0)
}

/// Tries a template on a container without anything, as Docker does before it asks for any. What
/// fails only there, such as the first three letters of a name, is no mistake of the template.
fn try_out(given: &str) -> Result<(), Failure> {
    let wrong = |doing: &str, error: &TemplateError| {
        Failure::message(format!("failed to {doing} template: {error}"))
    };
    let template = Template::parse(given).map_err(|error| wrong("parse", &error))?;
    let mut nothing = Row::new(
        HEADERS.iter().map(|(name, _)| (*name, String::new())),
        Vec::new(),
    );
    nothing.fields.retain(|(name, _)| name != "Platform");
    let platform = Data::Nil(Nil::Pointer);
    nothing.fields.push(("Platform".to_owned(), platform));
    let label = |_: &str| String::new();
    let scope = Scope {
        type_name: TYPE_NAME,
        label: Some(&label),
        ..Scope::default()
    };
    let tried = template.render(&Data::Object(nothing.fields), scope);
    tried.map(drop).map_err(|error| wrong("execute", &error))
}

fn format(given: Option<&str>, session: &Session, quiet: bool, size: bool) -> String {
    let setting = || session.setting("psFormat").filter(|_| !quiet);
    if quiet && given.is_some() {
        eprintln!("WARNING: Ignoring custom format, because both --format and --quiet are set.");
    }
    match given.or_else(setting).unwrap_or("table") {
        "raw" if quiet => "container_id: {{.ID}}".to_owned(),
        _ if quiet => "{{.ID}}".to_owned(),
        "table" if size => format!("{TABLE}\\t{{{{.Size}}}}"),
        "table" => TABLE.to_owned(),
        "raw" if size => format!("{RAW}size: {{{{.Size}}}}\\n"),
        "raw" => RAW.to_owned(),
        other => other.to_owned(),
    }
}

/// Whether a template shows the size, by itself or as part of the whole row.
fn asks_for_size(format: &str) -> bool {
    format.contains(".Size") || format.replace(' ', "").contains("{json.}")
}

async fn fetch(
    client: &sampan_api::Client,
    all: bool,
    limit: i64,
    size: bool,
    filters: &Filters,
) -> Result<Data, Failure> {
    let response = client
        .request(http::Method::GET, "/containers/json")
        .flag("all", all)
        .flag("size", size)
        .maybe("limit", (limit > 0).then(|| limit.to_string()))
        .filters(filters)
        .send()
        .await?;
    super::read_data(response).await
}

/// A line of what the engine says of a container.
pub(crate) fn row(container: &Data, full: bool, now: Timestamp) -> Row {
    let id = container.text_at("Id");
    let command = container.text_at("Command");
    let created = container.int_at("Created");
    let (labels, label_pairs) = list::labels(container.get("Labels"));
    let mounts = container.list_at("Mounts");
    let local = mounts
        .iter()
        .filter(|mount| mount.text_at("Driver") == "local")
        .count();
    let mount_names: Vec<String> = mounts
        .iter()
        .map(|mount| {
            let name = match mount.text_at("Name") {
                "" => mount.text_at("Source"),
                name => name,
            };
            if full {
                name.to_owned()
            } else {
                ellipsis(name, 15)
            }
        })
        .collect();
    let networks: Vec<&str> = container
        .sorted_at("NetworkSettings.Networks")
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let mut row = Row::new(
        [
            ("ID", if full { id } else { short_id(id) }.to_owned()),
            ("Names", names(container.list_at("Names"), full)),
            ("Image", image(container, full)),
            (
                "Command",
                quote(&if full {
                    command.to_owned()
                } else {
                    ellipsis(command, 20)
                }),
            ),
            ("CreatedAt", units::local_time(created)),
            ("RunningFor", units::ago(created, now)),
            ("Ports", ports(container.list_at("Ports"))),
            ("State", container.text_at("State").to_owned()),
            ("Status", container.text_at("Status").to_owned()),
            ("Size", size(container)),
            ("Labels", labels),
            ("Mounts", mount_names.join(",")),
            ("LocalVolumes", local.to_string()),
            ("Networks", networks.join(",")),
        ],
        label_pairs,
    );
    row.fields
        .push(("Platform".to_owned(), platform(container)));
    row
}

/// The platform of the image, where the engine tells it.
fn platform(container: &Data) -> Data {
    container
        .at("ImageManifestDescriptor.platform")
        .cloned()
        .unwrap_or(Data::Nil(Nil::Pointer))
}

fn names(names: &[Data], full: bool) -> String {
    let mut names: Vec<&str> = names
        .iter()
        .filter_map(Data::as_text)
        .map(|name| name.strip_prefix('/').unwrap_or(name))
        .collect();
    if !full {
        // Names that links give have another slash.
        names.retain(|name| !name.contains('/'));
    }
    names.join(",")
}

fn image(container: &Data, full: bool) -> String {
    let image = container.text_at("Image");
    if image.is_empty() {
        return "<no image>".to_owned();
    }
    if full {
        return image.to_owned();
    }
    let short = short_id(container.text_at("ImageID"));
    if short_id(image) == short {
        return short.to_owned();
    }
    // A digest makes the column too wide.
    match image.split_once("@sha256:") {
        Some((name, _)) => name.to_owned(),
        None => image.to_owned(),
    }
}

fn size(container: &Data) -> String {
    let writable = units::size(container.int_at("SizeRw"));
    match container.int_at("SizeRootFs") {
        0 => writable,
        all => format!("{writable} (virtual {})", units::size(all)),
    }
}

/// Published and exposed ports; neighbours are merged to ranges.
fn ports(ports: &[Data]) -> String {
    let mut ports: Vec<(i64, &str, i64, &str)> = ports
        .iter()
        .map(|port| {
            (
                port.int_at("PrivatePort"),
                port.text_at("IP"),
                port.int_at("PublicPort"),
                port.text_at("Type"),
            )
        })
        .collect();
    ports.sort_unstable();
    let mut order: Vec<String> = Vec::new();
    let mut groups: BTreeMap<String, (&str, &str, i64, i64)> = BTreeMap::new();
    let mut shown = Vec::new();
    let mut moved = Vec::new();
    for (inside, ip, outside, kind) in ports {
        if !ip.is_empty() && outside != inside {
            moved.push(format!(
                "{}->{inside}/{kind}",
                join_host(ip, &outside.to_string())
            ));
            continue;
        }
        let key = format!("{ip}/{kind}");
        match groups.get_mut(&key) {
            Some((_, _, _, last)) if *last + 1 == inside => *last = inside,
            Some(group) => {
                shown.push(group_text(*group));
                *group = (ip, kind, inside, inside);
            }
            None => {
                order.push(key.clone());
                groups.insert(key, (ip, kind, inside, inside));
            }
        }
    }
    shown.extend(
        order
            .iter()
            .filter_map(|key| groups.get(key))
            .map(|group| group_text(*group)),
    );
    shown.extend(moved);
    shown.join(", ")
}

fn group_text((ip, kind, first, last): (&str, &str, i64, i64)) -> String {
    let range = if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    };
    if ip.is_empty() {
        format!("{range}/{kind}")
    } else {
        format!("{}->{range}/{kind}", join_host(ip, &range))
    }
}

fn join_host(ip: &str, port: &str) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: &str) -> String {
        ports(Data::parse(json.as_bytes()).unwrap().items())
    }

    #[test]
    fn ports_are_merged() {
        for (json, expected) in [
            ("[]", ""),
            (r#"[{"PrivatePort":80,"Type":"tcp"}]"#, "80/tcp"),
            (
                r#"[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":80,"Type":"tcp"},
                    {"IP":"::","PrivatePort":80,"PublicPort":80,"Type":"tcp"}]"#,
                "0.0.0.0:80->80/tcp, [::]:80->80/tcp",
            ),
            (
                r#"[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},
                    {"PrivatePort":443,"Type":"tcp"}]"#,
                "443/tcp, 0.0.0.0:8080->80/tcp",
            ),
            (
                r#"[{"IP":"127.0.0.1","PrivatePort":81,"PublicPort":81,"Type":"tcp"},
                    {"IP":"127.0.0.1","PrivatePort":80,"PublicPort":80,"Type":"tcp"},
                    {"PrivatePort":53,"Type":"udp"},{"PrivatePort":54,"Type":"udp"},
                    {"PrivatePort":56,"Type":"udp"}]"#,
                "53-54/udp, 56/udp, 127.0.0.1:80-81->80-81/tcp",
            ),
        ] {
            assert_eq!(shown(json), expected, "{json}");
        }
    }

    #[test]
    fn rows_look_as_dockers() {
        let container = Data::parse(
            br#"{"Id":"0123456789abcdef","Names":["/web","/other/link"],"Image":"sha256:aaaaaaaaaaaabbbb",
            "ImageID":"sha256:aaaaaaaaaaaabbbb","Command":"/bin/sh -c 'echo a long command'","Created":1,
            "State":"running","Status":"Up 2 hours","Ports":[],"SizeRw":5,"SizeRootFs":1200000,
            "Labels":{"b":"2","a":"1"},"Mounts":[{"Name":"0123456789abcdef","Driver":"local"}],
            "NetworkSettings":{"Networks":{"bridge":{}}}}"#,
        )
        .unwrap();
        let row = row(&container, false, Timestamp::from_second(7201).unwrap());
        let field = |name: &str| {
            let found = row.fields.iter().find(|(key, _)| key == name).unwrap();
            found.1.to_string()
        };
        for (name, expected) in [
            ("ID", "0123456789ab"),
            ("Names", "web"),
            ("Image", "aaaaaaaaaaaa"),
            ("Command", "\"/bin/sh -c 'echo a …\""),
            ("RunningFor", "2 hours ago"),
            ("Size", "5B (virtual 1.2MB)"),
            ("Labels", "a=1,b=2"),
            ("Mounts", "0123456789abcd…"),
            ("LocalVolumes", "1"),
            ("Networks", "bridge"),
        ] {
            assert_eq!(field(name), expected, "{name}");
        }
    }
}
