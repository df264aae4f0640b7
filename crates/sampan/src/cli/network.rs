//! `sampan network`.

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::flags::filter;
use super::format::data::Data;
use super::format::list::{self, Row, Style};
use super::format::natural;
use super::format::quote::short_id;
use super::ps::FORMAT_HELP;
use super::session::Session;

pub(crate) const LS: Command = Command {
    names: &["network ls", "network list"],
    usage: "[OPTIONS]",
    about: "List networks",
    flags: &[&[
        Flag::many(
            "filter",
            "filter",
            "Provide filter values (e.g. \"driver=bridge\")",
        )
        .short('f'),
        Flag::one("format", "string", FORMAT_HELP),
        Flag::switch("no-trunc", "Do not truncate the output"),
        Flag::switch("quiet", "Only display network IDs").short('q'),
    ]],
    arguments: Arguments::None,
    run: ls,
    ..Command::PLAIN
};

const HEADERS: &[(&str, &str)] = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

fn ls(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let filters = filter::collect(parsed.values("filter", filter::parse)?);
    let quiet = parsed.switch("quiet")?;
    let full = parsed.switch("no-trunc")?;
    let given = parsed.text("format").filter(|text| !text.is_empty());
    let format = match given
        .or_else(|| session.setting("networksFormat"))
        .unwrap_or("table")
    {
        "table" if quiet => "{{.ID}}",
        "table" => "table {{.ID}}\\t{{.Name}}\\t{{.Driver}}\\t{{.Scope}}",
        "raw" => {
            "network_id: {{.ID}}\\nname: {{.Name}}\\ndriver: {{.Driver}}\\nscope: {{.Scope}}\\n"
        }
        other => other,
    };
    let client = session.client()?;
    let networks = session.wait(async {
        let request = client
            .request(http::Method::GET, "/networks")
            .filters(&filters);
        super::read_data(request.send().await?).await
    })?;
    let mut networks: Vec<&Data> = networks.items().iter().collect();
    networks.sort_by(|a, b| natural::order(a.text_at("Name"), b.text_at("Name")));
    let rows = networks
        .into_iter()
        .map(|network| row(network, full))
        .collect();
    list::print(
        rows,
        &Style {
            format,
            headers: HEADERS,
            type_name: "*network.networkContext",
        },
    )?;
    Ok(0)
}

fn row(network: &Data, full: bool) -> Row {
    let (labels, pairs) = list::labels(network.get("Labels"));
    let id = network.text_at("Id");
    let text = |path: &str| network.text_at(path).to_owned();
    Row::new(
        [
            ("ID", if full { id } else { short_id(id) }.to_owned()),
            ("Name", text("Name")),
            ("Driver", text("Driver")),
            ("Scope", text("Scope")),
            ("IPv4", network.bool_at("EnableIPv4").to_string()),
            ("IPv6", network.bool_at("EnableIPv6").to_string()),
            ("Internal", network.bool_at("Internal").to_string()),
            ("Labels", labels),
            ("CreatedAt", created(network.text_at("Created"))),
        ],
        pairs,
    )
}

/// The time of creation as Go prints it.
fn created(text: &str) -> String {
    text.parse::<jiff::Timestamp>().map_or_else(
        |_| text.to_owned(),
        |time| {
            let zoned = time.to_zoned(jiff::tz::TimeZone::UTC);
            zoned.strftime("%Y-%m-%d %H:%M:%S%.f %z %Z").to_string()
        },
    )
}
