//! What images take, and what keeps them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use sampan_oci::digest::{DiffId, Digest, ImageId};

use crate::image::LayerRecord;
use crate::store::ImageStore;
use crate::{ContainerUse, Image, Result};

/// What images, their layers and their blobs take.
///
/// Two measures: *unpacked* sizes are sums of files' lengths, as lists show them; *disk* is what
/// the file system has set aside. A layer counts once, however many images have it.
#[derive(Clone, Debug, Default)]
pub struct Space {
    /// Each image, newest first.
    pub images: Vec<ImageSpace>,
    /// Each layer, by digest.
    pub layers: Vec<LayerSpace>,
    /// Each blob, by digest.
    pub blobs: Vec<BlobSpace>,
    /// Unpacked size of all layers of images and containers.
    pub unpacked: u64,
    /// Unpacked size of the layers that only unused images have: what a prune of all unused
    /// images gives back.
    pub reclaimable: u64,
}

/// What an image takes.
#[derive(Clone, Debug)]
pub struct ImageSpace {
    /// The image.
    pub image: Arc<Image>,
    /// Unpacked size of the layers that other images have too.
    pub shared: u64,
    /// Unpacked size of the layers that no other image has.
    pub unique: u64,
    /// Containers made of it.
    pub containers: usize,
    /// What keeps it; nothing keeps what a prune removes.
    pub kept_by: Vec<Keeper>,
}

/// What keeps something on disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keeper {
    /// A container, by identity.
    Container(String),
    /// An image that was built on it or is made of it.
    Image(ImageId),
    /// It has a name.
    Name(String),
}

/// What a layer takes.
#[derive(Clone, Debug)]
pub struct LayerSpace {
    /// The layer.
    pub diff_id: DiffId,
    /// Unpacked size.
    pub unpacked: u64,
    /// Bytes on disk.
    pub disk: u64,
    /// The images and containers that need it. Those of a container count only where no image
    /// has it.
    pub kept_by: Vec<Keeper>,
}

/// What a blob takes.
#[derive(Clone, Debug)]
pub struct BlobSpace {
    /// The blob.
    pub digest: Digest,
    /// Bytes on disk.
    pub disk: u64,
    /// The images that came by it.
    pub images: Vec<ImageId>,
    /// It is a packed layer, not a manifest.
    pub layer: bool,
    /// A registry is known to have it, so that it can be fetched again.
    pub held: bool,
}

impl ImageStore {
    /// Measures everything. Looks at the files of every layer and blob, but reads none. Blocks.
    pub fn space(&self, uses: &[ContainerUse]) -> Result<Space> {
        let images = self.list();
        let mut owners: HashMap<DiffId, BTreeSet<ImageId>> = HashMap::new();
        for image in &images {
            for layer in image.layers.iter() {
                owners.entry(layer.diff_id).or_default().insert(image.id);
            }
        }
        let layers: Vec<LayerSpace> = self
            .layers()
            .list()
            .into_iter()
            .map(|layer| LayerSpace {
                diff_id: layer.diff_id,
                unpacked: layer.size,
                disk: self.layers().disk_usage(&layer.diff_id),
                kept_by: keepers_of_layer(&layer.diff_id, &owners, uses),
            })
            .collect();
        let used: HashSet<ImageId> = uses.iter().map(|u| u.image).collect();
        let mut needed: HashSet<DiffId> =
            uses.iter().flat_map(|u| u.layers.iter().copied()).collect();
        for image in images.iter().filter(|image| used.contains(&image.id)) {
            needed.extend(image.diff_ids());
        }
        // What nobody of these has is there for builds, and counted there.
        let sum = |wanted: &dyn Fn(&LayerSpace) -> bool| {
            layers
                .iter()
                .filter(|l| !l.kept_by.is_empty() && wanted(l))
                .map(|l| l.unpacked)
                .sum()
        };
        Ok(Space {
            unpacked: sum(&|_| true),
            reclaimable: sum(&|layer| !needed.contains(&layer.diff_id)),
            blobs: self.blobs(&images)?,
            images: images
                .iter()
                .map(|image| self.of_image(image, &images, &owners, uses))
                .collect(),
            layers,
        })
    }

    /// Returns, for each image, the unpacked size of the layers that other images have too.
    pub fn shared_sizes(&self) -> BTreeMap<ImageId, u64> {
        let view = self.0.view();
        let mut count: HashMap<DiffId, usize> = HashMap::new();
        for image in view.images.values() {
            let own: HashSet<DiffId> = image.diff_ids().into_iter().collect();
            for diff_id in own {
                *count.entry(diff_id).or_default() += 1;
            }
        }
        let shared = |image: &Image| {
            let layers = image.layers.iter();
            layers
                .filter(|l| count.get(&l.diff_id).is_some_and(|n| *n > 1))
                .map(|l| l.size)
                .sum()
        };
        view.images.iter().map(|(id, i)| (*id, shared(i))).collect()
    }

    fn of_image(
        &self,
        image: &Arc<Image>,
        images: &[Arc<Image>],
        owners: &HashMap<DiffId, BTreeSet<ImageId>>,
        uses: &[ContainerUse],
    ) -> ImageSpace {
        let is_shared = |diff_id: &DiffId| owners.get(diff_id).is_some_and(|o| o.len() > 1);
        let shared = image.layers.iter().filter(|l| is_shared(&l.diff_id));
        let shared = shared.map(|layer| layer.size).sum();
        let users = uses.iter().filter(|u| u.image == image.id);
        let children = images.iter().filter(|i| i.parent == Some(image.id));
        let kept_by = users
            .clone()
            .map(|user| Keeper::Container(user.container.clone()))
            .chain(children.map(|child| Keeper::Image(child.id)))
            .chain(image.repo_tags().into_iter().map(Keeper::Name))
            .collect();
        ImageSpace {
            image: image.clone(),
            shared,
            unique: image.size - shared,
            containers: users.count(),
            kept_by,
        }
    }

    fn blobs(&self, images: &[Arc<Image>]) -> Result<Vec<BlobSpace>> {
        let mut owners: HashMap<Digest, Vec<&Image>> = HashMap::new();
        let mut packed: HashSet<Digest> = HashSet::new();
        for image in images {
            for digest in image.blobs().into_iter().collect::<BTreeSet<_>>() {
                owners.entry(digest).or_default().push(image);
            }
            let blobs = image.layers.iter().flat_map(LayerRecord::blobs);
            packed.extend(blobs.map(|blob| blob.digest));
        }
        let mut blobs: Vec<BlobSpace> = self
            .content()
            .list()?
            .into_iter()
            .map(|blob| {
                let owners = owners.get(&blob.digest).map_or(&[][..], Vec::as_slice);
                BlobSpace {
                    digest: blob.digest,
                    disk: self.content().disk_usage(&blob.digest),
                    images: owners.iter().map(|image| image.id).collect(),
                    layer: packed.contains(&blob.digest),
                    // A name with a digest comes from a registry and nowhere else.
                    held: owners.iter().any(|image| !image.digests.is_empty()),
                }
            })
            .collect();
        blobs.sort_by_key(|blob| blob.digest);
        Ok(blobs)
    }
}

fn keepers_of_layer(
    diff_id: &DiffId,
    owners: &HashMap<DiffId, BTreeSet<ImageId>>,
    uses: &[ContainerUse],
) -> Vec<Keeper> {
    if let Some(owners) = owners.get(diff_id) {
        return owners.iter().copied().map(Keeper::Image).collect();
    }
    let users = uses.iter().filter(|u| u.layers.contains(diff_id));
    users
        .map(|user| Keeper::Container(user.container.clone()))
        .collect()
}
