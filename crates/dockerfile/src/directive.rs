//! Parser directives: `# key=value` before anything else in the file.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::error::{Error, ErrorKind};

/// What the first lines of a Dockerfile say about reading it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Directives {
    /// The image of the frontend that is asked for, with its arguments, as written.
    pub syntax: Option<String>,
    /// What escapes a character and continues a line: `\` or a backtick.
    pub escape: char,
    /// How to lint, as written: `skip=A,B;error=true`.
    pub check: Option<String>,
}

impl Default for Directives {
    fn default() -> Self {
        Self {
            syntax: None,
            escape: '\\',
            check: None,
        }
    }
}

/// Follows the lines as long as they are directives.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) directives: Directives,
    seen: BTreeSet<&'static str>,
    done: bool,
}

impl Reader {
    /// Reads a line without its white space in front; whether it was a directive.
    pub(crate) fn line(&mut self, line: &str) -> Result<bool, Error> {
        if self.done {
            return Ok(false);
        }
        let Some((key, value)) = line.strip_prefix('#').and_then(parse) else {
            self.done = true;
            return Ok(false);
        };
        if !self.seen.insert(key) {
            return Err(Error::new(
                ErrorKind::Directive,
                format!("only one {key} parser directive can be used"),
            ));
        }
        match key {
            "syntax" => self.directives.syntax = Some(value.to_owned()),
            "check" => self.directives.check = Some(value.to_owned()),
            _ => {
                self.directives.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    _ => {
                        return Err(Error::new(
                            ErrorKind::Directive,
                            format!("invalid escape token '{value}' does not match ` or \\"),
                        ));
                    }
                };
            }
        }
        Ok(true)
    }
}

/// The key and the value of what follows the comment sign, if the key is a known one.
fn parse(text: &str) -> Option<(&'static str, &str)> {
    let (key, value) = text.trim_start().split_once('=')?;
    let key = match key.trim_end().to_ascii_lowercase().as_str() {
        "syntax" => "syntax",
        "escape" => "escape",
        "check" => "check",
        _ => return None,
    };
    let value = value.trim();
    (!value.is_empty()).then_some((key, value))
}

/// The frontend that a file asks for, whatever language it is in: `# syntax=`,
/// `// syntax=` or a JSON object with `syntax`; a `#!` line in front is skipped.
/// The image and its arguments, as written.
pub fn detect_syntax(source: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(source);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = match text.starts_with("#!") {
        true => text.split_once('\n').map_or("", |(_, rest)| rest),
        false => text,
    };
    ["#", "//"]
        .into_iter()
        .find_map(|comment| {
            text.lines()
                .map_while(|line| line.strip_prefix(comment).and_then(parse))
                .find(|(key, _)| *key == "syntax")
                .map(|(_, value)| value.to_owned())
        })
        .or_else(|| {
            let object: serde_json::Value = serde_json::from_str(text).ok()?;
            object.get("syntax")?.as_str().map(str::to_owned)
        })
}

/// What `# check=` or the build argument `BUILDKIT_DOCKERFILE_CHECK` says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Checks {
    pub(crate) skip: BTreeSet<String>,
    pub(crate) skip_all: bool,
    pub(crate) experimental: BTreeSet<String>,
    pub(crate) experimental_all: bool,
    pub(crate) error: bool,
}

impl Checks {
    /// Reads `skip=A,B;error=true;experimental=all`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |option: &str| {
            Error::new(
                ErrorKind::Directive,
                format!("invalid check option {option:?}"),
            )
        };
        let mut checks = Self::default();
        for part in text
            .split(';')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (key, value) = part.split_once('=').ok_or_else(|| wrong(part))?;
            let value = value.trim();
            match key.trim() {
                "skip" if value == "all" => checks.skip_all = true,
                "skip" => checks.skip.extend(names(value)),
                "experimental" if value == "all" => checks.experimental_all = true,
                "experimental" => checks.experimental.extend(names(value)),
                "error" => checks.error = boolean(value).ok_or_else(|| wrong(part))?,
                key => return Err(wrong(key)),
            }
        }
        Ok(checks)
    }

    /// Whether a build ends where a rule is broken.
    pub fn makes_errors(&self) -> bool {
        self.error
    }
}

fn names(list: &str) -> impl Iterator<Item = String> {
    list.split(',').map(|name| name.trim().to_owned())
}

/// The words that Go takes for truth values.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_frontend_is_found_in_any_form() {
        let cases: &[(&str, Option<&str>)] = &[
            (
                "# syntax=docker/dockerfile:1\nFROM x",
                Some("docker/dockerfile:1"),
            ),
            ("#SYNTAX = a b \n", Some("a b")),
            ("\u{feff}#syntax=a", Some("a")),
            ("#!/usr/bin/env x\n# syntax=a\n", Some("a")),
            ("# escape=`\r\n# syntax=a\r\n", Some("a")),
            ("// syntax=a\n", Some("a")),
            ("{\"syntax\": \"a\"}", Some("a")),
            ("# a comment\n# syntax=a\n", None),
            ("\n# syntax=a\n", None),
            ("FROM x\n# syntax=a\n", None),
            ("# syntax=\n", None),
        ];
        for (source, expected) in cases {
            assert_eq!(
                detect_syntax(source.as_bytes()).as_deref(),
                *expected,
                "{source:?}"
            );
        }
    }

    #[test]
    fn check_options_are_read_and_others_refused() {
        let checks = Checks::parse("skip=A, B;error=true;experimental=all").unwrap();
        assert!(checks.error && checks.experimental_all && !checks.skip_all);
        assert_eq!(checks.skip.iter().collect::<Vec<_>>(), ["A", "B"]);
        assert!(Checks::parse("skip=all").unwrap().skip_all);
        assert_eq!(Checks::parse("").unwrap(), Checks::default());
        for wrong in ["skip", "error=yes", "warn=A"] {
            assert_eq!(
                Checks::parse(wrong).unwrap_err().kind(),
                ErrorKind::Directive,
                "{wrong}"
            );
        }
    }
}
