//! `sampan builder cache`: the directories that commands of builds keep (`RUN --mount=type=cache`).

use std::io::{self, Read};

use http::Method;
use jiff::Timestamp;

use super::archive::Archive;
use super::command::{Arguments, Command, Flag, Parsed};
use super::df::since;
use super::failure::Failure;
use super::format::units;
use super::load::{FileBody, open};
use super::output;
use super::session::Session;
use super::terminal;

const PLACE: &str = "/sampan/build/mounts";

pub(crate) const LS: Command = Command {
    names: &["builder cache ls", "builder cache list"],
    usage: "",
    about: "List the cache mounts of builds",
    arguments: Arguments::None,
    run: ls,
    ..Command::PLAIN
};

pub(crate) const EXPORT: Command = Command {
    names: &["builder cache export"],
    usage: "[OPTIONS] ID",
    about: "Save the files of a cache mount as a tar archive (streamed to STDOUT by default)",
    flags: &[&[Flag::one("output", "string", "Write to a file, instead of STDOUT").short('o')]],
    arguments: Arguments::Exactly(1),
    run: export,
    ..Command::PLAIN
};

pub(crate) const IMPORT: Command = Command {
    names: &["builder cache import"],
    usage: "[OPTIONS] ID",
    about: "Make a cache mount of a tar archive, in the place of the one that has its name",
    flags: &[&[Flag::one(
        "input",
        "string",
        "Read from tar archive file, instead of STDIN",
    )
    .short('i')]],
    arguments: Arguments::Exactly(1),
    run: import,
    ..Command::PLAIN
};

fn ls(session: &Session, _: &Parsed<'_>) -> Result<u8, Failure> {
    let client = session.client()?;
    let mounts = session
        .wait(async { super::read_data(client.request(Method::GET, PLACE).send().await?).await })?;
    let now = Timestamp::now();
    let mut text = format!(
        "{:<12}  {:<9}  {:<6}  {:<16}  {}\n",
        "KEY", "SIZE", "IN USE", "LAST USED", "ID"
    );
    for mount in mounts.items() {
        let key: String = mount.text_at("Key").chars().take(12).collect();
        text.push_str(&format!(
            "{key:<12}  {:<9}  {:<6}  {:<16}  {}\n",
            units::size_precise(mount.int_at("Size")),
            mount.bool_at("InUse"),
            since(mount.text_at("LastUsed"), now),
            mount.text_at("Id"),
        ));
    }
    output::text(&text);
    Ok(0)
}

fn export(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let archive = Archive::open(parsed.text("output"), "failed to save the cache mount")?;
    let place = format!("{PLACE}/export");
    let client = session.client()?;
    session.wait(async {
        let request = client.request(Method::GET, &place);
        let request = request.query("id", parsed.arguments()[0]);
        archive.write(request.send().await?.into_stream()).await
    })?;
    Ok(0)
}

fn import(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let source: Box<dyn Read + Send> = match parsed.text("input") {
        Some(path) if !path.is_empty() => Box::new(open(path)?),
        _ if terminal::stdin_is_terminal() => {
            return Err(Failure::message("an archive is expected on stdin"));
        }
        _ => Box::new(io::stdin()),
    };
    let place = format!("{PLACE}/import");
    let client = session.client()?;
    session.wait(async {
        let request = client.request(Method::POST, &place);
        let request = request.query("id", parsed.arguments()[0]);
        let request = request.body(FileBody::new(source)?, "application/x-tar");
        request.send().await?;
        Ok::<_, Failure>(())
    })?;
    Ok(0)
}
