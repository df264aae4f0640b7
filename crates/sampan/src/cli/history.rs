//! `sampan history`.

use jiff::Timestamp;

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::format::data::Data;
use super::format::list::{self, Row, Style};
use super::format::quote::{ellipsis, short_id};
use super::format::units;
use super::ps::FORMAT_HELP;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["image history", "history"],
    usage: "[OPTIONS] IMAGE",
    about: "Show the history of an image",
    flags: &[&[
        Flag::one("format", "string", FORMAT_HELP),
        Flag::switch("human", "Print sizes and dates in human readable format")
            .short('H')
            .default("true"),
        Flag::switch("no-trunc", "Don't truncate output"),
        Flag::switch("quiet", "Only show image IDs").short('q'),
    ]],
    refused: &[("platform", None)],
    arguments: Arguments::Exactly(1),
    run,
    ..Command::PLAIN
};

const HEADERS: &[(&str, &str)] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

const TABLE: &str = "table {{.ID}}\\t{{.CreatedSince}}\\t{{.CreatedBy}}\\t{{.Size}}\\t{{.Comment}}";
const TABLE_FOR_PROGRAMS: &str =
    "table {{.ID}}\\t{{.CreatedAt}}\\t{{.CreatedBy}}\\t{{.Size}}\\t{{.Comment}}";

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let human = parsed.switch_or("human", true)?;
    let full = parsed.switch("no-trunc")?;
    let quiet = parsed.switch("quiet")?;
    let format = match parsed.text("format").unwrap_or("table") {
        "table" | "" if quiet => "{{.ID}}",
        "table" | "" if human => TABLE,
        "table" | "" => TABLE_FOR_PROGRAMS,
        other => other,
    };
    let client = session.client()?;
    let name = parsed.arguments()[0];
    let steps = session.wait(async {
        let path = format!("/images/{}/history", super::encode_image(name));
        let request = client.request(http::Method::GET, path);
        super::read_data(request.send().await?).await
    })?;
    let now = Timestamp::now();
    let rows = steps
        .items()
        .iter()
        .map(|step| row(step, human, full, now))
        .collect();
    list::print(
        rows,
        &Style {
            format,
            headers: HEADERS,
            type_name: "*image.historyContext",
        },
    )?;
    Ok(0)
}

fn row(step: &Data, human: bool, full: bool, now: Timestamp) -> Row {
    let id = step.text_at("Id");
    let created = step.int_at("Created");
    let by = step.text_at("CreatedBy").replace('\t', " ");
    let comment = step.text_at("Comment");
    let size = step.int_at("Size");
    let at = Timestamp::from_second(created)
        .map(|time| {
            time.to_zoned(jiff::tz::TimeZone::system())
                .strftime("%Y-%m-%dT%H:%M:%S%:z")
                .to_string()
                .replace("+00:00", "Z")
        })
        .unwrap_or_default();
    Row::new(
        [
            ("ID", if full { id } else { short_id(id) }.to_owned()),
            (
                "CreatedSince",
                match (human, created) {
                    (true, ..=0) => "N/A".to_owned(),
                    (true, created) => units::ago(created, now),
                    (false, _) => at.clone(),
                },
            ),
            ("CreatedAt", at),
            ("CreatedBy", if full { by } else { ellipsis(&by, 45) }),
            (
                "Size",
                if human {
                    units::size(size)
                } else {
                    size.to_string()
                },
            ),
            ("Comment", comment.to_owned()),
        ],
        Vec::new(),
    )
}
