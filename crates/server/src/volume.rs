//! Volumes.

use axum::Router;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use sampan_api::ApiVersion;
use sampan_api::types::volume as wire;
use sampan_engine::{CreateVolume, PruneFilter, VolumeView};

use crate::app::{App, to_the_end};
use crate::body::RequiredJson;
use crate::error::ApiError;
use crate::query::Query;
use crate::reply::{self, Json};

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/volumes", get(list))
        .route("/volumes/create", post(create))
        .route("/volumes/prune", post(prune))
        .route("/volumes/{name}", get(inspect).delete(remove))
}

async fn list(State(app): State<App>, query: Query) -> Result<Response, ApiError> {
    let views = app.engine.volumes().list(&query.filter_lists()?).await?;
    let list = wire::VolumeList {
        volumes: views.iter().map(show).collect(),
        warnings: None,
    };
    Ok(Json(list).into_response())
}

async fn prune(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    query: Query,
) -> Result<Response, ApiError> {
    let mut filter = PruneFilter::of_volumes(&query.filter_lists()?)?;
    // Named volumes were pruned, too, before there was a filter for it.
    if !version.at_least(42) {
        filter.all = Some(true);
    }
    let pruned = to_the_end(async move { app.engine.volumes().prune(filter).await }).await?;
    let response = wire::VolumePruneResponse {
        volumes_deleted: pruned.removed,
        space_reclaimed: pruned.reclaimed,
    };
    Ok(Json(response).into_response())
}

async fn create(
    State(app): State<App>,
    RequiredJson(body): RequiredJson<wire::VolumeCreateRequest>,
) -> Result<Response, ApiError> {
    let request = CreateVolume {
        name: body.name,
        driver: body.driver,
        options: body.driver_opts,
        labels: body.labels,
    };
    let view = to_the_end(async move { app.engine.volumes().create(request).await }).await?;
    Ok(reply::json(StatusCode::CREATED, &show(&view)))
}

async fn inspect(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Json<wire::Volume>, ApiError> {
    let view = app.engine.volumes().inspect(&name).await?;
    Ok(Json(show(&view)))
}

async fn remove(
    State(app): State<App>,
    Path(name): Path<String>,
    query: Query,
) -> Result<StatusCode, ApiError> {
    let force = query.flag("force");
    to_the_end(async move { app.engine.volumes().remove(&name, force).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) fn show(view: &VolumeView) -> wire::Volume {
    wire::Volume {
        created_at: view.created.to_string(),
        driver: view.driver.clone(),
        labels: (!view.labels.is_empty()).then(|| view.labels.clone()),
        mountpoint: view.mountpoint.to_string_lossy().into_owned(),
        name: view.name.clone(),
        options: (!view.options.is_empty()).then(|| view.options.clone()),
        scope: "local".to_owned(),
        usage_data: None,
    }
}
