//! What a layer's members amount to: one tree of directories and inodes.
//!
//! Both drivers build on this, so that duplicates, hard links, whiteouts and
//! strange paths mean the same with each. It is plain data in memory; nothing
//! here touches a file system, so no path of a layer can do so either.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;
use crate::limits::Limits;
use crate::tar::{Data, Extent, Member, MemberKind, Members, Time, Xattr};

/// Longest path of a member, as `PATH_MAX` without its NUL.
const PATH_MAX: usize = 4095;
/// Longest name of an entry, on every file system that matters.
const NAME_MAX: usize = 255;
/// Symbolic links followed on the way to one member, as the kernel does.
const LINKS: u32 = 40;
/// Path parts walked for one layer. Deep paths through many links would
/// otherwise cost far more time than the bytes that ask for it.
const STEPS_MAX: u64 = 1 << 28;
/// Longest value of an attribute that the index can hold.
const XATTR_MAX: usize = u16::MAX as usize;
/// All attributes of one inode together, as the index counts them, less the mark of an opaque directory.
const XATTRS_MAX: usize = 4 * (u16::MAX as usize - 1) - 64;
/// What a directory entry without an inode of its own costs beside its name.
const ENTRY_COST: usize = 32;
/// Largest file: what the largest common file system holds.
const FILE_MAX: u64 = 1 << 44;

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Index of a node in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(u32);

impl NodeId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Name of a directory entry.
pub(crate) type Name = Box<[u8]>;

/// One inode.
#[derive(Debug)]
pub(crate) struct Node {
    /// Permission bits; the type is in `content`.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    /// Directory entries that name it (for directories: not meaningful).
    pub(crate) links: u32,
    pub(crate) xattrs: Box<[Xattr]>,
    pub(crate) content: Content,
}

#[derive(Debug)]
pub(crate) enum Content {
    Directory(Box<Directory>),
    /// Data in one piece at this offset of the tar.
    File {
        size: u64,
        tar_offset: u64,
    },
    /// Data in pieces with holes between.
    SparseFile {
        size: u64,
        extents: Box<[Extent]>,
    },
    Symlink(Box<[u8]>),
    Character {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    Fifo,
}

#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) parent: NodeId,
    /// In byte order, as the index needs them.
    pub(crate) children: BTreeMap<Name, NodeId>,
    /// Hides the directory of this name in lower layers instead of merging.
    pub(crate) opaque: bool,
    /// Names to hide in lower layers.
    whiteouts: BTreeSet<Name>,
}

impl Directory {
    fn new(parent: NodeId) -> Self {
        Self {
            parent,
            children: BTreeMap::new(),
            opaque: false,
            whiteouts: BTreeSet::new(),
        }
    }
}

/// The tree under construction.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    limits: Limits,
    /// Bytes of names, targets, attributes and maps so far.
    metadata: u64,
    /// Path parts walked so far.
    steps: u64,
    /// The directory of the member before; most members share it.
    recent: Option<(Vec<u8>, NodeId)>,
}

/// A complete tree.
#[derive(Debug)]
pub(crate) struct Finished {
    nodes: Vec<Node>,
}

impl Tree {
    pub(crate) const ROOT: NodeId = NodeId(0);

    pub(crate) fn new(limits: Limits) -> Self {
        let root = implied_directory(Self::ROOT);
        Self {
            nodes: vec![root],
            limits,
            metadata: 0,
            steps: 0,
            recent: None,
        }
    }

    /// Turns whiteout marks into the nodes that overlayfs understands.
    pub(crate) fn finish(mut self) -> Result<Finished, Error> {
        let mut whiteout = None;
        for id in 0..self.nodes.len() {
            let Content::Directory(directory) = &mut self.nodes[id].content else {
                continue;
            };
            for name in std::mem::take(&mut directory.whiteouts) {
                let found = self
                    .directory(NodeId(id as u32))
                    .children
                    .get(&name)
                    .copied();
                match found {
                    // Whiteouts are about lower layers only: what this layer
                    // has of that name stays, and nothing shines through it.
                    Some(child) => {
                        if let Content::Directory(d) = &mut self.nodes[child.index()].content {
                            d.opaque = true;
                        }
                    }
                    None => {
                        let node = match whiteout {
                            Some(node) => node,
                            None => *whiteout.insert(self.push(whiteout_node())?),
                        };
                        self.nodes[node.index()].links += 1;
                        self.directory_mut(NodeId(id as u32))
                            .children
                            .insert(name, node);
                    }
                }
            }
        }
        Ok(Finished { nodes: self.nodes })
    }

