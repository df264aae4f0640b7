//! `sampan cp`.

mod local;

use std::ffi::CString;
use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sampan_api::Client;
use sampan_api::client::ByteStream;
use sampan_archive::{ExtractOptions, Owner, OwnerMap, Replace, extract, write_named};
use sampan_fs::Root;
use sampan_text::path::clean;
use tokio::sync::mpsc;

use self::local::{Ends, Place, base, parent, plan};
use super::command::{Arguments, Command, Flag, Parsed};
use super::container::describe_io;
use super::failure::Failure;
use super::format::units;
use super::load::FileBody;
use super::session::Session;
use super::terminal;

/// As Go's `io/fs.FileMode` has them.
const DIRECTORY: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const IRREGULAR: u32 = 1 << 19;
/// How often progress is shown.
const REFRESH: Duration = Duration::from_millis(75);
const PIECE: usize = 256 << 10;

pub(crate) const COMMAND: Command = Command {
    names: &["container cp", "cp"],
    usage: "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\tsampan cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    about: "Copy files/folders between a container and the local filesystem",
    details: "\
Use '-' as the source to read a tar archive from stdin
and extract it to a directory destination in a container.
Use '-' as the destination to stream a tar archive of a
container source to stdout.",
    flags: &[&[
        Flag::switch("archive", "Archive mode (copy all uid/gid information)").short('a'),
        Flag::switch("follow-link", "Always follow symbol link in SRC_PATH").short('L'),
        Flag::switch(
            "quiet",
            "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached",
        )
        .short('q'),
    ]],
    arguments: Arguments::Exactly(2),
    run,
    ..Command::PLAIN
};

/// What is copied and how.
struct Copy<'c> {
    container: &'c str,
    source: &'c str,
    target: &'c str,
    follow: bool,
    as_container_user: bool,
    quiet: bool,
}

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let arguments = parsed.arguments();
    let (source, target) = (arguments[0], arguments[1]);
    if source.is_empty() {
        return Err(Failure::message("source can not be empty"));
    }
    if target.is_empty() {
        return Err(Failure::message("destination can not be empty"));
    }
    let quiet = match parsed.given("quiet") {
        true => parsed.switch("quiet")?,
        false => !terminal::stdout_is_terminal(),
    };
    let copy = |container, source, target| {
        Ok::<_, Failure>(Copy {
            container,
            source,
            target,
            follow: parsed.switch("follow-link")?,
            as_container_user: parsed.switch("archive")?,
            quiet,
        })
    };
    match (split(source), split(target)) {
        ((Some(container), source), (None, target)) => {
            let copy = copy(container, source, target)?;
            let client = session.client()?;
            session.wait(copy.copy_out(client))
        }
        ((None, source), (Some(container), target)) => {
            let copy = copy(container, source, target)?;
            let client = session.client()?;
            session.wait(copy.copy_in(client))
        }
        ((Some(_), _), (Some(_), _)) => Err(Failure::message(
            "copying between containers is not supported",
        )),
        ((None, _), (None, _)) => Err(Failure::message(
            "must specify at least one container source",
        )),
    }
}

/// Takes `CONTAINER:PATH` apart. A path that begins with a slash or a dot is never one.
fn split(argument: &str) -> (Option<&str>, &str) {
    if argument.starts_with('/') {
        return (None, argument);
    }
    match argument.split_once(':') {
        Some((container, path)) if !container.is_empty() && !container.starts_with('.') => {
            (Some(container), path)
        }
        _ => (None, argument),
    }
}

fn failed(path: &str, error: &io::Error) -> Failure {
    Failure::message(format!("lstat {path}: {}", describe_io(error)))
}

