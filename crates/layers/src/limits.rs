//! Bounds of one layer.

use std::ffi::OsString;

/// How much of a layer is accepted before it is refused. The defaults are far
/// beyond any honest image and keep memory and index in the hundreds of
/// megabytes at worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Files, directories, links together.
    pub entries: u64,
    /// Bytes of names, link targets, attributes and sparse maps together.
    pub metadata: u64,
    /// Bytes that sparse files take in the index: chunk tables, and data that
    /// do not fit the tar's blocks and must be copied.
    pub sparse: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Some 200 bytes of memory each while the layer is taken in.
            entries: 2 << 20,
            metadata: 256 << 20,
            sparse: 256 << 20,
        }
    }
}

impl Limits {
    pub(crate) fn to_arguments(self) -> [OsString; 3] {
        [self.entries, self.metadata, self.sparse].map(|n| n.to_string().into())
    }

    pub(crate) fn from_arguments(arguments: &[OsString]) -> Option<Self> {
        let [entries, metadata, sparse] = arguments else {
            return None;
        };
        let number = |text: &OsString| text.to_str()?.parse().ok();
        Some(Self {
            entries: number(entries)?,
            metadata: number(metadata)?,
            sparse: number(sparse)?,
        })
    }
}
