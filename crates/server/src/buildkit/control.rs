//! The control service: builds as a whole, what they tell, what they leave.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use sampan_buildkit::control as wire;
use sampan_buildkit::control::control_server;
use sampan_buildkit::ops::Platform as WirePlatform;
use sampan_buildkit::worker::{BuildkitVersion, WorkerRecord};
use sampan_engine::CacheFilter;
use sampan_engine::building::{CacheKind, CacheRecord, PrunePolicy};
use sampan_oci::Platform;
use tonic::{Request, Response, Status, Streaming};

use super::BuildKit;
use super::caches::{CacheSource, CacheTarget};
use super::export;
use super::frontend;
use super::history::Note;
use super::jobs::{Opened, Outcome, Terms};
use super::options::Exporter;

/// The version of BuildKit whose interface this is.
const INTERFACE: &str = "v0.25.0";

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(super) struct Control(pub(super) BuildKit);

/// What is told of the only worker there is.
pub(super) async fn worker(kit: &BuildKit) -> Result<WorkerRecord, Status> {
    let info = kit.engine.system().info().await;
    let info = info.map_err(|error| frontend::status(&error))?;
    let gateway = kit.engine.networks().host_gateway().await;
    let host = Platform::host();
    let mut labels = HashMap::from([
        // With it clients know that outputs, pushes and archives are made here.
        (
            "org.mobyproject.buildkit.worker.snapshotter".to_owned(),
            "sampan".to_owned(),
        ),
        (
            "org.mobyproject.buildkit.worker.executor".to_owned(),
            "oci".to_owned(),
        ),
        (
            "org.mobyproject.buildkit.worker.hostname".to_owned(),
            info.host_name,
        ),
    ]);
    if let Ok(gateway) = gateway {
        let name = "org.mobyproject.buildkit.worker.moby.host-gateway-ip";
        labels.insert(name.to_owned(), gateway.to_string());
    }
    Ok(WorkerRecord {
        id: info.id,
        labels,
        platforms: vec![WirePlatform {
            architecture: host.architecture,
            os: host.os,
            variant: host.variant,
            ..WirePlatform::default()
        }],
        buildkit_version: Some(version()),
        ..WorkerRecord::default()
    })
}

