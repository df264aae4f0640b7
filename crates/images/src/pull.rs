//! `docker pull`: from a name to an image, every layer in one pass.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures_util::{StreamExt, TryStreamExt, stream};
use sampan_fs::Sync;
use sampan_oci::config::MAX_CONFIG;
use sampan_oci::digest::{DiffId, Digest};
use sampan_oci::{Descriptor, Document, ImageConfig, Manifest, MediaType, Platform, Reference};
use sampan_registry_client::{Client, Credentials, FetchedManifest, Source, Target};
use sampan_text::with_causes;
use tokio::sync::OwnedMutexGuard;

use crate::fetch::Fetch;
use crate::image::Image;
use crate::progress::{LayerStatus, Progress, ProgressSink};
use crate::store::{Buffers, ImageStore, NewImage};
use crate::{Error, Result};

/// Indexes that may lie in one another.
const MAX_DEPTH: usize = 4;

/// How to pull.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// The machine that the image is for, if not this one.
    pub platform: Option<Platform>,
    /// Who asks.
    pub credentials: Credentials,
    /// Leaves the tag to the image that has it, if any: only the digest of the manifest names
    /// what is pulled.
    pub untagged: bool,
}

/// What a pull brought.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The image.
    pub image: Arc<Image>,
    /// The digest that the name stands for at the registry: an index's, or a manifest's.
    pub digest: Digest,
    /// Whether the name means another image than before.
    pub newer: bool,
}

/// A manifest and how it was come to.
struct Resolved {
    manifest: Manifest,
    descriptor: Descriptor,
    /// What the name stands for.
    top: Digest,
    /// The bytes of all documents on the way, for the cache.
    documents: Vec<Vec<u8>>,
}

