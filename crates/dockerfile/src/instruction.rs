//! What a stage is made of.

use serde::Serialize;

use crate::error::{Error, ErrorKind, Location};
use crate::heredoc::{self, Heredoc};
use crate::mount::{Device, MountFlag};
use crate::shell::{Expansion, Shell};
use crate::variables::Variables;

/// An instruction where it stands in the file.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Step {
    /// What is to be done.
    pub instruction: Instruction,
    /// The name as it is written, as in `Run`.
    pub written: String,
    /// The whole line as it is written, continuations joined, without documents.
    pub source: String,
    /// The comments directly in front, without their sign.
    pub comments: Vec<String>,
    /// Where it stands.
    pub location: Location,
}

/// Everything but `FROM`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub enum Instruction {
    /// Copies files, unpacks archives, fetches what has a URL.
    Add(Add),
    /// Declares variables of the build.
    Arg(Vec<ArgDeclaration>),
    /// The default command.
    Cmd(Command),
    /// Copies files.
    Copy(Copy),
    /// The program that every command is handed to.
    Entrypoint(Command),
    /// Sets variables of the image.
    Env(Vec<KeyValue>),
    /// Ports as written, sorted.
    Expose(Vec<String>),
    /// How the health of a container is tested.
    Healthcheck(Healthcheck),
    /// Notes of the image.
    Label(Vec<KeyValue>),
    /// The author; deprecated.
    Maintainer(String),
    /// What is to be done in builds on this image.
    Onbuild(Trigger),
    /// Runs a command.
    Run(Box<Run>),
    /// The shell of the shell forms.
    Shell(Vec<String>),
    /// The signal that stops a container.
    StopSignal(String),
    /// Who runs what follows.
    User(String),
    /// Places for volumes.
    Volume(Vec<String>),
    /// Where what follows is done.
    Workdir(String),
}

/// A command in one of its two forms.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub enum Command {
    /// A line for the shell.
    Shell(String),
    /// A program and its arguments.
    Exec(Vec<String>),
}

/// One `NAME=value`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct KeyValue {
    /// The name.
    pub key: String,
    /// The value.
    pub value: String,
    /// Whether it was written as `NAME value`.
    pub legacy: bool,
}

/// One variable of an `ARG`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ArgDeclaration {
    /// The name.
    pub name: String,
    /// The value if the build gives none.
    pub default: Option<String>,
    /// The comment in front, if it begins with the name.
    pub comment: Option<String>,
}

/// What `ADD` and `COPY` have in common.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Transfer {
    /// From where, in order.
    pub sources: Vec<Source>,
    /// To where; with a slash at the end it is a directory.
    pub destination: String,
    /// `user[:group]`.
    pub chown: Option<String>,
    /// Octal or symbolic permissions.
    pub chmod: Option<String>,
    /// Whether the layer is independent of those below.
    pub link: bool,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
}

/// One thing to copy.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub enum Source {
    /// A path, a pattern, or for `ADD` a URL.
    Path(String),
    /// A document in the Dockerfile.
    Document(Heredoc),
}

/// `COPY`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Copy {
    /// What and how.
    pub transfer: Transfer,
    /// A stage, a named context or an image; none is the context.
    pub from: Option<String>,
    /// Whether directories above the sources are kept.
    pub parents: bool,
}

/// `ADD`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Add {
    /// What and how.
    pub transfer: Transfer,
    /// What a fetched source must have: `sha256:…`, or a commit.
    pub checksum: Option<String>,
    /// Whether `.git` of a repository is kept.
    pub keep_git_dir: bool,
    /// Whether archives are unpacked; local ones are if nothing is said, fetched ones are not.
    pub unpack: Option<bool>,
}

/// `RUN`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Run {
    /// The command, with the words that announce documents.
    pub command: Command,
    /// The documents it is followed by.
    pub documents: Vec<Heredoc>,
    /// What is mounted meanwhile.
    pub mounts: Vec<MountFlag>,
    /// The network it has; none is what the build has.
    pub network: Option<Network>,
    /// How it is confined.
    pub security: Security,
    /// Devices it needs.
    pub devices: Vec<Device>,
}

/// `RUN --network`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub enum Network {
    /// What the build has.
    Default,
    /// None but the loopback.
    None,
    /// The host's; must be granted.
    Host,
}

/// `RUN --security`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub enum Security {
    /// As containers are.
    #[default]
    Sandbox,
    /// Not at all; must be granted.
    Insecure,
}

/// What a `RUN` comes to once its documents are read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Script {
    /// A program and its arguments.
    Exec(Vec<String>),
    /// One argument for the shell.
    Shell(String),
    /// A document that names its own interpreter: a file with mode 0755 in
    /// `/dev/pipes/`, handed to the shell by its path.
    File {
        /// The file's name.
        name: String,
        /// Its content.
        content: String,
    },
}

impl Run {
    /// What is to be run.
    pub fn script(&self) -> Script {
        let line = match &self.command {
            Command::Exec(words) => return Script::Exec(words.clone()),
            Command::Shell(line) => line,
        };
        let alone = matches!(heredoc::parse(line), Ok(Some(_)));
        match (self.documents.first(), alone) {
            (None, _) => Script::Shell(line.clone()),
            (Some(document), true) => {
                let content = document.text();
                if !content.starts_with("#!") {
                    return Script::Shell(content);
                }
                let name = document.name.clone();
                Script::File { name, content }
            }
            // The shell itself reads documents that come with other words.
            (Some(_), false) => Script::Shell(with_documents(line, &self.documents)),
        }
    }
}

/// The line and its documents as they stood in the file.
pub(crate) fn with_documents(line: &str, documents: &[Heredoc]) -> String {
    let mut text = line.to_owned();
    for document in documents {
        text.push('\n');
        text.push_str(&document.content);
        text.push_str(&document.name);
    }
    text
}

