//! Removal of what a kill left behind.

use std::collections::HashSet;

use sampan_oci::digest::{DiffId, Digest};

use crate::Result;
use crate::store::ImageStore;

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Layers that neither an image nor a container needed.
    pub layers: usize,
    /// Blobs that no image needed.
    pub blobs: usize,
    /// Bytes freed.
    pub bytes: u64,
}

impl ImageStore {
    /// Removes layers that no image has and that are not `in_use` by a container, and blobs that
    /// no image came by. Call it when no operation is under way, best at the start. Blocks.
    pub fn sweep(&self, in_use: &HashSet<DiffId>) -> Result<Swept> {
        let _changing = self.0.changing();
        let before: Vec<DiffId> = self.0.layers.list().iter().map(|l| l.diff_id).collect();
        let mut swept = Swept {
            bytes: self.0.remove_layers(before.iter().copied(), in_use)?.disk,
            ..Swept::default()
        };
        swept.layers = before.len() - self.0.layers.list().len().min(before.len());
        if !self.0.pins().is_empty() {
            return Ok(swept);
        }
        let needed: HashSet<Digest> = self
            .0
            .view()
            .images
            .values()
            .flat_map(|image| image.blobs())
            .collect();
        for blob in self.0.content.list()? {
            if !needed.contains(&blob.digest) {
                swept.bytes += self.0.content.remove(&blob.digest)?;
                swept.blobs += 1;
            }
        }
        Ok(swept)
    }
}
