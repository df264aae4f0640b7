//! Images that go elsewhere: push, told as JSON messages, and save, as an archive.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, header};
use sampan_images::{ProgressSink, PushOptions};
use sampan_oci::media_type::Compression;

use super::news::{Operation, answer};
use super::take::{credentials, json_platform, reference};
use crate::app::App;
use crate::body::written;
use crate::error::ApiError;
use crate::query::Query;
use crate::reply;

/// `POST /images/{name}/push`.
pub(super) async fn push(
    app: &App,
    headers: &HeaderMap,
    query: &Query,
    name: &str,
) -> Result<Response, ApiError> {
    let repository = reference(name)?.bare();
    let reference = match query.text("tag") {
        Some(tag) => reference(&format!("{}:{tag}", repository.name()))?,
        None => repository,
    };
    let options = PushOptions {
        credentials: credentials(headers),
        platform: json_platform(query)?,
        compression: query.text("compression").map(compression).transpose()?,
    };
    let (sink, news) = ProgressSink::channel();
    let engine = Arc::clone(&app.engine);
    let operation = Operation::on_a_thread(move || async move {
        engine.images().push(&reference, &options, &sink).await
    });
    answer(news, operation, |()| None).await
}

/// `GET /images/{name}/get`.
pub(super) async fn save_one(app: &App, query: &Query, name: &str) -> Result<Response, ApiError> {
    archive(app, vec![name.to_owned()], query).await
}

/// `GET /images/get`.
pub(super) async fn save(State(app): State<App>, query: Query) -> Result<Response, ApiError> {
    let names = query.all("names").map(str::to_owned).collect();
    archive(&app, names, &query).await
}

async fn archive(app: &App, names: Vec<String>, query: &Query) -> Result<Response, ApiError> {
    let platform = json_platform(query)?;
    let saved = app.engine.images().save(names, platform).await?;
    let length = saved.size();
    let pieces = written(move |mut out| saved.write(&mut out));
    let mut response = reply::stream("application/x-tar", pieces);
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, length.into());
    Ok(response)
}

/// How layers are to be packed: an addition to Docker's API.
fn compression(name: &str) -> Result<Compression, ApiError> {
    match name {
        "gzip" => Ok(Compression::Gzip),
        "zstd" => Ok(Compression::Zstd),
        _ => Err(ApiError::invalid(format!(
            "invalid compression {name:?}: gzip and zstd are known"
        ))),
    }
}
