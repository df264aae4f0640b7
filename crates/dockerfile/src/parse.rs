//! From lines to instructions.

use sampan_text::duration;

use crate::chmod::Chmod;
use crate::error::{Error, ErrorKind, Location, did_you_mean, quoted};
use crate::flags::{Flags, Kind};
use crate::heredoc::{self, Heredoc};
use crate::instruction::{
    Add, ArgDeclaration, Command, Copy, Healthcheck, Instruction, KeyValue, Network, Run, Security,
    Source, Step, Transfer, Trigger, with_documents,
};
use crate::lines::{Line, Lines};
use crate::mount::{Device, MountFlag};
use crate::shell::Shell;
use crate::variables::Variables;
use crate::words::{self, Json, Word};

const NAMES: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A `FROM` as written.
#[derive(Debug)]
pub(crate) struct From {
    pub(crate) base: String,
    pub(crate) platform: Option<String>,
    /// The name as written.
    pub(crate) name: Option<String>,
    /// The word between base and name as written.
    pub(crate) keyword: Option<String>,
    pub(crate) written: String,
    pub(crate) source: String,
    pub(crate) comments: Vec<String>,
    pub(crate) location: Location,
}

#[derive(Debug)]
pub(crate) enum Parsed {
    From(From),
    Step(Step),
}

/// A line that has been cut into name, flags and arguments.
struct Request<'a> {
    line: &'a Line,
    name: &'static str,
    flags: Vec<Word>,
    arguments: &'a str,
    /// Where the arguments begin in the line.
    at: usize,
    escape: char,
    documents: Vec<Heredoc>,
}

/// Reads the next instruction of a file and its documents; whether an empty line
/// stood among its lines is told too.
pub(crate) fn next(lines: &mut Lines<'_>) -> Result<Option<(Parsed, bool)>, Error> {
    let Some(mut line) = lines.instruction()? else {
        return Ok(None);
    };
    let documents = documents(lines, &mut line)?;
    let escape = lines.directives().escape;
    let parsed = parse(&line, 0, documents, escape).map_err(|error| error.at(line.location(0)))?;
    Ok(Some((parsed, line.empty_continuation)))
}

fn documents(lines: &mut Lines<'_>, line: &mut Line) -> Result<Vec<Heredoc>, Error> {
    if !line.text.contains("<<") || !may_have_documents(&line.text) {
        return Ok(Vec::new());
    }
    let mut documents =
        heredoc::announced(&line.text).map_err(|error| error.at(line.location(0)))?;
    for document in &mut documents {
        lines.document(document, line)?;
    }
    Ok(documents)
}

/// Only these in their shell form, also as triggers.
fn may_have_documents(text: &str) -> bool {
    let (name, flags, arguments) = cut(text);
    match text[name].to_ascii_uppercase().as_str() {
        "ONBUILD" if flags.is_empty() => {
            let trigger = &text[arguments..];
            let (name, _, arguments) = cut(trigger);
            let is_trigger = trigger[name].eq_ignore_ascii_case("ONBUILD");
            !is_trigger && may_have_documents_as(&trigger[cut(trigger).0], &trigger[arguments..])
        }
        name => may_have_documents_as(name, &text[arguments..]),
    }
}

fn may_have_documents_as(name: &str, arguments: &str) -> bool {
    matches!(name.to_ascii_uppercase().as_str(), "ADD" | "COPY" | "RUN")
        && words::json(arguments) == Json::Not
}

/// The ranges of a line's name and flags, and where its arguments begin.
fn cut(text: &str) -> (std::ops::Range<usize>, Vec<Word>, usize) {
    let (start, trimmed) = words::trim(text);
    let length = trimmed.find(words::is_blank).unwrap_or(trimmed.len());
    let name = start..start + length;
    let (flags, rest) = words::flags(&text[name.end..], name.end);
    let begin = name.end + rest;
    let begin = begin + words::trim(&text[begin..]).0;
    (name, flags, begin.min(text.len()))
}

