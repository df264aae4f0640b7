//! Here-documents: `<<EOF`, `<<-EOF`, `3<<"EOF"`.

use serde::Serialize;

use crate::error::Error;
use crate::shell::{Manner, Shell};
use crate::variables::Variables;

/// A document within the Dockerfile.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Heredoc {
    /// The word that ends it; for `COPY` the name of the file.
    pub name: String,
    /// The content as written, with tabs in front of lines.
    pub content: String,
    /// Whether variables in it are expanded: not if any part of the word was quoted.
    pub expand: bool,
    /// Whether the tabs in front of lines are taken away: `<<-`.
    pub strip_tabs: bool,
    /// The descriptor in front of `<<`, 0 if there is none.
    pub descriptor: u32,
}

impl Heredoc {
    /// The content as it is meant.
    pub fn text(&self) -> String {
        if !self.strip_tabs {
            return self.content.clone();
        }
        self.content
            .split_inclusive('\n')
            .map(|line| line.trim_start_matches('\t'))
            .collect()
    }
}

/// Reads a word as the beginning of a document; the content is still empty.
pub(crate) fn parse(word: &str) -> Result<Option<Heredoc>, Error> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let Some(rest) = word[digits..].strip_prefix("<<") else {
        return Ok(None);
    };
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start();
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let shell = Shell::new('\\');
    let none = Variables::default();
    let manner = Manner {
        keep_unset: true,
        ..Manner::default()
    };
    let plain = shell.expand_as(manner, rest, &none)?;
    let [name] = plain.words.as_slice() else {
        return Ok(None);
    };
    let manner = Manner {
        keep_quotes: true,
        ..manner
    };
    let raw = shell.expand_as(manner, rest, &none)?;
    let quotes = |word: &str| word.matches(['\'', '"']).count();
    // An escaped quote is there both times, one that quotes only the second time.
    let expand = raw.words.len() == 1 && quotes(&raw.words[0]) == quotes(name);
    Ok(Some(Heredoc {
        name: name.clone(),
        content: String::new(),
        expand,
        strip_tabs,
        descriptor: word[..digits].parse().unwrap_or(0),
    }))
}

/// The documents that an instruction's line announces, in order.
pub(crate) fn announced(line: &str) -> Result<Vec<Heredoc>, Error> {
    let manner = Manner {
        keep_quotes: true,
        keep_escapes: true,
        keep_unset: true,
        ignore_quotes: false,
    };
    // A line that this shell cannot read may still be one for the container's shell.
    let Ok(expansion) = Shell::new('\\').expand_as(manner, line, &Variables::default()) else {
        return Ok(Vec::new());
    };
    let documents = expansion.words.iter().map(|word| parse(word));
    Ok(documents
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_begin_documents() {
        for word in [
            "<<EOF",
            "<<'EOF'",
            "<<\"EOF\"",
            "<<-EOF",
            "<<EO\"F\"",
            "<< EOF",
            "<<- EOF",
            "3<<EOF",
        ] {
            assert_eq!(parse(word).unwrap().unwrap().name, "EOF", "{word}");
        }
        for word in [
            "", "EOF", "<<", "<<-", "<EOF", "<<<EOF", "<<EOF sh", "a<<EOF",
        ] {
            assert_eq!(parse(word).unwrap(), None, "{word}");
        }
        for word in ["<<'EOF", "<<\"EOF", "<<EOF'"] {
            assert!(parse(word).is_err(), "{word}");
        }
        let quoting: &[(&str, &str, bool)] = &[
            ("<<eof", "eof", true),
            ("<<eo\\'f", "eo'f", true),
            ("<<eo'f'", "eof", false),
            ("<<'e'o\\'f", "eo'f", false),
            ("<<'one two'", "one two", false),
            ("<<$EOF", "$EOF", true),
        ];
        for (word, name, expand) in quoting {
            let document = parse(word).unwrap().unwrap();
            assert_eq!(
                (document.name.as_str(), document.expand),
                (*name, *expand),
                "{word}"
            );
        }
    }

    #[test]
    fn lines_announce_documents() {
        let names = |line: &str| -> Vec<String> {
            announced(line)
                .unwrap()
                .into_iter()
                .map(|document| document.name)
                .collect()
        };
        assert_eq!(names("RUN <<EOF <<-'B'"), ["EOF", "B"]);
        assert_eq!(names("RUN << -EOF"), ["-EOF"]);
        assert_eq!(names("RUN <<  EOF  > foo"), ["EOF"]);
        assert_eq!(names("RUN '<<EOF' \"<<EOF\" \\<<EOF"), [""; 0]);
        assert_eq!(names("RUN echo it's <<EOF"), [""; 0]);
    }

    #[test]
    fn tabs_in_front_go_when_asked() {
        let mut document = parse("<<-E").unwrap().unwrap();
        document.content = "\ta\n\t\tb\tc\n \td\n".to_owned();
        assert_eq!(document.text(), "a\nb\tc\n \td\n");
    }
}
