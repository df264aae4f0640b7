//! `sampan image tree`.

use std::fmt::Write as _;

use sampan_api::types::sampan::{ImageTree, LayerFile, LayerTree};

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::format::quote::{ellipsis, short_id};
use super::format::units;
use super::output;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["image tree"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Show the layers of images and the files each of them adds",
    flags: &[&[
        Flag::switch(
            "all",
            "Show every file (default shows the largest of each layer)",
        )
        .short('a'),
        Flag::one(
            "format",
            "string",
            "Format output: 'tree' (default) or 'json'",
        ),
        Flag::switch("no-trunc", "Don't truncate output"),
    ]],
    arguments: Arguments::AtLeast(1),
    run,
    ..Command::PLAIN
};

/// Files of a layer that are shown unless all are asked for.
const LARGEST: usize = 5;

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let (all, full) = (parsed.switch("all")?, parsed.switch("no-trunc")?);
    let json = match parsed.text("format").unwrap_or("tree") {
        "tree" => false,
        "json" => true,
        other => {
            return Err(Failure::message(format!(
                "invalid format {other:?}: use tree or json"
            )));
        }
    };
    let client = session.client()?;
    for name in parsed.arguments() {
        let tree: ImageTree = session.wait(async {
            let request = client
                .request(http::Method::GET, "/sampan/images/tree")
                .query("image", name);
            request.send().await?.json().await
        })?;
        if json {
            let json = serde_json::to_string(&tree).map_err(|e| Failure::message(e.to_string()))?;
            output::line(&json);
        } else {
            output::text(&drawn(&tree, all, full));
        }
    }
    Ok(0)
}

fn drawn(tree: &ImageTree, all: bool, full: bool) -> String {
    let id = if full { &tree.id } else { short_id(&tree.id) };
    let names = match tree.repo_tags.is_empty() {
        true => "<none>".to_owned(),
        false => tree.repo_tags.join(", "),
    };
    let mut out = format!("{names}  {id}  {}\n", units::size(tree.size));
    let count = tree.layers.len();
    for (number, layer) in tree.layers.iter().enumerate() {
        draw_layer(&mut out, layer, number + 1 == count, all, full);
    }
    out
}

fn draw_layer(out: &mut String, layer: &LayerTree, last: bool, all: bool, full: bool) {
    let (branch, below) = if last {
        ("└─", "  ")
    } else {
        ("├─", "│ ")
    };
    let id = if full {
        &layer.diff_id
    } else {
        short_id(&layer.diff_id)
    };
    let shared = match layer.shared_with.is_empty() {
        true => String::new(),
        false => format!("  shared with {}", layer.shared_with.join(", ")),
    };
    let by = match full {
        true => layer.created_by.clone(),
        false => ellipsis(&layer.created_by, 60),
    };
    let by = if by.is_empty() { by } else { format!("  {by}") };
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{branch} {id}  {} ({} on disk), {}{shared}{by}",
        units::size(layer.size),
        units::size(layer.disk_size),
        counts(&layer.files),
    );
    let mut shown: Vec<&LayerFile> = layer.files.iter().collect();
    if !all {
        shown.retain(|file| file.kind != "d");
        shown.sort_by_key(|file| (std::cmp::Reverse(file.size), file.path.clone()));
        shown.truncate(LARGEST);
    }
    for file in &shown {
        let kind = if file.kind.is_empty() {
            " "
        } else {
            &file.kind
        };
        let size = match file.kind.as_str() {
            "-" => units::size(file.size),
            _ => String::new(),
        };
        let _ = writeln!(
            out,
            "{below}   {} {kind} {size:>8}  {}",
            file.change, file.path
        );
    }
    let left = layer.files.len() - shown.len();
    if left > 0 {
        let _ = writeln!(out, "{below}   … {left} more");
    }
}

/// How many paths a layer adds, changes and removes.
fn counts(files: &[LayerFile]) -> String {
    let count = |change: &str| files.iter().filter(|file| file.change == change).count();
    let parts = [("A", "added"), ("C", "changed"), ("D", "removed")]
        .map(|(change, word)| (count(change), word));
    let parts: Vec<String> = parts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    match parts.is_empty() {
        true => "empty".to_owned(),
        false => parts.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, kind: &str, size: i64, change: &str) -> LayerFile {
        LayerFile {
            path: path.to_owned(),
            kind: kind.to_owned(),
            size,
            change: change.to_owned(),
        }
    }

    #[test]
    fn layers_are_drawn_with_their_largest_files() {
        let tree = ImageTree {
            id: format!("sha256:{}", "1".repeat(64)),
            repo_tags: vec!["a:1".to_owned()],
            size: 1234,
            layers: vec![
                LayerTree {
                    diff_id: format!("sha256:{}", "2".repeat(64)),
                    size: 1000,
                    disk_size: 4096,
                    shared_with: vec!["b:1".to_owned()],
                    files: vec![file("/", "d", 0, "A"), file("/f", "-", 1000, "A")],
                    ..LayerTree::default()
                },
                LayerTree {
                    diff_id: format!("sha256:{}", "3".repeat(64)),
                    created_by: "RUN rm /f".to_owned(),
                    files: vec![file("/f", "", 0, "D")],
                    ..LayerTree::default()
                },
            ],
        };
        assert_eq!(
            drawn(&tree, false, false),
            "\
a:1  111111111111  1.23kB
├─ 222222222222  1kB (4.1kB on disk), 2 added  shared with b:1
│    A -      1kB  /f
│    … 1 more
└─ 333333333333  0B (0B on disk), 1 removed  RUN rm /f
     D             /f
"
        );
    }
}
