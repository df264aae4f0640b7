//! `sampan start`.

use sampan_api::Client;
use sampan_api::client::{AttachOptions, WaitCondition};

use super::attached::{Attached, Outcome, Target, exit_code};
use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::flags::keys;
use super::output;
use super::session::Session;
use super::stop::not_modified_is_fine;
use super::stream::Plan;
use super::terminal;

pub(crate) const COMMAND: Command = Command {
    names: &["container start", "start"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Start one or more stopped containers",
    flags: &[&[
        Flag::switch("attach", "Attach STDOUT/STDERR and forward signals").short('a'),
        Flag::one(
            "detach-keys",
            "string",
            "Override the key sequence for detaching a container",
        ),
        Flag::switch("interactive", "Attach container's STDIN").short('i'),
    ]],
    refused: &[("checkpoint", None), ("checkpoint-dir", None)],
    arguments: Arguments::AtLeast(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let output = parsed.switch("attach")?;
    let input = parsed.switch("interactive")?;
    let names = parsed.arguments();
    if !(output || input) {
        let client = session.client()?;
        return session.wait(start_each(client, &names));
    }
    if names.len() > 1 {
        return Err(Failure::message(
            "you cannot start and attach multiple containers at once",
        ));
    }
    let keys = parsed
        .text("detach-keys")
        .or_else(|| session.setting("detachKeys"))
        .unwrap_or("")
        .to_owned();
    let watched = keys::parse(&keys).map_err(Failure::message)?;
    let client = session.client()?;
    session.wait(attached(client, names[0], input, &keys, watched))
}

/// Starts one after the other, as dependants are named after what they need.
async fn start_each(client: &Client, names: &[&str]) -> Result<u8, Failure> {
    let mut failed = Vec::new();
    for name in names {
        match not_modified_is_fine(client.start_container(name, None).await) {
            Ok(()) => output::line(name),
            Err(failure) => {
                eprintln!("{}", failure.text());
                if let Some(hint) = failure.hint() {
                    eprintln!("hint: {hint}");
                }
                failed.push(*name);
            }
        }
    }
    if failed.is_empty() {
        return Ok(0);
    }
    Err(Failure::message(format!(
        "Error: failed to start containers: {}",
        failed.join(", ")
    )))
}

async fn attached(
    client: &Client,
    name: &str,
    input: bool,
    keys: &str,
    watched: Vec<u8>,
) -> Result<u8, Failure> {
    let container = client.inspect_container(name).await?;
    let tty = container.config.tty;
    let stdin = input && container.config.open_stdin;
    if tty && stdin && !terminal::stdin_is_terminal() {
        return Err(Failure::message("the input device is not a TTY"));
    }
    let id = container.id;
    let options = AttachOptions {
        stdin,
        stdout: true,
        stderr: true,
        stream: true,
        logs: false,
        detach_keys: (!keys.is_empty()).then(|| keys.to_owned()),
    };
    let condition = if container.host_config.auto_remove {
        WaitCondition::Removed
    } else {
        WaitCondition::NextExit
    };
    let (hijacked, pending) = tokio::try_join!(
        client.attach_container(&id, &options),
        client.wait_container(&id, condition),
    )?;
    let attached = Attached {
        client,
        target: Target::Container(id.clone()),
        proxy: !tty,
        tty,
        plan: Plan {
            stdin,
            raw: tty,
            keys: tty.then_some(watched),
        },
    };
    let started = async {
        not_modified_is_fine(
            client
                .start_container(&id, options.detach_keys.as_deref())
                .await,
        )?;
        if tty {
            Target::Container(id.clone()).resize(client).await;
        }
        Ok(())
    };
    match attached.run(hijacked, started).await? {
        Outcome::Detached => Ok(0),
        Outcome::Ended => exit_code(client, &id, condition, pending).await,
    }
}
