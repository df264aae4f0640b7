//! Builds: their commands run in containers that nobody else sees the end of.

mod blobs;
mod cache;
mod emulation;
mod mounts;

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

pub use blobs::BlobStore;
pub use cache::CacheSource;
use jiff::{SignedDuration, Timestamp};
use sampan_build::{
    BaseNews, Build, Built, CacheMount, CacheRecord, CancellationToken, Confinement, Context,
    Contexts, Event as News, Fetcher, History, NamedContext, Network, NoSecrets, PrunePolicy,
    Pruned, Ran, RunStep, Sandbox, SandboxError, Secrets, Settings, Web, Written, serve_while,
};
use sampan_images::{
    Credentials, HeldLayer, Image, LayerStatus, Mark, Progress as PullNews, ProgressSink,
    PullOptions,
};
use sampan_oci::{DiffId, Digest, Platform, Reference};
use sampan_text::with_causes;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::container::config::{
    ContainerConfig, HostConfig, LogConfig, NetworkMode, Resources, Ulimit,
};
use crate::container::request::{AttachOptions, ClientStream, CreateContainer, WaitCondition};
use crate::container::request::{RemoveOptions, RemoveRunning, RemoveVolumes};
use crate::container::service::Inner;
use crate::{Action, ContainerService, Error, ErrorKind, EventKind, Result, blocking, prune};

/// Bytes of a command's output handed on at once.
const PIECE: usize = 32 << 10;

/// Everything that can be done to builds. A cheap clone.
#[derive(Debug, Clone)]
pub struct BuildService {
    inner: Arc<Inner>,
}

/// A build to be done.
#[derive(Clone)]
pub struct BuildRequest {
    /// What is asked of it.
    pub settings: Settings,
    /// Asks registries for newer images to begin with.
    pub pull: bool,
    /// Who asks.
    pub logins: Logins,
    /// The Dockerfile, where it is not among the files.
    pub written: Option<Written>,
    /// What the client lends.
    pub secrets: Arc<dyn Secrets>,
    /// Where the files are: an address. What the client sends is not looked at then.
    pub remote: Option<String>,
    /// Caches of other builders: images with a cache in them, or caches by themselves.
    pub cache_from: Vec<CacheSource>,
    /// Named contexts that are fetched: addresses by their names.
    pub remote_contexts: BTreeMap<String, String>,
    /// Images in stores of the client, by the names under which the settings' contexts have them.
    pub layouts: BTreeMap<String, Layout>,
}

/// An image in a store of the client.
#[derive(Clone)]
pub struct Layout {
    /// The digest of its manifest, or of an index.
    pub digest: Digest,
    /// The store.
    pub store: Arc<dyn BlobStore>,
}

impl Default for BuildRequest {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            pull: false,
            logins: Logins::default(),
            written: None,
            secrets: Arc::new(NoSecrets),
            remote: None,
            cache_from: Vec::new(),
            remote_contexts: BTreeMap::new(),
            layouts: BTreeMap::new(),
        }
    }
}

impl std::fmt::Debug for BuildRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BuildRequest")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Knows who asks which registry. It may block.
#[derive(Clone)]
pub struct Logins(Arc<dyn Fn(&str) -> Credentials + Send + Sync>);

impl Logins {
    /// Asks `find` by the registry's name.
    pub fn new(find: impl Fn(&str) -> Credentials + Send + Sync + 'static) -> Self {
        Self(Arc::new(find))
    }
}

impl Default for Logins {
    fn default() -> Self {
        Self::new(|_| Credentials::default())
    }
}

/// The files to build from, as they come.
pub enum Sent {
    /// A tar, plain or packed. It is read only once.
    Archive(Box<dyn Read + Send>),
    /// Files that are here.
    Files(Context),
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Archive(_) => f.write_str("Archive"),
            Self::Files(context) => f.debug_tuple("Files").field(context).finish(),
        }
    }
}

