//! `sampan restart`.

use super::command::{Arguments, Command, Parsed};
use super::each::each;
use super::failure::Failure;
use super::session::Session;
use super::stop;

pub(crate) const COMMAND: Command = Command {
    names: &["container restart", "restart"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Restart one or more containers",
    flags: &[stop::FLAGS],
    arguments: Arguments::AtLeast(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let seconds = stop::timeout(parsed)?;
    let signal = parsed.text("signal").filter(|signal| !signal.is_empty());
    let client = session.client()?;
    session.wait(each(&parsed.arguments(), |name| async move {
        Ok(client.restart_container(name, signal, seconds).await?)
    }))
}
