//! `/containers/{id}/archive`: files into and out of a container.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue, StatusCode};
use sampan_api::types::container::PathStat as WireStat;
use sampan_buildkit::go_mode;
use sampan_engine::{ExtractOptions, ExtractOwner, PathStat, Replace};

use crate::app::App;
use crate::body::{BlockingBody, written};
use crate::error::ApiError;
use crate::query::Query;
use crate::reply;

/// Where the answer says what is known of the path.
const STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

/// `HEAD`: what is known of a path.
pub(super) async fn stat(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, ApiError> {
    let stat = app
        .engine
        .containers()
        .stat_path(&id, path(&query)?)
        .await?;
    Ok(with_stat(StatusCode::OK.into_response(), &stat))
}

/// `GET`: a tar of what is at a path.
pub(super) async fn get(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, ApiError> {
    let archive = app
        .engine
        .containers()
        .archive_path(&id, path(&query)?)
        .await?;
    let stat = archive.stat().clone();
    let pieces = written(move |mut out| archive.write(&mut out));
    let response = reply::stream("application/x-tar", pieces);
    Ok(with_stat(response, &stat))
}

/// `PUT`: extracts a tar into a directory.
pub(super) async fn put(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let options = ExtractOptions {
        replace: if query.flag("noOverwriteDirNonDir") {
            Replace::SameKind
        } else {
            Replace::Any
        },
        owner: if query.flag("copyUIDGID") {
            ExtractOwner::ContainerUser
        } else {
            ExtractOwner::Archive
        },
    };
    let path = path(&query)?;
    let body = BlockingBody::new(body);
    let containers = app.engine.containers();
    containers.extract(&id, path, options, body).await?;
    Ok(StatusCode::OK)
}

fn path(query: &Query) -> Result<&str, ApiError> {
    query
        .text("path")
        .ok_or_else(|| ApiError::invalid("bad parameter: path cannot be empty"))
}

fn with_stat(mut response: Response, stat: &PathStat) -> Response {
    let wire = WireStat {
        name: stat.name.clone(),
        size: i64::try_from(stat.size).unwrap_or(i64::MAX),
        mode: go_mode::of(stat.mode),
        mtime: stat.modified.to_string(),
        link_target: stat.link_target.clone(),
    };
    let json = serde_json::to_vec(&wire).expect("wire types are always valid JSON");
    let value = HeaderValue::try_from(STANDARD.encode(json)).expect("base64 is a valid header");
    response.headers_mut().insert(STAT, value);
    response
}
