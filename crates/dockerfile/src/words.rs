//! How the text after an instruction's name falls into words.

use serde_json::Value;

/// A word and the byte at which it begins in the logical line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) at: usize,
}

/// The blanks that part words; other spaces of Unicode do not.
pub(crate) fn is_blank(character: char) -> bool {
    matches!(character, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// `text` without the white space around it, and how many bytes went in front.
pub(crate) fn trim(text: &str) -> (usize, &str) {
    let start = text.trim_start();
    (text.len() - start.len(), start.trim_end())
}

/// The words between blanks; quotes mean nothing.
pub(crate) fn plain(text: &str, base: usize) -> Vec<Word> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, character) in text.char_indices() {
        match (is_blank(character), start) {
            (true, Some(from)) => {
                words.push(Word {
                    text: text[from..at].to_owned(),
                    at: base + from,
                });
                start = None;
            }
            (false, None) => start = Some(at),
            _ => {}
        }
    }
    if let Some(from) = start {
        words.push(Word {
            text: text[from..].to_owned(),
            at: base + from,
        });
    }
    words
}

/// The words of `ENV`, `LABEL` and `ARG`: a quoted part may hold blanks. Quotes
/// and escapes stay in the word; they are taken away when it is expanded.
pub(crate) fn quoted(text: &str, base: usize, escape: char) -> Vec<Word> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut start = 0;
    let mut quote = None;
    let mut inside = false;
    let mut had_quote = false;
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if !inside {
            if character.is_whitespace() {
                continue;
            }
            inside = true;
            start = at;
        }
        match quote {
            None if character.is_whitespace() => {
                inside = false;
                if had_quote || !word.is_empty() {
                    words.push(Word {
                        text: std::mem::take(&mut word),
                        at: base + start,
                    });
                }
                had_quote = false;
                continue;
            }
            None if character == '\'' || character == '"' => {
                quote = Some(character);
                had_quote = true;
            }
            Some(open) if character == open => quote = None,
            _ => {}
        }
        // Nothing can be escaped within single quotes.
        if character == escape && quote != Some('\'') {
            // An escape at the very end stands for nothing.
            let Some((_, escaped)) = characters.next() else {
                break;
            };
            word.push(character);
            word.push(escaped);
        } else {
            word.push(character);
        }
    }
    if inside && (had_quote || !word.is_empty()) {
        words.push(Word {
            text: word,
            at: base + start,
        });
    }
    words
}

/// The words with `--` in front at the beginning of `text`, their quotes and
/// escapes taken away, and where the rest begins.
pub(crate) fn flags(text: &str, base: usize) -> (Vec<Word>, usize) {
    let mut words = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        let start = text.len() - rest.len();
        if !rest.starts_with("--") {
            return (words, start);
        }
        let (word, length) = flag_word(rest);
        rest = &rest[length..];
        if word == "--" {
            return (words, start + length);
        }
        words.push(Word {
            text: word,
            at: base + start,
        });
    }
}

/// One flag and its length in the source. Always escaped with a backslash,
/// whatever the file's escape character is.
fn flag_word(text: &str) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match quote {
            None if character.is_whitespace() => return (word, at),
            None if character == '\'' || character == '"' => quote = Some(character),
            Some(open) if character == open => quote = None,
            _ if character == '\\' => word.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => word.push(character),
        }
    }
    (word, text.len())
}

/// What the arguments are when read as a JSON array.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Json {
    /// Not an array; the other form is meant.
    Not,
    /// An array of strings.
    Strings(Vec<String>),
    /// An array of something else: surely a mistake.
    Other,
}

pub(crate) fn json(text: &str) -> Json {
    if !text.trim_start().starts_with('[') {
        return Json::Not;
    }
    let Ok(values) = serde_json::from_str::<Vec<Value>>(text) else {
        return Json::Not;
    };
    let strings: Option<Vec<String>> = values
        .into_iter()
        .map(|value| match value {
            Value::String(text) => Some(text),
            _ => None,
        })
        .collect();
    strings.map_or(Json::Other, Json::Strings)
}

