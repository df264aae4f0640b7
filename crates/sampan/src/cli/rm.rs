//! `sampan rm`.

use super::command::{Arguments, Command, Flag, Parsed};
use super::each::each_printing;
use super::failure::Failure;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["container rm", "container remove", "rm"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Remove one or more containers",
    flags: &[&[
        Flag::switch(
            "force",
            "Force the removal of a running container (uses SIGKILL)",
        )
        .short('f'),
        Flag::switch(
            "volumes",
            "Remove anonymous volumes associated with the container",
        )
        .short('v'),
    ]],
    refused: &[("link", Some('l'))],
    arguments: Arguments::AtLeast(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let force = parsed.switch("force")?;
    let volumes = parsed.switch("volumes")?;
    let client = session.client()?;
    session.wait(each_printing(&parsed.arguments(), |name| async move {
        let bare = name.trim_matches('/');
        if bare.is_empty() {
            return Err(Failure::message("container name cannot be empty"));
        }
        match client.remove_container(bare, force, volumes).await {
            // With force, a container that is not there is a warning.
            Err(error) if force && error.kind() == sampan_api::client::Kind::NotFound => {
                eprintln!("{}", Failure::from(error).text());
                Ok(String::new())
            }
            other => Ok(other.map(|()| format!("{name}\n"))?),
        }
    }))
}
