//! `sampan rmi`.

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::output;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["image rm", "image remove", "rmi"],
    usage: "[OPTIONS] IMAGE [IMAGE...]",
    about: "Remove one or more images",
    flags: &[&[
        Flag::switch("force", "Force removal of the image").short('f'),
        Flag::switch("no-prune", "Do not delete untagged parents"),
        Flag::many(
            "platform",
            "strings",
            "Remove only the given platform variant. Formatted as \"os[/arch[/variant]]\" (e.g., \"linux/amd64\")",
        ),
    ]],
    arguments: Arguments::AtLeast(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let force = parsed.switch("force")?;
    let no_prune = parsed.switch("no-prune")?;
    let platforms = parsed.values("platform", platforms)?;
    let platforms: Vec<String> = platforms.into_iter().flatten().collect();
    let client = session.client()?;
    session.wait(async {
        let mut failures = Vec::new();
        let mut fatal = false;
        // One after the other: the first name of an image decides about the others.
        for name in parsed.arguments() {
            match client.remove_image(name, force, no_prune, &platforms).await {
                Ok(items) => {
                    for item in items {
                        if item.deleted.is_empty() {
                            output::line(&format!("Untagged: {}", item.untagged));
                        } else {
                            output::line(&format!("Deleted: {}", item.deleted));
                        }
                    }
                }
                Err(error) => {
                    let failure = Failure::from(error);
                    fatal |= !failure.is_not_found();
                    let hint = failure
                        .hint()
                        .map_or(String::new(), |hint| format!("\nhint: {hint}"));
                    failures.push(failure.text() + &hint);
                }
            }
        }
        if failures.is_empty() {
            return Ok(0);
        }
        let message = failures.join("\n");
        if force && !fatal {
            eprintln!("{message}");
            return Ok(0);
        }
        Err(Failure::Message(message))
    })
}

/// Platforms, separated by commas, as the engine reads them.
fn platforms(text: &str) -> Result<Vec<String>, String> {
    let platforms = text.split(',').map(|platform| {
        let platform: sampan_oci::Platform = platform
            .parse()
            .map_err(|error: sampan_oci::platform::PlatformError| error.to_string())?;
        serde_json::to_string(&platform).map_err(|error| error.to_string())
    });
    platforms.collect()
}
