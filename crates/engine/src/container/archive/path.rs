//! Paths of a container, as clients give them.

use std::io;
use std::path::Path;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use sampan_fs::Root;
use sampan_text::path::absolute;

use super::view::{NOT_FILES, open};
use crate::{Error, Result};

/// Links followed in one resolution, as many as Docker does.
const LINKS: u32 = 255;

/// An absolute path without `.` and `..` inside. A slash or `/.` at its end is kept: it tells that
/// a link there is followed, and that a directory's content is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Absolute(String);

impl Absolute {
    /// Cleans a path, which is taken as from the root.
    pub(super) fn new(text: &str) -> Result<Self> {
        if text.contains('\0') {
            return Err(Error::invalid("a path has no NUL byte"));
        }
        let mut path = absolute(text);
        let ends_in_dot = text.rsplit('/').next() == Some(".");
        if (ends_in_dot || text.ends_with('/')) && path != "/" {
            path.push('/');
        }
        if ends_in_dot {
            path.push('.');
        }
        Ok(Self(path))
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }

    pub(super) fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The last part, as Go's `filepath.Base`: `.` of `/a/.`, `a` of `/a/`, `/` of `/`.
    pub(super) fn base(&self) -> &str {
        let trimmed = self.0.trim_end_matches('/');
        if trimmed.is_empty() {
            return "/";
        }
        trimmed.rsplit('/').next().unwrap_or(trimmed)
    }

    /// The directory and the name in it.
    pub(super) fn split(&self) -> (&Path, &str) {
        let trimmed = self.0.trim_end_matches('/');
        match trimmed.rsplit_once('/') {
            Some(("", name)) => (Path::new("/"), name),
            Some((parent, name)) => (Path::new(parent), name),
            None => (Path::new("/"), trimmed),
        }
    }
}

/// Tells where a path leads in the end, with every link in it followed. What is not there stays as
/// it is written.
pub(super) fn follow(root: &Root, path: &Path) -> io::Result<String> {
    let text = path.to_string_lossy();
    let mut todo: Vec<String> = parts(&text);
    let mut done: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = todo.pop() {
        if part == ".." {
            done.pop();
            continue;
        }
        done.push(part);
        let here = format!("/{}", done.join("/"));
        let found = match open(root, Path::new(&here), OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(found) => found,
            Err(error) if is_absent(&error) => continue,
            Err(error) => return Err(error),
        };
        let stat = rustix::fs::fstat(&found)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            continue;
        }
        links += 1;
        if links > LINKS {
            return Err(Errno::LOOP.into());
        }
        let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
        let target = target.to_string_lossy().into_owned();
        done.pop();
        if target.starts_with('/') {
            done.clear();
        }
        todo.extend(parts(&target));
    }
    Ok(format!("/{}", done.join("/")))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::NOTDIR | NOT_FILES)
    )
}

/// The parts of a path, the last one first.
fn parts(text: &str) -> Vec<String> {
    let parts = text.split('/').rev();
    parts
        .filter(|part| !part.is_empty() && *part != ".")
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn ends_of_paths_are_kept_as_docker_keeps_them() {
        for (text, path, base) in [
            ("", "/", "/"),
            ("/", "/", "/"),
            (".", "/.", "."),
            ("a/b", "/a/b", "b"),
            ("/a/b/", "/a/b/", "b"),
            ("/a/b/.", "/a/b/.", "."),
            ("/a/../../b", "/b", "b"),
            ("//a//b", "/a/b", "b"),
            ("..", "/", "/"),
        ] {
            let absolute = Absolute::new(text).unwrap();
            assert_eq!((absolute.text(), absolute.base()), (path, base), "{text}");
        }
        assert!(Absolute::new("a\0b").is_err());
    }

    #[test]
    fn links_are_followed_inside_to_where_they_end() {
        let tmp = tempfile::tempdir().unwrap();
        let at = |name: &str| tmp.path().join(name);
        std::fs::create_dir_all(at("real/deep")).unwrap();
        symlink("/real", at("absolute")).unwrap();
        symlink("../../../../real/deep", at("real/up")).unwrap();
        symlink("/absolute/none/more", at("dangling")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let root = Root::open(tmp.path()).unwrap();
        let ends = |path: &str| follow(&root, Path::new(path));
        assert_eq!(ends("/absolute/deep").unwrap(), "/real/deep");
        assert_eq!(ends("/absolute/up").unwrap(), "/real/deep");
        assert_eq!(ends("/dangling").unwrap(), "/real/none/more");
        assert_eq!(ends("/").unwrap(), "/");
        assert!(ends("/loop").is_err());
    }
}
