//! `sampan export`.

use super::archive::Archive;
use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["container export", "export"],
    usage: "[OPTIONS] CONTAINER",
    about: "Export a container's filesystem as a tar archive",
    flags: &[&[Flag::one("output", "string", "Write to a file, instead of STDOUT").short('o')]],
    arguments: Arguments::Exactly(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let archive = Archive::open(parsed.text("output"), "failed to export container")?;
    let container = parsed.arguments()[0].to_owned();
    let client = session.client()?;
    session.wait(async {
        let stream = client.export_container(&container).await?;
        archive.write(stream).await
    })?;
    Ok(0)
}
