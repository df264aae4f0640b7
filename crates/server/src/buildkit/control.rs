//! The control service: builds as a whole, what they tell, what they leave.

use std::collections::HashMap;
use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use sampan_buildkit::control as wire;
use sampan_buildkit::control::control_server;
use sampan_buildkit::ops::Platform as WirePlatform;
use sampan_buildkit::worker::{BuildkitVersion, WorkerRecord};
use sampan_engine::PruneFilter;
use sampan_oci::Platform;
use tonic::{Request, Response, Status, Streaming};

use super::BuildKit;
use super::export;
use super::frontend;
use super::history::Note;
use super::jobs::{Opened, Outcome};
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
        exporters: &[Exporter],
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
        if let Some(built) = built {
            for (index, exporter) in exporters.iter().enumerate() {
                let told = export::export(&self.0, &job, index, exporter, &built).await?;
                response.extend(told);
            }
        }
        Ok(response)
    }
}

/// The first filter that says anything.
fn given(filters: &[String]) -> Option<&String> {
    filters.iter().find(|filter| !filter.is_empty())
}

/// What cannot be done is refused before anything is.
fn check(request: &wire::SolveRequest) -> Result<Vec<Exporter>, Status> {
    let definition = request.definition.as_ref();
    if definition.is_some_and(|given| !given.def.is_empty()) || !request.frontend_inputs.is_empty()
    {
        return Err(missing("building from a low-level definition (LLB)"));
    }
    let cache = request.cache.clone().unwrap_or_default();
    if let Some(export) = cache.exports.first() {
        return Err(missing(&format!(
            "exporting the cache to {}",
            export.r#type
        )));
    }
    if let Some(import) = cache.imports.first() {
        return Err(missing(&format!(
            "importing the cache from {}",
            import.r#type
        )));
    }
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
    exporters
        .iter()
        .map(|exporter| Exporter::read(&exporter.r#type, &exporter.attrs))
        .collect()
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
        let exporters = check(&request)?;
        let mut opened = self.0.jobs.open(&request.r#ref, &request.session)?;
        // Noted also when this future is dropped, because the client has given up.
        let mut note = Note::begin(&self.0, &opened.job, &request);
        let _slot = self.0.slots.acquire().await;
        let result = self.build(&mut opened, &request, &exporters).await;
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
        if let Some(filter) = given(&request.get_ref().filter) {
            return Err(missing(&format!(
                "the usage of builds by the filter {filter}"
            )));
        }
        let steps = self.0.engine.builds().steps().await;
        let steps = steps.map_err(|error| frontend::status(&error))?;
        let record = steps.into_iter().map(|(step, shared)| wire::UsageRecord {
            id: step.key,
            size: i64::try_from(step.bytes).unwrap_or(i64::MAX),
            created_at: moment(&step.created),
            last_used_at: moment(&step.created),
            usage_count: 1,
            record_type: "regular".to_owned(),
            shared: shared.0,
            ..wire::UsageRecord::default()
        });
        Ok(Response::new(wire::DiskUsageResponse {
            record: record.collect(),
        }))
    }

    async fn prune(
        &self,
        request: Request<wire::PruneRequest>,
    ) -> Result<Response<Self::PruneStream>, Status> {
        let request = request.into_inner();
        if let Some(filter) = given(&request.filter) {
            return Err(missing(&format!("a prune with the filter {filter}")));
        }
        let budget = [
            request.reserved_space,
            request.max_used_space,
            request.min_free_space,
        ];
        if budget.iter().any(|bytes| *bytes != 0) {
            return Err(missing("a prune down to an amount of space"));
        }
        let mut filters = std::collections::BTreeMap::new();
        if request.keep_duration > 0 {
            let age = format!("{}ns", request.keep_duration);
            filters.insert("until".to_owned(), vec![age]);
        }
        let filter = PruneFilter::parse(&filters).map_err(|error| frontend::status(&error))?;
        let pruned = self.0.engine.builds().prune(filter).await;
        let pruned = pruned.map_err(|error| frontend::status(&error))?;
        // How much each took is not told apart; the sum is what people look at.
        let mut bytes = i64::try_from(pruned.bytes).unwrap_or(i64::MAX);
        let records = pruned.steps.into_iter().map(move |id| {
            Ok(wire::UsageRecord {
                id,
                size: std::mem::take(&mut bytes),
                record_type: "regular".to_owned(),
                ..wire::UsageRecord::default()
            })
        });
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
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(prost_types::Timestamp {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    })
}