/// The fields of one line of comma-separated values, with `"` quotes.
pub(crate) fn csv(text: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut inner = quoted;
            loop {
                let Some((before, after)) = inner.split_once('"') else {
                    return Err("extraneous or missing \" in quoted-field");
                };
                field.push_str(before);
                inner = after;
                match inner.strip_prefix('"') {
                    Some(more) => {
                        field.push('"');
                        inner = more;
                    }
                    None => break,
                }
            }
            fields.push(field);
            match inner.strip_prefix(',') {
                Some(next) => rest = next,
                None if inner.is_empty() => return Ok(fields),
                None => return Err("extraneous or missing \" in quoted-field"),
            }
            continue;
        }
        let (field, next) = match rest.split_once(',') {
            Some((field, next)) => (field, Some(next)),
            None => (rest, None),
        };
        if field.contains('"') {
            return Err("bare \" in non-quoted-field");
        }
        fields.push(field.to_owned());
        match next {
            Some(next) => rest = next,
            None => return Ok(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: Vec<Word>) -> Vec<String> {
        words.into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn quotes_and_escapes_hold_words_together_and_stay() {
        let cases: &[(&str, &[&str])] = &[
            ("a b", &["a", "b"]),
            ("a=\"b c\" d='e f'", &["a=\"b c\"", "d='e f'"]),
            ("a=b\\ c d", &["a=b\\ c", "d"]),
            ("a=\"b\\\" c\" d", &["a=\"b\\\" c\"", "d"]),
            ("a='b\\' c", &["a='b\\'", "c"]),
            ("\"\" x", &["\"\"", "x"]),
            ("a\\", &["a"]),
            ("a=\"open b", &["a=\"open b"]),
            ("", &[]),
        ];
        for (text, expected) in cases {
            assert_eq!(texts(quoted(text, 0, '\\')), *expected, "{text}");
        }
    }

    #[test]
    fn flags_end_at_the_first_other_word_or_at_two_dashes() {
        let split = |text: &str| {
            let (words, rest) = flags(text, 0);
            (texts(words), text[rest..].to_owned())
        };
        let cases: &[(&str, &[&str], &str)] = &[
            ("--a --b=c d --e", &["--a", "--b=c"], "d --e"),
            ("--a=\"b c\" d", &["--a=b c"], "d"),
            ("--a=b\\ c d", &["--a=b c"], "d"),
            ("-- --a", &[], " --a"),
            ("--a", &["--a"], ""),
            ("x", &[], "x"),
        ];
        for (text, words, rest) in cases {
            let expected = (
                words.iter().map(|word| (*word).to_owned()).collect(),
                (*rest).to_owned(),
            );
            assert_eq!(split(text), expected, "{text}");
        }
    }

    #[test]
    fn only_arrays_of_strings_are_the_exec_form() {
        assert_eq!(
            json(" [\"a\", \"b\"]"),
            Json::Strings(vec!["a".into(), "b".into()])
        );
        assert_eq!(json("[]"), Json::Strings(vec![]));
        for other in ["[1]", "[null]", "[\"a\", [\"b\"]]", "[{}]"] {
            assert_eq!(json(other), Json::Other, "{other}");
        }
        for not in [
            "['a']",
            "[ -f x ]",
            "[\"a\"] && b",
            "[\"a\"",
            "\"a\"",
            "[\"a\",]",
        ] {
            assert_eq!(json(not), Json::Not, "{not}");
        }
    }

    #[test]
    fn comma_separated_values_may_be_quoted() {
        assert_eq!(csv("a=1,b").unwrap(), ["a=1", "b"]);
        assert_eq!(
            csv("\"a=1,2\",b=\"\"").unwrap_err(),
            "bare \" in non-quoted-field"
        );
        assert_eq!(
            csv("\"a=1,2\",\"b=\"\"x\"\"\"").unwrap(),
            ["a=1,2", "b=\"x\""]
        );
        assert_eq!(csv("").unwrap(), [""]);
        assert!(csv("\"a").is_err());
    }
}
