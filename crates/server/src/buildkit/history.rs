//! The history of builds.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use sampan_buildkit::control as wire;
use sampan_buildkit::rpc;
use sampan_engine::building::{BuildRecord, Pinned};
use tokio::sync::broadcast;
use tonic::Status;

use super::BuildKit;
use super::control::moment;
use super::frontend::blocking;
use super::jobs::Job;

/// Bytes kept of what a build told.
const PROGRESS: usize = 4 << 20;

/// News of builds that began, ended or were forgotten, for those who listen.
#[derive(Clone)]
pub(super) struct News(broadcast::Sender<wire::BuildHistoryEvent>);

impl Default for News {
    fn default() -> Self {
        Self(broadcast::channel(256).0)
    }
}

impl News {
    fn tell(&self, kind: wire::BuildHistoryEventType, record: wire::BuildHistoryRecord) {
        // Nobody may listen.
        let _ = self.0.send(wire::BuildHistoryEvent {
            r#type: kind.into(),
            record: Some(record),
        });
    }
}

/// Notes a build when it is dropped.
pub(super) struct Note {
    kit: BuildKit,
    job: Arc<Job>,
    record: BuildRecord,
    /// Clients mark what nobody wants to look up.
    internal: bool,
}

impl Note {
    pub(super) fn begin(kit: &BuildKit, job: &Arc<Job>, request: &wire::SolveRequest) -> Self {
        let outputs = request.exporters.iter().map(|exporter| {
            let attributes = exporter.attrs.clone().into_iter().collect();
            (exporter.r#type.clone(), attributes)
        });
        let record = BuildRecord {
            name: job.name.clone(),
            frontend: request.frontend.clone(),
            options: request.frontend_attrs.clone().into_iter().collect(),
            outputs: outputs.collect(),
            created: jiff::Timestamp::now().to_string(),
            error: Some((tonic::Code::Cancelled.into(), "context canceled".to_owned())),
            ..BuildRecord::default()
        };
        // One without a session only asks what this engine can do.
        let internal = request.internal;
        let note = Self {
            kit: kit.clone(),
            job: Arc::clone(job),
            record,
            internal,
        };
        if !internal {
            let shown = show(&note.record);
            kit.news.tell(wire::BuildHistoryEventType::Started, shown);
        }
        note
    }

    /// Says how it ended.
    pub(super) fn end(&mut self, result: &Result<HashMap<String, String>, Status>) {
        match result {
            Ok(told) => {
                self.record.error = None;
                self.record.told = told.clone().into_iter().collect();
            }
            Err(error) => {
                self.record.error = Some((error.code().into(), error.message().to_owned()));
            }
        }
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        let counts = self.job.progress.counts();
        // A client that asks what can be done begins a build of nothing.
        if self.internal || counts.total == 0 {
            return;
        }
        let mut record = std::mem::take(&mut self.record);
        if record.options.is_empty() {
            let options = self.job.options();
            record.options = options.into_iter().collect();
        }
        record.completed = jiff::Timestamp::now().to_string();
        record.total = counts.total;
        record.done = counts.completed;
        record.cached = counts.cached;
        record.warnings = counts.warnings;
        let (kit, progress) = (self.kit.clone(), self.job.progress.encoded(PROGRESS));
        tokio::task::spawn_blocking(move || {
            let noted = kit.engine.builds().history().note(&record, &progress);
            if let Err(error) = noted {
                tracing::warn!(%error, "a build could not be noted");
            }
            kit.news
                .tell(wire::BuildHistoryEventType::Complete, show(&record));
        });
    }
}

fn show(record: &BuildRecord) -> wire::BuildHistoryRecord {
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let outputs = record
        .outputs
        .iter()
        .map(|(kind, attributes)| wire::Exporter {
            r#type: kind.clone(),
            attrs: attributes.clone().into_iter().collect(),
        });
    wire::BuildHistoryRecord {
        r#ref: record.name.clone(),
        frontend: record.frontend.clone(),
        frontend_attrs: record.options.clone().into_iter().collect(),
        exporters: outputs.collect(),
        error: match record.completed.as_str() {
            "" => None,
            _ => record.error.as_ref().map(|(code, message)| rpc::Status {
                code: *code,
                message: message.clone(),
                ..rpc::Status::default()
            }),
        },
        created_at: moment(&record.created),
        completed_at: moment(&record.completed),
        exporter_response: record.told.clone().into_iter().collect(),
        pinned: record.pinned,
        num_cached_steps: count(record.cached),
        num_total_steps: count(record.total),
        num_completed_steps: count(record.done),
        num_warnings: count(record.warnings),
        ..wire::BuildHistoryRecord::default()
    }
}

type Events = Pin<Box<dyn Stream<Item = Result<wire::BuildHistoryEvent, Status>> + Send>>;

impl BuildKit {
    /// What a build that has ended told.
    pub(super) async fn told(
        &self,
        name: &str,
    ) -> Result<Option<Vec<wire::StatusResponse>>, Status> {
        let (history, name) = (self.engine.builds().history().clone(), name.to_owned());
        blocking(move || {
            if history.get(&name).is_none() {
                return Ok(None);
            }
            let bytes = history.progress(&name);
            let bytes = bytes.map_err(|error| Status::internal(error.to_string()))?;
            let mut rest = bytes.as_slice();
            let mut told = Vec::new();
            while !rest.is_empty() {
                match wire::StatusResponse::decode_length_delimited(&mut rest) {
                    Ok(message) => told.push(message),
                    // What was cut off at its end by a power cut.
                    Err(_) => break,
                }
            }
            Ok(Some(told))
        })
        .await
    }

