//! A directory tree as a tar: a container's files, or what it has changed of its image.
//!
//! Everything is reached by descriptors, one name at a time and never through a link.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat};
use rustix::io::Errno;

use crate::OwnerMap;
use crate::header::{END, Header, Type, pad};

/// Directories may not lie deeper than this.
const DEPTH: usize = 1000;
const PIECE: usize = 256 << 10;
/// The longest value of an attribute, and all names of a file's (the kernel's bounds).
const ATTRIBUTE: usize = 64 << 10;
/// Files with holes of so many bytes in all are written without them.
const HOLES: u64 = 1 << 20;
/// Pieces of a file with holes; one with more is written whole.
const PIECES: usize = 10_000;
/// Magic numbers of file systems that hold no files (`linux/magic.h`): proc, sysfs, cgroup, cgroup2,
/// devpts, mqueue, debugfs, tracefs, securityfs, bpf.
const PSEUDO: [u64; 10] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x1cd1,
    0x1980_0202,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
];
pub(crate) const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Opens a directory of the merged view by its path.
pub type OpenMerged<'a> = dyn FnMut(&[u8]) -> io::Result<OwnedFd> + 'a;

/// What kind of tree is written.
pub enum Tree<'a> {
    /// Files as they are, for any reader of tars.
    Files,
    /// The same, of a container that may be running: what the kernel itself shows in a directory
    /// ([`is_pseudo`]) is left out.
    Live,
    /// What lies in the upper directory of an overlay, as a layer: marks of removal become
    /// whiteouts, and holes stay holes.
    Upper {
        /// Paths that are left out, with all below.
        without: &'a [Vec<u8>],
        /// Later times become this one, in seconds since 1970, and all files are written whole: the
        /// tar depends on nothing but the files.
        latest: Option<i64>,
        /// A directory that was renamed is complete only in the merged view.
        merged: &'a mut OpenMerged<'a>,
    },
}

/// Writes everything below a directory, but not the directory itself, as a tar. Blocks.
///
/// Names are in order, so that the same files make the same tar. Sockets are left out. A file
/// that changes meanwhile has the length that it had at first.
pub fn write_tree(root: BorrowedFd<'_>, tree: Tree<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut writer = Writer::new(tree, out);
    writer.directory(root, b"", 0)?;
    writer.finish()
}

/// Writes one file, or a directory with all below it, of a container that may be running, as a
/// tar. Blocks.
///
/// `entry` is the name in the directory `at`; without one it is `at` itself. In the archive it is
/// called `name`, and what is below a directory `name/...`. Its owners are those that `owners`
/// puts in the place of the files'.
pub fn write_named(
    at: BorrowedFd<'_>,
    entry: Option<&CStr>,
    name: &[u8],
    owners: &OwnerMap,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut writer = Writer::new(Tree::Live, out);
    writer.owners = owners.clone();
    match entry {
        Some(entry) => writer.entry(at, entry, name.to_vec(), 0)?,
        None => writer.opened(at, name.to_vec(), 0)?,
    }
    writer.finish()
}

/// Whether a file lies in a file system that only shows what the kernel knows: processes, devices
/// and settings.
pub fn is_pseudo(file: BorrowedFd<'_>) -> io::Result<bool> {
    let kind = rustix::fs::fstatfs(file)?.f_type;
    // The type differs between architectures, the numbers do not.
    #[allow(clippy::cast_lossless, clippy::unnecessary_cast, trivial_numeric_casts)]
    let kind = kind as u64 & 0xffff_ffff;
    Ok(PSEUDO.contains(&kind))
}

struct Writer<'a, 'o, W> {
    tree: Tree<'a>,
    latest: Option<i64>,
    owners: OwnerMap,
    out: &'o mut W,
    /// First paths of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

impl<'a, 'o, W: Write> Writer<'a, 'o, W> {
    fn new(tree: Tree<'a>, out: &'o mut W) -> Self {
        let latest = match &tree {
            Tree::Files | Tree::Live => None,
            Tree::Upper { latest, .. } => *latest,
        };
        Self {
            latest,
            owners: OwnerMap::default(),
            tree,
            out,
            links: HashMap::new(),
            buffer: vec![0; PIECE],
        }
    }

