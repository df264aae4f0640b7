//! The bridge: by it a client drives the frontend itself and says what came of it.

use std::sync::Arc;

use prost::Message;
use sampan_buildkit::gateway as wire;
use sampan_buildkit::gateway::llb_bridge_server::LlbBridge;
use sampan_buildkit::gateway::result;
use tonic::{Code, Request, Response, Status};

use super::BuildKit;
use super::jobs::{Job, Outcome};
use super::{capabilities, control, frontend};

/// Names the build in the metadata of each call.
const BUILD: &str = "buildkit-controlapi-buildid";

pub(super) struct Bridge(pub(super) BuildKit);

impl Bridge {
    async fn job<T>(&self, request: &Request<T>) -> Result<Arc<Job>, Status> {
        let name = request.metadata().get(BUILD);
        let name = name.and_then(|name| name.to_str().ok());
        let name = name.ok_or_else(|| Status::invalid_argument("the call names no build"))?;
        self.0.jobs.find(name).await
    }
}

fn missing(what: &str) -> Status {
    Status::unimplemented(format!("{what} is not supported by this engine"))
}

#[tonic::async_trait]
impl LlbBridge for Bridge {
    async fn ping(
        &self,
        _: Request<wire::PingRequest>,
    ) -> Result<Response<wire::PongResponse>, Status> {
        Ok(Response::new(wire::PongResponse {
            frontend_api_caps: capabilities::of_bridge(),
            llb_caps: capabilities::of_builds(),
            workers: vec![control::worker(&self.0).await?],
        }))
    }

    async fn solve(
        &self,
        request: Request<wire::SolveRequest>,
    ) -> Result<Response<wire::SolveResponse>, Status> {
        let job = self.job(&request).await?;
        let request = request.into_inner();
        let definition = request
            .definition
            .is_some_and(|given| !given.def.is_empty());
        if definition || !request.frontend_inputs.is_empty() {
            return Err(missing("building from a low-level definition (LLB)"));
        }
        if !request.cache_imports.is_empty() {
            return Err(missing("importing a cache"));
        }
        let outcome = match request.frontend.as_str() {
            frontend::NAME => frontend::solve(&self.0, &job, &request.frontend_opt).await?,
            // Nothing, solved.
            "" => Outcome::default(),
            other => return Err(missing(&format!("the frontend {other}"))),
        };
        let name = match outcome.built {
            Some(built) => job.keep(built)?,
            None => String::new(),
        };
        let reference = wire::Ref {
            id: name,
            def: None,
        };
        Ok(Response::new(wire::SolveResponse {
            r#ref: String::new(),
            result: Some(wire::Result {
                result: Some(result::Result::Ref(reference)),
                metadata: outcome.metadata.into_iter().collect(),
            }),
        }))
    }

