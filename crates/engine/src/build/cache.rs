//! Caches of other builders in registries: found there for a build, and sent there after one.

use std::sync::Arc;

use sampan_build::{
    Built, CACHE_CONFIG, CACHE_SOURCES, CancellationToken, Event as News, ExportMode, FetchLayer,
    Import,
};
use sampan_images::{Credentials, ImageStore, RemoteArtifact};
use sampan_oci::{Descriptor, DiffId, MediaType, Reference};
use tokio::runtime::Handle;

use super::{BuildService, Logins, failure};
use crate::error::chain;
use crate::{Error, Result, blocking};

impl BuildService {
    /// Sends what a build has passed to a registry, as a cache for other builders.
    pub async fn export_cache(
        &self,
        built: Arc<Built>,
        mode: ExportMode,
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
            let pushed = store.push_artifact(&reference, &credentials, &layers, describe);
            Ok(runtime.block_on(pushed)?)
        })
        .await
    }
}

/// Finds the caches that a build shall use. One that cannot be had or makes no sense is told of,
/// and the build goes on without. Blocks.
pub(super) fn import(
    store: &ImageStore,
    runtime: &Handle,
    references: &[Reference],
    logins: &Logins,
    sink: &(dyn Fn(usize, News) + Send + Sync),
    cancel: &CancellationToken,
) -> Vec<Arc<Import>> {
    let mut found = Vec::new();
    for reference in references {
        let finder = Finder {
            store,
            runtime,
            cancel,
            name: reference.familiar(),
        };
        let imported = match finder.here(reference) {
            Some(imported) => Ok(imported),
            None => finder.remote(reference, &(logins.0)(reference.registry())),
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
        let wrong = |error: sampan_build::Error| failure(&error);
        let artifact = self.wait(self.store.remote_artifact(reference, credentials))?;
        let is = |part: &Descriptor, kind: &str| part.media_type.as_str() == kind;
        let document = |part| self.wait(self.store.artifact_document(&artifact, part));
        let part = |kind: &str| artifact.parts.iter().find(|part| is(part, kind));
        let config = match (&artifact.config, part(CACHE_CONFIG)) {
            (Some(config), _) if config.media_type.as_str() == CACHE_CONFIG => config.bytes.clone(),
            (_, Some(part)) => document(part)?,
            (Some(config), None) => {
                let fetch = self.fetch(&artifact);
                let import = Import::inline(&self.name, &config.bytes, &artifact.parts, fetch);
                return import.map_err(wrong)?.ok_or_else(|| {
                    Error::invalid(
                        "the image has no cache in it: build it with --cache-to type=inline",
                    )
                });
            }
            (None, None) => return Err(Error::invalid("it is no cache of a build")),
        };
        let sources = part(CACHE_SOURCES).map(document).transpose()?;
        let import = Import::read(
            &self.name,
            &config,
            &artifact.parts,
            sources.as_deref(),
            self.fetch(&artifact),
        );
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
                asked = asked => asked.map_err(|error| Error::invalid(chain(&error))),
                () = self.cancel.cancelled() => Err(Error::invalid("the build was cancelled")),
            }
        })
    }
}