    fn finish(self) -> io::Result<()> {
        self.out.write_all(&END)?;
        self.out.flush()
    }

    fn directory(&mut self, at: BorrowedFd<'_>, path: &[u8], depth: usize) -> io::Result<()> {
        if depth > DEPTH {
            return Err(io::Error::other("directories are nested too deeply"));
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(at)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        for name in names {
            let mut path = path.to_vec();
            path.extend_from_slice(name.to_bytes());
            self.entry(at, &name, path, depth)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        at: BorrowedFd<'_>,
        name: &CStr,
        path: Vec<u8>,
        depth: usize,
    ) -> io::Result<()> {
        let stat = match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Removed meanwhile.
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if let Tree::Upper { without, .. } = &self.tree {
            if without.contains(&path) {
                return Ok(());
            }
            if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
                return self.whiteout(&path, name, &stat);
            }
            // Such a file would remove another one where the layer is used.
            if name.to_bytes().starts_with(WHITEOUT) {
                return Ok(());
            }
        }
        match kind {
            FileType::Directory => self.subdirectory(at, name, path, depth),
            FileType::RegularFile => self.file(at, name, path),
            FileType::Symlink => {
                let link = match rustix::fs::readlinkat(at, name, Vec::new()) {
                    Ok(link) => link,
                    // Removed or replaced meanwhile.
                    Err(Errno::NOENT | Errno::INVAL) => return Ok(()),
                    Err(errno) => return Err(errno.into()),
                };
                if self.link(&path, &stat)? {
                    return Ok(());
                }
                let header = Header {
                    link: link.to_bytes(),
                    ..self.header(&path, Type::Symlink, &stat, 0)
                };
                header.write(self.out)
            }
            FileType::CharacterDevice => self.node(&path, Type::CharacterDevice, &stat),
            FileType::BlockDevice => self.node(&path, Type::BlockDevice, &stat),
            FileType::Fifo => self.node(&path, Type::Fifo, &stat),
            // A socket without its listener is nothing.
            FileType::Socket | FileType::Unknown => Ok(()),
        }
    }

    fn whiteout(&mut self, path: &[u8], name: &CStr, stat: &Stat) -> io::Result<()> {
        let parent = &path[..path.len() - name.to_bytes().len()];
        let path = [parent, WHITEOUT, name.to_bytes()].concat();
        let header = Header {
            seconds: self.time(stat).0,
            ..Header::new(&path, Type::File, 0o600, 0)
        };
        header.write(self.out)
    }

    fn subdirectory(
        &mut self,
        at: BorrowedFd<'_>,
        name: &CStr,
        path: Vec<u8>,
        depth: usize,
    ) -> io::Result<()> {
        match open(at, name, OFlags::DIRECTORY) {
            Ok(directory) => self.opened(directory.as_fd(), path, depth),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn opened(
        &mut self,
        directory: BorrowedFd<'_>,
        mut path: Vec<u8>,
        depth: usize,
    ) -> io::Result<()> {
        let stat = rustix::fs::fstat(directory)?;
        let bare = path.clone();
        path.push(b'/');
        let header = Header {
            records: attributes(directory)?,
            ..self.header(&path, Type::Directory, &stat, 0)
        };
        header.write(self.out)?;
        if matches!(self.tree, Tree::Live) && is_pseudo(directory)? {
            return Ok(());
        }
        let Tree::Upper { merged, .. } = &mut self.tree else {
            return self.directory(directory, &path, depth + 1);
        };
        let renamed = attribute(directory, c"trusted.overlay.redirect")?.is_some();
        let opaque = attribute(directory, c"trusted.overlay.opaque")?;
        let complete = if renamed { Some(merged(&bare)?) } else { None };
        if renamed || opaque.as_deref() == Some(b"y") {
            let path = [&path, OPAQUE].concat();
            let mark = Header {
                seconds: self.time(&stat).0,
                ..Header::new(&path, Type::File, 0o600, 0)
            };
            mark.write(self.out)?;
        }
        match complete {
            // All of it is the layer's own now.
            Some(complete) => {
                let tree = std::mem::replace(&mut self.tree, Tree::Files);
                let result = self.directory(complete.as_fd(), &path, depth + 1);
                self.tree = tree;
                result
            }
            None => self.directory(directory, &path, depth + 1),
        }
    }

    fn file(&mut self, at: BorrowedFd<'_>, name: &CStr, path: Vec<u8>) -> io::Result<()> {
        let file = match open(at, name, OFlags::NONBLOCK) {
            Ok(file) => File::from(file),
            // Removed or replaced meanwhile.
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        if self.link(&path, &stat)? {
            return Ok(());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let records = attributes(file.as_fd())?;
        if matches!(self.tree, Tree::Upper { latest: None, .. })
            && let Some(pieces) = pieces(&file, &stat, size)?
        {
            return self.sparse(&file, &path, &stat, records, &pieces);
        }
        let header = Header {
            records,
            ..self.header(&path, Type::File, &stat, size)
        };
        header.write(self.out)?;
        self.bytes(&file, 0, size)?;
        pad(self.out, size)
    }

    /// Writes a file with holes in the form of GNU tar that is called 1.0.
    fn sparse(
        &mut self,
        file: &File,
        path: &[u8],
        stat: &Stat,
        mut records: Vec<(Vec<u8>, Vec<u8>)>,
        pieces: &[(u64, u64)],
    ) -> io::Result<()> {
        let mut map = format!("{}\n", pieces.len());
        for (offset, length) in pieces {
            map.push_str(&format!("{offset}\n{length}\n"));
        }
        let mut map = map.into_bytes();
        map.resize(map.len().next_multiple_of(512), 0);
        for (key, value) in [
            ("GNU.sparse.major", b"1".to_vec()),
            ("GNU.sparse.minor", b"0".to_vec()),
            ("GNU.sparse.name", path.to_vec()),
            ("GNU.sparse.realsize", stat.st_size.to_string().into_bytes()),
        ] {
            records.push((key.as_bytes().to_vec(), value));
        }
        let data: u64 = pieces.iter().map(|(_, length)| length).sum();
        let size = map.len() as u64 + data;
        let header = Header {
            records,
            ..self.header(path, Type::File, stat, size)
        };
        header.write(self.out)?;
        self.out.write_all(&map)?;
        for (offset, length) in pieces {
            self.bytes(file, *offset, *length)?;
        }
        pad(self.out, size)
    }

    /// Writes a part of a file; zeros for what is not there any more.
    fn bytes(&mut self, file: &File, mut offset: u64, length: u64) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let n = match file.read_at(&mut self.buffer[..want], offset) {
                Ok(0) => return io::copy(&mut io::repeat(0).take(left), self.out).map(drop),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.out.write_all(&self.buffer[..n])?;
            offset += n as u64;
            left -= n as u64;
        }
        Ok(())
    }

    fn node(&mut self, path: &[u8], kind: Type, stat: &Stat) -> io::Result<()> {
        if self.link(path, stat)? {
            return Ok(());
        }
        let device = (
            rustix::fs::major(stat.st_rdev),
            rustix::fs::minor(stat.st_rdev),
        );
        let header = Header {
            device,
            ..self.header(path, kind, stat, 0)
        };
        header.write(self.out)
    }

    fn header<'h>(&self, path: &'h [u8], kind: Type, stat: &Stat, size: u64) -> Header<'h> {
        let (seconds, nanoseconds) = self.time(stat);
        let (uid, gid) = self.owners.map((stat.st_uid, stat.st_gid));
        Header {
            uid,
            gid,
            seconds,
            nanoseconds,
            ..Header::new(path, kind, stat.st_mode & 0o7777, size)
        }
    }

    fn time(&self, stat: &Stat) -> (i64, u32) {
        let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        no_later((seconds(stat), nanoseconds), self.latest)
    }

    /// Writes a further name of a file that has been written. Whether it was one.
    fn link(&mut self, path: &[u8], stat: &Stat) -> io::Result<bool> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let identity = (stat.st_dev, stat.st_ino);
        let Some(first) = self.links.get(&identity) else {
            self.links.insert(identity, path.to_vec());
            return Ok(false);
        };
        let header = Header {
            link: first,
            ..self.header(path, Type::HardLink, stat, 0)
        };
        header.write(self.out)?;
        Ok(true)
    }
}

/// A time, or the latest that there may be.
pub(crate) fn no_later(time: (i64, u32), latest: Option<i64>) -> (i64, u32) {
    match latest {
        Some(latest) if time > (latest, 0) => (latest, 0),
        _ => time,
    }
}

#[allow(clippy::unnecessary_cast, trivial_numeric_casts)] // the type differs between architectures
fn seconds(stat: &Stat) -> i64 {
    stat.st_mtime as i64
}

fn open(at: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// Where a file has data, if it has holes that are worth it.
fn pieces(file: &File, stat: &Stat, size: u64) -> io::Result<Option<Vec<(u64, u64)>>> {
    let stored = u64::try_from(stat.st_blocks)
        .unwrap_or(0)
        .saturating_mul(512);
    if size.saturating_sub(stored) < HOLES {
        return Ok(None);
    }
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            // A file system that does not tell.
            Err(Errno::INVAL | Errno::NOTSUP) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(size);
        if start >= size || end <= start {
            break;
        }
        pieces.push((start, end - start));
        at = end;
        if pieces.len() > PIECES {
            return Ok(None);
        }
    }
    // The end of the file is where the last piece ends.
    if at < size || pieces.is_empty() {
        pieces.push((size, 0));
    }
    let data: u64 = pieces.iter().map(|(_, length)| length).sum();
    Ok((size - data >= HOLES).then_some(pieces))
}

/// Reads the attributes that belong to the file and not to the host.
pub(crate) fn attributes(file: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; 1024];
    let length = loop {
        match rustix::fs::flistxattr(file, &mut names[..]) {
            Ok(length) => break length,
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(Errno::RANGE) if names.len() < ATTRIBUTE => names.resize(ATTRIBUTE, 0),
            Err(errno) => return Err(errno.into()),
        }
    };
    let mut records = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let hosts = [
            &b"security.selinux"[..],
            b"trusted.overlay.",
            b"user.overlay.",
        ];
        if hosts.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let key = CString::new(name)?;
        if let Some(value) = attribute(file, &key)? {
            records.push(([b"SCHILY.xattr.", name].concat(), value));
        }
    }
    records.sort_unstable();
    Ok(records)
}

