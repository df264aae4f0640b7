//! `sampan tag`.

use super::command::{Arguments, Command, Parsed};
use super::failure::Failure;
use super::pull;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["image tag", "tag"],
    usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    about: "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    arguments: Arguments::Exactly(2),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let arguments = parsed.arguments();
    let target = pull::parse(arguments[1]).map_err(|failure| {
        Failure::message(format!(
            "Error parsing reference: {:?} is not a valid repository/tag: {}",
            arguments[1],
            failure.text()
        ))
    })?;
    if target.digest().is_some() {
        return Err(Failure::message(
            "refusing to create a tag with a digest reference",
        ));
    }
    let tag = target.tag().unwrap_or("latest").to_owned();
    let client = session.client()?;
    session.wait(client.tag_image(arguments[0], &target.familiar_name(), &tag))?;
    Ok(0)
}