impl BuildService {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Builds an image and tells what happens, with the stage that it is of. It is given up when
    /// `cancel` is set; nothing of it is left then but the steps that are done.
    pub async fn build(
        &self,
        sent: Sent,
        request: BuildRequest,
        sink: impl Fn(usize, News) + Send + Sync + 'static,
        cancel: CancellationToken,
    ) -> Result<Arc<Image>> {
        let (service, runtime) = (self.clone(), Handle::current());
        self.run(move || {
            let built = solve(&service.inner, &runtime, sent, &request, &sink, &cancel)?;
            service.keep(&built)
        })
        .await
    }

    /// The same, but the image is not put into the store; [`keep`](Self::keep) does that.
    pub async fn solve(
        &self,
        sent: Sent,
        request: BuildRequest,
        sink: impl Fn(usize, News) + Send + Sync + 'static,
        cancel: CancellationToken,
    ) -> Result<Built> {
        let (inner, runtime) = (self.inner.clone(), Handle::current());
        self.run(move || solve(&inner, &runtime, sent, &request, &sink, &cancel))
            .await
    }

    /// Keeps what was built as an image, under its names. Blocks.
    pub fn keep(&self, built: &Built) -> Result<Arc<Image>> {
        let image = self.inner.images.store().add(&built.image)?;
        for name in &built.image.names {
            let mut attributes = image.config.config.labels.clone();
            attributes.insert("name".to_owned(), name.familiar());
            let id = image.id.to_string();
            let events = &self.inner.events;
            events.publish(EventKind::Image, Action::Tag, id, attributes);
        }
        self.inner.images.collector.nudge();
        Ok(image)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let task = self.inner.tasks.spawn_blocking(work);
        task.await
            .map_err(|error| Error::because("the build broke off", &error))?
    }

    /// Files that clients have sent.
    pub fn contexts(&self) -> &Contexts {
        self.inner.steps.contexts()
    }

    /// Builds that have ended.
    pub fn history(&self) -> &History {
        &self.inner.builds
    }

    /// Lists what is kept for builds, oldest first.
    pub async fn cache(&self) -> Result<Vec<CacheRecord>> {
        let inner = self.inner.clone();
        blocking(move || Ok(inner.steps.records())).await
    }

    /// Lists the directories that commands of builds keep.
    pub async fn cache_mounts(&self) -> Result<Vec<CacheMount>> {
        let inner = self.inner.clone();
        blocking(move || inner.steps.mounts().list().map_err(|error| failure(&error))).await
    }

    /// Answers what writes the files of a cache mount as a tar.
    pub async fn export_cache_mount(
        &self,
        name: String,
        cancel: CancellationToken,
    ) -> Result<impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + use<>> {
        let inner = self.inner.clone();
        blocking(move || {
            let export = inner.steps.mounts().export(&name, &cancel);
            export.map_err(|error| failure(&error))
        })
        .await
    }

    /// Makes a cache mount of the files of a tar.
    pub async fn import_cache_mount(
        &self,
        id: String,
        tar: impl Read + Send + 'static,
    ) -> Result<()> {
        let inner = self.inner.clone();
        blocking(move || {
            let layer = inner.steps.import_mount(&id, tar);
            let layer = layer.map_err(|error| failure(&error))?;
            drop_made(&inner, vec![layer]);
            Ok(())
        })
        .await
    }

    /// Forgets what is kept for builds, as far as the policy and the filter take it.
    pub async fn prune(&self, policy: PrunePolicy, filter: CacheFilter) -> Result<Pruned> {
        let inner = self.inner.clone();
        let policy = PrunePolicy {
            unused_since: filter.until.or(policy.unused_since),
            ..policy
        };
        let pruned = blocking(move || {
            let wanted = |record: &CacheRecord| filter.is_equal(record);
            let pruned = inner.steps.prune(&policy, wanted, &in_use(&inner));
            pruned.map_err(|error| failure(&error))
        })
        .await?;
        prune::tell(&self.inner.events, EventKind::Builder, pruned.bytes);
        Ok(pruned)
    }
}