impl Copy<'_> {
    async fn copy_out(&self, client: &Client) -> Result<u8, Failure> {
        let target = match self.target {
            "-" => "-".to_owned(),
            path => local::absolute(path).map_err(|error| failed(path, &error))?,
        };
        if target != "-" {
            local::check_output(&target)?;
        }
        let mut source = self.source.to_owned();
        let mut called = None;
        if self.follow
            && let Ok(stat) = client.stat_path(self.container, &source).await
            && stat.mode & SYMLINK != 0
        {
            let link = beside(&source, &stat.link_target);
            let (link, name) = local::renamed(&source, link);
            (source, called) = (link, name);
        }
        let (stat, stream) = client.copy_from(self.container, &source).await?;
        if target == "-" {
            return to_stdout(stream).await;
        }
        let from = Place {
            path: source,
            exists: true,
            is_directory: stat.mode & DIRECTORY != 0,
        };
        let to = local::destination(&target)?;
        let mut ends = plan(&from, called.as_deref(), &to)?;
        if let (Some(name), None) = (called, &ends.rename) {
            ends.rename = Some((base(&from.path), name));
        }
        let counted = Progress::new("Copying from container - ", self.quiet);
        let done = unpack(stream, ends, counted.count.clone());
        let result = counted.while_copying(done).await;
        counted.tell(&target);
        result.map(|()| 0)
    }

    async fn copy_in(&self, client: &Client) -> Result<u8, Failure> {
        let mut to = Place {
            path: self.target.to_owned(),
            exists: false,
            is_directory: false,
        };
        let mut found = client.stat_path(self.container, self.target).await;
        if let Ok(stat) = &found
            && stat.mode & SYMLINK != 0
        {
            to.path = beside(self.target, &stat.link_target);
            found = client.stat_path(self.container, &to.path).await;
        }
        // What is not there may come to be: the extraction tells.
        if let Ok(stat) = found {
            let what = match stat.mode {
                mode if mode & DEVICE != 0 => Some("got a device"),
                mode if mode & IRREGULAR != 0 => Some("got an irregular file"),
                _ => None,
            };
            if let Some(what) = what {
                return Err(Failure::message(format!(
                    "destination \"{}:{}\" must be a directory or a regular file: {what}",
                    self.container, self.target
                )));
            }
            to.exists = true;
            to.is_directory = stat.mode & DIRECTORY != 0;
        }
        let counted = Progress::new("Copying to container - ", self.quiet);
        let (directory, source): (String, Box<dyn Read + Send>) = if self.source == "-" {
            if !to.is_directory {
                return Err(Failure::message(format!(
                    "destination \"{}:{}\" must be a directory",
                    self.container, self.target
                )));
            }
            (to.path.clone(), Box::new(io::stdin()))
        } else {
            self.pack(&to)?
        };
        let body = FileBody::new(Box::new(Counted {
            inner: source,
            count: counted.count.clone(),
        }))?;
        let sent = client.copy_to(self.container, &directory, self.as_container_user, body);
        let result = counted.while_copying(async { Ok(sent.await?) }).await;
        counted.tell(&format!("{}:{}", self.container, to.path));
        result.map(|()| 0)
    }

    /// The local files as a tar, and the directory of the container in which it is unpacked.
    fn pack(&self, to: &Place) -> Result<(String, Box<dyn Read + Send>), Failure> {
        let path = local::absolute(self.source).map_err(|error| failed(self.source, &error))?;
        let (path, called) =
            local::source(&path, self.follow).map_err(|error| failed(&path, &error))?;
        let metadata = std::fs::symlink_metadata(&path).map_err(|error| failed(&path, &error))?;
        if path.ends_with('/') && !metadata.is_dir() {
            return Err(failed(&path, &io::Error::from_raw_os_error(20)));
        }
        let from = Place {
            path,
            exists: true,
            is_directory: metadata.is_dir(),
        };
        let ends = plan(&from, called.as_deref(), to)?;
        let name = match &ends.rename {
            Some((_, new)) => new.clone(),
            None => called.unwrap_or_else(|| base(&from.path)),
        };
        let name = if name == "/" { String::new() } else { name };
        let (reader, mut writer) = io::pipe().map_err(|error| failed(&from.path, &error))?;
        let archive = Packing::open(&from)?;
        std::thread::Builder::new()
            .name("files".to_owned())
            .spawn(move || archive.write(&name, &mut writer))
            .map_err(|error| Failure::message(format!("cannot read files: {error}")))
            .map(|thread| {
                let source = Joined {
                    reader,
                    thread: Some(thread),
                };
                (ends.directory, Box::new(source) as Box<dyn Read + Send>)
            })
    }
}

/// Where a link leads, seen from the directory in which it lies.
fn beside(path: &str, target: &str) -> String {
    if target.starts_with('/') {
        target.to_owned()
    } else {
        clean(&format!("{}/{target}", parent(path)))
    }
}

/// Local files that are about to be packed.
struct Packing {
    directory: File,
    /// None for all that is in the directory.
    entry: Option<CString>,
}

impl Packing {
    fn open(from: &Place) -> Result<Self, Failure> {
        let (directory, entry) = match from.is_directory {
            true => (from.path.clone(), None),
            false => (parent(&from.path), Some(base(&from.path))),
        };
        let opened = File::open(&directory).map_err(|error| failed(&directory, &error))?;
        let entry = entry.map(|name| CString::new(name).expect("a path of the system has no NUL"));
        Ok(Self {
            directory: opened,
            entry,
        })
    }

    fn write(&self, name: &str, out: &mut impl Write) -> io::Result<()> {
        write_named(
            self.directory.as_fd(),
            self.entry.as_deref(),
            name.as_bytes(),
            &OwnerMap::default(),
            out,
        )
    }
}

