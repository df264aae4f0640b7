//! Caches of other builders, in registries and in stores of clients: found there for a build, and
//! sent there after one.

use std::sync::Arc;

use sampan_build::{
    Built, CACHE_CONFIG, CACHE_SOURCES, CancellationToken, Event as News, ExportMode, FetchLayer,
    Import,
};
use sampan_images::{Artifact, Credentials, ImageStore, MAX_DOCUMENT, Packing, RemoteArtifact};
use sampan_oci::{Descriptor, DiffId, Digest, Document, MediaType, Reference};
use sampan_text::with_causes;
use tokio::runtime::Handle;

use super::blobs::{self, BlobStore};
use super::{BuildService, Logins, failure};
use crate::{Error, Result, blocking};

/// Where a cache of another builder is.
#[derive(Clone)]
pub enum CacheSource {
    /// In a registry, by itself or in an image; or in an image that is here.
    Registry(Reference),
    /// In a store of the client, by the digest of its manifest.
    Store {
        /// What people call it.
        name: String,
        /// The digest.
        digest: Digest,
        /// The store.
        store: Arc<dyn BlobStore>,
    },
}

impl BuildService {
    /// Sends what a build has passed to a registry, as a cache for other builders.
    pub async fn export_cache(
        &self,
        built: Arc<Built>,
        mode: ExportMode,
        packing: Packing,
        reference: Reference,
        logins: Logins,
    ) -> Result<Descriptor> {
        let store = self.inner.images.store().clone();
        let runtime = Handle::current();
        blocking(move || {
            let credentials = (logins.0)(reference.registry());
            let export = built.export(mode).map_err(|error| failure(&error))?;
            let layers = export.layers.clone();
            let describe = |packed: &[Descriptor]| export.describe(packed);
            let pushed = store.push_artifact(&reference, &credentials, &layers, packing, describe);
            Ok(runtime.block_on(pushed)?)
        })
        .await
    }

    /// Writes what a build has passed to a store of the client, as a cache for other builders.
    /// `told` hears of each blob before it is written.
    pub async fn store_cache(
        &self,
        built: Arc<Built>,
        mode: ExportMode,
        packing: Packing,
        place: Arc<dyn BlobStore>,
        told: impl Fn(&Descriptor) + Send + 'static,
    ) -> Result<Descriptor> {
        let images = self.inner.images.store().clone();
        blocking(move || {
            let export = built.export(mode).map_err(|error| failure(&error))?;
            let mut packed = Vec::new();
            for layer in &export.layers {
                let layer = images.packed_layer(layer, packing)?;
                told(&layer.descriptor);
                blobs::put(&*place, &layer.descriptor, &mut layer.open())?;
                packed.push(layer.descriptor);
            }
            let documents = export.describe(&packed);
            let Artifact {
                documents,
                manifest,
            } = Artifact::new(&packed, documents)?;
            // The manifest comes last: what names all of it must not be there before.
            for (descriptor, bytes) in documents.into_iter().chain([manifest.clone()]) {
                told(&descriptor);
                blobs::put(&*place, &descriptor, &mut &bytes[..])?;
            }
            Ok(manifest.0)
        })
        .await
    }
}

/// Finds the caches that a build shall use. One that cannot be had or makes no sense is told of,
/// and the build goes on without. Blocks.
pub(super) fn import(
    store: &ImageStore,
    runtime: &Handle,
    sources: &[CacheSource],
    logins: &Logins,
    sink: &(dyn Fn(usize, News) + Send + Sync),
    cancel: &CancellationToken,
) -> Vec<Arc<Import>> {
    let mut found = Vec::new();
    for source in sources {
        let finder = Finder {
            store,
            runtime,
            cancel,
            name: match source {
                CacheSource::Registry(reference) => reference.familiar(),
                CacheSource::Store { name, .. } => name.clone(),
            },
        };
        let imported = match source {
            CacheSource::Registry(reference) => match finder.here(reference) {
                Some(imported) => Ok(imported),
                None => finder.remote(reference, &(logins.0)(reference.registry())),
            },
            CacheSource::Store { digest, store, .. } => finder.offered(digest, store),
        };
        match imported {
            Ok(import) => found.push(Arc::new(import)),
            Err(error) => {
                let text = format!(
                    "[Warning] importing the cache {}: {}",
                    finder.name,
                    error.message()
                );
                sink(0, News::Warning(text));
            }
        }
    }
    found
}

struct Finder<'a> {
    store: &'a ImageStore,
    runtime: &'a Handle,
    cancel: &'a CancellationToken,
    name: String,
}

/// The documents of a cache: its configuration with its type, if it has one, and its parts.
struct Documents<'a> {
    config: Option<(MediaType, Vec<u8>)>,
    parts: &'a [Descriptor],
    /// Reads one of the parts.
    read: &'a dyn Fn(&Descriptor) -> Result<Vec<u8>>,
}

