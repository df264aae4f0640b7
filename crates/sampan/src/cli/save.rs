//! `sampan save`.

use super::archive::Archive;
use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::push::json_platform;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["image save", "save"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Save one or more images to a tar archive (streamed to STDOUT by default)",
    flags: &[&[
        Flag::one("output", "string", "Write to a file, instead of STDOUT").short('o'),
        Flag::one("platform", "string", "Save only the given platform"),
    ]],
    arguments: Arguments::AtLeast(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let platform = parsed.value("platform", json_platform)?;
    let archive = Archive::open(parsed.text("output"), "failed to save image")?;
    let names: Vec<String> = parsed.arguments().into_iter().map(str::to_owned).collect();
    let client = session.client()?;
    session.wait(async {
        let stream = client.save_images(&names, platform.as_deref()).await?;
        archive.write(stream).await
    })?;
    Ok(0)
}
