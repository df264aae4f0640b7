//! `COPY` and `ADD`: what is copied where, and the layer that it makes.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

use sampan_archive::{Attributes, Decoder, LayerWriter, Peeled};
use sampan_dockerfile::{Chmod, Ignore, Pattern, Source, Transfer};
use sampan_images::{HeldLayer, ImageStore};
use sampan_oci::Digest;
use tokio_util::sync::CancellationToken;

use crate::cache::{Key, KeyMaker};
use crate::context::Context;
use crate::files::{Files, Found, Kind, join, shown};
use crate::owner;
use crate::times::Times;
use crate::{Error, Result};

/// Files that one step may copy.
const MOST: usize = 4_000_000;
const WHITEOUT: &[u8] = b".wh.";

/// What is to be copied.
pub(crate) struct Wish<'a> {
    /// With its variables expanded.
    pub(crate) transfer: &'a Transfer,
    /// Keep the directories above the sources.
    pub(crate) parents: bool,
    /// Which archives are unpacked.
    pub(crate) unpack: Unpack,
    /// What was fetched, by the source as it is written.
    pub(crate) fetched: &'a BTreeMap<String, Fetched>,
    /// Where relative destinations begin.
    pub(crate) directory: &'a str,
    /// `COPY` or `ADD`.
    pub(crate) name: &'static str,
}

/// Which archives are unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unpack {
    Nothing,
    /// Those of the context.
    Local,
    /// Those that were fetched, too.
    All,
}

/// A source that was fetched.
pub(crate) struct Fetched {
    pub(crate) files: Arc<Files>,
    /// What of them is copied, without links.
    pub(crate) path: Vec<u8>,
    /// The commit that they are of.
    pub(crate) commit: Option<String>,
    /// Has the directory `.git` of a repository, which is copied too.
    pub(crate) repository: Option<Arc<Files>>,
}

/// What the sources are, before it is known where they go.
pub(crate) struct Sources(Vec<Gathered>);

enum Gathered {
    Document {
        name: String,
        bytes: Vec<u8>,
    },
    Files {
        from: Arc<Files>,
        /// As it was asked for.
        named: Vec<u8>,
        /// Without links.
        path: Vec<u8>,
        found: Found,
        /// With `--parents`: the path as it is kept, and the directories above.
        kept: Option<(Vec<u8>, Vec<Above>)>,
        /// What is in a directory, by its path below.
        members: Vec<(Vec<u8>, Found)>,
        /// It is unpacked if it is an archive.
        unpack: bool,
        /// Names everything that is there, so that nobody needs to look.
        commit: Option<String>,
    },
}

struct Above {
    /// As it is kept.
    kept: Vec<u8>,
    path: Vec<u8>,
    found: Found,
}

/// Whose files are copied.
#[derive(Clone, Copy)]
enum Origin {
    /// A client's: they belong to root unless `--chown` says otherwise.
    Client,
    /// A stage's or an image's: they keep their owners unless `--chown` says otherwise.
    Image,
    /// An archive's: they stay as they are, whatever the flags say.
    Archive,
}

/// What a step copies, and to where.
pub(crate) struct Selection {
    entries: BTreeMap<Vec<u8>, Entry>,
    /// Directories above, which the layer must show as they are.
    above: BTreeMap<Vec<u8>, Option<Attributes>>,
    owner: Option<(u32, u32)>,
}

struct Entry {
    content: Content,
    attributes: Attributes,
}

enum Content {
    Directory,
    /// A directory that is made for what is copied into it, whatever the source is like.
    NewDirectory,
    File {
        from: Arc<Files>,
        path: Vec<u8>,
        size: u64,
    },
    Document(Vec<u8>),
    Symlink(Vec<u8>),
    Fifo,
}

impl Content {
    fn is_directory(&self) -> bool {
        matches!(self, Self::Directory | Self::NewDirectory)
    }
}

