//! `sampan logs`.

use jiff::Timestamp;
use sampan_api::client::LogsOptions;

use super::command::{Arguments, Command, Flag, Parsed};
use super::failure::Failure;
use super::flags::duration::timestamp;
use super::session::Session;
use super::stream::Printer;

pub(crate) const COMMAND: Command = Command {
    names: &["container logs", "logs"],
    usage: "[OPTIONS] CONTAINER",
    about: "Fetch the logs of a container",
    flags: &[&[
        Flag::switch("details", "Show extra details provided to logs"),
        Flag::switch("follow", "Follow log output").short('f'),
        Flag::one(
            "since",
            "string",
            "Show logs since timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)",
        ),
        Flag::one(
            "tail",
            "string",
            "Number of lines to show from the end of the logs",
        )
        .short('n')
        .default("all"),
        Flag::switch("timestamps", "Show timestamps").short('t'),
        Flag::one(
            "until",
            "string",
            "Show logs before a timestamp (e.g. \"2013-01-02T13:23:37Z\") or relative (e.g. \"42m\" for 42 minutes)",
        ),
    ]],
    arguments: Arguments::Exactly(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let now = Timestamp::now();
    let time = |long: &str| match parsed.text(long) {
        None | Some("") => Ok(None),
        Some(text) => timestamp(text, now)
            .map(Some)
            .map_err(|why| Failure::message(format!("invalid value for \"{long}\": {why}"))),
    };
    let options = LogsOptions {
        stdout: true,
        stderr: true,
        follow: parsed.switch("follow")?,
        timestamps: parsed.switch("timestamps")?,
        details: parsed.switch("details")?,
        since: time("since")?,
        until: time("until")?,
        tail: Some(parsed.text("tail").unwrap_or("all").to_owned()),
    };
    let client = session.client()?;
    session.wait(async {
        let mut stream = client
            .container_logs(parsed.arguments()[0], &options)
            .await?;
        let mut printer = Printer::new(!stream.is_multiplexed());
        while let Some(bytes) = stream.next().await? {
            printer.print(&bytes).map_err(Failure::message)?;
        }
        Ok(0)
    })
}
