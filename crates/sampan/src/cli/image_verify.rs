//! `sampan image verify`.

use sampan_api::types::sampan::Verification;

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::format::quote::short_id;
use super::output;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["image verify"],
    usage: "[OPTIONS] [IMAGE...]",
    about: "Prove that images are whole: every layer, index, blob and configuration",
    flags: &[&[
        Flag::switch("all", "Verify all images").short('a'),
        Flag::one(
            "format",
            "string",
            "Format output: 'lines' (default) or 'json'",
        ),
    ]],
    arguments: Arguments::Any,
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let names = parsed.arguments();
    if names.is_empty() != parsed.switch("all")? {
        return Err(Failure::message(
            "'sampan image verify' takes either names of images or --all",
        ));
    }
    let json = match parsed.text("format").unwrap_or("lines") {
        "lines" => false,
        "json" => true,
        other => {
            return Err(Failure::message(format!(
                "invalid format {other:?}: use lines or json"
            )));
        }
    };
    let client = session.client()?;
    let found: Verification = session.wait(async {
        let mut request = client.request(http::Method::GET, "/sampan/images/verify");
        for name in names {
            request = request.query("image", name);
        }
        request.send().await?.json().await
    })?;
    if json {
        let json = serde_json::to_string(&found).map_err(|e| Failure::message(e.to_string()))?;
        output::line(&json);
    } else {
        output::text(&told(&found));
    }
    let damaged = found.images.iter().any(|image| !image.damages.is_empty());
    Ok(u8::from(damaged || !found.set_aside.is_empty()))
}

fn told(found: &Verification) -> String {
    let mut lines = Vec::new();
    for image in &found.images {
        let name = match image.repo_tags.first() {
            Some(tag) => format!("{tag} ({})", short_id(&image.id)),
            None => short_id(&image.id).to_owned(),
        };
        if image.damages.is_empty() {
            lines.push(format!(
                "{name}: whole ({} layers, {} blobs)",
                image.layers, image.blobs
            ));
            continue;
        }
        lines.push(format!("{name}: damaged"));
        let damages = image.damages.iter();
        lines.extend(damages.map(|damage| format!("  {}: {}", damage.what, damage.why)));
    }
    let set_aside = found.set_aside.iter();
    lines.extend(set_aside.map(|damage| format!("{}: {}", damage.what, damage.why)));
    lines.iter().map(|line| format!("{line}\n")).collect()
}
