//! `COPY` and `ADD`: what is copied where, and the layer that it makes.

use std::collections::BTreeMap;
use std::sync::Arc;

use sampan_dockerfile::{Ignore, Source, Transfer};
use sampan_oci::Digest;
use sampan_text::path::absolute;

use crate::cache::{Key, KeyMaker};
use crate::files::Files;
use crate::times::Times;

mod layer;
mod selection;
mod sources;

pub(crate) use layer::make_directory;
pub(crate) use selection::{is_archive, select};
pub(crate) use sources::{Sources, contents};

/// What is to be copied.
pub(crate) struct Wish<'a> {
    /// With its variables expanded.
    pub(crate) transfer: &'a Transfer,
    /// Keep the directories above the sources.
    pub(crate) parents: bool,
    /// Which archives are unpacked.
    pub(crate) unpack: Unpack,
    /// What was fetched, by the source as it is written.
    pub(crate) fetched: &'a BTreeMap<String, Fetched>,
    /// Where relative destinations begin.
    pub(crate) directory: &'a str,
    /// `COPY` or `ADD`.
    pub(crate) name: &'static str,
}

/// Which archives are unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unpack {
    Nothing,
    /// Those of the context.
    Local,
    /// Those that were fetched, too.
    All,
}

/// A source that was fetched.
pub(crate) struct Fetched {
    pub(crate) files: Arc<Files>,
    /// What of them is copied, without links.
    pub(crate) path: Vec<u8>,
    /// The commit that they are of.
    pub(crate) commit: Option<String>,
    /// Has the directory `.git` of a repository, which is copied too.
    pub(crate) repository: Option<Arc<Files>>,
}

impl Wish<'_> {
    /// Whether the layer does not depend on those below: names of users are looked up there.
    pub(crate) fn is_independent(&self) -> bool {
        self.transfer.link && self.transfer.chown.is_none()
    }

    /// Names what comes of it: `content` is what the [sources](Sources::digest) are, `below` what
    /// the layer will lie on, where that matters.
    pub(crate) fn key(&self, below: Key, content: Digest, times: Times) -> Key {
        let mut key = KeyMaker::new("copy");
        if !self.is_independent() {
            key.text("below", &below.0.hex());
        }
        self.describe(&mut key);
        key.text("content", &content.hex());
        times.describe(&mut key);
        key.key()
    }

    /// Adds to a key all that is asked, but not what the sources are.
    fn describe(&self, key: &mut KeyMaker) {
        let Transfer {
            // What they are counts, not what they are called.
            sources: _,
            destination,
            chown,
            chmod,
            link,
            exclude,
        } = self.transfer;
        key.text("name", self.name);
        key.number("parents", u64::from(self.parents));
        key.text("unpack", &format!("{:?}", self.unpack));
        key.text("destination", &joined(self.directory, destination));
        key.texts("chown", chown);
        key.texts("chmod", chmod);
        key.number("link", u64::from(*link));
        key.texts("exclude", exclude);
    }

    /// Names what the sources are without a look at them, where the files have a name.
    pub(crate) fn name_of(&self, from: &Files) -> Option<Key> {
        if !self.fetched.is_empty() {
            return None;
        }
        let mut key = KeyMaker::new("sources");
        key.text("files", &from.name?.0.hex());
        for source in &self.transfer.sources {
            match source {
                Source::Path(path) => key.text("path", path),
                Source::Document(document) => {
                    key.text("document", &document.name);
                    key.text("text", &document.text());
                }
            }
        }
        key.number("parents", u64::from(self.parents));
        key.texts("exclude", &self.transfer.exclude);
        let hidden = from.hidden.iter().flat_map(Ignore::patterns);
        key.texts("hidden", &hidden.collect::<Vec<_>>());
        Some(key.key())
    }
}

/// A path from the root, by its text; from the working directory if it is relative.
pub(crate) fn in_directory(directory: &str, path: &str) -> String {
    absolute(&joined(directory, path))
}

