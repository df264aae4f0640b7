//! Containers.

mod archive;
mod attach;
mod config;
mod exec;
mod give;
mod inside;
mod logs;
pub(crate) mod show;
mod stats;
mod websocket;

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::Router;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, StatusCode, header};
use sampan_api::ApiVersion;
use sampan_api::types::container::{
    ContainerPruneResponse, CreateRequest, CreateResponse, WaitError, WaitResponse,
};
use sampan_api::types::network::{EndpointSettings, NetworkingConfig};
use sampan_engine::{
    ContainerFilter, CreateContainer, Endpoint, HostConfig, ListOptions, NetworkMode, PruneFilter,
    RemoveOptions, RemoveRunning, RemoveVolumes, StopOptions, StopTimeout, TerminalSize, Wait,
    WaitCondition,
};

use crate::app::{App, to_the_end};
use crate::body::RequiredJson;
use crate::error::ApiError;
use crate::query::Query;
use crate::reply::{self, Json};
use crate::unbuilt::refusal;

/// Bytes that the body of a start may have: some clients send `null` or `{}`.
const EMPTY_BODY: u64 = 7;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/containers/json", get(list))
        .route("/containers/create", post(create))
        .route("/containers/prune", post(prune))
        .route("/containers/{id}", delete(remove))
        .route("/containers/{id}/json", get(inspect))
        .route("/containers/{id}/start", post(start))
        .route("/containers/{id}/stop", post(stop))
        .route("/containers/{id}/restart", post(restart))
        .route("/containers/{id}/kill", post(kill))
        .route("/containers/{id}/pause", post(pause))
        .route("/containers/{id}/unpause", post(unpause))
        .route("/containers/{id}/rename", post(rename))
        .route("/containers/{id}/resize", post(resize))
        .route("/containers/{id}/wait", post(wait))
        .route("/containers/{id}/export", get(give::export))
        .route(
            "/containers/{id}/archive",
            get(archive::get).head(archive::stat).put(archive::put),
        )
        .route("/containers/{id}/changes", get(inside::changes))
        .route("/containers/{id}/top", get(inside::top))
        .route("/containers/{id}/stats", get(stats::stats))
        .route("/containers/{id}/update", post(inside::update))
        .route("/containers/{id}/attach/ws", get(websocket::attach))
        .route("/commit", post(give::commit))
        .route("/containers/{id}/logs", get(logs::logs))
        .route("/containers/{id}/attach", post(attach::attach))
        .route("/containers/{id}/exec", post(exec::create))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/resize", post(exec::resize))
        .route("/exec/{id}/json", get(exec::inspect))
}

async fn list(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    query: Query,
) -> Result<Response, ApiError> {
    // A negative limit means none, as an absent one does.
    let limit = query.number::<i64>("limit")?.unwrap_or_default();
    let options = ListOptions {
        all: query.flag("all"),
        limit: usize::try_from(limit).unwrap_or_default(),
        sizes: query.flag("size"),
        filter: ContainerFilter::parse(&query.filter_lists()?)?,
    };
    let views = app.engine.containers().list(options).await?;
    let lines: Vec<_> = views
        .iter()
        .map(|view| show::summary(view, version))
        .collect();
    Ok(Json(lines).into_response())
}

async fn prune(State(app): State<App>, query: Query) -> Result<Response, ApiError> {
    let filter = PruneFilter::parse(&query.filter_lists()?)?;
    let pruned = to_the_end(async move { app.engine.containers().prune(filter).await }).await?;
    let ids: Vec<String> = pruned.removed.iter().map(ToString::to_string).collect();
    let response = ContainerPruneResponse {
        containers_deleted: (!ids.is_empty()).then_some(ids),
        space_reclaimed: pruned.reclaimed,
    };
    Ok(Json(response).into_response())
}

async fn create(
    State(app): State<App>,
    query: Query,
    RequiredJson(body): RequiredJson<CreateRequest>,
) -> Result<Response, ApiError> {
    let mac_address = body.config.mac_address.clone();
    let config = config::config(body.config)?;
    let host = config::host_config(body.host_config.unwrap_or_default())?;
    let networking = body.networking_config.unwrap_or_default();
    let request = CreateContainer {
        name: query.text("name").map(str::to_owned),
        endpoints: endpoints(networking, &host, mac_address)?,
        config,
        host,
        platform: query.text("platform").map(str::to_owned),
    };
    let engine = app.engine.clone();
    let created = to_the_end(async move { engine.containers().create(request).await }).await?;
    let response = CreateResponse {
        id: created.id.to_string(),
        warnings: created.warnings,
    };
    Ok(reply::json(StatusCode::CREATED, &response))
}

/// The wishes for places in networks. The one for `default` is the one for `bridge`.
fn endpoints(
    networking: NetworkingConfig,
    host: &HostConfig,
    mac_address: String,
) -> Result<BTreeMap<String, Endpoint>, ApiError> {
    let mut endpoints = BTreeMap::new();
    for (name, settings) in networking.endpoints_config {
        let name = if name == "default" {
            "bridge".to_owned()
        } else {
            name
        };
        endpoints.insert(name, endpoint(settings)?);
    }
    if !mac_address.is_empty() {
        let name = match &host.network_mode {
            NetworkMode::Default => NetworkMode::Bridge.to_string(),
            other => other.to_string(),
        };
        endpoints.entry(name).or_default().wanted_mac = mac_address;
    }
    Ok(endpoints)
}