/// What a thread writes into a pipe. Its failure is that of the last read: an archive that was cut
/// must not be taken for whole.
struct Joined {
    reader: io::PipeReader,
    thread: Option<std::thread::JoinHandle<io::Result<()>>>,
}

impl Read for Joined {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        if read == 0
            && !buffer.is_empty()
            && let Some(thread) = self.thread.take()
        {
            let done = thread.join();
            done.map_err(|_| io::Error::other("the thread that reads files has ended"))??;
        }
        Ok(read)
    }
}

struct Counted {
    inner: Box<dyn Read + Send>,
    count: Arc<AtomicI64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.fetch_add(read as i64, Ordering::Relaxed);
        Ok(read)
    }
}

async fn to_stdout(mut stream: ByteStream) -> Result<u8, Failure> {
    while let Some(piece) = stream.next().await? {
        let written = io::stdout().lock().write_all(&piece);
        written.map_err(|error| Failure::message(format!("write: {}", describe_io(&error))))?;
    }
    let flushed = io::stdout().lock().flush();
    flushed.map_err(|error| Failure::message(format!("write: {}", describe_io(&error))))?;
    Ok(0)
}

/// Extracts what comes, in a thread, so that a slow disk does not hold up the connection.
async fn unpack(mut stream: ByteStream, ends: Ends, count: Arc<AtomicI64>) -> Result<(), Failure> {
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(4);
    let thread = std::thread::Builder::new()
        .name("extract".to_owned())
        .spawn(move || {
            // The directory is the user's; what comes does not leave it.
            let root = Root::open(PathBuf::from(&ends.directory))
                .map_err(|error| Failure::message(error.to_string()))?;
            let options = ExtractOptions {
                replace: Replace::SameKind,
                owner: Owner::Nobody,
                owners: OwnerMap::default(),
                rename: ends.rename,
            };
            let pieces = Pieces {
                receiver,
                piece: Bytes::new(),
            };
            extract(&root, "/", options, pieces).map_err(|error| Failure::message(chain(&error)))
        })
        .map_err(|error| Failure::message(format!("cannot extract: {error}")))?;
    loop {
        let piece = match stream.next().await {
            Ok(Some(piece)) => {
                count.fetch_add(piece.len() as i64, Ordering::Relaxed);
                Ok(piece)
            }
            Ok(None) => break,
            Err(error) => Err(io::Error::other(error.to_string())),
        };
        let broken = piece.is_err();
        // The thread has ended when nobody takes it, and says why.
        if sender.send(piece).await.is_err() || broken {
            break;
        }
    }
    drop(sender);
    let joined = tokio::task::spawn_blocking(move || thread.join()).await;
    match joined {
        Ok(Ok(result)) => result,
        _ => Err(Failure::message("the thread that extracts has ended")),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) if error.to_string() == "read the archive" => {
            format!("{error}: {}", chain(cause))
        }
        _ => error.to_string(),
    }
}

struct Pieces {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.piece = piece?,
            }
        }
        let length = self.piece.len().min(buffer.len()).min(PIECE);
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

/// What a person sees of a copy.
struct Progress {
    head: &'static str,
    quiet: bool,
    count: Arc<AtomicI64>,
}

impl Progress {
    fn new(head: &'static str, quiet: bool) -> Self {
        Self {
            head,
            quiet,
            count: Arc::default(),
        }
    }

    fn size(&self) -> String {
        units::size(self.count.load(Ordering::Relaxed))
    }

    /// Shows how far it is, on a terminal.
    async fn while_copying(
        &self,
        copy: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        if self.quiet || !io::stderr().is_terminal() {
            return copy.await;
        }
        tokio::pin!(copy);
        let result = loop {
            eprint!("\r\x1b[K{}{}", self.head, self.size());
            tokio::select! {
                result = &mut copy => break result,
                () = tokio::time::sleep(REFRESH) => {}
            }
        };
        eprint!("\r\x1b[K");
        result
    }

    /// The last word, also after a failure, as Docker has it.
    fn tell(&self, target: &str) {
        if !self.quiet {
            eprintln!("Successfully copied {} to {target}", self.size());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_stand_before_a_colon() {
        for (argument, expected) in [
            ("web:/x", (Some("web"), "/x")),
            ("web:", (Some("web"), "")),
            ("/a:b", (None, "/a:b")),
            ("./a:b", (None, "./a:b")),
            ("file", (None, "file")),
            ("-", (None, "-")),
            ("web:a:b", (Some("web"), "a:b")),
        ] {
            assert_eq!(split(argument), expected, "{argument}");
        }
    }

    #[test]
    fn links_are_seen_from_where_they_lie() {
        assert_eq!(beside("/a/link", "../b"), "/b");
        assert_eq!(beside("/a/link", "/c/d"), "/c/d");
    }
}
