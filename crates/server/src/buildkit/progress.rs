//! What a build tells its client, kept for those who come later.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::Stream;
use prost::Message;
use prost_types::Timestamp;
use sampan_buildkit::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use sampan_dockerfile::Location;
use sampan_engine::building::{BaseNews, Event, Failure};
use sampan_oci::digest::Digest;
use tokio::sync::Notify;
use tonic::Status;

use super::control::to_wire;

/// Bytes of one vertex's log that are told; the rest is not.
const LOG: usize = 2 << 20;
/// Bytes of all messages of a build; after these only what is needed to end is told.
const ALL: usize = 64 << 20;

/// The news of one build. A cheap clone.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<Shared>);

#[derive(Default)]
struct Shared {
    told: Mutex<Told>,
    changed: Notify,
}

#[derive(Default)]
struct Told {
    messages: Vec<Arc<StatusResponse>>,
    bytes: usize,
    ended: bool,
    vertices: BTreeMap<String, Vertex>,
    logged: HashMap<String, usize>,
    /// The vertex of the step that a stage is at.
    current: HashMap<usize, String>,
    /// The vertices of images that stages begin with, by their names.
    bases: HashMap<String, String>,
    /// When their layers began to come.
    parts: HashMap<String, Timestamp>,
    failed: Option<Failed>,
    warnings: usize,
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// Why, in BuildKit's words.
    pub(crate) message: String,
    /// Its vertex.
    pub(crate) vertex: Option<String>,
    /// Where it is in the Dockerfile.
    pub(crate) location: Option<Location>,
}

/// How many steps there were.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) total: usize,
    pub(crate) completed: usize,
    pub(crate) cached: usize,
    pub(crate) warnings: usize,
}

pub(crate) fn now() -> Timestamp {
    to_wire(jiff::Timestamp::now())
}

impl Told {
    fn push(&mut self, message: StatusResponse, needed: bool) {
        let bytes = message.encoded_len();
        if needed || self.bytes + bytes <= ALL {
            self.bytes += bytes;
            self.messages.push(Arc::new(message));
        }
    }

    fn push_vertex(&mut self, vertex: Vertex) {
        let message = StatusResponse {
            vertexes: vec![vertex.clone()],
            ..StatusResponse::default()
        };
        self.vertices.insert(vertex.digest.clone(), vertex);
        self.push(message, true);
    }

    fn finish(&mut self, digest: &str, error: &str) {
        if let Some(vertex) = self.vertices.get(digest)
            && vertex.completed.is_none()
        {
            let mut vertex = vertex.clone();
            vertex.completed = Some(now());
            error.clone_into(&mut vertex.error);
            self.push_vertex(vertex);
        }
    }

    /// Begins something that is no step of the Dockerfile; answers its vertex.
    fn begin(&mut self, name: &str) -> String {
        let digest = identity(&format!("{} {name}", self.vertices.len()));
        self.push_vertex(Vertex {
            digest: digest.clone(),
            name: name.to_owned(),
            started: Some(now()),
            ..Vertex::default()
        });
        digest
    }

    /// Tells of an image that stages begin with.
    fn base(&mut self, name: String, news: BaseNews) {
        match news {
            BaseNews::Wanted => {
                let vertex = self.begin(&format!("[internal] load metadata for {name}"));
                self.bases.insert(name, vertex);
            }
            BaseNews::Layer {
                id,
                doing,
                current,
                total,
            } => {
                let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
                let Some(vertex) = self.bases.get(&name) else {
                    return;
                };
                let now = now();
                let part = format!("{doing} {id}");
                let started = *self.parts.entry(part.clone()).or_insert(now);
                let status = VertexStatus {
                    id: part.clone(),
                    vertex: vertex.clone(),
                    name: part,
                    current: signed(current),
                    total: signed(total),
                    timestamp: Some(now),
                    started: Some(started),
                    completed: (current >= total).then_some(now),
                };
                let message = StatusResponse {
                    statuses: vec![status],
                    ..StatusResponse::default()
                };
                self.push(message, false);
            }
            BaseNews::Found(error) => {
                if let Some(vertex) = self.bases.remove(&name) {
                    self.finish(&vertex, error.as_deref().unwrap_or_default());
                }
            }
        }
    }

    fn log(&mut self, vertex: &str, bytes: Vec<u8>) {
        let logged = self.logged.entry(vertex.to_owned()).or_default();
        if *logged > LOG {
            return;
        }
        *logged += bytes.len();
        let msg = match *logged > LOG {
            true => b"\n[output clipped, log limit 2MiB reached]\n".to_vec(),
            false => bytes,
        };
        let log = VertexLog {
            vertex: vertex.to_owned(),
            timestamp: Some(now()),
            stream: 1,
            msg,
        };
        let message = StatusResponse {
            logs: vec![log],
            ..StatusResponse::default()
        };
        self.push(message, false);
    }
}