impl ImageStore {
    /// Pulls an image and names it.
    ///
    /// Layers that are here are not fetched; the others come in parallel, and what came of them
    /// when the pull fails or is dropped is kept for the next. The records are written last.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: &ProgressSink,
    ) -> Result<Pulled> {
        let _buffers = Buffers;
        let reference = reference.clone().or_latest();
        let client = &self.0.registry;
        let sources = client.sources(&reference, &options.credentials);
        let (resolved, sources) = self.resolve_at(sources, &reference, options).await?;
        progress.send(Progress::PullingFrom {
            repository: reference.repository().to_owned(),
            reference: match reference.digest() {
                Some(digest) => digest.to_string(),
                None => reference.tag().unwrap_or_default().to_owned(),
            },
        });
        let before = self.resolve(&reference).map(|image| image.id);
        let (config, _pins) = self
            .fetch_parts(client, &sources, &resolved, options, progress)
            .await?;
        let names = match (options.untagged, reference.digest(), reference.tag()) {
            (true, ..) => vec![reference.with_digest(resolved.descriptor.digest)],
            (false, None, Some(tag)) => {
                vec![
                    reference.with_digest(resolved.top),
                    reference.with_tag(tag)?,
                ]
            }
            (false, ..) => vec![reference.with_digest(resolved.top)],
        };
        let new = NewImage {
            config,
            blobs: resolved.manifest.layers.iter().cloned().map(Some).collect(),
            manifest: Some(resolved.descriptor),
            parent: None,
            names,
        };
        let (store, documents) = (self.clone(), resolved.documents);
        let image = blocking(move || {
            for document in &documents {
                store.0.content.put(document, Sync::Volatile)?;
            }
            store.add(&new)
        })
        .await?;
        let newer = before != Some(image.id);
        progress.send(Progress::Digest(resolved.top));
        let title = reference.familiar();
        progress.send(if newer {
            Progress::Downloaded { image: title }
        } else {
            Progress::UpToDate { image: title }
        });
        Ok(Pulled {
            image,
            digest: resolved.top,
            newer,
        })
    }

    /// Asks one source after the other for the manifest. Returns it and the sources that are left,
    /// the one that had it first.
    async fn resolve_at(
        &self,
        sources: Vec<Source>,
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<(Resolved, Vec<Source>)> {
        let client = &self.0.registry;
        let mut sources = std::collections::VecDeque::from(sources);
        while let Some(source) = sources.front() {
            match self
                .resolve_manifest(client, source, reference, options)
                .await
            {
                Ok(resolved) => return Ok((resolved, sources.into())),
                Err(error) if sources.len() > 1 => {
                    tracing::warn!(
                        mirror = source.registry,
                        image = source.title,
                        error = with_causes(&error),
                        "a mirror does not have the image"
                    );
                }
                Err(error) => return Err(error),
            }
            sources.pop_front();
        }
        Err(Error::Invalid(format!(
            "{} leads nowhere by the configuration of registries",
            reference.familiar()
        )))
    }

    /// Follows indexes to the manifest that fits the machine.
    async fn resolve_manifest(
        &self,
        client: &Client,
        source: &Source,
        reference: &Reference,
        options: &PullOptions,
    ) -> Result<Resolved> {
        let machine = options
            .platform
            .as_ref()
            .unwrap_or(&self.0.options.platform);
        let target = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => Target::Digest(digest),
            (None, tag) => Target::Tag(tag.unwrap_or("latest")),
        };
        let mut fetched = client.manifest(source, target).await?;
        let top = fetched.digest;
        let mut documents = Vec::new();
        for _ in 0..MAX_DEPTH {
            let FetchedManifest {
                bytes,
                media_type,
                digest,
            } = fetched;
            let document =
                Document::parse(&bytes, &media_type).map_err(|source| Error::Manifest {
                    image: reference.familiar(),
                    source,
                })?;
            documents.push(bytes.to_vec());
            let index = match document {
                Document::Manifest(manifest) => {
                    return Ok(Resolved {
                        descriptor: Descriptor::new(
                            manifest.media_type.clone(),
                            digest,
                            bytes.len() as u64,
                        ),
                        manifest,
                        top,
                        documents,
                    });
                }
                Document::Index(index) => index,
            };
            let chosen = index.select(machine).ok_or_else(|| Error::NoPlatform {
                platform: machine.to_string(),
            })?;
            let next = client
                .manifest(source, Target::Digest(&chosen.digest))
                .await?;
            let invalid = |reason: String| Error::InvalidImage {
                image: reference.familiar(),
                reason,
            };
            if next.bytes.len() as u64 != chosen.size {
                return Err(invalid(format!(
                    "its index says that manifest {} has {} bytes, but it has {}",
                    chosen.digest,
                    chosen.size,
                    next.bytes.len()
                )));
            }
            let known = next.media_type.is_manifest() || next.media_type.is_index();
            if known && next.media_type != chosen.media_type {
                return Err(invalid(format!(
                    "its index says that {} is {}, but the registry says it is {}",
                    chosen.digest, chosen.media_type, next.media_type
                )));
            }
            fetched = FetchedManifest {
                media_type: chosen.media_type.clone(),
                ..next
            };
        }
        Err(Error::InvalidImage {
            image: reference.familiar(),
            reason: "its indexes are nested too deeply".into(),
        })
    }

    /// Brings the configuration and all layers here. The layers stay until the pins are dropped.
    async fn fetch_parts(
        &self,
        client: &Client,
        sources: &[Source],
        resolved: &Resolved,
        options: &PullOptions,
        progress: &ProgressSink,
    ) -> Result<(Vec<u8>, Vec<crate::store::Pin>)> {
        let manifest = &resolved.manifest;
        let source = &sources[0];
        let invalid = |reason: String| Error::InvalidImage {
            image: source.title.clone(),
            reason,
        };
        check_types(manifest).map_err(invalid)?;
        let known = self.get(&manifest.config.digest.into());
        let bytes = match &known {
            Some(image) => image.config_bytes.as_bytes().to_vec(),
            None => fetch_config(client, sources, &manifest.config).await?,
        };
        let config = ImageConfig::parse(&bytes)?;
        if !config.os.is_empty() && config.os != "linux" {
            return Err(invalid(format!(
                "image operating system {:?} cannot be used on this platform",
                config.os
            )));
        }
        if let Some(platform) = &options.platform
            && !config.architecture.is_empty()
            && platform.rank(&config.platform()).is_none()
        {
            return Err(Error::WrongPlatform {
                image: source.title.clone(),
                platform: platform.to_string(),
            });
        }
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(invalid(format!(
                "its configuration names {} layers but its manifest {}",
                diff_ids.len(),
                manifest.layers.len()
            )));
        }
        let pins: Vec<_> = diff_ids.iter().map(|id| self.0.pin(*id)).collect();
        let missing: Vec<(&Descriptor, &DiffId)> = manifest
            .layers
            .iter()
            .zip(diff_ids)
            .filter(|(_, diff_id)| self.0.layers.get(diff_id).is_none())
            .collect();
        if known.is_some() && missing.is_empty() {
            return Ok((bytes, pins));
        }
        for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
            let status = if self.0.layers.get(diff_id).is_some() {
                LayerStatus::AlreadyExists
            } else {
                LayerStatus::PullingFsLayer
            };
            progress.layer(&layer.digest.short(), status);
        }
        let parallel = self.0.options.downloads.max(1);
        for (layer, _) in missing.iter().skip(parallel) {
            progress.layer(&layer.digest.short(), LayerStatus::Waiting);
        }
        // Collected, because a closure over references would keep the future from being `Send`.
        let fetches: Vec<Fetch> = missing
            .into_iter()
            .map(|(layer, diff_id)| Fetch {
                store: self.clone(),
                client: client.clone(),
                sources: sources.to_vec(),
                layer: layer.clone(),
                diff_id: *diff_id,
                progress: progress.clone(),
            })
            .collect();
        stream::iter(fetches)
            .map(Fetch::run)
            .buffer_unordered(parallel)
            .try_collect::<Vec<()>>()
            .await?;
        Ok((bytes, pins))
    }
}

