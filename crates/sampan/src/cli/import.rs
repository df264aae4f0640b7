//! `sampan import`.

use std::io::{self, Read};

use sampan_api::client::ImportOptions;

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::load::{FileBody, open};
use super::progress::{self, To};
use super::pull;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["image import", "import"],
    usage: "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    about: "Import the contents from a tarball to create a filesystem image",
    flags: &[&[
        Flag::many(
            "change",
            "list",
            "Apply Dockerfile instruction to the created image",
        )
        .short('c'),
        Flag::one("message", "string", "Set commit message for imported image").short('m'),
        Flag::one(
            "platform",
            "string",
            "Set platform if server is multi-platform capable",
        ),
    ]],
    arguments: Arguments::AtLeast(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let arguments = parsed.arguments();
    let from = arguments[0];
    let (repository, tag) = match arguments.get(1) {
        Some(name) => {
            let reference = pull::parse(name)?;
            let tag = reference.tag().unwrap_or_default().to_owned();
            (reference.familiar_name(), tag)
        }
        None => (String::new(), String::new()),
    };
    let options = ImportOptions {
        repository,
        tag,
        message: parsed.text("message").map(str::to_owned),
        platform: parsed.text("platform").map(str::to_owned),
        changes: parsed
            .texts("change")
            .into_iter()
            .map(str::to_owned)
            .collect(),
    };
    let source: Option<Box<dyn Read + Send>> = match from {
        "-" => Some(Box::new(io::stdin())),
        // The engine fetches it.
        url if url.starts_with("http://") || url.starts_with("https://") => None,
        path => Some(Box::new(open(path)?)),
    };
    let client = session.client()?;
    session.wait(async {
        let mut messages = match source {
            Some(source) => {
                client
                    .import_image(&options, FileBody::new(source)?)
                    .await?
            }
            None => client.import_url(from, &options).await?,
        };
        progress::print(&mut messages, To::Stdout).await
    })?;
    Ok(0)
}
