//! Writes the index of a layer: an EROFS image of metadata only, whose files'
//! data lie in the layer's tar as an extra device.
//!
//! Layout, in blocks of 512 bytes so that tar offsets are block addresses:
//!
//! ```text
//! 1024  superblock (128 bytes)
//! 1152  device table: one slot, the tar (128 bytes)
//! 1536  inodes, in the order of the tree, each aligned to 32 bytes:
//!       64-byte inode, attributes, then chunk table | short target | small directory
//!       blocks of larger directories and long targets
//!       blocks of sparse files that cannot be mapped into the tar
//! ```
//!
//! Every regular file is chunk-based. A contiguous one has one chunk that is as
//! large as the file; a sparse one has chunks that lie wholly in one piece of
//! its data, holes, and, where pieces are too ragged, copies in the index.
//! See `fs/erofs/erofs_fs.h` and `Documentation/filesystems/erofs.rst` of Linux.

#[cfg(test)]
pub(crate) mod check;

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use crate::error::Error;
use crate::limits::Limits;
use crate::tar::Extent;
use crate::tree::{Content, Directory, Finished, Node, NodeId};

const BLOCK_BITS: u32 = 9;
const BLOCK: u64 = 1 << BLOCK_BITS;
const SUPERBLOCK: u64 = 1024;
const DEVICE_TABLE: u64 = 1152;
const FIRST_INODE: u64 = 1536;
/// Inodes are addressed in units of this.
const SLOT: u64 = 32;
const INODE: u64 = 64;
const DIRENT: usize = 12;
const CHUNK_INDEX: u64 = 8;

const MAGIC: u32 = 0xe0f5_e1e2;
const COMPAT_CHECKSUM: u32 = 1;
const COMPAT_MTIME: u32 = 2;
const INCOMPAT_CHUNKED: u32 = 4;
const INCOMPAT_DEVICE_TABLE: u32 = 8;

const LAYOUT_PLAIN: u16 = 0;
const LAYOUT_INLINE: u16 = 2;
const LAYOUT_CHUNKED: u16 = 4;
const EXTENDED: u16 = 1;
const CHUNK_INDEXES: u16 = 0x20;
/// The largest exponent of a chunk, in blocks.
const CHUNK_BITS_MAX: u32 = 31;
const NULL_ADDRESS: u32 = u32::MAX;
const TAR_DEVICE: u16 = 1;

/// Directories and targets up to this size go behind their inode.
const INLINE_MAX: u64 = 400;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// Length of the index in bytes.
    pub(crate) size: u64,
}

/// Writes the index of `tree`, whose data are in `tar` (`tar_size` bytes).
pub(crate) fn write(
    tree: &Finished,
    order: &[NodeId],
    tar: &File,
    tar_size: u64,
    limits: &Limits,
    to: &mut (impl Write + ?Sized),
) -> Result<Written, Error> {
    if tar_size.div_ceil(BLOCK) >= u64::from(NULL_ADDRESS) {
        return Err(Error::TooLarge);
    }
    let plan = Plan::new(tree, order, limits)?;
    let mut out = Output::new(to);
    let written = |e| Error::io("write", "the layer's index", e);
    out.bytes(&head(tree, &plan, order.len() as u64, tar_size))
        .map_err(written)?;
    for (id, place) in order.iter().zip(&plan.places) {
        write_inode(tree, &plan, *id, place, &mut out).map_err(written)?;
    }
    out.pad_to(plan.blocks_start).map_err(written)?;
    for (id, place) in order.iter().zip(&plan.places) {
        let Body::Blocks { .. } = place.body else {
            continue;
        };
        match &tree.node(*id).content {
            Content::Directory(directory) => {
                let data = directory_data(tree, &plan, *id, directory);
                out.bytes(&data).map_err(written)?;
            }
            Content::Symlink(target) => out.bytes(target).map_err(written)?,
            _ => {}
        }
        out.align(BLOCK).map_err(written)?;
    }
    for (id, place) in order.iter().zip(&plan.places) {
        if let (Body::Chunks(chunks), Content::SparseFile { extents, .. }) =
            (&place.body, &tree.node(*id).content)
        {
            copy_chunks(chunks, extents, tar, &mut out)?;
        }
    }
    Ok(Written { size: out.position })
}

