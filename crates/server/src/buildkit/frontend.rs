//! The frontend for Dockerfiles: from a client's options and files to an image.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use bytes::Bytes;
use sampan_buildkit::session::upload::BytesMessage;
use sampan_engine::building::{self, CancellationToken, NamedContext, Secrets, Written};
use sampan_engine::{BuildRequest, BuildService, Layout, Logins, Sent};
use sampan_images::ImageStore;
use sampan_text::with_causes;
use tokio::runtime::Handle;
use tonic::{Status, Streaming};

use super::BuildKit;
use super::caches::CacheSource;
use super::details::Source;
use super::jobs::{Job, Outcome};
use super::options::{Asked, Context};
use super::progress::{Doing, Progress};
use super::receive::{Small, Synced, receive};
use super::session::{Session, Wish};
use super::stores::ClientStore;
use super::subrequest;
use super::wanted::{Wanted, wanted};

/// The frontend's name.
pub(super) const NAME: &str = "dockerfile.v0";
/// Where the client is told which image has what a failed step left.
const FAILED: &str = "sampan-failed-image";
const IGNORE: &str = ".dockerignore";
/// Bytes of content between two reports of a transfer.
const REPORT: u64 = 1 << 20;

/// Does what the options ask for, for a build.
pub(super) async fn solve(
    kit: &BuildKit,
    job: &Arc<Job>,
    options: &HashMap<String, String>,
) -> Result<Outcome, Status> {
    // Given up with this future, and with the build.
    let cancel = job.cancel.child_token();
    let _guard = cancel.clone().drop_guard();
    job.ask(options);
    let asked = Asked::read(options)?;
    let session = kit.sessions.find(&job.session).await?;
    let client = Client {
        session: Arc::clone(&session),
        runtime: Handle::current(),
        cancel: cancel.clone(),
        progress: job.progress.clone(),
        builds: kit.engine.builds(),
        store: kit.engine.images().store().clone(),
    };
    let entitlements = job.terms.entitlements.clone();
    let entitlements = entitlements.iter().map(|name| name.parse());
    let entitlements = entitlements.collect::<Result<_, String>>();
    let entitlements = entitlements.map_err(Status::invalid_argument)?;
    let (asked, files) = blocking(move || {
        let files = client.files(&asked)?;
        Ok((asked, files))
    })
    .await?;
    if let Some(request) = &asked.request {
        let text = files.written.unwrap_or_default();
        let metadata = subrequest::answer(request, &asked, &text)?;
        return Ok(Outcome {
            built: None,
            metadata,
        });
    }
    let logins = logins(&session);
    let cache_from = job.terms.cache_from.iter().map(|source| {
        Ok(match source {
            CacheSource::Registry(reference) => {
                sampan_engine::CacheSource::Registry(reference.clone())
            }
            CacheSource::Directory(directory, digest) => sampan_engine::CacheSource::Store {
                name: directory.clone(),
                digest: *digest,
                store: ClientStore::of_directory(&session, directory, &cancel)?,
            },
        })
    });
    let cache_from = cache_from.collect::<Result<_, Status>>()?;
    let layouts = asked.layouts.iter().map(|(name, (store, digest))| {
        let layout = Layout {
            digest: *digest,
            store: ClientStore::of_image(&session, store, &cancel)?,
        };
        Ok((name.clone(), layout))
    });
    let layouts = layouts.collect::<Result<_, Status>>()?;
    let mut settings = asked.settings;
    settings.entitlements = entitlements;
    let dated = settings.options.build_args.get(building::SOURCE_DATE_EPOCH);
    let is_dated = dated.is_some_and(|epoch| !epoch.is_empty());
    settings.reproducible |= job.terms.rewrites_times && is_dated;
    settings.contexts.extend(files.named);
    let request = BuildRequest {
        settings,
        pull: asked.pull,
        logins,
        written: files.written,
        secrets: Arc::new(Lent {
            session: Arc::clone(&session),
            runtime: Handle::current(),
        }),
        remote: match asked.context {
            Context::Remote(address) => Some(address),
            Context::Directory(_) | Context::Upload(_) => None,
        },
        cache_from,
        remote_contexts: asked.addresses,
        layouts,
    };
    let failed = request.settings.failed.clone();
    let source = Source {
        name: asked.filename,
        text: request.written.as_ref().map(|written| written.text.clone()),
    };
    let progress = job.progress.clone();
    let sink = move |stage, event| progress.hear(stage, event);
    let builds = kit.engine.builds();
    let solving = builds.solve(files.sent, request, sink, cancel.clone());
    let built = tokio::select! {
        built = solving => built,
        () = session.gone() => {
            cancel.cancel();
            return Err(Status::cancelled("the client has left"));
        }
    };
    let built = match built {
        Ok(built) => built,
        Err(error) => {
            let mut told = match job.progress.failed() {
                // The builder cancels what else runs when a step fails.
                Some(failed) if !job.cancel.is_cancelled() => source.explain(failed),
                _ => status(&error),
            };
            if let Some(left) = failed.and_then(|failed| failed.take()) {
                let kept = blocking(move || builds.keep(&left).map_err(|error| status(&error)));
                if let Ok(name) = kept.await?.id.to_string().parse() {
                    told.metadata_mut().insert(FAILED, name);
                }
            }
            return Err(told);
        }
    };
    let config = built.image.config.clone();
    Ok(Outcome {
        built: Some(Arc::new(built)),
        metadata: [("containerimage.config".to_owned(), config)].into(),
    })
}

