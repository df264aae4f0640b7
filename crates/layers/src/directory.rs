//! The second driver: a layer unpacked into a directory that overlayfs takes
//! as a lower layer.
//!
//! What is created is the finished [`Tree`](crate::tree::Tree), in which all
//! links, duplicates and `..` of the archive are resolved already: one walk
//! that makes every entry exactly once, each by a descriptor of its directory.
//! No name from the archive is ever followed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use sampan_fs::Root;

use crate::context::descriptor_path;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::record;
use crate::store::Worker;
use crate::tar::{Extent, Time};
use crate::tree::{Content, Finished, Node, NodeId};
use crate::worker;

/// Directory for the first name of inodes with several; gone in the end.
const LINKS: &str = "links";

/// Unpacks into `dir/tree`, durable when this returns.
pub(crate) fn unpack(
    worker: &Worker,
    dir: &OwnedFd,
    tar: &File,
    tree: &Finished,
    limits: &Limits,
) -> Result<()> {
    match worker {
        Worker::InProcess => materialise(tree, tar, dir.as_fd())?,
        Worker::Program { path, arguments } => {
            worker::spawn(path, arguments, dir, tar, limits)?;
        }
    }
    finish_attributes(tree, dir)?;
    rustix::fs::syncfs(dir).map_err(|e| Error::io("sync", record::TREE, e))
}

/// Creates everything that needs no privilege over the host's mounts.
pub(crate) fn materialise(tree: &Finished, tar: &File, dir: BorrowedFd<'_>) -> Result<()> {
    for name in [LINKS, record::TREE] {
        rustix::fs::mkdirat(dir, name, Mode::RWXU)
            .map_err(|e| Error::io("create directory", name, e))?;
    }
    let open = |name| open_directory(dir, name).map_err(|e| Error::io("open directory", name, e));
    let mut walk = Walk {
        tree,
        tar,
        links: open(LINKS)?,
        linked: vec![false; tree.len()],
    };
    let top = open(record::TREE)?;
    walk.fill(top)?;
    drop(walk);
    sampan_fs::remove_all_at(dir, LINKS)?;
    Ok(())
}

struct Walk<'a> {
    tree: &'a Finished,
    tar: &'a File,
    links: OwnedFd,
    /// Nodes with several names that have their first one.
    linked: Vec<bool>,
}

impl Walk<'_> {
    /// Fills the top and everything below. Holds one directory at a time and
    /// goes up by `..`, so that no depth exhausts descriptors; nobody else can
    /// reach the tree meanwhile.
    fn fill(&mut self, top: OwnedFd) -> Result<()> {
        let tree = self.tree;
        let mut current = top;
        let mut levels = vec![(
            Finished::ROOT,
            tree.directory(Finished::ROOT).children.iter(),
        )];
        while let Some((id, children)) = levels.last_mut() {
            let id = *id;
            let Some((name, child)) = children.next() else {
                let failed = |e| self.failed(id, "..", e);
                set_owner_and_times(current.as_fd(), tree.node(id)).map_err(failed)?;
                levels.pop();
                if !levels.is_empty() {
                    current = open_directory(current.as_fd(), "..").map_err(failed)?;
                }
                continue;
            };
            let name = Path::new(std::ffi::OsStr::from_bytes(name));
            let failed = |e| self.failed(id, name, e);
            if let Content::Directory(directory) = &tree.node(*child).content {
                rustix::fs::mkdirat(&current, name, Mode::RWXU).map_err(failed)?;
                current = open_directory(current.as_fd(), name).map_err(failed)?;
                levels.push((*child, directory.children.iter()));
                continue;
            }
            self.create(current.as_fd(), name, *child)?;
        }
        Ok(())
    }

    fn failed(&self, _parent: NodeId, name: impl AsRef<Path>, e: Errno) -> Error {
        Error::io("unpack", name.as_ref(), e)
    }

    fn create(&mut self, dir: BorrowedFd<'_>, name: &Path, id: NodeId) -> Result<()> {
        let node = self.tree.node(id);
        let failed = |e: Errno| Error::io("unpack", name, e);
        // Whiteouts are of one node, but as links they could exceed what a
        // file system allows.
        let is_whiteout = matches!(node.content, Content::Character { major: 0, minor: 0 });
        if node.links < 2 || is_whiteout {
            return self.create_inode(dir, name, node);
        }
        let staged = PathBuf::from(id.index().to_string());
        if !std::mem::replace(&mut self.linked[id.index()], true) {
            self.create_inode(self.links.as_fd(), &staged, node)?;
        }
        rustix::fs::linkat(&self.links, &staged, dir, name, AtFlags::empty()).map_err(failed)
    }

    fn create_inode(&self, dir: BorrowedFd<'_>, name: &Path, node: &Node) -> Result<()> {
        let failed = |e: Errno| Error::io("unpack", name, e);
        let device = |kind, major, minor| {
            let device = rustix::fs::makedev(major, minor);
            rustix::fs::mknodat(dir, name, kind, Mode::empty(), device)
        };
        match &node.content {
            Content::File { size, tar_offset } => {
                let whole = Extent {
                    offset: 0,
                    length: *size,
                    tar_offset: *tar_offset,
                };
                return self.create_file(dir, name, node, *size, &[whole]);
            }
            Content::SparseFile { size, extents } => {
                return self.create_file(dir, name, node, *size, extents);
            }
            Content::Symlink(target) => {
                let target = std::ffi::OsStr::from_bytes(target);
                rustix::fs::symlinkat(target, dir, name).map_err(failed)?;
            }
            Content::Character { major, minor } => {
                device(FileType::CharacterDevice, *major, *minor).map_err(failed)?;
            }
            Content::Block { major, minor } => {
                device(FileType::BlockDevice, *major, *minor).map_err(failed)?;
            }
            Content::Fifo => {
                rustix::fs::mknodat(dir, name, FileType::Fifo, Mode::empty(), 0).map_err(failed)?;
            }
            Content::Directory(_) => unreachable!("directories are made by the walk"),
        }
        let (uid, gid) = owner(node);
        rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed)?;
        if !matches!(node.content, Content::Symlink(_)) {
            // Just made by us and of no kind that could be followed.
            rustix::fs::chmodat(dir, name, mode(node), AtFlags::empty()).map_err(failed)?;
        }
        rustix::fs::utimensat(dir, name, &times(node.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(failed)
    }

    fn create_file(
        &self,
        dir: BorrowedFd<'_>,
        name: &Path,
        node: &Node,
        size: u64,
        extents: &[Extent],
    ) -> Result<()> {
        let failed = |e: Errno| Error::io("unpack", name, e);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        let file = File::from(file);
        for extent in extents {
            copy(self.tar, &file, extent).map_err(|e| Error::io("unpack", name, e))?;
        }
        rustix::fs::ftruncate(&file, size).map_err(failed)?;
        set_owner_and_times(file.as_fd(), node).map_err(failed)
    }
}