    fn push(&mut self, node: Node) -> Result<NodeId, Error> {
        if self.nodes.len() as u64 >= self.limits.entries {
            return Err(Error::TooManyEntries {
                limit: self.limits.entries,
            });
        }
        let id = NodeId(self.nodes.len() as u32);
        self.nodes.push(node);
        Ok(id)
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Error> {
        self.metadata += bytes as u64;
        if self.metadata > self.limits.metadata {
            return Err(Error::TooMuchMetadata {
                limit: self.limits.metadata,
            });
        }
        Ok(())
    }

    fn directory(&self, id: NodeId) -> &Directory {
        match &self.nodes[id.index()].content {
            Content::Directory(directory) => directory,
            _ => unreachable!("only directories are walked into"),
        }
    }

    fn directory_mut(&mut self, id: NodeId) -> &mut Directory {
        match &mut self.nodes[id.index()].content {
            Content::Directory(directory) => directory,
            _ => unreachable!("only directories are walked into"),
        }
    }

    /// Finds the directory of a cleaned path, following links inside the
    /// layer. Missing parts are created when `create`.
    fn find_directory(&mut self, path: &[u8], missing: Missing) -> Result<NodeId, Reason> {
        if let Some((recent, id)) = &self.recent
            && recent == path
        {
            return Ok(*id);
        }
        let mut current = Self::ROOT;
        let mut links = 0;
        let mut todo: Vec<Box<[u8]>> = parts(path).rev().map(Into::into).collect();
        while let Some(part) = todo.pop() {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Err(Error::TooComplex.into());
            }
            if *part == *b".." {
                current = self.directory(current).parent;
                continue;
            }
            let Some(child) = self.directory(current).children.get(&part).copied() else {
                if missing == Missing::IsError {
                    return Err(Reason::TargetMissing);
                }
                if part.len() > NAME_MAX {
                    return Err(Reason::NameTooLong);
                }
                self.charge(part.len())?;
                let id = self.push(implied_directory(current))?;
                self.directory_mut(current).children.insert(part, id);
                current = id;
                continue;
            };
            match &self.nodes[child.index()].content {
                Content::Directory(_) => current = child,
                Content::Symlink(target) => {
                    links += 1;
                    if links > LINKS {
                        return Err(Reason::TooManyLinks);
                    }
                    if target.starts_with(b"/") {
                        current = Self::ROOT;
                    }
                    todo.extend(parts(target).rev().map(Box::<[u8]>::from));
                }
                _ => return Err(Reason::ParentNotDirectory),
            }
        }
        self.recent = Some((path.to_vec(), current));
        Ok(current)
    }

