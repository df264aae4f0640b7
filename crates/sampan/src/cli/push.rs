//! `sampan push`.

use sampan_api::client::PushOptions;
use sampan_oci::Platform;

use super::command::{Arguments, Command, Flag, Parsed};
use super::credentials;
use super::failure::Failure;
use super::output;
use super::progress::{self, To};
use super::pull::{full_name, parse};
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["image push", "push"],
    usage: "[OPTIONS] NAME[:TAG]",
    about: "Upload an image to a registry",
    flags: &[&[
        Flag::switch("all-tags", "Push all tags of an image to the repository").short('a'),
        Flag::one(
            "compression",
            "string",
            "Pack all layers anew (\"gzip\", \"zstd\")",
        ),
        Flag::switch("disable-content-trust", "Skip image signing")
            .default("true")
            .hidden(),
        Flag::one(
            "platform",
            "string",
            "Push a platform-specific manifest as a single-platform image to the registry",
        ),
        Flag::switch("quiet", "Suppress verbose output").short('q'),
    ]],
    arguments: Arguments::Exactly(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let all = parsed.switch("all-tags")?;
    let quiet = parsed.switch("quiet")?;
    let mut reference = parse(parsed.arguments()[0])?;
    let bare = reference.tag().is_none() && reference.digest().is_none();
    if all && !bare {
        return Err(Failure::message("tag can't be used with --all-tags/-a"));
    }
    if !all && bare {
        reference = reference.or_latest();
        if !quiet {
            output::line("Using default tag: latest");
        }
    }
    if reference.digest().is_some() {
        return Err(Failure::message("cannot push a digest reference"));
    }
    let platform = parsed.value("platform", json_platform)?;
    let options = PushOptions {
        name: reference.familiar_name(),
        tag: reference.tag().unwrap_or_default().to_owned(),
        platform,
        compression: parsed.text("compression").map(str::to_owned),
        auth: credentials::find(session, &reference),
    };
    let client = session.client()?;
    let to = if quiet { To::Nowhere } else { To::Stdout };
    session.wait(async {
        let mut messages = client.push_image(&options).await?;
        progress::print(&mut messages, to).await
    })?;
    if quiet {
        output::line(&full_name(&reference));
    }
    Ok(0)
}

/// A platform as the API wants it.
pub(crate) fn json_platform(text: &str) -> Result<String, String> {
    let platform: Platform = text.parse().map_err(|error| format!("{error}"))?;
    serde_json::to_string(&platform).map_err(|error| error.to_string())
}
