//! `sampan attach`.

use sampan_api::Client;
use sampan_api::client::{AttachOptions, WaitCondition};

use super::attached::{Attached, Outcome, Target, exit_code};
use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::flags::keys;
use super::session::Session;
use super::stream::Plan;
use super::terminal;

pub(crate) const COMMAND: Command = Command {
    names: &["container attach", "attach"],
    usage: "[OPTIONS] CONTAINER",
    about: "Attach local standard input, output, and error streams to a running container",
    flags: &[&[
        Flag::one(
            "detach-keys",
            "string",
            "Override the key sequence for detaching a container",
        ),
        Flag::switch("no-stdin", "Do not attach STDIN"),
        Flag::switch("sig-proxy", "Proxy all received signals to the process").default("true"),
    ]],
    arguments: Arguments::Exactly(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let keys = parsed
        .text("detach-keys")
        .or_else(|| session.setting("detachKeys"))
        .unwrap_or("")
        .to_owned();
    // What is wrong with them, the engine says.
    let watched = keys::parse(&keys).unwrap_or_default();
    let call = Call {
        name: parsed.arguments()[0],
        input: !parsed.switch("no-stdin")?,
        proxy: parsed.switch_or("sig-proxy", true)?,
        keys,
        watched,
    };
    let client = session.client()?;
    session.wait(attach(client, call))
}

struct Call<'c> {
    name: &'c str,
    input: bool,
    proxy: bool,
    keys: String,
    watched: Vec<u8>,
}

async fn attach(client: &Client, call: Call<'_>) -> Result<u8, Failure> {
    let container = client.inspect_container(call.name).await?;
    let state = &container.state;
    if state.paused {
        return Err(Failure::message(
            "You cannot attach to a paused container, unpause it first",
        ));
    }
    if state.restarting {
        return Err(Failure::message(
            "You cannot attach to a restarting container, wait until it is running",
        ));
    }
    if !state.running {
        return Err(Failure::message(
            "You cannot attach to a stopped container, start it first",
        ));
    }
    let tty = container.config.tty;
    let stdin = call.input && container.config.open_stdin;
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
        detach_keys: (!call.keys.is_empty()).then(|| call.keys.clone()),
    };
    let condition = WaitCondition::NotRunning;
    let (pending, hijacked) = tokio::try_join!(
        client.wait_container(&id, condition),
        client.attach_container(&id, &options),
    )?;
    let attached = Attached {
        client,
        target: Target::Container(id.clone()),
        proxy: call.proxy && !tty,
        tty,
        plan: Plan {
            stdin,
            raw: tty,
            keys: tty.then_some(call.watched),
        },
    };
    let resized = async {
        if tty {
            // A program that draws the screen does so again when the size changes.
            if let Some((rows, columns)) = terminal::size() {
                let other = client.resize_container(&id, rows + 1, columns + 1).await;
                drop(other);
            }
            Target::Container(id.clone()).resize(client).await;
        }
        Ok(())
    };
    match attached.run(hijacked, resized).await? {
        Outcome::Detached => Err(Failure::message("read escape sequence")),
        Outcome::Ended => exit_code(client, &id, condition, pending).await,
    }
}
