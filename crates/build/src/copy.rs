//! `COPY` and `ADD`: what is copied where, and the layer that it makes.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

use sampan_archive::{Attributes, Decoder, LayerWriter};
use sampan_dockerfile::{Chmod, Ignore, Pattern, Source, Transfer};
use sampan_images::{HeldLayer, ImageStore};
use sampan_oci::digest::Hasher;
use tokio_util::sync::CancellationToken;

use crate::cache::KeyMaker;
use crate::files::{Files, Found, Kind, join, shown};
use crate::owner;
use crate::{Error, Result};

/// Files that one step may copy.
const MOST: usize = 4_000_000;
const WHITEOUT: &[u8] = b".wh.";
const PIECE: usize = 256 << 10;

/// What is to be copied.
pub(crate) struct Wish<'a> {
    /// With its variables expanded.
    pub(crate) transfer: &'a Transfer,
    /// Keep the directories above the sources.
    pub(crate) parents: bool,
    /// Unpack archives.
    pub(crate) unpack: bool,
    /// Where relative destinations begin.
    pub(crate) directory: &'a str,
    /// `COPY` or `ADD`.
    pub(crate) name: &'static str,
}

/// What a step copies.
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
    File {
        from: Arc<Files>,
        path: Vec<u8>,
        size: u64,
    },
    Document(Vec<u8>),
    Symlink(Vec<u8>),
    Fifo,
}

struct Selecting<'a> {
    wish: &'a Wish<'a>,
    from: &'a Arc<Files>,
    below: &'a Files,
    images: &'a ImageStore,
    owner: Option<(u32, u32)>,
    permissions: Option<Chmod>,
    exclude: Option<Ignore>,
    destination: Vec<u8>,
    /// What is copied goes into it.
    into: bool,
    entries: BTreeMap<Vec<u8>, Entry>,
    archives: Vec<HeldLayer>,
}

