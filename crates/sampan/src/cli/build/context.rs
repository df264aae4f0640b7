//! What an image is built from: a directory, an address or standard input, and a Dockerfile.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Cursor, IsTerminal, Read};
use std::path::{Path, PathBuf};

use sampan_oci::Digest;

use super::files::Directory;
use super::session;
use crate::cli::container::describe_io;
use crate::cli::failure::Failure;

/// The names under which the engine asks for directories.
const CONTEXT: &str = "context";
const DOCKERFILE: &str = "dockerfile";

/// Where everything is, and what the engine is told of it.
pub(super) struct Source {
    pub(super) attributes: HashMap<String, String>,
    pub(super) directories: HashMap<String, Directory>,
    /// A tar.
    pub(super) input: Option<Box<dyn Read + Send>>,
    /// The Dockerfile's name and text, where it is known here.
    pub(super) dockerfile: Option<(String, String)>,
    /// The same each time for the same directory.
    pub(super) shared_key: String,
}

impl Source {
    /// Finds what the arguments mean.
    pub(super) fn look(path: &str, file: Option<&str>) -> Result<Self, Failure> {
        let file = file.filter(|file| !file.is_empty());
        let mut source = Self {
            attributes: HashMap::new(),
            directories: HashMap::new(),
            input: None,
            dockerfile: None,
            shared_key: String::new(),
        };
        if path == "-" {
            if file == Some("-") {
                return Err(Failure::message(
                    "invalid argument: can't use stdin for both build context and dockerfile",
                ));
            }
            source.take_stdin(file)?;
            return Ok(source);
        }
        let directory = Path::new(path);
        match fs::metadata(directory) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                return Err(Failure::message(format!(
                    "unable to prepare context: path {path:?} is not a directory"
                )));
            }
            Err(_) if is_address(path) => {
                source.put(CONTEXT, path);
                match file {
                    Some("-") => source.written("Dockerfile", read_stdin()?, None),
                    Some(file) => source.put("filename", file),
                    None => {}
                }
                return Ok(source);
            }
            Err(_) => {
                return Err(Failure::message(format!(
                    "unable to prepare context: path {path:?} not found"
                )));
            }
        }
        let whole = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
        source.shared_key = Digest::of(whole.as_os_str().as_encoded_bytes()).hex();
        let on_disk = Directory::Disk(directory.to_owned());
        source.directories.insert(CONTEXT.to_owned(), on_disk);
        match file {
            Some("-") => source.written("Dockerfile", read_stdin()?, None),
            file => {
                let (capital, small) = (directory.join("Dockerfile"), directory.join("dockerfile"));
                let path = match file {
                    Some(file) => PathBuf::from(file),
                    None if !capital.exists() && small.exists() => small,
                    None => capital,
                };
                let text = fs::read(&path).map_err(|error| {
                    Failure::message(format!(
                        "failed to read dockerfile: open {}: {}",
                        path.display(),
                        describe_io(&error)
                    ))
                })?;
                let name = path.file_name().unwrap_or(path.as_os_str());
                let beside = format!("{}.dockerignore", path.display());
                source.written(&name.to_string_lossy(), text, fs::read(beside).ok());
            }
        }
        Ok(source)
    }

    fn put(&mut self, name: &str, value: &str) {
        self.attributes.insert(name.to_owned(), value.to_owned());
    }

    /// The Dockerfile is what is written here, whatever the context is.
    fn written(&mut self, name: &str, text: Vec<u8>, ignore: Option<Vec<u8>>) {
        let shown = String::from_utf8_lossy(&text).into_owned();
        self.dockerfile = Some((name.to_owned(), shown));
        let mut files = vec![(name.to_owned(), text)];
        files.extend(ignore.map(|ignore| (format!("{name}.dockerignore"), ignore)));
        self.put("filename", name);
        self.put("dockerfilekey", DOCKERFILE);
        let directory = Directory::Memory(files);
        self.directories.insert(DOCKERFILE.to_owned(), directory);
    }

    /// A tar, or the text of a Dockerfile.
    fn take_stdin(&mut self, file: Option<&str>) -> Result<(), Failure> {
        let mut start = Vec::new();
        let mut stdin = not_from_a_terminal("the build context")?;
        stdin
            .by_ref()
            .take(512)
            .read_to_end(&mut start)
            .map_err(|error| Failure::message(format!("read standard input: {error}")))?;
        if is_archive(&start) {
            let upload = format!("http://buildkit-session/{}", session::random());
            self.put(CONTEXT, &upload);
            if let Some(file) = file {
                self.put("filename", file);
            }
            self.input = Some(Box::new(Cursor::new(start).chain(stdin)));
            return Ok(());
        }
        if file.is_some() {
            return Err(Failure::message(
                "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles",
            ));
        }
        start.extend(read_stdin()?);
        self.directories
            .insert(CONTEXT.to_owned(), Directory::Memory(Vec::new()));
        self.written("Dockerfile", start, None);
        Ok(())
    }
}

fn not_from_a_terminal(what: &str) -> Result<io::Stdin, Failure> {
    match io::stdin().is_terminal() {
        true => Err(Failure::message(format!(
            "{what} is read from standard input, which is a terminal"
        ))),
        false => Ok(io::stdin()),
    }
}

fn read_stdin() -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    not_from_a_terminal("the Dockerfile")?
        .take(sampan_dockerfile::MAX_SIZE as u64 + 1)
        .read_to_end(&mut text)
        .map_err(|error| Failure::message(format!("read the Dockerfile: {error}")))?;
    Ok(text)
}

/// Whether the engine fetches the files itself.
pub(super) fn is_address(path: &str) -> bool {
    path.contains("://") || path.starts_with("git@") || path.starts_with("github.com/")
}

/// Whether this is how a tar begins, plain or packed.
fn is_archive(start: &[u8]) -> bool {
    let packed: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    packed.iter().any(|magic| start.starts_with(magic))
        || start.get(257..262) == Some(b"ustar".as_slice())
}