impl Wish<'_> {
    /// Whether the layer does not depend on those below: names of users are looked up there.
    pub(crate) fn is_independent(&self) -> bool {
        self.transfer.link && self.transfer.chown.is_none()
    }

    /// Names what comes of it: `content` is what the [sources](Sources::digest) are, `below` what
    /// the layer will lie on, where that matters.
    pub(crate) fn key(&self, below: Key, content: Digest, times: Times) -> Key {
        let mut key = KeyMaker::new("copy");
        if !self.is_independent() {
            key.text("below", &below.0.hex());
        }
        self.describe(&mut key);
        key.text("content", &content.hex());
        times.describe(&mut key);
        key.key()
    }

    /// Adds to a key all that is asked, but not what the sources are.
    fn describe(&self, key: &mut KeyMaker) {
        let Transfer {
            // What they are counts, not what they are called.
            sources: _,
            destination,
            chown,
            chmod,
            link,
            exclude,
        } = self.transfer;
        key.text("name", self.name);
        key.number("parents", u64::from(self.parents));
        key.text("unpack", &format!("{:?}", self.unpack));
        key.text("destination", &absolute(self.directory, destination));
        key.texts("chown", chown);
        key.texts("chmod", chmod);
        key.number("link", u64::from(*link));
        key.texts("exclude", exclude);
    }

    /// Names what the sources are without a look at them, where the files have a name.
    pub(crate) fn name_of(&self, from: &Files) -> Option<Key> {
        if !self.fetched.is_empty() {
            return None;
        }
        let mut key = KeyMaker::new("sources");
        key.text("files", &from.name?.0.hex());
        for source in &self.transfer.sources {
            match source {
                Source::Path(path) => key.text("path", path),
                Source::Document(document) => {
                    key.text("document", &document.name);
                    key.text("text", &document.text());
                }
            }
        }
        key.number("parents", u64::from(self.parents));
        key.texts("exclude", &self.transfer.exclude);
        let hidden = from.hidden.iter().flat_map(Ignore::patterns);
        key.texts("hidden", &hidden.collect::<Vec<_>>());
        Some(key.key())
    }

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
        let pivot = pivot.map_or_else(String::new, |at| clean(&written[..at]));
        let path = clean(written);
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
        self.found.push(Gathered::Files {
            from: self.from.clone(),
            named: named.to_vec(),
            path: path.to_vec(),
            found: self.from.complete(path, found)?,
            kept,
            members,
            unpack: self.wish.unpack != Unpack::Nothing,
            commit: None,
        });
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
            self.found.push(Gathered::Files {
                from: files.clone(),
                found: files.complete(&path, found)?,
                named: path.clone(),
                path,
                kept,
                members,
                unpack: self.wish.unpack == Unpack::All,
                commit: fetched.commit.clone(),
            });
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
                Gathered::Files {
                    from,
                    named,
                    path,
                    found,
                    kept,
                    members,
                    unpack,
                    commit,
                } => {
                    key.number("unpack", u64::from(*unpack));
                    key.number("of image", u64::from(from.of_image));
                    if let Some(commit) = commit {
                        key.text("commit", commit);
                        key.bytes("path", path);
                        key.number("kept", u64::from(kept.is_some()));
                        continue;
                    }
                    match kept {
                        Some((kept, above)) => {
                            key.bytes("kept", kept);
                            for directory in above {
                                key.bytes("above", &directory.kept);
                                describe(&mut key, from, &directory.path, &directory.found)?;
                            }
                        }
                        // What is in a directory is copied, not the directory.
                        None if found.kind == Kind::Directory => key.text("all of", ""),
                        None => key.bytes("name", name_of(named)),
                    }
                    describe(&mut key, from, path, found)?;
                    key.number("members", members.len() as u64);
                    for (member, found) in members {
                        if cancel.is_cancelled() {
                            return Err(Error::Cancelled);
                        }
                        key.bytes("member", member);
                        describe(&mut key, from, &join(path, member), found)?;
                    }
                }
            }
        }
        Ok(key.key().0)
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

fn name_of(path: &[u8]) -> &[u8] {
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

struct Selecting<'a> {
    wish: &'a Wish<'a>,
    below: &'a Files,
    images: &'a ImageStore,
    owner: Option<(u32, u32)>,
    permissions: Option<Chmod>,
    destination: Vec<u8>,
    /// What is copied goes into it.
    into: bool,
    entries: BTreeMap<Vec<u8>, Entry>,
    archives: Vec<HeldLayer>,
}

