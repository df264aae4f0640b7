//! A container's files as an archive, and its changes as an image.

use axum::extract::{Path, State};
use axum::response::Response;
use http::StatusCode;
use sampan_api::types::container::ContainerConfig;
use sampan_api::types::image::CommitResponse;
use sampan_engine::CommitOptions;
use sampan_oci::Reference;

use super::config;
use crate::app::{App, to_the_end};
use crate::body::{JsonBody, written};
use crate::error::ApiError;
use crate::query::Query;
use crate::reply;

/// `GET /containers/{id}/export`.
pub(super) async fn export(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let export = app.engine.containers().export(&id).await?;
    let pieces = written(move |mut out| export.write(&mut out));
    Ok(reply::stream("application/octet-stream", pieces))
}

/// `POST /commit`.
pub(super) async fn commit(
    State(app): State<App>,
    query: Query,
    JsonBody(body): JsonBody<Option<ContainerConfig>>,
) -> Result<Response, ApiError> {
    let container = query
        .text("container")
        .ok_or_else(|| ApiError::invalid("no container is named"))?
        .to_owned();
    let text = |name: &str| query.text(name).unwrap_or_default().to_owned();
    let options = CommitOptions {
        name: name(&query)?,
        author: text("author"),
        comment: text("comment"),
        changes: query.all("changes").map(str::to_owned).collect(),
        config: body.map(config::config).transpose()?,
        no_pause: !query.flag_or("pause", true),
    };
    let commit = async move { app.engine.containers().commit(&container, options).await };
    let image = to_the_end(commit).await?;
    let answer = CommitResponse {
        id: image.id.to_string(),
    };
    Ok(reply::json(StatusCode::CREATED, &answer))
}

/// The name of `repo` and `tag`; none where there is no `repo`.
fn name(query: &Query) -> Result<Option<Reference>, ApiError> {
    let Some(repository) = query.text("repo") else {
        return Ok(None);
    };
    let name = match query.text("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    };
    let parsed: Result<Reference, _> = name.parse();
    parsed
        .map(Some)
        .map_err(|error| ApiError::invalid(error.to_string()))
}
