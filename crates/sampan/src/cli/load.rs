//! `sampan load`.

use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::mpsc;

use super::command::{Arguments, Command, Flag, Parsed};
use super::container::describe_io;
use super::failure::Failure;
use super::progress::{self, To};
use super::push::json_platform;
use super::session::Session;
use super::terminal;

pub(crate) const COMMAND: Command = Command {
    names: &["image load", "load"],
    usage: "[OPTIONS]",
    about: "Load an image from a tar archive or STDIN",
    flags: &[&[
        Flag::one(
            "input",
            "string",
            "Read from tar archive file, instead of STDIN",
        )
        .short('i'),
        Flag::one("platform", "string", "Load only the given platform"),
        Flag::switch("quiet", "Suppress the load output").short('q'),
    ]],
    arguments: Arguments::None,
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let source: Box<dyn Read + Send> = match parsed.text("input") {
        Some(path) if !path.is_empty() => Box::new(open(path)?),
        _ if terminal::stdin_is_terminal() => {
            return Err(Failure::message(
                "requested load from stdin, but stdin is empty",
            ));
        }
        _ => Box::new(io::stdin()),
    };
    let quiet = parsed.switch("quiet")? || !terminal::stdout_is_terminal();
    let platform = parsed.value("platform", json_platform)?;
    let client = session.client()?;
    session.wait(async {
        let source = FileBody::new(source)?;
        let mut messages = client
            .load_images(quiet, platform.as_deref(), source)
            .await?;
        progress::print(&mut messages, To::Stdout).await
    })?;
    Ok(0)
}

/// Opens a file to send.
pub(crate) fn open(path: &str) -> Result<File, Failure> {
    let file = File::open(path)
        .map_err(|error| Failure::message(format!("open {path}: {}", describe_io(&error))))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        return Err(Failure::message(format!("read {path}: is a directory")));
    }
    Ok(file)
}

/// A request body that a thread reads, so that a slow pipe does not hold up the answer.
pub(crate) struct FileBody(mpsc::Receiver<io::Result<Bytes>>);

impl FileBody {
    /// Begins to read.
    pub(crate) fn new(mut source: Box<dyn Read + Send>) -> Result<Self, Failure> {
        const PIECE: usize = 256 * 1024;
        let (sender, receiver) = mpsc::channel(4);
        std::thread::Builder::new()
            .name("archive".to_owned())
            .spawn(move || {
                loop {
                    let mut piece = vec![0; PIECE];
                    let read = match source.read(&mut piece) {
                        Ok(0) => return,
                        Ok(read) => {
                            piece.truncate(read);
                            Ok(Bytes::from(piece))
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => Err(error),
                    };
                    let failed = read.is_err();
                    if sender.blocking_send(read).is_err() || failed {
                        return;
                    }
                }
            })
            .map_err(|error| Failure::message(format!("cannot read the archive: {error}")))?;
        Ok(Self(receiver))
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0
            .poll_recv(context)
            .map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}
