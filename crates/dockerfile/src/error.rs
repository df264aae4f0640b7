//! What is wrong with a Dockerfile, and where.

use std::fmt;

use serde::Serialize;

/// A place in a Dockerfile; lines and columns count from 1, columns in characters.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize)]
pub struct Location {
    /// The line on which the thing meant begins.
    pub line: u32,
    /// Where on that line.
    pub column: u32,
    /// The last line of the instruction.
    pub end_line: u32,
}

/// The kinds of mistakes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// `# escape=`, `# syntax=`, `# check=`.
    Directive,
    /// Bytes that are no text.
    Encoding,
    /// The form of a line.
    Syntax,
    /// A word that is no instruction.
    UnknownInstruction,
    /// A flag of an instruction, or its value.
    Flag,
    /// The arguments of an instruction.
    Arguments,
    /// A variable's substitution.
    Variable,
    /// A stage's name, base, order, or a target that is not there.
    Stage,
    /// A platform that cannot be read.
    Platform,
    /// A pattern of `.dockerignore` or `--exclude`.
    Pattern,
    /// More than the parser is willing to work on.
    Limit,
}

impl ErrorKind {
    /// Whether the mistake shows when the file is read, before any value is known.
    fn is_of_reading(self) -> bool {
        matches!(
            self,
            Self::Encoding | Self::Syntax | Self::UnknownInstruction | Self::Flag | Self::Arguments
        )
    }
}

/// A mistake in a Dockerfile or in what was asked of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<&'static str>,
    location: Option<Location>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            location: None,
        }
    }

    pub(crate) fn with_hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// Places the error, unless a more exact place is known already.
    pub(crate) fn at(mut self, location: Location) -> Self {
        self.location.get_or_insert(location);
        self
    }

    /// What kind of mistake it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The mistake alone, in Docker's words where people search for them.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<&str> {
        self.hint
    }

    /// Where it is, if it is at one place.
    pub fn location(&self) -> Option<Location> {
        self.location
    }

    /// The error as a person wants to see it: file, line, column, the lines
    /// around, the message and the hint. `source` is the text that was parsed.
    pub fn render(&self, file: &str, source: &str) -> String {
        let mut out = String::new();
        if let Some(location) = self.location {
            excerpt(&mut out, file, source, location);
        }
        out.push_str(&self.to_string());
        out.push('\n');
        if let Some(hint) = self.hint {
            out.push_str(&format!("hint: {hint}\n"));
        }
        out
    }
}

const RULE: &str = "--------------------\n";

/// At most so many lines of a long instruction are shown.
const SHOWN_LINES: u32 = 8;

/// At most so many characters of a line are shown.
const SHOWN_COLUMNS: usize = 200;

pub(crate) fn excerpt(out: &mut String, file: &str, source: &str, location: Location) {
    out.push_str(&format!(
        "{file}:{}:{}\n{RULE}",
        location.line, location.column
    ));
    let first = location.line.saturating_sub(1).max(1);
    let last_marked = location.end_line.min(location.line + SHOWN_LINES - 1);
    let lines = source.lines().enumerate().skip(first as usize - 1);
    for (index, text) in lines.take_while(|(index, _)| *index as u32 <= last_marked) {
        let number = index as u32 + 1;
        let marked = (location.line..=last_marked).contains(&number);
        let mark = if marked { ">>> " } else { "    " };
        let shown: String = text.chars().take(SHOWN_COLUMNS).collect();
        let line = format!("{number:4} | {mark}{shown}");
        out.push_str(line.trim_end());
        out.push('\n');
        if number == location.line && (location.column as usize) <= SHOWN_COLUMNS {
            let indent: String = text
                .chars()
                .take(location.column as usize - 1)
                .map(|character| if character == '\t' { '\t' } else { ' ' })
                .collect();
            out.push_str(&format!("     |     {indent}^\n"));
        }
    }
    out.push_str(RULE);
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.location {
            Some(location) if self.kind.is_of_reading() => write!(
                f,
                "dockerfile parse error on line {}: {}",
                location.line, self.message
            ),
            _ => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Error {}

/// Adds ` (did you mean X?)` if one of the known words is close to what was written.
pub(crate) fn did_you_mean<'a>(
    message: String,
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> String {
    match closest(written, known) {
        Some(word) => format!("{message} (did you mean {word}?)"),
        None => message,
    }
}

/// A word is compared with so many others at most.
const MAX_KNOWN: usize = 500;

/// The known word that is at most two edits away from the written one.
pub(crate) fn closest<'a>(
    written: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let written: Vec<char> = written.to_lowercase().chars().take(256).collect();
    let mut best = None;
    // Nothing is left of a word if all of it is edited.
    let mut least = written.len().min(3);
    for word in known.into_iter().take(MAX_KNOWN) {
        let candidate: Vec<char> = word.to_lowercase().chars().take(256).collect();
        if written == candidate || written.len().abs_diff(candidate.len()) >= least {
            continue;
        }
        let distance = edits(&written, &candidate);
        if distance < least {
            least = distance;
            best = Some(word);
        }
    }
    best
}

/// Edits are one character more, less or other, or two that changed places.
fn edits(left: &[char], right: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=right.len()).collect();
    for i in 1..=left.len() {
        let mut row = vec![i];
        for j in 1..=right.len() {
            let substituted = last[j - 1] + usize::from(left[i - 1] != right[j - 1]);
            let mut least = substituted.min(last[j] + 1).min(row[j - 1] + 1);
            let swapped =
                i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1];
            if swapped {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[right.len()]
}

/// A string as Go's `%q` shows it, near enough for messages and history.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if (control as u32) < 0x20 || control as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", control as u32));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_what_is_close() {
        assert_eq!(closest("RNU", ["ENV", "RUN", "COPY"]), Some("RUN"));
        assert_eq!(closest("entrypiont", ["ENTRYPOINT"]), Some("ENTRYPOINT"));
        assert_eq!(closest("BANANA", ["RUN", "COPY"]), None);
    }

    #[test]
    fn shows_file_line_column_and_the_text_around() {
        let error =
            Error::new(ErrorKind::UnknownInstruction, "unknown instruction: RNU").at(Location {
                line: 2,
                column: 3,
                end_line: 3,
            });
        assert_eq!(
            error.render("Dockerfile", "FROM scratch\n  RNU a \\\n b\nUSER x\n"),
            "Dockerfile:2:3\n--------------------\n   1 |     FROM scratch\n   2 | >>>   RNU a \\\n     |       ^\n   \
             3 | >>>  b\n   4 |     USER x\n--------------------\n\
             dockerfile parse error on line 2: unknown instruction: RNU\n"
        );
    }
}
