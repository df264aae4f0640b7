//! `sampan stop`.

use super::command::{Arguments, Command, Flag, Parsed};
use super::each::each;
use super::failure::Failure;
use super::flags::integer;
use super::output;
use super::session::Session;

/// Flags that `stop` and `restart` share.
pub(crate) const FLAGS: &[Flag] = &[
    Flag::one("signal", "string", "Signal to send to the container").short('s'),
    Flag::one("time", "int", "").hidden(),
    Flag::one(
        "timeout",
        "int",
        "Seconds to wait before killing the container",
    )
    .short('t'),
];

pub(crate) const COMMAND: Command = Command {
    names: &["container stop", "stop"],
    usage: "[OPTIONS] CONTAINER [CONTAINER...]",
    about: "Stop one or more running containers",
    flags: &[FLAGS],
    arguments: Arguments::AtLeast(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let seconds = timeout(parsed)?;
    let signal = parsed.text("signal").filter(|signal| !signal.is_empty());
    let client = session.client()?;
    session.wait(each(&parsed.arguments(), |name| async move {
        not_modified_is_fine(client.stop_container(name, signal, seconds).await)
    }))
}

/// Seconds of `--timeout` or of its old name.
pub(crate) fn timeout(parsed: &Parsed<'_>) -> Result<Option<i64>, Failure> {
    let old = parsed.value("time", integer)?;
    if old.is_some() {
        output::line("Flag --time has been deprecated, use --timeout instead");
    }
    let new = parsed.value("timeout", integer)?;
    if old.is_some() && new.is_some() {
        return Err(Failure::message(
            "conflicting options: cannot specify both --timeout and --time",
        ));
    }
    Ok(new.or(old))
}

/// What is so already is no failure.
pub(crate) fn not_modified_is_fine(
    result: Result<(), sampan_api::client::Error>,
) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() == sampan_api::client::Kind::NotModified => Ok(()),
        other => other.map_err(Failure::from),
    }
}
