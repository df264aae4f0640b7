//! What is in a log's files.

use crate::{Entry, entry, local};

/// How entries are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Docker's `json-file`: a line of JSON for each.
    #[default]
    JsonFile,
    /// Docker's `local`: a record of protocol buffers for each.
    Local,
}

impl Format {
    /// Reads an entry; `None` for anything that is no whole one.
    pub(crate) fn decode(self, bytes: &[u8]) -> Option<Entry> {
        match self {
            Self::JsonFile => entry::decode(bytes),
            Self::Local => local::decode(bytes),
        }
    }
}