/// As [`in_directory`], as it is written: a slash at its end stays.
fn joined(directory: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    format!("{}/{path}", directory.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sampan_archive::Attributes;
    use sampan_dockerfile::Heredoc;
    use sampan_images::{HeldLayer, ImageStore};
    use sampan_layers::LayerStore;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::files::Kind;
    use crate::manifest::{Item, Manifest};

    /// All that a copy depends on.
    #[derive(Clone, Debug)]
    struct Inputs {
        files: Manifest,
        transfer: Transfer,
        parents: bool,
        unpack: Unpack,
        directory: String,
        name: &'static str,
        below: Key,
        times: Times,
    }

    fn store() -> (tempfile::TempDir, ImageStore) {
        let root = tempfile::tempdir().unwrap();
        let layers = LayerStore::open(root.path(), sampan_layers::Options::default()).unwrap();
        let options = sampan_images::Options::default();
        let images = ImageStore::open(root.path(), layers, options).unwrap();
        (root, images)
    }

    impl Inputs {
        fn key(&self, images: &ImageStore) -> Key {
            let files =
                Files::of::<HeldLayer>(images, &[], None).known(Arc::new(self.files.clone()));
            let wish = Wish {
                transfer: &self.transfer,
                parents: self.parents,
                unpack: self.unpack,
                fetched: &BTreeMap::new(),
                directory: &self.directory,
                name: self.name,
            };
            let sources = wish.gather(&Arc::new(files)).unwrap();
            let digest = sources.digest(&CancellationToken::new()).unwrap();
            wish.key(self.below, digest, self.times)
        }

        fn item(&mut self, path: &str) -> &mut Item {
            self.files.0.get_mut(path.as_bytes()).unwrap()
        }

        /// Changes one input, so that the layer may be another one.
        fn change(&mut self, what: usize, by: u32) -> Option<()> {
            let transfer = &mut self.transfer;
            match what {
                0 => self.item("s/d/f").content = Digest::of(&by.to_le_bytes()).into(),
                1 => self.item("s/d/f").found.kind = Kind::File(u64::from(by) + 100),
                2 => self.item("s/d/f").found.attributes.mode ^= 1 << (by % 12),
                3 => self.item("s/d/f").found.attributes.uid ^= by | 1,
                4 => self.item("s/d/f").found.attributes.gid ^= by | 1,
                5 => {
                    let value = (b"SCHILY.xattr.user.y".to_vec(), by.to_le_bytes().to_vec());
                    self.item("s/d/f").found.attributes.extended.push(value);
                }
                6 => self.item("s/d").found.attributes.mode ^= 1 << (by % 12),
                7 => {
                    let target = format!("f{by}").into_bytes();
                    self.item("s/l").found.kind = Kind::Symlink(target);
                }
                8 => self.item("s/l").found.kind = Kind::Fifo,
                9 => {
                    let moved = self.files.0.remove(&b"s/d/f"[..])?;
                    self.files
                        .0
                        .insert(format!("s/d/g{by}").into_bytes(), moved);
                }
                10 => drop(self.files.0.remove(&b"s/l"[..])?),
                11 => {
                    let more = Item::new(Kind::Fifo, Attributes::default());
                    self.files.0.insert(format!("s/n{by}").into_bytes(), more);
                }
                12 => transfer.chown = Some(format!("{}", by + 1)),
                13 => transfer.chmod = Some(format!("{:o}", by % 0o1000)),
                14 => transfer.link = !transfer.link,
                15 => transfer.exclude.push("d/f".to_owned()),
                16 => transfer.destination.push_str(&format!("/{by}")),
                17 => self.parents = !self.parents,
                18 => {
                    self.unpack = match self.unpack {
                        Unpack::Nothing => Unpack::Local,
                        Unpack::Local | Unpack::All => Unpack::Nothing,
                    };
                }
                // Only what is relative begins there.
                19 if transfer.destination.starts_with('/') => return None,
                19 => self.directory.push_str(&format!("/{by}")),
                20 => self.below = self.below.on(self.below),
                21 => self.times = Times::new(Some(&by.to_string()), false).unwrap(),
                22 => self.times = Times::new(Some(&by.to_string()), true).unwrap(),
                23 => transfer.sources.push(document("more", by)),
                _ => return None,
            }
            Some(())
        }
    }

    const CHANGES: usize = 24;

    fn document(name: &str, by: u32) -> Source {
        Source::Document(Heredoc {
            name: name.to_owned(),
            content: format!("{by}"),
            expand: false,
            strip_tabs: false,
            descriptor: 0,
        })
    }

    fn inputs() -> impl Strategy<Value = Inputs> {
        let attributes = (0..0o7777u32, 0..9u32, 0..9u32, any::<(i32, bool)>());
        let attributes = attributes.prop_map(|(mode, uid, gid, (seconds, extended))| {
            let value = (b"SCHILY.xattr.user.x".to_vec(), b"1".to_vec());
            Attributes {
                mode,
                uid,
                gid,
                mtime: (i64::from(seconds), 7),
                extended: extended.then_some(value).into_iter().collect(),
            }
        });
        let all = proptest::collection::vec(attributes, 5);
        let flags = any::<[bool; 3]>();
        (all, flags, 0..50u64).prop_map(|(attributes, [parents, unpack, into], size)| {
            let kinds = [
                ("", Kind::Directory),
                ("s", Kind::Directory),
                ("s/d", Kind::Directory),
                ("s/d/f", Kind::File(size)),
                ("s/l", Kind::Symlink(b"d/f".to_vec())),
            ];
            let items = kinds.into_iter().zip(attributes);
            let items = items.map(|((path, kind), attributes)| {
                let item = Item::new(kind, attributes);
                let _ = item.content.set(Digest::of(b"content"));
                (path.as_bytes().to_vec(), item)
            });
            Inputs {
                files: Manifest(items.collect()),
                transfer: Transfer {
                    sources: vec![Source::Path("s".to_owned())],
                    destination: if into { "/to/" } else { "to" }.to_owned(),
                    ..Transfer::default()
                },
                parents,
                unpack: if unpack {
                    Unpack::Local
                } else {
                    Unpack::Nothing
                },
                directory: "/work".to_owned(),
                name: "COPY",
                below: KeyMaker::new("below").key(),
                times: Times::default(),
            }
        })
    }

    #[test]
    fn any_other_input_of_a_copy_has_another_key_but_not_its_times() {
        let (_root, images) = store();
        let test = (inputs(), 0..CHANGES, 0..CHANGES, 0..1000u32, any::<i64>());
        proptest!(ProptestConfig::with_cases(2000), |((inputs, one, two, by, time) in test)| {
            let key = inputs.key(&images);
            let mut touched = inputs.clone();
            for item in touched.files.0.values_mut() {
                item.found.attributes.mtime = (time, 1);
            }
            prop_assert_eq!(key, touched.key(&images));
            let mut other = inputs.clone();
            prop_assume!(other.change(one, by).is_some());
            prop_assert!(key != other.key(&images), "{}", one);
            let mut another = inputs.clone();
            prop_assume!(another.change(two, by).is_some());
            prop_assert_eq!(one == two, other.key(&images) == another.key(&images));
        });
    }
}