    async fn r#return(
        &self,
        request: Request<wire::ReturnRequest>,
    ) -> Result<Response<wire::ReturnResponse>, Status> {
        let job = self.job(&request).await?;
        let request = request.into_inner();
        let outcome = match (request.error, request.result) {
            (Some(error), _) if error.code != 0 || !error.message.is_empty() => {
                let details = error.encode_to_vec().into();
                let code = Code::from_i32(error.code);
                Err(Status::with_details(code, error.message, details))
            }
            (_, Some(result)) => chosen(&job, result),
            (_, None) => Ok(Outcome::default()),
        };
        job.finish(outcome);
        Ok(Response::new(wire::ReturnResponse::default()))
    }

    async fn evaluate(
        &self,
        request: Request<wire::EvaluateRequest>,
    ) -> Result<Response<wire::EvaluateResponse>, Status> {
        let job = self.job(&request).await?;
        // Everything that has a name is done already.
        job.result(&request.get_ref().r#ref)?;
        Ok(Response::new(wire::EvaluateResponse::default()))
    }

    async fn warn(
        &self,
        request: Request<wire::WarnRequest>,
    ) -> Result<Response<wire::WarnResponse>, Status> {
        let job = self.job(&request).await?;
        let request = request.into_inner();
        job.progress.warn(sampan_buildkit::control::VertexWarning {
            vertex: request.digest,
            level: request.level,
            short: request.short,
            detail: request.detail,
            url: request.url,
            info: request.info,
            ranges: request.ranges,
        });
        Ok(Response::new(wire::WarnResponse::default()))
    }

    async fn inputs(
        &self,
        _: Request<wire::InputsRequest>,
    ) -> Result<Response<wire::InputsResponse>, Status> {
        Ok(Response::new(wire::InputsResponse::default()))
    }

    async fn read_file(
        &self,
        request: Request<wire::ReadFileRequest>,
    ) -> Result<Response<wire::ReadFileResponse>, Status> {
        let job = self.job(&request).await?;
        let request = request.into_inner();
        let built = job.result(&request.r#ref)?;
        let data = self.0.read_file(built, request).await?;
        Ok(Response::new(wire::ReadFileResponse { data }))
    }

    async fn read_dir(
        &self,
        request: Request<wire::ReadDirRequest>,
    ) -> Result<Response<wire::ReadDirResponse>, Status> {
        let job = self.job(&request).await?;
        let request = request.into_inner();
        let built = job.result(&request.r#ref)?;
        if !request.include_pattern.is_empty() {
            return Err(missing("listing by a pattern"));
        }
        let entries = self.0.read_directory(built, request.dir_path).await?;
        Ok(Response::new(wire::ReadDirResponse { entries }))
    }

    async fn stat_file(
        &self,
        request: Request<wire::StatFileRequest>,
    ) -> Result<Response<wire::StatFileResponse>, Status> {
        let job = self.job(&request).await?;
        let request = request.into_inner();
        let built = job.result(&request.r#ref)?;
        let stat = self.0.stat(built, request.path).await?;
        Ok(Response::new(wire::StatFileResponse { stat: Some(stat) }))
    }

    async fn resolve_image_config(
        &self,
        request: Request<wire::ResolveImageConfigRequest>,
    ) -> Result<Response<wire::ResolveImageConfigResponse>, Status> {
        self.job(&request).await?;
        let request = request.into_inner();
        let (digest, config) = self.0.image_config(&request.r#ref).await?;
        Ok(Response::new(wire::ResolveImageConfigResponse {
            digest,
            config,
            r#ref: request.r#ref,
        }))
    }

    async fn resolve_source_meta(
        &self,
        request: Request<wire::ResolveSourceMetaRequest>,
    ) -> Result<Response<wire::ResolveSourceMetaResponse>, Status> {
        self.job(&request).await?;
        let source = request.into_inner().source.unwrap_or_default();
        let image = match source.identifier.strip_prefix("docker-image://") {
            None => None,
            Some(name) => {
                let (digest, config) = self.0.image_config(name).await?;
                Some(wire::ResolveSourceImageResponse { digest, config })
            }
        };
        Ok(Response::new(wire::ResolveSourceMetaResponse {
            source: Some(source),
            image,
        }))
    }
}

/// The result that a client picked, of those it was given.
fn chosen(job: &Job, returned: wire::Result) -> Result<Outcome, Status> {
    let names: Vec<String> = match returned.result {
        None => Vec::new(),
        Some(result::Result::RefDeprecated(name)) => vec![name],
        Some(result::Result::RefsDeprecated(map)) => map.refs.into_values().collect(),
        Some(result::Result::Ref(reference)) => vec![reference.id],
        Some(result::Result::Refs(map)) => map.refs.into_values().map(|r| r.id).collect(),
    };
    let names: Vec<String> = names.into_iter().filter(|name| !name.is_empty()).collect();
    let built = match names.as_slice() {
        [] => None,
        [name] => Some(job.result(name)?),
        _ => return Err(missing("a result for several platforms")),
    };
    Ok(Outcome {
        built,
        metadata: returned.metadata.into_iter().collect(),
    })
}