/// `HEALTHCHECK`. Nanoseconds; 0 is what the engine has as its default.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub enum Healthcheck {
    /// No test, whatever the base image has.
    None,
    /// A command.
    Test {
        /// The command.
        command: Command,
        /// Between tests.
        interval: i64,
        /// For one test.
        timeout: i64,
        /// While failures do not count.
        start_period: i64,
        /// Between tests meanwhile.
        start_interval: i64,
        /// Failures in a row that make it unhealthy.
        retries: u32,
    },
}

/// `ONBUILD`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Trigger {
    /// The instruction as written, with its documents: what the image keeps.
    pub expression: String,
    /// The same, read.
    pub instruction: Box<Instruction>,
}

impl Instruction {
    /// Whether it may change files, and not the configuration alone.
    pub fn makes_files(&self) -> bool {
        matches!(
            self,
            Self::Add(_) | Self::Copy(_) | Self::Run(_) | Self::Workdir(_)
        )
    }

    /// The name in capitals.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }

    /// Names of stages, named contexts or images that it needs, in order.
    pub fn source_names(&self) -> Vec<&str> {
        match self {
            Self::Copy(copy) => copy.from.as_deref().into_iter().collect(),
            Self::Run(run) => run
                .mounts
                .iter()
                .filter_map(MountFlag::source_name)
                .collect(),
            _ => Vec::new(),
        }
    }

    /// The same instruction with all its variables expanded. `ARG` is expanded by
    /// [`Scope::declare`](crate::Scope::declare), a mount of `RUN` by
    /// [`MountFlag::resolve`]; what is in `RUN`, `CMD`, `ENTRYPOINT` and
    /// `HEALTHCHECK` is left to the shell in the container.
    pub fn expand(&self, shell: &Shell, variables: &Variables) -> Result<Self, Error> {
        self.expand_with(&mut |place, word| match place {
            Place::Word => shell.expand(word, variables),
            Place::Document => shell.expand_document(word, variables),
        })
    }

    /// Expands with `expand`, which is told what kind of text it is given.
    pub(crate) fn expand_with(
        &self,
        expand: &mut dyn FnMut(Place, &str) -> Result<Expansion, Error>,
    ) -> Result<Self, Error> {
        let mut word = |text: &String| expand(Place::Word, text).map(|expansion| expansion.text);
        Ok(match self {
            Self::Copy(copy) => Self::Copy(Copy {
                transfer: copy.transfer.expand_with(expand)?,
                ..copy.clone()
            }),
            Self::Add(add) => Self::Add(Add {
                transfer: add.transfer.expand_with(expand)?,
                checksum: match &add.checksum {
                    Some(checksum) => Some(expand(Place::Word, checksum)?.text),
                    None => None,
                },
                ..add.clone()
            }),
            Self::Env(pairs) => Self::Env(expand_pairs(pairs, &mut word)?),
            Self::Label(pairs) => Self::Label(expand_pairs(pairs, &mut word)?),
            Self::Expose(ports) => {
                let mut expanded = Vec::new();
                for port in ports {
                    expanded.extend(expand(Place::Word, port)?.words);
                }
                Self::Expose(expanded)
            }
            Self::Volume(paths) => {
                let paths = paths.iter().map(word).collect::<Result<Vec<_>, _>>()?;
                if paths.iter().any(String::is_empty) {
                    let message = "VOLUME specified can not be an empty string";
                    return Err(Error::new(ErrorKind::Arguments, message));
                }
                Self::Volume(paths)
            }
            Self::StopSignal(signal) => Self::StopSignal(word(signal)?),
            Self::User(user) => Self::User(word(user)?),
            Self::Workdir(path) => Self::Workdir(word(path)?),
            Self::Arg(_)
            | Self::Cmd(_)
            | Self::Entrypoint(_)
            | Self::Healthcheck(_)
            | Self::Maintainer(_)
            | Self::Onbuild(_)
            | Self::Run(_)
            | Self::Shell(_) => self.clone(),
        })
    }
}

/// What is given to be expanded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    /// A word with quotes.
    Word,
    /// The content of a document.
    Document,
}

fn expand_pairs(
    pairs: &[KeyValue],
    word: &mut dyn FnMut(&String) -> Result<String, Error>,
) -> Result<Vec<KeyValue>, Error> {
    let expand = |pair: &KeyValue| {
        Ok(KeyValue {
            key: word(&pair.key)?,
            value: word(&pair.value)?,
            legacy: pair.legacy,
        })
    };
    pairs.iter().map(expand).collect()
}

impl Transfer {
    fn expand_with(
        &self,
        expand: &mut dyn FnMut(Place, &str) -> Result<Expansion, Error>,
    ) -> Result<Self, Error> {
        let mut sources = Vec::new();
        for source in &self.sources {
            sources.push(match source {
                Source::Path(path) => Source::Path(expand(Place::Word, path)?.text),
                Source::Document(document) if document.expand => Source::Document(Heredoc {
                    content: expand(Place::Document, &document.text())?.text,
                    strip_tabs: false,
                    expand: false,
                    ..document.clone()
                }),
                Source::Document(document) => Source::Document(document.clone()),
            });
        }
        let mut word = |text: &String| expand(Place::Word, text).map(|expansion| expansion.text);
        Ok(Self {
            sources,
            destination: word(&self.destination)?,
            chown: self.chown.as_ref().map(&mut word).transpose()?,
            chmod: self.chmod.as_ref().map(&mut word).transpose()?,
            link: self.link,
            exclude: self.exclude.iter().map(word).collect::<Result<_, _>>()?,
        })
    }
}
