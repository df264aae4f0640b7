//! Logical lines: continuations joined, comments taken out, every byte still
//! traceable to its place in the file.

use std::collections::BTreeSet;

use crate::directive::{Directives, Reader};
use crate::error::{Error, ErrorKind, Location};
use crate::heredoc::Heredoc;

/// A part of a logical line that stands on one line of the file.
#[derive(Clone, Copy, Debug)]
struct Segment {
    offset: usize,
    line: u32,
    column: u32,
}

/// One instruction's text.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) text: String,
    segments: Vec<Segment>,
    /// The comments directly in front.
    pub(crate) comments: Vec<String>,
    /// Whether an empty line stands among the continued ones.
    pub(crate) empty_continuation: bool,
    pub(crate) end: u32,
}

impl Line {
    /// Where a byte of the text stands in the file.
    pub(crate) fn location(&self, at: usize) -> Location {
        let index = self
            .segments
            .partition_point(|segment| segment.offset <= at);
        let segment = self.segments[index.saturating_sub(1)];
        let from = segment.offset.min(self.text.len());
        let before = self.text.get(from..at.min(self.text.len())).unwrap_or("");
        Location {
            line: segment.line,
            column: segment.column + before.chars().count() as u32,
            end_line: self.end.max(segment.line),
        }
    }
}

/// So many comments in front of an instruction are kept.
const MAX_COMMENTS: usize = 64;

/// Reads a file line by line.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    rest: &'a str,
    /// The number of the line that was read last.
    number: u32,
    /// Lines that are no UTF-8.
    damaged: BTreeSet<u32>,
    reader: Reader,
}

/// The numbers of the lines with bytes that are no text.
pub(crate) fn damaged_lines(source: &[u8]) -> BTreeSet<u32> {
    source
        .split(|byte| *byte == b'\n')
        .zip(1..)
        .filter(|(line, _)| std::str::from_utf8(line).is_err())
        .map(|(_, number)| number)
        .collect()
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str, damaged: BTreeSet<u32>) -> Self {
        Self {
            rest: text.strip_prefix('\u{feff}').unwrap_or(text),
            number: 0,
            damaged,
            reader: Reader::default(),
        }
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn directives(&self) -> &Directives {
        &self.reader.directives
    }

    /// The next line of the file with its end.
    fn physical(&mut self) -> Option<&'a str> {
        if self.rest.is_empty() {
            return None;
        }
        let length = self.rest.find('\n').map_or(self.rest.len(), |end| end + 1);
        let (line, rest) = self.rest.split_at(length);
        self.rest = rest;
        self.number += 1;
        Some(line)
    }

    /// The next instruction.
    pub(crate) fn instruction(&mut self) -> Result<Option<Line>, Error> {
        let mut comments = Vec::new();
        while let Some(raw) = self.physical() {
            let stripped = without_end(raw).trim_start();
            let here = self.here(stripped, raw);
            if self.reader.line(stripped).map_err(|error| error.at(here))? {
                comments.clear();
                continue;
            }
            if let Some(comment) = stripped.strip_prefix('#') {
                let comment = comment.trim();
                if comment.is_empty() {
                    comments.clear();
                } else if comments.len() < MAX_COMMENTS {
                    comments.push(comment.to_owned());
                }
                continue;
            }
            if stripped.is_empty() {
                comments.clear();
                continue;
            }
            return self.joined(stripped, here, comments).map(Some);
        }
        Ok(None)
    }

    fn here(&self, stripped: &str, raw: &str) -> Location {
        let indent = without_end(raw).chars().count() - stripped.chars().count();
        Location {
            line: self.number,
            column: indent as u32 + 1,
            end_line: self.number,
        }
    }

    fn joined(
        &mut self,
        first: &str,
        here: Location,
        comments: Vec<String>,
    ) -> Result<Line, Error> {
        let escape = self.directives().escape;
        self.check_encoding(here)?;
        let (part, mut continued) = continuation(first, escape);
        let mut line = Line {
            text: part.to_owned(),
            segments: vec![Segment {
                offset: 0,
                line: here.line,
                column: here.column,
            }],
            comments,
            empty_continuation: false,
            end: here.line,
        };
        while continued && let Some(raw) = self.physical() {
            line.end = self.number;
            let raw = without_end(raw);
            let stripped = raw.trim_start();
            if stripped.starts_with('#') {
                continue;
            }
            if stripped.is_empty() {
                line.empty_continuation = true;
                continue;
            }
            self.check_encoding(self.here(stripped, raw))?;
            let part;
            (part, continued) = continuation(raw, escape);
            line.segments.push(Segment {
                offset: line.text.len(),
                line: self.number,
                column: 1,
            });
            line.text.push_str(part);
        }
        Ok(line)
    }

    /// Reads the content of a document that `line` announced.
    pub(crate) fn document(
        &mut self,
        document: &mut Heredoc,
        line: &mut Line,
    ) -> Result<(), Error> {
        let start = line.location(0);
        while let Some(raw) = self.physical() {
            line.end = self.number;
            let text = raw.trim_end_matches(['\r', '\n']);
            let text = match document.strip_tabs {
                true => text.trim_start_matches('\t'),
                false => text,
            };
            if text == document.name {
                return Ok(());
            }
            self.check_encoding(Location {
                line: self.number,
                column: 1,
                end_line: self.number,
            })?;
            document.content.push_str(raw);
        }
        Err(Error::new(ErrorKind::Syntax, "unterminated heredoc")
            .with_hint("the document ends at a line with nothing but its word")
            .at(start))
    }

    fn check_encoding(&self, here: Location) -> Result<(), Error> {
        if self.damaged.contains(&here.line) {
            let message = "an instruction has bytes that are no UTF-8 text";
            return Err(Error::new(ErrorKind::Encoding, message).at(here));
        }
        Ok(())
    }
}

