//! What a mounted tree shows, entry by entry.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sampan_oci::Digest;

pub type View = BTreeMap<String, Entry>;

#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, i64),
    pub links: u64,
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File { size: u64, digest: Digest },
    Symlink(Vec<u8>),
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
    Socket,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} {:o} {}:{} {}.{:09} x{}",
            self.kind, self.mode, self.uid, self.gid, self.mtime.0, self.mtime.1, self.links
        )?;
        for (name, value) in &self.xattrs {
            write!(f, " {name}={}", value.escape_ascii())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory => f.write_str("dir"),
            Self::File { size, digest } => write!(f, "file {size} {}", digest.short()),
            Self::Symlink(target) => write!(f, "-> {}", target.escape_ascii()),
            Self::Character(major, minor) => write!(f, "char {major}:{minor}"),
            Self::Block(major, minor) => write!(f, "block {major}:{minor}"),
            Self::Fifo => f.write_str("fifo"),
            Self::Socket => f.write_str("socket"),
        }
    }
}

pub fn path_of(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// Everything below an open directory; the top is `.`.
pub fn of(fd: impl AsFd) -> View {
    let mut view = View::new();
    walk(&path_of(&fd).join("."), ".", &mut view);
    view
}

pub fn of_path(path: &Path) -> View {
    let mut view = View::new();
    walk(path, ".", &mut view);
    view
}

fn walk(path: &Path, name: &str, view: &mut View) {
    let entry = entry(path);
    let is_directory = entry.kind == Kind::Directory;
    view.insert(name.to_owned(), entry);
    if !is_directory {
        return;
    }
    for child in std::fs::read_dir(path).unwrap() {
        let child = child.unwrap();
        let text = child.file_name().as_bytes().escape_ascii().to_string();
        let name = match name {
            "." => text,
            parent => format!("{parent}/{text}"),
        };
        walk(&child.path(), &name, view);
    }
}

pub fn entry(path: &Path) -> Entry {
    let meta = std::fs::symlink_metadata(path).unwrap();
    let kind = meta.file_type();
    let device = (
        rustix::fs::major(meta.rdev()),
        rustix::fs::minor(meta.rdev()),
    );
    let kind = if kind.is_dir() {
        Kind::Directory
    } else if kind.is_file() {
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(bytes.len() as u64, meta.size(), "{}", path.display());
        Kind::File {
            size: meta.size(),
            digest: Digest::of(&bytes),
        }
    } else if kind.is_symlink() {
        let target = std::fs::read_link(path).unwrap();
        Kind::Symlink(target.into_os_string().into_vec())
    } else if kind.is_char_device() {
        Kind::Character(device.0, device.1)
    } else if kind.is_block_device() {
        Kind::Block(device.0, device.1)
    } else if kind.is_fifo() {
        Kind::Fifo
    } else {
        Kind::Socket
    };
    Entry {
        kind,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        links: meta.nlink(),
        xattrs: xattrs(path),
    }
}

pub fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0; 1 << 16];
    let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    list.truncate(length);
    list.split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 1 << 16];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(length);
            (String::from_utf8(name.to_vec()).unwrap(), value)
        })
        .collect()
}
