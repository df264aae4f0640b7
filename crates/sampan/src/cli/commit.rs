//! `sampan commit`.

use sampan_api::client::CommitOptions;

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::output;
use super::pull::parse;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["container commit", "commit"],
    usage: "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    about: "Create a new image from a container's changes",
    flags: &[&[
        Flag::one(
            "author",
            "string",
            "Author (e.g., \"John Hannibal Smith <hannibal@a-team.com>\")",
        )
        .short('a'),
        Flag::many(
            "change",
            "list",
            "Apply Dockerfile instruction to the created image",
        )
        .short('c'),
        Flag::one("message", "string", "Commit message").short('m'),
        Flag::switch("no-pause", "Disable pausing container during commit"),
        Flag::switch("pause", "Pause container during commit")
            .short('p')
            .default("true"),
    ]],
    arguments: Arguments::AtLeast(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let arguments = parsed.arguments();
    if arguments.len() > 2 {
        return Err(Failure::message(
            "sampan: 'sampan commit' requires at most 2 arguments",
        ));
    }
    if parsed.given("pause") && parsed.given("no-pause") {
        return Err(Failure::message(
            "conflicting options: --no-pause and --pause cannot be used together",
        ));
    }
    let (repository, tag) = match arguments.get(1).filter(|name| !name.is_empty()) {
        Some(name) => {
            let reference = parse(name)?;
            if reference.digest().is_some() {
                return Err(Failure::message("cannot commit to digest reference"));
            }
            let reference = reference.or_latest();
            let tag = reference.tag().unwrap_or_default().to_owned();
            (reference.familiar_name(), tag)
        }
        None => (String::new(), String::new()),
    };
    let text = |flag: &str| parsed.text(flag).unwrap_or_default().to_owned();
    let options = CommitOptions {
        repository,
        tag,
        comment: text("message"),
        author: text("author"),
        changes: parsed
            .texts("change")
            .into_iter()
            .map(str::to_owned)
            .collect(),
        no_pause: parsed.switch("no-pause")? || !parsed.switch_or("pause", true)?,
    };
    let client = session.client()?;
    let id = session.wait(client.commit_container(arguments[0], &options))?;
    output::line(&id);
    Ok(0)
}
