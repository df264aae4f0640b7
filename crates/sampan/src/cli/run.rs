//! `sampan run`.

use sampan_api::Client;
use sampan_api::client::{AttachOptions, WaitCondition};

use super::attached::{Attached, Outcome, Target, exit_code};
use super::command::{Arguments, Command, Flag, Parsed};
use super::container::{self, Wanted};
use super::container_flags;
use super::create::{create, in_command};
use super::failure::Failure;
use super::flags::keys;
use super::output;
use super::session::Session;
use super::stream::Plan;
use super::terminal;

pub(crate) const COMMAND: Command = Command {
    names: &["container run", "run"],
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Create and run a new container from an image",
    flags: &[
        container_flags::FLAGS,
        container_flags::MORE_FLAGS,
        &[
            Flag::switch(
                "detach",
                "Run container in background and print container ID",
            )
            .short('d'),
            Flag::one(
                "detach-keys",
                "string",
                "Override the key sequence for detaching a container",
            ),
            container_flags::PULL_BEFORE_RUNNING,
            Flag::switch("sig-proxy", "Proxy received signals to the process").default("true"),
        ],
    ],
    refused: container_flags::REFUSED,
    arguments: Arguments::AtLeast(1),
    trailing: true,
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let detach = parsed.switch("detach")?;
    let wanted = container::wanted(parsed, !detach)?;
    let config = &wanted.request.config;
    if config.tty && config.attach_stdin && !terminal::stdin_is_terminal() {
        return Err(Failure::message("the input device is not a TTY"));
    }
    let keys = parsed
        .text("detach-keys")
        .or_else(|| session.setting("detachKeys"))
        .unwrap_or("")
        .to_owned();
    let proxy = parsed.switch_or("sig-proxy", true)?;
    let watched = keys::parse(&keys).map_err(Failure::message)?;
    let client = session
        .client()
        .map_err(|failure| in_command(failure, 125))?;
    tracing::debug!("engine found");
    session.wait(async {
        let id = create(session, client, &wanted)
            .await
            .map_err(|failure| in_command(failure, 125))?;
        tracing::debug!("created");
        if detach {
            output::line(&id);
            return match client.start_container(&id, None).await {
                Ok(()) => Ok(0),
                Err(error) => Err(start_failure(error.into())),
            };
        }
        let detaching = Detaching {
            keys,
            watched,
            proxy,
        };
        attached(client, &id, &wanted, detaching).await
    })
}

/// How a person leaves an attached container, and what signals do.
struct Detaching {
    keys: String,
    watched: Vec<u8>,
    proxy: bool,
}

/// Attaches, waits and starts, in this order, so that no byte and no exit is missed.
async fn attached(
    client: &Client,
    id: &str,
    wanted: &Wanted,
    detaching: Detaching,
) -> Result<u8, Failure> {
    let config = &wanted.request.config;
    let removed = wanted
        .request
        .host_config
        .as_ref()
        .is_some_and(|host| host.auto_remove);
    let options = AttachOptions {
        stdin: config.attach_stdin,
        stdout: config.attach_stdout,
        stderr: config.attach_stderr,
        stream: true,
        logs: false,
        detach_keys: Some(detaching.keys).filter(|keys| !keys.is_empty()),
    };
    let condition = if removed {
        WaitCondition::Removed
    } else {
        WaitCondition::NextExit
    };
    let (hijacked, pending) = tokio::try_join!(
        client.attach_container(id, &options),
        client.wait_container(id, condition),
    )
    .map_err(|error| in_command(error.into(), 125))?;
    tracing::debug!("attached, wait registered");
    let attached = Attached {
        client,
        target: Target::Container(id.to_owned()),
        proxy: detaching.proxy,
        tty: config.tty,
        plan: Plan {
            stdin: config.attach_stdin,
            raw: config.tty,
            keys: config.tty.then_some(detaching.watched),
        },
    };
    let started = async {
        client
            .start_container(id, options.detach_keys.as_deref())
            .await
            .map_err(|error| start_failure(error.into()))
            .inspect(|()| tracing::debug!("start answered"))
    };
    match attached.run(hijacked, started).await {
        Ok(Outcome::Detached) => Ok(0),
        Ok(Outcome::Ended) => {
            tracing::debug!("output ended");
            let code = exit_code(client, id, condition, pending).await;
            tracing::debug!("wait answered");
            code
        }
        Err(failure) => Err(in_command(failure, 125)),
    }
}

/// The exit code of a container that cannot be started, by the engine's words.
pub(crate) fn start_failure(failure: Failure) -> Failure {
    let text = failure.text();
    let contains = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let code = if contains(&[
        "executable file not found",
        "no such file or directory",
        "system cannot find the file specified",
    ]) {
        127
    } else if contains(&["permission denied", "is a directory"]) {
        126
    } else {
        125
    };
    in_command(failure, code)
}
