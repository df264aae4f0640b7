//! `sampan rename`.

use super::command::{Arguments, Command, Parsed};
use super::failure::Failure;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["container rename", "rename"],
    usage: "CONTAINER NEW_NAME",
    about: "Rename a container",
    arguments: Arguments::Exactly(2),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let arguments = parsed.arguments();
    let (old, new) = (arguments[0].trim(), arguments[1].trim());
    if old.is_empty() || new.is_empty() {
        return Err(Failure::message(
            "Error: Neither old nor new names may be empty",
        ));
    }
    let client = session.client()?;
    session
        .wait(client.rename_container(old, new))
        .map_err(|error| {
            let why = Failure::from(error).text();
            Failure::message(format!(
                "{why}\nError: failed to rename container named {old}"
            ))
        })?;
    Ok(0)
}
