//! `sampan top`.

use super::command::{Arguments, Command, Parsed};
use super::failure::Failure;
use super::format::table;
use super::output;
use super::session::Session;

pub(crate) const COMMAND: Command = Command {
    names: &["container top", "top"],
    usage: "CONTAINER [ps OPTIONS]",
    about: "Display the running processes of a container",
    arguments: Arguments::AtLeast(1),
    trailing: true,
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let arguments = parsed.arguments();
    let client = session.client()?;
    let top = session.wait(client.container_top(arguments[0], &arguments[1..].join(" ")))?;
    let mut out = top.titles.join("\t") + "\n";
    for row in top.processes {
        out.push_str(&row.join("\t"));
        out.push('\n');
    }
    output::text(&table::align_with(&out, 20, 3));
    Ok(0)
}
