//! Texts made short and safe for one line.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthChar as _;

/// Quotes a text as Go's `strconv.Quote`.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            c if c.is_control() || c == '\u{feff}' || ('\u{200b}'..='\u{200f}').contains(&c) => {
                let code = u32::from(c);
                // Writing to a String cannot fail.
                let _ = match code {
                    0..=0x7f => write!(out, "\\x{code:02x}"),
                    _ => write!(out, "\\u{code:04x}"),
                };
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// How many columns of a terminal a text takes. As in Docker's tables, a wide character takes two
/// and every other one takes one.
pub(crate) fn columns(text: &str) -> usize {
    text.chars().map(width).sum()
}

fn width(c: char) -> usize {
    match c.width() {
        Some(2) => 2,
        _ => 1,
    }
}

/// Cuts a text to `most` columns, the last of which is `…` when something was cut.
pub(crate) fn ellipsis(text: &str, most: usize) -> String {
    if columns(text) <= most {
        return text.to_owned();
    }
    let mut left = most.saturating_sub(1);
    let fits = |c: &char| {
        let fits = width(*c) <= left;
        left = left.saturating_sub(width(*c));
        fits
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// The first twelve digits of an identity, without `sha256:`.
pub(crate) fn short_id(id: &str) -> &str {
    let digits = id.split_once(':').map_or(id, |(_, digits)| digits);
    digits.get(..12).unwrap_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_as_go_does() {
        assert_eq!(quote("a \"b\"\n\\\u{1}é'"), r#""a \"b\"\n\\\x01é'""#);
    }

    #[test]
    fn long_texts_end_with_an_ellipsis() {
        assert_eq!(ellipsis("abcdef", 6), "abcdef");
        assert_eq!(ellipsis("abcdefg", 6), "abcde…");
        assert_eq!(ellipsis("a日本語", 6), "a日本…");
        assert_eq!(ellipsis("日本語", 6), "日本語");
        assert_eq!(ellipsis("日本語x", 6), "日本…");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
    }
}
