//! `rmi` and `image prune`, with Docker's rules for what is in the way.

use std::collections::HashSet;

use sampan_fs::Sync;
use sampan_oci::digest::{ChainId, DiffId, Digest, ImageId};
use sampan_oci::{Platform, Reference};

use crate::image::Image;
use crate::store::{Freed, ImageStore};
use crate::{Error, Result};

/// What a container needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerUse {
    /// The container's ID.
    pub container: String,
    /// The image it was made from.
    pub image: ImageId,
    /// The layers below its writable one, bottom first.
    pub layers: Vec<DiffId>,
    /// Whether it runs, or is paused.
    pub running: bool,
}

/// How to remove an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Remove it although stopped containers or other names need it.
    pub force: bool,
    /// Also remove the nameless images that it was built on.
    pub prune: bool,
    /// Remove it only if it is for each of these machines.
    pub platforms: Vec<Platform>,
}

impl Default for RemoveOptions {
    fn default() -> Self {
        Self {
            force: false,
            prune: true,
            platforms: Vec::new(),
        }
    }
}

/// One step of a removal, in the order of Docker's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// `Untagged: <name>`.
    Untagged {
        /// The name as people write it.
        name: String,
        /// The image that lost it.
        image: ImageId,
    },
    /// `Deleted: <image id>`.
    Deleted(ImageId),
    /// `Deleted: <chain id>`: no image has this stack of layers any more.
    DeletedLayer(ChainId),
}

impl ImageStore {
    /// Removes a name, and the image with it if the name was its last; or an image by its ID with
    /// all its names. `uses` are the containers there are. Blocks.
    pub fn remove(
        &self,
        text: &str,
        options: &RemoveOptions,
        uses: &[ContainerUse],
    ) -> Result<Vec<Removed>> {
        let found = self.find_how(text)?;
        let _changing = self.0.changing();
        // Looked up again: what was found may have changed before the lock was held.
        let image = self
            .get(&found.image.id)
            .ok_or_else(|| Error::NotFound(text.to_owned()))?;
        let own = image.config.platform();
        if let Some(other) = options.platforms.iter().find(|p| p.rank(&own).is_none()) {
            return Err(Error::WrongPlatform {
                image: text.to_owned(),
                platform: other.to_string(),
            });
        }
        let mut removal = Removal::new(self, uses);
        match found.name {
            Some(name) => removal.by_name(text, &name, &image, options)?,
            None => removal.by_id(&image, options)?,
        }
        Ok(removal.records)
    }

    /// Removes every image that `unwanted` picks and no container uses, with all its names.
    /// `uses` is asked when nothing changes any more. Blocks.
    pub fn prune(
        &self,
        unwanted: impl Fn(&Image) -> bool,
        uses: impl Fn() -> Vec<ContainerUse>,
    ) -> Result<(Vec<Removed>, Freed)> {
        let _changing = self.0.changing();
        // Held all the way: nobody begins to use an image in between.
        let holds = self.0.holds();
        let uses = uses();
        let mut removal = Removal::new(self, &uses);
        loop {
            let before = removal.records.len();
            for image in self.list() {
                let used =
                    holds.contains_key(&image.id) || uses.iter().any(|u| u.image == image.id);
                if !used && !removal.has_children(&image.id) && unwanted(&image) {
                    removal.whole(&image, true)?;
                }
            }
            // What an image was built on may be unused without it.
            if removal.records.len() == before {
                return Ok((removal.records, removal.freed));
            }
        }
    }
}

pub(crate) struct Removal<'a> {
    store: &'a ImageStore,
    uses: &'a [ContainerUse],
    pub(crate) records: Vec<Removed>,
    pub(crate) freed: Freed,
}

impl<'a> Removal<'a> {
    /// Begins a removal. The caller holds the lock on changes.
    pub(crate) fn new(store: &'a ImageStore, uses: &'a [ContainerUse]) -> Self {
        Self {
            store,
            uses,
            records: Vec::new(),
            freed: Freed::default(),
        }
    }
}

