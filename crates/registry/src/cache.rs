//! Copies of other registries, filled as they are asked for.
//!
//! One download serves all who want the same: whoever comes while it is on its way reads along
//! from the file that it is written to. A tag is taken for what it was as long as it is fresh;
//! after that the upstream is asked, and when that does not answer, what is there is given. The
//! last byte of a blob goes out when its digest was verified, so that nobody ever has a whole
//! blob that is wrong.
//!
//! Credentials for the upstream come from the configuration and go to the upstream and to token
//! services of its own domain; clients' credentials go nowhere.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use sampan_oci::reference::DEFAULT_REGISTRY;
use sampan_oci::{Digest, Document};
use sampan_registry_client::settings::{Fixed, Insecure, Settings};
use sampan_registry_client::{
    Access, Client, Config, Credentials, Download, ErrorKind, FetchedManifest, Piece, Source,
    Target as Wanted,
};
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::metrics::{Event, Metrics};
use crate::name::{RepositoryName, Target};
use crate::registry::{FoundManifest, Registry};
use crate::storage::Upload;

/// How long a tag is fresh unless it is configured.
const FRESH: Duration = Duration::from_secs(600);
/// How long a manifest stays that nobody asks for, unless it is configured.
const KEEP: Duration = Duration::from_secs(30 * 86_400);
/// Bytes that are written, and read along, at once.
const BATCH: usize = 256 << 10;
/// How long an upstream that did not answer is not asked again for the same.
const REST: Duration = Duration::from_secs(10);

/// Where a cache gets what it does not have.
#[derive(Clone)]
pub struct Upstream {
    /// Repositories below this are of the cache; all if empty.
    pub prefix: String,
    /// The registry's host, as in `docker.io` or `registry.example.com:5000`.
    pub registry: String,
    /// Whether it may speak plain HTTP.
    pub insecure: bool,
    /// Who asks there.
    pub credentials: Credentials,
    /// Further hosts that may be given the credentials for a token.
    pub token_hosts: Vec<String>,
    /// How long a tag is fresh.
    pub fresh: Option<Duration>,
    /// How long a manifest stays that nobody asks for.
    pub keep: Option<Duration>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("prefix", &self.prefix)
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}

/// All caches of a registry.
#[derive(Debug)]
pub(crate) struct Caches {
    caches: Vec<Arc<Cache>>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Cache {
    upstream: Upstream,
    client: Client,
    /// Held while the upstream is asked for a manifest: whoever wants the same waits.
    asking: Vec<tokio::sync::Mutex<()>>,
    /// Until when tags need not be asked for.
    fresh: Mutex<HashMap<(RepositoryName, String), Instant>>,
    flights: Mutex<HashMap<Digest, Coming>>,
    /// When manifests were asked for last.
    used: Mutex<HashMap<(RepositoryName, Digest), Instant>>,
}

/// How far a blob is.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// So much of it is in the file.
    written: u64,
    /// What can be read along; none where the store has no files.
    file: Option<Arc<File>>,
    state: State,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Flying,
    /// It is in the store, and it is right.
    Landed,
    Failed(String),
}

/// What becomes of a request for a blob.
pub(crate) enum Found {
    /// It is there.
    Here,
    /// It comes.
    Coming(Coming),
}

