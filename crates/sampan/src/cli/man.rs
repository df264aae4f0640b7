//! `sampan __man DIRECTORY`: manual pages of all commands, from their tables.

use std::fmt::Write as _;
use std::path::Path;

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::session::Session;
use super::{COMMANDS, GROUPS, ROOT};

pub(crate) const COMMAND: Command = Command {
    names: &["__man"],
    usage: "DIRECTORY",
    about: "Write manual pages",
    arguments: Arguments::Exactly(1),
    hidden: true,
    run,
    ..Command::PLAIN
};

fn run(_: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let directory = Path::new(parsed.arguments()[0]);
    let failed = |error: std::io::Error| {
        Failure::message(format!("cannot write {}: {error}", directory.display()))
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    for (name, page) in pages() {
        std::fs::write(directory.join(name), page).map_err(failed)?;
    }
    Ok(0)
}

/// Name and content of every page.
fn pages() -> Vec<(String, String)> {
    let mut pages = vec![("sampan.1".to_owned(), top())];
    for (group, about) in GROUPS {
        pages.push((format!("sampan-{group}.1"), group_page(group, about)));
    }
    for command in shown() {
        let dashed = command.names[0].replace(' ', "-");
        pages.push((format!("sampan-{dashed}.1"), command_page(command)));
        for alias in &command.names[1..] {
            // troff's way of saying "the same page".
            pages.push((
                format!("sampan-{}.1", alias.replace(' ', "-")),
                format!(".so man1/sampan-{dashed}.1\n"),
            ));
        }
    }
    pages
}

fn shown() -> impl Iterator<Item = &'static Command> {
    COMMANDS.iter().filter(|command| !command.hidden)
}

fn head(name: &str, about: &str) -> String {
    let title = format!("sampan {name}").trim_end().replace(' ', "-");
    format!(
        ".TH {:?} 1 \"\" \"Sampan {}\" \"Sampan User Manuals\"\n.SH NAME\n{} \\- {}\n",
        title.to_uppercase(),
        env!("CARGO_PKG_VERSION"),
        escape(&title),
        escape(about)
    )
}

fn top() -> String {
    let mut page = head("", "a container engine: images, containers, registries");
    page.push_str(".SH SYNOPSIS\n\\fBsampan\\fR [OPTIONS] COMMAND [ARG...]\n.SH COMMANDS\n");
    let mut rows: Vec<(String, &str)> = shown()
        .map(|command| (command.short_name().to_owned(), command.about))
        .filter(|(name, _)| !name.contains(' '))
        .chain(
            GROUPS
                .iter()
                .map(|(name, about)| ((*name).to_owned(), *about)),
        )
        .collect();
    rows.sort_unstable();
    for (name, about) in rows {
        entry(
            &mut page,
            &format!("\\fBsampan-{}\\fR(1)", escape(&name)),
            about,
        );
    }
    options(&mut page, &ROOT);
    page
}

fn group_page(group: &str, about: &str) -> String {
    let mut page = head(group, about);
    let _ = write!(
        page,
        ".SH SYNOPSIS\n\\fBsampan {}\\fR COMMAND\n.SH COMMANDS\n",
        escape(group)
    );
    let mut rows: Vec<(&str, &str)> = shown()
        .filter_map(|command| {
            let mut verbs = command.names.iter();
            let verb = verbs.find_map(|name| name.strip_prefix(group)?.strip_prefix(' '));
            Some((verb?, command.about))
        })
        .collect();
    rows.sort_unstable();
    for (verb, about) in rows {
        let name = format!("\\fBsampan-{}-{}\\fR(1)", escape(group), escape(verb));
        entry(&mut page, &name, about);
    }
    page
}

fn command_page(command: &Command) -> String {
    let name = command.names[0];
    let mut page = head(name, command.about);
    page.push_str(".SH SYNOPSIS\n");
    for (number, line) in command.usage.lines().enumerate() {
        // Further forms name the program themselves.
        match number {
            0 => {
                let _ = writeln!(page, "\\fBsampan {}\\fR {}", escape(name), escape(line));
            }
            _ => {
                let _ = writeln!(page, ".br\n{}", escape(line.trim()));
            }
        }
    }
    if command.usage.is_empty() {
        let _ = writeln!(page, "\\fBsampan {}\\fR", escape(name));
    }
    let _ = writeln!(page, ".SH DESCRIPTION\n{}.", escape(command.about));
    if !command.details.is_empty() {
        let _ = writeln!(page, ".PP\n{}", escape(command.details));
    }
    if command.names.len() > 1 {
        let names: Vec<String> = command
            .names
            .iter()
            .map(|name| format!("\\fBsampan {}\\fR", escape(name)))
            .collect();
        let _ = writeln!(page, ".SH ALIASES\n{}", names.join(", "));
    }
    options(&mut page, command);
    page.push_str(".SH SEE ALSO\n\\fBsampan\\fR(1)\n");
    page
}

fn options(page: &mut String, command: &Command) {
    let mut flags: Vec<&Flag> = command
        .all_flags()
        .filter(|flag| !flag.is_hidden())
        .collect();
    if flags.is_empty() {
        return;
    }
    flags.sort_by_key(|flag| flag.long());
    page.push_str(".SH OPTIONS\n");
    for flag in flags {
        let name = match flag.letter() {
            Some(letter) => format!("\\fB\\-{letter}\\fR, \\fB\\-\\-{}\\fR", escape(flag.long())),
            None => format!("\\fB\\-\\-{}\\fR", escape(flag.long())),
        };
        let name = match flag.kind() {
            Some(kind) => format!("{name}=\\fI{}\\fR", escape(kind)),
            None => name,
        };
        entry(page, &name, flag.help());
    }
}

fn entry(page: &mut String, name: &str, about: &str) {
    let _ = writeln!(page, ".TP\n{name}\n{}", escape(about));
}

/// Text in which nothing means something to troff.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let lines = text
        .lines()
        .map(|line| match line.starts_with(['.', '\'']) {
            true => format!("\\&{line}"),
            false => line.to_owned(),
        });
    lines.collect::<Vec<_>>().join("\n.br\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_all_of_its_flags() {
        let pages = pages();
        for command in shown() {
            for name in command.names {
                let file = format!("sampan-{}.1", name.replace(' ', "-"));
                assert!(pages.iter().any(|(page, _)| *page == file), "{file}");
            }
            let page = command_page(command);
            for flag in command.all_flags().filter(|flag| !flag.is_hidden()) {
                let shown = format!("\\-\\-{}\\fR", escape(flag.long()));
                assert!(page.contains(&shown), "{} {shown}", command.names[0]);
            }
        }
        let (_, cp) = pages
            .iter()
            .find(|(name, _)| name == "sampan-cp.1")
            .unwrap();
        assert_eq!(cp, ".so man1/sampan-container-cp.1\n");
    }

    #[test]
    fn nothing_is_taken_for_a_command_of_troff() {
        assert_eq!(escape(".a\n'b\nc-\\d"), "\\&.a\n.br\n\\&'b\n.br\nc\\-\\ed");
    }
}
