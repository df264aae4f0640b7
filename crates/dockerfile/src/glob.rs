//! Patterns of paths.

use crate::error::{Error, ErrorKind};

/// A pattern of a path below some root: `*`, `?`, `[a-z]`, `[^a]`, `\x`, and for
/// deep ones `**`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern {
    text: String,
    parts: Vec<Part>,
    /// `**` and then nothing but plain characters matches any path with this end.
    suffix: Option<String>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Exactly(char),
    /// Any character but a slash.
    One,
    /// Any number of them.
    Any,
    /// Any number of directories with their slashes, also none.
    Directories,
    /// Whatever follows.
    Rest,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Pattern {
    /// Reads a pattern of `.dockerignore`, `--exclude` or `COPY --parents`, where
    /// `**` is any number of directories.
    pub fn deep(text: &str) -> Result<Self, Error> {
        let mut pattern = Self::read(text, true)?;
        let plain = |part: &Part| match part {
            Part::Exactly(character) => Some(*character),
            _ => None,
        };
        if text.starts_with("**") && !text.contains('\\') {
            let end: Option<String> = pattern.parts[1..].iter().map(plain).collect();
            let slash = if text.starts_with("**/") { "/" } else { "" };
            pattern.suffix = end.map(|end| format!("{slash}{end}"));
        }
        Ok(pattern)
    }

    /// Reads a pattern of a source of `COPY` and `ADD`, where `**` is the same as `*`.
    pub fn plain(text: &str) -> Result<Self, Error> {
        Self::read(text, false)
    }

    /// The pattern as it was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is more than the name of one path.
    pub fn has_wildcards(&self) -> bool {
        self.parts
            .iter()
            .any(|part| !matches!(part, Part::Exactly(_)))
    }

    fn read(text: &str, deep: bool) -> Result<Self, Error> {
        let wrong = || {
            Error::new(
                ErrorKind::Pattern,
                format!("syntax error in pattern {text:?}"),
            )
        };
        let mut parts = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(character) = rest.next() {
            let part = match character {
                '*' if deep && rest.peek() == Some(&'*') => {
                    rest.next();
                    // The slash belongs to it.
                    rest.next_if_eq(&'/');
                    match rest.peek() {
                        Some(_) => Part::Directories,
                        None => Part::Rest,
                    }
                }
                '*' => Part::Any,
                '?' => Part::One,
                '\\' => Part::Exactly(rest.next().ok_or_else(wrong)?),
                '[' => read_class(&mut rest).ok_or_else(wrong)?,
                other => Part::Exactly(other),
            };
            let repeats = matches!(part, Part::Any | Part::Directories | Part::Rest);
            if !(repeats && parts.last() == Some(&part)) {
                parts.push(part);
            }
        }
        Ok(Self {
            text: text.to_owned(),
            parts,
            suffix: None,
        })
    }

    /// Whether the whole path matches.
    pub fn matches(&self, path: &str) -> bool {
        if let Some(suffix) = &self.suffix {
            let bare = suffix.strip_prefix('/');
            return path.ends_with(suffix.as_str()) || bare == Some(path);
        }
        self.run(path.chars()).is_some_and(|states| states.done())
    }

    /// Whether a path in this directory, at any depth, may match.
    pub fn may_match_below(&self, directory: &str) -> bool {
        self.suffix.is_some() || self.run(directory.chars().chain(['/'])).is_some()
    }

    fn run(&self, path: impl Iterator<Item = char>) -> Option<States<'_>> {
        let mut states = States::new(&self.parts);
        for character in path {
            if !states.step(character) {
                return None;
            }
        }
        Some(states)
    }
}

/// `[` has been read.
fn read_class(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Part> {
    let negated = rest.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.next_if_eq(&']').is_some() {
            return Some(Part::Class { negated, ranges });
        }
        let low = class_character(rest)?;
        let high = match rest.next_if_eq(&'-') {
            Some(_) => class_character(rest)?,
            None => low,
        };
        ranges.push((low, high));
    }
}

fn class_character(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match rest.next()? {
        '-' | ']' => None,
        '\\' => rest.next(),
        other => Some(other),
    }
}

/// Which parts of a pattern the characters so far can have reached.
struct States<'a> {
    parts: &'a [Part],
    /// Before part i.
    before: Vec<bool>,
    /// Within the directories of part i.
    within: Vec<bool>,
}

impl<'a> States<'a> {
    fn new(parts: &'a [Part]) -> Self {
        let mut states = Self {
            parts,
            before: vec![false; parts.len() + 1],
            within: vec![false; parts.len() + 1],
        };
        states.before[0] = true;
        states.skip();
        states
    }

    /// Passes over what can be nothing.
    fn skip(&mut self) {
        for (index, part) in self.parts.iter().enumerate() {
            if self.before[index] && matches!(part, Part::Any | Part::Directories | Part::Rest) {
                self.before[index + 1] = true;
            }
        }
    }

    /// Reads a character; whether a match is still possible.
    fn step(&mut self, character: char) -> bool {
        let mut alive = false;
        let mut arrives = false;
        for index in 0..=self.parts.len() {
            let here = self.before[index];
            let mut stays = false;
            let mut goes = false;
            match self.parts.get(index) {
                None => {}
                Some(Part::Exactly(expected)) => goes = here && *expected == character,
                Some(Part::One) => goes = here && character != '/',
                Some(Part::Any) => stays = here && character != '/',
                Some(Part::Rest) => stays = here,
                Some(Part::Directories) => {
                    self.within[index] |= here;
                    alive |= self.within[index];
                    goes = self.within[index] && character == '/';
                }
                Some(Part::Class { negated, ranges }) => {
                    let within = ranges
                        .iter()
                        .any(|(low, high)| (*low..=*high).contains(&character));
                    goes = here && within != *negated;
                }
            }
            self.before[index] = stays || arrives;
            alive |= self.before[index];
            arrives = goes;
        }
        self.skip();
        alive
    }

    fn done(&self) -> bool {
        self.before[self.parts.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_patterns_match_as_go_matches_them() {
        let cases = [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("[x\\-]", "z", false),
            ("**x", "xxx", true),
            ("**/x", "a/b/x", false),
        ];
        for (pattern, path, expected) in cases {
            assert_eq!(
                Pattern::plain(pattern).unwrap().matches(path),
                expected,
                "{pattern} {path}"
            );
        }
        for pattern in [
            "[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[", "[^", "[^bc", "a[",
        ] {
            let error = Pattern::plain(pattern).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Pattern, "{pattern}");
        }
    }

    #[test]
    fn a_directory_is_told_from_one_without_matches() {
        let below = |pattern: &str, directory: &str| {
            Pattern::deep(pattern).unwrap().may_match_below(directory)
        };
        assert!(below("a/b/*.txt", "a"));
        assert!(below("a/b/*.txt", "a/b"));
        assert!(!below("a/b/*.txt", "a/b/c"));
        assert!(!below("a/b/*.txt", "b"));
        assert!(!below("a", "a"));
        assert!(below("**/x", "any/where"));
        assert!(below("a/**/x", "a/any/where"));
        assert!(!below("a/**/x", "b"));
        assert!(below("**x", "any"));
        assert!(below("a/**", "a/b"));
    }
}