impl BuildService {
    /// Notes when the cache was used, and takes from it what was used longest ago: what is above
    /// its own limit, and where the engine has too little space, as much as is missing of what was
    /// not used lately.
    pub(crate) async fn keep_budget_once(&self) -> Result<()> {
        let inner = self.inner.clone();
        let pruned = blocking(move || {
            let (cache, store) = (&inner.steps, inner.images.store());
            let in_use = in_use(&inner);
            let config = inner.images.collector_config();
            let failed = |error: sampan_build::Error| failure(&error);
            cache.save_uses().map_err(failed)?;
            cache.tidy([], &in_use).map_err(failed)?;
            let mut pruned = 0;
            if let Some(limit) = config.cache {
                let policy = PrunePolicy {
                    all: true,
                    max_used: match limit {
                        Mark::Bytes(bytes) => bytes.max(1),
                        Mark::Percent(percent) => cache.share(percent).map_err(failed)?,
                    },
                    ..PrunePolicy::default()
                };
                let done = cache.prune(&policy, |_| true, &in_use).map_err(failed)?;
                pruned += done.bytes;
            }
            let missing = match &config.budget {
                Some(budget) => store.over_budget(budget)?,
                None => 0,
            };
            if missing > 0 {
                let age = SignedDuration::try_from(config.policy.min_age);
                let age = age.unwrap_or(SignedDuration::MAX);
                let taken: u64 = cache.records().iter().map(|record| record.size).sum();
                // What images have, too, gives nothing back unless they may go.
                let kept = kept_layers(&inner);
                let may_go =
                    |record: &CacheRecord| record.layers.iter().all(|layer| !kept.contains(layer));
                let policy = PrunePolicy {
                    all: true,
                    unused_since: Timestamp::now().checked_sub(age).ok(),
                    max_used: taken.saturating_sub(missing).max(1),
                    ..PrunePolicy::default()
                };
                let done = cache.prune(&policy, may_go, &in_use).map_err(failed)?;
                pruned += done.bytes;
            }
            Ok(pruned)
        })
        .await?;
        if pruned > 0 {
            tracing::info!(
                freed = pruned,
                "the cache of builds took more than its budget"
            );
            prune::tell(&self.inner.events, EventKind::Builder, pruned);
        }
        Ok(())
    }
}

/// Which records of the cache are meant. All that is given must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheFilter {
    /// Not used since.
    pub until: Option<Timestamp>,
    /// Words with values that must be the same, for each word one of them.
    equal: BTreeMap<String, Vec<String>>,
}

impl CacheFilter {
    /// Reads the filters of a prune of builds.
    pub fn parse(filters: &BTreeMap<String, Vec<String>>) -> Result<Self> {
        let known = [
            "id",
            "parent",
            "type",
            "description",
            "inuse",
            "shared",
            "private",
        ];
        let mut filter = Self::default();
        for (key, values) in filters {
            match key.as_str() {
                "until" | "unused-for" => filter.until = prune::until(values)?,
                "inuse" | "shared" | "private" => {
                    // A word alone means that it is so.
                    let said = values.iter().filter(|value| !value.is_empty());
                    let said: Vec<String> = said.cloned().collect();
                    let truth = prune::truth(key, &said)?.unwrap_or(true);
                    filter.equal.insert(key.clone(), vec![truth.to_string()]);
                }
                other if known.contains(&other) => {
                    filter.equal.insert(key.clone(), values.clone());
                }
                _ => return Err(Error::invalid(format!("invalid filter '{key}'"))),
            }
        }
        Ok(filter)
    }

    /// Whether a record is meant.
    pub fn fits(&self, record: &CacheRecord) -> bool {
        let used = record.last_used.unwrap_or(record.created);
        self.until.is_none_or(|until| used < until) && self.is_equal(record)
    }

    fn is_equal(&self, record: &CacheRecord) -> bool {
        self.equal.iter().all(|(key, values)| {
            let value = match key.as_str() {
                "id" => return values.iter().any(|id| record.id.starts_with(id)),
                "parent" => record.parent.clone().unwrap_or_default(),
                "type" => record.kind.as_str().to_owned(),
                "description" => record.description.clone(),
                "inuse" => record.in_use.to_string(),
                "shared" => record.shared.to_string(),
                "private" => (!record.shared).to_string(),
                _ => return false,
            };
            values.contains(&value)
        })
    }
}

