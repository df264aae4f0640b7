//! What a context contains, known without a look at its files.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use sampan_archive::Attributes;
use sampan_layers::{Entry, EntryKind};
use sampan_oci::Digest;

use crate::files::{Found, Kind};

/// Attributes that belong to a host, not to a file; the others are records of a tar.
const OF_HOSTS: [&[u8]; 3] = [b"security.selinux", b"trusted.overlay.", b"user.overlay."];
const RECORD: &[u8] = b"SCHILY.xattr.";
/// Begins a stored manifest, and names its form.
const MAGIC: &[u8] = b"sampan context 1\n";

/// The files of a context by their paths, with all that a tar says of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Manifest(pub(crate) BTreeMap<Vec<u8>, Item>);

/// One path.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// With extended attributes.
    pub(crate) found: Found,
    /// The path that this one is a hard link to; empty for none.
    pub(crate) link: Vec<u8>,
    /// Of a file's bytes; known at once, or when somebody wanted to know.
    pub(crate) content: OnceLock<Digest>,
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.found == other.found
            && self.link == other.link
            && self.content.get() == other.content.get()
    }
}

impl Item {
    pub(crate) fn new(kind: Kind, attributes: Attributes) -> Self {
        Self {
            found: Found { kind, attributes },
            link: Vec::new(),
            content: OnceLock::new(),
        }
    }

    pub(crate) fn directory() -> Self {
        let attributes = Attributes {
            mode: 0o755,
            ..Attributes::default()
        };
        Self::new(Kind::Directory, attributes)
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.found.kind == Kind::Directory
    }
}

impl Default for Manifest {
    /// An empty root.
    fn default() -> Self {
        Self(BTreeMap::from([(Vec::new(), Item::directory())]))
    }
}

impl Manifest {
    /// Reads what a single layer says of itself.
    pub(crate) fn of_layer(entries: Vec<Entry>) -> Self {
        let items = entries.into_iter().filter_map(|entry| {
            let kind = match entry.kind {
                EntryKind::Directory { .. } => Kind::Directory,
                EntryKind::File { size, .. } => Kind::File(size),
                EntryKind::Symlink(target) => Kind::Symlink(target),
                EntryKind::Fifo => Kind::Fifo,
                EntryKind::Character { .. } | EntryKind::Block { .. } => Kind::Device,
                // There is nothing below that it could remove.
                EntryKind::Whiteout => return None,
            };
            let has_more = matches!(kind, Kind::Directory | Kind::File(_));
            let attributes = Attributes {
                mode: u32::from(entry.mode) & 0o7777,
                uid: entry.uid,
                gid: entry.gid,
                mtime: entry.mtime,
                extended: match has_more {
                    true => records(entry.xattrs),
                    false => Vec::new(),
                },
            };
            Some((entry.path, Item::new(kind, attributes)))
        });
        Self(items.collect())
    }

    pub(crate) fn get(&self, path: &[u8]) -> Option<&Item> {
        self.0.get(path)
    }

    /// The names in a directory, in order.
    pub(crate) fn list(&self, directory: &[u8]) -> Vec<Vec<u8>> {
        let start = below(directory);
        let names = self.inside(&start).map(|(path, _)| &path[start.len()..]);
        let names = names.filter(|name| !name.is_empty() && !name.contains(&b'/'));
        names.map(<[u8]>::to_vec).collect()
    }

    /// Everything from a path on, directories before what is in them.
    pub(crate) fn walk(&self, path: &[u8]) -> BTreeMap<Vec<u8>, Found> {
        let itself = self.0.get_key_value(path).filter(|_| !path.is_empty());
        itself
            .into_iter()
            .chain(self.inside(&below(path)))
            .map(|(path, item)| (path.clone(), item.found.clone()))
            .collect()
    }

