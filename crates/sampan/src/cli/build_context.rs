//! The files that an image is built from: read where the command runs and sent as a tar.

use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use sampan_dockerfile::{Ignore, Visit};

use super::container::describe_io;
use super::failure::Failure;

/// Where a Dockerfile is sent that does not lie among the files.
const OUTSIDE: &str = ".dockerfile.sampan";
/// Bytes sent at once.
const PIECE: usize = 256 << 10;

/// Files that are ready to be sent.
pub(crate) struct Looked {
    /// The path of the Dockerfile among them.
    pub(crate) dockerfile: String,
    /// Its text, where it is known.
    pub(crate) text: Option<Vec<u8>>,
    source: Source,
}

enum Source {
    /// A tar.
    Stream(Box<dyn Read + Send>),
    Directory(Context),
}

/// A directory and what is sent of it.
pub(crate) struct Context {
    directory: PathBuf,
    ignore: Ignore,
    /// What is sent although it may be ignored.
    always: Vec<String>,
    /// A Dockerfile that is sent beside the files.
    outside: Option<Vec<u8>>,
}

impl Looked {
    /// Takes standard input: a tar, or the text of a Dockerfile.
    pub(crate) fn stdin(file: Option<&str>) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::message(format!("read standard input: {error}"));
        let mut start = Vec::new();
        let mut stdin = io::stdin();
        stdin
            .by_ref()
            .take(512)
            .read_to_end(&mut start)
            .map_err(failed)?;
        if is_archive(&start) {
            return Ok(Self {
                dockerfile: file.unwrap_or("Dockerfile").to_owned(),
                text: None,
                source: Source::Stream(Box::new(Cursor::new(start).chain(stdin))),
            });
        }
        if file.is_some() {
            return Err(Failure::message(
                "the Dockerfile comes from standard input: -f means nothing then",
            ));
        }
        let limit = sampan_dockerfile::MAX_SIZE as u64;
        stdin.take(limit).read_to_end(&mut start).map_err(failed)?;
        let mut tar = tar::Builder::new(Vec::new());
        append_text(&mut tar, "Dockerfile", &start).map_err(failed)?;
        let tar = tar.into_inner().map_err(failed)?;
        Ok(Self {
            dockerfile: "Dockerfile".to_owned(),
            text: Some(start),
            source: Source::Stream(Box::new(Cursor::new(tar))),
        })
    }

    /// What the engine fetches itself: nothing is sent.
    pub(crate) fn elsewhere(file: Option<&str>) -> Self {
        Self {
            dockerfile: file.unwrap_or_default().to_owned(),
            text: None,
            source: Source::Stream(Box::new(io::empty())),
        }
    }

    /// Begins to read.
    pub(crate) fn open(self) -> Result<Box<dyn Read + Send>, Failure> {
        let context = match self.source {
            Source::Stream(stream) => return Ok(stream),
            Source::Directory(context) => context,
        };
        let (sender, receiver) = mpsc::sync_channel(4);
        std::thread::Builder::new()
            .name("context".to_owned())
            .spawn(move || {
                let mut pieces = Pieces {
                    sender: sender.clone(),
                    piece: Vec::with_capacity(PIECE),
                };
                let result = context.write(&mut pieces).and_then(|()| pieces.flush());
                if let Err(error) = result {
                    // The request breaks off: half of the files are none.
                    let _ = sender.send(Err(error));
                }
            })
            .map_err(|error| Failure::message(format!("cannot read the files: {error}")))?;
        Ok(Box::new(Received {
            receiver,
            piece: Cursor::new(Vec::new()),
        }))
    }
}