fn endpoint(settings: EndpointSettings) -> Result<Endpoint, ApiError> {
    let wanted = settings.ipam_config.unwrap_or_default();
    if !wanted.link_local_ips.is_empty() {
        return Err(refusal("asking for link-local addresses"));
    }
    if settings.links.is_some_and(|links| !links.is_empty()) {
        return Err(refusal("links in a network"));
    }
    let address = match (wanted.ipv4_address.as_str(), wanted.ipv6_address.as_str()) {
        ("", "") => None,
        (address, "") | ("", address) => Some(address.parse::<IpAddr>().map_err(|_| {
            ApiError::invalid(format!(
                "invalid IP address in endpoint settings: {address:?}"
            ))
        })?),
        _ => return Err(refusal("asking for an IPv4 and an IPv6 address")),
    };
    Ok(Endpoint {
        wanted_address: address,
        wanted_mac: settings.mac_address,
        aliases: settings.aliases.unwrap_or_default(),
        driver_options: settings.driver_opts.unwrap_or_default(),
        gateway_priority: settings.gw_priority.unwrap_or_default(),
        ..Endpoint::default()
    })
}

async fn inspect(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, ApiError> {
    let containers = app.engine.containers();
    let view = if query.flag("size") {
        containers.inspect_with_sizes(&id).await?
    } else {
        containers.inspect(&id).await?
    };
    Ok(Json(show::inspect(&view, version)).into_response())
}

async fn start(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.map_or(Some(0), |length| length.to_str().ok()?.parse::<u64>().ok());
    if length.is_none_or(|length| length > EMPTY_BODY)
        || headers.contains_key(header::TRANSFER_ENCODING)
    {
        return Err(ApiError::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 \
             and removed in v1.24",
        ));
    }
    let full = app.engine.containers().inspect(&id).await?.id.to_string();
    app.attached(&full).await;
    let engine = app.engine.clone();
    to_the_end(async move { engine.containers().start(&full).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn stop_options(query: &Query, version: ApiVersion) -> Result<StopOptions, ApiError> {
    let signal = query.text("signal").filter(|_| version.at_least(42));
    Ok(StopOptions {
        signal: signal.map(str::to_owned),
        timeout: query.number("t")?.map(StopTimeout::from_seconds),
    })
}

async fn stop(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    Path(id): Path<String>,
    query: Query,
) -> Result<StatusCode, ApiError> {
    let options = stop_options(&query, version)?;
    to_the_end(async move { app.engine.containers().stop(&id, options).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn restart(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    Path(id): Path<String>,
    query: Query,
) -> Result<StatusCode, ApiError> {
    let options = stop_options(&query, version)?;
    to_the_end(async move { app.engine.containers().restart(&id, options).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn kill(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
) -> Result<StatusCode, ApiError> {
    let signal = query.text("signal").map(str::to_owned);
    let engine = app.engine;
    to_the_end(async move { engine.containers().kill(&id, signal.as_deref()).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn pause(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    to_the_end(async move { app.engine.containers().pause(&id).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn unpause(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    to_the_end(async move { app.engine.containers().unpause(&id).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn rename(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
) -> Result<StatusCode, ApiError> {
    let Some(name) = query.text("name").map(str::to_owned) else {
        return Err(ApiError::invalid("Neither old nor new names may be empty"));
    };
    to_the_end(async move { app.engine.containers().rename(&id, &name).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reads the size of a terminal from a query.
fn terminal_size(query: &Query) -> Result<TerminalSize, ApiError> {
    let cells = |name: &str, what: &str| {
        let text = query.get(name).unwrap_or_default();
        text.parse::<u16>()
            .map_err(|_| ApiError::invalid(format!("invalid resize {what} {text:?}")))
    };
    Ok(TerminalSize {
        height: cells("h", "height")?,
        width: cells("w", "width")?,
    })
}

async fn resize(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
) -> Result<StatusCode, ApiError> {
    let size = terminal_size(&query)?;
    app.engine.containers().resize(&id, size).await?;
    Ok(StatusCode::OK)
}

async fn remove(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
) -> Result<StatusCode, ApiError> {
    if query.flag("link") {
        return Err(refusal("removing a link"));
    }
    let options = RemoveOptions {
        running: if query.flag("force") {
            RemoveRunning::Kill
        } else {
            RemoveRunning::Refuse
        },
        volumes: if query.flag("v") {
            RemoveVolumes::Anonymous
        } else {
            RemoveVolumes::Keep
        },
    };
    to_the_end(async move { app.engine.containers().remove(&id, options).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn wait(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, ApiError> {
    let condition = match query.get("condition").unwrap_or_default() {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(ApiError::invalid(format!("invalid condition: {other:?}"))),
    };
    let wait = app.engine.containers().wait(&id, condition).await?;
    // The head goes out now: it tells the client that no end is missed from here on.
    let body = stream::once(async move { Ok(outcome(wait).await) });
    Ok(reply::stream("application/json", body))
}

async fn outcome(wait: Wait) -> Bytes {
    let (code, error) = match wait.outcome().await {
        Ok(outcome) => (outcome.code, outcome.error),
        Err(error) => (-1, Some(error.message().to_owned())),
    };
    reply::line(&WaitResponse {
        status_code: code.into(),
        error: error.map(|message| WaitError { message }),
    })
}
