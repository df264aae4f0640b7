//! `sampan image gc`.

use sampan_api::types::sampan::{Collected, Collection};

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::format::list::{self, Row, Style};
use super::format::quote::short_id;
use super::format::units;
use super::output;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["image gc"],
    usage: "[OPTIONS]",
    about: "Bring images back within their budget of disk space",
    flags: &[&[
        Flag::switch(
            "dry-run",
            "Only show what would go, what would stay, and why",
        ),
        Flag::one(
            "format",
            "string",
            "Format output: 'table' (default) or 'json'",
        ),
        Flag::one(
            "min-age",
            "duration",
            "Keep images that were used so lately (default: as the daemon is configured)",
        ),
        Flag::switch(
            "tagged",
            "Remove tagged images, too, that no container uses",
        ),
        Flag::one(
            "to",
            "string",
            "Go down to this size of images or use of the file system, whatever the budget (e.g. \"20g\", \"60%\")",
        ),
    ]],
    arguments: Arguments::None,
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let dry_run = parsed.switch("dry-run")?;
    let tagged = parsed.switch("tagged")?;
    let min_age = parsed.value("min-age", |text| {
        super::go_duration(text)
            .map(|age| age.as_secs().max(0))
            .ok_or_else(|| format!("invalid duration {text:?}"))
    })?;
    let format = parsed.text("format").unwrap_or("table");
    if !["table", "json"].contains(&format) {
        return Err(Failure::message(format!(
            "invalid format {format:?}: use table or json"
        )));
    }
    let client = session.client()?;
    let done: Collection = session.wait(async {
        let request = client
            .request(http::Method::POST, "/sampan/images/gc")
            .flag("dry-run", dry_run)
            .flag("tagged", tagged)
            .maybe("to", parsed.text("to"))
            .maybe("min-age", min_age.map(|age| age.to_string()));
        request.send().await?.json().await
    })?;
    if format == "json" {
        let json = serde_json::to_string(&done).map_err(|e| Failure::message(e.to_string()))?;
        output::line(&json);
        return Ok(0);
    }
    show(&done, parsed.text("to").is_some())?;
    Ok(0)
}

fn show(done: &Collection, by_hand: bool) -> Result<(), Failure> {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    if !by_hand {
        output::line(&match (done.high.as_str(), done.low.as_str()) {
            ("", _) => "No budget is set: nothing is removed by itself.".to_owned(),
            (high, low) => format!("Budget: from {} down to {}.", mark(high), mark(low)),
        });
    }
    output::line(&format!(
        "Too much: {}. {}: {}.",
        units::size_precise(signed(done.wanted)),
        if done.dry_run { "Would free" } else { "Freed" },
        units::size_precise(signed(done.freed)),
    ));
    output::line("");
    let goes = if done.dry_run { "remove" } else { "removed" };
    let removed = done.removed.iter().map(|item| row(goes, item));
    let kept = done.kept.iter().map(|item| row("keep", item));
    list::print(
        removed.chain(kept).collect(),
        &Style {
            format: "table {{.Action}}\\t{{.Type}}\\t{{.ID}}\\t{{.Size}}\\t{{.LastUsed}}\\t{{.Names}}\\t{{.Why}}",
            headers: &[
                ("Action", "ACTION"),
                ("Type", "TYPE"),
                ("ID", "ID"),
                ("Size", "SIZE"),
                ("LastUsed", "LAST USED"),
                ("Names", "NAMES"),
                ("Why", "WHY"),
            ],
            type_name: "*formatter.collectionContext",
        },
    )
}

/// A level as people write it: the engine tells sizes as numbers of bytes.
fn mark(text: &str) -> String {
    match text.parse() {
        Ok(bytes) => units::size_precise(bytes),
        Err(_) => format!("{text} of the file system"),
    }
}

fn row(action: &str, item: &Collected) -> Row {
    let now = jiff::Timestamp::now();
    let used: Option<jiff::Timestamp> = item.last_used.parse().ok();
    let names = match item.names.is_empty() {
        true => "<none>".to_owned(),
        false => item.names.join(", "),
    };
    Row::new(
        [
            ("Action", action.to_owned()),
            ("Type", item.kind.clone()),
            ("ID", short_id(&item.id).to_owned()),
            ("Size", units::size(item.size)),
            (
                "LastUsed",
                used.map_or(String::new(), |used| units::ago(used.as_second(), now)),
            ),
            ("Names", names),
            ("Why", item.why.clone()),
        ],
        Vec::new(),
    )
}
