//! Tokens of a template's actions.

use super::TemplateError;

/// A piece of the template between delimiters.
#[derive(Debug)]
pub(super) enum Piece<'t> {
    /// Literal text, already trimmed.
    Text(&'t str),
    /// The tokens of one action.
    Action(Vec<Token>),
}

/// A token with its place.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// Byte offset in the template.
    pub(super) start: usize,
    pub(super) end: usize,
    /// Whether blanks stand before it.
    pub(super) spaced: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// `.`
    Dot,
    /// `.Name`
    Field(String),
    /// `$name`
    Variable(String),
    /// A word: keyword or function.
    Word(String),
    Text(String),
    Int(i128),
    Float(f64),
    Pipe,
    Open,
    Close,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

const LEFT: &str = "{{";
const RIGHT: &str = "}}";

/// Cuts a template into text and actions.
pub(super) fn pieces(template: &str) -> Result<Vec<Piece<'_>>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = template;
    let mut trim = false;
    loop {
        let offset = template.len() - rest.len();
        let Some(left) = rest.find(LEFT) else {
            let text = if trim { rest.trim_start() } else { rest };
            if !text.is_empty() {
                pieces.push(Piece::Text(text));
            }
            return Ok(pieces);
        };
        let mut text = &rest[..left];
        if trim {
            text = text.trim_start();
        }
        let mut start = offset + left + LEFT.len();
        let body = &template[start..];
        if body.starts_with('-') && body[1..].starts_with(|c: char| c.is_ascii_whitespace()) {
            text = text.trim_end();
            start += 1;
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        let mut lexer = Lexer {
            template,
            at: start,
            tokens: Vec::new(),
        };
        trim = if template[start..].trim_start().starts_with("/*") {
            lexer.comment()?
        } else {
            let trim = lexer.action()?;
            pieces.push(Piece::Action(std::mem::take(&mut lexer.tokens)));
            trim
        };
        rest = &template[lexer.at..];
    }
}

/// The line of an offset, from 1.
pub(super) fn line_at(template: &str, offset: usize) -> usize {
    1 + template[..offset].matches('\n').count()
}