fn attribute(file: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 256];
    loop {
        match rustix::fs::fgetxattr(file, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
            Err(Errno::RANGE) if value.len() < ATTRIBUTE => value.resize(ATTRIBUTE, 0),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn open_dir(path: &Path) -> OwnedFd {
        open(
            rustix::fs::CWD,
            &CString::new(path.to_str().unwrap()).unwrap(),
            OFlags::DIRECTORY,
        )
        .unwrap()
    }

    fn names(tar: &[u8]) -> Vec<String> {
        tar::Archive::new(tar)
            .entries()
            .unwrap()
            .map(|entry| String::from_utf8(entry.unwrap().path_bytes().into_owned()).unwrap())
            .collect()
    }

    #[test]
    fn files_come_in_order_with_links_modes_and_times() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path();
        std::fs::create_dir(root.join("d")).unwrap();
        std::fs::write(root.join("d/file"), vec![7; 1000]).unwrap();
        std::fs::hard_link(root.join("d/file"), root.join("again")).unwrap();
        symlink("/etc/passwd", root.join("link")).unwrap();
        let mode = std::fs::Permissions::from_mode(0o4751);
        std::fs::set_permissions(root.join("d/file"), mode).unwrap();
        let mut tar = Vec::new();
        write_tree(open_dir(root).as_fd(), Tree::Files, &mut tar).unwrap();
        assert_eq!(names(&tar), ["again", "d/", "d/file", "link"]);
        let mut archive = tar::Archive::new(&tar[..]);
        let mut entries = archive.entries().unwrap().map(Result::unwrap);
        let mut first = entries.next().unwrap();
        assert_eq!(first.header().mode().unwrap(), 0o4751);
        let mut bytes = Vec::new();
        first.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, [7; 1000]);
        drop(first);
        let linked = entries.nth(1).unwrap();
        assert_eq!(linked.link_name_bytes().unwrap().as_ref(), b"again");
        let link = entries.next().unwrap();
        assert_eq!(link.link_name_bytes().unwrap().as_ref(), b"/etc/passwd");
        // The same files make the same tar.
        let mut again = Vec::new();
        write_tree(open_dir(root).as_fd(), Tree::Files, &mut again).unwrap();
        assert!(again == tar);
    }

    #[test]
    fn marks_of_an_upper_directory_become_whiteouts() {
        sampan_kernel::requires!(root);
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path();
        for dir in ["opaque", "renamed", "volume"] {
            std::fs::create_dir(root.join(dir)).unwrap();
        }
        std::fs::write(root.join("volume/inside"), "x").unwrap();
        std::fs::write(root.join(".wh.trick"), "x").unwrap();
        let mark = |dir: &str, name: &CStr, value: &[u8]| {
            let fd = open_dir(&root.join(dir));
            rustix::fs::fsetxattr(&fd, name, value, rustix::fs::XattrFlags::empty()).unwrap();
        };
        mark("opaque", c"trusted.overlay.opaque", b"y");
        mark("renamed", c"trusted.overlay.redirect", b"/before");
        let whiteout = root.join("opaque/gone");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &whiteout,
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        )
        .unwrap();
        let merged = tempfile::tempdir().unwrap();
        std::fs::write(merged.path().join("all"), "of it").unwrap();
        let mut asked = Vec::new();
        let mut open_merged = |path: &[u8]| {
            asked.push(path.to_vec());
            Ok(open_dir(merged.path()))
        };
        let tree = Tree::Upper {
            without: &[b"volume".to_vec()],
            latest: None,
            merged: &mut open_merged,
        };
        let mut tar = Vec::new();
        write_tree(open_dir(root).as_fd(), tree, &mut tar).unwrap();
        assert_eq!(
            names(&tar),
            [
                "opaque/",
                "opaque/.wh..wh..opq",
                "opaque/.wh.gone",
                "renamed/",
                "renamed/.wh..wh..opq",
                "renamed/all",
            ]
        );
        assert_eq!(asked, [b"renamed".to_vec()]);
    }

    #[test]
    fn holes_of_an_upper_directory_are_not_written() {
        let tmp = tempfile::tempdir().unwrap();
        let file = File::create(tmp.path().join("big")).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(b"end", 100 << 20).unwrap();
        file.set_len(200 << 20).unwrap();
        let tree = Tree::Upper {
            without: &[],
            latest: None,
            merged: &mut |_| Err(io::ErrorKind::NotFound.into()),
        };
        let mut tar = Vec::new();
        write_tree(open_dir(tmp.path()).as_fd(), tree, &mut tar).unwrap();
        assert!(tar.len() < 1 << 20, "{}", tar.len());
        let map = String::from_utf8_lossy(&tar).into_owned();
        assert!(map.contains("GNU.sparse.realsize=209715200"));
    }
}
