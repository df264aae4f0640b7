//! What a layer contains, read from its tar alone: nothing is mounted.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use sampan_oci::DiffId;

use crate::error::{Error, Result};
use crate::ingest::at;
use crate::store::LayerStore;
use crate::tar::{Extent, Parser};
use crate::tree::{Content, Finished, NodeId, Tree};

/// Bytes read at once where only headers are wanted.
const HEADERS: usize = 8 << 10;

/// What a layer says about one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The path below the root, without a slash in front; empty for the root itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Names and values of the extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The same for all names of one file of the layer, and only for those.
    pub inode: u32,
}

/// What a path is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory {
        /// It hides the one of that name in lower layers.
        opaque: bool,
    },
    /// A regular file.
    File {
        /// Its length.
        size: u64,
        /// Where its bytes are.
        data: Data,
    },
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// A character device.
    Character {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// Nothing: the path is removed from what lower layers have.
    Whiteout,
}

/// Where the bytes of a file are in its layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data(Arc<[Extent]>);

impl LayerStore {
    /// Lists what a layer contains, parents before children, names in byte order. Reads the
    /// headers of its tar. Blocks.
    pub fn entries(&self, diff_id: &DiffId) -> Result<Vec<Entry>> {
        let tar = self.open_tar(diff_id)?;
        let tree = read_tree(&tar, self)?;
        let mut entries = Vec::with_capacity(tree.len());
        let mut todo = vec![(Finished::ROOT, Vec::new())];
        while let Some((id, path)) = todo.pop() {
            if let Content::Directory(directory) = &tree.node(id).content {
                for (name, child) in directory.children.iter().rev() {
                    let mut below = path.clone();
                    if !below.is_empty() {
                        below.push(b'/');
                    }
                    below.extend_from_slice(name);
                    todo.push((*child, below));
                }
            }
            entries.push(entry(&tree, id, path));
        }
        Ok(entries)
    }

    /// Opens the content of a file that [`entries`](Self::entries) listed for this layer.
    pub fn open_content(&self, diff_id: &DiffId, size: u64, data: &Data) -> Result<Contents> {
        Ok(Contents {
            tar: self.open_tar(diff_id)?,
            extents: data.0.clone(),
            next: 0,
            position: 0,
            size,
        })
    }
}

fn read_tree(tar: &File, store: &LayerStore) -> Result<Finished> {
    let mut parser = Parser::new();
    let mut tree = Tree::new(*store.limits());
    let mut buffer = vec![0; HEADERS];
    loop {
        parser.skip();
        match rustix::io::pread(tar, &mut buffer, parser.position()) {
            Ok(0) => break,
            Ok(length) => parser
                .push(&buffer[..length], &mut tree)
                .map_err(|e| at(e, parser.position()))?,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::io("read", "a layer's tar", e)),
        }
    }
    let position = parser.position();
    parser.finish().map_err(|e| at(e.into(), position))?;
    tree.finish()
}

fn entry(tree: &Finished, id: NodeId, path: Vec<u8>) -> Entry {
    let node = tree.node(id);
    let kind = match &node.content {
        Content::Directory(directory) => EntryKind::Directory {
            opaque: directory.opaque,
        },
        Content::File { size, tar_offset } => EntryKind::File {
            size: *size,
            data: Data(Arc::new([Extent {
                offset: 0,
                length: *size,
                tar_offset: *tar_offset,
            }])),
        },
        Content::SparseFile { size, extents } => EntryKind::File {
            size: *size,
            data: Data(Arc::from(extents.as_ref())),
        },
        Content::Symlink(target) => EntryKind::Symlink(target.to_vec()),
        // What overlayfs takes for one, too.
        Content::Character { major: 0, minor: 0 } => EntryKind::Whiteout,
        Content::Character { major, minor } => EntryKind::Character {
            major: *major,
            minor: *minor,
        },
        Content::Block { major, minor } => EntryKind::Block {
            major: *major,
            minor: *minor,
        },
        Content::Fifo => EntryKind::Fifo,
    };
    let xattrs = node.xattrs.iter();
    Entry {
        path,
        kind,
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        mtime: (node.mtime.seconds, node.mtime.nanoseconds),
        xattrs: xattrs.map(|(n, v)| (n.to_vec(), v.to_vec())).collect(),
        inode: id.index() as u32,
    }
}

/// The bytes of one file of a layer, holes as zeros.
#[derive(Debug)]
pub struct Contents {
    tar: File,
    extents: Arc<[Extent]>,
    /// The extent at or behind the position.
    next: usize,
    position: u64,
    size: u64,
}

impl Read for Contents {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.size - self.position;
        if left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let extent = loop {
            match self.extents.get(self.next) {
                Some(e) if e.offset + e.length <= self.position => self.next += 1,
                found => break found,
            }
        };
        let hole = extent.map_or(left, |e| e.offset.saturating_sub(self.position));
        let room =
            |bytes: u64| usize::try_from(bytes).map_or(buffer.len(), |b| b.min(buffer.len()));
        let read = match extent {
            Some(extent) if hole == 0 => {
                let within = self.position - extent.offset;
                let wanted = room((extent.length - within).min(left));
                let from = extent.tar_offset + within;
                match rustix::io::pread(&self.tar, &mut buffer[..wanted], from)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => read,
                }
            }
            _ => {
                let zeros = room(hole.min(left));
                buffer[..zeros].fill(0);
                zeros
            }
        };
        self.position += read as u64;
        Ok(read)
    }
}