fn without_end(raw: &str) -> &str {
    raw.trim_end_matches(['\r', '\n'])
}

/// The line without the escape character that continues it, and whether it has one.
/// The escape must be the last but for blanks, and not itself be escaped.
fn continuation(line: &str, escape: char) -> (&str, bool) {
    let Some(before) = line.trim_end_matches([' ', '\t']).strip_suffix(escape) else {
        return (line, false);
    };
    if before.ends_with(escape) {
        return (line, false);
    }
    (before, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        let mut lines = Lines::new(source, BTreeSet::new());
        std::iter::from_fn(|| lines.instruction().unwrap())
            .map(|line| line.text)
            .collect()
    }

    #[test]
    fn lines_are_joined_as_buildkit_joins_them() {
        let cases: &[(&str, &[&str])] = &[
            ("A\nB", &["A", "B"]),
            ("A\r\nB\r\n", &["A", "B"]),
            ("\u{feff}A\n", &["A"]),
            ("  A\n\n\t B", &["A", "B"]),
            ("# c\nA\n  # c\nB", &["A", "B"]),
            ("A \\\nB", &["A B"]),
            ("A \\  \t\nB", &["A B"]),
            ("A \\\r\n  B\r\n", &["A   B"]),
            ("A \\\n# c\n   # d\nB", &["A B"]),
            ("A \\\n\n  \nB", &["A B"]),
            ("A \\\\\nB", &["A \\\\", "B"]),
            ("A \\\\\\\nB", &["A \\\\\\", "B"]),
            ("\\\nA", &["A"]),
            ("A \\", &["A "]),
            ("A \\\n# only a comment", &["A "]),
            ("A # no comment", &["A # no comment"]),
            ("# escape=`\nA `\nB \\\nC", &["A B \\", "C"]),
            ("# not a directive\n# escape=`\nA `\nB", &["A `", "B"]),
        ];
        for (source, expected) in cases {
            assert_eq!(texts(source), *expected, "{source:?}");
        }
    }

    #[test]
    fn every_byte_knows_its_place() {
        let mut lines = Lines::new("\n  RUN a \\\n# c\n   bö c\n", BTreeSet::new());
        let line = lines.instruction().unwrap().unwrap();
        assert_eq!(line.text, "RUN a    bö c");
        let place = |at: usize| (line.location(at).line, line.location(at).column);
        assert_eq!(place(0), (2, 3));
        assert_eq!(place(4), (2, 7));
        assert_eq!(place(9), (4, 4));
        assert_eq!(place(13), (4, 7));
        assert_eq!(line.location(0).end_line, 4);
    }

    #[test]
    fn comments_in_front_belong_to_the_instruction() {
        let mut lines = Lines::new(
            "# check=skip=all\n# a\n# b\nA\n# c\n\nB\n# d\n#\n# e\nC",
            BTreeSet::new(),
        );
        let mut comments = || lines.instruction().unwrap().unwrap().comments;
        assert_eq!(comments(), ["a", "b"]);
        assert_eq!(comments(), [""; 0]);
        assert_eq!(comments(), ["e"]);
    }

    #[test]
    fn text_that_is_none_is_allowed_in_comments_only() {
        let source = b"# \xff\nRUN a\nRUN \xff\n";
        let text = String::from_utf8_lossy(source);
        let mut lines = Lines::new(&text, damaged_lines(source));
        assert!(lines.instruction().is_ok());
        let error = lines.instruction().unwrap_err();
        assert_eq!(
            (error.kind(), error.location().unwrap().line),
            (ErrorKind::Encoding, 3)
        );
    }
}
