//! The collector: gives space back when images take more than their budget.
//!
//! What goes first: packed layers that a registry has, then nameless images nobody uses, then, if
//! that is allowed, named images nobody uses; of each kind what was used longest ago. Never what a
//! container was made of, an image that another was built on, or the only copy of a packed layer.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use sampan_oci::digest::{DiffId, Digest, ImageId};

use crate::remove::Removal;
use crate::space::Space;
use crate::store::ImageStore;
use crate::{ContainerUse, Error, Image, Removed, Result};

/// A level of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// What layers and blobs take on disk.
    Bytes(u64),
    /// How full their file system is, whoever fills it.
    Percent(u8),
}

impl FromStr for Mark {
    type Err = Error;

    /// Reads `85%` or a size such as `50g`, in powers of 1024 as Docker's sizes are.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::Invalid(format!("invalid size or percentage: {text:?}"));
        if let Some(number) = text.strip_suffix('%') {
            let percent = number.parse().ok().filter(|p| *p <= 100);
            return percent.map(Self::Percent).ok_or_else(bad);
        }
        let lower = text.to_ascii_lowercase();
        let digits = lower
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(lower.len());
        let number: u64 = lower[..digits].parse().map_err(|_| bad())?;
        let unit = match &lower[digits..] {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(bad()),
        };
        number
            .checked_mul(1 << unit)
            .map(Self::Bytes)
            .ok_or_else(bad)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// When to collect, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Above this the collector begins.
    pub high: Mark,
    /// Down to this it goes.
    pub low: Mark,
}

/// What may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Named images, too, when no container was made of them.
    pub tagged: bool,
    /// Images that were used so lately stay.
    pub min_age: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            tagged: false,
            min_age: Duration::from_secs(24 * 3600),
        }
    }
}

/// What a collection did, or would do.
#[derive(Clone, Debug, Default)]
pub struct Collection {
    /// Bytes that were too many.
    pub wanted: u64,
    /// Bytes on disk that came back.
    pub freed: u64,
    /// What went, in this order.
    pub removed: Vec<Item>,
    /// What stayed.
    pub kept: Vec<Kept>,
    /// The steps, as a removal tells them.
    pub steps: Vec<Removed>,
}

/// Something that the collector looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What.
    pub subject: Subject,
    /// Bytes on disk that go with it, given what went before.
    pub disk: u64,
    /// When it was last used.
    pub last_use: Timestamp,
}

/// What the collector removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A packed layer.
    Blob {
        /// Which.
        digest: Digest,
        /// The images that came by it.
        images: Vec<ImageId>,
    },
    /// An image with all that only it has.
    Image {
        /// Which.
        id: ImageId,
        /// Its names, with tags and digests.
        names: Vec<String>,
    },
}

/// Something that stayed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What.
    pub item: Item,
    /// Why.
    pub why: Why,
}

/// Why something stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// This container was made of it.
    Container(String),
    /// Somebody begins to use it this moment.
    Busy,
    /// This image was built on it.
    Child(ImageId),
    /// It was used not long ago.
    Recent,
    /// It has a name, and the policy spares those.
    Named,
    /// All its layers belong to images that stay, or to builds, too.
    Shared,
    /// No registry is known to have it.
    OnlyCopy,
    /// Enough went before it.
    Enough,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(id) => {
                write!(f, "container {} was made of it", id.get(..12).unwrap_or(id))
            }
            Self::Busy => f.write_str("it is about to be used"),
            Self::Child(id) => write!(f, "image {} was built on it", id.short()),
            Self::Recent => f.write_str("it was used lately"),
            Self::Named => f.write_str("it has a tag"),
            Self::Shared => f.write_str("images that stay, or builds, share all its layers"),
            Self::OnlyCopy => f.write_str("no registry is known to have it"),
            Self::Enough => f.write_str("not needed to reach the goal"),
        }
    }
}

