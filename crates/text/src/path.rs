//! Paths by their text alone: no file is looked at, no link is followed.

/// The path from the root: starts with a slash, without `.`, `..`, double and trailing slashes.
/// Nothing leads above the root.
#[must_use]
pub fn absolute(path: &str) -> String {
    format!("/{}", below_root(path))
}

/// As [`absolute`], without the slash in front; empty for the root itself.
#[must_use]
pub fn below_root(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The shortest form of a path: no `.`, no `//`, `..` taken away where it can be, as Go's
/// `path.Clean`. A relative path stays relative and may lead upwards.
#[must_use]
pub fn clean(path: &str) -> String {
    if path.starts_with('/') {
        return absolute(path);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        return ".".to_owned();
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_above_the_root() {
        for (path, expected) in [
            ("", ""),
            ("/", ""),
            ("a//b/", "a/b"),
            ("/a/./b/../c", "a/c"),
            ("../../a", "a"),
            ("/..", ""),
            ("/a/../../b/..", ""),
            ("../../etc/passwd", "etc/passwd"),
            ("/abs", "abs"),
            ("a/../../b", "b"),
            ("./a//b/", "a/b"),
            ("/a//b/./c/", "a/b/c"),
        ] {
            assert_eq!(below_root(path), expected, "{path}");
            assert_eq!(absolute(path), format!("/{expected}"), "{path}");
        }
    }

    #[test]
    fn relative_paths_stay_relative() {
        for (path, expected) in [
            ("", "."),
            ("./", "."),
            ("a/..", "."),
            ("a/../..", ".."),
            ("../a/./b//", "../a/b"),
            ("../../a", "../../a"),
            ("/../a", "/a"),
            ("/", "/"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }
}
