//! `meta.json`: what a complete layer's directory must contain.

use sampan_oci::{DiffId, Digest};
use serde::{Deserialize, Serialize};

/// Version of the record and of the forms it describes. A layer of another
/// version is built anew from its tar.
pub(crate) const VERSION: u32 = 1;

pub(crate) const FILE: &str = "meta.json";
pub(crate) const TAR: &str = "layer.tar";
pub(crate) const INDEX: &str = "index.erofs";
pub(crate) const TREE: &str = "tree";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) diff_id: DiffId,
    pub(crate) tar_size: u64,
    /// Sum of the sizes of the files.
    pub(crate) size: u64,
    pub(crate) entries: u64,
    /// The layer hides all layers below it.
    pub(crate) opaque: bool,
    pub(crate) form: Form,
    /// Set while the layer need not be on disk: the boot of the system in which it is whole all the
    /// same, whatever becomes of this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unsynced: Option<String>,
}

/// What was made of the tar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "driver")]
pub(crate) enum Form {
    TarIndex { index_size: u64, index: Digest },
    Directory,
}
