//! The layers that copies and new directories make.

use std::io::{self, Write};

use sampan_archive::{Attributes, LayerWriter};

use super::selection::{Content, Selection};
use crate::files::{Files, Kind, shown};
use crate::times::Times;
use crate::{Error, Result};

/// Whether a path has a name in it that would remove another file of a layer.
pub(super) fn has_whiteout(path: &[u8]) -> bool {
    path.split(|b| *b == b'/')
        .any(|part| part.starts_with(b".wh."))
}

impl Selection {
    /// Writes the layer. Blocks.
    pub(crate) fn write(&self, out: &mut dyn Write, times: Times) -> io::Result<()> {
        let mut layer = LayerWriter::new(out).latest(times.latest());
        let now = times.now();
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
                Content::Directory | Content::NewDirectory if path.is_empty() => {}
                Content::Directory => layer.directory(path, attributes)?,
                Content::NewDirectory => layer.directory(path, &new)?,
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
    times: Times,
) -> Result<()> {
    let resolved = below.resolve(path.as_bytes())?;
    let mut layer = LayerWriter::new(out).latest(times.latest());
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
        mtime: times.now(),
        extended: Vec::new(),
    };
    for end in ends {
        let directory = &whole[..end];
        if has_whiteout(directory) {
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

/// What a directory is like that is there already.
pub(super) fn existing(directory: &[u8], below: &Files) -> Result<Option<Attributes>> {
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
