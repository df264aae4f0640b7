//! BuildKit's interface, by which `docker build` and `docker buildx` build: gRPC on connections
//! that stop being HTTP/1.
//!
//! * `switch`: from HTTP/1 to HTTP/2 on the socket.
//! * `session`: the client's own connection, on which the engine calls it for files and secrets.
//! * `control`, `bridge`: the two services that clients call.
//! * `stores`: directories of the client with caches or images in them; `caches`: which are meant.
//! * `jobs`, `progress`: builds under way and what they tell.
//! * `details`: what is told of a failure beside its message.
//! * `frontend`: from options and files to an image; `export`: from there to where it is wanted.

mod bridge;
mod caches;
mod capabilities;
mod control;
mod details;
mod export;
mod frontend;
mod history;
mod jobs;
mod options;
mod progress;
mod receive;
mod session;
mod stores;
mod subrequest;
mod switch;
mod wanted;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use http::{HeaderMap, StatusCode, header};
use sampan_buildkit::MAX_MESSAGE;
use sampan_buildkit::control::control_server::ControlServer;
use sampan_buildkit::gateway::llb_bridge_server::LlbBridgeServer;
use sampan_buildkit::transport;
use sampan_engine::Engine;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::app::App;
use crate::error::ApiError;
use crate::hijack::Hijack;
use session::{Hello, Sessions};

/// Builds at once; further ones wait.
const BUILDS: usize = 64;

/// What the services work with. A cheap clone.
#[derive(Clone)]
pub(crate) struct BuildKit {
    engine: Arc<Engine>,
    sessions: Sessions,
    jobs: jobs::Jobs,
    slots: Arc<Semaphore>,
    news: history::News,
    /// Set when the server stops.
    stop: CancellationToken,
}

impl BuildKit {
    pub(crate) fn new(engine: Arc<Engine>, stop: CancellationToken) -> Self {
        Self {
            engine,
            sessions: Sessions::default(),
            jobs: jobs::Jobs::default(),
            slots: Arc::new(Semaphore::new(BUILDS)),
            news: history::News::default(),
            stop,
        }
    }

    fn services(&self) -> Routes {
        let control = ControlServer::new(control::Control(self.clone()))
            .max_decoding_message_size(MAX_MESSAGE);
        let bridge = LlbBridgeServer::new(bridge::Bridge(self.clone()))
            .max_decoding_message_size(MAX_MESSAGE);
        Routes::new(control).add_service(bridge)
    }
}

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/grpc", post(grpc))
        .route("/session", post(open_session))
}

fn check_upgrade(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers
        .get(header::UPGRADE)
        .map(http::HeaderValue::as_bytes)
    {
        Some(b"h2c") => Ok(()),
        Some(other) => Err(ApiError::invalid(format!(
            "protocol {} not supported",
            String::from_utf8_lossy(other)
        ))),
        None => Err(ApiError::invalid("no upgrade proto in request")),
    }
}

async fn grpc(
    State(app): State<App>,
    headers: HeaderMap,
    hijack: Hijack,
) -> Result<Response, ApiError> {
    check_upgrade(&headers)?;
    let kit = app.buildkit;
    Ok(hijack
        .take(async move |raw| match switch::switch(raw) {
            Ok(io) => transport::serve(io, kit.services(), kit.stop.clone()).await,
            Err(error) => tracing::debug!(%error, "a client of the build interface was lost"),
        })
        .await)
}

async fn open_session(
    State(app): State<App>,
    headers: HeaderMap,
    hijack: Hijack,
) -> Result<Response, ApiError> {
    check_upgrade(&headers)?;
    let hello = Hello::read(&headers).ok_or_else(|| ApiError::invalid("a session needs an id"))?;
    let kit = app.buildkit;
    if let Some(refusal) = kit.sessions.refusal(&hello) {
        return Err(ApiError::new(StatusCode::CONFLICT, refusal));
    }
    Ok(hijack
        .take(async move |raw| {
            tokio::select! {
                () = kit.sessions.keep(hello, raw) => {}
                () = kit.stop.cancelled() => {}
            }
        })
        .await)
}