    fn add(&mut self, member: Member) -> Result<(), Reason> {
        let path = clean(&member.path)?;
        let Some((parent, name)) = split(&path) else {
            return self.add_root(member);
        };
        // Bookkeeping of aufs, which no other driver understands. Its opaque
        // mark is the one that became the format's.
        let meta = |part: &[u8]| part.starts_with(WHITEOUT_META);
        if parts(parent).any(meta) || (meta(name) && name != OPAQUE) {
            return Ok(());
        }
        if name == OPAQUE {
            let directory = self.find_directory(parent, Missing::Create)?;
            self.directory_mut(directory).opaque = true;
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(Reason::WhiteoutOfNothing);
            }
            self.charge(hidden.len() + ENTRY_COST)?;
            let directory = self.find_directory(parent, Missing::Create)?;
            self.directory_mut(directory)
                .whiteouts
                .insert(hidden.into());
            return Ok(());
        }
        if let MemberKind::HardLink(target) = &member.kind {
            return self.add_hard_link(parent, name, target);
        }
        let xattrs = self.keep_xattrs(member.xattrs)?;
        let content = match member.kind {
            MemberKind::Directory => None,
            MemberKind::HardLink(_) => None,
            MemberKind::File { size, data } => Some(self.file(size, data)?),
            MemberKind::Symlink(target) => Some(self.symlink(target)?),
            MemberKind::Character { major, minor } => Some(Content::Character { major, minor }),
            MemberKind::Block { major, minor } => Some(Content::Block { major, minor }),
            MemberKind::Fifo => Some(Content::Fifo),
        };
        let directory = self.find_directory(parent, Missing::Create)?;
        let found = self.directory(directory).children.get(name).copied();
        let is_directory =
            |id: NodeId| matches!(self.nodes[id.index()].content, Content::Directory(_));
        let node = match (content, found) {
            // A second entry for a directory changes the directory itself.
            (None, Some(id)) if is_directory(id) => {
                let node = &mut self.nodes[id.index()];
                (node.mode, node.uid, node.gid) = (member.mode, member.uid, member.gid);
                (node.mtime, node.xattrs) = (member.mtime, xattrs);
                return Ok(());
            }
            (content, _) => Node {
                mode: member.mode,
                uid: member.uid,
                gid: member.gid,
                mtime: member.mtime,
                links: 0,
                xattrs,
                content: content
                    .unwrap_or_else(|| Content::Directory(Box::new(Directory::new(directory)))),
            },
        };
        self.charge(name.len())?;
        let id = self.push(node)?;
        self.attach(directory, name, id);
        Ok(())
    }

    /// The member names the layer's own top directory.
    fn add_root(&mut self, member: Member) -> Result<(), Reason> {
        if member.kind != MemberKind::Directory {
            return Err(Reason::RootNotDirectory);
        }
        let xattrs = self.keep_xattrs(member.xattrs)?;
        let root = &mut self.nodes[Self::ROOT.index()];
        (root.mode, root.uid, root.gid) = (member.mode, member.uid, member.gid);
        (root.mtime, root.xattrs) = (member.mtime, xattrs);
        Ok(())
    }

    fn add_hard_link(&mut self, parent: &[u8], name: &[u8], target: &[u8]) -> Result<(), Reason> {
        let target = clean(target)?;
        let (target_parent, target_name) = split(&target).ok_or(Reason::LinkToDirectory)?;
        let directory = self.find_directory(target_parent, Missing::IsError)?;
        let children = &self.directory(directory).children;
        let id = *children.get(target_name).ok_or(Reason::TargetMissing)?;
        if let Content::Directory(_) = self.nodes[id.index()].content {
            return Err(Reason::LinkToDirectory);
        }
        let directory = self.find_directory(parent, Missing::Create)?;
        let found = self.directory(directory).children.get(name).copied();
        // Docker removes the old entry first and then misses the target.
        if found == Some(id) {
            return Err(Reason::LinkToItself);
        }
        self.charge(name.len() + ENTRY_COST)?;
        self.attach(directory, name, id);
        Ok(())
    }

    /// Puts a node under a name, in place of what was there.
    fn attach(&mut self, directory: NodeId, name: &[u8], id: NodeId) {
        self.nodes[id.index()].links += 1;
        let old = self
            .directory_mut(directory)
            .children
            .insert(name.into(), id);
        if let Some(old) = old {
            self.detach(old);
        }
    }

    /// Drops one link of a node and, of a directory, everything below it.
    fn detach(&mut self, id: NodeId) {
        // Paths may lead elsewhere now.
        self.recent = None;
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            let node = &mut self.nodes[id.index()];
            node.links = node.links.saturating_sub(1);
            if let Content::Directory(directory) = &mut node.content {
                todo.extend(std::mem::take(&mut directory.children).into_values());
                directory.whiteouts.clear();
            }
        }
    }

    fn file(&mut self, size: u64, data: Data) -> Result<Content, Reason> {
        if size > FILE_MAX {
            return Err(Reason::FileTooLarge);
        }
        match data {
            Data::Contiguous(tar_offset) => Ok(Content::File { size, tar_offset }),
            Data::Sparse(extents) => {
                self.charge(extents.len() * size_of::<Extent>())?;
                Ok(Content::SparseFile {
                    size,
                    extents: extents.into(),
                })
            }
        }
    }

    fn symlink(&mut self, target: Vec<u8>) -> Result<Content, Reason> {
        if target.is_empty() {
            return Err(Reason::EmptyTarget);
        }
        if target.len() > PATH_MAX {
            return Err(Reason::PathTooLong);
        }
        self.charge(target.len())?;
        Ok(Content::Symlink(target.into()))
    }

    /// Leaves out what an image must not say: marks of overlayfs would forge
    /// redirects and whiteouts, labels belong to the host's policy, and
    /// unknown name spaces no file system can hold.
    fn keep_xattrs(&mut self, xattrs: Vec<Xattr>) -> Result<Box<[Xattr]>, Reason> {
        let mut kept: Vec<Xattr> = Vec::new();
        let mut total = 0;
        for (name, value) in xattrs {
            if !is_kept(&name) || is_of_another_root(&name, &value) {
                continue;
            }
            if name.len() > NAME_MAX || value.len() > XATTR_MAX {
                return Err(Reason::XattrTooLarge);
            }
            // Header and alignment, as in the index.
            total += 8 + name.len() + value.len();
            kept.push((name, value));
        }
        if total > XATTRS_MAX {
            return Err(Reason::XattrTooLarge);
        }
        self.charge(total)?;
        kept.sort();
        Ok(kept.into())
    }
}

