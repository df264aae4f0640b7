//! Shell patterns, as Go's `path.Match` reads them.

use crate::{Error, Result};

/// Whether a whole text fits a pattern: `*` and `?` stop at a slash, `[a-z]` and `[^a-z]` are
/// classes, `\\` takes the next character as it is. A malformed pattern is an error.
pub(crate) fn fits(pattern: &str, text: &str) -> Result<bool> {
    let parts = parse(pattern)?;
    let text: Vec<char> = text.chars().collect();
    Ok(matches(&parts, &text))
}

#[derive(Debug)]
enum Part {
    /// Any number of characters but slashes.
    Star,
    /// One character but a slash.
    Any,
    One(char),
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

fn parse(pattern: &str) -> Result<Vec<Part>> {
    let bad = || {
        Error::invalid(format!(
            "invalid filter 'reference={pattern}': syntax error in pattern"
        ))
    };
    let mut parts = Vec::new();
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        parts.push(match c {
            '*' => Part::Star,
            '?' => Part::Any,
            '\\' => Part::One(rest.next().ok_or_else(bad)?),
            '[' => {
                let negated = rest.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                // An empty class is malformed: its bracket is read as a character.
                while ranges.is_empty() || rest.next_if_eq(&']').is_none() {
                    let mut end = || match rest.next() {
                        Some('\\') => rest.next().ok_or_else(bad),
                        Some('-' | ']') | None => Err(bad()),
                        Some(c) => Ok(c),
                    };
                    let low = end()?;
                    let high = match rest.next_if_eq(&'-') {
                        Some(_) => match rest.next() {
                            Some('\\') => rest.next().ok_or_else(bad)?,
                            Some('-' | ']') | None => return Err(bad()),
                            Some(c) => c,
                        },
                        None => low,
                    };
                    ranges.push((low, high));
                }
                Part::Class { negated, ranges }
            }
            c => Part::One(c),
        });
    }
    Ok(parts)
}

/// Goes back only to the last star, so that no pattern takes exponential time.
fn matches(parts: &[Part], text: &[char]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() || p < parts.len() {
        match parts.get(p) {
            Some(Part::Star) => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(part) if text.get(t).is_some_and(|c| one(part, *c)) => {
                p += 1;
                t += 1;
                continue;
            }
            _ => {}
        }
        match star {
            Some((at, taken)) if text.get(taken).is_some_and(|c| *c != '/') => {
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
            _ => return false,
        }
    }
    true
}

fn one(part: &Part, c: char) -> bool {
    match part {
        Part::Star => false,
        Part::Any => c != '/',
        Part::One(wanted) => c == *wanted,
        Part::Class { negated, ranges } => {
            c != '/' && ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_gos() {
        for (pattern, text, wanted) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "ab/c", false),
            ("a*/c", "ab/c", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a/b", false),
            ("a[^a]b", "a☺b", true),
            ("", "", true),
            ("", "a", false),
            ("*x", "xxx", true),
        ] {
            assert_eq!(fits(pattern, text).unwrap(), wanted, "{pattern} {text}");
        }
        for bad in ["[", "[]a]", "[-]", "[x-]", "[-x]", "a[", "\\", "[a-b-c]"] {
            assert!(fits(bad, "a").is_err(), "{bad}");
        }
    }
}