/// The layers of images that the collector spares, and of containers.
fn kept_layers(inner: &Inner) -> HashSet<DiffId> {
    let images = inner.images.store().list();
    let tagged = inner.images.collector_config().policy.tagged;
    let named = images.iter().filter(|i| !tagged && !i.is_dangling());
    let named = named.flat_map(|image| image.diff_ids());
    named.chain(in_use(inner)).collect()
}

fn in_use(inner: &Inner) -> HashSet<DiffId> {
    let uses = inner.images.uses();
    uses.into_iter().flat_map(|user| user.layers).collect()
}

fn solve(
    inner: &Arc<Inner>,
    runtime: &Handle,
    sent: Sent,
    request: &BuildRequest,
    sink: &(dyn Fn(usize, News) + Send + Sync),
    cancel: &CancellationToken,
) -> Result<Built> {
    let store = inner.images.store();
    let web: &Web<'_> = &|url, authorization| {
        let opened = runtime.block_on(store.open_url(url, authorization));
        opened.map_err(|error| {
            sampan_build::Error::Step(format!("failed to fetch {url}: {}", with_causes(&error)))
        })
    };
    let fetcher = Fetcher {
        images: store,
        cache: &inner.steps,
        secrets: &*request.secrets,
        web,
    };
    let mut made = Vec::new();
    let sent = take_contexts(&fetcher, sent, request, &mut made, cancel);
    let (context, settings) = match sent {
        Ok(sent) => sent,
        Err(error) => {
            drop_made(inner, made.iter().map(HeldLayer::diff_id).collect());
            return Err(error);
        }
    };
    let bases = Bases {
        inner,
        runtime,
        request,
        sink,
        found: Mutex::default(),
        held: Mutex::default(),
    };
    let (from, logins) = (&request.cache_from, &request.logins);
    let imports = cache::import(store, runtime, from, logins, sink, cancel);
    let sandbox = Containers {
        inner,
        runtime,
        going: TaskTracker::new(),
    };
    let build = Build {
        images: store,
        cache: &inner.steps,
        sandbox: &sandbox,
        base: &|name, platform| bases.find(name, platform),
        context,
        written: request.written.clone(),
        secrets: &*request.secrets,
        web,
        settings,
        imports,
        archives: Mutex::new(made),
    };
    let built = build.run(sink, cancel);
    let mut leftovers = build.into_leftovers();
    leftovers.extend(bases.into_leftovers());
    // A container that is still there would keep them, and be seen by whoever looks.
    sandbox.going.close();
    runtime.block_on(sandbox.going.wait());
    drop_made(inner, leftovers);
    built.map_err(|error| failure(&error))
}

/// Takes the files to build from: those that are sent, or those at an address.
fn take_contexts(
    fetcher: &Fetcher<'_>,
    sent: Sent,
    request: &BuildRequest,
    made: &mut Vec<HeldLayer>,
    cancel: &CancellationToken,
) -> Result<(Context, Settings)> {
    let failed = |error: sampan_build::Error| failure(&error);
    let mut settings = request.settings.clone();
    let context = match (&request.remote, sent) {
        (None, Sent::Files(context)) => context,
        (None, Sent::Archive(archive)) => {
            let layer = fetcher.images.take_archive(archive, "context")?;
            made.push(layer.clone());
            Context::of_layer(layer)
        }
        (Some(address), _) => {
            let remote = fetcher.context(address, made, cancel).map_err(failed)?;
            if remote.is_dockerfile {
                settings.dockerfile.clear();
            }
            remote.context
        }
    };
    for (name, address) in &request.remote_contexts {
        let remote = fetcher.context(address, made, cancel).map_err(failed)?;
        let files = NamedContext::Files(remote.context);
        settings.contexts.insert(name.clone(), files);
    }
    Ok((context, settings))
}

/// Removes layers that were only there for a build.
fn drop_made(inner: &Inner, layers: Vec<DiffId>) {
    if let Err(error) = inner.steps.tidy(layers, &in_use(inner)) {
        tracing::warn!(%error, "could not remove the files of a build");
    }
}