    /// Builds that run or have ended, and those to come unless the client wants none of them.
    pub(super) async fn history(
        &self,
        request: wire::BuildHistoryRequest,
    ) -> Result<Events, Status> {
        // Before the list, so that nothing between is missed.
        let news = self.news.0.subscribe();
        let wanted = request.r#ref.clone();
        let fits = move |name: &str| wanted.is_empty() || wanted == name;
        let started = self.jobs.names().into_iter().filter(|name| fits(name));
        let mut events: Vec<wire::BuildHistoryEvent> = started
            .filter_map(|name| self.jobs.get(&name))
            .filter(|job| job.progress.counts().total > 0)
            .map(|job| event(wire::BuildHistoryEventType::Started, running(&job)))
            .collect();
        if !request.active_only {
            let ended = self.engine.builds().history().list();
            let ended = ended.iter().filter(|record| fits(&record.name));
            let limit = match usize::try_from(request.limit) {
                Ok(limit) if limit > 0 => limit,
                _ => usize::MAX,
            };
            let ended = ended
                .take(limit)
                .map(|record| event(wire::BuildHistoryEventType::Complete, show(record)));
            events.extend(ended);
        }
        let now = stream::iter(events).map(Ok);
        if request.early_exit {
            return Ok(Box::pin(now));
        }
        let wanted = request.r#ref;
        let coming = stream::unfold(news, async |mut news| {
            loop {
                match news.recv().await {
                    Ok(event) => return Some((event, news)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        let coming = coming.filter(move |event| {
            let name = event.record.as_ref().map(|record| record.r#ref.as_str());
            std::future::ready(wanted.is_empty() || name == Some(wanted.as_str()))
        });
        Ok(Box::pin(now.chain(coming.map(Ok))))
    }

    /// Pins or forgets a build.
    pub(super) async fn update_history(
        &self,
        request: wire::UpdateBuildHistoryRequest,
    ) -> Result<(), Status> {
        let history = self.engine.builds().history().clone();
        let news = self.news.clone();
        let name = request.r#ref.clone();
        let found = blocking(move || {
            let done = match (request.delete, request.finalize) {
                (true, _) => history.remove(&request.r#ref),
                // There is nothing that waits to be written.
                (false, true) => Ok(true),
                (false, false) => history.pin(
                    &request.r#ref,
                    match request.pinned {
                        true => Pinned::Yes,
                        false => Pinned::No,
                    },
                ),
            };
            if request.delete {
                let record = wire::BuildHistoryRecord {
                    r#ref: request.r#ref,
                    ..wire::BuildHistoryRecord::default()
                };
                news.tell(wire::BuildHistoryEventType::Deleted, record);
            }
            done.map_err(|error| Status::internal(error.to_string()))
        });
        match found.await? {
            true => Ok(()),
            false => Err(Status::not_found(format!("no such build {name}"))),
        }
    }
}

fn event(
    kind: wire::BuildHistoryEventType,
    record: wire::BuildHistoryRecord,
) -> wire::BuildHistoryEvent {
    wire::BuildHistoryEvent {
        r#type: kind.into(),
        record: Some(record),
    }
}

fn running(job: &Job) -> wire::BuildHistoryRecord {
    let counts = job.progress.counts();
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    wire::BuildHistoryRecord {
        r#ref: job.name.clone(),
        frontend_attrs: job.options(),
        created_at: moment(&job.created),
        num_cached_steps: count(counts.cached),
        num_total_steps: count(counts.total),
        num_completed_steps: count(counts.completed),
        num_warnings: count(counts.warnings),
        ..wire::BuildHistoryRecord::default()
    }
}
