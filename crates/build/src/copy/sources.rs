//! The sources of a copy: which files they are, and what is in them.

use std::sync::Arc;

use sampan_archive::Attributes;
use sampan_dockerfile::{Ignore, Pattern, Source};
use sampan_oci::Digest;
use sampan_text::path::below_root;
use tokio_util::sync::CancellationToken;

use super::{Fetched, Unpack, Wish};
use crate::cache::{Key, KeyMaker};
use crate::files::{Files, Found, Kind, join};
use crate::{Error, Result};

/// What the sources are, before it is known where they go.
pub(crate) struct Sources(pub(super) Vec<Gathered>);

pub(super) enum Gathered {
    Document { name: String, bytes: Vec<u8> },
    Files(SourceFiles),
}

/// The files of one source.
pub(super) struct SourceFiles {
    pub(super) from: Arc<Files>,
    /// As it was asked for.
    pub(super) named: Vec<u8>,
    /// Without links.
    pub(super) path: Vec<u8>,
    pub(super) found: Found,
    /// With `--parents`: the path as it is kept, and the directories above.
    pub(super) kept: Option<(Vec<u8>, Vec<Above>)>,
    /// What is in a directory, by its path below.
    pub(super) members: Vec<(Vec<u8>, Found)>,
    /// It is unpacked if it is an archive.
    pub(super) unpack: bool,
    /// Names everything that is there, so that nobody needs to look.
    pub(super) commit: Option<String>,
}

pub(super) struct Above {
    /// As it is kept.
    pub(super) kept: Vec<u8>,
    pub(super) path: Vec<u8>,
    pub(super) found: Found,
}

impl Wish<'_> {
    /// Finds the sources.
    pub(crate) fn gather(&self, from: &Arc<Files>) -> Result<Sources> {
        let exclude = self.transfer.exclude.iter().map(String::as_str);
        let exclude = match self.transfer.exclude.is_empty() {
            true => None,
            false => Some(
                Ignore::from_patterns(exclude).map_err(|error| Error::Step(error.to_string()))?,
            ),
        };
        let mut gathering = Gathering {
            wish: self,
            from,
            exclude,
            found: Vec::new(),
        };
        for source in &self.transfer.sources {
            match source {
                Source::Path(path) => gathering.source(path)?,
                Source::Document(document) => gathering.found.push(Gathered::Document {
                    name: document.name.clone(),
                    bytes: document.text().into_bytes(),
                }),
            }
        }
        Ok(Sources(gathering.found))
    }
}

struct Gathering<'a> {
    wish: &'a Wish<'a>,
    from: &'a Arc<Files>,
    exclude: Option<Ignore>,
    found: Vec<Gathered>,
}

impl Gathering<'_> {
    fn source(&mut self, written: &str) -> Result<()> {
        if let Some(fetched) = self.wish.fetched.get(written) {
            return self.fetched(fetched);
        }
        // What stands before `/./` is not kept by --parents.
        let pivot = written.find("/./").filter(|_| self.wish.parents);
        let pivot = pivot.map_or_else(String::new, |at| below_root(&written[..at]));
        let path = below_root(written);
        let pattern = Pattern::plain(&path).map_err(|error| Error::Step(error.to_string()))?;
        let not_found = || {
            Error::Step(format!(
                "{} failed: file not found in build context or excluded by .dockerignore: stat {}: file does not exist",
                self.wish.name,
                written.trim_start_matches('/')
            ))
        };
        if !pattern.has_wildcards() {
            let resolved = self.from.resolve(path.as_bytes())?;
            let hidden = !path.is_empty() && self.from.is_hidden(path.as_bytes());
            let whole = resolved.exists
                && (!hidden
                    || self
                        .from
                        .hidden
                        .as_ref()
                        .is_some_and(Ignore::has_exceptions));
            if !whole {
                return Err(not_found());
            }
            return self.one(path.as_bytes(), &resolved.path, &pivot);
        }
        let found = match self.wish.parents && path.contains("**") {
            true => self.from.matching_deep(&path)?,
            false => self.from.matching(&path)?,
        };
        let found: Vec<Vec<u8>> = found
            .into_iter()
            .filter(|path| !self.from.is_hidden(path))
            .collect();
        if found.is_empty() {
            return Err(not_found());
        }
        for path in found {
            let resolved = self.from.resolve(&path)?;
            if resolved.exists {
                self.one(&path, &resolved.path, &pivot)?;
            }
        }
        Ok(())
    }

    /// Finds one source: `named` as it was asked for, `path` without links.
    fn one(&mut self, named: &[u8], path: &[u8], pivot: &str) -> Result<()> {
        let Some(found) = self.from.look(path)? else {
            return Ok(());
        };
        let mut kept = None;
        if self.wish.parents {
            let rest = named.strip_prefix(pivot.as_bytes()).unwrap_or(named);
            let rest = rest.strip_prefix(b"/").unwrap_or(rest);
            kept = Some((rest.to_vec(), self.above(rest, pivot.as_bytes())?));
        }
        let mut members = Vec::new();
        if found.kind == Kind::Directory {
            members = self.members(self.from, path)?;
        } else if kept.is_none() && self.is_excluded(name_of(named)) {
            return Ok(());
        }
        self.found.push(Gathered::Files(SourceFiles {
            from: self.from.clone(),
            named: named.to_vec(),
            path: path.to_vec(),
            found: self.from.complete(path, found)?,
            kept,
            members,
            unpack: self.wish.unpack != Unpack::Nothing,
            commit: None,
        }));
        Ok(())
    }

    fn fetched(&mut self, fetched: &Fetched) -> Result<()> {
        let repository = fetched.repository.as_ref().map(|files| {
            let name = b".git".to_vec();
            (files, name.clone(), Some((name, Vec::new())))
        });
        let itself = (&fetched.files, fetched.path.clone(), None);
        for (files, path, kept) in std::iter::once(itself).chain(repository) {
            let Some(found) = files.look(&path)? else {
                continue;
            };
            let members = match found.kind {
                Kind::Directory => self.members(files, &path)?,
                _ => Vec::new(),
            };
            self.found.push(Gathered::Files(SourceFiles {
                from: files.clone(),
                found: files.complete(&path, found)?,
                named: path.clone(),
                path,
                kept,
                members,
                unpack: self.wish.unpack == Unpack::All,
                commit: fetched.commit.clone(),
            }));
        }
        Ok(())
    }

    /// The directories above a path that is kept, as they are in the source.
    fn above(&self, kept: &[u8], pivot: &[u8]) -> Result<Vec<Above>> {
        let mut all = Vec::new();
        for (at, _) in kept.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let path = join(pivot, &kept[..at]);
            if let Some(found) = self.from.look(&path)?
                && found.kind == Kind::Directory
            {
                all.push(Above {
                    kept: kept[..at].to_vec(),
                    found: self.from.complete(&path, found)?,
                    path,
                });
            }
        }
        Ok(all)
    }

    fn members(&self, from: &Files, directory: &[u8]) -> Result<Vec<(Vec<u8>, Found)>> {
        let mut members = Vec::new();
        for (path, found) in from.walk(directory)? {
            let relative = below(directory, &path);
            if relative.is_empty() || self.is_excluded(relative) || from.is_hidden(&path) {
                continue;
            }
            let relative = relative.to_vec();
            members.push((relative, from.complete(&path, found)?));
        }
        Ok(members)
    }

    fn is_excluded(&self, path: &[u8]) -> bool {
        self.exclude
            .as_ref()
            .is_some_and(|exclude| exclude.is_ignored(&String::from_utf8_lossy(path)))
    }
}

