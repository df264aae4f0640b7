//! Which files of a context a Dockerfile can want, so that others need not be sent.

use std::collections::BTreeSet;

use sampan_dockerfile::{Dockerfile, Input, Instruction, Options, Source, Step};

/// What of a context is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Maybe all of it.
    Everything,
    /// These paths, which may be patterns, and what they link to.
    Paths(BTreeSet<String>),
}

/// Reads it from the Dockerfile. `is_plain` says that an image is here and sets off no further
/// instructions; what those want is not known before.
pub(super) fn wanted(text: &[u8], options: &Options, is_plain: &dyn Fn(&str) -> bool) -> Wanted {
    paths(text, options, is_plain).map_or(Wanted::Everything, Wanted::Paths)
}

fn paths(
    text: &[u8],
    options: &Options,
    is_plain: &dyn Fn(&str) -> bool,
) -> Option<BTreeSet<String>> {
    // One that cannot be read fails later, with better words.
    let file = Dockerfile::parse(text).ok()?;
    let plan = file.plan(options, &file.shell()).ok()?;
    let mut paths = BTreeSet::new();
    for index in &plan.order {
        let planned = &plan.stages[*index];
        match &planned.base {
            Input::Image(name) if !is_plain(name) => return None,
            Input::Context(_) => return None,
            Input::Image(_) | Input::Scratch | Input::Stage(_) => {}
        }
        for step in planned.triggers.iter().chain(&file.stages[*index].steps) {
            take(step, &mut paths)?;
        }
    }
    Some(paths)
}

/// `None` where a step may want anything.
fn take(step: &Step, paths: &mut BTreeSet<String>) -> Option<()> {
    let sources = match &step.instruction {
        Instruction::Copy(copy) if copy.from.is_none() => &copy.transfer.sources,
        Instruction::Add(add) => &add.transfer.sources,
        // Where a mount comes from may depend on variables.
        Instruction::Run(run) if !run.mounts.is_empty() => return None,
        _ => return Some(()),
    };
    for source in sources {
        let Source::Path(path) = source else { continue };
        if path.contains("://") || path.starts_with("git@") {
            continue;
        }
        if path.contains(['$', '\\']) {
            return None;
        }
        let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
        let parts: Vec<&str> = parts.collect();
        if parts.is_empty() || parts.contains(&"..") || parts.iter().any(|p| p.contains("**")) {
            return None;
        }
        paths.insert(parts.join("/"));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Wanted {
        let is_plain = |name: &str| name == "plain";
        wanted(text.as_bytes(), &Options::default(), &is_plain)
    }

    #[test]
    fn only_what_is_named_is_wanted() {
        let text = "FROM plain AS a\nCOPY ./x/ /y /\nCOPY <<E /e\nt\nE\nADD https://e.org/f *.txt /\n\
                    FROM plain AS unused\nCOPY not-this /\nFROM a\nCOPY --from=a /etc /etc\nRUN x\n";
        let paths = ["*.txt", "x", "y"].map(str::to_owned);
        assert_eq!(read(text), Wanted::Paths(paths.into()));
        assert_eq!(read("FROM scratch\n"), Wanted::Paths(BTreeSet::new()));
    }

    #[test]
    fn what_is_not_known_may_be_anything() {
        for text in [
            "FROM other\n",
            "FROM plain\nCOPY . /\n",
            "FROM plain\nCOPY / /\n",
            "FROM plain\nCOPY a/../b /\n",
            "FROM plain\nARG A=x\nCOPY $A /\n",
            "FROM plain\nCOPY --parents a/**/b /\n",
            "FROM plain\nRUN --mount=target=/x true\n",
            "FROM plain AS a\nONBUILD COPY . /\nFROM a\n",
            "nonsense",
        ] {
            assert_eq!(read(text), Wanted::Everything, "{text}");
        }
    }
}
