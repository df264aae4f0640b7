//! `sampan rmi`.

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::output;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["image rm", "image remove", "rmi"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Remove one or more images",
    flags: &[&[
        Flag::switch("force", "Force removal of the image").short('f'),
        Flag::switch("no-prune", "Do not delete untagged parents"),
    ]],
    refused: &[("platform", None)],
    arguments: Arguments::AtLeast(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let force = parsed.switch("force")?;
    let no_prune = parsed.switch("no-prune")?;
    let client = session.client()?;
    session.wait(async {
        let mut failures = Vec::new();
        let mut fatal = false;
        // One after the other: the first name of an image decides about the others.
        for name in parsed.arguments() {
            match client.remove_image(name, force, no_prune).await {
                Ok(items) => {
                    for item in items {
                        if item.deleted.is_empty() {
                            output::line(&format!("Untagged: {}", item.untagged));
                        } else {
                            output::line(&format!("Deleted: {}", item.deleted));
                        }
                    }
                }
                Err(error) => {
                    let failure = Failure::from(error);
                    fatal |= !failure.is_not_found();
                    let hint = failure
                        .hint()
                        .map_or(String::new(), |hint| format!("\nhint: {hint}"));
                    failures.push(failure.text() + &hint);
                }
            }
        }
        if failures.is_empty() {
            return Ok(0);
        }
        let message = failures.join("\n");
        if force && !fatal {
            eprintln!("{message}");
            return Ok(0);
        }
        Err(Failure::Message(message))
    })
}