/// Decides what is copied to where. `below` are the files that the layer will lie on. Archives
/// that are unpacked become layers for the time being; they are added to `archives`.
pub(crate) fn select(
    wish: &Wish<'_>,
    sources: Sources,
    below: &Files,
    images: &ImageStore,
    archives: &mut Vec<HeldLayer>,
) -> Result<Selection> {
    let transfer = wish.transfer;
    let owner = match &transfer.chown {
        Some(text) => Some(owner::find(text, below)?),
        None => None,
    };
    let written = absolute(wish.directory, &transfer.destination);
    let destination = below.resolve(written.as_bytes())?;
    let is_directory = destination.exists
        && below
            .look(&destination.path)?
            .is_some_and(|found| found.kind == Kind::Directory);
    let ends = |end: &str| transfer.destination.ends_with(end);
    let into = is_directory || ends("/") || ends("/.") || transfer.destination == ".";
    let is_kept = |source: &&Gathered| matches!(source, Gathered::Files { kept: Some(_), .. });
    let several = sources.0.iter().filter(|source| !is_kept(source)).count() > 1;
    if (transfer.sources.len() > 1 || several) && !into {
        return Err(Error::Step(format!(
            "When using {} with more than one source file, the destination must be a directory and end with a /",
            wish.name
        )));
    }
    let permissions = transfer.chmod.as_deref().map(Chmod::parse).transpose();
    let permissions = permissions.map_err(|error| Error::Step(error.to_string()))?;
    let mut selecting = Selecting {
        wish,
        below,
        images,
        owner,
        permissions,
        destination: destination.path,
        into,
        entries: BTreeMap::new(),
        archives: Vec::new(),
    };
    let selected = sources
        .0
        .into_iter()
        .try_for_each(|source| selecting.source(source));
    archives.append(&mut selecting.archives);
    selected?;
    let entries = selecting.entries;
    let above = above(&entries, below)?;
    Ok(Selection {
        entries,
        above,
        owner,
    })
}

/// A path with the working directory in front if it is relative.
pub(crate) fn absolute(directory: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    format!("{}/{path}", directory.trim_end_matches('/'))
}

