//! `image diff`: what one image has that another has not.

use std::collections::BTreeSet;
use std::sync::Arc;

use sampan_layers::{Entry, EntryKind};

use crate::contents::Located;
use crate::store::ImageStore;
use crate::tree::{kind, shown};
use crate::{Image, Result};

/// The difference of two images.
#[derive(Debug, Clone)]
pub struct ImageDiff {
    /// The first image.
    pub old: Arc<Image>,
    /// The second image.
    pub new: Arc<Image>,
    /// What differs, by path.
    pub changes: Vec<Changed>,
}

/// A path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// From the root, with a slash in front.
    pub path: String,
    /// How it differs.
    pub change: Change,
    /// As `ls -l` writes it, of the second image where it has the path.
    pub kind: &'static str,
    /// Length of the regular file in the first image.
    pub old_size: u64,
    /// Length of the regular file in the second image.
    pub new_size: u64,
}

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Only the second image has it.
    Added,
    /// Only the first image has it.
    Deleted,
    /// What it is, or its bytes, differ.
    Content,
    /// Only owner, mode or attributes differ.
    Metadata,
}

impl ImageStore {
    /// Compares the files of two images: what they are, bytes, owners, modes and attributes, but
    /// not times, which differ between builds of the same. Reads only files of equal length that
    /// come from different layers. Blocks.
    pub fn diff(&self, old: &str, new: &str) -> Result<ImageDiff> {
        let (old, new) = (self.find(old)?, self.find(new)?);
        let (before, after) = (self.contents(&old)?, self.contents(&new)?);
        let paths: BTreeSet<&Vec<u8>> = before.keys().chain(after.keys()).collect();
        let mut changes = Vec::new();
        for path in paths {
            let (was, is) = (before.get(path), after.get(path));
            let change = match (was, is) {
                (None, _) => Change::Added,
                (_, None) => Change::Deleted,
                (Some(was), Some(is)) => match self.compare(was, is)? {
                    Some(change) => change,
                    None => continue,
                },
            };
            let size = |found: Option<&Located>| match found.map(|l| &l.entry.kind) {
                Some(EntryKind::File { size, .. }) => *size,
                _ => 0,
            };
            changes.push(Changed {
                path: shown(path),
                change,
                kind: is.or(was).map_or("", |found| kind(&found.entry.kind)),
                old_size: size(was),
                new_size: size(is),
            });
        }
        Ok(ImageDiff { old, new, changes })
    }

    fn compare(&self, was: &Located, is: &Located) -> Result<Option<Change>> {
        let same = match (&was.entry.kind, &is.entry.kind) {
            (EntryKind::Directory { .. }, EntryKind::Directory { .. }) => true,
            (EntryKind::File { .. }, EntryKind::File { .. }) => self.same_content(was, is)?,
            (a, b) => a == b,
        };
        let about = |e: &Entry| (e.mode, e.uid, e.gid, e.xattrs.clone());
        Ok(match same {
            false => Some(Change::Content),
            true if about(&was.entry) != about(&is.entry) => Some(Change::Metadata),
            true => None,
        })
    }
}
