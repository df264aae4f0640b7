//! `sampan volume`.

use sampan_api::types::volume::VolumeCreateRequest;

use super::command::{Arguments, Command, Flag, Parsed};
use super::each::each;
use super::failure::Failure;
use super::flags::{environment, filter};
use super::format::data::Data;
use super::format::list::{self, Row, Style};
use super::format::natural;
use super::output;
use super::ps::FORMAT_HELP;
use super::session::Session;

pub(crate) const LS: Command = Command {
    names: &["volume ls", "volume list"],
    usage: "[OPTIONS]",
    about: "List volumes",
    flags: &[&[
        Flag::many(
            "filter",
            "filter",
            "Provide filter values (e.g. \"dangling=true\")",
        )
        .short('f'),
        Flag::one("format", "string", FORMAT_HELP),
        Flag::switch("quiet", "Only display volume names").short('q'),
    ]],
    refused: &[("cluster", None)],
    arguments: Arguments::None,
    run: ls,
    ..Command::PLAIN
};

pub(crate) const CREATE: Command = Command {
    names: &["volume create"],
    usage: "[OPTIONS] [VOLUME]",
    about: "Create a volume",
    flags: &[&[
        Flag::one("driver", "string", "Specify volume driver name")
            .short('d')
            .default("local"),
        Flag::many("label", "list", "Set metadata for a volume"),
        Flag::one("name", "string", "").hidden(),
        Flag::many("opt", "map", "Set driver specific options")
            .short('o')
            .default("map[]"),
    ]],
    refused: &[
        ("availability", None),
        ("group", None),
        ("limit-bytes", None),
        ("required-bytes", None),
        ("scope", None),
        ("secret", None),
        ("sharing", None),
        ("topology-preferred", None),
        ("topology-required", None),
        ("type", None),
    ],
    arguments: Arguments::AtMost(1),
    run: create,
    ..Command::PLAIN
};

pub(crate) const RM: Command = Command {
    names: &["volume rm", "volume remove"],
    usage: "[OPTIONS] VOLUME [VOLUME...]",
    about: "Remove one or more volumes. You cannot remove a volume that is in use by a container.",
    flags: &[&[Flag::switch("force", "Force the removal of one or more volumes").short('f')]],
    arguments: Arguments::AtLeast(1),
    run: rm,
    ..Command::PLAIN
};

const HEADERS: &[(&str, &str)] = &[
    ("Availability", "AVAILABILITY"),
    ("Driver", "DRIVER"),
    ("Group", "GROUP"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Size", "SIZE"),
    ("Status", "STATUS"),
];

fn ls(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let filters = filter::collect(parsed.values("filter", filter::parse)?);
    let quiet = parsed.switch("quiet")?;
    let given = parsed.text("format").filter(|text| !text.is_empty());
    let format = match given
        .or_else(|| session.setting("volumesFormat"))
        .unwrap_or("table")
    {
        "table" if quiet => "{{.Name}}",
        "table" => "table {{.Driver}}\\t{{.Name}}",
        "raw" => "name: {{.Name}}\\ndriver: {{.Driver}}\\n",
        other => other,
    };
    let client = session.client()?;
    let volumes = session.wait(async {
        let request = client
            .request(http::Method::GET, "/volumes")
            .filters(&filters);
        super::read_data(request.send().await?).await
    })?;
    let mut volumes: Vec<&Data> = volumes.list_at("Volumes").iter().collect();
    volumes.sort_by(|a, b| natural::order(a.text_at("Name"), b.text_at("Name")));
    let rows = volumes.into_iter().map(row).collect();
    list::print(
        rows,
        &Style {
            format,
            headers: HEADERS,
            type_name: "*formatter.volumeContext",
        },
    )?;
    Ok(0)
}

fn row(volume: &Data) -> Row {
    let (labels, pairs) = list::labels(volume.get("Labels"));
    let usage = |path: &str| {
        volume
            .at(path)
            .and_then(Data::as_int)
            .filter(|number| *number >= 0)
    };
    let text = |path: &str| volume.text_at(path).to_owned();
    Row::new(
        [
            ("Availability", "N/A".to_owned()),
            ("Driver", text("Driver")),
            ("Group", "N/A".to_owned()),
            ("Labels", labels),
            (
                "Links",
                usage("UsageData.RefCount").map_or("N/A".to_owned(), |count| count.to_string()),
            ),
            ("Mountpoint", text("Mountpoint")),
            ("Name", text("Name")),
            ("Scope", text("Scope")),
            (
                "Size",
                usage("UsageData.Size")
                    .map_or("N/A".to_owned(), super::format::units::size_precise),
            ),
            ("Status", "N/A".to_owned()),
        ],
        pairs,
    )
}

fn create(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let name = parsed.arguments().first().copied();
    if name.is_some() && parsed.given("name") {
        return Err(Failure::message(
            "conflicting options: cannot specify a volume-name through both --name and as a positional arg",
        ));
    }
    let name = name.or_else(|| parsed.text("name")).unwrap_or_default();
    let options = parsed.values("opt", |text| {
        text.split_once('=')
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .ok_or_else(|| format!("invalid option {text:?}: must be key=value"))
    })?;
    let request = VolumeCreateRequest {
        name: name.to_owned(),
        driver: parsed.text("driver").unwrap_or("local").to_owned(),
        driver_opts: options.into_iter().collect(),
        labels: parsed
            .values("label", environment::label)?
            .into_iter()
            .collect(),
    };
    let client = session.client()?;
    let volume = session.wait(client.create_volume(&request))?;
    output::line(&volume.name);
    Ok(0)
}

fn rm(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let force = parsed.switch("force")?;
    let client = session.client()?;
    session.wait(each(&parsed.arguments(), |name| async move {
        Ok(client.remove_volume(name, force).await?)
    }))
}
