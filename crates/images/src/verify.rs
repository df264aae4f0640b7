//! `image verify`: proof that what is on disk is what the images say.

use std::collections::BTreeMap;
use std::sync::Arc;

use sampan_oci::ImageConfig;
use sampan_oci::digest::{DiffId, Digest};
use sampan_text::with_causes;

use crate::store::ImageStore;
use crate::{Image, Result};

/// What was looked at for an image.
#[derive(Debug, Clone)]
pub struct Proof {
    /// The image.
    pub image: Arc<Image>,
    /// Layers whose tar and index were read.
    pub layers: usize,
    /// Blobs that were read; those that are not here are not missed.
    pub blobs: usize,
    /// What does not fit. Nothing means that everything does.
    pub damages: Vec<Damage>,
}

/// Something that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Such as `layer sha256:...`.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

/// What was found about things that several images have.
#[derive(Default)]
struct Seen {
    layers: BTreeMap<DiffId, Option<Damage>>,
    blobs: BTreeMap<Digest, Option<Damage>>,
}

impl ImageStore {
    /// Reads everything that the images are made of: each tar must have its diff ID, each index
    /// must be the one that its tar makes, each blob must have its digest, each configuration the
    /// image's ID. Changes nothing. Blocks for as long as the disk takes.
    pub fn verify(&self, images: &[Arc<Image>]) -> Vec<Proof> {
        let mut seen = Seen::default();
        let images = images.iter();
        images.map(|image| self.prove(image, &mut seen)).collect()
    }

    /// Returns what was set aside as damaged when the store was opened.
    pub fn set_aside(&self) -> Vec<Damage> {
        let layers = self.layers().quarantined().into_iter().map(|layer| Damage {
            what: format!("layer {}", layer.diff_id),
            why: format!("{}; set aside as {}", layer.reason, layer.path.display()),
        });
        let records = self.0.records.damaged().iter().map(|record| Damage {
            what: format!("record of image sha256:{}", record.key),
            why: format!("{}; set aside as {}", record.reason, record.path.display()),
        });
        layers.chain(records).collect()
    }

    fn prove(&self, image: &Arc<Image>, seen: &mut Seen) -> Proof {
        let mut damages = Vec::new();
        damages.extend(self.check_record(image));
        for diff_id in image.diff_ids() {
            let found = seen.layers.entry(diff_id);
            let found = found.or_insert_with(|| self.check_layer(&diff_id));
            damages.extend(found.clone());
        }
        let mut blobs = 0;
        for digest in image.blobs() {
            if self.content().get(&digest).is_some() {
                blobs += 1;
                let found = seen.blobs.entry(digest);
                let found = found.or_insert_with(|| self.check_blob(&digest));
                damages.extend(found.clone());
            }
        }
        damages.dedup();
        Proof {
            image: image.clone(),
            layers: image.layers.len(),
            blobs,
            damages,
        }
    }

    fn check_record(&self, image: &Image) -> Option<Damage> {
        let damage = |why: String| Damage {
            what: format!("record of image {}", image.id),
            why,
        };
        if let Err(why) = self.0.records.check(&image.id.hex()) {
            return Some(damage(why));
        }
        if ImageConfig::id(image.config_bytes.as_bytes()) != image.id {
            return Some(damage("the configuration is another image's".to_owned()));
        }
        (image.config.rootfs.diff_ids != image.diff_ids())
            .then(|| damage("the layers are not those of the configuration".to_owned()))
    }

    fn check_layer(&self, diff_id: &DiffId) -> Option<Damage> {
        self.layers().verify(diff_id).err().map(|error| Damage {
            what: format!("layer {diff_id}"),
            why: match error {
                sampan_layers::Error::Damaged { what, .. } => what.to_owned(),
                sampan_layers::Error::NotFound(_) => "missing".to_owned(),
                other => with_causes(&other),
            },
        })
    }

    fn check_blob(&self, digest: &Digest) -> Option<Damage> {
        let why = match self.content().is_whole(digest) {
            Ok(true) => return None,
            Ok(false) => "its bytes have another digest".to_owned(),
            Err(error) => with_causes(&error),
        };
        Some(Damage {
            what: format!("blob {digest}"),
            why,
        })
    }

    /// Finds several images, each by name, ID or the beginning of an ID.
    pub fn find_all<'t>(
        &self,
        texts: impl IntoIterator<Item = &'t str>,
    ) -> Result<Vec<Arc<Image>>> {
        texts.into_iter().map(|text| self.find(text)).collect()
    }
}
