//! `sampan search`.

use super::command::{Arguments, Command, Flag, Parsed};
use super::credentials;
use super::failure::Failure;
use super::flags::filter;
use super::format::data::Data;
use super::format::list::{self, Row, Style};
use super::format::quote::ellipsis;
use super::ps::FORMAT_HELP;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["search"],
    usage: "[OPTIONS] TERM",
    about: "Search Docker Hub, or the registry that the term begins with, for images",
    flags: &[&[
        Flag::many(
            "filter",
            "filter",
            "Filter output based on conditions provided",
        )
        .short('f'),
        Flag::one("format", "string", FORMAT_HELP),
        Flag::one("limit", "int", "Max number of search results"),
        Flag::switch("no-trunc", "Don't truncate output"),
    ]],
    arguments: Arguments::Exactly(1),
    run,
    ..Command::PLAIN
};

const HEADERS: &[(&str, &str)] = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
];

const TABLE: &str = "table {{.Name}}\\t{{.Description}}\\t{{.StarCount}}\\t{{.IsOfficial}}";

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let full = parsed.switch("no-trunc")?;
    let term = parsed.arguments()[0];
    let filters = filter::collect(parsed.values("filter", filter::parse)?);
    let format = match parsed.text("format").unwrap_or("table") {
        "table" | "" => TABLE,
        other => other,
    };
    let auth = term
        .parse()
        .ok()
        .and_then(|image| credentials::find(session, &image));
    let client = session.client()?;
    let found = session.wait(async {
        let limit = parsed.text("limit").filter(|limit| *limit != "0");
        let response = client
            .search_images(term, limit, &filters, auth.as_ref())
            .await?;
        super::read_data(response).await
    })?;
    let rows = found.items().iter().map(|line| row(line, full)).collect();
    list::print(
        rows,
        &Style {
            format,
            headers: HEADERS,
            type_name: "*search.searchContext",
        },
    )?;
    Ok(0)
}

fn row(line: &Data, full: bool) -> Row {
    let description = line.text_at("description").replace(['\n', '\r'], " ");
    let official = if line.bool_at("is_official") {
        "[OK]"
    } else {
        ""
    };
    Row::new(
        [
            ("Name", line.text_at("name").to_owned()),
            (
                "Description",
                if full {
                    description
                } else {
                    ellipsis(&description, 45)
                },
            ),
            ("StarCount", line.int_at("star_count").to_string()),
            ("IsOfficial", official.to_owned()),
        ],
        Vec::new(),
    )
}