/// A blob on its way.
#[derive(Clone, Debug)]
pub(crate) struct Coming {
    registry: Registry,
    digest: Digest,
    size: u64,
    progress: watch::Receiver<Progress>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Caches {
    pub(crate) fn new(upstreams: Vec<Upstream>, metrics: Arc<Metrics>) -> Self {
        Self {
            caches: upstreams
                .into_iter()
                .map(Cache::new)
                .map(Arc::new)
                .collect(),
            metrics,
        }
    }

    /// Returns the cache that a repository is of: that of the longest prefix.
    fn of(&self, repository: &RepositoryName) -> Option<&Arc<Cache>> {
        self.caches
            .iter()
            .filter(|cache| cache.rest(repository).is_some())
            .max_by_key(|cache| cache.upstream.prefix.len())
    }

    /// Whether a repository is a copy, into which nobody may push.
    pub(crate) fn has(&self, repository: &RepositoryName) -> bool {
        self.of(repository).is_some()
    }

    /// Sees to it that a manifest is there, if the upstream has it, and is as fresh as it must be.
    pub(crate) async fn manifest(
        &self,
        registry: &Registry,
        repository: &RepositoryName,
        target: &Target,
    ) -> Result<()> {
        let Some(cache) = self.of(repository) else {
            return Ok(());
        };
        let found = match cache.known(registry, repository, target) {
            Some(found) => {
                self.metrics.note(Event::CacheHit);
                found
            }
            None => self.fetch(cache, registry, repository, target).await?,
        };
        let key = (repository.clone(), found.digest);
        lock(&cache.used).insert(key, Instant::now());
        Ok(())
    }

    async fn fetch(
        &self,
        cache: &Cache,
        registry: &Registry,
        repository: &RepositoryName,
        target: &Target,
    ) -> Result<FoundManifest> {
        let _turn = cache.turn(repository, target).await;
        // Somebody else may have asked meanwhile.
        if let Some(found) = cache.known(registry, repository, target) {
            self.metrics.note(Event::CacheHit);
            return Ok(found);
        }
        self.metrics.note(Event::CacheMiss);
        let source = cache.source(repository)?;
        let fetched = match ask(cache.client.clone(), source, target.clone()).await {
            Ok(fetched) => fetched,
            Err(trouble) => return self.stale(cache, registry, repository, target, trouble),
        };
        registry
            .put_copy(repository, target, &fetched.media_type, fetched.bytes)
            .await?;
        cache.refresh(repository, target, cache.upstream.fresh.unwrap_or(FRESH));
        registry.manifest(repository, target)
    }

    /// Gives what is there when the upstream does not answer.
    fn stale(
        &self,
        cache: &Cache,
        registry: &Registry,
        repository: &RepositoryName,
        target: &Target,
        trouble: Trouble,
    ) -> Result<FoundManifest> {
        if trouble.gone {
            return Err(Error::ManifestUnknown {
                repository: repository.clone(),
                target: target.to_string(),
            });
        }
        match registry.manifest(repository, target) {
            Ok(found) => {
                let error = trouble.reason;
                tracing::warn!(%repository, %target, error, "the upstream does not answer: giving what is there");
                self.metrics.note(Event::CacheStale);
                cache.refresh(repository, target, REST);
                Ok(found)
            }
            Err(_) => Err(Error::Upstream(trouble.reason)),
        }
    }

    /// Sees to it that a blob is there or comes, if a manifest that is there needs it.
    pub(crate) async fn blob(
        &self,
        registry: &Registry,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<Found> {
        let Some(cache) = self.of(repository) else {
            return Ok(Found::Here);
        };
        if registry.blob_size(repository, digest).is_ok() {
            self.metrics.note(Event::CacheHit);
            return Ok(Found::Here);
        }
        let size = self.wanted_size(registry, repository, digest).await?;
        let source = cache.source(repository)?;
        let mut flights = lock(&cache.flights);
        if let Some(flight) = flights.get(digest) {
            return Ok(Found::Coming(flight.clone()));
        }
        // It may have landed between the look above and this one.
        if registry.blob_size(repository, digest).is_ok() {
            return Ok(Found::Here);
        }
        self.metrics.note(Event::CacheMiss);
        let (sender, progress) = watch::channel(Progress::default());
        let flight = Coming {
            registry: registry.clone(),
            digest: *digest,
            size,
            progress,
        };
        flights.insert(*digest, flight.clone());
        drop(flights);
        let (cache, registry, digest) = (Arc::clone(cache), registry.clone(), *digest);
        registry.clone().in_background(async move {
            let flown = fly(&cache, &registry, &source, digest, size, &sender).await;
            if let Err(error) = &flown {
                tracing::warn!(%digest, %error, "a blob did not come from the upstream");
            }
            // First: whoever comes from now on finds it in the store, or tries again.
            lock(&cache.flights).remove(&digest);
            sender.send_modify(|progress| {
                progress.state = match flown {
                    Ok(()) => State::Landed,
                    Err(error) => State::Failed(error.to_string()),
                };
            });
        });
        Ok(Found::Coming(flight))
    }

    /// Forgets what nobody has asked for in a long time.
    pub(crate) async fn forget(&self, registry: &Registry) {
        for cache in &self.caches {
            let keep = cache.upstream.keep.unwrap_or(KEEP);
            let now = Instant::now();
            let all =
                registry.all_manifests(|name| self.of(name).is_some_and(|c| Arc::ptr_eq(c, cache)));
            let old: Vec<_> = {
                let mut used = lock(&cache.used);
                used.retain(|key, _| all.contains(key));
                // Those of an earlier process count from now on.
                let old = |key: &(RepositoryName, Digest), used: &mut HashMap<_, Instant>| {
                    now.duration_since(*used.entry(key.clone()).or_insert(now)) > keep
                };
                all.into_iter().filter(|key| old(key, &mut used)).collect()
            };
            for (repository, digest) in old {
                let target = Target::Digest(digest);
                if let Err(error) = registry.delete_manifest(&repository, &target).await {
                    tracing::debug!(%repository, %digest, %error, "an old copy stays");
                }
            }
        }
    }

    /// Looks up how long a blob is in a manifest that needs it. What no manifest needs is not
    /// fetched for anybody.
    async fn wanted_size(
        &self,
        registry: &Registry,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<u64> {
        let unknown = || Error::BlobUnknown {
            repository: repository.clone(),
            digest: *digest,
        };
        let manifest = registry.user_of(repository, digest).ok_or_else(unknown)?;
        let found = registry.manifest(repository, &Target::Digest(manifest))?;
        let bytes = registry.manifest_bytes(repository, &manifest).await?;
        let Document::Manifest(manifest) = Document::parse(&bytes, &found.entry.media_type)? else {
            return Err(unknown());
        };
        std::iter::once(&manifest.config)
            .chain(&manifest.layers)
            .find(|descriptor| descriptor.digest == *digest)
            .map(|descriptor| descriptor.size)
            .ok_or_else(unknown)
    }
}

impl Cache {
    fn new(upstream: Upstream) -> Self {
        let mut settings = Settings::default();
        if upstream.insecure {
            let insecure = Insecure::Host(upstream.registry.clone());
            settings.insecure.push(insecure);
        }
        let config = Config {
            settings: Arc::new(Fixed::from(settings)),
            token_hosts: upstream.token_hosts.clone(),
            attempts: 3,
            ..Config::default()
        };
        Self {
            client: Client::new(config),
            upstream,
            asking: (0..64).map(|_| tokio::sync::Mutex::new(())).collect(),
            fresh: Mutex::default(),
            flights: Mutex::default(),
            used: Mutex::default(),
        }
    }

    /// Returns a repository's name without the prefix.
    fn rest<'n>(&self, repository: &'n RepositoryName) -> Option<&'n str> {
        let name = repository.as_str();
        match self.upstream.prefix.as_str() {
            "" => Some(name),
            prefix => name.strip_prefix(prefix)?.strip_prefix('/'),
        }
    }

    /// Returns where the upstream has a repository.
    fn source(&self, repository: &RepositoryName) -> Result<Source> {
        let rest = self.rest(repository).unwrap_or(repository.as_str());
        let registry = &self.upstream.registry;
        let official = registry == DEFAULT_REGISTRY && !rest.contains('/');
        let name = match official {
            true => format!("library/{rest}"),
            false => rest.to_owned(),
        };
        Ok(Source {
            registry: registry.clone(),
            repository: name,
            credentials: self.upstream.credentials.clone(),
            title: repository.to_string(),
            name: repository.to_string(),
            access: Access::Pull,
            is_mirror: false,
        })
    }

    /// Returns a manifest that is there and fresh enough.
    fn known(
        &self,
        registry: &Registry,
        repository: &RepositoryName,
        target: &Target,
    ) -> Option<FoundManifest> {
        let fresh = match target {
            Target::Digest(_) => true,
            Target::Tag(tag) => {
                let key = (repository.clone(), tag.to_string());
                let until = lock(&self.fresh).get(&key).copied();
                until.is_some_and(|until| until > Instant::now())
            }
        };
        registry.manifest(repository, target).ok().filter(|_| fresh)
    }

    fn refresh(&self, repository: &RepositoryName, target: &Target, life: Duration) {
        if let Target::Tag(tag) = target {
            let now = Instant::now();
            let mut fresh = lock(&self.fresh);
            fresh.retain(|_, until| *until > now);
            fresh.insert((repository.clone(), tag.to_string()), now + life);
        }
    }

    async fn turn(
        &self,
        repository: &RepositoryName,
        target: &Target,
    ) -> tokio::sync::MutexGuard<'_, ()> {
        let key = Digest::of(format!("{repository} {target}").as_bytes());
        let shard = usize::from(key.as_bytes()[0]) % self.asking.len();
        self.asking[shard].lock().await
    }
}

