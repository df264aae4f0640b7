//! What is inside a container: its processes, what it has changed, its limits.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use sampan_api::types::container::{Change, TopResponse, UpdateRequest, UpdateResponse};
use sampan_engine::{FileChange, ResourceChanges};

use super::config;
use crate::app::{App, to_the_end};
use crate::body::RequiredJson;
use crate::error::ApiError;
use crate::query::Query;
use crate::reply::Json;

/// `GET /containers/{id}/top`.
pub(super) async fn top(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, ApiError> {
    let arguments = query.text("ps_args").unwrap_or_default();
    let processes = app.engine.containers().top(&id, arguments).await?;
    let answer = TopResponse {
        titles: processes.titles,
        processes: processes.rows,
    };
    Ok(Json(answer).into_response())
}

/// `GET /containers/{id}/changes`. Null when there are none.
pub(super) async fn changes(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let changes = app.engine.containers().changes(&id).await?;
    let changes: Vec<_> = changes
        .into_iter()
        .map(|changed| Change {
            path: changed.path,
            kind: match changed.change {
                FileChange::Modified => 0,
                FileChange::Added => 1,
                FileChange::Deleted => 2,
            },
        })
        .collect();
    Ok(Json((!changes.is_empty()).then_some(changes)).into_response())
}

/// `POST /containers/{id}/update`.
pub(super) async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    RequiredJson(body): RequiredJson<UpdateRequest>,
) -> Result<Response, ApiError> {
    let policy = body.restart_policy.filter(|policy| !policy.name.is_empty());
    let changes = ResourceChanges {
        resources: config::resources(body.resources)?,
        restart_policy: policy
            .map(|policy| config::restart_policy(&policy))
            .transpose()?,
    };
    let update = async move { app.engine.containers().update(&id, changes).await };
    let updated = to_the_end(update).await?;
    let answer = UpdateResponse {
        warnings: (!updated.warnings.is_empty()).then_some(updated.warnings),
    };
    Ok(Json(answer).into_response())
}
