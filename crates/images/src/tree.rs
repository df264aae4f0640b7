//! `image tree`: the layers of an image and what each of them adds.

use std::sync::Arc;

use sampan_layers::EntryKind;
use sampan_oci::digest::DiffId;

use crate::contents::{Contents, Effect, lay};
use crate::store::ImageStore;
use crate::{Image, Result};

/// An image, layer by layer.
#[derive(Debug, Clone)]
pub struct ImageTree {
    /// The image.
    pub image: Arc<Image>,
    /// Its layers, bottom first.
    pub layers: Vec<LayerTree>,
}

/// A layer of an image.
#[derive(Debug, Clone)]
pub struct LayerTree {
    /// The layer.
    pub diff_id: DiffId,
    /// The instruction that made it, if the image tells.
    pub created_by: String,
    /// Sum of the lengths of its files.
    pub size: u64,
    /// Bytes on disk.
    pub disk: u64,
    /// The names, or identities, of other images that have it.
    pub shared_with: Vec<String>,
    /// What it does to the layers below, in the order of the paths.
    pub files: Vec<LayerFile>,
}

/// A path in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFile {
    /// From the root, with a slash in front.
    pub path: String,
    /// As `ls -l` writes it: `-`, `d`, `l`, `c`, `b` or `p`; empty for what is removed.
    pub kind: &'static str,
    /// Length of a regular file; a further name of one counts nothing.
    pub size: u64,
    /// `A` where no layer below has it, `C` where one does, `D` where the layer removes it.
    pub change: char,
}

impl ImageStore {
    /// Takes an image apart. Reads the headers of its layers. Blocks.
    pub fn tree(&self, text: &str) -> Result<ImageTree> {
        let image = self.find(text)?;
        let mut steps = image
            .config
            .history
            .iter()
            .filter(|step| !step.empty_layer)
            .map(|step| step.created_by.clone());
        let mut contents = Contents::new();
        let mut layers = Vec::new();
        for layer in image.layers.iter() {
            layers.push(LayerTree {
                diff_id: layer.diff_id,
                created_by: steps.next().unwrap_or_default(),
                size: layer.size,
                disk: self.layers().disk_usage(&layer.diff_id),
                shared_with: self.others_with(&layer.diff_id, &image),
                files: self.files(&layer.diff_id, &mut contents)?,
            });
        }
        Ok(ImageTree { image, layers })
    }

    fn others_with(&self, diff_id: &DiffId, image: &Image) -> Vec<String> {
        let others = self.list().into_iter().filter(|other| {
            other.id != image.id && other.layers.iter().any(|l| l.diff_id == *diff_id)
        });
        others
            .map(|other| {
                let tags = other.repo_tags();
                tags.into_iter().next().unwrap_or_else(|| other.id.short())
            })
            .collect()
    }

    fn files(&self, diff_id: &DiffId, contents: &mut Contents) -> Result<Vec<LayerFile>> {
        let mut files = Vec::new();
        let mut counted = std::collections::HashSet::new();
        for entry in self.entries(diff_id)? {
            let path = shown(&entry.path);
            let kind = kind(&entry.kind);
            let size = match entry.kind {
                EntryKind::File { size, .. } if counted.insert(entry.inode) => size,
                _ => 0,
            };
            let is_root = entry.path.is_empty();
            let effect = lay(contents, *diff_id, entry);
            // Every layer has the root.
            if is_root && effect == Effect::Replaces {
                continue;
            }
            files.push(LayerFile {
                path,
                kind,
                size,
                change: match effect {
                    Effect::Adds => 'A',
                    Effect::Replaces => 'C',
                    Effect::Removes => 'D',
                },
            });
        }
        Ok(files)
    }
}

/// A path for people: bytes that are no text are shown as such.
pub(crate) fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

pub(crate) fn kind(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::Directory { .. } => "d",
        EntryKind::File { .. } => "-",
        EntryKind::Symlink(_) => "l",
        EntryKind::Character { .. } => "c",
        EntryKind::Block { .. } => "b",
        EntryKind::Fifo => "p",
        EntryKind::Whiteout => "",
    }
}