/// Asks the upstream for a manifest. On a thread of its own: the client's future is not known to
/// be fit for changing threads.
async fn ask(
    client: Client,
    source: Source,
    target: Target,
) -> std::result::Result<FetchedManifest, Trouble> {
    let runtime = tokio::runtime::Handle::current();
    let asking = tokio::task::spawn_blocking(move || {
        let wanted = match &target {
            Target::Tag(tag) => Wanted::Tag(tag.as_str()),
            Target::Digest(digest) => Wanted::Digest(digest),
        };
        runtime.block_on(client.manifest(&source, wanted))
    });
    match asking.await {
        Ok(Ok(fetched)) => Ok(fetched),
        Ok(Err(error)) => Err(Trouble {
            gone: matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Forbidden),
            reason: error.to_string(),
        }),
        Err(error) => Err(Trouble {
            gone: false,
            reason: error.to_string(),
        }),
    }
}

/// Why an upstream gave nothing.
struct Trouble {
    /// It does not have it, or not for us.
    gone: bool,
    reason: String,
}

fn upstream(error: &sampan_registry_client::Error) -> Error {
    Error::Upstream(error.to_string())
}

/// Brings a blob from the upstream into the store.
async fn fly(
    cache: &Cache,
    registry: &Registry,
    source: &Source,
    digest: Digest,
    size: u64,
    progress: &watch::Sender<Progress>,
) -> Result<()> {
    let mut copy = registry.begin_copy(size).await?;
    progress.send_modify(|progress| progress.file = copy.reader().map(Arc::new));
    let download = cache.client.download(source, digest, size, 0);
    let filled = tokio::select! {
        filled = fill(&mut *copy.upload, download, progress) => filled,
        () = registry.closed() => Err(Error::Stopping),
    };
    match filled {
        Ok(()) => registry.land_copy(copy, digest).await,
        Err(error) => {
            registry.drop_copy(copy).await;
            Err(error)
        }
    }
}