/// Reads the instruction that begins at byte `from` of the line.
fn parse(line: &Line, from: usize, documents: Vec<Heredoc>, escape: char) -> Result<Parsed, Error> {
    let text = &line.text[from..];
    let (name, mut flags, at) = cut(text);
    for flag in &mut flags {
        flag.at += from;
    }
    let written = &text[name.clone()];
    let Some(known) = NAMES
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(written))
    else {
        let message = format!("unknown instruction: {written}");
        let message = did_you_mean(message, written, NAMES);
        return Err(
            Error::new(ErrorKind::UnknownInstruction, message).at(line.location(from + name.start))
        );
    };
    let request = Request {
        line,
        name: known,
        flags,
        arguments: text[at..].trim_end(),
        at: from + at,
        escape,
        documents,
    };
    if known == "FROM" {
        let written = written.to_owned();
        return request.from(written).map(Parsed::From);
    }
    Ok(Parsed::Step(Step {
        written: written.to_owned(),
        source: text.trim().to_owned(),
        comments: line.comments.clone(),
        location: line.location(from + name.start),
        instruction: request.instruction()?,
    }))
}

/// Reads an instruction that an image keeps for builds on it.
pub(crate) fn trigger(expression: &str) -> Result<Step, Error> {
    let mut lines = Lines::new(expression, Default::default());
    let single = || {
        Error::new(
            ErrorKind::Arguments,
            "onbuild trigger should be a single expression",
        )
    };
    let (first, _) = next(&mut lines)?.ok_or_else(single)?;
    let Parsed::Step(step) = first else {
        return Err(not_a_trigger("FROM"));
    };
    if matches!(
        step.instruction,
        Instruction::Maintainer(_) | Instruction::Onbuild(_)
    ) {
        return Err(not_a_trigger(step.instruction.name()));
    }
    match next(&mut lines)? {
        None => Ok(step),
        Some(_) => Err(single()),
    }
}

fn not_a_trigger(name: &str) -> Error {
    let message = match name {
        "ONBUILD" => "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned(),
        _ => format!("{name} isn't allowed as an ONBUILD trigger"),
    };
    Error::new(ErrorKind::Arguments, message)
}

