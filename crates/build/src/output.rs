//! The files that a build came to, for whoever takes them and no image.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use sampan_archive::{Tree, write_tree};
use sampan_images::{HeldLayer, ImageStore};

use crate::Result;
use crate::files::{Files, Kind};

/// The files of stacked layers, read-only.
#[derive(Debug)]
pub struct Output(Files);

/// One of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputEntry {
    /// Without a slash in front.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: OutputKind,
    /// Permission bits.
    pub mode: u32,
    /// Its owner and group.
    pub owner: (u32, u32),
    /// When it was changed last: seconds and nanoseconds since 1970.
    pub modified: (i64, u32),
}

/// What a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// A directory.
    Directory,
    /// A regular file of so many bytes.
    File(u64),
    /// A link to this.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A device.
    Device,
}

impl Output {
    /// Mounts the layers, bottom first. Blocks.
    pub fn mount(images: &ImageStore, layers: &[HeldLayer]) -> Result<Self> {
        let files = Files::of(images, layers, None);
        // Nothing that they need may fail later.
        files.open_root()?;
        Ok(Self(files))
    }

    /// All files but the root, each directory's in the order of their names and before what comes
    /// behind the directory. Blocks.
    pub fn entries(&self) -> Result<Vec<OutputEntry>> {
        let mut all: Vec<OutputEntry> = self
            .0
            .walk(b"")?
            .into_iter()
            .filter(|(path, _)| !path.is_empty())
            .map(|(path, found)| OutputEntry {
                path,
                kind: match found.kind {
                    Kind::Directory => OutputKind::Directory,
                    Kind::File(size) => OutputKind::File(size),
                    Kind::Symlink(target) => OutputKind::Symlink(target),
                    Kind::Fifo => OutputKind::Fifo,
                    Kind::Device => OutputKind::Device,
                },
                mode: found.attributes.mode,
                owner: (found.attributes.uid, found.attributes.gid),
                modified: found.attributes.mtime,
            })
            .collect();
        let parts = |entry: &OutputEntry| -> Vec<Vec<u8>> {
            let parts = entry.path.split(|byte| *byte == b'/');
            parts.map(<[u8]>::to_vec).collect()
        };
        all.sort_by_cached_key(parts);
        Ok(all)
    }

    /// Opens a regular file. Links are not followed out of the layers. Blocks.
    pub fn open(&self, path: &[u8]) -> Result<File> {
        self.0.open(path)
    }

    /// Writes the files as a tar. Blocks.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let root = self.0.open_root().map_err(io::Error::other)?;
        write_tree(root.as_fd(), Tree::Files, out)
    }
}
