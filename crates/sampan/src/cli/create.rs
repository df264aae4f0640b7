//! `sampan create`, and the first half of `run`.

use std::io::Write;

use sampan_api::Client;
use sampan_api::client::Kind;

use super::command::{Arguments, Command, Parsed};
use super::container::{self, Pull, Wanted};
use super::container_flags;
use super::failure::Failure;
use super::output;
use super::progress::To;
use super::pull;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["container create", "create"],
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Create a new container",
    flags: &[
        container_flags::FLAGS,
        container_flags::MORE_FLAGS,
        &[container_flags::PULL_BEFORE_CREATING],
    ],
    refused: container_flags::REFUSED,
    arguments: Arguments::AtLeast(1),
    trailing: true,
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let wanted = container::wanted(parsed, true)?;
    let client = session.client()?;
    let id = session.wait(create(session, client, &wanted))?;
    output::line(&id);
    Ok(0)
}

/// The failure with a pointer to help, as `run` and `create` print it.
pub(crate) fn in_command(failure: Failure, code: u8) -> Failure {
    match failure {
        Failure::Client(_) | Failure::Message(_) => Failure::Command {
            message: match failure.hint() {
                Some(hint) => format!("{}\nhint: {hint}", failure.text()),
                None => failure.text(),
            },
            code,
        },
        other => other,
    }
}

/// Creates a container, pulling its image as asked; answers its identity.
pub(crate) async fn create(
    session: &Session,
    client: &Client,
    wanted: &Wanted,
) -> Result<String, Failure> {
    let mut cidfile = match &wanted.cidfile {
        Some(path) => Some(IdFile::create(path)?),
        None => None,
    };
    let image = &wanted.request.config.image;
    let to = || {
        if wanted.quiet {
            To::Nowhere
        } else {
            To::Stderr
        }
    };
    if wanted.pull == Pull::Always {
        pull::pull(session, client, image, wanted.platform.as_deref(), to()).await?;
    }
    let attempt = || {
        client.create_container(
            wanted.name.as_deref(),
            wanted.platform.as_deref(),
            &wanted.request,
        )
    };
    let created = match attempt().await {
        Err(error)
            if error.kind() == Kind::NotFound
                && wanted.pull == Pull::Missing
                && is_about_the_image(&error.to_string()) =>
        {
            let shown = pull::familiar(image)?;
            if !wanted.quiet {
                eprintln!("Unable to find image '{shown}' locally");
            }
            pull::pull(session, client, image, wanted.platform.as_deref(), to()).await?;
            attempt().await?
        }
        other => other?,
    };
    for warning in &created.warnings {
        eprintln!("WARNING: {warning}");
    }
    if let Some(file) = &mut cidfile {
        file.write(&created.id)?;
    }
    Ok(created.id)
}

/// Whether something else, such as a volume's container, is what was not found.
fn is_about_the_image(message: &str) -> bool {
    let message = message.to_lowercase();
    // The second one is there, but for another platform.
    message.contains("no such image") || message.contains("image with reference")
}

/// The file of `--cidfile`; it goes when nothing was created.
struct IdFile {
    path: String,
    file: std::fs::File,
    written: bool,
}

impl IdFile {
    fn create(path: &str) -> Result<Self, Failure> {
        let file = std::fs::File::create_new(path).map_err(|error| {
            let (message, code) = match error.kind() {
                std::io::ErrorKind::AlreadyExists => (
                    format!(
                        "container ID file found, make sure the other container isn't running or delete {path}"
                    ),
                    125,
                ),
                kind => (
                    format!(
                        "failed to create the container ID file: open {path}: {}",
                        container::describe_io(&error)
                    ),
                    // Docker takes these words for those of a command that is not there.
                    match kind {
                        std::io::ErrorKind::NotFound => 127,
                        std::io::ErrorKind::PermissionDenied => 126,
                        _ => 125,
                    },
                ),
            };
            Failure::Command { message, code }
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            written: false,
        })
    }

    fn write(&mut self, id: &str) -> Result<(), Failure> {
        self.file.write_all(id.as_bytes()).map_err(|error| {
            Failure::message(format!(
                "failed to write the container ID to the file: {}",
                container::describe_io(&error)
            ))
        })?;
        self.written = true;
        Ok(())
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.written {
            // It was empty: nobody misses it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