    fn inside<'a>(&'a self, start: &'a [u8]) -> impl Iterator<Item = (&'a Vec<u8>, &'a Item)> {
        self.0
            .range(start.to_vec()..)
            .take_while(move |(path, _)| path.starts_with(start))
    }

    /// Paths that `later` has no more, without those below another one.
    pub(crate) fn removed<'a>(&'a self, later: &'a Self) -> impl Iterator<Item = &'a Vec<u8>> {
        let gone = self.0.keys().filter(|path| !later.0.contains_key(*path));
        gone.filter(|path| later.get(parent(path)).is_some_and(Item::is_directory))
    }

    /// Writes it down.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        number(&mut out, self.0.len() as u64);
        for (path, item) in &self.0 {
            text(&mut out, path);
            let (letter, size, target) = match &item.found.kind {
                Kind::Directory => (b'd', 0, &[][..]),
                Kind::File(size) => (b'f', *size, &[][..]),
                Kind::Symlink(target) => (b'l', 0, &target[..]),
                Kind::Fifo => (b'p', 0, &[][..]),
                Kind::Device => (b'c', 0, &[][..]),
            };
            out.push(letter);
            number(&mut out, size);
            text(&mut out, target);
            let Attributes {
                mode,
                uid,
                gid,
                mtime,
                extended,
            } = &item.found.attributes;
            for value in [mode, uid, gid, &mtime.1] {
                number(&mut out, u64::from(*value));
            }
            out.extend_from_slice(&mtime.0.to_le_bytes());
            number(&mut out, extended.len() as u64);
            for (name, value) in extended {
                text(&mut out, name);
                text(&mut out, value);
            }
            text(&mut out, &item.link);
            let content = item.content.get().map(Digest::hex);
            text(&mut out, content.unwrap_or_default().as_bytes());
        }
        out
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; `None` for anything else.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = Rest(bytes.strip_prefix(MAGIC)?);
        let count = rest.number()?;
        let mut items = BTreeMap::new();
        for _ in 0..count {
            let path = rest.text()?;
            let letter = rest.take(1)?[0];
            let size = rest.number()?;
            let target = rest.text()?;
            let kind = match letter {
                b'd' => Kind::Directory,
                b'f' => Kind::File(size),
                b'l' => Kind::Symlink(target),
                b'p' => Kind::Fifo,
                b'c' => Kind::Device,
                _ => return None,
            };
            let mut small = || rest.number().and_then(|n| u32::try_from(n).ok());
            let (mode, uid, gid, nanoseconds) = (small()?, small()?, small()?, small()?);
            let seconds = i64::from_le_bytes(rest.take(8)?.try_into().ok()?);
            let extended = (0..rest.number()?)
                .map(|_| Some((rest.text()?, rest.text()?)))
                .collect::<Option<_>>()?;
            let link = rest.text()?;
            let content = OnceLock::new();
            let hex = rest.text()?;
            if !hex.is_empty() {
                let digest = Digest::from_hex(std::str::from_utf8(&hex).ok()?).ok()?;
                let _ = content.set(digest);
            }
            let attributes = Attributes {
                mode,
                uid,
                gid,
                mtime: (seconds, nanoseconds),
                extended,
            };
            let found = Found { kind, attributes };
            let item = Item {
                found,
                link,
                content,
            };
            items.insert(path, item);
        }
        rest.0.is_empty().then_some(Self(items))
    }
}

/// The path of the directory that something is in.
fn parent(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
    &path[..end]
}

/// What the paths below a directory begin with.
fn below(directory: &[u8]) -> Vec<u8> {
    match directory.is_empty() {
        true => Vec::new(),
        false => [directory, b"/"].concat(),
    }
}

/// Attributes as records of a tar.
pub(crate) fn records(attributes: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let own = |name: &[u8]| !OF_HOSTS.iter().any(|prefix| name.starts_with(prefix));
    let mut records: Vec<_> = attributes
        .into_iter()
        .filter(|(name, _)| own(name))
        .map(|(name, value)| ([RECORD, &name[..]].concat(), value))
        .collect();
    records.sort_unstable();
    records
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        let bytes = self.take(8)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    }

    fn text(&mut self) -> Option<Vec<u8>> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length).map(<[u8]>::to_vec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let mut items = BTreeMap::new();
        items.insert(Vec::new(), Item::directory());
        for path in ["a", "a/b", "a/b/d", "z"] {
            items.insert(path.as_bytes().to_vec(), Item::directory());
        }
        for path in ["a/b-c", "a/b/d/f", "a-b", "top"] {
            let attributes = Attributes {
                mode: 0o640,
                uid: 7,
                gid: 8,
                mtime: (-3, 9),
                extended: vec![(b"SCHILY.xattr.user.x".to_vec(), b"\0\xff".to_vec())],
            };
            let item = Item::new(Kind::File(5), attributes);
            let _ = item.content.set(Digest::of(path.as_bytes()));
            items.insert(path.as_bytes().to_vec(), item);
        }
        let link = Item::new(Kind::Symlink(b"b".to_vec()), Attributes::default());
        items.insert(b"a/l".to_vec(), link);
        Manifest(items)
    }

    fn texts<'a>(paths: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<&'a str> {
        let paths = paths.into_iter();
        paths.map(|p| std::str::from_utf8(p).unwrap()).collect()
    }

    #[test]
    fn directories_are_listed_and_walked_whatever_their_names() {
        let manifest = manifest();
        assert_eq!(texts(&manifest.list(b"")), ["a", "a-b", "top", "z"]);
        assert_eq!(texts(&manifest.list(b"a")), ["b", "b-c", "l"]);
        assert_eq!(
            texts(manifest.walk(b"a/b").keys()),
            ["a/b", "a/b/d", "a/b/d/f"]
        );
        assert_eq!(manifest.walk(b"").len(), manifest.0.len());
        assert!(manifest.list(b"top").is_empty());
        assert_eq!(texts(manifest.walk(b"top").keys()), ["top"]);
    }

    #[test]
    fn what_is_written_is_read_back_and_nothing_else_is() {
        let manifest = manifest();
        let bytes = manifest.to_bytes();
        assert_eq!(Manifest::from_bytes(&bytes), Some(manifest));
        assert_eq!(Manifest::from_bytes(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Manifest::from_bytes(&[&bytes[..], b"x"].concat()), None);
        assert_eq!(Manifest::from_bytes(b""), None);
    }

    #[test]
    fn only_the_topmost_of_what_is_gone_is_told() {
        let old = manifest();
        let mut new = manifest();
        for path in ["a/b", "a/b/d", "a/b/d/f", "top"] {
            new.0.remove(path.as_bytes());
        }
        assert_eq!(texts(old.removed(&new)), ["a/b", "top"]);
    }
}