impl Context {
    /// Looks at a directory and the Dockerfile: in it, elsewhere, or as text.
    pub(crate) fn look(
        directory: PathBuf,
        file: Option<&Path>,
        text: Option<Vec<u8>>,
    ) -> Result<Looked, Failure> {
        let read = |path: &Path| {
            fs::read(path).map_err(|error| {
                Failure::message(format!(
                    "unable to prepare context: unable to evaluate symlinks in Dockerfile path: lstat {}: {}",
                    path.display(),
                    describe_io(&error)
                ))
            })
        };
        let inside = match (file, &text) {
            (_, Some(_)) => None,
            (None, None) => {
                let capital = directory.join("Dockerfile");
                let small = directory.join("dockerfile");
                Some(match !capital.exists() && small.exists() {
                    true => small,
                    false => capital,
                })
            }
            (Some(file), None) => Some(file.to_owned()),
        };
        let text = match (&inside, text) {
            (_, Some(text)) => text,
            (Some(path), None) => read(path)?,
            (None, None) => Vec::new(),
        };
        let name = inside.as_ref().and_then(|path| {
            let directory = fs::canonicalize(&directory).ok()?;
            let parent = fs::canonicalize(
                path.parent()
                    .filter(|p| *p != Path::new(""))
                    .unwrap_or(Path::new(".")),
            )
            .ok()?;
            let whole = parent.join(path.file_name()?);
            // A link leads elsewhere, where it was sent to.
            let plain = fs::symlink_metadata(&whole).ok()?.is_file();
            let name = whole.strip_prefix(&directory).ok()?.to_str()?.to_owned();
            plain.then_some(name)
        });
        let beside = inside
            .as_ref()
            .map(|path| PathBuf::from(format!("{}.dockerignore", path.display())))
            .filter(|path| path.exists());
        let ignore_file = beside.unwrap_or_else(|| directory.join(".dockerignore"));
        let ignore = match fs::read(&ignore_file) {
            Ok(bytes) => Ignore::parse(&bytes)
                .map_err(|error| Failure::message(format!("{}: {error}", ignore_file.display())))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ignore::default(),
            Err(error) => {
                return Err(Failure::message(format!(
                    "{}: {}",
                    ignore_file.display(),
                    describe_io(&error)
                )));
            }
        };
        let mut always = vec![".dockerignore".to_owned()];
        if let Some(name) = &name {
            always.push(name.clone());
            always.push(format!("{name}.dockerignore"));
        }
        Ok(Looked {
            dockerfile: name.clone().unwrap_or_else(|| OUTSIDE.to_owned()),
            source: Source::Directory(Self {
                directory,
                ignore,
                always,
                outside: name.is_none().then(|| text.clone()),
            }),
            text: Some(text),
        })
    }

    fn write(&self, out: impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(out);
        tar.follow_symlinks(false);
        self.directory(&mut tar, "", &self.ignore.root())?;
        if let Some(text) = &self.outside {
            append_text(&mut tar, OUTSIDE, text)?;
        }
        tar.into_inner()?.flush()
    }

    fn directory<W: Write>(
        &self,
        tar: &mut tar::Builder<W>,
        path: &str,
        visit: &Visit,
    ) -> io::Result<()> {
        let whole = self.directory.join(path);
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", whole.display()))
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(&whole).map_err(named)? {
            let name = entry.map_err(named)?.file_name();
            let name = name.into_string().map_err(|name| {
                io::Error::other(format!("a name is not UTF-8: {}", name.display()))
            })?;
            names.push(name);
        }
        names.sort_unstable();
        for name in names {
            let path = match path.is_empty() {
                true => name,
                false => format!("{path}/{name}"),
            };
            let whole = self.directory.join(&path);
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("{}: {error}", whole.display()))
            };
            let found = fs::symlink_metadata(&whole).map_err(named)?;
            let below = self.ignore.visit(visit, &path);
            let sent = !below.is_ignored() || self.always.contains(&path);
            // What has no content but a listener.
            if found.file_type().is_socket() {
                continue;
            }
            if sent {
                tar.append_path_with_name(&whole, &path).map_err(named)?;
            }
            let leads = self.always.iter().any(|file| {
                file.strip_prefix(&path)
                    .is_some_and(|rest| rest.starts_with('/'))
            });
            if found.is_dir()
                && (!below.is_ignored() || leads || self.ignore.may_keep_below(&below, &path))
            {
                self.directory(tar, &path, &below)?;
            }
        }
        Ok(())
    }
}

fn append_text<W: Write>(tar: &mut tar::Builder<W>, name: &str, text: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o600);
    tar.append_data(&mut header, name, text)
}

/// Whether this is how a tar begins, plain or packed.
fn is_archive(start: &[u8]) -> bool {
    let packed: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    packed.iter().any(|magic| start.starts_with(magic))
        || start.get(257..262) == Some(b"ustar".as_slice())
}

/// Hands pieces of a tar on.
struct Pieces {
    sender: mpsc::SyncSender<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.sender
            .send(Ok(piece))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

struct Received {
    receiver: mpsc::Receiver<io::Result<Vec<u8>>>,
    piece: Cursor<Vec<u8>>,
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.piece.read(buffer)? {
                0 => match self.receiver.recv() {
                    Ok(piece) => self.piece = Cursor::new(piece?),
                    Err(_) => return Ok(0),
                },
                n => return Ok(n),
            }
        }
    }
}