impl Finder<'_> {
    /// The cache in an image of this engine.
    fn here(&self, reference: &Reference) -> Option<Import> {
        let image = self.store.find(&reference.familiar()).ok()?;
        let diff_ids = image.diff_ids().into_iter();
        let parts: Vec<_> = diff_ids
            .map(|diff_id| Descriptor::new(MediaType::OciLayer, diff_id.0, 0))
            .collect();
        let fetch: Box<FetchLayer> = Box::new(|_, diff_id| {
            let why = format!("the layer {} was removed", diff_id.short());
            Err(sampan_build::Error::Step(why))
        });
        let config = image.config_bytes.as_bytes();
        Import::inline(&self.name, config, &parts, fetch).ok()?
    }

    /// The cache at a registry: one by itself, or one in an image.
    fn remote(&self, reference: &Reference, credentials: &Credentials) -> Result<Import> {
        let artifact = self.wait(self.store.remote_artifact(reference, credentials))?;
        let documents = Documents {
            config: artifact.config.as_ref().map(|config| {
                let media_type = config.media_type.clone();
                (media_type, config.bytes.clone())
            }),
            parts: &artifact.parts,
            read: &|part| self.wait(self.store.artifact_document(&artifact, part)),
        };
        self.read(documents, self.fetch(&artifact))
    }

    /// The cache in a store of the client.
    fn offered(&self, digest: &Digest, place: &Arc<dyn BlobStore>) -> Result<Import> {
        let read = |part: &Descriptor| blobs::document(&**place, &part.digest, MAX_DOCUMENT);
        let (config, parts) = match blobs::manifest(&**place, digest)? {
            Document::Manifest(manifest) => {
                let config = read(&manifest.config)?;
                let config = (manifest.config.media_type, config);
                (Some(config), manifest.layers)
            }
            Document::Index(index) => (None, index.manifests),
        };
        let documents = Documents {
            config,
            parts: &parts,
            read: &read,
        };
        let (images, place) = (self.store.clone(), Arc::clone(place));
        let fetch = move |layer: &Descriptor, diff_id: &DiffId| {
            let reader = place.read(&layer.digest);
            let reader = reader.map_err(|error| sampan_build::Error::Step(error.to_string()))?;
            Ok(images.take_packed_layer(reader, layer, diff_id)?)
        };
        self.read(documents, Box::new(fetch))
    }

    fn read(&self, documents: Documents<'_>, fetch: Box<FetchLayer>) -> Result<Import> {
        let wrong = |error: sampan_build::Error| failure(&error);
        let Documents {
            config,
            parts,
            read,
        } = documents;
        let is = |part: &Descriptor, kind: &str| part.media_type.as_str() == kind;
        let part = |kind: &str| parts.iter().find(|part| is(part, kind));
        let config = match (config, part(CACHE_CONFIG)) {
            (Some((kind, config)), _) if kind.as_str() == CACHE_CONFIG => config,
            (_, Some(part)) => read(part)?,
            (Some((_, config)), None) => {
                let import = Import::inline(&self.name, &config, parts, fetch);
                return import.map_err(wrong)?.ok_or_else(|| {
                    Error::invalid(
                        "the image has no cache in it: build it with --cache-to type=inline",
                    )
                });
            }
            (None, None) => return Err(Error::invalid("it is no cache of a build")),
        };
        let sources = part(CACHE_SOURCES).map(read).transpose()?;
        let import = Import::read(&self.name, &config, parts, sources.as_deref(), fetch);
        import.map_err(wrong)
    }

    fn fetch(&self, artifact: &RemoteArtifact) -> Box<FetchLayer> {
        let (store, runtime) = (self.store.clone(), self.runtime.clone());
        let (cancel, artifact) = (self.cancel.clone(), artifact.clone());
        Box::new(move |layer: &Descriptor, diff_id: &DiffId| {
            let fetched = runtime.block_on(async {
                tokio::select! {
                    fetched = store.artifact_layer(&artifact, layer, diff_id) => Some(fetched),
                    () = cancel.cancelled() => None,
                }
            });
            match fetched {
                Some(fetched) => Ok(fetched?),
                None => Err(sampan_build::Error::Cancelled),
            }
        })
    }

    fn wait<T>(&self, asked: impl Future<Output = sampan_images::Result<T>>) -> Result<T> {
        self.runtime.block_on(async {
            tokio::select! {
                asked = asked => asked.map_err(|error| Error::invalid(with_causes(&error))),
                () = self.cancel.cancelled() => Err(Error::invalid("the build was cancelled")),
            }
        })
    }
}
