//! `sampan builder du`: what is kept for builds, as `docker buildx du` shows it.

use jiff::Timestamp;

use super::command::{Arguments, Command, Flag, Parsed};
use super::df::since;
use super::failure::Failure;
use super::format::data::Data;
use super::format::units;
use super::output;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["builder du"],
    usage: "[OPTIONS]",
    about: "Show what is kept for builds",
    flags: &[&[Flag::switch(
        "verbose",
        "Show all that is known of each record",
    )]],
    arguments: Arguments::None,
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let client = session.client()?;
    let usage = session.wait(async {
        let request = client
            .request(http::Method::GET, "/system/df")
            .query("type", "build-cache");
        super::read_data(request.send().await?).await
    })?;
    let records = usage.list_at("BuildCache");
    let now = Timestamp::now();
    let text = match parsed.switch("verbose")? {
        true => records.iter().map(|record| details(record, now)).collect(),
        false => table(records, now),
    };
    output::text(&text);
    output::text(&totals(records));
    Ok(0)
}

fn table(records: &[Data], now: Timestamp) -> String {
    let mut text = format!(
        "{:<64}  {:<11}  {:<9}  {}\n",
        "ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED"
    );
    for record in records {
        let mark = if record.bool_at("Shared") { "*" } else { "" };
        text.push_str(&format!(
            "{:<64}  {:<11}  {:<9}  {}\n",
            record.text_at("ID"),
            !record.bool_at("InUse"),
            units::size_precise(record.int_at("Size")) + mark,
            since(record.text_at("LastUsedAt"), now),
        ));
    }
    text
}

fn details(record: &Data, now: Timestamp) -> String {
    let parents = record.list_at("Parents").iter();
    let parents: Vec<&str> = parents.filter_map(Data::as_text).collect();
    let lines = [
        ("ID", record.text_at("ID").to_owned()),
        ("Parents", parents.join(" ")),
        ("Created at", record.text_at("CreatedAt").to_owned()),
        ("Mutable", "false".to_owned()),
        ("Reclaimable", (!record.bool_at("InUse")).to_string()),
        ("Shared", record.bool_at("Shared").to_string()),
        ("Size", units::size_precise(record.int_at("Size"))),
        ("Description", record.text_at("Description").to_owned()),
        ("Usage count", record.int_at("UsageCount").to_string()),
        ("Last used", since(record.text_at("LastUsedAt"), now)),
        ("Type", record.text_at("Type").to_owned()),
    ];
    let told = lines.iter().filter(|(_, value)| !value.is_empty());
    let mut text: String = told
        .map(|(name, value)| format!("{:<16}{value}\n", format!("{name}:")))
        .collect();
    text.push('\n');
    text
}

fn totals(records: &[Data]) -> String {
    let sum = |wanted: &dyn Fn(&Data) -> bool| -> i64 {
        let wanted = records.iter().filter(|record| wanted(record));
        wanted.map(|record| record.int_at("Size")).sum()
    };
    let shared = sum(&|record| record.bool_at("Shared"));
    let mut lines = Vec::new();
    if shared > 0 {
        lines.push(("Shared", shared));
        lines.push(("Private", sum(&|record| !record.bool_at("Shared"))));
    }
    lines.push(("Reclaimable", sum(&|record| !record.bool_at("InUse"))));
    lines.push(("Total", sum(&|_| true)));
    let line = |(name, bytes): &(&str, i64)| {
        format!(
            "{:<16}{}\n",
            format!("{name}:"),
            units::size_precise(*bytes)
        )
    };
    lines.iter().map(line).collect()
}