/// The shortest form of a path below the root: nothing leads above it.
pub(crate) fn clean(path: &str) -> String {
    let mut parts = Vec::new();
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

impl Selecting<'_> {
    fn source(&mut self, source: Gathered) -> Result<()> {
        let (from, named, path, found, kept, members, unpack) = match source {
            Gathered::Document { name, bytes } => return self.document(&name, bytes),
            Gathered::Files {
                from,
                named,
                path,
                found,
                kept,
                members,
                unpack,
                commit: _,
            } => (from, named, path, found, kept, members, unpack),
        };
        let origin = match from.of_image {
            true => Origin::Image,
            false => Origin::Client,
        };
        if let Some((kept, above)) = kept {
            for directory in above {
                let target = join(&self.destination, &directory.kept);
                self.add(&from, &directory.path, directory.found, target, origin)?;
            }
            let target = join(&self.destination, &kept);
            self.add(&from, &path, found, target.clone(), origin)?;
            return self.members(&from, &path, members, &target, origin);
        }
        let destination = self.destination.clone();
        if found.kind == Kind::Directory {
            return self.tree(&from, &path, members, &destination, origin);
        }
        if unpack
            && let Kind::File(_) = found.kind
            && is_archive(&from.open(&path)?)
        {
            return self.unpacked(&from, &path, &destination);
        }
        let target = self.place(name_of(&named));
        self.add(&from, &path, found, target, origin)
    }

    fn document(&mut self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let mode = self.permissions.as_ref();
        let attributes = Attributes {
            mode: mode.map_or(0o644, |permissions| permissions.apply(0o644, false)),
            uid: self.owner.unwrap_or_default().0,
            gid: self.owner.unwrap_or_default().1,
            ..Attributes::default()
        };
        let entry = Entry {
            content: Content::Document(bytes),
            attributes,
        };
        let path = self.place(name.as_bytes());
        self.insert(path, entry)
    }

    fn unpacked(&mut self, from: &Files, path: &[u8], destination: &[u8]) -> Result<()> {
        let layer = self.images.take_archive(from.open(path)?, &shown(path))?;
        let files = Context::of_layer(layer.clone()).files(self.images)?;
        self.archives.push(layer);
        let files = Arc::new(files);
        let mut all = files.walk(b"")?;
        all.remove(&b""[..]);
        let mut members = Vec::with_capacity(all.len());
        for (member, found) in all {
            let found = files.complete(&member, found)?;
            members.push((member, found));
        }
        self.tree(&files, b"", members, destination, Origin::Archive)
    }

    fn place(&self, name: &[u8]) -> Vec<u8> {
        match self.into {
            true => join(&self.destination, name),
            false => self.destination.clone(),
        }
    }

    /// Copies what is in a directory into one that is there, or is made.
    fn tree(
        &mut self,
        from: &Arc<Files>,
        path: &[u8],
        members: Vec<(Vec<u8>, Found)>,
        to: &[u8],
        origin: Origin,
    ) -> Result<()> {
        if !self.entries.contains_key(to) && self.below.look(to)?.is_none() {
            let entry = Entry {
                content: Content::NewDirectory,
                attributes: Attributes::default(),
            };
            self.insert(to.to_vec(), entry)?;
        }
        self.members(from, path, members, to, origin)
    }

    fn members(
        &mut self,
        from: &Arc<Files>,
        path: &[u8],
        members: Vec<(Vec<u8>, Found)>,
        to: &[u8],
        origin: Origin,
    ) -> Result<()> {
        for (member, found) in members {
            let target = join(to, &member);
            self.add(from, &join(path, &member), found, target, origin)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        from: &Arc<Files>,
        path: &[u8],
        found: Found,
        target: Vec<u8>,
        origin: Origin,
    ) -> Result<()> {
        let mut attributes = found.attributes;
        let owner = match origin {
            Origin::Client => Some(self.owner.unwrap_or_default()),
            Origin::Image => self.owner,
            Origin::Archive => None,
        };
        if let Some(owner) = owner {
            (attributes.uid, attributes.gid) = owner;
        }
        let is_directory = found.kind == Kind::Directory;
        if let Some(permissions) = &self.permissions
            && !matches!(found.kind, Kind::Symlink(_))
            && !matches!(origin, Origin::Archive)
        {
            attributes.mode = permissions.apply(attributes.mode, is_directory);
        }
        let content = match found.kind {
            Kind::Directory => Content::Directory,
            Kind::File(size) => Content::File {
                from: from.clone(),
                path: path.to_vec(),
                size,
            },
            Kind::Symlink(target) => Content::Symlink(target),
            Kind::Fifo => Content::Fifo,
            Kind::Device => {
                return Err(Error::Step(format!(
                    "{} failed: {} is a device, and devices are not copied",
                    self.wish.name,
                    shown(path)
                )));
            }
        };
        let entry = Entry {
            content,
            attributes,
        };
        self.insert(target, entry)
    }

    fn insert(&mut self, path: Vec<u8>, entry: Entry) -> Result<()> {
        if self.entries.len() >= MOST {
            return Err(Error::Step("too many files are copied".to_owned()));
        }
        // In a layer such a name would remove another file.
        if path
            .split(|b| *b == b'/')
            .any(|part| part.starts_with(WHITEOUT))
        {
            return Err(Error::Step(format!(
                "{} failed: a name may not begin with .wh.: {}",
                self.wish.name,
                shown(&path)
            )));
        }
        let is_directory = entry.content.is_directory();
        let there = match self.entries.get(&path) {
            Some(earlier) => Some(earlier.content.is_directory()),
            None => self
                .below
                .look(&path)?
                .map(|found| found.kind == Kind::Directory),
        };
        match there {
            Some(true) if !is_directory => Err(Error::Step(format!(
                "cannot copy to directory: {}",
                shown(&path)
            ))),
            Some(false) if is_directory => Err(Error::Step(format!(
                "cannot copy to non-directory: {}",
                shown(&path)
            ))),
            _ => {
                self.entries.insert(path, entry);
                Ok(())
            }
        }
    }
}

/// The directories above what is copied. Those that are there come along as they are: a layer's
/// directory takes the place of the one below.
fn above(
    entries: &BTreeMap<Vec<u8>, Entry>,
    below: &Files,
) -> Result<BTreeMap<Vec<u8>, Option<Attributes>>> {
    let mut above = BTreeMap::new();
    for path in entries.keys() {
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let directory = &path[..at];
            if !entries.contains_key(directory) && !above.contains_key(directory) {
                above.insert(directory.to_vec(), existing(directory, below)?);
            }
        }
    }
    Ok(above)
}