/// Where everything goes.
struct Plan {
    /// Beside `order`.
    places: Vec<Place>,
    /// Address of each node's inode, by node; 0 for nodes not in use.
    nids: Vec<u64>,
    blocks_start: u64,
    end: u64,
}

struct Place {
    body: Body,
}

enum Body {
    None,
    /// Data of this size directly behind inode and attributes.
    Inline(u64),
    /// Data of this size in blocks from this address.
    Blocks {
        size: u64,
        address: u32,
    },
    Chunks(Chunks),
}

struct Chunks {
    /// Exponent of the chunk size, in blocks.
    bits: u32,
    table: ChunkTable,
}

enum ChunkTable {
    /// All chunks follow one another in the tar from this block.
    Contiguous {
        block: u32,
        count: u64,
    },
    Mixed(Vec<Chunk>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Chunk {
    Hole,
    /// Block of the tar.
    Tar(u32),
    /// Block of the index, to be filled from the pieces.
    Copy(u32),
}

impl Plan {
    fn new(tree: &Finished, order: &[NodeId], limits: &Limits) -> Result<Self, Error> {
        let mut nids = vec![0; tree.len()];
        let mut places = Vec::with_capacity(order.len());
        let mut position = FIRST_INODE;
        let mut copied = 0;
        for id in order {
            let node = tree.node(*id);
            let head = INODE + xattrs_size(node);
            let body = body_of(node, limits, &mut copied)?;
            position = position.next_multiple_of(SLOT);
            let size = match &body {
                Body::None | Body::Blocks { .. } => head,
                Body::Inline(size) => {
                    // Must not cross into another block.
                    while (position + head) % BLOCK + size > BLOCK {
                        position += SLOT;
                    }
                    head + size
                }
                Body::Chunks(chunks) => {
                    head.next_multiple_of(CHUNK_INDEX) + chunks.count() * CHUNK_INDEX
                }
            };
            nids[id.index()] = position / SLOT;
            position += size;
            places.push(Place { body });
        }
        let blocks_start = position.next_multiple_of(BLOCK);
        let mut next = blocks_start / BLOCK;
        for place in &mut places {
            if let Body::Blocks { size, address } = &mut place.body {
                *address = block_address(next)?;
                next += size.div_ceil(BLOCK);
            }
        }
        for (id, place) in order.iter().zip(&mut places) {
            if let (Body::Chunks(chunks), Content::SparseFile { size, extents }) =
                (&mut place.body, &tree.node(*id).content)
            {
                map_extents(chunks, *size, extents, &mut next)?;
            }
        }
        Ok(Self {
            places,
            nids,
            blocks_start,
            end: next * BLOCK,
        })
    }

    fn nid(&self, id: NodeId) -> u64 {
        self.nids[id.index()]
    }
}

impl Chunks {
    fn count(&self) -> u64 {
        match &self.table {
            ChunkTable::Contiguous { count, .. } => *count,
            ChunkTable::Mixed(chunks) => chunks.len() as u64,
        }
    }

    fn size(&self) -> u64 {
        BLOCK << self.bits
    }
}

fn block_address(block: u64) -> Result<u32, Error> {
    match u32::try_from(block) {
        Ok(block) if block != NULL_ADDRESS => Ok(block),
        _ => Err(Error::TooFragmented),
    }
}

fn body_of(node: &Node, limits: &Limits, copied: &mut u64) -> Result<Body, Error> {
    let data = |size| match size {
        0 => Body::None,
        1..=INLINE_MAX => Body::Inline(size),
        _ => Body::Blocks { size, address: 0 },
    };
    Ok(match &node.content {
        Content::Directory(directory) => data(directory_size(directory)),
        Content::Symlink(target) => data(target.len() as u64),
        Content::File { size: 0, .. } | Content::SparseFile { size: 0, .. } => Body::None,
        Content::File { size, tar_offset } => {
            let bits = chunk_bits(*size);
            Body::Chunks(Chunks {
                bits,
                table: ChunkTable::Contiguous {
                    block: u32::try_from(tar_offset / BLOCK).map_err(|_| Error::TooLarge)?,
                    count: size.div_ceil(BLOCK << bits),
                },
            })
        }
        Content::SparseFile { size, extents } => {
            let (bits, cost) = sparse_chunk_bits(*size, extents);
            *copied += cost;
            if *copied > limits.sparse {
                return Err(Error::TooFragmented);
            }
            let count = size.div_ceil(BLOCK << bits);
            Body::Chunks(Chunks {
                bits,
                table: ChunkTable::Mixed(vec![Chunk::Hole; count as usize]),
            })
        }
        Content::Character { .. } | Content::Block { .. } | Content::Fifo => Body::None,
    })
}

/// The smallest exponent with which the whole file is one chunk.
fn chunk_bits(size: u64) -> u32 {
    (0..CHUNK_BITS_MAX)
        .find(|bits| BLOCK << bits >= size)
        .unwrap_or(CHUNK_BITS_MAX)
}

/// Chooses the chunk size of a sparse file so that its table and the chunks
/// that must be copied take the least space. Returns that space, too.
fn sparse_chunk_bits(size: u64, extents: &[Extent]) -> (u32, u64) {
    (0..=CHUNK_BITS_MAX)
        .map(|bits| {
            let chunk = BLOCK << bits;
            let copies: u64 = extents.iter().map(|e| copies(e, size, chunk)).sum();
            let table = size.div_ceil(chunk).saturating_mul(CHUNK_INDEX);
            (bits, table.saturating_add(copies.saturating_mul(chunk)))
        })
        // Of equals the larger chunk: fewer steps for the kernel.
        .rev()
        .min_by_key(|(_, cost)| *cost)
        .unwrap_or((0, u64::MAX))
}

/// How many chunks this piece makes unmappable.
fn copies(extent: &Extent, size: u64, chunk: u64) -> u64 {
    let end = extent.offset + extent.length;
    let touched = (end - 1) / chunk - extent.offset / chunk + 1;
    if !extent
        .tar_offset
        .wrapping_sub(extent.offset)
        .is_multiple_of(BLOCK)
    {
        return touched;
    }
    let head = u64::from(!extent.offset.is_multiple_of(chunk));
    let tail = u64::from(!end.is_multiple_of(chunk) && end != size);
    (head + tail).min(touched)
}

/// Decides for every chunk that has data whether it can be shown in the tar.
fn map_extents(
    chunks: &mut Chunks,
    size: u64,
    extents: &[Extent],
    next: &mut u64,
) -> Result<(), Error> {
    let chunk_size = chunks.size();
    let ChunkTable::Mixed(table) = &mut chunks.table else {
        return Ok(());
    };
    for extent in extents {
        let end = extent.offset + extent.length;
        for index in extent.offset / chunk_size..end.div_ceil(chunk_size) {
            let start = index * chunk_size;
            let slot = &mut table[index as usize];
            if let Chunk::Copy(_) = slot {
                continue;
            }
            // The part of the chunk that is inside the file must be inside the
            // piece; what the kernel shows beyond the file's end does not count.
            let inside = start >= extent.offset && (start + chunk_size).min(size) <= end;
            let place = (extent.tar_offset + start).checked_sub(extent.offset);
            match place {
                Some(place) if inside && place % BLOCK == 0 => {
                    *slot = Chunk::Tar(u32::try_from(place / BLOCK).map_err(|_| Error::TooLarge)?);
                }
                _ => {
                    *slot = Chunk::Copy(block_address(*next)?);
                    *next += chunk_size / BLOCK;
                    block_address(*next)?;
                }
            }
        }
    }
    Ok(())
}

/// Writes the data of the chunks that live in the index.
fn copy_chunks<W: Write + ?Sized>(
    chunks: &Chunks,
    extents: &[Extent],
    tar: &File,
    out: &mut Output<'_, W>,
) -> Result<(), Error> {
    let ChunkTable::Mixed(table) = &chunks.table else {
        return Ok(());
    };
    let chunk_size = chunks.size();
    let mut buffer = vec![0; 1 << 16];
    let mut first = 0;
    for (index, chunk) in table.iter().enumerate() {
        let Chunk::Copy(block) = chunk else { continue };
        let written = |e| Error::io("write", "the layer's index", e);
        let start = index as u64 * chunk_size;
        let place = u64::from(*block) * BLOCK;
        out.pad_to(place).map_err(written)?;
        while first < extents.len() && extents[first].offset + extents[first].length <= start {
            first += 1;
        }
        for extent in &extents[first..] {
            if extent.offset >= start + chunk_size {
                break;
            }
            let mut from = extent.offset.max(start);
            let to = (extent.offset + extent.length).min(start + chunk_size);
            out.pad_to(place + from - start).map_err(written)?;
            while from < to {
                let part = ((to - from) as usize).min(buffer.len());
                let at = extent.tar_offset + from - extent.offset;
                tar.read_exact_at(&mut buffer[..part], at)
                    .map_err(|e| Error::io("read", "the layer's tar", e))?;
                out.bytes(&buffer[..part]).map_err(written)?;
                from += part as u64;
            }
        }
        out.pad_to(place + chunk_size).map_err(written)?;
    }
    Ok(())
}

fn head(tree: &Finished, plan: &Plan, inodes: u64, tar_size: u64) -> Vec<u8> {
    let mut head = vec![0; FIRST_INODE as usize];
    let mut put = |at: u64, bytes: &[u8]| {
        head[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    };
    let at = SUPERBLOCK;
    put(at, &MAGIC.to_le_bytes());
    put(at + 8, &(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
    put(at + 12, &[BLOCK_BITS as u8]);
    let root = plan.nid(Finished::ROOT);
    put(at + 14, &(root as u16).to_le_bytes());
    put(at + 16, &inodes.to_le_bytes());
    let built = tree.node(Finished::ROOT).mtime;
    put(at + 24, &built.seconds.to_le_bytes());
    put(at + 32, &built.nanoseconds.to_le_bytes());
    // Only statfs uses it, and an overlay shows its upper's figures.
    put(at + 36, &((plan.end / BLOCK) as u32).to_le_bytes());
    put(
        at + 80,
        &(INCOMPAT_CHUNKED | INCOMPAT_DEVICE_TABLE).to_le_bytes(),
    );
    put(at + 86, &1u16.to_le_bytes());
    put(at + 88, &((DEVICE_TABLE / 128) as u16).to_le_bytes());
    put(
        DEVICE_TABLE + 64,
        &(tar_size.div_ceil(BLOCK) as u32).to_le_bytes(),
    );
    let sum = checksum(&head[SUPERBLOCK as usize..]);
    head[SUPERBLOCK as usize + 4..][..4].copy_from_slice(&sum.to_le_bytes());
    head
}

/// CRC-32C as the kernel computes it over the superblock's block, which holds
/// the device table too.
fn checksum(block: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in block {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let mask = (crc & 1).wrapping_neg();
            crc = crc >> 1 ^ (0x82f6_3b78 & mask);
        }
    }
    crc
}

fn write_inode<W: Write + ?Sized>(
    tree: &Finished,
    plan: &Plan,
    id: NodeId,
    place: &Place,
    out: &mut Output<'_, W>,
) -> io::Result<()> {
    let node = tree.node(id);
    out.pad_to(plan.nid(id) * SLOT)?;
    let directory_links = |d: &Directory| {
        let is_directory = |id: &&NodeId| matches!(tree.node(**id).content, Content::Directory(_));
        2 + d.children.values().filter(is_directory).count() as u32
    };
    let (kind, links, mut size, mut union) = match &node.content {
        Content::Directory(d) => (0o040_000, directory_links(d), 0, 0),
        Content::File { size, .. } | Content::SparseFile { size, .. } => {
            (0o100_000, node.links, *size, 0)
        }
        Content::Symlink(target) => (0o120_000, node.links, target.len() as u64, 0),
        Content::Character { major, minor } => (0o020_000, node.links, 0, device(*major, *minor)),
        Content::Block { major, minor } => (0o060_000, node.links, 0, device(*major, *minor)),
        Content::Fifo => (0o010_000, node.links, 0, 0),
    };
    let layout = match &place.body {
        Body::None => LAYOUT_PLAIN,
        Body::Inline(bytes) => {
            size = *bytes;
            LAYOUT_INLINE
        }
        Body::Blocks {
            size: bytes,
            address,
        } => {
            (size, union) = (*bytes, *address);
            LAYOUT_PLAIN
        }
        Body::Chunks(chunks) => {
            union = u32::from(CHUNK_INDEXES) | chunks.bits;
            LAYOUT_CHUNKED
        }
    };
    let xattrs = xattrs_size(node);
    let mut inode = [0; INODE as usize];
    let mut put = |at: usize, bytes: &[u8]| inode[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(EXTENDED | layout << 1).to_le_bytes());
    put(2, &xattr_count(xattrs).to_le_bytes());
    put(4, &(kind | node.mode).to_le_bytes());
    put(8, &size.to_le_bytes());
    put(16, &union.to_le_bytes());
    put(20, &(plan.nid(id) as u32).to_le_bytes());
    put(24, &node.uid.to_le_bytes());
    put(28, &node.gid.to_le_bytes());
    put(32, &node.mtime.seconds.to_le_bytes());
    put(40, &node.mtime.nanoseconds.to_le_bytes());
    put(44, &links.to_le_bytes());
    out.bytes(&inode)?;
    write_xattrs(node, out)?;
    match (&place.body, &node.content) {
        (Body::Chunks(chunks), _) => write_chunk_table(chunks, out),
        (Body::Inline(_), Content::Directory(directory)) => {
            out.bytes(&directory_data(tree, plan, id, directory))
        }
        (Body::Inline(_), Content::Symlink(target)) => out.bytes(target),
        _ => Ok(()),
    }
}

fn write_chunk_table<W: Write + ?Sized>(
    chunks: &Chunks,
    out: &mut Output<'_, W>,
) -> io::Result<()> {
    out.align(CHUNK_INDEX)?;
    let mut entry = |device: u16, block: u32| {
        let mut bytes = [0; CHUNK_INDEX as usize];
        bytes[2..4].copy_from_slice(&device.to_le_bytes());
        bytes[4..8].copy_from_slice(&block.to_le_bytes());
        out.bytes(&bytes)
    };
    match &chunks.table {
        ChunkTable::Contiguous { block, count } => {
            for index in 0..*count {
                entry(TAR_DEVICE, block + (index << chunks.bits) as u32)?;
            }
        }
        ChunkTable::Mixed(table) => {
            for chunk in table {
                match chunk {
                    Chunk::Hole => entry(0, NULL_ADDRESS)?,
                    Chunk::Tar(block) => entry(TAR_DEVICE, *block)?,
                    Chunk::Copy(block) => entry(0, *block)?,
                }
            }
        }
    }
    Ok(())
}

/// As the kernel packs device numbers.
fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | major << 8 | (minor & !0xff) << 12
}

/// An attribute name as the index has it: number of a prefix, and the rest.
fn split_xattr(name: &[u8]) -> (u8, &[u8]) {
    const PREFIXES: [(u8, &[u8]); 5] = [
        (1, b"user."),
        (2, b"system.posix_acl_access"),
        (3, b"system.posix_acl_default"),
        (4, b"trusted."),
        (6, b"security."),
    ];
    PREFIXES
        .iter()
        .find_map(|(index, prefix)| Some((*index, name.strip_prefix(*prefix)?)))
        // The tree keeps attributes of these name spaces only.
        .unwrap_or((1, name))
}

/// The node's own attributes, and the mark of overlayfs that only we may set.
fn xattrs(node: &Node) -> impl Iterator<Item = (&[u8], &[u8])> {
    let opaque = matches!(&node.content, Content::Directory(d) if d.opaque);
    let mark: (&[u8], &[u8]) = (b"trusted.overlay.opaque", b"y");
    let own = node.xattrs.iter().map(|(name, value)| (&**name, &**value));
    opaque.then_some(mark).into_iter().chain(own)
}

fn xattrs_size(node: &Node) -> u64 {
    let entries: u64 = xattrs(node)
        .map(|(name, value)| {
            let (_, rest) = split_xattr(name);
            (4 + rest.len() as u64 + value.len() as u64).next_multiple_of(4)
        })
        .sum();
    if entries == 0 { 0 } else { 12 + entries }
}

/// The field says "one header, then four bytes each". The tree bounds it.
fn xattr_count(size: u64) -> u16 {
    if size == 0 {
        0
    } else {
        ((size - 12) / 4 + 1) as u16
    }
}

fn write_xattrs<W: Write + ?Sized>(node: &Node, out: &mut Output<'_, W>) -> io::Result<()> {
    for (number, (name, value)) in xattrs(node).enumerate() {
        if number == 0 {
            out.bytes(&[0; 12])?;
        }
        let (index, rest) = split_xattr(name);
        let length = value.len() as u16;
        out.bytes(&[rest.len() as u8, index])?;
        out.bytes(&length.to_le_bytes())?;
        out.bytes(rest)?;
        out.bytes(value)?;
        out.align(4)?;
    }
    Ok(())
}

/// All names of a directory in byte order, with `.` and `..` among them.
fn entries<'a>(
    id: NodeId,
    directory: &'a Directory,
) -> impl Iterator<Item = (&'a [u8], NodeId)> + 'a {
    let dots = [(&b"."[..], id), (&b".."[..], directory.parent)];
    let mut dots = dots.into_iter().peekable();
    let mut children = directory
        .children
        .iter()
        .map(|(name, id)| (&**name, *id))
        .peekable();
    std::iter::from_fn(move || match (dots.peek(), children.peek()) {
        (Some((dot, _)), Some((name, _))) if dot < name => dots.next(),
        (Some(_), None) => dots.next(),
        _ => children.next(),
    })
}

/// Packs names into blocks: calls `block` with the entries of each.
fn pack<'a>(
    entries: impl Iterator<Item = (&'a [u8], NodeId)>,
    mut block: impl FnMut(&[(&'a [u8], NodeId)]),
) {
    let mut batch = Vec::new();
    let mut used = 0;
    for (name, id) in entries {
        let size = DIRENT + name.len();
        if used + size > BLOCK as usize {
            block(&batch);
            batch.clear();
            used = 0;
        }
        used += size;
        batch.push((name, id));
    }
    block(&batch);
}

/// Size of a directory's data: whole blocks but for the last.
fn directory_size(directory: &Directory) -> u64 {
    let mut before = 0;
    let mut last = 0;
    pack(entries(Finished::ROOT, directory), |batch| {
        before += if last > 0 { BLOCK } else { 0 };
        last = batch.iter().map(|(name, _)| DIRENT + name.len()).sum();
    });
    before + last as u64
}

fn directory_data(tree: &Finished, plan: &Plan, id: NodeId, directory: &Directory) -> Vec<u8> {
    let mut data = Vec::new();
    pack(entries(id, directory), |batch| {
        data.resize(data.len().next_multiple_of(BLOCK as usize), 0);
        let mut name_at = batch.len() * DIRENT;
        for (name, child) in batch {
            data.extend(plan.nid(*child).to_le_bytes());
            data.extend((name_at as u16).to_le_bytes());
            data.extend([file_type(tree.node(*child)), 0]);
            name_at += name.len();
        }
        for (name, _) in batch {
            data.extend(*name);
        }
    });
    data
}

fn file_type(node: &Node) -> u8 {
    match node.content {
        Content::File { .. } | Content::SparseFile { .. } => 1,
        Content::Directory(_) => 2,
        Content::Character { .. } => 3,
        Content::Block { .. } => 4,
        Content::Fifo => 5,
        Content::Symlink(_) => 7,
    }
}

/// Sequential writes with the position known.
struct Output<'a, W: Write + ?Sized> {
    to: &'a mut W,
    position: u64,
}

impl<'a, W: Write + ?Sized> Output<'a, W> {
    fn new(to: &'a mut W) -> Self {
        Self { to, position: 0 }
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.position += bytes.len() as u64;
        self.to.write_all(bytes)
    }

    fn pad_to(&mut self, position: u64) -> io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.position < position {
            let part = (position - self.position).min(ZEROS.len() as u64);
            self.bytes(&ZEROS[..part as usize])?;
        }
        Ok(())
    }

    fn align(&mut self, to: u64) -> io::Result<()> {
        self.pad_to(self.position.next_multiple_of(to))
    }
}