impl Progress {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Told) -> T) -> T {
        let result = change(&mut self.told());
        self.0.changed.notify_waiters();
        result
    }

    /// Begins something that is no step of the Dockerfile.
    pub(crate) fn begin(&self, name: &str) -> Doing {
        let digest = self.change(|told| told.begin(name));
        Doing {
            progress: self.clone(),
            digest,
        }
    }

    /// Hears what the builder tells of a stage.
    pub(crate) fn hear(&self, stage: usize, event: Event) {
        self.change(|told| match event {
            Event::Step { place, .. } => {
                told.current.remove(&stage);
                let Some(place) = place else { return };
                let digest = identity(&format!("{stage} {}", place.position));
                let prefix = match place.stage.as_str() {
                    "" => String::new(),
                    name => format!("{name} "),
                };
                let name = format!("[{prefix}{}/{}] {}", place.position, place.of, place.text);
                let before = identity(&format!("{stage} {}", place.position - 1));
                told.push_vertex(Vertex {
                    digest: digest.clone(),
                    inputs: Vec::from_iter(told.vertices.contains_key(&before).then_some(before)),
                    name,
                    started: Some(now()),
                    ..Vertex::default()
                });
                told.current.insert(stage, digest);
            }
            Event::Cached => {
                let vertex = told.current.get(&stage);
                if let Some(vertex) = vertex.and_then(|digest| told.vertices.get(digest)) {
                    let mut vertex = vertex.clone();
                    vertex.cached = true;
                    told.push_vertex(vertex);
                }
            }
            Event::Output(bytes) => {
                if let Some(vertex) = told.current.get(&stage).cloned() {
                    told.log(&vertex, bytes);
                }
            }
            Event::Done { .. } => {
                if let Some(vertex) = told.current.remove(&stage) {
                    told.finish(&vertex, "");
                }
            }
            Event::Failed { failure, location } => {
                let message = describe(&failure);
                let vertex = told.current.remove(&stage);
                if let Some(vertex) = &vertex {
                    told.finish(vertex, &message);
                }
                told.failed.get_or_insert(Failed {
                    message,
                    vertex,
                    location,
                });
            }
            Event::Base(name, news) => told.base(name, news),
            Event::Warning(text) => warn(
                told,
                VertexWarning {
                    level: 1,
                    short: text.into_bytes(),
                    ..VertexWarning::default()
                },
            ),
            Event::Stages(_) | Event::Running | Event::Ended => {}
        });
    }

    /// Tells a warning. One of no vertex is of the newest.
    pub(crate) fn warn(&self, warning: VertexWarning) {
        self.change(|told| warn(told, warning));
    }

    /// The step that the build of the Dockerfile failed at.
    pub(crate) fn failed(&self) -> Option<Failed> {
        self.told().failed.clone()
    }

    /// Says that nothing more comes. What is not done yet was given up.
    pub(crate) fn end(&self) {
        self.change(|told| {
            let open: Vec<String> = told
                .vertices
                .values()
                .filter(|vertex| vertex.completed.is_none())
                .map(|vertex| vertex.digest.clone())
                .collect();
            for vertex in open {
                told.finish(&vertex, "context canceled");
            }
            told.ended = true;
        });
    }

    pub(crate) fn counts(&self) -> Counts {
        let told = self.told();
        let vertices = || told.vertices.values();
        Counts {
            total: vertices().count(),
            completed: vertices().filter(|v| v.completed.is_some()).count(),
            cached: vertices().filter(|v| v.cached).count(),
            warnings: told.warnings,
        }
    }

    /// All messages, each behind its length, at most `limit` bytes of them.
    pub(crate) fn encoded(&self, limit: usize) -> Vec<u8> {
        let mut all = Vec::new();
        for message in &self.told().messages {
            let bytes = message.encode_length_delimited_to_vec();
            if all.len() + bytes.len() > limit {
                break;
            }
            all.extend(bytes);
        }
        all
    }

    /// Everything from the beginning to the end.
    pub(crate) fn follow(
        &self,
    ) -> impl Stream<Item = Result<StatusResponse, Status>> + Send + 'static + use<> {
        let progress = self.clone();
        futures_util::stream::unfold(0, move |next| {
            let progress = progress.clone();
            async move {
                loop {
                    let changed = progress.0.changed.notified();
                    let mut changed = std::pin::pin!(changed);
                    changed.as_mut().enable();
                    {
                        let told = progress.told();
                        if let Some(message) = told.messages.get(next) {
                            return Some((Ok((**message).clone()), next + 1));
                        }
                        if told.ended {
                            return None;
                        }
                    }
                    changed.await;
                }
            }
        })
    }
}

