//! Reads an index back by the rules of the format alone and refuses what a
//! kernel might trip over. `fsck.erofs` of the time knows no 512-byte blocks.

use std::collections::{BTreeMap, HashMap};

const BLOCK: usize = 512;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) mode: u16,
    pub(crate) size: u64,
    pub(crate) links: u32,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
}

struct Image<'a> {
    bytes: &'a [u8],
    tar_blocks: u64,
    /// Stretches in use, which must not overlap.
    used: Vec<(usize, usize)>,
}

/// Checks a whole index and returns its inodes by path.
pub(crate) fn check(bytes: &[u8], tar_size: u64) -> BTreeMap<String, Inode> {
    let mut image = Image {
        bytes,
        tar_blocks: tar_size.div_ceil(512),
        used: vec![(0, 1536)],
    };
    assert_eq!(bytes.len() % BLOCK, 0, "whole blocks");
    assert_eq!(image.u32(1024), 0xe0f5_e1e2, "magic");
    let mut block = bytes[1024..1536].to_vec();
    block[4..8].fill(0);
    assert_eq!(image.u32(1028), super::checksum(&block), "checksum");
    assert_eq!(bytes[1036], 9, "block size");
    assert_eq!(image.u32(1060) as usize, bytes.len() / BLOCK, "blocks");
    assert_eq!((image.u32(1064), image.u32(1068)), (0, 0), "areas");
    assert_eq!(image.u32(1104), 0xc, "incompatible features");
    assert_eq!((image.u16(1110), image.u16(1112)), (1, 9), "devices");
    assert_eq!(bytes[1114], 0, "directory block size");
    assert_eq!(u64::from(image.u32(1152 + 64)), image.tar_blocks, "tar");
    let root = u64::from(image.u16(1038));
    let mut found = BTreeMap::new();
    let mut links: HashMap<u64, (String, u32)> = HashMap::new();
    let mut todo = vec![(root, root, String::from("."))];
    while let Some((nid, parent, path)) = todo.pop() {
        let (inode, data) = image.inode(nid);
        let mut subdirectories = 0;
        if inode.mode & 0o170_000 == 0o040_000 {
            for (name, child, kind) in image.entries(nid, parent, &data) {
                let path = format!("{path}/{name}");
                if kind == 2 {
                    subdirectories += 1;
                    todo.push((child, nid, path));
                    continue;
                }
                let first = !links.contains_key(&child);
                links.entry(child).or_insert((path.clone(), 0)).1 += 1;
                if first {
                    let (inode, _) = image.inode(child);
                    assert_eq!(kind, file_type(inode.mode), "{path}");
                    found.insert(path, inode);
                }
            }
            assert_eq!(inode.links, 2 + subdirectories, "{path}");
        }
        found.insert(path, inode);
    }
    for (path, count) in links.values() {
        assert_eq!(found[path].links, *count, "{path}");
    }
    assert_eq!(image.u64(1040) as usize, found.len(), "inodes");
    image.used.sort_unstable();
    for pair in image.used.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "{pair:?} overlap");
    }
    found
}

