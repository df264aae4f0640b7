//! `sampan container prune`, `image prune`, `network prune`, `volume prune`, `system prune`.

use std::io::BufRead as _;

use sampan_api::Filters;

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::flags::{filter, size};
use super::format::units;
use super::output;
use super::session::Session;

const FORCE: Flag = Flag::switch("force", "Do not prompt for confirmation").short('f');
const FILTER: Flag = Flag::many(
    "filter",
    "filter",
    "Provide filter values (e.g. \"until=<timestamp>\")",
);

pub(crate) const CONTAINER: Command = Command {
    names: &["container prune"],
    usage: "[OPTIONS]",
    about: "Remove all stopped containers",
    flags: &[&[FILTER, FORCE]],
    arguments: Arguments::None,
    run: |session, parsed| {
        prune(
            session,
            parsed,
            &Kind::Containers,
            "WARNING! This will remove all stopped containers.",
            filters(parsed)?,
        )
    },
    ..Command::PLAIN
};

pub(crate) const IMAGE: Command = Command {
    names: &["image prune"],
    usage: "[OPTIONS]",
    about: "Remove unused images",
    flags: &[&[
        Flag::switch("all", "Remove all unused images, not just dangling ones").short('a'),
        FILTER,
        FORCE,
    ]],
    arguments: Arguments::None,
    run: |session, parsed| {
        let all = parsed.switch("all")?;
        let warning = if all {
            "WARNING! This will remove all images without at least one container associated to them."
        } else {
            "WARNING! This will remove all dangling images."
        };
        let filters = of_images(filters(parsed)?, all);
        prune(session, parsed, &Kind::Images, warning, filters)
    },
    ..Command::PLAIN
};

pub(crate) const BUILDER: Command = Command {
    names: &["builder prune"],
    usage: "[OPTIONS]",
    about: "Remove build cache",
    flags: &[&[
        Flag::switch(
            "all",
            "Remove all unused build cache, not just dangling ones",
        )
        .short('a'),
        Flag::many(
            "filter",
            "filter",
            "Provide filter values (e.g. \"until=24h\")",
        ),
        FORCE,
        Flag::one(
            "keep-storage",
            "bytes",
            "Amount of disk space to keep for cache",
        )
        .hidden(),
        Flag::one(
            "max-used-space",
            "bytes",
            "Maximum amount of disk space allowed to keep for cache",
        ),
        Flag::one(
            "min-free-space",
            "bytes",
            "Target amount of free disk space after pruning",
        ),
        Flag::one(
            "reserved-space",
            "bytes",
            "Amount of disk space always allowed to keep for cache",
        ),
    ]],
    arguments: Arguments::None,
    run: builder,
    ..Command::PLAIN
};

fn builder(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let all = parsed.switch("all")?;
    let mut query = Vec::new();
    for name in [
        "keep-storage",
        "max-used-space",
        "min-free-space",
        "reserved-space",
    ] {
        if let Some(bytes) = parsed.value(name, size::bytes)? {
            query.push((name, bytes.to_string()));
        }
    }
    if all {
        query.push(("all", "true".to_owned()));
    }
    let warning = match all {
        true => "WARNING! This will remove all build cache.",
        false => "WARNING! This will remove all dangling build cache.",
    };
    let kind = Kind::Builds(query);
    prune(session, parsed, &kind, warning, filters(parsed)?)
}

pub(crate) const NETWORK: Command = Command {
    names: &["network prune"],
    usage: "[OPTIONS]",
    about: "Remove all unused networks",
    flags: &[&[FILTER, FORCE]],
    arguments: Arguments::None,
    run: |session, parsed| {
        prune(
            session,
            parsed,
            &Kind::Networks,
            "WARNING! This will remove all custom networks not used by at least one container.",
            filters(parsed)?,
        )
    },
    ..Command::PLAIN
};