fn existing(directory: &[u8], below: &Files) -> Result<Option<Attributes>> {
    match below.look(directory)? {
        None => Ok(None),
        Some(found) if found.kind == Kind::Directory => {
            Ok(Some(below.complete(directory, found)?.attributes))
        }
        Some(_) => Err(Error::Step(format!(
            "cannot copy to non-directory: {}",
            shown(directory)
        ))),
    }
}

impl Selection {
    /// Writes the layer. Blocks.
    pub(crate) fn write(&self, out: &mut dyn Write, times: Times) -> io::Result<()> {
        let mut layer = LayerWriter::new(out).latest(times.latest());
        let now = times.now();
        let (uid, gid) = self.owner.unwrap_or_default();
        let new = Attributes {
            mode: 0o755,
            uid,
            gid,
            mtime: now,
            extended: Vec::new(),
        };
        let mut above = self.above.iter().peekable();
        for (path, entry) in &self.entries {
            while let Some((directory, attributes)) = above.next_if(|(above, _)| *above < path) {
                layer.directory(directory, attributes.as_ref().unwrap_or(&new))?;
            }
            let attributes = &entry.attributes;
            match &entry.content {
                // The root is whatever lies below.
                Content::Directory | Content::NewDirectory if path.is_empty() => {}
                Content::Directory => layer.directory(path, attributes)?,
                Content::NewDirectory => layer.directory(path, &new)?,
                Content::Symlink(target) => layer.symlink(path, attributes, target)?,
                Content::Fifo => layer.fifo(path, attributes)?,
                Content::Document(bytes) => {
                    let attributes = Attributes {
                        mtime: now,
                        ..attributes.clone()
                    };
                    layer.file(path, &attributes, bytes.len() as u64, &bytes[..])?;
                }
                Content::File {
                    from,
                    path: of,
                    size,
                } => {
                    let file = from.open(of).map_err(io::Error::other)?;
                    layer.file(path, attributes, *size, file)?;
                }
            }
        }
        layer.finish()
    }
}

/// Writes the layer of a new directory. Nothing where it is there already.
pub(crate) fn make_directory(
    path: &str,
    owner: (u32, u32),
    below: &Files,
    out: &mut dyn Write,
    times: Times,
) -> Result<()> {
    let resolved = below.resolve(path.as_bytes())?;
    let mut layer = LayerWriter::new(out).latest(times.latest());
    let failed = || Error::io(format!("make {path}"));
    if resolved.exists {
        let is_directory = below
            .look(&resolved.path)?
            .is_some_and(|found| found.kind == Kind::Directory);
        if !is_directory {
            return Err(Error::Step(format!("{path}: not a directory")));
        }
        return layer.finish().map_err(failed());
    }
    let whole = &resolved.path;
    let ends = whole.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let ends = ends.map(|(at, _)| at).chain([whole.len()]);
    let new = Attributes {
        mode: 0o755,
        uid: owner.0,
        gid: owner.1,
        mtime: times.now(),
        extended: Vec::new(),
    };
    for end in ends {
        let directory = &whole[..end];
        if directory
            .split(|b| *b == b'/')
            .any(|part| part.starts_with(WHITEOUT))
        {
            return Err(Error::Step(format!(
                "a name may not begin with .wh.: {path}"
            )));
        }
        let attributes = existing(directory, below)?;
        let attributes = attributes.as_ref().unwrap_or(&new);
        layer.directory(directory, attributes).map_err(failed())?;
    }
    layer.finish().map_err(failed())
}