fn copy(tar: &File, file: &File, extent: &Extent) -> io::Result<()> {
    let mut buffer = [0; 64 << 10];
    let mut done = 0;
    while done < extent.length {
        let part = (extent.length - done).min(buffer.len() as u64) as usize;
        tar.read_exact_at(&mut buffer[..part], extent.tar_offset + done)?;
        file.write_all_at(&buffer[..part], extent.offset + done)?;
        done += part as u64;
    }
    Ok(())
}

/// In this order: a change of owner clears set-user-id and capabilities, and
/// every change touches the times.
fn set_owner_and_times(fd: BorrowedFd<'_>, node: &Node) -> rustix::io::Result<()> {
    let (uid, gid) = owner(node);
    rustix::fs::fchown(fd, Some(uid), Some(gid))?;
    rustix::fs::fchmod(fd, mode(node))?;
    for (name, value) in &node.xattrs {
        if needs_privilege(name) {
            continue;
        }
        let name = std::ffi::OsStr::from_bytes(name);
        optional(rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()))?;
    }
    rustix::fs::futimens(fd, &times(node.mtime))
}

/// Attributes that only the host's administrator may set. The worker is not
/// one, so they are set by the engine afterwards.
fn needs_privilege(name: &[u8]) -> bool {
    name.starts_with(b"trusted.")
        || (name.starts_with(b"security.") && name != b"security.capability")
}

/// A file system without such attributes shows the files without them, as with
/// Docker.
fn optional(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOTSUP) => Ok(()),
        other => other,
    }
}

/// Sets what the worker must not or cannot, by rooted paths.
fn finish_attributes(tree: &Finished, dir: &OwnedFd) -> Result<()> {
    let failed = |e| Error::io("open directory", record::TREE, e);
    let root = Root::from_fd(open_directory(dir.as_fd(), record::TREE).map_err(failed)?);
    let mut path: Vec<u8> = Vec::new();
    let mut levels = Vec::new();
    set_attributes(&root, b".", tree.node(Finished::ROOT))?;
    levels.push((0, tree.directory(Finished::ROOT).children.iter()));
    while let Some((length, children)) = levels.last_mut() {
        path.truncate(*length);
        let Some((name, id)) = children.next() else {
            levels.pop();
            continue;
        };
        path.push(b'/');
        path.extend(&**name);
        let node = tree.node(*id);
        set_attributes(&root, &path, node)?;
        if let Content::Directory(directory) = &node.content {
            levels.push((path.len(), directory.children.iter()));
        }
    }
    Ok(())
}

fn set_attributes(root: &Root, path: &[u8], node: &Node) -> Result<()> {
    let by_descriptor = matches!(
        node.content,
        Content::File { .. } | Content::SparseFile { .. } | Content::Directory(_)
    );
    let opaque = matches!(&node.content, Content::Directory(d) if d.opaque);
    let mark: (&[u8], &[u8]) = (b"trusted.overlay.opaque", b"y");
    let late = node
        .xattrs
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .filter(|(name, _)| needs_privilege(name) || !by_descriptor);
    let mut found = None;
    for (name, value) in opaque.then_some(mark).into_iter().chain(late) {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        let fd = match &found {
            Some(fd) => fd,
            None => found.insert(root.open_with(path, OFlags::PATH | OFlags::NOFOLLOW, 0)?),
        };
        let name = std::ffi::OsStr::from_bytes(name);
        optional(rustix::fs::setxattr(
            descriptor_path(fd),
            name,
            value,
            XattrFlags::empty(),
        ))
        .or_else(|e| match e {
            // `user.*` exists on files and directories only.
            Errno::PERM if !by_descriptor => Ok(()),
            e => Err(e),
        })
        .map_err(|e| Error::io("set attribute of", path, e))?;
    }
    Ok(())
}

fn open_directory(dir: BorrowedFd<'_>, name: impl AsRef<Path>) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        dir,
        name.as_ref(),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

fn owner(node: &Node) -> (Uid, Gid) {
    (Uid::from_raw(node.uid), Gid::from_raw(node.gid))
}

fn mode(node: &Node) -> Mode {
    Mode::from_raw_mode(u32::from(node.mode))
}

fn times(time: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: time.seconds,
        tv_nsec: i64::from(time.nanoseconds),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}