fn failure(error: &sampan_build::Error) -> Error {
    use sampan_build::ErrorKind as Kind;
    let kind = match error.kind() {
        Kind::Invalid => ErrorKind::Invalid,
        Kind::NotFound => ErrorKind::NotFound,
        Kind::NotImplemented => ErrorKind::NotImplemented,
        Kind::Cancelled => ErrorKind::Unavailable,
        Kind::Internal => ErrorKind::Internal,
    };
    let made = Error::new(kind, with_causes(error));
    match error.code() {
        Some(code) => made.with_code(code),
        None => made,
    }
}

/// The images that stages begin with. Each name is looked up once, so that all stages see the same.
struct Bases<'a> {
    inner: &'a Arc<Inner>,
    runtime: &'a Handle,
    request: &'a BuildRequest,
    sink: &'a (dyn Fn(usize, News) + Send + Sync),
    found: Mutex<BTreeMap<(String, String), Arc<Image>>>,
    /// Layers of images that the engine does not have.
    held: Mutex<Vec<HeldLayer>>,
}

impl Bases<'_> {
    /// The layers that were only there for this build.
    fn into_leftovers(self) -> Vec<DiffId> {
        let held = self.held.into_inner();
        let held = held.unwrap_or_else(PoisonError::into_inner);
        held.iter().map(HeldLayer::diff_id).collect()
    }

    fn find(&self, name: &str, platform: &Platform) -> sampan_build::Result<Arc<Image>> {
        // Held meanwhile: who wants the same waits for it.
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.to_owned(), platform.to_string());
        if let Some(image) = found.get(&key) {
            return Ok(image.clone());
        }
        let shown = match name.parse::<Reference>() {
            Ok(reference) => reference.or_latest().to_string(),
            Err(_) => name.to_owned(),
        };
        let tell = |news| (self.sink)(0, News::Base(shown.clone(), news));
        tell(BaseNews::Wanted);
        let image = self.look(name, platform, &tell);
        let why = image.as_ref().err();
        tell(BaseNews::Found(why.map(|why| with_causes(why))));
        let image = image?;
        found.insert(key, image.clone());
        Ok(image)
    }

    fn look(
        &self,
        name: &str,
        platform: &Platform,
        tell: &dyn Fn(BaseNews),
    ) -> sampan_build::Result<Arc<Image>> {
        let images = &self.inner.images;
        let store = images.store();
        let wrong = |error: String| sampan_build::Error::Base(error);
        if let Some(layout) = self.request.layouts.get(name) {
            let image = blobs::image(store, &*layout.store, &layout.digest, platform);
            let (image, layers) = image.map_err(|error| wrong(error.message().to_owned()))?;
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.extend(layers);
            return Ok(image);
        }
        let here = store.find(name);
        if let Ok(image) = &here
            && !self.request.pull
            && is_for(image, platform)
        {
            return Ok(image.clone());
        }
        let reference: Reference = match name.parse() {
            Ok(reference) => Reference::or_latest(reference),
            Err(error) => {
                return here.map_err(|_| wrong(format!("invalid reference format: {error}")));
            }
        };
        let host = Platform::host();
        let is_foreign = host.rank(platform).is_none();
        let options = PullOptions {
            platform: Some(platform.clone()),
            credentials: (self.request.logins.0)(reference.registry()),
            // The tag stays with what can be run here.
            untagged: is_foreign,
        };
        self.runtime.block_on(async {
            let installed = images.install_bundled(&reference).await;
            if let Some(image) = installed.map_err(|error| wrong(error.message().to_owned()))?
                && is_for(&image, platform)
            {
                return Ok(image);
            }
            let (progress, mut news) = ProgressSink::channel();
            let mut pull = std::pin::pin!(store.pull(&reference, &options, &progress));
            let pulled = loop {
                tokio::select! {
                    pulled = &mut pull => break pulled,
                    Some(news) = news.recv() => told(news, tell),
                }
            };
            while let Ok(news) = news.try_recv() {
                told(news, tell);
            }
            let pulled = pulled.map_err(|error| match &here {
                Ok(image) if !is_for(image, platform) => wrong(format!(
                    "{name} is here for {}, not for {platform} (FROM --platform chooses), and cannot \
                     be pulled: {}",
                    image.config.platform(),
                    with_causes(&error)
                )),
                _ => wrong(with_causes(&error)),
            })?;
            images.tell_pulled(&pulled.image, &reference);
            Ok(pulled.image)
        })
    }
}

