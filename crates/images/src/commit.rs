//! `docker commit`: what a container has changed becomes a layer, in one write.

use std::io::{self, Write};
use std::sync::Arc;

use sampan_oci::config::{History, ImageConfig, RootFs, RunConfig};
use sampan_oci::digest::{DiffId, ImageId};
use sampan_oci::{Descriptor, Reference};

use crate::image::Image;
use crate::store::{Buffers, ImageStore, NewImage};
use crate::take::HeldLayer;
use crate::{Error, Result};

/// What an image is made of beside the changes of a container.
#[derive(Clone, Debug)]
pub struct Commit {
    /// The container.
    pub container: String,
    /// The image that the container was made from.
    pub parent: ImageId,
    /// The layers below the container's own, bottom first.
    pub layers: Vec<DiffId>,
    /// How to run the new image.
    pub config: RunConfig,
    /// What the container ran, for the history.
    pub created_by: String,
    /// Who made it.
    pub author: String,
    /// Anything else.
    pub comment: String,
    /// The new image's name; another image loses it.
    pub name: Option<Reference>,
}

impl ImageStore {
    /// Makes an image of a container's changes, which `write` gives as a layer's tar. Blocks.
    pub fn commit(
        &self,
        commit: &Commit,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Arc<Image>> {
        let _buffers = Buffers;
        if let Some(name) = &commit.name
            && name.digest().is_some()
        {
            return Err(Error::Invalid("cannot commit to a digest reference".into()));
        }
        let _pins: Vec<_> = commit.layers.iter().map(|id| self.0.pin(*id)).collect();
        let layer = self.write_layer(write)?;
        let now = jiff::Timestamp::now().to_string();
        let parent = self.get(&commit.parent);
        let below = parent.as_ref().map(|image| &image.config);
        let mut diff_ids = commit.layers.clone();
        diff_ids.extend(layer.as_ref().map(HeldLayer::diff_id));
        let mut history = below.map_or_else(Vec::new, |config| config.history.clone());
        history.push(History {
            created: Some(now.clone()),
            created_by: commit.created_by.clone(),
            author: commit.author.clone(),
            comment: commit.comment.clone(),
            empty_layer: layer.is_none(),
        });
        let host = &self.0.options.platform;
        let of_parent = |of: fn(&ImageConfig) -> &String, default: &str| {
            below.map_or_else(|| default.to_owned(), |config| of(config).clone())
        };
        let config = ImageConfig {
            architecture: of_parent(|c| &c.architecture, &host.architecture),
            variant: of_parent(|c| &c.variant, &host.variant),
            os: of_parent(|c| &c.os, &host.os),
            os_version: of_parent(|c| &c.os_version, ""),
            created: Some(now),
            author: commit.author.clone(),
            comment: commit.comment.clone(),
            container: commit.container.clone(),
            config: commit.config.clone(),
            rootfs: RootFs {
                diff_ids,
                ..RootFs::default()
            },
            history,
            ..ImageConfig::default()
        };
        let config = serde_json::to_vec(&config)
            .map_err(|e| Error::Config(sampan_oci::config::ConfigError::Json(e)))?;
        let blobs = commit.layers.iter().map(|id| self.blob_of(id)).collect();
        self.add(&NewImage {
            config,
            blobs,
            manifest: None,
            parent: parent.map(|image| image.id),
            names: commit
                .name
                .clone()
                .map(Reference::or_latest)
                .into_iter()
                .collect(),
        })
    }

    /// Finds a blob that unpacks to a layer, so that the new image keeps it for a push.
    pub(crate) fn blob_of(&self, diff_id: &DiffId) -> Option<Descriptor> {
        let view = self.0.view();
        let layers = view.images.values().flat_map(|image| image.layers.iter());
        layers
            .filter(|layer| layer.diff_id == *diff_id)
            .find_map(|layer| layer.blob.clone())
    }
}