impl Sources {
    /// Names what all sources are, times excepted. Reads the files whose digests are not known.
    /// Blocks.
    pub(crate) fn digest(&self, cancel: &CancellationToken) -> Result<Digest> {
        let mut key = KeyMaker::new("content");
        for source in &self.0 {
            match source {
                Gathered::Document { name, bytes } => {
                    key.text("document", name);
                    key.bytes("text", bytes);
                }
                Gathered::Files(files) => files.describe(&mut key, cancel)?,
            }
        }
        Ok(key.key().0)
    }
}

impl SourceFiles {
    /// Adds to a key what they are.
    fn describe(&self, key: &mut KeyMaker, cancel: &CancellationToken) -> Result<()> {
        let Self {
            from,
            named,
            path,
            found,
            kept,
            members,
            unpack,
            commit,
        } = self;
        key.number("unpack", u64::from(*unpack));
        key.number("of image", u64::from(from.of_image));
        if let Some(commit) = commit {
            key.text("commit", commit);
            key.bytes("path", path);
            key.number("kept", u64::from(kept.is_some()));
            return Ok(());
        }
        match kept {
            Some((kept, above)) => {
                key.bytes("kept", kept);
                for directory in above {
                    key.bytes("above", &directory.kept);
                    describe(key, from, &directory.path, &directory.found)?;
                }
            }
            // What is in a directory is copied, not the directory.
            None if found.kind == Kind::Directory => key.text("all of", ""),
            None => key.bytes("name", name_of(named)),
        }
        describe(key, from, path, found)?;
        key.number("members", members.len() as u64);
        for (member, found) in members {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            key.bytes("member", member);
            describe(key, from, &join(path, member), found)?;
        }
        Ok(())
    }
}

/// Names everything that can be seen of a path, times excepted. Reads the files whose digests are
/// not known. Blocks.
pub(crate) fn contents(files: &Files, path: &[u8], cancel: &CancellationToken) -> Result<Key> {
    let mut key = KeyMaker::new("contents");
    for (member, found) in files.walk(path)? {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if !files.is_hidden(&member) {
            key.bytes("member", below(path, &member));
            describe(&mut key, files, &member, &files.complete(&member, found)?)?;
        }
    }
    Ok(key.key())
}

fn describe(key: &mut KeyMaker, from: &Files, path: &[u8], found: &Found) -> Result<()> {
    let Attributes {
        mode,
        uid,
        gid,
        mtime: _,
        extended,
    } = &found.attributes;
    for (name, number) in [("mode", mode), ("uid", uid), ("gid", gid)] {
        key.number(name, u64::from(*number));
    }
    key.number("attributes", extended.len() as u64);
    for (name, value) in extended {
        key.bytes("name", name);
        key.bytes("value", value);
    }
    match &found.kind {
        Kind::Directory => key.text("directory", ""),
        Kind::Fifo => key.text("fifo", ""),
        Kind::Device => key.text("device", ""),
        Kind::Symlink(target) => key.bytes("symlink", target),
        Kind::File(size) => {
            key.number("size", *size);
            key.text("content", &from.content(path)?.hex());
        }
    }
    Ok(())
}

pub(super) fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or_default()
}

/// What follows a directory in a path below it.
fn below<'p>(directory: &[u8], path: &'p [u8]) -> &'p [u8] {
    match directory.is_empty() {
        true => path,
        false => path[directory.len()..]
            .strip_prefix(b"/")
            .unwrap_or_default(),
    }
}