pub(crate) const VOLUME: Command = Command {
    names: &["volume prune"],
    usage: "[OPTIONS]",
    about: "Remove unused local volumes",
    flags: &[&[
        Flag::switch("all", "Remove all unused volumes, not just anonymous ones").short('a'),
        Flag::many(
            "filter",
            "filter",
            "Provide filter values (e.g. \"label=<label>\")",
        ),
        FORCE,
    ]],
    arguments: Arguments::None,
    run: |session, parsed| {
        let all = parsed.switch("all")?;
        let warning = if all {
            "WARNING! This will remove all local volumes not used by at least one container."
        } else {
            "WARNING! This will remove anonymous local volumes not used by at least one container."
        };
        let mut filters = filters(parsed)?;
        if all {
            filters.add("all", "true");
        }
        prune(session, parsed, &Kind::Volumes, warning, filters)
    },
    ..Command::PLAIN
};

pub(crate) const SYSTEM: Command = Command {
    names: &["system prune"],
    usage: "[OPTIONS]",
    about: "Remove unused data",
    flags: &[&[
        Flag::switch("all", "Remove all unused images not just dangling ones").short('a'),
        Flag::many(
            "filter",
            "filter",
            "Provide filter values (e.g. \"label=<key>=<value>\")",
        ),
        FORCE,
        Flag::switch("volumes", "Prune anonymous volumes"),
    ]],
    arguments: Arguments::None,
    run: system,
    ..Command::PLAIN
};

