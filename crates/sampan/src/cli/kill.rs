//! `sampan kill`.

use super::command::{Arguments, Command, Flag, Parsed};
use super::each::each;
use super::failure::Failure;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["container kill", "kill"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Kill one or more running containers",
    flags: &[&[Flag::one("signal", "string", "Signal to send to the container").short('s')]],
    arguments: Arguments::AtLeast(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let signal = parsed.text("signal").filter(|signal| !signal.is_empty());
    let client = session.client()?;
    session.wait(each(&parsed.arguments(), |name| async move {
        Ok(client.kill_container(name, signal).await?)
    }))
}