impl ImageStore {
    /// Returns how many bytes are too many: those above the low mark once the high one is passed.
    pub fn over_budget(&self, budget: &Budget) -> Result<u64> {
        if self.over(budget.high)? == 0 {
            return Ok(0);
        }
        self.over(budget.low)
    }

    /// Returns how many bytes there are above a mark. Blocks.
    pub fn over(&self, mark: Mark) -> Result<u64> {
        let (used, limit) = match mark {
            Mark::Bytes(limit) => (self.disk_usage()?, limit),
            Mark::Percent(percent) => {
                let found = rustix::fs::statvfs(&self.0.root)
                    .map_err(|e| Error::io("measure the file system")(e.into()))?;
                let capacity = found.f_blocks * found.f_frsize;
                let free = found.f_bavail * found.f_frsize;
                (capacity - free, capacity / 100 * u64::from(percent))
            }
        };
        Ok(used.saturating_sub(limit))
    }

    /// Returns what layers and blobs take on disk. Blocks.
    pub fn disk_usage(&self) -> Result<u64> {
        let layers = self.layers().list();
        let layers: u64 = layers
            .iter()
            .map(|layer| self.layers().disk_usage(&layer.diff_id))
            .sum();
        let blobs = self.content().list()?;
        let blobs: u64 = blobs
            .iter()
            .map(|blob| self.content().disk_usage(&blob.digest))
            .sum();
        Ok(layers + blobs)
    }

    /// Says what [`collect`](Self::collect) would do. Changes nothing. Blocks.
    pub fn plan_collection(
        &self,
        wanted: u64,
        policy: &Policy,
        uses: impl Fn() -> Vec<ContainerUse>,
    ) -> Result<Collection> {
        let holds = self.0.holds().keys().copied().collect();
        let (removed, kept) = State::look(self, &uses(), holds)?.plan(wanted, policy);
        Ok(Collection {
            wanted,
            freed: removed.iter().map(|item| item.disk).sum(),
            removed,
            kept,
            steps: Vec::new(),
        })
    }

    /// Removes what the policy allows until so many bytes came back, one thing at a time so that
    /// other operations get their turn. May be killed anywhere: the next start sweeps up. Blocks.
    pub fn collect(
        &self,
        wanted: u64,
        policy: &Policy,
        uses: impl Fn() -> Vec<ContainerUse>,
    ) -> Result<Collection> {
        let mut done = Collection {
            wanted,
            ..Collection::default()
        };
        loop {
            let _changing = self.0.changing();
            // Held all the way: nobody begins to use an image in between.
            let holds = self.0.holds();
            let uses = uses();
            let state = State::look(self, &uses, holds.keys().copied().collect())?;
            let left = wanted.saturating_sub(done.freed);
            let (next, kept) = state.plan(left, policy);
            let Some(mut item) = next.into_iter().next() else {
                done.kept = kept;
                return Ok(done);
            };
            item.disk = match &item.subject {
                Subject::Blob { digest, .. } => {
                    self.content().remove(digest)?;
                    item.disk
                }
                Subject::Image { id, .. } => {
                    let mut removal = Removal::new(self, &uses);
                    if let Some(image) = self.get(id) {
                        removal.whole(&image, false)?;
                    }
                    done.steps.append(&mut removal.records);
                    removal.freed.disk
                }
            };
            done.freed += item.disk;
            done.removed.push(item);
        }
    }
}

/// All that a plan depends on.
struct State {
    images: Vec<Candidate>,
    blobs: Vec<PackedLayer>,
    layer_disk: HashMap<DiffId, u64>,
    blob_disk: HashMap<Digest, u64>,
    /// Layers that containers or builds need, whatever becomes of their image.
    pinned: HashSet<DiffId>,
    now: Timestamp,
}

struct Candidate {
    id: ImageId,
    names: Vec<String>,
    dangling: bool,
    layers: BTreeSet<DiffId>,
    blobs: BTreeSet<Digest>,
    parent: Option<ImageId>,
    container: Option<String>,
    busy: bool,
    last_use: Timestamp,
}

