//! `sampan pause`.

use super::command::{Arguments, Command, Parsed};
use super::each::each;
use super::failure::Failure;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["container pause", "pause"],
    usage: "CONTAINER [CONTAINER...]",
    about: "Pause all processes within one or more containers",
    arguments: Arguments::AtLeast(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let client = session.client()?;
    session.wait(each(&parsed.arguments(), |name| async move {
        Ok(client.pause_container(name).await?)
    }))
}