fn version() -> BuildkitVersion {
    BuildkitVersion {
        package: "github.com/moby/buildkit".to_owned(),
        version: INTERFACE.to_owned(),
        revision: concat!("sampan-", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

fn missing(what: &str) -> Status {
    Status::unimplemented(format!("{what} is not supported by this engine"))
}

impl Control {
    /// Builds to the end; answers what is told of the outputs.
    async fn build(
        &self,
        opened: &mut Opened,
        request: &wire::SolveRequest,
        Wanted {
            exporters, caches, ..
        }: &Wanted,
    ) -> Result<HashMap<String, String>, Status> {
        let job = opened.job.clone();
        let outcome = match request.frontend.as_str() {
            // The client drives the build and says what came of it.
            "" => tokio::select! {
                returned = &mut opened.returned => returned
                    .unwrap_or_else(|_| Err(Status::cancelled("nobody drives the build")))?,
                () = job.cancel.cancelled() => return Err(Status::cancelled("context canceled")),
            },
            frontend::NAME => frontend::solve(&self.0, &job, &request.frontend_attrs).await?,
            other => return Err(missing(&format!("the frontend {other}"))),
        };
        let Outcome { built, metadata } = outcome;
        let mut response: HashMap<String, String> = metadata
            .into_iter()
            .filter(|(name, _)| !name.starts_with("containerimage."))
            .filter_map(|(name, value)| Some((name, String::from_utf8(value).ok()?)))
            .collect();
        if let Some(mut built) = built {
            let asks = |name| {
                job.options()
                    .get(name)
                    .is_some_and(|value| value == "1" || value == "true")
            };
            if caches.contains(&CacheTarget::Inline) || asks("build-arg:BUILDKIT_INLINE_CACHE") {
                let inline = built.with_inline_cache();
                let inline = inline.map_err(|error| Status::internal(error.to_string()))?;
                built = Arc::new(inline);
            }
            for (index, exporter) in exporters.iter().enumerate() {
                let told = export::export(&self.0, &job, index, exporter, &built).await?;
                response.extend(told);
            }
            for target in caches {
                if let CacheTarget::Alone { ignore_error, .. } = target {
                    match export::cache(&self.0, &job, &built, target).await {
                        Ok(told) => response.extend(told),
                        Err(_) if *ignore_error => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(response)
    }
}

/// Reads filters as containerd has them: words and `NAME==VALUE`, joined by commas.
fn read_filter(filters: &[String]) -> Result<CacheFilter, Status> {
    let mut read: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let parts = filters.iter().flat_map(|filter| filter.split(','));
    for part in parts.map(str::trim).filter(|part| !part.is_empty()) {
        let (name, value) = match part.split_once("==").or_else(|| part.split_once('=')) {
            Some((name, _)) if name.ends_with(['!', '~']) => {
                return Err(missing(&format!("the filter {part}")));
            }
            Some((name, value)) => (name, value.trim_matches('"')),
            None => (part, ""),
        };
        let name = name.to_owned();
        read.entry(name).or_default().push(value.to_owned());
    }
    CacheFilter::parse(&read).map_err(|error| frontend::status(&error))
}

/// The time so many nanoseconds ago.
fn since(nanoseconds: i64) -> Option<jiff::Timestamp> {
    let age = jiff::SignedDuration::from_nanos(nanoseconds);
    let now = jiff::Timestamp::now();
    (nanoseconds > 0).then(|| now.checked_sub(age).unwrap_or(jiff::Timestamp::MIN))
}

fn show_record(record: CacheRecord) -> wire::UsageRecord {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    wire::UsageRecord {
        in_use: record.in_use,
        size: signed(record.size),
        created_at: Some(to_wire(record.created)),
        last_used_at: record.last_used.map(to_wire),
        usage_count: signed(record.uses),
        description: record.description,
        record_type: record.kind.as_str().to_owned(),
        shared: record.shared,
        parents: record.parent.into_iter().collect(),
        mutable: record.kind != CacheKind::Regular,
        id: record.id,
        ..wire::UsageRecord::default()
    }
}

/// What a request wants beside the image.
struct Wanted {
    exporters: Vec<Exporter>,
    /// Where caches for other builders are made.
    caches: Vec<CacheTarget>,
    /// Where caches of other builders are.
    sources: Vec<CacheSource>,
    rewrites_times: bool,
}

/// What cannot be done is refused before anything is.
fn check(request: &wire::SolveRequest) -> Result<Wanted, Status> {
    let definition = request.definition.as_ref();
    if definition.is_some_and(|given| !given.def.is_empty()) || !request.frontend_inputs.is_empty()
    {
        return Err(missing("building from a low-level definition (LLB)"));
    }
    let cache = request.cache.clone().unwrap_or_default();
    let caches = cache.exports.iter();
    let caches = caches.map(|export| CacheTarget::read(&export.r#type, &export.attrs));
    let sources = cache.imports.iter();
    let sources = sources.map(|import| CacheSource::read(&import.r#type, &import.attrs));
    if !cache.export_ref_deprecated.is_empty() || !cache.import_refs_deprecated.is_empty() {
        return Err(missing("exporting or importing a cache"));
    }
    let first = (!request.exporter_deprecated.is_empty()).then(|| wire::Exporter {
        r#type: request.exporter_deprecated.clone(),
        attrs: request.exporter_attrs_deprecated.clone(),
    });
    let exporters = match request.exporters.as_slice() {
        [] => first.into_iter().collect(),
        exporters => exporters.to_vec(),
    };
    let rewrites_times = exporters
        .iter()
        .any(|exporter| Exporter::rewrites_times(&exporter.attrs));
    let exporters = exporters
        .iter()
        .map(|exporter| Exporter::read(&exporter.r#type, &exporter.attrs));
    Ok(Wanted {
        rewrites_times,
        exporters: exporters.collect::<Result<_, _>>()?,
        caches: caches.collect::<Result<_, _>>()?,
        sources: sources.collect::<Result<_, _>>()?,
    })
}

#[tonic::async_trait]
impl control_server::Control for Control {
    type PruneStream = Messages<wire::UsageRecord>;
    type StatusStream = Messages<wire::StatusResponse>;
    type SessionStream = Messages<wire::BytesMessage>;
    type ListenBuildHistoryStream = Messages<wire::BuildHistoryEvent>;

    async fn solve(
        &self,
        request: Request<wire::SolveRequest>,
    ) -> Result<Response<wire::SolveResponse>, Status> {
        let request = request.into_inner();
        let wanted = check(&request).inspect_err(|_| self.0.jobs.refuse(&request.r#ref))?;
        let (name, session) = (&request.r#ref, &request.session);
        let terms = Terms {
            entitlements: request.entitlements.clone(),
            cache_from: wanted.sources.clone(),
            rewrites_times: wanted.rewrites_times,
        };
        let mut opened = self.0.jobs.open(name, session, terms)?;
        // Noted also when this future is dropped, because the client has given up.
        let mut note = Note::begin(&self.0, &opened.job, &request);
        let _slot = self.0.slots.acquire().await;
        let result = self.build(&mut opened, &request, &wanted).await;
        opened.job.progress.end();
        note.end(&result);
        let exporter_response = result?;
        Ok(Response::new(wire::SolveResponse { exporter_response }))
    }

    async fn status(
        &self,
        request: Request<wire::StatusRequest>,
    ) -> Result<Response<Self::StatusStream>, Status> {
        let name = request.into_inner().r#ref;
        if self.0.jobs.get(&name).is_none()
            && let Some(told) = self.0.told(&name).await?
        {
            return Ok(Response::new(Box::pin(stream::iter(told).map(Ok))));
        }
        let progress = self.0.jobs.progress(&name).await?;
        Ok(Response::new(Box::pin(progress.follow())))
    }

    async fn list_workers(
        &self,
        _: Request<wire::ListWorkersRequest>,
    ) -> Result<Response<wire::ListWorkersResponse>, Status> {
        let record = vec![worker(&self.0).await?];
        Ok(Response::new(wire::ListWorkersResponse { record }))
    }

    async fn info(
        &self,
        _: Request<wire::InfoRequest>,
    ) -> Result<Response<wire::InfoResponse>, Status> {
        Ok(Response::new(wire::InfoResponse {
            buildkit_version: Some(version()),
        }))
    }

    async fn disk_usage(
        &self,
        request: Request<wire::DiskUsageRequest>,
    ) -> Result<Response<wire::DiskUsageResponse>, Status> {
        let request = request.into_inner();
        let mut filter = read_filter(&request.filter)?;
        filter.until = since(request.age_limit).or(filter.until);
        let records = self.0.engine.builds().cache().await;
        let records = records.map_err(|error| frontend::status(&error))?;
        let record = records
            .into_iter()
            .filter(|record| filter.fits(record))
            .map(show_record);
        Ok(Response::new(wire::DiskUsageResponse {
            record: record.collect(),
        }))
    }

    async fn prune(
        &self,
        request: Request<wire::PruneRequest>,
    ) -> Result<Response<Self::PruneStream>, Status> {
        let request = request.into_inner();
        let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
        let policy = PrunePolicy {
            all: request.all,
            unused_since: since(request.keep_duration),
            reserved: bytes(request.reserved_space),
            max_used: bytes(request.max_used_space),
            min_free: bytes(request.min_free_space),
        };
        let filter = read_filter(&request.filter)?;
        let pruned = self.0.engine.builds().prune(policy, filter).await;
        let pruned = pruned.map_err(|error| frontend::status(&error))?;
        let records = pruned.records.into_iter().map(show_record).map(Ok);
        Ok(Response::new(Box::pin(stream::iter(records))))
    }

    async fn session(
        &self,
        _: Request<Streaming<wire::BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Err(missing(
            "a session within a call; POST /session opens one, which",
        ))
    }

    async fn listen_build_history(
        &self,
        request: Request<wire::BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        let events = self.0.history(request.into_inner()).await?;
        let mut response: Response<Self::ListenBuildHistoryStream> = Response::new(events);
        let now = jiff::Timestamp::now().to_string();
        if let Ok(now) = now.parse() {
            let name = "buildkit-current-timestamp";
            response.metadata_mut().insert(name, now);
        }
        Ok(response)
    }

    async fn update_build_history(
        &self,
        request: Request<wire::UpdateBuildHistoryRequest>,
    ) -> Result<Response<wire::UpdateBuildHistoryResponse>, Status> {
        self.0.update_history(request.into_inner()).await?;
        Ok(Response::new(wire::UpdateBuildHistoryResponse {}))
    }
}

/// A time of a record.
pub(super) fn moment(text: &str) -> Option<prost_types::Timestamp> {
    Some(to_wire(text.parse().ok()?))
}

pub(super) fn to_wire(time: jiff::Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    }
}