async fn fill(
    upload: &mut dyn Upload,
    mut download: Download,
    progress: &watch::Sender<Progress>,
) -> Result<()> {
    let mut batch = Vec::new();
    let mut length = 0;
    loop {
        let piece = download.next().await.map_err(|error| upstream(&error))?;
        let end = piece.is_none();
        if let Some(Piece::Bytes(bytes)) = piece {
            length += bytes.len();
            batch.push(bytes);
        }
        if length >= BATCH || end {
            upload.write(std::mem::take(&mut batch)).await?;
            length = 0;
            progress.send_modify(|progress| progress.written = upload.size());
        }
        if end {
            return Ok(());
        }
    }
}

impl Coming {
    /// Returns its length.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Returns the bytes of a part of it, as they come.
    pub(crate) fn pieces(self, range: Range<u64>) -> BoxStream<'static, io::Result<Bytes>> {
        stream::try_unfold((self, range), |(mut this, range)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let piece = this.next(&range).await?;
            let rest = range.start + piece.len() as u64..range.end;
            io::Result::Ok(Some((piece, (this, rest))))
        })
        .boxed()
    }

    async fn next(&mut self, range: &Range<u64>) -> io::Result<Bytes> {
        loop {
            let progress = self.progress.borrow_and_update().clone();
            let landed = matches!(progress.state, State::Landed);
            let there = match progress.state {
                State::Landed => self.size,
                State::Failed(reason) => return Err(io::Error::other(reason)),
                // The last byte only when all is known to be right.
                State::Flying => progress.written.min(self.size.saturating_sub(1)),
            };
            let end = range.end.min(there).min(range.start + BATCH as u64);
            match progress.file {
                Some(file) if range.start < end => return read(file, range.start..end).await,
                None if landed => {
                    return self
                        .registry
                        .read_stored(&self.digest, range.start..end)
                        .await;
                }
                _ => {}
            }
            if self.progress.changed().await.is_err() {
                return Err(io::Error::other("the registry is stopping"));
            }
        }
    }
}

async fn read(file: Arc<File>, range: Range<u64>) -> io::Result<Bytes> {
    let read = move || {
        let length = usize::try_from(range.end - range.start).unwrap_or_default();
        let mut piece = BytesMut::zeroed(length);
        file.read_exact_at(&mut piece, range.start)?;
        Ok(piece.freeze())
    };
    tokio::task::spawn_blocking(read)
        .await
        .map_err(io::Error::other)?
}
