//! Expansion of variables in words, as BuildKit's own small shell does it.
//!
//! `$v`, `${v}` and the modifiers `- :- + :+ ? :? # ## % %% / //`; `'…'` holds
//! everything literally, `"…"` all but `$` and the escape character. Patterns
//! know `*`, `?` and the backslash.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::str::Chars;

use crate::error::{Error, ErrorKind, quoted};
use crate::variables::Variables;

/// `${a:-${b:-…}}` deeper than this is refused.
const MAX_DEPTH: u32 = 100;

/// A result may be longer than its source by this much.
const MAX_GROWTH: usize = 1 << 20;

/// All that one `Shell` expands, in bytes written and characters compared.
/// Without it a few lines (`ENV a=$a$a`) could ask for more memory than there is.
const WORK: u64 = 1 << 25;

/// The rules of one Dockerfile: its escape character, and how much may be expanded yet.
#[derive(Debug)]
pub struct Shell {
    escape: char,
    work: Cell<u64>,
}

/// Deviations from plain expansion.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    /// Quotes stay in the result.
    pub(crate) keep_quotes: bool,
    /// Escape characters stay in the result.
    pub(crate) keep_escapes: bool,
    /// Quotes are characters like any other.
    pub(crate) ignore_quotes: bool,
    /// What is not set stays as it is written.
    pub(crate) keep_unset: bool,
}

/// A word after expansion.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Expansion {
    /// The result as one word.
    pub text: String,
    /// The result parted at unquoted blanks.
    pub words: Vec<String>,
    /// Names that were used and had a value.
    pub matched: BTreeSet<String>,
    /// Names that were used and had none.
    pub unmatched: BTreeSet<String>,
}

impl Shell {
    /// Makes the rules for a file with this escape character.
    pub fn new(escape: char) -> Self {
        Self {
            escape,
            work: Cell::new(WORK),
        }
    }

    /// Expands a word.
    pub fn expand(&self, word: &str, variables: &Variables) -> Result<Expansion, Error> {
        self.expand_as(Manner::default(), word, variables)
    }

    /// Expands the content of a here-document: quotes are part of the content.
    /// Always escaped with a backslash.
    pub fn expand_document(&self, text: &str, variables: &Variables) -> Result<Expansion, Error> {
        let manner = Manner {
            ignore_quotes: true,
            ..Manner::default()
        };
        self.expand_with('\\', manner, text, variables)
    }

    /// Expands for a person to read: quotes stay, and so does what has no value.
    pub fn expand_for_display(&self, text: &str, variables: &Variables) -> String {
        let manner = Manner {
            keep_quotes: true,
            keep_unset: true,
            ..Manner::default()
        };
        self.expand_as(manner, text, variables)
            .map_or_else(|_| text.to_owned(), |expansion| expansion.text)
    }

    pub(crate) fn expand_as(
        &self,
        manner: Manner,
        word: &str,
        variables: &Variables,
    ) -> Result<Expansion, Error> {
        self.expand_with(self.escape, manner, word, variables)
    }

    fn expand_with(
        &self,
        escape: char,
        manner: Manner,
        word: &str,
        variables: &Variables,
    ) -> Result<Expansion, Error> {
        let mut reader = Reader {
            shell: self,
            escape,
            manner,
            rest: word.chars(),
            variables,
            depth: 0,
            limit: word.len() + MAX_GROWTH,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
        };
        let (text, words) = reader.until(None, manner.keep_escapes).map_err(|error| {
            if error.kind() == ErrorKind::Limit {
                return error;
            }
            let shown: String = word.chars().take(200).collect();
            let message = format!("failed to process {}: {}", quoted(&shown), error.message());
            Error::new(error.kind(), message)
        })?;
        Ok(Expansion {
            text,
            words,
            matched: reader.matched,
            unmatched: reader.unmatched,
        })
    }

    /// Takes from what may be expanded yet.
    pub(crate) fn spend(&self, amount: usize) -> Result<(), Error> {
        let left = self.work.get().checked_sub(amount as u64 + 1);
        let left = left.ok_or_else(|| {
            Error::new(
                ErrorKind::Limit,
                "the variables of this file expand to too much",
            )
        })?;
        self.work.set(left);
        Ok(())
    }
}

fn variable_error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Variable, message)
}