/// What is pruned.
enum Kind {
    Containers,
    Images,
    Networks,
    Volumes,
    /// With further parameters.
    Builds(Vec<(&'static str, String)>),
}

impl Kind {
    fn path(&self) -> &'static str {
        match self {
            Self::Containers => "/containers/prune",
            Self::Images => "/images/prune",
            Self::Networks => "/networks/prune",
            Self::Volumes => "/volumes/prune",
            Self::Builds(_) => "/build/prune",
        }
    }

    /// The field of the answer that lists what went, and the header above it.
    fn list(&self) -> (&'static str, &'static str) {
        match self {
            Self::Containers => ("ContainersDeleted", "Deleted Containers:"),
            Self::Images => ("ImagesDeleted", "Deleted Images:"),
            Self::Networks => ("NetworksDeleted", "Deleted Networks:"),
            Self::Volumes => ("VolumesDeleted", "Deleted Volumes:"),
            Self::Builds(_) => ("CachesDeleted", "Deleted build cache objects:"),
        }
    }
}

fn filters(parsed: &Parsed<'_>) -> Result<Filters, Failure> {
    Ok(filter::collect(parsed.values("filter", filter::parse)?))
}

fn of_images(mut filters: Filters, all: bool) -> Filters {
    filters.add("dangling", if all { "false" } else { "true" });
    filters
}

fn prune(
    session: &Session,
    parsed: &Parsed<'_>,
    kind: &Kind,
    warning: &str,
    filters: Filters,
) -> Result<u8, Failure> {
    let question = format!("{warning}\nAre you sure you want to continue?");
    if !parsed.switch("force")? && !confirmed(&question) {
        return Ok(0);
    }
    let (said, reclaimed) = carry_out(session, kind, &filters)?;
    if !said.is_empty() {
        output::line(&said);
    }
    if !matches!(kind, Kind::Networks) {
        total(reclaimed);
    }
    Ok(0)
}

fn system(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let all = parsed.switch("all")?;
    let volumes = parsed.switch("volumes")?;
    let given = parsed.values("filter", filter::parse)?;
    let is_until = |pair: &(String, String)| pair.0 == "until";
    if volumes && given.iter().flatten().any(is_until) {
        return Err(Failure::message(
            "ERROR: The \"until\" filter is not supported with \"--volumes\"",
        ));
    }
    if !parsed.switch("force")? && !confirmed(&question(all, volumes, &given)) {
        return Ok(0);
    }
    let filters = || filter::collect(given.iter().cloned());
    let mut reclaimed = 0;
    let mut one = |kind: Kind, filters: Filters| -> Result<(), Failure> {
        let (said, space) = carry_out(session, &kind, &filters)?;
        reclaimed += space;
        if !said.is_empty() {
            output::line(&said);
        }
        Ok(())
    };
    one(Kind::Containers, filters())?;
    one(Kind::Networks, filters())?;
    if volumes {
        one(Kind::Volumes, filters())?;
    }
    one(Kind::Images, of_images(filters(), all))?;
    let everything = all.then(|| ("all", "true".to_owned()));
    one(Kind::Builds(everything.into_iter().collect()), filters())?;
    total(reclaimed);
    Ok(0)
}

/// What `system prune` is about to do.
fn question(all: bool, volumes: bool, filters: &[Option<(String, String)>]) -> String {
    let mut lines = vec![
        "WARNING! This will remove:".to_owned(),
        "  - all stopped containers".to_owned(),
        "  - all networks not used by at least one container".to_owned(),
    ];
    if volumes {
        lines.push("  - all anonymous volumes not used by at least one container".to_owned());
    }
    lines.push(if all {
        "  - all images without at least one container associated to them".to_owned()
    } else {
        "  - all dangling images".to_owned()
    });
    lines.push(if all {
        "  - all build cache".to_owned()
    } else {
        "  - unused build cache".to_owned()
    });
    lines.push(String::new());
    if filters.iter().any(Option::is_some) {
        lines.push("  Items to be pruned will be filtered with:".to_owned());
        let mut shown: Vec<String> = filters
            .iter()
            .flatten()
            .map(|(key, value)| format!("  - {key}={value}"))
            .collect();
        shown.sort();
        lines.extend(shown);
        lines.push(String::new());
    }
    lines.push("Are you sure you want to continue?".to_owned());
    lines.join("\n")
}

/// Asks; only `y` is yes.
fn confirmed(question: &str) -> bool {
    output::text(&format!("{question} [y/N] "));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.is_ok() && answer.trim().eq_ignore_ascii_case("y")
}

/// Prunes; answers what went, as it is printed, and the bytes.
fn carry_out(session: &Session, kind: &Kind, filters: &Filters) -> Result<(String, i64), Failure> {
    let client = session.client()?;
    let answer = session.wait(async {
        let mut request = client
            .request(http::Method::POST, kind.path())
            .filters(filters);
        if let Kind::Builds(query) = kind {
            for (name, value) in query {
                request = request.query(name, value);
            }
        }
        super::read_data(request.send().await?).await
    })?;
    let (field, header) = kind.list();
    let gone = answer.list_at(field);
    if gone.is_empty() {
        return Ok((String::new(), 0));
    }
    let mut said = format!("{header}\n");
    for item in gone {
        let line = match item.as_text() {
            Some(name) => name.to_owned(),
            None if item.text_at("Untagged").is_empty() => {
                format!("deleted: {}", item.text_at("Deleted"))
            }
            None => format!("untagged: {}", item.text_at("Untagged")),
        };
        said.push_str(&line);
        said.push('\n');
    }
    Ok((said, answer.int_at("SpaceReclaimed")))
}

fn total(reclaimed: i64) {
    output::line(&format!(
        "Total reclaimed space: {}",
        units::size_precise(reclaimed)
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_says_what_will_go() {
        let label = Some(("label".to_owned(), "a=b".to_owned()));
        assert_eq!(
            question(true, true, &[label]),
            "\
WARNING! This will remove:
  - all stopped containers
  - all networks not used by at least one container
  - all anonymous volumes not used by at least one container
  - all images without at least one container associated to them
  - all build cache

  Items to be pruned will be filtered with:
  - label=a=b

Are you sure you want to continue?"
        );
        assert!(question(false, false, &[]).ends_with(
            "- all dangling images\n  - unused build cache\n\nAre you sure you want to continue?"
        ));
    }
}
