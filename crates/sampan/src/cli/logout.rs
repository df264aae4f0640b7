//! `sampan logout`.

use sampan_text::with_causes;

use super::command::{Arguments, Command, Parsed};
use super::credentials::{self, HUB};
use super::failure::Failure;
use super::output;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["logout"],
    usage: "[SERVER]",
    about: "Log out from a registry",
    arguments: Arguments::AtMost(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let server = parsed.arguments().first().copied().unwrap_or(HUB);
    let server = credentials::server_key(server);
    output::line(&format!("Removing login credentials for {server}"));
    credentials::erase(session, &server).map_err(|error| {
        Failure::message(format!(
            "could not erase credentials: {}",
            with_causes(&error)
        ))
    })?;
    Ok(0)
}