impl Members for Tree {
    type Error = Error;

    fn member(&mut self, member: Member) -> Result<(), Error> {
        // Cloned only when refused: the happy path moves the member.
        let path: Vec<u8> = member.path.iter().copied().take(PATH_MAX).collect();
        self.add(member).map_err(|reason| match reason {
            Reason::Limit(error) => *error,
            reason => Error::Member {
                path: String::from_utf8_lossy(&path).into_owned(),
                reason,
            },
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    IsError,
}

/// Why a member of a layer is refused.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// The path leads out of the layer.
    #[error("the path leads out of the layer")]
    Escapes,
    /// The path is longer than 4095 bytes.
    #[error("the path is longer than {PATH_MAX} bytes")]
    PathTooLong,
    /// A part of the path is longer than 255 bytes.
    #[error("a name is longer than {NAME_MAX} bytes")]
    NameTooLong,
    /// A parent is something else than a directory.
    #[error("a parent of it is not a directory")]
    ParentNotDirectory,
    /// Too many symbolic links on the way.
    #[error("too many symbolic links on the way to it")]
    TooManyLinks,
    /// The top of the layer is to be something else than a directory.
    #[error("the top of a layer must be a directory")]
    RootNotDirectory,
    /// A hard link to something that this layer does not have (yet).
    #[error("it is a hard link to something that the layer does not have before it")]
    TargetMissing,
    /// A hard link to a directory.
    #[error("it is a hard link to a directory")]
    LinkToDirectory,
    /// A hard link to itself.
    #[error("it is a hard link to itself")]
    LinkToItself,
    /// A symbolic link to nothing.
    #[error("it is a symbolic link with an empty target")]
    EmptyTarget,
    /// `.wh.`, `.wh..` or `.wh...`.
    #[error("it is a whiteout of nothing")]
    WhiteoutOfNothing,
    /// An attribute or all of them together exceed what can be stored.
    #[error("its extended attributes are too large")]
    XattrTooLarge,
    /// A file of more than 16 TiB.
    #[error("it is larger than 16 TiB")]
    FileTooLarge,
    /// A bound of the whole layer, see there.
    #[error(transparent)]
    Limit(Box<Error>),
}

impl From<Error> for Reason {
    fn from(error: Error) -> Self {
        Self::Limit(Box::new(error))
    }
}

impl Finished {
    pub(crate) const ROOT: NodeId = Tree::ROOT;

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn directory(&self, id: NodeId) -> &Directory {
        match &self.node(id).content {
            Content::Directory(directory) => directory,
            _ => unreachable!("asked of directories only"),
        }
    }

    /// Says whether the layer hides everything below it.
    pub(crate) fn is_opaque(&self) -> bool {
        self.directory(Self::ROOT).opaque
    }

    /// All nodes in use, parents before children, each once.
    pub(crate) fn order(&self) -> Vec<NodeId> {
        let mut order = Vec::with_capacity(self.nodes.len());
        let mut seen = vec![false; self.nodes.len()];
        let mut todo = vec![Self::ROOT];
        while let Some(id) = todo.pop() {
            if std::mem::replace(&mut seen[id.index()], true) {
                continue;
            }
            order.push(id);
            if let Content::Directory(directory) = &self.node(id).content {
                todo.extend(directory.children.values().rev());
            }
        }
        order
    }

    /// Sum of the sizes of all regular files, each inode once.
    pub(crate) fn size(&self, order: &[NodeId]) -> u64 {
        order
            .iter()
            .map(|id| match &self.node(*id).content {
                Content::File { size, .. } | Content::SparseFile { size, .. } => *size,
                _ => 0,
            })
            .fold(0, u64::saturating_add)
    }
}

fn implied_directory(parent: NodeId) -> Node {
    Node {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        links: 1,
        xattrs: Box::default(),
        content: Content::Directory(Box::new(Directory::new(parent))),
    }
}

fn whiteout_node() -> Node {
    Node {
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: Time::default(),
        links: 0,
        xattrs: Box::default(),
        content: Content::Character { major: 0, minor: 0 },
    }
}

fn is_kept(name: &[u8]) -> bool {
    let starts = |prefix: &[u8]| name.len() > prefix.len() && name.starts_with(prefix);
    if starts(b"trusted.overlay.") || starts(b"user.overlay.") || name == b"security.selinux" {
        return false;
    }
    if name.contains(&0) {
        return false;
    }
    starts(b"user.")
        || starts(b"trusted.")
        || starts(b"security.")
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
}

/// Whether these are capabilities in a user namespace whose root is some other
/// user of the host (version 3 with a root of its own, linux/capability.h). No
/// maker of an image can know that user.
fn is_of_another_root(name: &[u8], value: &[u8]) -> bool {
    name == b"security.capability"
        && value.get(3) == Some(&3)
        && value.get(20..24).is_some_and(|root| root != [0; 4])
}

/// The parts of a path that are not empty and not `.`.
fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
}

/// Cleans a path as text, as Go's `path.Clean` under the layer's top does:
/// `..` goes up one part, above the top it is refused, unless the path is
/// absolute, where it stays at the top.
fn clean(path: &[u8]) -> Result<Vec<u8>, Reason> {
    if path.len() > PATH_MAX {
        return Err(Reason::PathTooLong);
    }
    let absolute = path.starts_with(b"/");
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in parts(path) {
        if part.len() > NAME_MAX {
            return Err(Reason::NameTooLong);
        }
        if part != b".." {
            kept.push(part);
        } else if kept.pop().is_none() && !absolute {
            return Err(Reason::Escapes);
        }
    }
    Ok(kept.join(&b'/'))
}

/// Splits a cleaned path into parent and name; `None` for the top itself.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => Some((&path[..slash], &path[slash + 1..])),
        None => Some((&[], path)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::erofs::{self, check::Inode, check::check};
    use crate::tar::Parser;
    use crate::tarball::{Header, Tarball, number, sum};
    use proptest::prelude::*;

    fn build(tar: &[u8], piece: usize) -> Result<Finished, Error> {
        let mut parser = Parser::new();
        let mut tree = Tree::new(Limits {
            entries: 10_000,
            metadata: 1 << 20,
            sparse: 1 << 20,
        });
        for piece in tar.chunks(piece) {
            parser.push(piece, &mut tree)?;
        }
        parser.finish()?;
        tree.finish()
    }

    fn sample() -> Vec<u8> {
        let mut old = Header::new(b'S', "old").gnu().size(600).block();
        old[386..398].copy_from_slice(&number(512, 12));
        old[398..410].copy_from_slice(&number(600, 12));
        old[483..495].copy_from_slice(&number(100_000, 12));
        sum(&mut old);
        Tarball::new()
            .dir("d")
            .file("d/f", [b'x'; 700])
            .pax(&[
                ("path", b"d/pax"),
                ("size", b"5"),
                ("mtime", b"12.5"),
                ("SCHILY.xattr.user.a", b"b"),
                ("LIBARCHIVE.xattr.user.%62", b"YWJj"),
            ])
            .file("x", "12345")
            .gnu_long(b'L', "d/long/name")
            .member(Header::new(b'0', "x").gnu(), b"y")
            .symlink("d/s", "../d")
            .file("d/s/through", "")
            .hard_link("h", "d/f")
            .raw(&old)
            .data(&[b'o'; 600])
            .pax(&[
                ("GNU.sparse.map", b"10,3,5000,4"),
                ("GNU.sparse.size", b"9000"),
            ])
            .file("s1", "1234567")
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.realsize", b"70000"),
            ])
            .file(
                "s2",
                [b"1\n60000\n5\n".as_slice(), &[0; 502], b"abcde"].concat(),
            )
            .file("d/.wh.gone", "")
            .file("d/.wh..wh..opq", "")
            .header(&Header::new(b'3', "c").device(1, 3))
            .end()
    }

    #[test]
    fn the_size_of_the_pieces_does_not_matter() {
        let tar = sample();
        let whole = format!("{:?}", build(&tar, usize::MAX).unwrap());
        for piece in [1, 7, 511, 512, 513, 4096] {
            assert_eq!(
                format!("{:?}", build(&tar, piece).unwrap()),
                whole,
                "{piece}"
            );
        }
    }

    #[test]
    fn a_reader_that_skips_data_sees_the_same() {
        let tar = sample();
        let mut parser = Parser::new();
        let mut tree = Tree::new(Limits::default());
        loop {
            parser.skip();
            let at = usize::try_from(parser.position()).unwrap().min(tar.len());
            if at == tar.len() {
                break;
            }
            parser
                .push(&tar[at..tar.len().min(at + 100)], &mut tree)
                .unwrap();
        }
        parser.finish().unwrap();
        let skipped = format!("{:?}", tree.finish().unwrap());
        assert_eq!(skipped, format!("{:?}", build(&tar, 999).unwrap()));
    }

    /// The index of a tree, checked by the rules of its format.
    fn index(tree: &Finished, tar: &[u8]) -> Option<BTreeMap<String, Inode>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(tar).unwrap();
        let limits = Limits {
            sparse: 1 << 20,
            ..Limits::default()
        };
        let order = tree.order();
        let mut out = Vec::new();
        match erofs::write(tree, &order, &file, tar.len() as u64, &limits, &mut out) {
            Ok(_) => Some(check(&out, tar.len() as u64)),
            Err(Error::TooFragmented) => None,
            Err(e) => panic!("{e:?}"),
        }
    }

    #[test]
    fn an_index_keeps_the_rules_of_its_format() {
        let tar = sample();
        let inodes = index(&build(&tar, usize::MAX).unwrap(), &tar).unwrap();
        assert_eq!(inodes["./d/pax"].xattrs.len(), 2);
        assert_eq!(inodes["./d"].xattrs["trusted.overlay.opaque"], b"y");
        assert_eq!(inodes["./h"].links, 2);
        assert_eq!(inodes["./s2"].size, 70_000);
        assert_eq!(inodes["./d/gone"].mode, 0o020_000);
        // Names and targets of every length, so that every place in a block
        // comes up.
        let mut tar = Tarball::new();
        for n in 1..=255 {
            let path = format!("names/{}", "n".repeat(n));
            let value = vec![b'v'; n];
            tar = tar
                .pax(&[("path", path.as_bytes()), ("SCHILY.xattr.user.x", &value)])
                .file("x", vec![b'x'; n * 5]);
            for (place, length) in [("short", n), ("long", n * 16)] {
                let target = "t".repeat(length);
                tar = tar
                    .pax(&[("linkpath", target.as_bytes())])
                    .symlink(format!("{place}/{n}"), "x");
            }
            tar = (0..n % 60).fold(tar, |tar, i| tar.file(format!("of/{n}/{i}"), ""));
        }
        let tar = tar.end();
        let tree = build(&tar, usize::MAX).unwrap();
        let inodes = index(&tree, &tar).unwrap();
        assert_eq!(inodes.len(), tree.order().len());
        assert_eq!(inodes["./long/255"].size, 4080);
    }

    #[derive(Debug, Clone)]
    enum Edit {
        Set(usize, u8),
        Digit(usize, u8),
        Copy(usize, usize),
        Cut(usize),
    }

    fn edit(length: usize) -> impl Strategy<Value = Edit> {
        prop_oneof![
            (0..length, any::<u8>()).prop_map(|(at, value)| Edit::Set(at, value)),
            (0..length, 0..10u8).prop_map(|(at, digit)| Edit::Digit(at, b'0' + digit)),
            (0..length / 512, 0..length / 512).prop_map(|(from, to)| Edit::Copy(from, to)),
            (0..length).prop_map(Edit::Cut),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 20_000,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn mutated_archives_are_answered(
            edits in prop::collection::vec(edit(sample().len()), 1..8),
            piece in 1..2000usize,
        ) {
            let mut tar = sample();
            for edit in edits {
                match edit {
                    Edit::Set(at, value) | Edit::Digit(at, value) => {
                        if let Some(byte) = tar.get_mut(at) {
                            *byte = value;
                        }
                    }
                    Edit::Copy(from, to) if (from.max(to) + 1) * 512 <= tar.len() => {
                        tar.copy_within(from * 512..(from + 1) * 512, to * 512);
                    }
                    Edit::Copy(..) => {}
                    Edit::Cut(at) => tar.truncate(at.max(tar.len() / 2)),
                }
            }
            for block in tar.chunks_exact_mut(512) {
                if &block[257..262] == b"ustar" {
                    sum(block.try_into().unwrap());
                }
            }
            if let Ok(tree) = build(&tar, piece) {
                index(&tree, &tar);
                let order = tree.order();
                prop_assert!(order.len() <= tree.len());
                for id in order {
                    if let Content::Directory(d) = &tree.node(id).content {
                        prop_assert!(d.children.keys().all(|n| !n.is_empty() && n.len() <= NAME_MAX));
                    }
                }
            }
        }
    }
}