/// Decides what is copied. `below` are the files that the layer will lie on. Archives that are
/// unpacked become layers for the time being; they are added to `archives`.
pub(crate) fn select(
    wish: &Wish<'_>,
    from: &Arc<Files>,
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
    if transfer.sources.len() > 1 && !into {
        return Err(Error::Step(format!(
            "When using {} with more than one source file, the destination must be a directory and end with a /",
            wish.name
        )));
    }
    let exclude = match transfer.exclude.is_empty() {
        true => None,
        false => Some(
            Ignore::from_patterns(transfer.exclude.iter().map(String::as_str))
                .map_err(|error| Error::Step(error.to_string()))?,
        ),
    };
    let permissions = transfer.chmod.as_deref().map(Chmod::parse).transpose();
    let permissions = permissions.map_err(|error| Error::Step(error.to_string()))?;
    let mut selecting = Selecting {
        wish,
        from,
        below,
        images,
        owner,
        permissions,
        exclude,
        destination: destination.path,
        into,
        entries: BTreeMap::new(),
        archives: Vec::new(),
    };
    let selected = transfer
        .sources
        .iter()
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
    fn source(&mut self, source: &Source) -> Result<()> {
        let written = match source {
            Source::Document(document) => {
                let mode = self.permissions.as_ref();
                let attributes = Attributes {
                    mode: mode.map_or(0o644, |permissions| permissions.apply(0o644, false)),
                    uid: self.owner.unwrap_or_default().0,
                    gid: self.owner.unwrap_or_default().1,
                    ..Attributes::default()
                };
                let entry = Entry {
                    content: Content::Document(document.text().into_bytes()),
                    attributes,
                };
                let path = self.place(document.name.as_bytes());
                return self.insert(path, entry);
            }
            Source::Path(path) => path,
        };
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
        let found = self.from.matching(&path)?;
        let found: Vec<Vec<u8>> = found
            .into_iter()
            .filter(|path| !self.from.is_hidden(path))
            .collect();
        if found.is_empty() {
            return Err(not_found());
        }
        if found.len() > 1 && !self.into {
            return Err(Error::Step(format!(
                "When using {} with more than one source file, the destination must be a directory and end with a /",
                self.wish.name
            )));
        }
        for path in found {
            let resolved = self.from.resolve(&path)?;
            if resolved.exists {
                self.one(&path, &resolved.path, &pivot)?;
            }
        }
        Ok(())
    }

    /// Copies one source: `named` as it was asked for, `path` without links.
    fn one(&mut self, named: &[u8], path: &[u8], pivot: &str) -> Result<()> {
        let Some(found) = self.from.look(path)? else {
            return Ok(());
        };
        let name = named.rsplit(|b| *b == b'/').next().unwrap_or_default();
        if self.wish.parents {
            let kept = named.strip_prefix(pivot.as_bytes()).unwrap_or(named);
            let kept = kept.strip_prefix(b"/").unwrap_or(kept);
            let target = join(&self.destination, kept);
            // The directories above, as they are in the source.
            for (at, _) in kept.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
                let above = &kept[..at];
                let source = match pivot.is_empty() {
                    true => above.to_vec(),
                    false => join(pivot.as_bytes(), above),
                };
                if let Some(found) = self.from.look(&source)?
                    && found.kind == Kind::Directory
                {
                    let target = join(&self.destination, above);
                    self.add(&self.from.clone(), &source, found, target, true)?;
                }
            }
            return match found.kind {
                Kind::Directory => self.tree(&self.from.clone(), path, &target, true),
                _ => self.add(&self.from.clone(), path, found, target, true),
            };
        }
        if found.kind == Kind::Directory {
            let destination = self.destination.clone();
            return self.tree(&self.from.clone(), path, &destination, true);
        }
        if self.wish.unpack
            && let Kind::File(_) = found.kind
            && is_archive(&mut self.from.open(path)?, path)?
        {
            let layer = self
                .images
                .take_archive(self.from.open(path)?, &shown(path))?;
            let files = Arc::new(Files::mount(self.images, std::slice::from_ref(&layer))?);
            self.archives.push(layer);
            let destination = self.destination.clone();
            return self.tree(&files, b"", &destination, false);
        }
        if let Some(exclude) = &self.exclude
            && exclude.is_ignored(&String::from_utf8_lossy(name))
        {
            return Ok(());
        }
        let target = self.place(name);
        self.add(&self.from.clone(), path, found, target, true)
    }

    fn place(&self, name: &[u8]) -> Vec<u8> {
        match self.into {
            true => join(&self.destination, name),
            false => self.destination.clone(),
        }
    }

    /// Copies what is in a directory. One that is there already keeps what it is.
    fn tree(&mut self, from: &Arc<Files>, path: &[u8], to: &[u8], reown: bool) -> Result<()> {
        for (source, found) in from.walk(path)? {
            let relative = match path.is_empty() {
                true => &source[..],
                false => source[path.len()..].strip_prefix(b"/").unwrap_or_default(),
            };
            if relative.is_empty() {
                if self.below.look(to)?.is_none() {
                    self.add(from, &source, found, to.to_vec(), reown)?;
                }
                continue;
            }
            let text = String::from_utf8_lossy(relative);
            let excluded = self
                .exclude
                .as_ref()
                .is_some_and(|exclude| exclude.is_ignored(&text));
            if excluded || from.is_hidden(&source) {
                continue;
            }
            self.add(from, &source, found, join(to, relative), reown)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        from: &Arc<Files>,
        path: &[u8],
        found: Found,
        target: Vec<u8>,
        reown: bool,
    ) -> Result<()> {
        let found = from.complete(path, found)?;
        let mut attributes = found.attributes;
        match self.owner {
            Some(owner) => (attributes.uid, attributes.gid) = owner,
            None if reown => (attributes.uid, attributes.gid) = (0, 0),
            None => {}
        }
        let is_directory = found.kind == Kind::Directory;
        if let Some(permissions) = &self.permissions
            && !matches!(found.kind, Kind::Symlink(_))
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
        let is_directory = matches!(entry.content, Content::Directory);
        let there = match self.entries.get(&path) {
            Some(earlier) => Some(matches!(earlier.content, Content::Directory)),
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
    /// Adds to a key all that the layer will say, times excepted. Reads the files. Blocks.
    pub(crate) fn describe(&self, key: &mut KeyMaker, cancel: &CancellationToken) -> Result<()> {
        key.text("owner", &format!("{:?}", self.owner));
        key.number("entries", self.entries.len() as u64);
        let mut buffer = vec![0; PIECE];
        for (path, entry) in &self.entries {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            key.bytes("path", path);
            let Attributes {
                mode,
                uid,
                gid,
                mtime: _,
                extended,
            } = &entry.attributes;
            for (name, number) in [("mode", mode), ("uid", uid), ("gid", gid)] {
                key.number(name, u64::from(*number));
            }
            key.number("attributes", extended.len() as u64);
            for (name, value) in extended {
                key.bytes("name", name);
                key.bytes("value", value);
            }
            match &entry.content {
                Content::Directory => key.text("directory", ""),
                Content::Fifo => key.text("fifo", ""),
                Content::Symlink(target) => key.bytes("symlink", target),
                Content::Document(bytes) => key.bytes("document", bytes),
                Content::File { from, path, size } => {
                    key.number("size", *size);
                    let mut file = from.open(path)?;
                    let mut hasher = Hasher::new();
                    loop {
                        match file.read(&mut buffer) {
                            Ok(0) => break,
                            Ok(n) => hasher.update(&buffer[..n]),
                            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                            Err(error) => {
                                return Err(Error::io(format!("read {}", shown(path)))(error));
                            }
                        }
                    }
                    key.text("content", &hasher.finish().hex());
                }
            }
        }
        Ok(())
    }

    /// Writes the layer. Blocks.
    pub(crate) fn write(&self, out: &mut dyn Write, now: (i64, u32)) -> io::Result<()> {
        let mut layer = LayerWriter::new(out);
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
                Content::Directory if path.is_empty() => {}
                Content::Directory => layer.directory(path, attributes)?,
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
    now: (i64, u32),
) -> Result<()> {
    let resolved = below.resolve(path.as_bytes())?;
    let mut layer = LayerWriter::new(out);
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
        mtime: now,
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
fn is_archive(file: &mut std::fs::File, path: &[u8]) -> Result<bool> {
    let failed = || Error::io(format!("read {}", shown(path)));
    let mut start = [0; 6];
    let mut have = 0;
    while have < start.len() {
        match file.read(&mut start[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(error) => return Err(failed()(error)),
        }
    }
    if start.starts_with(b"BZh") || start == *b"\xfd7zXZ\0" {
        return Err(Error::Unsupported(format!(
            "ADD of an archive packed by bzip2 or xz ({})",
            shown(path)
        )));
    }
    io::Seek::rewind(file).map_err(failed())?;
    let Ok(mut decoder) = Decoder::new(BufReader::new(file)) else {
        return Ok(false);
    };
    let mut block = [0; 512];
    if decoder.read_exact(&mut block).is_err() {
        return Ok(false);
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
    Ok(block[0] != 0 && u64::from_str_radix(written, 8) == Ok(sum))
}
