//! `sampan image diff`.

use sampan_api::types::sampan::{Changed, ImageDiff};

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::format::units;
use super::output;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["image diff"],
    usage: "[OPTIONS] IMAGE IMAGE",
    about: "Show what files differ between two images",
    flags: &[&[Flag::one(
        "format",
        "string",
        "Format output: 'lines' (default) or 'json'",
    )]],
    arguments: Arguments::Exactly(2),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let json = match parsed.text("format").unwrap_or("lines") {
        "lines" => false,
        "json" => true,
        other => {
            return Err(Failure::message(format!(
                "invalid format {other:?}: use lines or json"
            )));
        }
    };
    let names = parsed.arguments();
    let client = session.client()?;
    let diff: ImageDiff = session.wait(async {
        let request = client
            .request(http::Method::GET, "/sampan/images/diff")
            .query("from", names[0])
            .query("to", names[1]);
        request.send().await?.json().await
    })?;
    if json {
        let json = serde_json::to_string(&diff).map_err(|e| Failure::message(e.to_string()))?;
        output::line(&json);
        return Ok(0);
    }
    let lines: Vec<String> = diff.changes.iter().map(line).collect();
    if !lines.is_empty() {
        output::line(&lines.join("\n"));
    }
    Ok(0)
}

/// A line as `diff` of a container writes it, with sizes: `C /etc/passwd (1kB -> 1.1kB)`.
fn line(changed: &Changed) -> String {
    let (letter, sizes) = match changed.change.as_str() {
        "added" => ("A", sizes(changed, &[changed.new_size])),
        "deleted" => ("D", sizes(changed, &[changed.old_size])),
        "metadata" => ("M", String::new()),
        _ => ("C", sizes(changed, &[changed.old_size, changed.new_size])),
    };
    format!("{letter} {}{sizes}", changed.path)
}

fn sizes(changed: &Changed, sizes: &[i64]) -> String {
    if changed.kind != "-" {
        return String::new();
    }
    let sizes: Vec<String> = sizes.iter().map(|size| units::size(*size)).collect();
    format!(" ({})", sizes.join(" -> "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_how_a_path_differs() {
        let changed = |change: &str, kind: &str| Changed {
            path: "/x".to_owned(),
            change: change.to_owned(),
            kind: kind.to_owned(),
            old_size: 10,
            new_size: 2000,
        };
        for (change, kind, wanted) in [
            ("added", "-", "A /x (2kB)"),
            ("added", "d", "A /x"),
            ("deleted", "-", "D /x (10B)"),
            ("content", "-", "C /x (10B -> 2kB)"),
            ("metadata", "-", "M /x"),
        ] {
            assert_eq!(line(&changed(change, kind)), wanted);
        }
    }
}
