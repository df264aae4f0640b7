//! Which file becomes which: the rules of `cp -a`, as Docker has them.

use std::io;
use std::path::Path;

use sampan_text::path::clean;

use crate::cli::failure::Failure;

/// Links followed to a destination.
const LINKS: usize = 10;

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Its path, with the slash or `/.` at the end that says that a directory is meant.
    pub(super) path: String,
    pub(super) exists: bool,
    pub(super) is_directory: bool,
}

/// Where an archive is unpacked, and what its first part is called there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) directory: String,
    pub(super) rename: Option<(String, String)>,
}

/// Decides where an archive of `from` is unpacked so that it comes to be `to`. `called` is the name
/// in the archive, where it is not the last part of the source.
pub(super) fn plan(from: &Place, called: Option<&str>, to: &Place) -> Result<Ends, Failure> {
    let renamed = || {
        let old = called.map_or_else(|| base(&from.path), str::to_owned);
        Ends {
            directory: parent(&to.path),
            rename: Some((old, base(&to.path))),
        }
    };
    match (to.exists, to.is_directory, from.is_directory) {
        // It goes into the directory.
        (true, true, _) => Ok(Ends {
            directory: to.path.clone(),
            rename: None,
        }),
        (true, false, true) => Err(Failure::message("cannot copy directory")),
        (true, false, false) | (false, _, true) => Ok(renamed()),
        (false, _, false) if means_directory(&to.path) => {
            Err(Failure::message("no such directory"))
        }
        (false, _, false) => Ok(renamed()),
    }
}

/// Whether a path says that it is a directory.
fn means_directory(path: &str) -> bool {
    path.ends_with('/') || ends_in_dot(path)
}

fn ends_in_dot(path: &str) -> bool {
    path.rsplit('/').next() == Some(".")
}

/// Gives a cleaned path the end that the original has.
pub(super) fn keep_end(mut cleaned: String, original: &str) -> String {
    if !ends_in_dot(&cleaned) && ends_in_dot(original) {
        if !cleaned.ends_with('/') {
            cleaned.push('/');
        }
        cleaned.push('.');
    }
    if !cleaned.ends_with('/') && original.ends_with('/') {
        cleaned.push('/');
    }
    cleaned
}

/// Directory and last part; the last part of `/a/.` is `.`.
fn split(path: &str) -> (String, String) {
    let mut cleaned = clean(path);
    if ends_in_dot(path) && cleaned != "." {
        cleaned = format!("{}/.", cleaned.trim_end_matches('/'));
    }
    match cleaned.rsplit_once('/') {
        _ if cleaned == "/" => ("/".to_owned(), "/".to_owned()),
        Some(("", name)) => ("/".to_owned(), name.to_owned()),
        Some((parent, name)) => (parent.to_owned(), name.to_owned()),
        None => (".".to_owned(), cleaned),
    }
}

/// The directory that something lies in.
pub(super) fn parent(path: &str) -> String {
    split(path).0
}

/// The last part.
pub(super) fn base(path: &str) -> String {
    split(path).1
}

/// A local path from the root, with its end.
pub(super) fn absolute(path: &str) -> io::Result<String> {
    let here = std::env::current_dir()?;
    let whole = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("{}/{path}", here.to_string_lossy()),
    };
    Ok(keep_end(clean(&whole), path))
}

/// Follows the links of a local source: those of its directory, with `follow` also the last one.
/// Answers the path, and what it is called in the archive where that is another name.
pub(super) fn source(path: &str, follow: bool) -> io::Result<(String, Option<String>)> {
    let real = |path: &str| {
        let real = std::fs::canonicalize(path)?;
        Ok::<_, io::Error>(real.to_string_lossy().into_owned())
    };
    if follow {
        return Ok(renamed(path, real(path)?));
    }
    // With a slash at its end the whole is a directory, which links may lead to.
    let (directory, name) = path.rsplit_once('/').unwrap_or((".", path));
    let directory = if directory.is_empty() { "/" } else { directory };
    let directory = real(directory)?;
    let resolved = format!("{}/{name}", directory.trim_end_matches('/'));
    let called = base(path);
    let other = path.ends_with('/') && called != base(&resolved);
    Ok((resolved, other.then_some(called)))
}

/// A path that links have led to, with the end of the one that was asked for, and the name that
/// was asked for where it is another.
pub(super) fn renamed(asked: &str, found: String) -> (String, Option<String>) {
    let found = keep_end(found, asked);
    let last = |path: &str| {
        let trimmed = path.trim_end_matches('/');
        trimmed.rsplit('/').next().unwrap_or(trimmed).to_owned()
    };
    let name = last(asked);
    let other = name != last(&found);
    (found, other.then_some(name))
}