/// Whether a file is a tar that can be unpacked, told by its first bytes.
pub(crate) fn is_archive(file: &std::fs::File) -> bool {
    let Ok(peeled) = Peeled::new(BufReader::new(file)) else {
        return false;
    };
    let Ok(mut decoder) = Decoder::new(BufReader::new(peeled)) else {
        return false;
    };
    let mut block = [0; 512];
    if decoder.read_exact(&mut block).is_err() {
        return false;
    }
    let blanked = block.iter().enumerate().map(|(at, byte)| {
        let byte = if (148..156).contains(&at) {
            b' '
        } else {
            *byte
        };
        u64::from(byte)
    });
    let sum: u64 = blanked.sum();
    let written = std::str::from_utf8(&block[148..156]).unwrap_or_default();
    let written = written.trim_matches(['\0', ' ']);
    block[0] != 0 && u64::from_str_radix(written, 8) == Ok(sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sampan_dockerfile::Heredoc;
    use sampan_images::HeldLayer;
    use sampan_layers::LayerStore;
    use sampan_oci::digest::Digest;

    use super::*;
    use crate::manifest::{Item, Manifest};

    /// All that a copy depends on.
    #[derive(Clone, Debug)]
    struct Inputs {
        files: Manifest,
        transfer: Transfer,
        parents: bool,
        unpack: Unpack,
        directory: String,
        name: &'static str,
        below: Key,
        times: Times,
    }

    fn store() -> (tempfile::TempDir, ImageStore) {
        let root = tempfile::tempdir().unwrap();
        let layers = LayerStore::open(root.path(), sampan_layers::Options::default()).unwrap();
        let options = sampan_images::Options::default();
        let images = ImageStore::open(root.path(), layers, options).unwrap();
        (root, images)
    }

    impl Inputs {
        fn key(&self, images: &ImageStore) -> Key {
            let files =
                Files::of::<HeldLayer>(images, &[], None).known(Arc::new(self.files.clone()));
            let wish = Wish {
                transfer: &self.transfer,
                parents: self.parents,
                unpack: self.unpack,
                fetched: &BTreeMap::new(),
                directory: &self.directory,
                name: self.name,
            };
            let sources = wish.gather(&Arc::new(files)).unwrap();
            let digest = sources.digest(&CancellationToken::new()).unwrap();
            wish.key(self.below, digest, self.times)
        }

        fn item(&mut self, path: &str) -> &mut Item {
            self.files.0.get_mut(path.as_bytes()).unwrap()
        }

        /// Changes one input, so that the layer may be another one.
        fn change(&mut self, what: usize, by: u32) -> Option<()> {
            let transfer = &mut self.transfer;
            match what {
                0 => self.item("s/d/f").content = Digest::of(&by.to_le_bytes()).into(),
                1 => self.item("s/d/f").found.kind = Kind::File(u64::from(by) + 100),
                2 => self.item("s/d/f").found.attributes.mode ^= 1 << (by % 12),
                3 => self.item("s/d/f").found.attributes.uid ^= by | 1,
                4 => self.item("s/d/f").found.attributes.gid ^= by | 1,
                5 => {
                    let value = (b"SCHILY.xattr.user.y".to_vec(), by.to_le_bytes().to_vec());
                    self.item("s/d/f").found.attributes.extended.push(value);
                }
                6 => self.item("s/d").found.attributes.mode ^= 1 << (by % 12),
                7 => {
                    let target = format!("f{by}").into_bytes();
                    self.item("s/l").found.kind = Kind::Symlink(target);
                }
                8 => self.item("s/l").found.kind = Kind::Fifo,
                9 => {
                    let moved = self.files.0.remove(&b"s/d/f"[..])?;
                    self.files
                        .0
                        .insert(format!("s/d/g{by}").into_bytes(), moved);
                }
                10 => drop(self.files.0.remove(&b"s/l"[..])?),
                11 => {
                    let more = Item::new(Kind::Fifo, Attributes::default());
                    self.files.0.insert(format!("s/n{by}").into_bytes(), more);
                }
                12 => transfer.chown = Some(format!("{}", by + 1)),
                13 => transfer.chmod = Some(format!("{:o}", by % 0o1000)),
                14 => transfer.link = !transfer.link,
                15 => transfer.exclude.push("d/f".to_owned()),
                16 => transfer.destination.push_str(&format!("/{by}")),
                17 => self.parents = !self.parents,
                18 => {
                    self.unpack = match self.unpack {
                        Unpack::Nothing => Unpack::Local,
                        Unpack::Local | Unpack::All => Unpack::Nothing,
                    };
                }
                // Only what is relative begins there.
                19 if transfer.destination.starts_with('/') => return None,
                19 => self.directory.push_str(&format!("/{by}")),
                20 => self.below = self.below.on(self.below),
                21 => self.times = Times::new(Some(&by.to_string()), false).unwrap(),
                22 => self.times = Times::new(Some(&by.to_string()), true).unwrap(),
                23 => transfer.sources.push(document("more", by)),
                _ => return None,
            }
            Some(())
        }
    }

    const CHANGES: usize = 24;

    fn document(name: &str, by: u32) -> Source {
        Source::Document(Heredoc {
            name: name.to_owned(),
            content: format!("{by}"),
            expand: false,
            strip_tabs: false,
            descriptor: 0,
        })
    }

    fn inputs() -> impl Strategy<Value = Inputs> {
        let attributes = (0..0o7777u32, 0..9u32, 0..9u32, any::<(i32, bool)>());
        let attributes = attributes.prop_map(|(mode, uid, gid, (seconds, extended))| {
            let value = (b"SCHILY.xattr.user.x".to_vec(), b"1".to_vec());
            Attributes {
                mode,
                uid,
                gid,
                mtime: (i64::from(seconds), 7),
                extended: extended.then_some(value).into_iter().collect(),
            }
        });
        let all = proptest::collection::vec(attributes, 5);
        let flags = any::<[bool; 3]>();
        (all, flags, 0..50u64).prop_map(|(attributes, [parents, unpack, into], size)| {
            let kinds = [
                ("", Kind::Directory),
                ("s", Kind::Directory),
                ("s/d", Kind::Directory),
                ("s/d/f", Kind::File(size)),
                ("s/l", Kind::Symlink(b"d/f".to_vec())),
            ];
            let items = kinds.into_iter().zip(attributes);
            let items = items.map(|((path, kind), attributes)| {
                let item = Item::new(kind, attributes);
                let _ = item.content.set(Digest::of(b"content"));
                (path.as_bytes().to_vec(), item)
            });
            Inputs {
                files: Manifest(items.collect()),
                transfer: Transfer {
                    sources: vec![Source::Path("s".to_owned())],
                    destination: if into { "/to/" } else { "to" }.to_owned(),
                    ..Transfer::default()
                },
                parents,
                unpack: if unpack {
                    Unpack::Local
                } else {
                    Unpack::Nothing
                },
                directory: "/work".to_owned(),
                name: "COPY",
                below: KeyMaker::new("below").key(),
                times: Times::default(),
            }
        })
    }

    #[test]
    fn any_other_input_of_a_copy_has_another_key_but_not_its_times() {
        let (_root, images) = store();
        let test = (inputs(), 0..CHANGES, 0..CHANGES, 0..1000u32, any::<i64>());
        proptest!(ProptestConfig::with_cases(2000), |((inputs, one, two, by, time) in test)| {
            let key = inputs.key(&images);
            let mut touched = inputs.clone();
            for item in touched.files.0.values_mut() {
                item.found.attributes.mtime = (time, 1);
            }
            prop_assert_eq!(key, touched.key(&images));
            let mut other = inputs.clone();
            prop_assume!(other.change(one, by).is_some());
            prop_assert!(key != other.key(&images), "{}", one);
            let mut another = inputs.clone();
            prop_assume!(another.change(two, by).is_some());
            prop_assert_eq!(one == two, other.key(&images) == another.key(&images));
        });
    }
}