/// Fetches the configuration from the first source that has it right.
async fn fetch_config(client: &Client, sources: &[Source], config: &Descriptor) -> Result<Vec<u8>> {
    let mut sources = sources.iter().peekable();
    loop {
        let source = sources.next().expect("a pull has a source");
        match client
            .blob(source, config.digest, config.size, MAX_CONFIG)
            .await
        {
            Ok(bytes) => return Ok(bytes.to_vec()),
            Err(error) if sources.peek().is_some() => {
                tracing::warn!(mirror = source.registry, %error, "a mirror does not have the configuration");
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Refuses what is no image for this engine, before anything of it is fetched.
fn check_types(manifest: &Manifest) -> std::result::Result<(), String> {
    let config = &manifest.config.media_type;
    // Early builders of Docker's said nothing useful of the configuration.
    let vague = config.is_unset() || config.as_str() == "application/octet-stream";
    let docker = manifest.media_type == MediaType::DockerManifest;
    let image = config.is_config() || (vague && docker);
    if !image {
        return Err(format!(
            "it is no container image: its configuration is of type {:?}",
            config.as_str()
        ));
    }
    for layer in &manifest.layers {
        if layer.media_type.is_foreign_layer() {
            return Err(format!(
                "its layer {} may not be distributed by registries, which is not supported",
                layer.digest
            ));
        }
        if layer.media_type.layer_compression().is_none() {
            return Err(format!(
                "its layer {} is of the unsupported type {:?}",
                layer.digest,
                layer.media_type.as_str()
            ));
        }
    }
    Ok(())
}

/// Which blobs are on their way, so that two pulls fetch a common layer once.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>);

impl UnderWay {
    /// Waits until nobody else fetches the blob.
    pub(crate) async fn enter(&self, digest: &Digest) -> OwnedMutexGuard<()> {
        let lock = {
            let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            map.retain(|_, lock| lock.strong_count() > 0);
            match map.get(digest).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::new(tokio::sync::Mutex::new(()));
                    map.insert(*digest, Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is going down.
        Err(error) => Err(Error::Io {
            action: "run in the background",
            source: std::io::Error::other(error),
        }),
    }
}