/// Collects the words of a result.
#[derive(Default)]
struct Words {
    word: String,
    words: Vec<String>,
    inside: bool,
}

impl Words {
    fn push(&mut self, character: char) {
        if !character.is_whitespace() {
            self.push_raw(character);
        } else if self.inside && !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
            self.inside = false;
        }
    }

    fn push_raw(&mut self, character: char) {
        self.word.push(character);
        self.inside = true;
    }

    fn push_raw_str(&mut self, text: &str) {
        self.word.push_str(text);
        self.inside = true;
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}

struct Reader<'a> {
    shell: &'a Shell,
    escape: char,
    manner: Manner,
    rest: Chars<'a>,
    variables: &'a Variables,
    depth: u32,
    limit: usize,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn next(&mut self) -> Option<char> {
        self.rest.next()
    }

    /// Reads up to `stop`, which is taken, or up to the end.
    fn until(
        &mut self,
        stop: Option<char>,
        keep_escapes: bool,
    ) -> Result<(String, Vec<String>), Error> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(variable_error("substitutions are nested too deeply"));
        }
        let before = std::mem::replace(&mut self.manner.keep_escapes, keep_escapes);
        let result = self.until_inner(stop);
        self.manner.keep_escapes = before;
        self.depth -= 1;
        result
    }

    fn until_inner(&mut self, stop: Option<char>) -> Result<(String, Vec<String>), Error> {
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(character) = self.peek() {
            if stop == Some(character) {
                self.next();
                return Ok((text, words.finish()));
            }
            let quotes = !self.manner.ignore_quotes;
            match character {
                '$' => {
                    let value = self.dollar()?;
                    self.grow(&text, &value)?;
                    text.push_str(&value);
                    for character in value.chars() {
                        words.push(character);
                    }
                }
                '\'' | '"' | '<' if quotes => {
                    let value = match character {
                        '\'' => self.single_quoted()?,
                        '"' => self.double_quoted()?,
                        _ => self.angles(),
                    };
                    self.grow(&text, &value)?;
                    text.push_str(&value);
                    words.push_raw_str(&value);
                }
                _ => {
                    self.next();
                    if character != self.escape {
                        words.push(character);
                        text.push(character);
                        continue;
                    }
                    if self.manner.keep_escapes {
                        words.push_raw(character);
                        text.push(character);
                    }
                    let Some(escaped) = self.next() else { break };
                    words.push_raw(escaped);
                    text.push(escaped);
                }
            }
        }
        match stop {
            Some(stop) => Err(variable_error(format!(
                "unexpected end of statement while looking for matching {stop}"
            ))),
            None => Ok((text, words.finish())),
        }
    }

    fn grow(&self, text: &str, value: &str) -> Result<(), Error> {
        self.shell.spend(value.len())?;
        if text.len() + value.len() > self.limit {
            return Err(Error::new(
                ErrorKind::Limit,
                "a variable expands to too much",
            ));
        }
        Ok(())
    }

    fn single_quoted(&mut self) -> Result<String, Error> {
        let mut text = String::new();
        self.next();
        if self.manner.keep_quotes {
            text.push('\'');
        }
        loop {
            match self.next() {
                None => {
                    return Err(variable_error(
                        "unexpected end of statement while looking for matching single-quote",
                    ));
                }
                Some('\'') => break,
                Some(character) => text.push(character),
            }
        }
        if self.manner.keep_quotes {
            text.push('\'');
        }
        Ok(text)
    }

    fn double_quoted(&mut self) -> Result<String, Error> {
        let mut text = String::new();
        self.next();
        if self.manner.keep_quotes {
            text.push('"');
        }
        loop {
            match self.peek() {
                None => {
                    return Err(variable_error(
                        "unexpected end of statement while looking for matching double-quote",
                    ));
                }
                Some('"') => {
                    self.next();
                    break;
                }
                Some('$') => {
                    let value = self.dollar()?;
                    self.grow(&text, &value)?;
                    text.push_str(&value);
                }
                Some(character) => {
                    self.next();
                    if character != self.escape {
                        text.push(character);
                        continue;
                    }
                    if self.manner.keep_escapes {
                        text.push(character);
                    }
                    match self.peek() {
                        None => {}
                        // Only these can be escaped; otherwise the escape stays.
                        Some(escaped) if matches!(escaped, '"' | '$') || escaped == self.escape => {
                            self.next();
                            text.push(escaped);
                        }
                        Some(_) => text.push(character),
                    }
                }
            }
        }
        if self.manner.keep_quotes {
            text.push('"');
        }
        Ok(text)
    }

    /// `<<` holds the blanks that follow it, so that `<< EOF` is one word.
    fn angles(&mut self) -> String {
        self.next();
        if self.peek() != Some('<') {
            return "<".to_owned();
        }
        self.next();
        let mut text = "<<".to_owned();
        while let Some(blank) = self.peek().filter(|character| character.is_whitespace()) {
            self.next();
            text.push(blank);
        }
        text
    }

    fn dollar(&mut self) -> Result<String, Error> {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.value(&name) {
                Some(value) => value,
                None if self.manner.keep_unset => format!("${name}"),
                None => String::new(),
            });
        }
        self.next();
        match self.peek() {
            None => return Err(variable_error("syntax error: missing '}'")),
            Some('{' | '}' | ':') => {
                return Err(variable_error("syntax error: bad substitution"));
            }
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            Some('}') => Ok(match self.value(&name) {
                Some(value) => value,
                None if self.manner.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            Some(':') => {
                let modifier = self.next();
                self.modified(&name, true, modifier)
            }
            Some(modifier @ ('+' | '-' | '?' | '#' | '%')) => {
                self.modified(&name, false, Some(modifier))
            }
            Some('/') => self.replaced(&name),
            other => Err(unsupported(false, other)),
        }
    }

    fn modified(
        &mut self,
        name: &str,
        empty_is_unset: bool,
        modifier: Option<char>,
    ) -> Result<String, Error> {
        let trims = matches!(modifier, Some('#' | '%'));
        if trims && empty_is_unset {
            return Err(unsupported(true, modifier));
        }
        let word = match self.until(Some('}'), trims) {
            Ok((word, _)) => word,
            Err(error) => return Err(self.unclosed(error, "syntax error: missing '}'")),
        };
        let value = self.value(name);
        if self.manner.keep_unset && value.is_none() {
            let colon = if empty_is_unset { ":" } else { "" };
            let modifier = modifier.map(String::from).unwrap_or_default();
            return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
        }
        let given = value
            .as_deref()
            .filter(|value| !(empty_is_unset && value.is_empty()));
        match modifier {
            Some('-') => Ok(given.map_or(word, str::to_owned)),
            Some('+') => Ok(given.map_or_else(String::new, |_| word)),
            Some('?') => given.map(str::to_owned).ok_or_else(|| {
                let message = match (&value, word.is_empty()) {
                    (_, false) => word,
                    (None, true) => "is not allowed to be unset".to_owned(),
                    (Some(_), true) => "is not allowed to be empty".to_owned(),
                };
                variable_error(format!("{name}: {message}"))
            }),
            Some(side @ ('#' | '%')) => {
                let value = value.unwrap_or_default();
                let longest = word.starts_with(side);
                let pattern = Pattern::parse(if longest { &word[1..] } else { &word })?;
                let length = if longest {
                    Length::Longest
                } else {
                    Length::Shortest
                };
                self.trim(&value, pattern, side, length)
            }
            other => Err(unsupported(empty_is_unset, other)),
        }
    }

    fn trim(
        &self,
        value: &str,
        pattern: Pattern,
        side: char,
        length: Length,
    ) -> Result<String, Error> {
        let mut characters: Vec<char> = value.chars().collect();
        if side == '#' {
            let end = pattern
                .matches(&characters, length, self.shell)?
                .unwrap_or(0);
            return Ok(characters[end..].iter().collect());
        }
        // The shortest match at the end is the shortest at the beginning of the mirror image.
        characters.reverse();
        let end = pattern
            .mirrored()
            .matches(&characters, length, self.shell)?
            .unwrap_or(0);
        Ok(characters[end..].iter().rev().collect())
    }

    fn replaced(&mut self, name: &str) -> Result<String, Error> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let pattern = match self.until(Some('/'), true) {
            Ok((pattern, _)) => pattern,
            Err(error) => return Err(self.unclosed(error, "syntax error: missing '/' in ${}")),
        };
        let replacement = match self.until(Some('}'), true) {
            Ok((replacement, _)) => replacement,
            Err(error) => return Err(self.unclosed(error, "syntax error: missing '}'")),
        };
        let value = self.value(name);
        if self.manner.keep_unset && value.is_none() {
            return Ok(format!("${{{name}/{pattern}/{replacement}}}"));
        }
        let characters: Vec<char> = value.unwrap_or_default().chars().collect();
        let pattern = Pattern::parse(&pattern)?;
        let mut text = String::new();
        let mut at = 0;
        let mut after_match = false;
        while at <= characters.len() {
            let found = pattern.matches(&characters[at..], Length::Longest, self.shell)?;
            match found {
                // No empty match right behind another match.
                Some(0) if after_match => {}
                Some(length) => {
                    self.grow(&text, &replacement)?;
                    text.push_str(&replacement);
                    at += length;
                    if !all {
                        break;
                    }
                    if length > 0 {
                        after_match = true;
                        continue;
                    }
                }
                None => {}
            }
            after_match = false;
            text.extend(characters.get(at));
            at += 1;
        }
        text.extend(characters.get(at..).unwrap_or_default());
        Ok(text)
    }

    /// The end of the text is reported as what is missing there.
    fn unclosed(&self, error: Error, message: &str) -> Error {
        if self.peek().is_none() && error.kind() == ErrorKind::Variable {
            return variable_error(message);
        }
        error
    }

    /// Letters, digits and `_`; or digits alone; or one special character.
    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(character) = self.peek() {
            if name.is_empty() && matches!(character, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
                self.next();
                return character.to_string();
            }
            let digits_only = name.starts_with(|first: char| first.is_ascii_digit());
            let fits = if digits_only {
                character.is_ascii_digit()
            } else {
                character.is_alphanumeric() || character == '_'
            };
            if !fits {
                break;
            }
            self.next();
            name.push(character);
        }
        name
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = self.variables.get(name);
        let list = if value.is_some() {
            &mut self.matched
        } else {
            &mut self.unmatched
        };
        if !list.contains(name) {
            list.insert(name.to_owned());
        }
        value.map(str::to_owned)
    }
}

