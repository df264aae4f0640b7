//! `sampan diff`.

use super::command::{Arguments, Command, Parsed};
use super::failure::Failure;
use super::output;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["container diff", "diff"],
    usage: "CONTAINER",
    about: "Inspect changes to files or directories on a container's filesystem",
    arguments: Arguments::Exactly(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let container = parsed.arguments()[0];
    if container.is_empty() {
        return Err(Failure::message("Container name cannot be empty"));
    }
    let client = session.client()?;
    let changes = session.wait(client.container_changes(container))?;
    let mut out = String::new();
    for change in changes {
        let letter = match change.kind {
            0 => 'C',
            1 => 'A',
            2 => 'D',
            _ => '?',
        };
        out.push_str(&format!("{letter} {}\n", change.path));
    }
    output::text(&out);
    Ok(0)
}