/// Tells what a builder wants to hear of a pull.
fn told(news: PullNews, tell: &dyn Fn(BaseNews)) {
    let PullNews::Layer { id, status } = news else {
        return;
    };
    let doing = match status {
        LayerStatus::Downloading { .. } => "downloading",
        LayerStatus::Extracting { .. } => "extracting",
        _ => return,
    };
    if let Some((current, total)) = status.amount() {
        tell(BaseNews::Layer {
            id,
            doing,
            current,
            total,
        });
    }
}

/// Whether an image was made for a machine; one that does not say is for any.
fn is_for(image: &Image, platform: &Platform) -> bool {
    let of_image = image.config.platform();
    of_image.architecture.is_empty() || platform.rank(&of_image).is_some()
}

/// Runs commands in containers.
struct Containers<'a> {
    inner: &'a Arc<Inner>,
    runtime: &'a Handle,
    /// The removals that are under way: the next step does not wait for them.
    going: TaskTracker,
}

impl Sandbox for Containers<'_> {
    fn check_platform(&self, platform: &Platform) -> Result<(), SandboxError> {
        let host = Platform::host();
        let no_matter = platform.architecture.is_empty();
        if no_matter || host.rank(platform).is_some() || emulation::runs(&platform.architecture) {
            return Ok(());
        }
        Err(SandboxError(format!(
            "commands for {platform} cannot be run on {host}: install an emulator for {} (on Debian \
             the package qemu-user-static, which registers it with binfmt_misc)",
            platform.architecture
        )))
    }

    fn run(
        &self,
        step: &RunStep,
        secrets: &dyn Secrets,
        output: &mut (dyn FnMut(&[u8]) + Send),
        cancel: &CancellationToken,
    ) -> Result<Ran, SandboxError> {
        let request = request(step);
        let made = self
            .inner
            .create_for_build(&Image::of_layers(step.layers.iter().copied()), request)
            .map_err(|error| SandboxError(error.message().to_owned()))?;
        let container = made.id.to_string();
        let ran = self.run_with(&container, step, secrets, output, cancel);
        let service = ContainerService::new(self.inner.clone());
        let removal = async move {
            let options = RemoveOptions {
                running: RemoveRunning::Kill,
                volumes: RemoveVolumes::Anonymous,
            };
            if let Err(error) = service.remove(&container, options).await {
                tracing::warn!(
                    container,
                    error = error.message(),
                    "could not remove the container of a build"
                );
            }
        };
        self.going.spawn_on(removal, self.runtime);
        ran.map_err(|error| SandboxError(error.message().to_owned()))
    }
}