impl Image<'_> {
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes[at..at + 2].try_into().unwrap())
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    fn inode(&mut self, nid: u64) -> (Inode, Vec<u8>) {
        let at = nid as usize * 32;
        let format = self.u16(at);
        assert_eq!(format & 1, 1, "extended");
        let inode = Inode {
            mode: self.u16(at + 4),
            size: self.u64(at + 8),
            links: self.u32(at + 44),
            xattrs: self.xattrs(at),
        };
        assert!(self.u32(at + 40) < 1_000_000_000, "nanoseconds");
        let mut end = at + 64 + xattr_size(self.u16(at + 2));
        let union = self.u32(at + 16);
        let mut data = Vec::new();
        match format >> 1 {
            0 => {
                let size = inode.size as usize;
                if size > 0 {
                    let from = union as usize * BLOCK;
                    data = self.bytes[from..from + size].to_vec();
                    self.used.push((from, from + size.next_multiple_of(BLOCK)));
                }
            }
            2 => {
                let size = inode.size as usize;
                assert!(
                    size < BLOCK && end % BLOCK + size <= BLOCK,
                    "crosses a block"
                );
                data = self.bytes[end..end + size].to_vec();
                end += size;
            }
            4 => {
                assert_eq!(union & !0x1f, 0x20, "chunk format");
                let chunk = 512u64 << (union & 0x1f);
                end = end.next_multiple_of(8);
                for _ in 0..inode.size.div_ceil(chunk) {
                    let (device, block) = (self.u16(end + 2), self.u32(end + 4));
                    assert_eq!(self.u16(end), 0);
                    let block = u64::from(block);
                    match (device, block) {
                        (0, 0xffff_ffff) => {}
                        (0, block) => {
                            let from = block * 512;
                            let to = from + chunk;
                            assert!(to <= self.bytes.len() as u64);
                            self.used.push((from as usize, to as usize));
                        }
                        (1, block) => assert!(block < self.tar_blocks),
                        (device, _) => panic!("device {device}"),
                    }
                    end += 8;
                }
            }
            other => panic!("layout {other}"),
        }
        self.used.push((at, end));
        (inode, data)
    }

    fn xattrs(&self, inode: usize) -> BTreeMap<String, Vec<u8>> {
        let size = xattr_size(self.u16(inode + 2));
        let mut found = BTreeMap::new();
        let mut at = inode + 64 + 12;
        while size > 0 && at < inode + 64 + size {
            let name_length = usize::from(self.bytes[at]);
            let value_length = usize::from(self.u16(at + 2));
            let prefix = match self.bytes[at + 1] {
                1 => "user.",
                2 => "system.posix_acl_access",
                3 => "system.posix_acl_default",
                4 => "trusted.",
                6 => "security.",
                other => panic!("prefix {other}"),
            };
            let name = &self.bytes[at + 4..at + 4 + name_length];
            let value = &self.bytes[at + 4 + name_length..][..value_length];
            found.insert(format!("{prefix}{}", name.escape_ascii()), value.to_vec());
            at += (4 + name_length + value_length).next_multiple_of(4);
            assert!(at <= inode + 64 + size, "attribute beyond the area");
        }
        found
    }

    /// The names of a directory but for `.` and `..`, which are checked.
    fn entries(&self, nid: u64, parent: u64, data: &[u8]) -> Vec<(String, u64, u8)> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut entries = Vec::new();
        for block in data.chunks(BLOCK) {
            let field = |at: usize| usize::from(u16::from_le_bytes([block[at], block[at + 1]]));
            let first = field(8);
            assert!(first % 12 == 0 && first > 0 && first <= block.len());
            for number in 0..first / 12 {
                let at = number * 12;
                let from = field(at + 8);
                let to = if at + 12 < first {
                    field(at + 20)
                } else {
                    block.len()
                };
                let name = &block[from..to];
                let name = &name[..memchr::memchr(0, name).unwrap_or(name.len())];
                assert!(!name.is_empty() && name.len() <= 255);
                let child = u64::from_le_bytes(block[at..at + 8].try_into().unwrap());
                match name {
                    b"." => assert_eq!(child, nid),
                    b".." => assert_eq!(child, parent),
                    _ => entries.push((name.escape_ascii().to_string(), child, block[at + 10])),
                }
                names.push(name.to_vec());
            }
        }
        assert!(
            names.is_sorted() && names.len() == entries.len() + 2,
            "order"
        );
        entries
    }
}

fn xattr_size(count: u16) -> usize {
    match usize::from(count) {
        0 => 0,
        count => 12 + 4 * (count - 1),
    }
}

fn file_type(mode: u16) -> u8 {
    match mode & 0o170_000 {
        0o100_000 => 1,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o120_000 => 7,
        other => panic!("type {other:o}"),
    }
}