/// Something under way that is no step of the Dockerfile. It was given up if nobody says that it
/// is done.
pub(crate) struct Doing {
    progress: Progress,
    digest: String,
}

impl Doing {
    /// Tells how far a part of it is, in bytes.
    pub(crate) fn at(&self, part: &str, current: u64, done: bool) {
        let now = now();
        let status = VertexStatus {
            id: part.to_owned(),
            vertex: self.digest.clone(),
            name: part.to_owned(),
            current: i64::try_from(current).unwrap_or(i64::MAX),
            timestamp: Some(now),
            started: Some(now),
            completed: done.then_some(now),
            ..VertexStatus::default()
        };
        let message = StatusResponse {
            statuses: vec![status],
            ..StatusResponse::default()
        };
        self.progress.change(|told| told.push(message, false));
    }

    /// Says how it ended.
    pub(crate) fn end<T, E: std::fmt::Display>(&self, result: Result<T, E>) -> Result<T, E> {
        let error = match &result {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        self.progress
            .change(|told| told.finish(&self.digest, &error));
        result
    }
}

fn warn(told: &mut Told, mut warning: VertexWarning) {
    told.warnings += 1;
    if warning.vertex.is_empty()
        && let Some(vertex) = told.vertices.keys().next()
    {
        warning.vertex.clone_from(vertex);
    }
    let message = StatusResponse {
        warnings: vec![warning],
        ..StatusResponse::default()
    };
    told.push(message, false);
}

fn identity(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}

fn describe(failure: &Failure) -> String {
    match failure {
        Failure::Command { command, code } => {
            format!("process {command:?} did not complete successfully: exit code: {code}")
        }
        Failure::Other(message) => message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::StreamExt;
    use sampan_engine::building::Place;

    use super::*;

    fn step(position: usize) -> Event {
        Event::Step {
            number: position,
            total: 2,
            text: String::new(),
            place: Some(Place {
                text: "RUN x".to_owned(),
                stage: "base".to_owned(),
                position,
                of: 2,
            }),
        }
    }

    #[tokio::test]
    async fn who_comes_late_hears_everything_and_the_end() {
        let progress = Progress::default();
        progress.hear(0, step(1));
        progress.hear(0, Event::Cached);
        let done = Event::Done {
            state: String::new(),
            took: Duration::ZERO,
        };
        progress.hear(0, done);
        progress.hear(0, step(2));
        progress.hear(0, Event::Output(b"out".to_vec()));
        progress.hear(
            0,
            Event::Failed {
                failure: Failure::Command {
                    command: "/bin/sh -c x".to_owned(),
                    code: 7,
                },
                location: None,
            },
        );
        progress.begin("given up").at("part", 5, false);
        progress.end();
        let all: Vec<StatusResponse> = progress.follow().map(Result::unwrap).collect().await;
        let last = |name: &str| {
            let vertices = all.iter().flat_map(|message| &message.vertexes);
            vertices.rev().find(|vertex| vertex.name == name).unwrap()
        };
        assert!(last("[base 1/2] RUN x").cached);
        let failed = last("[base 2/2] RUN x");
        assert_eq!(
            failed.error,
            "process \"/bin/sh -c x\" did not complete successfully: exit code: 7"
        );
        assert_eq!(failed.inputs, [last("[base 1/2] RUN x").digest.clone()]);
        assert_eq!(last("given up").error, "context canceled");
        let expected = Failed {
            message: failed.error.clone(),
            vertex: Some(failed.digest.clone()),
            location: None,
        };
        assert_eq!(progress.failed(), Some(expected));
        let counts = progress.counts();
        assert_eq!((counts.total, counts.completed, counts.cached), (3, 3, 1));
    }

    #[tokio::test]
    async fn an_endless_log_is_clipped() {
        let progress = Progress::default();
        progress.hear(0, step(1));
        for _ in 0..40 {
            progress.hear(0, Event::Output(vec![b'x'; 100_000]));
        }
        progress.end();
        let all: Vec<StatusResponse> = progress.follow().map(Result::unwrap).collect().await;
        let logs = all.iter().flat_map(|message| &message.logs);
        let bytes: usize = logs.clone().map(|log| log.msg.len()).sum();
        assert!(bytes <= LOG + 100, "{bytes}");
        let last = &logs.last().unwrap().msg;
        assert!(String::from_utf8_lossy(last).contains("output clipped"));
    }
}