/// Asks the client who asks which registry.
pub(super) fn logins(session: &Arc<Session>) -> Logins {
    let (session, runtime) = (Arc::clone(session), Handle::current());
    Logins::new(move |registry| runtime.block_on(session.credentials(registry)))
}

/// The one place where the engine's kinds of errors become codes.
pub(super) fn status(error: &sampan_engine::Error) -> Status {
    use sampan_engine::ErrorKind as Kind;
    let message = error.message();
    match error.kind() {
        Kind::NotFound => Status::not_found(message),
        Kind::Invalid => Status::invalid_argument(message),
        Kind::Conflict | Kind::NotModified => Status::failed_precondition(message),
        Kind::Forbidden => Status::permission_denied(message),
        Kind::Unavailable => Status::unavailable(message),
        Kind::NotImplemented => Status::unimplemented(message),
        Kind::Internal => Status::internal(message),
    }
}

/// Does what blocks on a thread that may.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Status::internal("the operation broke off")),
    }
}

/// What a client sent to build from.
struct Files {
    sent: Sent,
    named: BTreeMap<String, NamedContext>,
    written: Option<Written>,
}

/// What a client lends to the commands of its build.
struct Lent {
    session: Arc<Session>,
    runtime: Handle,
}

fn lent<T>(what: Result<T, Status>) -> Result<T, building::Error> {
    what.map_err(|error| building::Error::Step(error.message().to_owned()))
}

impl Secrets for Lent {
    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, building::Error> {
        lent(self.runtime.block_on(self.session.secret(id)))
    }

    fn agent(&self, id: &str) -> Result<Option<UnixStream>, building::Error> {
        lent(self.runtime.block_on(self.session.agent(id)))
    }
}

/// A client, for code that blocks.
struct Client {
    session: Arc<Session>,
    runtime: Handle,
    cancel: CancellationToken,
    progress: Progress,
    builds: BuildService,
    store: ImageStore,
}

impl Client {
    fn files(&self, asked: &Asked) -> Result<Files, Status> {
        let written = match &asked.dockerfile {
            Some(directory) => Some(self.dockerfile(directory, asked)?),
            None => None,
        };
        if asked.request.is_some() {
            if written.is_none() {
                return Err(Status::unimplemented(
                    "a Dockerfile in an uploaded archive, or at an address, can only be built: \
                     give its directory to have it looked at",
                ));
            }
            return Ok(Files {
                sent: Sent::Archive(Box::new(io::empty())),
                named: BTreeMap::new(),
                written,
            });
        }
        let ignore = written.as_ref().and_then(|written| written.ignore.as_ref());
        let excluded = match ignore {
            Some(ignore) => patterns(ignore)?,
            None => Vec::new(),
        };
        let sent = match &asked.context {
            Context::Directory(name) => match self.wanted(asked, written.as_ref()) {
                // Nothing of it.
                Wanted::Paths(paths) if paths.is_empty() => {
                    Sent::Files(building::Context::of_layers(Vec::new()))
                }
                wanted => {
                    let doing = self.progress.begin("[internal] load build context");
                    Sent::Files(self.directory(name, wanted, excluded, doing)?)
                }
            },
            Context::Upload(path) => Sent::Archive(self.upload(path)?),
            Context::Remote(_) => Sent::Archive(Box::new(io::empty())),
        };
        let mut named = BTreeMap::new();
        for (name, directory) in &asked.directories {
            let doing = self
                .progress
                .begin(&format!("[context {name}] load from client"));
            let excluded = match self.small(directory, &[IGNORE])?.get(IGNORE) {
                Some(ignore) => patterns(ignore)?,
                None => Vec::new(),
            };
            let files = self.directory(directory, Wanted::Everything, excluded, doing)?;
            named.insert(name.clone(), NamedContext::Files(files));
        }
        Ok(Files {
            sent,
            named,
            written,
        })
    }

    /// The Dockerfile, and what it has ignored.
    fn dockerfile(&self, directory: &str, asked: &Asked) -> Result<Written, Status> {
        let name = asked.filename.as_str();
        let doing = self
            .progress
            .begin(&format!("[internal] load build definition from {name}"));
        let beside = format!("{name}.dockerignore");
        let lower = name.to_lowercase();
        let read = || {
            let files = self.small(directory, &[name, &lower, &beside])?;
            let text = files
                .get(name)
                .or_else(|| files.get(&lower))
                .ok_or_else(|| {
                    Status::unknown(format!(
                        "failed to read dockerfile: open {name}: no such file or directory"
                    ))
                })?;
            doing.at(
                &format!("transferring dockerfile: {}", shown(text.len() as u64)),
                text.len() as u64,
                true,
            );
            Ok::<_, Status>((text.to_vec(), files.get(&beside).map(<[u8]>::to_vec)))
        };
        let read = read();
        let (text, ignore) = doing.end(read)?;
        let ignore = match (ignore, &asked.context) {
            (Some(ignore), _) => Some(ignore),
            (None, Context::Directory(context)) => self.ignored(context)?,
            (None, Context::Upload(_) | Context::Remote(_)) => None,
        };
        Ok(Written { text, ignore })
    }

