//! `sampan images`.

use jiff::Timestamp;

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::flags::filter;
use super::format::data::Data;
use super::format::list::{self, Row, Style};
use super::format::quote::short_id;
use super::format::units;
use super::ps::FORMAT_HELP;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["image ls", "image list", "images"],
    usage: "[OPTIONS] [REPOSITORY[:TAG]]",
    about: "List images",
    flags: &[&[
        Flag::switch("all", "Show all images (default hides intermediate images)").short('a'),
        Flag::switch("digests", "Show digests"),
        Flag::many(
            "filter",
            "filter",
            "Filter output based on conditions provided",
        )
        .short('f'),
        Flag::one("format", "string", FORMAT_HELP),
        Flag::switch("no-trunc", "Don't truncate output"),
        Flag::switch("quiet", "Only show image IDs").short('q'),
    ]],
    refused: &[("tree", None)],
    arguments: Arguments::AtMost(1),
    run,
    ..Command::PLAIN
};

const HEADERS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

const TABLE: &str = "table {{.Repository}}\\t{{.Tag}}\\t{{.ID}}\\t{{.CreatedSince}}\\t{{.Size}}";
const TABLE_WITH_DIGESTS: &str =
    "table {{.Repository}}\\t{{.Tag}}\\t{{.Digest}}\\t{{.ID}}\\t{{.CreatedSince}}\\t{{.Size}}";
const RAW: &str = "repository: {{ .Repository }}\\ntag: {{.Tag}}\\nimage_id: {{.ID}}\\ncreated_at: {{.CreatedAt}}\\nvirtual_size: {{.Size}}\\n";

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let mut filters = filter::collect(parsed.values("filter", filter::parse)?);
    if let Some(name) = parsed.arguments().first() {
        filters.add("reference", *name);
    }
    let digests = parsed.switch("digests")?;
    let quiet = parsed.switch("quiet")?;
    let given = parsed.text("format").filter(|text| !text.is_empty());
    let format = match given
        .or_else(|| session.setting("imagesFormat"))
        .unwrap_or("table")
    {
        "table" if quiet => "{{.ID}}",
        "raw" if quiet => "image_id: {{.ID}}",
        "table" if digests => TABLE_WITH_DIGESTS,
        "table" => TABLE,
        "raw" => RAW,
        other => other,
    };
    let all = parsed.switch("all")?;
    let client = session.client()?;
    let images = session.wait(async {
        let request = client
            .request(http::Method::GET, "/images/json")
            .flag("all", all)
            .filters(&filters);
        super::read_data(request.send().await?).await
    })?;
    let full = parsed.switch("no-trunc")?;
    let digests = Digests {
        column: digests,
        beside_tags: digests || format.contains(".Digest"),
    };
    let now = Timestamp::now();
    let rows = images
        .items()
        .iter()
        .flat_map(|image| rows(image, full, digests, now))
        .collect();
    list::print(
        rows,
        &Style {
            format,
            headers: HEADERS,
            type_name: "*formatter.imageContext",
        },
    )?;
    Ok(0)
}

/// A name of an image, as one row shows it.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    repository: String,
    tag: String,
    digest: String,
}

/// Which digests are wanted.
#[derive(Debug, Clone, Copy)]
struct Digests {
    /// There is a column for them: an image without tag has a row for each.
    column: bool,
    /// Rows of tags have them.
    beside_tags: bool,
}

const NONE: &str = "<none>";

/// The names of an image, each of which is a row.
fn names(image: &Data, shown: Digests) -> Vec<Name> {
    let name = |repository: &str, tag: &str, digest: &str| Name {
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        digest: digest.to_owned(),
    };
    let texts = |field| image.list_at(field).iter().filter_map(Data::as_text);
    let digests: Vec<(&str, &str)> = texts("RepoDigests")
        .filter_map(|text| text.split_once('@'))
        .filter(|(repository, _)| *repository != NONE)
        .collect();
    let mut names = Vec::new();
    let mut tagged = Vec::new();
    for text in texts("RepoTags") {
        let Some((repository, tag)) = text.rsplit_once(':') else {
            continue;
        };
        if repository == NONE {
            continue;
        }
        tagged.push(repository);
        let before = names.len();
        if shown.beside_tags {
            let of_this = digests.iter().filter(|(of, _)| *of == repository);
            names.extend(of_this.map(|(_, digest)| name(repository, tag, digest)));
        }
        if names.len() == before {
            names.push(name(repository, tag, NONE));
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for (repository, digest) in &digests {
        if tagged.contains(repository) || (!shown.column && seen.contains(repository)) {
            continue;
        }
        seen.push(repository);
        names.push(name(
            repository,
            NONE,
            if shown.column { digest } else { "" },
        ));
    }
    if names.is_empty() {
        names.push(name(NONE, NONE, NONE));
    }
    names
}

fn rows(image: &Data, full: bool, digests: Digests, now: Timestamp) -> Vec<Row> {
    let id = image.text_at("Id");
    let created = image.int_at("Created");
    let known = |field: &str| match image.int_at(field) {
        -1 => "N/A".to_owned(),
        bytes => units::size(bytes),
    };
    let unique = match (image.int_at("Size"), image.int_at("SharedSize")) {
        (-1, _) | (_, -1) => "N/A".to_owned(),
        (size, shared) => units::size(size - shared),
    };
    let containers = match image.int_at("Containers") {
        -1 => "N/A".to_owned(),
        count => count.to_string(),
    };
    let (_, labels) = list::labels(image.get("Labels"));
    names(image, digests)
        .into_iter()
        .map(|name| {
            Row::new(
                [
                    ("ID", if full { id } else { short_id(id) }.to_owned()),
                    ("Repository", name.repository),
                    ("Tag", name.tag),
                    ("Digest", name.digest),
                    (
                        "CreatedSince",
                        if created == 0 {
                            "N/A".to_owned()
                        } else {
                            units::ago(created, now)
                        },
                    ),
                    ("CreatedAt", units::local_time(created)),
                    ("Size", units::size(image.int_at("Size"))),
                    ("Containers", containers.clone()),
                    ("VirtualSize", units::size_precise(image.int_at("Size"))),
                    ("SharedSize", known("SharedSize")),
                    ("UniqueSize", unique.clone()),
                ],
                labels.clone(),
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: &str, column: bool) -> Vec<String> {
        let digests = Digests {
            column,
            beside_tags: column,
        };
        names(&Data::parse(json.as_bytes()).unwrap(), digests)
            .into_iter()
            .map(|name| format!("{} {} {}", name.repository, name.tag, name.digest))
            .collect()
    }

    #[test]
    fn each_name_is_a_row() {
        let two = r#"{"RepoTags":["a:1","h:5000/b:2"],"RepoDigests":["a@sha256:x","c@sha256:y"]}"#;
        assert_eq!(
            shown(two, false),
            ["a 1 <none>", "h:5000/b 2 <none>", "c <none> "]
        );
        assert_eq!(
            shown(two, true),
            ["a 1 sha256:x", "h:5000/b 2 <none>", "c <none> sha256:y"]
        );
        assert_eq!(
            shown(r#"{"RepoTags":[],"RepoDigests":[]}"#, false),
            ["<none> <none> <none>"]
        );
        assert_eq!(
            shown(
                r#"{"RepoTags":["<none>:<none>"],"RepoDigests":["<none>@<none>"]}"#,
                false
            ),
            ["<none> <none> <none>"]
        );
    }
}