struct PackedLayer {
    item: Item,
    digest: Digest,
    held: bool,
}

impl State {
    fn look(store: &ImageStore, uses: &[ContainerUse], holds: HashSet<ImageId>) -> Result<Self> {
        let space = store.space(uses)?;
        let last_use: BTreeMap<ImageId, Timestamp> = space
            .images
            .iter()
            .map(|i| (i.image.id, store.last_use(&i.image)))
            .collect();
        let images = space.images.iter().map(|found| {
            let image = &found.image;
            Candidate {
                id: image.id,
                names: names(image),
                dangling: image.is_dangling(),
                layers: image.diff_ids().into_iter().collect(),
                blobs: image.blobs().into_iter().collect(),
                parent: image.parent,
                container: uses
                    .iter()
                    .find(|u| u.image == image.id)
                    .map(|u| u.container.clone()),
                busy: holds.contains(&image.id),
                last_use: last_use[&image.id],
            }
        });
        Ok(Self {
            images: images.collect(),
            blobs: packed_layers(&space, &last_use),
            layer_disk: space.layers.iter().map(|l| (l.diff_id, l.disk)).collect(),
            blob_disk: space.blobs.iter().map(|b| (b.digest, b.disk)).collect(),
            pinned: uses
                .iter()
                .flat_map(|u| u.layers.iter().copied())
                .chain(store.0.others.needed())
                .collect(),
            now: Timestamp::now(),
        })
    }

    /// Decides what goes, in which order, and why the rest stays.
    fn plan(mut self, wanted: u64, policy: &Policy) -> (Vec<Item>, Vec<Kept>) {
        let (mut go, mut keep) = (Vec::new(), Vec::new());
        let mut freed = 0;
        for blob in std::mem::take(&mut self.blobs) {
            let why = match () {
                () if !blob.held => Why::OnlyCopy,
                () if freed >= wanted => Why::Enough,
                () => {
                    freed += blob.item.disk;
                    self.blob_disk.remove(&blob.digest);
                    go.push(blob.item);
                    continue;
                }
            };
            keep.push(Kept {
                item: blob.item,
                why,
            });
        }
        while freed < wanted {
            let Some(next) = self.next(policy) else { break };
            let image = self.images.remove(next);
            let disk = self.gain(&image);
            freed += disk;
            go.push(image.item(disk));
        }
        for image in &self.images {
            let why = self.reason(image, policy).unwrap_or(Why::Enough);
            keep.push(Kept {
                item: image.item(self.gain(image)),
                why,
            });
        }
        (go, keep)
    }

    /// The image that goes next: nameless before named, then what was used longest ago.
    fn next(&self, policy: &Policy) -> Option<usize> {
        let may_go = |image: &Candidate| self.reason(image, policy).is_none();
        let candidates = self.images.iter().enumerate().filter(|(_, i)| may_go(i));
        candidates
            .min_by_key(|(_, image)| (!image.dangling, image.last_use, image.id))
            .map(|(index, _)| index)
    }

    fn reason(&self, image: &Candidate, policy: &Policy) -> Option<Why> {
        if let Some(why) = self.fixed(image, policy) {
            return Some(why);
        }
        // Worth it if something of it belongs only to images that may go.
        let others = |has: &dyn Fn(&Candidate) -> bool| {
            let mut owners = self.images.iter().filter(|other| has(other));
            owners.any(|other| self.fixed(other, policy).is_some())
        };
        let layer = |l: &DiffId| !self.pinned.contains(l) && !others(&|i| i.layers.contains(l));
        let blob = |b: &Digest| self.blob_disk.contains_key(b) && !others(&|i| i.blobs.contains(b));
        let gains = image.layers.iter().any(layer) || image.blobs.iter().any(blob);
        (!gains).then_some(Why::Shared)
    }