/// Checks where files are to be written to.
pub(super) fn check_output(path: &str) -> Result<(), Failure> {
    let directory = parent(&clean(path));
    if !Path::new(&directory).exists() {
        return Err(Failure::message(format!(
            "invalid output path: directory {directory:?} does not exist"
        )));
    }
    use std::os::unix::fs::FileTypeExt;
    if let Ok(metadata) = std::fs::metadata(path) {
        let kind = metadata.file_type();
        if kind.is_char_device() || kind.is_block_device() {
            return Err(Failure::message(format!(
                "invalid output path: {path:?} must be a directory or a regular file: got a device"
            )));
        }
    }
    Ok(())
}

/// Looks at a local destination, following links.
pub(super) fn destination(path: &str) -> Result<Place, Failure> {
    let mut path = path.to_owned();
    let failed = |path: &str, error: &io::Error| {
        let why = crate::cli::container::describe_io(error);
        Failure::message(format!("lstat {path}: {why}"))
    };
    for _ in 0..=LINKS {
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => {
                let target = std::fs::read_link(&path).map_err(|error| failed(&path, &error))?;
                let target = target.to_string_lossy();
                path = match target.starts_with('/') {
                    true => target.into_owned(),
                    false => clean(&format!("{}/{target}", parent(&path))),
                };
            }
            Ok(metadata) => {
                return Ok(Place {
                    path,
                    exists: true,
                    is_directory: metadata.is_dir(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let directory = parent(&path);
                let metadata =
                    std::fs::metadata(&directory).map_err(|error| failed(&directory, &error))?;
                if !metadata.is_dir() {
                    return Err(Failure::message("not a directory"));
                }
                return Ok(Place {
                    path,
                    exists: false,
                    is_directory: false,
                });
            }
            Err(error) => return Err(failed(&path, &error)),
        }
    }
    Err(Failure::message(format!("too many symlinks in {path:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str, kind: &str) -> Place {
        Place {
            path: path.to_owned(),
            exists: kind != "none",
            is_directory: kind == "directory",
        }
    }

    #[test]
    fn the_table_of_dockers_documentation() {
        for (from, from_kind, to, to_kind, directory, rename) in [
            ("/s/f", "file", "/t/new", "none", "/t", Some(("f", "new"))),
            ("/s/f", "file", "/t/old", "file", "/t", Some(("f", "old"))),
            ("/s/f", "file", "/t/d", "directory", "/t/d", None),
            (
                "/s/d",
                "directory",
                "/t/new",
                "none",
                "/t",
                Some(("d", "new")),
            ),
            ("/s/d", "directory", "/t/d", "directory", "/t/d", None),
            (
                "/s/d/.",
                "directory",
                "/t/new",
                "none",
                "/t",
                Some((".", "new")),
            ),
            ("/s/d/.", "directory", "/t/d", "directory", "/t/d", None),
            ("/", "directory", "/t/new", "none", "/t", Some(("/", "new"))),
        ] {
            let ends = plan(&place(from, from_kind), None, &place(to, to_kind)).unwrap();
            assert_eq!(ends.directory, directory, "{from} {to}");
            let rename = rename.map(|(old, new): (&str, &str)| (old.into(), new.into()));
            assert_eq!(ends.rename, rename, "{from} {to}");
        }
        let refused = |from: &Place, to: &Place| plan(from, None, to).unwrap_err().text();
        assert_eq!(
            refused(&place("/s/d", "directory"), &place("/t/f", "file")),
            "cannot copy directory"
        );
        assert_eq!(
            refused(&place("/s/f", "file"), &place("/t/new/", "none")),
            "no such directory"
        );
    }

    #[test]
    fn ends_of_paths_stay() {
        assert_eq!(keep_end(clean("/a/b/../c/."), "/a/b/../c/."), "/a/c/.");
        assert_eq!(keep_end(clean("a//b/"), "a//b/"), "a/b/");
        assert_eq!(split("/a/."), ("/a".to_owned(), ".".to_owned()));
        assert_eq!(split("/a/b/"), ("/a".to_owned(), "b".to_owned()));
        assert_eq!(split("/"), ("/".to_owned(), "/".to_owned()));
        assert_eq!(split("a"), (".".to_owned(), "a".to_owned()));
    }

    #[test]
    fn links_of_sources_are_followed_as_asked() {
        let tmp = tempfile::tempdir().unwrap();
        let top = std::fs::canonicalize(tmp.path()).unwrap();
        std::fs::create_dir(top.join("real")).unwrap();
        std::os::unix::fs::symlink("real", top.join("link")).unwrap();
        let at = |name: &str| format!("{}/{name}", top.display());
        assert_eq!(source(&at("link"), false).unwrap(), (at("link"), None));
        let (path, called) = source(&at("link"), true).unwrap();
        assert_eq!((path, called.as_deref()), (at("real"), Some("link")));
        let (path, called) = source(&at("link/"), false).unwrap();
        assert_eq!((path, called.as_deref()), (at("real/"), Some("link")));
        assert_eq!(source(&at("link/."), false).unwrap(), (at("real/."), None));
    }
}
