//! Flags of instructions: `--name=value`, `--name` for truth values.

use crate::error::{Error, ErrorKind, did_you_mean};
use crate::lines::Line;
use crate::words::Word;

/// What a flag's value is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Text,
    /// May be given several times.
    Texts,
    Truth,
}

/// An instruction's flags as given, checked against those it knows.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    given: Vec<Given>,
}

#[derive(Debug)]
pub(crate) struct Given {
    name: &'static str,
    pub(crate) value: String,
    pub(crate) at: usize,
}

impl Flags {
    pub(crate) fn read(
        words: Vec<Word>,
        known: &[(&'static str, Kind)],
        line: &Line,
    ) -> Result<Self, Error> {
        let mut given: Vec<Given> = Vec::new();
        for word in words {
            let wrong =
                |message: String| Error::new(ErrorKind::Flag, message).at(line.location(word.at));
            let body = word.text.strip_prefix("--").unwrap_or(&word.text);
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (body, None),
            };
            let Some((name, kind)) = known.iter().find(|(known, _)| *known == name) else {
                let message = format!("unknown flag: --{name}");
                let names = known.iter().map(|(known, _)| *known);
                return Err(wrong(did_you_mean(message, name, names)));
            };
            if *kind != Kind::Texts && given.iter().any(|flag| flag.name == *name) {
                return Err(wrong(format!("duplicate flag specified: --{name}")));
            }
            let value = match (kind, value) {
                (Kind::Truth, None) => "true".to_owned(),
                (Kind::Truth, Some(value)) => match value.to_ascii_lowercase().as_str() {
                    "" => return Err(wrong(format!("missing a value on flag: --{name}"))),
                    lower @ ("true" | "false") => lower.to_owned(),
                    _ => {
                        return Err(wrong(format!(
                            "expecting boolean value for flag --{name}, not: {value}"
                        )));
                    }
                },
                (_, Some(value)) => value.to_owned(),
                (_, None) => return Err(wrong(format!("missing a value on flag: --{name}"))),
            };
            given.push(Given {
                name,
                value,
                at: word.at,
            });
        }
        Ok(Self { given })
    }

    pub(crate) fn all(&self, name: &'static str) -> impl Iterator<Item = &Given> {
        self.given.iter().filter(move |flag| flag.name == name)
    }

    pub(crate) fn get(&self, name: &'static str) -> Option<&Given> {
        self.all(name).next()
    }

    /// A text; an empty one is as good as none.
    pub(crate) fn text(&self, name: &'static str) -> Option<String> {
        self.get(name)
            .map(|flag| flag.value.clone())
            .filter(|value| !value.is_empty())
    }

    pub(crate) fn truth(&self, name: &'static str) -> Option<bool> {
        self.get(name).map(|flag| flag.value == "true")
    }
}