impl Request<'_> {
    fn wrong(&self, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Arguments, message).at(self.line.location(self.at))
    }

    fn at_least_one(&self) -> Error {
        self.wrong(format!("{} requires at least one argument", self.name))
    }

    fn flags(&mut self, known: &[(&'static str, Kind)]) -> Result<Flags, Error> {
        Flags::read(std::mem::take(&mut self.flags), known, self.line)
    }

    fn instruction(mut self) -> Result<Instruction, Error> {
        match self.name {
            "ADD" => self.add(),
            "COPY" => self.copy(),
            "HEALTHCHECK" => self.healthcheck(),
            "RUN" => self.run(),
            _ => {
                self.flags(&[])?;
                self.without_flags()
            }
        }
    }

    fn without_flags(&self) -> Result<Instruction, Error> {
        Ok(match self.name {
            "ARG" => Instruction::Arg(self.arg()?),
            "CMD" => Instruction::Cmd(self.command(self.arguments)?),
            "ENTRYPOINT" => Instruction::Entrypoint(self.command(self.arguments)?),
            "ENV" => Instruction::Env(self.pairs()?),
            "EXPOSE" => {
                let mut ports: Vec<String> =
                    self.list()?.into_iter().map(|word| word.text).collect();
                if ports.is_empty() {
                    return Err(self.at_least_one());
                }
                ports.sort();
                Instruction::Expose(ports)
            }
            "LABEL" => Instruction::Label(self.pairs()?),
            "MAINTAINER" => Instruction::Maintainer(self.one()?),
            "ONBUILD" => Instruction::Onbuild(self.onbuild()?),
            "SHELL" => Instruction::Shell(self.shell()?),
            "STOPSIGNAL" => Instruction::StopSignal(self.one()?),
            "USER" => Instruction::User(self.one()?),
            "VOLUME" => Instruction::Volume(self.volume()?),
            _ => Instruction::Workdir(self.one()?),
        })
    }

    /// All arguments as one.
    fn one(&self) -> Result<String, Error> {
        if self.arguments.is_empty() {
            return Err(self.wrong(format!("{} requires exactly one argument", self.name)));
        }
        Ok(self.arguments.to_owned())
    }

    /// The JSON form or the words.
    fn list(&self) -> Result<Vec<Word>, Error> {
        let json = match self.name {
            "EXPOSE" | "FROM" => Json::Not,
            _ => words::json(self.arguments),
        };
        match json {
            Json::Not => Ok(words::plain(self.arguments, self.at)),
            Json::Strings(texts) => Ok(texts
                .into_iter()
                .map(|text| Word { text, at: self.at })
                .collect()),
            Json::Other => Err(self.not_strings()),
        }
    }

    fn not_strings(&self) -> Error {
        self.wrong("when using JSON array syntax, arrays must be comprised of strings only")
    }

    fn command(&self, text: &str) -> Result<Command, Error> {
        match words::json(text) {
            Json::Not => Ok(Command::Shell(text.to_owned())),
            Json::Strings(words) => Ok(Command::Exec(words)),
            Json::Other => Err(self.not_strings()),
        }
    }

    fn from(mut self, written: String) -> Result<From, Error> {
        let words = self.list()?;
        let flags = self.flags(&[("platform", Kind::Text)])?;
        let (base, keyword, name) = match words.as_slice() {
            [base] => (base, None, None),
            [base, keyword, name] if keyword.text.eq_ignore_ascii_case("as") => {
                (base, Some(keyword), Some(name))
            }
            _ => {
                return Err(self
                    .wrong("FROM requires either one or three arguments")
                    .with_hint("FROM image, or FROM image AS name"));
            }
        };
        if let Some(name) = name.filter(|name| !is_stage_name(&name.text)) {
            let message = format!(
                "invalid name for build stage: {}, name can't start with a number or contain symbols",
                quoted(&name.text)
            );
            return Err(Error::new(ErrorKind::Arguments, message).at(self.line.location(name.at)));
        }
        Ok(From {
            base: base.text.clone(),
            platform: flags.text("platform"),
            name: name.map(|word| word.text.clone()),
            keyword: keyword.map(|word| word.text.clone()),
            written,
            source: self.line.text.trim().to_owned(),
            comments: self.line.comments.clone(),
            location: self.line.location(0),
        })
    }

    fn arg(&self) -> Result<Vec<ArgDeclaration>, Error> {
        let words = words::quoted(self.arguments, self.at, self.escape);
        if words.is_empty() {
            return Err(self.at_least_one());
        }
        let declare = |word: Word| {
            let (name, default) = match word.text.split_once('=') {
                Some((name, default)) => (name, Some(default.to_owned())),
                None => (word.text.as_str(), None),
            };
            if name.is_empty() {
                let error = Error::new(ErrorKind::Arguments, "ARG names can not be blank");
                return Err(error.at(self.line.location(word.at)));
            }
            Ok(ArgDeclaration {
                name: name.to_owned(),
                default,
                comment: description(&self.line.comments, name),
            })
        };
        words.into_iter().map(declare).collect()
    }

    /// `name=value …`, or all of the rest is the value of the first word.
    fn pairs(&self) -> Result<Vec<KeyValue>, Error> {
        let words = words::quoted(self.arguments, self.at, self.escape);
        let Some(first) = words.first() else {
            return Err(self.at_least_one());
        };
        if !first.text.contains('=') {
            let Some((key, rest)) = self.arguments.split_once(words::is_blank) else {
                return Err(self.wrong(format!("{} must have two arguments", self.name)));
            };
            return Ok(vec![KeyValue {
                key: key.to_owned(),
                value: rest.trim_start_matches(words::is_blank).to_owned(),
                legacy: true,
            }]);
        }
        let pair = |word: &Word| {
            let wrong = |message: String| {
                Error::new(ErrorKind::Arguments, message).at(self.line.location(word.at))
            };
            let Some((key, value)) = word.text.split_once('=') else {
                return Err(wrong(format!(
                    "Syntax error - can't find = in {}. Must be of the form: name=value",
                    quoted(&word.text)
                )));
            };
            if key.is_empty() {
                return Err(wrong(format!("{} names can not be blank", self.name)));
            }
            Ok(KeyValue {
                key: key.to_owned(),
                value: value.to_owned(),
                legacy: false,
            })
        };
        words.iter().map(pair).collect()
    }

    fn volume(&self) -> Result<Vec<String>, Error> {
        let paths = self.list()?;
        if paths.is_empty() {
            return Err(self.at_least_one());
        }
        let path = |word: Word| match word.text.trim() {
            "" => Err(self.wrong("VOLUME specified can not be an empty string")),
            path => Ok(path.to_owned()),
        };
        paths.into_iter().map(path).collect()
    }

    fn shell(&self) -> Result<Vec<String>, Error> {
        match self.command(self.arguments)? {
            Command::Exec(words) if !words.is_empty() => Ok(words),
            Command::Shell(line) if !line.is_empty() => Err(self
                .wrong("SHELL requires the arguments to be in JSON form")
                .with_hint("SHELL [\"/bin/bash\", \"-c\"]")),
            _ => Err(self.at_least_one()),
        }
    }

    fn onbuild(&self) -> Result<Trigger, Error> {
        if self.arguments.is_empty() {
            return Err(self.at_least_one());
        }
        let (name, ..) = cut(self.arguments);
        let name = self.arguments[name].to_ascii_uppercase();
        if matches!(name.as_str(), "ONBUILD" | "FROM" | "MAINTAINER") {
            return Err(not_a_trigger(&name).at(self.line.location(self.at)));
        }
        let Parsed::Step(step) = parse(self.line, self.at, self.documents.clone(), self.escape)?
        else {
            return Err(not_a_trigger("FROM"));
        };
        Ok(Trigger {
            expression: with_documents(self.arguments, &self.documents),
            instruction: Box::new(step.instruction),
        })
    }

    fn healthcheck(mut self) -> Result<Instruction, Error> {
        if self.arguments.is_empty() {
            return Err(self.at_least_one());
        }
        let flags = self.flags(&[
            ("interval", Kind::Text),
            ("timeout", Kind::Text),
            ("start-period", Kind::Text),
            ("start-interval", Kind::Text),
            ("retries", Kind::Text),
        ])?;
        let length = self
            .arguments
            .find(char::is_whitespace)
            .unwrap_or(self.arguments.len());
        let (kind, rest) = self.arguments.split_at(length);
        let rest = rest.trim_start();
        let kind = kind.to_ascii_uppercase();
        let command = match kind.as_str() {
            "NONE" if rest.is_empty() => return Ok(Instruction::Healthcheck(Healthcheck::None)),
            "NONE" => return Err(self.wrong("HEALTHCHECK NONE takes no arguments")),
            "CMD" => self.command(rest)?,
            _ => {
                let message = format!("Unknown type {} in HEALTHCHECK (try CMD)", quoted(&kind));
                return Err(self.wrong(message));
            }
        };
        if matches!(&command, Command::Shell(line) if line.is_empty())
            || matches!(&command, Command::Exec(words) if words.is_empty())
        {
            return Err(self.wrong("Missing command after HEALTHCHECK CMD"));
        }
        let interval = |name: &'static str| self.interval(&flags, name);
        Ok(Instruction::Healthcheck(Healthcheck::Test {
            command,
            interval: interval("interval")?,
            timeout: interval("timeout")?,
            start_period: interval("start-period")?,
            start_interval: interval("start-interval")?,
            retries: self.retries(&flags)?,
        }))
    }

    fn interval(&self, flags: &Flags, name: &'static str) -> Result<i64, Error> {
        const LEAST: i64 = 1_000_000;
        let Some(flag) = flags.get(name).filter(|flag| !flag.value.is_empty()) else {
            return Ok(0);
        };
        let wrong =
            |message: String| Error::new(ErrorKind::Flag, message).at(self.line.location(flag.at));
        match duration::parse(&flag.value) {
            Some(duration) if duration == 0 || duration >= LEAST => Ok(duration),
            Some(_) => Err(wrong(format!(
                "Interval \"{name}\" cannot be less than 1ms"
            ))),
            None => Err(wrong(format!(
                "invalid duration {} for --{name}",
                quoted(&flag.value)
            ))
            .with_hint("durations have units, as in 30s or 1m30s")),
        }
    }

    fn retries(&self, flags: &Flags) -> Result<u32, Error> {
        let Some(flag) = flags.get("retries").filter(|flag| !flag.value.is_empty()) else {
            return Ok(0);
        };
        let wrong =
            |message: String| Error::new(ErrorKind::Flag, message).at(self.line.location(flag.at));
        let number: i32 = flag.value.parse().map_err(|_| {
            wrong(format!(
                "invalid number {} for --retries",
                quoted(&flag.value)
            ))
        })?;
        u32::try_from(number).map_err(|_| wrong(format!("--retries cannot be negative ({number})")))
    }

    fn copy(mut self) -> Result<Instruction, Error> {
        let sources = self.two_or_more()?;
        let flags = self.flags(&[
            ("chown", Kind::Text),
            ("from", Kind::Text),
            ("chmod", Kind::Text),
            ("link", Kind::Truth),
            ("parents", Kind::Truth),
            ("exclude", Kind::Texts),
        ])?;
        let from = flags.text("from");
        if let Some(flag) = flags.get("from") {
            self.check_from(&flag.value)
                .map_err(|error| error.at(self.line.location(flag.at)))?;
        }
        Ok(Instruction::Copy(Copy {
            transfer: self.transfer(sources, &flags)?,
            from,
            parents: flags.truth("parents").unwrap_or(false),
        }))
    }

    /// Which stage is needed must be known before any variable of a stage is.
    fn check_from(&self, from: &str) -> Result<(), Error> {
        let expanded = Shell::new(self.escape).expand(from, &Variables::default())?;
        if expanded.text == from {
            return Ok(());
        }
        let message = "variable expansion is not supported for --from, define a new stage with \
                       FROM using ARG from global scope as a workaround";
        Err(Error::new(ErrorKind::Flag, message)
            .with_hint("FROM $NAME AS alias, then --from=alias"))
    }

    fn add(mut self) -> Result<Instruction, Error> {
        let sources = self.two_or_more()?;
        let flags = self.flags(&[
            ("chown", Kind::Text),
            ("chmod", Kind::Text),
            ("link", Kind::Truth),
            ("keep-git-dir", Kind::Truth),
            ("checksum", Kind::Text),
            ("unpack", Kind::Truth),
            ("exclude", Kind::Texts),
        ])?;
        let add = Add {
            transfer: self.transfer(sources, &flags)?,
            checksum: flags.text("checksum"),
            keep_git_dir: flags.truth("keep-git-dir").unwrap_or(false),
            unpack: flags.truth("unpack"),
        };
        if let Some(flag) = flags
            .get("checksum")
            .filter(|_| add.transfer.sources.len() > 1)
        {
            let message = "checksum can't be specified for multiple sources";
            return Err(Error::new(ErrorKind::Flag, message).at(self.line.location(flag.at)));
        }
        Ok(Instruction::Add(add))
    }

    fn two_or_more(&self) -> Result<Vec<Word>, Error> {
        let words = self.list()?;
        if words.len() >= 2 {
            return Ok(words);
        }
        Err(self.wrong(format!(
            "{} requires at least two arguments, but only one was provided. \
             Destination could not be determined",
            self.name
        )))
    }

    fn transfer(&self, mut words: Vec<Word>, flags: &Flags) -> Result<Transfer, Error> {
        let destination = words.pop().ok_or_else(|| self.at_least_one())?;
        if matches!(heredoc::parse(&destination.text), Ok(Some(_))) {
            let message = format!("{} cannot accept a heredoc as a destination", self.name);
            return Err(
                Error::new(ErrorKind::Arguments, message).at(self.line.location(destination.at))
            );
        }
        if let Some(flag) = flags.get("chmod").filter(|flag| !flag.value.is_empty()) {
            let is_constant = !flag.value.contains(['$', '\'', '"', self.escape]);
            let place = |error: Error| error.at(self.line.location(flag.at));
            if is_constant {
                Chmod::parse(&flag.value).map_err(place)?;
            }
        }
        let mut read = self.documents.iter();
        let source = |word: Word| {
            let announced = match heredoc::parse(&word.text) {
                Ok(Some(announced)) if read.len() > 0 => announced,
                _ => return Source::Path(word.text),
            };
            match read.find(|document| document.name == announced.name) {
                Some(document) => Source::Document(document.clone()),
                None => Source::Document(announced),
            }
        };
        Ok(Transfer {
            sources: words.into_iter().map(source).collect(),
            destination: destination.text,
            chown: flags.text("chown"),
            chmod: flags.text("chmod"),
            link: flags.truth("link").unwrap_or(false),
            exclude: flags
                .all("exclude")
                .map(|flag| flag.value.clone())
                .collect(),
        })
    }

    fn run(mut self) -> Result<Instruction, Error> {
        let flags = self.flags(&[
            ("mount", Kind::Texts),
            ("network", Kind::Text),
            ("security", Kind::Text),
            ("device", Kind::Texts),
        ])?;
        let place = |at: usize| move |error: Error| error.at(self.line.location(at));
        let mut mounts = Vec::new();
        for flag in flags.all("mount") {
            mounts.push(MountFlag::parse(&flag.value).map_err(place(flag.at))?);
        }
        let mut devices = Vec::new();
        for flag in flags.all("device") {
            devices.push(Device::parse(&flag.value).map_err(place(flag.at))?);
        }
        let network = flags.get("network").map(|flag| match flag.value.as_str() {
            "default" => Ok(Network::Default),
            "none" => Ok(Network::None),
            "host" => Ok(Network::Host),
            other => {
                let message = format!("invalid network mode {}", quoted(other));
                let message = did_you_mean(message, other, ["default", "none", "host"]);
                Err(place(flag.at)(Error::new(ErrorKind::Flag, message)))
            }
        });
        let security = flags.get("security").map(|flag| match flag.value.as_str() {
            "sandbox" => Ok(Security::Sandbox),
            "insecure" => Ok(Security::Insecure),
            other => {
                let message = format!("security {} is not valid", quoted(other));
                let message = did_you_mean(message, other, ["sandbox", "insecure"]);
                Err(place(flag.at)(Error::new(ErrorKind::Flag, message)))
            }
        });
        Ok(Instruction::Run(Box::new(Run {
            command: self.command(self.arguments)?,
            mounts,
            network: network.transpose()?,
            security: security.transpose()?.unwrap_or_default(),
            devices,
            documents: self.documents,
        })))
    }
}

/// Names begin with a letter and go on with letters, digits, `-`, `_` and `.`.
fn is_stage_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// What a comment says of a name: the rest of the first one that begins with it.
pub(crate) fn description(comments: &[String], name: &str) -> Option<String> {
    let text = |comment: &String| {
        let rest = comment.strip_prefix(name)?;
        rest.strip_prefix(' ').map(|rest| rest.trim().to_owned())
    };
    comments.iter().find_map(text)
}
