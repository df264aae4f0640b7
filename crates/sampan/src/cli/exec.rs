//! `sampan exec`.

use std::time::Duration;

use sampan_api::Client;
use sampan_api::types::exec::{ExecCreateRequest, ExecStartRequest};
use sampan_api::wire::Words;

use super::attached::{Attached, Outcome, Target};
use super::command::{Arguments, Command, Flag, Parsed};
use super::container;
use super::failure::Failure;
use super::flags::keys;
use super::session::Session;
use super::stream::Plan;
use super::terminal;

pub(crate) const COMMAND: Command = Command {
    names: &["container exec", "exec"],
    usage: "[OPTIONS] CONTAINER COMMAND [ARG...]",
    about: "Execute a command in a running container",
    flags: &[&[
        Flag::switch("detach", "Detached mode: run command in the background").short('d'),
        Flag::one(
            "detach-keys",
            "string",
            "Override the key sequence for detaching a container",
        ),
        Flag::many("env", "list", "Set environment variables").short('e'),
        Flag::many(
            "env-file",
            "list",
            "Read in a file of environment variables",
        ),
        Flag::switch("interactive", "Keep STDIN open even if not attached").short('i'),
        Flag::switch("privileged", "Give extended privileges to the command"),
        Flag::switch("tty", "Allocate a pseudo-TTY").short('t'),
        Flag::one(
            "user",
            "string",
            "Username or UID (format: \"<name|uid>[:<group|gid>]\")",
        )
        .short('u'),
        Flag::one(
            "workdir",
            "string",
            "Working directory inside the container",
        )
        .short('w'),
    ]],
    arguments: Arguments::AtLeast(2),
    trailing: true,
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let arguments = parsed.arguments();
    let detach = parsed.switch("detach")?;
    let tty = parsed.switch("tty")?;
    let stdin = parsed.switch("interactive")? && !detach;
    if tty && stdin && !terminal::stdin_is_terminal() {
        return Err(Failure::message("the input device is not a TTY"));
    }
    let keys = parsed
        .text("detach-keys")
        .or_else(|| session.setting("detachKeys"))
        .unwrap_or("")
        .to_owned();
    // What is wrong with them, the engine says.
    let watched = keys::parse(&keys).unwrap_or_default();
    let console_size = terminal::size()
        .filter(|_| tty)
        .map(|(rows, columns)| [rows.into(), columns.into()]);
    let variables = container::variables(parsed).map_err(|failure| match failure {
        Failure::Command { message, .. } => Failure::message(message),
        other => other,
    })?;
    let request = ExecCreateRequest {
        user: parsed.text("user").unwrap_or_default().to_owned(),
        privileged: parsed.switch("privileged")?,
        tty,
        console_size,
        attach_stdin: stdin,
        attach_stdout: !detach,
        attach_stderr: !detach,
        detach,
        detach_keys: keys,
        env: (!variables.is_empty()).then_some(variables),
        working_dir: parsed.text("workdir").unwrap_or_default().to_owned(),
        cmd: Some(Words(
            arguments[1..]
                .iter()
                .map(|word| (*word).to_owned())
                .collect(),
        )),
    };
    let client = session.client()?;
    session.wait(exec(client, arguments[0], &request, watched))
}

async fn exec(
    client: &Client,
    container: &str,
    request: &ExecCreateRequest,
    watched: Vec<u8>,
) -> Result<u8, Failure> {
    let id = client.create_exec(container, request).await?.id;
    if request.detach {
        client.start_exec_detached(&id, request.tty).await?;
        return Ok(0);
    }
    let start = ExecStartRequest {
        detach: false,
        tty: request.tty,
        console_size: request.console_size,
    };
    let hijacked = client.start_exec(&id, &start).await?;
    let attached = Attached {
        client,
        target: Target::Exec(id.clone()),
        proxy: false,
        tty: request.tty,
        plan: Plan {
            stdin: request.attach_stdin,
            raw: request.tty,
            keys: request.tty.then_some(watched),
        },
    };
    match attached.run(hijacked, std::future::ready(Ok(()))).await? {
        Outcome::Detached => Err(Failure::message("read escape sequence")),
        Outcome::Ended => exit_code(client, &id).await,
    }
}

/// The exit code of a process whose output has ended. An engine that was started meanwhile may
/// learn of the end a little later.
async fn exit_code(client: &Client, id: &str) -> Result<u8, Failure> {
    let mut tries = 0u32;
    loop {
        match client.inspect_exec(id).await {
            Ok(state) => {
                if let Some(code) = state.exit_code.filter(|_| !state.running) {
                    return Ok((code & 0xff) as u8);
                }
            }
            Err(error) if error.status().is_some() || tries > 1000 => return Err(error.into()),
            Err(_) => {}
        }
        if tries > 1000 {
            return Err(Failure::message("the command's exit code is not known"));
        }
        tokio::time::sleep(Duration::from_millis(if tries < 20 { 1 } else { 10 })).await;
        tries += 1;
    }
}
