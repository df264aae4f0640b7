//! The files of an image: its layers, merged as an overlay of them shows them.

use std::collections::BTreeMap;
use std::io::Read;

use sampan_layers::{Entry, EntryKind};
use sampan_oci::digest::DiffId;

use crate::store::ImageStore;
use crate::{Error, Image, Result};

/// A path of an image and the layer that it comes from.
#[derive(Debug, Clone)]
pub(crate) struct Located {
    pub(crate) layer: DiffId,
    pub(crate) entry: Entry,
}

/// The paths of an image, without a slash in front.
pub(crate) type Contents = BTreeMap<Vec<u8>, Located>;

/// What a layer does to the path of one of its entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Adds,
    Replaces,
    Removes,
}

/// Lays an entry of a layer over what the layers below have. Entries come parents first.
pub(crate) fn lay(contents: &mut Contents, layer: DiffId, entry: Entry) -> Effect {
    let path = entry.path.clone();
    let is_directory = |kind: &EntryKind| matches!(kind, EntryKind::Directory { .. });
    let before = contents.remove(&path);
    let keeps_below = match &entry.kind {
        EntryKind::Directory { opaque } => {
            !opaque && before.as_ref().is_some_and(|b| is_directory(&b.entry.kind))
        }
        _ => false,
    };
    if !keeps_below && before.is_some() {
        remove_below(contents, &path);
    }
    if entry.kind == EntryKind::Whiteout {
        return Effect::Removes;
    }
    contents.insert(path, Located { layer, entry });
    match before {
        Some(_) => Effect::Replaces,
        None => Effect::Adds,
    }
}

fn remove_below(contents: &mut Contents, path: &[u8]) {
    if path.is_empty() {
        contents.clear();
        return;
    }
    let (mut first, mut end) = (path.to_vec(), path.to_vec());
    first.push(b'/');
    end.push(b'/' + 1);
    let below: Vec<Vec<u8>> = contents.range(first..end).map(|(p, _)| p.clone()).collect();
    for path in below {
        contents.remove(&path);
    }
}

impl ImageStore {
    /// Lists what an image contains. Reads the headers of all its layers. Blocks.
    pub(crate) fn contents(&self, image: &Image) -> Result<Contents> {
        let mut contents = Contents::new();
        for diff_id in image.diff_ids() {
            for entry in self.entries(&diff_id)? {
                let _ = lay(&mut contents, diff_id, entry);
            }
        }
        Ok(contents)
    }

    pub(crate) fn entries(&self, diff_id: &DiffId) -> Result<Vec<Entry>> {
        self.layers()
            .entries(diff_id)
            .map_err(|source| Error::Layer {
                layer: diff_id.0,
                source,
            })
    }

    /// Whether two files have the same bytes. Blocks.
    pub(crate) fn same_content(&self, a: &Located, b: &Located) -> Result<bool> {
        let (
            EntryKind::File { size, data },
            EntryKind::File {
                size: other_size,
                data: other_data,
            },
        ) = (&a.entry.kind, &b.entry.kind)
        else {
            return Ok(false);
        };
        if size != other_size {
            return Ok(false);
        }
        if *size == 0 || (a.layer == b.layer && data == other_data) {
            return Ok(true);
        }
        let open = |layer: &DiffId, data| {
            let opened = self.layers().open_content(layer, *size, data);
            opened.map_err(|source| Error::Layer {
                layer: layer.0,
                source,
            })
        };
        let (mut first, mut second) = (open(&a.layer, data)?, open(&b.layer, other_data)?);
        let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        let mut remaining = *size;
        while remaining > 0 {
            let length = usize::try_from(remaining).map_or(left.len(), |r| r.min(left.len()));
            let read = Error::io("read a layer");
            first
                .read_exact(&mut left[..length])
                .and_then(|()| second.read_exact(&mut right[..length]))
                .map_err(read)?;
            if left[..length] != right[..length] {
                return Ok(false);
            }
            remaining -= length as u64;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_oci::Digest;

    fn entry(path: &str, kind: EntryKind) -> Entry {
        Entry {
            path: path.into(),
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: Vec::new(),
            inode: 0,
        }
    }

    fn directory(path: &str) -> Entry {
        entry(path, EntryKind::Directory { opaque: false })
    }

    fn opaque(path: &str) -> Entry {
        entry(path, EntryKind::Directory { opaque: true })
    }

    fn other(path: &str) -> Entry {
        entry(path, EntryKind::Fifo)
    }

    fn gone(path: &str) -> Entry {
        entry(path, EntryKind::Whiteout)
    }

    fn merged(layers: Vec<Vec<Entry>>) -> Vec<String> {
        let mut contents = Contents::new();
        for (number, layer) in layers.into_iter().enumerate() {
            let id = DiffId(Digest::of(&[number as u8]));
            for entry in layer {
                let _ = lay(&mut contents, id, entry);
            }
        }
        let paths = contents.into_keys();
        paths.map(|p| String::from_utf8(p).unwrap()).collect()
    }

    #[test]
    fn layers_hide_what_an_overlay_of_them_hides() {
        let below = || {
            vec![
                directory(""),
                directory("a"),
                other("a-b"),
                directory("a/d"),
                other("a/d/x"),
                other("a/e"),
                other("f"),
            ]
        };
        for (above, wanted) in [
            (vec![], &["", "a", "a-b", "a/d", "a/d/x", "a/e", "f"][..]),
            (vec![gone("a")], &["", "a-b", "f"]),
            (vec![gone("a/d"), gone("f")], &["", "a", "a-b", "a/e"]),
            (
                vec![opaque("a"), other("a/n")],
                &["", "a", "a-b", "a/n", "f"],
            ),
            (vec![other("a")], &["", "a", "a-b", "f"]),
            (
                vec![directory("a"), directory("f"), other("f/y")],
                &["", "a", "a-b", "a/d", "a/d/x", "a/e", "f", "f/y"],
            ),
            (vec![opaque(""), other("z")], &["", "z"]),
        ] {
            assert_eq!(merged(vec![below(), above.clone()]), wanted, "{above:?}");
        }
    }
}