impl Containers<'_> {
    /// Runs a command in its container with its mounts.
    fn run_with(
        &self,
        container: &str,
        step: &RunStep,
        secrets: &dyn Secrets,
        output: &mut (dyn FnMut(&[u8]) + Send),
        cancel: &CancellationToken,
    ) -> Result<Ran> {
        let container = self.inner.registry.find(container)?;
        let directory = self.inner.paths.container(&container.id);
        let layers = self.inner.images.store().layers();
        let users = self.inner.mount_users(container.record().users.as_ref())?;
        let mut made = mounts::make(layers, step, secrets, &directory, users.as_deref())?;
        container.live().private = std::mem::take(&mut made.private);
        serve_while(&made.agents, secrets, || {
            self.run_in(container.id.as_str(), step, output, cancel)
        })
    }

    fn run_in(
        &self,
        container: &str,
        step: &RunStep,
        output: &mut (dyn FnMut(&[u8]) + Send),
        cancel: &CancellationToken,
    ) -> Result<Ran> {
        let service = ContainerService::new(self.inner.clone());
        let failed = |error: io::Error| Error::because("read a command's output", &error);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let wait = self.runtime.block_on(async {
            let options = AttachOptions {
                stdout: true,
                stderr: true,
                stream: true,
                ..AttachOptions::default()
            };
            let client = ClientStream {
                socket: theirs.into(),
                leftover: Vec::new(),
            };
            let attachment = service.attach(container, options).await?;
            attachment.connect(client).await?;
            let wait = service.wait(container, WaitCondition::NextExit).await?;
            service.start(container).await?;
            Ok::<_, Error>(wait)
        })?;
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| copy_output(ours, output));
            self.runtime.block_on(async {
                tokio::select! {
                    outcome = wait.outcome() => outcome.map(Some),
                    () = cancel.cancelled() => {
                        service.kill(container, None).await?;
                        Ok(None)
                    }
                }
            })
        })?;
        let Some(outcome) = outcome else {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the build was cancelled",
            ));
        };
        if let Some(error) = outcome.error {
            return Err(Error::internal(error));
        }
        let changes = match outcome.code == 0 || step.keep_failed {
            true => {
                let record = self.inner.registry.find(container)?.record();
                let upper = self.inner.paths.container(&record.id).join("upper");
                mounts::remove_stubs(&upper, &step.stubs)?;
                let store = self.inner.images.store();
                store.write_layer(|out| self.inner.write_changes(&record, step.latest, out))?
            }
            false => None,
        };
        Ok(Ran {
            code: outcome.code,
            changes,
        })
    }
}

/// Takes the frames apart: eight bytes with the length at their end, and the output.
fn copy_output(mut socket: UnixStream, output: &mut (dyn FnMut(&[u8]) + Send)) {
    let mut piece = vec![0; PIECE];
    loop {
        let mut head = [0; 8];
        if socket.read_exact(&mut head).is_err() {
            return;
        }
        let mut left = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        while left > 0 {
            let want = left.min(PIECE);
            if socket.read_exact(&mut piece[..want]).is_err() {
                return;
            }
            output(&piece[..want]);
            left -= want;
        }
    }
}

fn request(step: &RunStep) -> CreateContainer {
    let limits = &step.limits;
    let ulimits = limits.ulimits.iter().map(|limit| Ulimit {
        name: limit.name.clone(),
        soft: limit.soft,
        hard: limit.hard,
    });
    CreateContainer {
        config: ContainerConfig {
            hostname: "buildkitsandbox".to_owned(),
            user: step.user.clone(),
            attach_stdout: true,
            attach_stderr: true,
            env: step.environment.clone(),
            cmd: Some(step.command.clone()),
            working_dir: step.directory.clone(),
            ..ContainerConfig::default()
        },
        host: HostConfig {
            log: LogConfig {
                driver: "none".to_owned(),
                ..LogConfig::default()
            },
            network_mode: match step.network {
                Network::Default => NetworkMode::Default,
                Network::None => NetworkMode::None,
                Network::Host => NetworkMode::Host,
            },
            extra_hosts: step.extra_hosts.clone(),
            shm_size: limits.shm_size,
            privileged: step.confinement == Confinement::None,
            resources: Resources {
                memory: limits.memory,
                memory_swap: limits.memory_swap,
                cpu_shares: limits.cpu_shares,
                cpu_period: limits.cpu_period,
                cpu_quota: limits.cpu_quota,
                cpuset_cpus: limits.cpuset_cpus.clone(),
                cpuset_mems: limits.cpuset_mems.clone(),
                cgroup_parent: limits.cgroup_parent.clone(),
                ulimits: ulimits.collect(),
                ..Resources::default()
            },
            ..HostConfig::default()
        },
        ..CreateContainer::default()
    }
}

impl Inner {
    /// Removes the containers of builds that an engine did not live to end.
    pub(crate) async fn remove_left_steps(self: &Arc<Self>) {
        for container in self.registry.all() {
            if !container.record().of_build {
                continue;
            }
            let options = RemoveOptions {
                running: RemoveRunning::Kill,
                volumes: RemoveVolumes::Anonymous,
            };
            let service = ContainerService::new(self.clone());
            if let Err(error) = service.remove(container.id.as_str(), options).await {
                tracing::warn!(
                    container = %container.id,
                    error = error.message(),
                    "could not remove the container of a build"
                );
            }
        }
    }
}