impl Removal<'_> {
    fn by_name(
        &mut self,
        text: &str,
        name: &Reference,
        image: &Image,
        options: &RemoveOptions,
    ) -> Result<()> {
        if is_single(image)
            && !options.force
            && let Some(user) = self.uses.iter().find(|u| u.image == image.id)
        {
            return Err(Error::Conflict {
                message: format!(
                    "conflict: unable to remove repository reference {text:?} (must force) - container {} is using its referenced image {}",
                    short(&user.container),
                    image.id.short(),
                ),
                hint: USED,
            });
        }
        // A name with both is stored by its digest.
        let name = match name.digest() {
            Some(digest) => name.with_digest(*digest),
            None => name.clone(),
        };
        let mut names = vec![name.clone()];
        let other_tag = image
            .tags
            .iter()
            .any(|tag| *tag != name && tag.same_repository(&name));
        if name.digest().is_none() && !other_tag {
            let digests = image.digests.iter().filter(|d| d.same_repository(&name));
            names.extend(digests.cloned());
        }
        let last = image
            .tags
            .iter()
            .chain(&image.digests)
            .all(|n| names.contains(n));
        // Others were built on it: it stays for them, without a name.
        let goes = last && !self.has_children(&image.id);
        if goes {
            // Nothing is untagged if a container keeps the image from going with its last name.
            self.check(image, options.force, false)?;
        }
        self.untag(&names, image)?;
        if goes {
            self.delete(image, options.prune)?;
        }
        Ok(())
    }

    fn by_id(&mut self, image: &Image, options: &RemoveOptions) -> Result<()> {
        self.check(image, options.force, !is_single(image))?;
        self.whole(image, options.prune)
    }

    /// Removes an image with all its names, whatever is in the way.
    pub(crate) fn whole(&mut self, image: &Image, prune: bool) -> Result<()> {
        let names: Vec<Reference> = image.tags.iter().chain(&image.digests).cloned().collect();
        self.untag(&names, image)?;
        self.delete(image, prune)
    }

    /// Fails with the first thing that is in the way.
    fn check(&self, image: &Image, force: bool, named: bool) -> Result<()> {
        let conflict = |must: &str, why: String, hint| {
            Err(Error::Conflict {
                message: format!(
                    "conflict: unable to delete {} ({must}) - {why}",
                    image.id.short()
                ),
                hint,
            })
        };
        if self.has_children(&image.id) {
            return conflict(
                "cannot be forced",
                "image has dependent child images".into(),
                "remove the images that were built on it first",
            );
        }
        let user = |running| {
            self.uses
                .iter()
                .find(|u| u.image == image.id && u.running == running)
        };
        if let Some(user) = user(true) {
            let why = format!(
                "image is being used by running container {}",
                short(&user.container)
            );
            return conflict(
                "cannot be forced",
                why,
                "stop and remove the container first",
            );
        }
        if force {
            return Ok(());
        }
        if named {
            let names = [image.repo_tags(), image.repo_digests()].concat();
            return conflict(
                "must be forced",
                format!(
                    "image is referenced in multiple repositories: {}",
                    names.join(", ")
                ),
                "remove the names that are not needed one by one, or all of them with -f",
            );
        }
        if let Some(user) = user(false) {
            let why = format!(
                "image is being used by stopped container {}",
                short(&user.container)
            );
            return conflict("must be forced", why, USED);
        }
        Ok(())
    }

    pub(crate) fn has_children(&self, id: &ImageId) -> bool {
        self.store
            .0
            .view()
            .images
            .values()
            .any(|image| image.parent.as_ref() == Some(id))
    }

    fn untag(&mut self, names: &[Reference], image: &Image) -> Result<()> {
        self.store.0.names.remove(names)?;
        self.store.0.publish();
        self.records
            .extend(names.iter().map(|name| Removed::Untagged {
                name: name.familiar(),
                image: image.id,
            }));
        Ok(())
    }

    /// Removes the record, then what only it needed, then nameless parents.
    fn delete(&mut self, image: &Image, prune: bool) -> Result<()> {
        let inner = &self.store.0;
        inner.records.remove(&image.id.hex(), Sync::Durable)?;
        inner.publish();
        self.records.push(Removed::Deleted(image.id));
        self.records.extend(
            self.lost_chains(&image.diff_ids())
                .map(Removed::DeletedLayer),
        );
        let in_use: HashSet<DiffId> = self
            .uses
            .iter()
            .flat_map(|u| u.layers.iter().copied())
            .collect();
        self.freed += inner.remove_layers(image.diff_ids().into_iter().rev(), &in_use)?;
        self.freed += self.remove_blobs(image)?;
        let parent = image.parent.filter(|_| prune);
        if let Some(parent) = parent.and_then(|id| self.store.get(&id))
            && parent.tags.is_empty()
            && parent.digests.is_empty()
            && self.check(&parent, false, false).is_ok()
        {
            self.delete(&parent, true)?;
        }
        Ok(())
    }

    /// Lists the stacks, top first, that neither an image nor a container has any more.
    fn lost_chains(&self, layers: &[DiffId]) -> impl Iterator<Item = ChainId> + use<> {
        let common =
            |other: &[DiffId]| layers.iter().zip(other).take_while(|(a, b)| a == b).count();
        let view = self.store.0.view();
        let kept = view
            .images
            .values()
            .map(|image| common(&image.diff_ids()))
            .chain(self.uses.iter().map(|u| common(&u.layers)))
            .max()
            .unwrap_or(0);
        let chains: Vec<ChainId> = (kept + 1..=layers.len())
            .filter_map(|n| ChainId::of(&layers[..n]))
            .collect();
        chains.into_iter().rev()
    }

    fn remove_blobs(&self, image: &Image) -> Result<Freed> {
        let inner = &self.store.0;
        let view = inner.view();
        let needed: HashSet<Digest> = view.images.values().flat_map(|i| i.blobs()).collect();
        let mut freed = Freed::default();
        for digest in image.blobs() {
            if !needed.contains(&digest) {
                freed.disk += inner.content.disk_usage(&digest);
                inner.content.remove(&digest)?;
            }
        }
        Ok(freed)
    }
}

/// What to do about a container that does not run.
const USED: &str = "remove the container first, or force with -f";

/// Whether all names are of one repository with at most one tag among them.
fn is_single(image: &Image) -> bool {
    let first = image.tags.first().or(image.digests.first());
    image.tags.len() <= 1
        && first.is_none_or(|first| image.digests.iter().all(|d| d.same_repository(first)))
}

fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}