struct Lexer<'t> {
    template: &'t str,
    at: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn error<T>(&self, message: impl Into<String>) -> Result<T, TemplateError> {
        Err(TemplateError::Parse {
            name: "",
            line: line_at(self.template, self.at),
            message: message.into(),
        })
    }

    fn rest(&self) -> &str {
        &self.template[self.at..]
    }

    /// Takes the right delimiter if it is next; answers whether it trims what follows.
    fn right(&mut self, spaced: bool) -> Option<bool> {
        if self.rest().starts_with(RIGHT) {
            self.at += RIGHT.len();
            return Some(false);
        }
        if spaced && self.rest().starts_with("-}}") {
            self.at += 1 + RIGHT.len();
            return Some(true);
        }
        None
    }

    fn skip_blanks(&mut self) -> bool {
        let before = self.rest().len();
        let after = self
            .rest()
            .trim_start_matches(|c: char| c.is_ascii_whitespace())
            .len();
        self.at += before - after;
        before != after
    }

    fn comment(&mut self) -> Result<bool, TemplateError> {
        self.skip_blanks();
        let Some(end) = self.rest().find("*/") else {
            return self.error("unclosed comment");
        };
        self.at += end + 2;
        let spaced = self.skip_blanks();
        match self.right(spaced) {
            Some(trim) => Ok(trim),
            None => self.error("comment ends before closing delimiter"),
        }
    }

    /// Reads tokens up to and including the right delimiter.
    fn action(&mut self) -> Result<bool, TemplateError> {
        loop {
            let spaced = self.skip_blanks();
            if let Some(trim) = self.right(spaced) {
                return Ok(trim);
            }
            let start = self.at;
            let Some(first) = self.rest().chars().next() else {
                return self.error("unclosed action");
            };
            let kind = self.token(first)?;
            self.tokens.push(Token {
                kind,
                start,
                end: self.at,
                spaced,
            });
        }
    }

    fn word(&mut self) -> String {
        let word: String = self
            .rest()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        self.at += word.len();
        word
    }

    fn token(&mut self, first: char) -> Result<Kind, TemplateError> {
        let second = self.rest()[first.len_utf8()..].chars().next();
        match first {
            '|' | '(' | ')' | ',' | '=' => {
                self.at += 1;
                Ok(match first {
                    '|' => Kind::Pipe,
                    '(' => Kind::Open,
                    ')' => Kind::Close,
                    ',' => Kind::Comma,
                    _ => Kind::Assign,
                })
            }
            ':' if second == Some('=') => {
                self.at += 2;
                Ok(Kind::Declare)
            }
            '.' if second.is_some_and(|c| c.is_alphabetic() || c == '_') => {
                self.at += 1;
                Ok(Kind::Field(self.word()))
            }
            '.' if !second.is_some_and(|c| c.is_ascii_digit()) => {
                self.at += 1;
                Ok(Kind::Dot)
            }
            '$' => {
                self.at += 1;
                Ok(Kind::Variable(format!("${}", self.word())))
            }
            '"' => self.quoted(),
            '`' => {
                let Some(end) = self.rest()[1..].find('`') else {
                    return self.error("unterminated raw quoted string");
                };
                let text = self.rest()[1..=end].to_owned();
                self.at += end + 2;
                Ok(Kind::Text(text))
            }
            '\'' => {
                let text = self.text_until('\'', "unterminated character constant")?;
                let mut chars = text.chars();
                match (chars.next(), chars.next()) {
                    (Some(only), None) => Ok(Kind::Int(i128::from(u32::from(only)))),
                    _ => self.error(format!("malformed character constant: '{text}'")),
                }
            }
            '0'..='9' | '.' | '+' | '-' => self.number(),
            c if c.is_alphabetic() || c == '_' => Ok(Kind::Word(self.word())),
            c if c.is_ascii_graphic()
                && !self.template[..self.at].ends_with(char::is_alphanumeric) =>
            {
                let context = match self.tokens.is_empty() {
                    true => "command",
                    false => "operand",
                };
                self.error(format!("unexpected \"{c}\" in {context}"))
            }
            c => {
                // Right behind a name, Go finds the name ended badly.
                let what = match self.template[..self.at].ends_with(char::is_alphanumeric) {
                    true => "bad character",
                    false => "unrecognized character in action:",
                };
                self.error(format!("{what} U+{:04X} '{c}'", u32::from(c)))
            }
        }
    }

    fn quoted(&mut self) -> Result<Kind, TemplateError> {
        self.text_until('"', "unterminated quoted string")
            .map(Kind::Text)
    }

    /// Reads an interpreted text whose first character is `quote`.
    fn text_until(&mut self, quote: char, unterminated: &str) -> Result<String, TemplateError> {
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        loop {
            match chars.next() {
                None | Some((_, '\n')) => return self.error(unterminated),
                Some((position, c)) if c == quote => {
                    self.at += position + 1;
                    return Ok(text);
                }
                Some((_, '\\')) => match chars.next().map(|(_, c)| c) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some('a') => text.push('\x07'),
                    Some('b') => text.push('\x08'),
                    Some('f') => text.push('\x0c'),
                    Some('v') => text.push('\x0b'),
                    Some(c @ ('\\' | '"' | '\'')) => text.push(c),
                    Some(c @ ('x' | 'u' | 'U')) => {
                        let digits = match c {
                            'x' => 2,
                            'u' => 4,
                            _ => 8,
                        };
                        let hex: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
                        match u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32) {
                            Some(c) if hex.len() == digits => text.push(c),
                            _ => return self.error("invalid syntax"),
                        }
                    }
                    None => return self.error(unterminated),
                    Some(_) => return self.error("invalid syntax"),
                },
                Some((_, c)) => text.push(c),
            }
        }
    }

    fn number(&mut self) -> Result<Kind, TemplateError> {
        let mut previous = ' ';
        let text: String = self
            .rest()
            .chars()
            .take_while(|c| {
                let sign = matches!(c, '+' | '-') && matches!(previous, ' ' | 'e' | 'E');
                previous = *c;
                sign || c.is_ascii_alphanumeric() || matches!(c, '.' | '_')
            })
            .collect();
        self.at += text.len();
        let plain = text.replace('_', "");
        let (negative, digits) = match plain.strip_prefix(['+', '-']) {
            Some(digits) => (plain.starts_with('-'), digits),
            None => (false, plain.as_str()),
        };
        let prefixed = digits.get(..2).map(str::to_ascii_lowercase);
        let int = match prefixed.as_deref() {
            Some("0x") => i128::from_str_radix(&digits[2..], 16).ok(),
            Some("0o") => i128::from_str_radix(&digits[2..], 8).ok(),
            Some("0b") => i128::from_str_radix(&digits[2..], 2).ok(),
            _ => digits.parse().ok(),
        };
        if let Some(int) = int {
            return Ok(Kind::Int(if negative { -int } else { int }));
        }
        match plain.parse::<f64>() {
            Ok(float) if !digits.starts_with(|c: char| c.is_alphabetic()) => Ok(Kind::Float(float)),
            _ => self.error(format!("bad number syntax: \"{text}\"")),
        }
    }
}
