//! Networks: the predefined ones, to look at.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use sampan_api::ApiVersion;
use sampan_api::types::network as wire;
use sampan_engine::{NetworkView, PruneFilter};

use crate::app::App;
use crate::error::ApiError;
use crate::query::Query;
use crate::reply::Json;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/prune", post(prune))
        .route("/networks/{id}", get(inspect).delete(remove))
}

async fn list(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    query: Query,
) -> Result<Response, ApiError> {
    let views = app.engine.networks().list(&query.filter_lists()?).await?;
    let networks: Vec<_> = views
        .iter()
        .map(|view| wire::Network {
            // Only inspect tells who is in it.
            containers: BTreeMap::new(),
            ..show(view, version)
        })
        .collect();
    Ok(Json(networks).into_response())
}

async fn prune(State(app): State<App>, query: Query) -> Result<Response, ApiError> {
    let filter = PruneFilter::parse(&query.filter_lists()?)?;
    let names = app.engine.networks().prune(filter).await?.removed;
    let response = wire::NetworkPruneResponse {
        networks_deleted: (!names.is_empty()).then_some(names),
    };
    Ok(Json(response).into_response())
}

async fn inspect(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    Path(id): Path<String>,
) -> Result<Json<wire::Network>, ApiError> {
    let view = app.engine.networks().inspect(&id).await?;
    Ok(Json(show(&view, version)))
}

/// There are only predefined networks, which nobody removes.
async fn remove(State(app): State<App>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let view = app.engine.networks().inspect(&id).await?;
    Err(ApiError::forbidden(format!(
        "{} is a pre-defined network and cannot be removed",
        view.name
    )))
}

fn show(view: &NetworkView, version: ApiVersion) -> wire::Network {
    let subnet = view.subnet.as_ref().map(|subnet| {
        vec![wire::IpamConfig {
            subnet: subnet.clone(),
            gateway: view.gateway.clone().unwrap_or_default(),
            ..wire::IpamConfig::default()
        }]
    });
    let containers = view.containers.iter().map(|(id, (name, endpoint))| {
        let address = endpoint.address;
        let cidr = address.map(|address| format!("{address}/{}", endpoint.prefix));
        let is_ipv6 = address.is_some_and(|address| address.is_ipv6());
        let (ipv4, ipv6) = if is_ipv6 { (None, cidr) } else { (cidr, None) };
        let container = wire::NetworkContainer {
            name: name.clone(),
            endpoint_id: endpoint.endpoint_id.clone(),
            mac_address: endpoint.mac.clone(),
            ipv4_address: ipv4.unwrap_or_default(),
            ipv6_address: ipv6.unwrap_or_default(),
        };
        (id.to_string(), container)
    });
    wire::Network {
        name: view.name.clone(),
        id: view.id.to_string(),
        created: view.created.to_string(),
        scope: "local".to_owned(),
        driver: view.driver.clone(),
        enable_ipv4: version.at_least(47).then_some(true),
        enable_ipv6: false,
        ipam: wire::Ipam {
            driver: "default".to_owned(),
            options: None,
            config: subnet,
        },
        containers: containers.collect(),
        options: Some(view.options.clone()),
        labels: Some(view.labels.clone()),
        ..wire::Network::default()
    }
}