    fn ignored(&self, context: &str) -> Result<Option<Vec<u8>>, Status> {
        let doing = self.progress.begin("[internal] load .dockerignore");
        let read = self.small(context, &[IGNORE]);
        let files = doing.end(read)?;
        Ok(files.get(IGNORE).map(<[u8]>::to_vec))
    }

    /// A few files of a directory, and what they link to.
    fn small(&self, directory: &str, paths: &[&str]) -> Result<Small, Status> {
        let wish = Wish {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            excluded: Vec::new(),
        };
        let transfer = self
            .runtime
            .block_on(self.session.files(directory, &wish))?;
        let mut small = Small::default();
        receive(transfer, &self.runtime, &self.cancel, &mut small, &|_| ())
            .map_err(|error| failed(directory, &error))?;
        Ok(small)
    }

    /// What of the context the Dockerfile can want.
    fn wanted(&self, asked: &Asked, written: Option<&Written>) -> Wanted {
        let Some(written) = written.filter(|_| !asked.pull) else {
            return Wanted::Everything;
        };
        let mut options = asked.settings.options.clone();
        let contexts = asked.settings.contexts.keys();
        options.contexts.extend(contexts.cloned());
        options.contexts.extend(asked.directories.keys().cloned());
        options.contexts.extend(asked.addresses.keys().cloned());
        let is_plain = |name: &str| {
            let image = self.store.find(name);
            image.is_ok_and(|image| image.config.config.on_build.is_empty())
        };
        wanted(&written.text, &options, &is_plain)
    }

    /// The files of a directory. What has not changed since the last build is not sent again.
    fn directory(
        &self,
        name: &str,
        wanted: Wanted,
        excluded: Vec<String>,
        doing: Doing,
    ) -> Result<building::Context, Status> {
        let wish = Wish {
            paths: match wanted {
                Wanted::Everything => Vec::new(),
                Wanted::Paths(paths) => paths.into_iter().collect(),
            },
            excluded,
        };
        let reported = std::cell::Cell::new(0);
        let report = |bytes: u64| {
            if bytes >= reported.get() + REPORT {
                reported.set(bytes);
                doing.at("transferring context", bytes, false);
            }
        };
        let take = || {
            let transfer = self.runtime.block_on(self.session.files(name, &wish))?;
            // Other parts of the same directory are another context.
            let parts = wish.paths.join("\n");
            let key = format!("{}\n{name}\n{parts}", self.session.shared_key);
            let sync = self.builds.contexts().begin(&key);
            let mut synced = Synced::new(sync.map_err(|e| Status::internal(with_causes(&e)))?);
            let received = receive(transfer, &self.runtime, &self.cancel, &mut synced, &report)
                .and_then(|bytes| Ok((bytes, synced.finish()?)));
            let (bytes, files) = received.map_err(|error| failed(name, &error))?;
            let done = format!("transferring context: {}", shown(bytes));
            doing.at(&done, bytes, true);
            Ok(files)
        };
        let taken = take();
        doing.end(taken)
    }

    fn upload(&self, path: &str) -> Result<Box<dyn Read + Send>, Status> {
        let messages = self.runtime.block_on(self.session.upload(path))?;
        Ok(Box::new(Upload {
            messages,
            runtime: self.runtime.clone(),
            cancel: self.cancel.clone(),
            piece: Bytes::new(),
        }))
    }
}

/// The patterns of a `.dockerignore`.
fn patterns(ignore: &[u8]) -> Result<Vec<String>, Status> {
    let ignore = sampan_dockerfile::Ignore::parse(ignore);
    let ignore = ignore.map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(ignore.patterns().collect())
}

fn failed(directory: &str, error: &io::Error) -> Status {
    Status::unknown(format!("failed to take the files of {directory}: {error}"))
}

/// Bytes as BuildKit shows them.
fn shown(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut amount = bytes as f64;
    let mut unit = 0;
    while amount >= 1000.0 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes}B"),
        _ => format!("{amount:.2}{}", UNITS[unit]),
    }
}

/// What a client uploads.
struct Upload {
    messages: Streaming<BytesMessage>,
    runtime: Handle,
    cancel: CancellationToken,
    piece: Bytes,
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let message = self.runtime.block_on(async {
                tokio::select! {
                    message = self.messages.message() => message.map_err(io::Error::other),
                    () = self.cancel.cancelled() => Err(io::Error::other("context canceled")),
                }
            })?;
            match message {
                Some(message) => self.piece = message.data.into(),
                None => return Ok(0),
            }
        }
        let length = self.piece.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_shown_in_powers_of_a_thousand() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1234, "1.23kB"),
            (5_000_000, "5.00MB"),
        ] {
            assert_eq!(shown(bytes), text);
        }
    }
}