fn unsupported(colon: bool, modifier: Option<char>) -> Error {
    let colon = if colon { ":" } else { "" };
    let modifier = modifier.map(String::from).unwrap_or_default();
    variable_error(format!(
        "unsupported modifier ({colon}{modifier}) in substitution"
    ))
}

#[derive(Clone, Copy)]
enum Length {
    Shortest,
    Longest,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Part {
    Exactly(char),
    /// Any character but the end of a line.
    One,
    /// Any number of them.
    Any,
}

struct Pattern(Vec<Part>);

impl Pattern {
    fn parse(text: &str) -> Result<Self, Error> {
        let mut parts = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(character) = rest.next() {
            let part = match character {
                '*' => Part::Any,
                '?' => Part::One,
                '\\' => match rest.next() {
                    // These are escaped for the sake of `${}`, not of the pattern.
                    Some(escaped @ ('}' | '/' | '*' | '?' | '\\')) => Part::Exactly(escaped),
                    escaped => {
                        let escaped = escaped.map(String::from).unwrap_or_default();
                        return Err(variable_error(format!(
                            "invalid pattern ({text}) in substitution: invalid escape '\\{escaped}'"
                        )));
                    }
                },
                other => Part::Exactly(other),
            };
            if part != Part::Any || parts.last() != Some(&Part::Any) {
                parts.push(part);
            }
        }
        Ok(Self(parts))
    }