    /// What keeps an image by itself.
    fn fixed(&self, image: &Candidate, policy: &Policy) -> Option<Why> {
        if let Some(container) = &image.container {
            return Some(Why::Container(container.clone()));
        }
        if image.busy {
            return Some(Why::Busy);
        }
        if let Some(child) = self.images.iter().find(|i| i.parent == Some(image.id)) {
            return Some(Why::Child(child.id));
        }
        if !image.dangling && !policy.tagged {
            return Some(Why::Named);
        }
        let age = self.now.duration_since(image.last_use);
        let min_age = SignedDuration::try_from(policy.min_age).unwrap_or(SignedDuration::MAX);
        (age < min_age).then_some(Why::Recent)
    }

    /// Bytes that go with an image, given the images that are left.
    fn gain(&self, image: &Candidate) -> u64 {
        let others = || self.images.iter().filter(|other| other.id != image.id);
        let layers = image.layers.iter().filter(|layer| {
            !self.pinned.contains(layer) && others().all(|other| !other.layers.contains(layer))
        });
        let blobs = image
            .blobs
            .iter()
            .filter(|blob| others().all(|other| !other.blobs.contains(blob)));
        let layers: u64 = layers.filter_map(|l| self.layer_disk.get(l)).sum();
        let blobs: u64 = blobs.filter_map(|b| self.blob_disk.get(b)).sum();
        layers + blobs
    }
}

impl Candidate {
    fn item(&self, disk: u64) -> Item {
        Item {
            subject: Subject::Image {
                id: self.id,
                names: self.names.clone(),
            },
            disk,
            last_use: self.last_use,
        }
    }
}

fn names(image: &Image) -> Vec<String> {
    [image.repo_tags(), image.repo_digests()].concat()
}

