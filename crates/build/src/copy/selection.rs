//! What of the sources goes where.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::sync::Arc;

use sampan_archive::{Attributes, Decoder, Peeled};
use sampan_dockerfile::Chmod;
use sampan_images::{HeldLayer, ImageStore};

use super::layer::{existing, has_whiteout};
use super::sources::{Gathered, SourceFiles, Sources, name_of};
use super::{Wish, joined};
use crate::context::Context;
use crate::files::{Files, Found, Kind, join, shown};
use crate::owner;
use crate::{Error, Result};

/// Files that one step may copy.
const MOST: usize = 4_000_000;

/// What a step copies, and to where.
pub(crate) struct Selection {
    pub(super) entries: BTreeMap<Vec<u8>, Entry>,
    /// Directories above, which the layer must show as they are.
    pub(super) above: BTreeMap<Vec<u8>, Option<Attributes>>,
    pub(super) owner: Option<(u32, u32)>,
}

pub(super) struct Entry {
    pub(super) content: Content,
    pub(super) attributes: Attributes,
}

pub(super) enum Content {
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
    let written = joined(wish.directory, &transfer.destination);
    let destination = below.resolve(written.as_bytes())?;
    let is_directory = destination.exists
        && below
            .look(&destination.path)?
            .is_some_and(|found| found.kind == Kind::Directory);
    let ends = |end: &str| transfer.destination.ends_with(end);
    let into = is_directory || ends("/") || ends("/.") || transfer.destination == ".";
    let is_kept =
        |source: &&Gathered| matches!(source, Gathered::Files(files) if files.kept.is_some());
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

impl Selecting<'_> {
    fn source(&mut self, source: Gathered) -> Result<()> {
        match source {
            Gathered::Document { name, bytes } => self.document(&name, bytes),
            Gathered::Files(files) => self.files(files),
        }
    }

    fn files(&mut self, source: SourceFiles) -> Result<()> {
        let SourceFiles {
            from,
            named,
            path,
            found,
            kept,
            members,
            unpack,
            commit: _,
        } = source;
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
        if has_whiteout(&path) {
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
