//! `sampan wait`.

use sampan_api::client::WaitCondition;

use super::attached::status;
use super::command::{Arguments, Command, Parsed};
use super::each::{each_printing, named};
use super::failure::Failure;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["container wait", "wait"],
    usage: "CONTAINER [CONTAINER...]",
    about: "Block until one or more containers stop, then print their exit codes",
    arguments: Arguments::AtLeast(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let client = session.client()?;
    session.wait(each_printing(&parsed.arguments(), |name| async move {
        named(name)?;
        let pending = client
            .wait_container(name, WaitCondition::NotRunning)
            .await?;
        let code = status(client, name, WaitCondition::NotRunning, pending).await?;
        Ok(format!("{code}\n"))
    }))
}
