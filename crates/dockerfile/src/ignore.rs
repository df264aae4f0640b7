//! `.dockerignore`: what of a context does not exist for a build.

use sampan_text::path;

use crate::error::{Error, ErrorKind};
use crate::glob::Pattern;

/// Patterns in order; the last one that matches a path, or a directory above it, decides.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    pattern: Pattern,
    /// `!`: what it matches exists after all.
    exception: bool,
}

/// What the rules say of one directory or file, for what lies below it.
#[derive(Clone, Debug, Default)]
pub struct Visit {
    /// Which rules match it or a directory above it.
    matched: Vec<bool>,
    ignored: bool,
}

impl Visit {
    /// Whether the path itself is ignored.
    pub fn is_ignored(&self) -> bool {
        self.ignored
    }
}

impl Ignore {
    /// Reads a file: a pattern on each line, `#` as the very first character is a comment.
    pub fn parse(file: &[u8]) -> Result<Self, Error> {
        let text = String::from_utf8_lossy(file);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        Self::from_patterns(text.lines().filter(|line| !line.starts_with('#')))
    }

    /// Takes patterns one by one, as of `COPY --exclude`. White space around
    /// them, a slash in front and one behind do not count.
    pub fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let mut rules = Vec::new();
        for line in patterns {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let (exception, text) = match line.strip_prefix('!') {
                Some(text) => (true, text.trim()),
                None => (false, line),
            };
            if text.is_empty() {
                let message = "illegal exclusion pattern: \"!\"";
                return Err(Error::new(ErrorKind::Pattern, message)
                    .with_hint("! needs the pattern of what is to be kept"));
            }
            let clean = path::clean(text);
            let relative = match clean.strip_prefix('/') {
                Some(relative) if !relative.is_empty() => relative,
                _ => &clean,
            };
            rules.push(Rule {
                pattern: Pattern::deep(relative)?,
                exception,
            });
        }
        Ok(Self { rules })
    }

    /// Whether nothing is ignored.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether any rule makes an exception.
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.exception)
    }

    /// The patterns with `!` in front of exceptions.
    pub fn patterns(&self) -> impl Iterator<Item = String> {
        self.rules.iter().map(|rule| {
            let sign = if rule.exception { "!" } else { "" };
            format!("{sign}{}", rule.pattern.text())
        })
    }

    /// Whether a path is ignored, seen from the context's root: `a/b`.
    pub fn is_ignored(&self, path: &str) -> bool {
        let mut visit = self.root();
        for (end, _) in path.match_indices('/').filter(|(end, _)| *end > 0) {
            visit = self.visit(&visit, &path[..end]);
        }
        self.visit(&visit, path).ignored
    }

    /// The context's root, where a walk begins. It is never ignored.
    pub fn root(&self) -> Visit {
        Visit {
            matched: vec![false; self.rules.len()],
            ignored: false,
        }
    }

    /// What the rules say of a path whose directory has been visited.
    pub fn visit(&self, directory: &Visit, path: &str) -> Visit {
        let mut ignored = false;
        let rules = self.rules.iter().enumerate();
        let matched = rules.map(|(index, rule)| {
            let above = directory.matched.get(index).copied().unwrap_or(false);
            let matches = above || rule.pattern.matches(path);
            if matches {
                ignored = !rule.exception;
            }
            matches
        });
        let matched = matched.collect();
        Visit { matched, ignored }
    }

    /// Whether a walk must go into a directory: something below may not be ignored.
    pub fn may_keep_below(&self, directory: &Visit, path: &str) -> bool {
        if !directory.ignored {
            return true;
        }
        // What ignores the directory ignores all below; only a later exception can help.
        let rules = self.rules.iter().zip(&directory.matched).rev();
        rules
            .take_while(|(rule, matched)| rule.exception || !**matched)
            .any(|(rule, _)| rule.exception && rule.pattern.may_match_below(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored(patterns: &[&str], path: &str) -> bool {
        Ignore::from_patterns(patterns.iter().copied())
            .unwrap()
            .is_ignored(path)
    }

    #[test]
    fn single_patterns_match_as_moby_matches_them() {
        let cases = [
            ("**", "file", true),
            ("**", "file/", true),
            ("**/", "file", true),
            ("**", "dir/file", true),
            ("**/", "dir/file/", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir/dir2/file/", true),
            ("**/dir", "dir", true),
            ("**/dir", "dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/*", "dir/dir2/file/", true),
            ("**/dir2/**", "dir/dir2/dir3/file", true),
            ("**file", "file", true),
            ("**file", "dir/file", true),
            ("**/file", "dir/file", true),
            ("**file", "dir/dir/file", true),
            ("**/file", "dir/dir/file", true),
            ("**/file*", "dir/dir/file.txt", true),
            ("**/file*txt", "dir/dir/file.txt", true),
            ("**/file*.txt*", "dir/dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("**/**/*.txt2", "dir/dir/file.txt", false),
            ("**/*.txt", "file.txt", true),
            ("**/**/*.txt", "file.txt", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "a/dir/dir/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a/*.txt", "a/file.txt", true),
            ("a/*.txt**", "a/file.txt", true),
            ("a[b-d]e", "ae", false),
            ("a[b-d]e", "ace", true),
            ("a[b-d]e", "aae", false),
            ("a[^b-d]e", "aze", true),
            (".*", ".foo", true),
            (".*", "foo", false),
            ("abc.def", "abcdef", false),
            ("abc.def", "abcZdef", false),
            ("abc?def", "abcZdef", true),
            ("abc?def", "abcdef", false),
            ("a\\\\", "a\\", true),
            ("a\\*b", "a*b", true),
            ("**/foo/bar", "foo/bar", true),
            ("**/foo/bar", "dir/dir2/foo/bar", true),
            ("abc/**", "abc", false),
            ("abc/**", "abc/def/ghi", true),
            ("**/.foo", ".foo", true),
            ("**/.foo", "bar.foo", false),
            ("a(b)c/def", "a(b)c/def", true),
            ("a(b)c/def", "a(b)c/xyz", false),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            (
                "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
                "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
                true,
            ),
            (
                "dist/*.whl",
                "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl",
                true,
            ),
            ("a*", "ab/c", true),
            ("a*/b", "a/c/b", false),
            ("/a", "a", true),
            ("a/", "a/b", true),
            ("./a//b/../c", "a/c", true),
            ("  a  ", "a", true),
            ("../a", "a", false),
            (".", "a", false),
            ("/", "a", false),
            ("A", "a", false),
        ];
        for (pattern, path, expected) in cases {
            assert_eq!(ignored(&[pattern], path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn the_last_match_decides() {
        let cases: &[(&[&str], &str, bool)] = &[
            (&["!fileutils.go", "*.go"], "fileutils.go", true),
            (&["*.go", "!fileutils.go"], "fileutils.go", false),
            (&["docs", "!docs/README.md"], "docs/README.md", false),
            (&["docs/", "!docs/README.md"], "docs/README.md", false),
            (&["docs/*", "!docs/README.md"], "docs/README.md", false),
            (&["docs", "!docs/README.md"], "docs/other", true),
            (&["**", "!util/docker/web"], "util/docker/web/foo", false),
            (
                &["**", "!util/docker/web", "util/docker/web/foo"],
                "util/docker/web/foo",
                true,
            ),
            (&["**", "!dist/*.whl"], "dist/a-1.whl", false),
            (&["*", "!a"], "a/b", false),
            (&["!a/b", "a"], "a/b", true),
            (
                &["*.md", "!README*.md", "README-secret.md"],
                "README-secret.md",
                true,
            ),
            (&[], "/any/path", false),
        ];
        for (patterns, path, expected) in cases {
            assert_eq!(ignored(patterns, path), *expected, "{patterns:?} {path}");
        }
    }

    #[test]
    fn files_are_read_as_docker_reads_them() {
        let file = "\u{feff}test1\r\n/test2\n/a/file/here\n\n  \nlastfile\n# a comment\n #not a comment\n! /inverted/abs/path\na/\n";
        let ignore = Ignore::parse(file.as_bytes()).unwrap();
        let patterns: Vec<String> = ignore.patterns().collect();
        let expected = [
            "test1",
            "test2",
            "a/file/here",
            "lastfile",
            "#not a comment",
            "!inverted/abs/path",
            "a",
        ];
        assert_eq!(patterns, expected);
        for wrong in ["!", "a\n! \n", "["] {
            assert_eq!(
                Ignore::parse(wrong.as_bytes()).unwrap_err().kind(),
                ErrorKind::Pattern
            );
        }
    }

    #[test]
    fn a_walk_enters_only_where_something_may_be_kept() {
        let enters = |patterns: &[&str], path: &str| {
            let ignore = Ignore::from_patterns(patterns.iter().copied()).unwrap();
            let visit = ignore.visit(&ignore.root(), path);
            ignore.may_keep_below(&visit, path)
        };
        assert!(enters(&["node_modules"], "src"));
        assert!(!enters(&["node_modules"], "node_modules"));
        assert!(!enters(&["*", "!src/**"], "node_modules"));
        assert!(enters(&["*", "!src/**"], "src"));
        assert!(!enters(&["!a/b", "a"], "a"));
        assert!(enters(&["a", "!**/keep"], "a"));
        assert!(!enters(&["a", "!b"], "a"));
        assert!(enters(&["a", "!a/b/c"], "a"));
    }
}