/// The packed layers, what was used longest ago first.
fn packed_layers(space: &Space, last_use: &BTreeMap<ImageId, Timestamp>) -> Vec<PackedLayer> {
    let layers = space.blobs.iter().filter(|blob| blob.layer);
    let mut packed: Vec<PackedLayer> = layers
        .map(|blob| PackedLayer {
            item: Item {
                subject: Subject::Blob {
                    digest: blob.digest,
                    images: blob.images.clone(),
                },
                disk: blob.disk,
                last_use: blob
                    .images
                    .iter()
                    .filter_map(|id| last_use.get(id))
                    .max()
                    .copied()
                    .unwrap_or(Timestamp::UNIX_EPOCH),
            },
            digest: blob.digest,
            held: blob.held,
        })
        .collect();
    packed.sort_by_key(|blob| (blob.item.last_use, blob.digest));
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    fn id(number: u8) -> ImageId {
        ImageId(Digest::of(&[number]))
    }

    fn layer(number: u8) -> DiffId {
        DiffId(Digest::of(&[100, number]))
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_000_000).unwrap()
    }

    /// An image of these layers that was used so many hours ago.
    fn image(number: u8, tag: Option<&str>, layers: &[u8], hours: i64) -> Candidate {
        Candidate {
            id: id(number),
            names: tag.map(str::to_owned).into_iter().collect(),
            dangling: tag.is_none(),
            layers: layers.iter().copied().map(layer).collect(),
            blobs: BTreeSet::new(),
            parent: None,
            container: None,
            busy: false,
            last_use: now() - SignedDuration::from_secs(hours * HOUR),
        }
    }

    fn state(images: Vec<Candidate>) -> State {
        State {
            layer_disk: (0..20).map(|n| (layer(n), 10)).collect(),
            images,
            blobs: Vec::new(),
            blob_disk: HashMap::new(),
            pinned: HashSet::new(),
            now: now(),
        }
    }

    fn gone(items: &[Item]) -> Vec<ImageId> {
        let ids = items.iter().filter_map(|item| match &item.subject {
            Subject::Image { id, .. } => Some(*id),
            Subject::Blob { .. } => None,
        });
        ids.collect()
    }

    fn why(kept: &[Kept], number: u8) -> Why {
        let found = kept.iter().find(|kept| {
            matches!(&kept.item.subject, Subject::Image { id: found, .. } if *found == id(number))
        });
        found.unwrap().why.clone()
    }

    const ALL: Policy = Policy {
        tagged: true,
        min_age: Duration::from_secs(3600),
    };

    #[test]
    fn nameless_images_go_before_named_and_old_before_new() {
        let images = || {
            vec![
                image(1, Some("a:1"), &[1], 90),
                image(2, None, &[2], 5),
                image(3, None, &[3], 50),
                image(4, Some("b:1"), &[4], 80),
            ]
        };
        let (go, _) = state(images()).plan(40, &ALL);
        assert_eq!(gone(&go), [id(3), id(2), id(1), id(4)]);
        let (go, kept) = state(images()).plan(15, &ALL);
        assert_eq!(gone(&go), [id(3), id(2)]);
        assert_eq!(why(&kept, 1), Why::Enough);
        let spare = Policy {
            tagged: false,
            ..ALL
        };
        let (go, kept) = state(images()).plan(40, &spare);
        assert_eq!(gone(&go), [id(3), id(2)]);
        assert_eq!(why(&kept, 4), Why::Named);
    }

    #[test]
    fn what_is_used_stays_and_its_layers_with_it() {
        let mut used = image(1, Some("used"), &[1, 2], 90);
        used.container = Some("c".into());
        let mut busy = image(2, None, &[3], 90);
        busy.busy = true;
        let parent = image(3, None, &[4], 90);
        let mut child = image(4, Some("child"), &[4, 5], 0);
        child.parent = Some(id(3));
        let shares = image(5, None, &[1], 90);
        let partly = image(6, None, &[1, 6], 90);
        let images = vec![used, busy, parent, child, shares, partly];
        let (go, kept) = state(images).plan(u64::MAX, &ALL);
        assert_eq!(gone(&go), [id(6)]);
        assert_eq!(go[0].disk, 10);
        assert_eq!(why(&kept, 1), Why::Container("c".into()));
        assert_eq!(why(&kept, 2), Why::Busy);
        assert_eq!(why(&kept, 3), Why::Child(id(4)));
        assert_eq!(why(&kept, 4), Why::Recent);
        assert_eq!(why(&kept, 5), Why::Shared);
    }

    #[test]
    fn layers_of_several_images_go_with_the_last() {
        let images = vec![image(1, None, &[1, 2], 9), image(2, None, &[1, 3], 8)];
        let (go, _) = state(images).plan(u64::MAX, &ALL);
        let disk: Vec<u64> = go.iter().map(|item| item.disk).collect();
        assert_eq!(disk, [10, 20]);
    }

    #[test]
    fn packed_layers_of_registries_go_first() {
        let blob = |number: u8, held| PackedLayer {
            item: Item {
                subject: Subject::Blob {
                    digest: Digest::of(&[number]),
                    images: vec![],
                },
                disk: 5,
                last_use: now(),
            },
            digest: Digest::of(&[number]),
            held,
        };
        let mut state = state(vec![image(1, None, &[1], 9)]);
        state.blobs = vec![blob(1, true), blob(2, false), blob(3, true)];
        let (go, kept) = state.plan(6, &ALL);
        assert_eq!(go.len(), 2);
        assert!(gone(&go).is_empty());
        assert!(kept.iter().any(|kept| kept.why == Why::OnlyCopy));
        assert_eq!(why(&kept, 1), Why::Enough);
    }

    #[test]
    fn marks_are_sizes_or_percentages() {
        for (text, wanted) in [
            ("85%", Some(Mark::Percent(85))),
            ("0", Some(Mark::Bytes(0))),
            ("2k", Some(Mark::Bytes(2048))),
            ("50GB", Some(Mark::Bytes(50 << 30))),
            ("1TiB", Some(Mark::Bytes(1 << 40))),
            ("101%", None),
            ("-1", None),
            ("x", None),
            ("", None),
            ("9999999999t", None),
        ] {
            assert_eq!(text.parse::<Mark>().ok(), wanted, "{text}");
        }
    }
}