    fn mirrored(mut self) -> Self {
        self.0.reverse();
        self
    }

    /// How many characters the pattern matches at the beginning of `text`.
    fn matches(
        &self,
        text: &[char],
        length: Length,
        shell: &Shell,
    ) -> Result<Option<usize>, Error> {
        // Position i: the first i parts have matched what was read.
        let mut reached = vec![false; self.0.len() + 1];
        reached[0] = true;
        let mut found = None;
        for position in 0..=text.len() {
            shell.spend(reached.len())?;
            for (index, part) in self.0.iter().enumerate() {
                if reached[index] && *part == Part::Any {
                    reached[index + 1] = true;
                }
            }
            if reached[self.0.len()] {
                found = Some(position);
                if matches!(length, Length::Shortest) {
                    break;
                }
            }
            let Some(&character) = text.get(position) else {
                break;
            };
            for index in (0..=self.0.len()).rev() {
                let stays = matches!(self.0.get(index), Some(Part::Any)) && character != '\n';
                let arrives = index > 0
                    && reached[index - 1]
                    && match self.0[index - 1] {
                        Part::Exactly(expected) => expected == character,
                        Part::One => character != '\n',
                        Part::Any => false,
                    };
                reached[index] = arrives || (reached[index] && stays);
            }
            if !reached.contains(&true) {
                break;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn words_expand_as_buildkit_expands_them() {
        let known = variables(&[
            ("PWD", "/home"),
            ("NULL", ""),
            ("KOREAN", "한국어"),
            ("FOO", "xxyy"),
            ("PATHS", "/tmp/tmp/bar.txt"),
            ("STARS", "a***yy*"),
            ("LINES", "a\nb"),
            ("x", "1 2"),
        ]);
        let cases: &[(&str, Result<&str, &str>)] = &[
            // Quotes and escapes.
            ("hello", Ok("hello")),
            ("he'll'o", Ok("hello")),
            ("he\"l'l\"o", Ok("hel'lo")),
            ("he\\'llo", Ok("he'llo")),
            ("he\\\\llo", Ok("he\\llo")),
            ("hello\\", Ok("hello")),
            ("\"hell\\o\"", Ok("hell\\o")),
            ("\"a\\\"b\\$c\\\\d\"", Ok("a\"b$c\\d")),
            ("'a\\b$PWD'", Ok("a\\b$PWD")),
            ("\"$PWD\"", Ok("/home")),
            ("\\$PWD", Ok("$PWD")),
            ("he'llo", Err("single-quote")),
            ("he\"llo", Err("double-quote")),
            // Names.
            ("$", Ok("$")),
            ("$ x", Ok("$ x")),
            ("he$PWD.", Ok("he/home.")),
            ("he$PWD_", Ok("he")),
            ("$KOREAN:", Ok("한국어:")),
            ("$1PWD", Ok("PWD")),
            ("$10", Ok("")),
            ("$@$PWD", Ok("/home")),
            ("${PWD}x", Ok("/homex")),
            ("${UNSET}x", Ok("x")),
            ("$x", Ok("1 2")),
            // Broken.
            ("${", Err("missing '}'")),
            ("${PWD", Err("unsupported modifier ()")),
            ("${}", Err("bad substitution")),
            ("${{", Err("bad substitution")),
            ("${:-x}", Err("bad substitution")),
            ("${PWD:", Err("missing '}'")),
            ("${PWD=x}", Err("unsupported modifier (=)")),
            ("${PWD:=x}", Err("unsupported modifier (:=)")),
            ("${PWD:#x}", Err("unsupported modifier (:#)")),
            // Defaults.
            ("${UNSET:-a b}", Ok("a b")),
            ("${UNSET-a}", Ok("a")),
            ("${NULL:-a}", Ok("a")),
            ("${NULL-a}", Ok("")),
            ("${UNSET:-\"a}b\"}", Ok("a}b")),
            ("${UNSET:-a\\}b}", Ok("a}b")),
            ("${UNSET:-${NULL:-${PWD}}}", Ok("/home")),
            ("${PWD:+a}${NULL:+b}${NULL+c}${UNSET+d}", Ok("ac")),
            ("${PWD:?no}", Ok("/home")),
            ("${NULL?no}", Ok("")),
            ("${NULL:?no $PWD}", Err("NULL: no /home")),
            ("${NULL:?}", Err("NULL: is not allowed to be empty")),
            ("${UNSET?}", Err("UNSET: is not allowed to be unset")),
            // Patterns.
            ("${FOO#x}", Ok("xyy")),
            ("${FOO#*x}", Ok("xyy")),
            ("${FOO##*x}", Ok("yy")),
            ("${FOO#*x*y}", Ok("y")),
            ("${FOO#*}", Ok("xxyy")),
            ("${FOO##*}", Ok("")),
            ("${FOO##}", Ok("xxyy")),
            ("${FOO#y}", Ok("xxyy")),
            ("${FOO%y}", Ok("xxy")),
            ("${FOO%x*}", Ok("x")),
            ("${FOO%%x*}", Ok("")),
            ("${FOO%}", Ok("xxyy")),
            ("${STARS%%\\**\\*}", Ok("a")),
            ("${STARS#?\\*}", Ok("**yy*")),
            ("${FOO#\\x}", Err("invalid escape '\\x'")),
            ("${LINES#*b}", Ok("a\nb")),
            ("${LINES##*}", Ok("\nb")),
            ("${FOO/x/-}", Ok("-xyy")),
            ("${FOO//x/-}", Ok("--yy")),
            ("${FOO//x/}", Ok("yy")),
            ("${FOO/x*y/-}", Ok("-")),
            ("${FOO//?/ab}", Ok("abababab")),
            ("${PATHS//\\/tmp/}", Ok("/bar.txt")),
            ("${PATHS//\\//\\/}", Ok("\\/tmp\\/tmp\\/bar.txt")),
            ("${FOO/$NULL/w}", Ok("wxxyy")),
            ("${FOO//$NULL/w}", Ok("wxwxwywyw")),
            ("${FOO///}", Ok("xxyy")),
            ("${FOO//*/w}", Ok("w")),
            ("${UNSET/x/y}", Ok("")),
            ("${FOO//ww}", Err("missing '/' in ${}")),
            ("${FOO/x", Err("missing '/' in ${}")),
        ];
        let shell = Shell::new('\\');
        for (word, expected) in cases {
            match (shell.expand(word, &known), expected) {
                (Ok(got), Ok(expected)) => assert_eq!(got.text, *expected, "{word}"),
                (Err(error), Err(part)) => {
                    assert!(
                        error.message().contains(part),
                        "{word}: {}",
                        error.message()
                    );
                }
                (got, _) => panic!("{word}: {got:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn the_backtick_can_be_the_escape() {
        let shell = Shell::new('`');
        let known = variables(&[("a", "1")]);
        assert_eq!(shell.expand("c:\\x`$a$a", &known).unwrap().text, "c:\\x$a1");
        assert_eq!(
            shell.expand_document("'\\$a' \"$a\"", &known).unwrap().text,
            "'$a' \"1\""
        );
    }

    #[test]
    fn values_part_at_blanks_and_quoted_words_do_not() {
        let known = variables(&[("x", "80 443"), ("e", "")]);
        let shell = Shell::new('\\');
        let words = |word: &str| shell.expand(word, &known).unwrap().words;
        assert_eq!(words("$x 22"), ["80", "443", "22"]);
        assert_eq!(words("\"$x\" a\\ b"), ["80 443", "a b"]);
        assert_eq!(words("$e"), [""; 0]);
        assert_eq!(words("a << EOF b"), ["a", "<< EOF", "b"]);
    }

    #[test]
    fn says_which_names_had_a_value() {
        let known = variables(&[("FOO", "x")]);
        let expansion = Shell::new('\\')
            .expand("${FOO}${BAR:-$BAZ}", &known)
            .unwrap();
        assert_eq!(expansion.matched.into_iter().collect::<Vec<_>>(), ["FOO"]);
        assert_eq!(
            expansion.unmatched.into_iter().collect::<Vec<_>>(),
            ["BAR", "BAZ"]
        );
    }

    #[test]
    fn what_has_no_value_stays_for_display() {
        let known = variables(&[("a", "1")]);
        let shown = Shell::new('\\').expand_for_display("echo \"$a\" $b ${c:-d} ${e}", &known);
        assert_eq!(shown, "echo \"1\" $b ${c:-d} ${e}");
    }

    #[test]
    fn hostile_words_are_refused_in_time() {
        let shell = Shell::new('\\');
        let none = Variables::default();
        let deep = "${a:-".repeat(200_000);
        assert!(
            shell
                .expand(&deep, &none)
                .unwrap_err()
                .message()
                .contains("too deeply")
        );

        let mut known = variables(&[("a", "x")]);
        let error = loop {
            match shell.expand("$a$a", &known) {
                Ok(doubled) => known.set("a", doubled.text),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Limit);

        let known = variables(&[("a", &"a".repeat(500_000))]);
        let pattern = format!("${{a/{}b/}}", "a*".repeat(1000));
        assert_eq!(
            shell.expand(&pattern, &known).unwrap_err().kind(),
            ErrorKind::Limit
        );
    }
}
