//! `sampan pull`.

use std::str::FromStr;

use sampan_api::Client;
use sampan_api::client::PullOptions;
use sampan_oci::reference::Reference;
use sampan_text::with_causes;

use super::command::{Arguments, Command, Flag, Parsed};
use super::credentials;
use super::failure::Failure;
use super::output;
use super::progress::{self, To};
use super::session::{Session, variable};

pub(crate) const COMMAND: Command = Command {
    names: &["image pull", "pull"],
    usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
    about: "Download an image from a registry",
    flags: &[&[
        Flag::switch("all-tags", "Download all tagged images in the repository").short('a'),
        Flag::switch("disable-content-trust", "Skip image verification")
            .default("true")
            .hidden(),
        Flag::one(
            "platform",
            "string",
            "Set platform if server is multi-platform capable",
        ),
        Flag::switch("quiet", "Suppress verbose output").short('q'),
    ]],
    arguments: Arguments::Exactly(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let name = parsed.arguments()[0].to_owned();
    let quiet = parsed.switch("quiet")?;
    let platform = parsed
        .text("platform")
        .map(str::to_owned)
        .or_else(|| variable("DOCKER_DEFAULT_PLATFORM"));
    let reference = parse(&name)?;
    let all = parsed.switch("all-tags")?;
    let bare = reference.tag().is_none() && reference.digest().is_none();
    if all && !bare {
        return Err(Failure::message("tag can't be used with --all-tags/-a"));
    }
    if bare && !all && !quiet {
        output::line("Using default tag: latest");
    }
    let reference = if all {
        reference
    } else {
        reference.or_latest()
    };
    let client = session.client()?;
    let to = if quiet { To::Nowhere } else { To::Stdout };
    session.wait(fetch(session, client, &reference, platform.as_deref(), to))?;
    output::line(&full_name(&reference));
    Ok(0)
}

/// Pulls an image and prints how it goes.
pub(crate) async fn pull(
    session: &Session,
    client: &Client,
    image: &str,
    platform: Option<&str>,
    to: To,
) -> Result<(), Failure> {
    let reference = parse(image)?.or_latest();
    fetch(session, client, &reference, platform, to).await
}

/// Pulls what a name means; all tags of the repository when it has none.
async fn fetch(
    session: &Session,
    client: &Client,
    reference: &Reference,
    platform: Option<&str>,
    to: To,
) -> Result<(), Failure> {
    let tag = match reference.digest() {
        Some(digest) => digest.to_string(),
        None => reference.tag().unwrap_or_default().to_owned(),
    };
    let options = PullOptions {
        name: reference.familiar_name(),
        tag,
        platform: platform.map(str::to_owned),
        auth: credentials::find(session, reference),
    };
    let mut messages = client.pull_image(&options).await?;
    progress::print(&mut messages, to).await
}

/// The name as people write it, with a tag.
pub(crate) fn familiar(image: &str) -> Result<String, Failure> {
    Ok(parse(image)?.or_latest().familiar())
}

/// Reads a name.
pub(crate) fn parse(image: &str) -> Result<Reference, Failure> {
    Reference::from_str(image).map_err(|error| Failure::message(with_causes(&error)))
}

/// The name with its registry: `docker.io/library/busybox:latest`.
pub(crate) fn full_name(reference: &Reference) -> String {
    let mut name = reference.name();
    if let Some(tag) = reference.tag() {
        name.push(':');
        name.push_str(tag);
    }
    if let Some(digest) = reference.digest() {
        name.push('@');
        name.push_str(&digest.to_string());
    }
    name
}
