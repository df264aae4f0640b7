//! A whole Dockerfile: what stands before the first `FROM`, and the stages.

use serde::Serialize;

use crate::directive::Directives;
use crate::error::{Error, ErrorKind, Location};
use crate::instruction::{Instruction, Step};
use crate::lines::{Lines, damaged_lines};
use crate::parse::{self, Parsed};

/// Larger files are refused.
pub const MAX_SIZE: usize = 16 << 20;

/// A Dockerfile that has been read; no variable has a value yet.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Dockerfile {
    /// How it wants to be read.
    pub directives: Directives,
    /// Each `ARG` before the first stage.
    pub globals: Vec<Step>,
    /// The stages in order.
    pub stages: Vec<Stage>,
    /// Instructions with an empty line among their own.
    #[serde(skip)]
    pub(crate) empty_continuations: Vec<Location>,
}

/// From one `FROM` to the next.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Stage {
    /// The name in small letters.
    pub name: Option<String>,
    /// What it begins with, as written.
    pub base: String,
    /// `--platform` as written.
    pub platform: Option<String>,
    /// The instructions in order.
    pub steps: Vec<Step>,
    /// The comment in front, if it begins with the name.
    pub comment: Option<String>,
    /// The `FROM` as written.
    pub source: String,
    /// Where the `FROM` stands.
    pub location: Location,
    /// The comments directly in front.
    #[serde(skip)]
    pub(crate) comments: Vec<String>,
    /// `FROM`, `AS` and the name in their own letters.
    #[serde(skip)]
    pub(crate) written: Written,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Written {
    pub(crate) from: String,
    pub(crate) keyword: Option<String>,
    pub(crate) name: Option<String>,
}

impl Dockerfile {
    /// Reads a Dockerfile. The first mistake ends it.
    pub fn parse(source: &[u8]) -> Result<Self, Error> {
        if source.len() > MAX_SIZE {
            return Err(Error::new(
                ErrorKind::Limit,
                "Dockerfile exceeds maximum allowed size",
            ));
        }
        if source.is_empty() {
            return Err(Error::new(
                ErrorKind::Syntax,
                "the Dockerfile cannot be empty",
            ));
        }
        match std::str::from_utf8(source) {
            Ok(text) => Self::read(Lines::new(text, Default::default())),
            Err(_) => {
                let text = String::from_utf8_lossy(source);
                Self::read(Lines::new(&text, damaged_lines(source)))
            }
        }
    }

    fn read(mut lines: Lines<'_>) -> Result<Self, Error> {
        let mut globals = Vec::new();
        let mut stages: Vec<Stage> = Vec::new();
        let mut empty_continuations = Vec::new();
        while let Some((parsed, empty)) = parse::next(&mut lines)? {
            let location = match parsed {
                Parsed::From(from) => {
                    let location = from.location;
                    stages.push(from.into());
                    location
                }
                Parsed::Step(step) => {
                    let location = step.location;
                    match stages.last_mut() {
                        Some(stage) => stage.steps.push(step),
                        None if matches!(step.instruction, Instruction::Arg(_)) => {
                            globals.push(step);
                        }
                        None => {
                            let message = "no build stage in current context";
                            return Err(Error::new(ErrorKind::Syntax, message)
                                .with_hint("only ARG can stand before the first FROM")
                                .at(location));
                        }
                    }
                    location
                }
            };
            if empty {
                empty_continuations.push(location);
            }
        }
        if stages.is_empty() {
            let message = match globals.is_empty() {
                true => "file with no instructions",
                false => "dockerfile contains no stages to build",
            };
            return Err(Error::new(ErrorKind::Syntax, message).at(Location {
                line: lines.number().max(1),
                column: 1,
                end_line: lines.number().max(1),
            }));
        }
        Ok(Self {
            directives: lines.directives().clone(),
            globals,
            stages,
            empty_continuations,
        })
    }

    /// What `docker build --call=targets` lists: name, base and comment of each stage.
    pub fn targets(&self) -> impl Iterator<Item = (Option<&str>, &str, Option<&str>)> {
        self.stages.iter().map(|stage| {
            (
                stage.name.as_deref(),
                stage.base.as_str(),
                stage.comment.as_deref(),
            )
        })
    }
}

impl From<parse::From> for Stage {
    fn from(from: parse::From) -> Self {
        let name = from.name.as_deref().map(str::to_ascii_lowercase);
        let comment = name
            .as_deref()
            .and_then(|name| parse::description(&from.comments, name));
        Self {
            name,
            base: from.base,
            platform: from.platform,
            steps: Vec::new(),
            comment,
            source: from.source,
            location: from.location,
            comments: from.comments,
            written: Written {
                from: from.written,
                keyword: from.keyword,
                name: from.name,
            },
        }
    }
}
