//! Images that come from elsewhere: pull, load and import, told as JSON messages.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use futures_util::StreamExt;
use http::HeaderMap;
use sampan_api::types::auth::AuthConfig;
use sampan_api::types::message::Message;
use sampan_images::{Credentials, Image, ImportOptions, Progress, ProgressSink, PullOptions};
use sampan_oci::{Platform, Reference};

use super::news::{Operation, answer, answer_stream, told};
use crate::app::App;
use crate::body::BlockingBody;
use crate::error::ApiError;
use crate::query::Query;
use crate::unbuilt::refusal;

/// `POST /images/create`: pulls with `fromImage`, imports with `fromSrc`.
pub(super) async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    query: Query,
    body: Body,
) -> Result<Response, ApiError> {
    if let Some(name) = query.text("fromImage") {
        return pull(&app, &headers, &query, name).await;
    }
    match query.text("fromSrc") {
        Some(from) => import(&app, &query, from, body).await,
        None => Err(ApiError::invalid(
            "one of the parameters fromImage and fromSrc must be given",
        )),
    }
}

fn platform(query: &Query) -> Result<Option<Platform>, ApiError> {
    query
        .text("platform")
        .map(|text| {
            text.parse()
                .map_err(|error| ApiError::invalid(format!("invalid platform {text:?}: {error}")))
        })
        .transpose()
}

/// A platform as JSON, which load and others take since 1.48.
pub(super) fn json_platform(query: &Query) -> Result<Option<Platform>, ApiError> {
    let mut platforms = query.all("platform").filter(|text| !text.is_empty());
    let Some(text) = platforms.next() else {
        return Ok(None);
    };
    if platforms.next().is_some() {
        return Err(refusal("several platforms at once"));
    }
    serde_json::from_str(text)
        .map(Some)
        .map_err(|error| ApiError::invalid(format!("failed to parse platform: {error}")))
}

pub(super) fn reference(text: &str) -> Result<Reference, ApiError> {
    text.parse()
        .map_err(|error: sampan_oci::reference::ReferenceError| {
            ApiError::invalid(error.to_string())
        })
}

async fn pull(
    app: &App,
    headers: &HeaderMap,
    query: &Query,
    name: &str,
) -> Result<Response, ApiError> {
    let reference = match query.text("tag") {
        Some(digest) if digest.contains(':') => reference(&format!("{name}@{digest}"))?,
        Some(tag) => reference(&format!("{name}:{tag}"))?,
        None => reference(name.trim_end_matches(':'))?,
    };
    let options = PullOptions {
        platform: platform(query)?,
        credentials: credentials(headers),
        ..PullOptions::default()
    };
    let (sink, news) = ProgressSink::channel();
    let engine = Arc::clone(&app.engine);
    let operation = Operation::on_a_thread(move || async move {
        let images = engine.images();
        let all = reference.tag().is_none() && reference.digest().is_none();
        if !all && let Some(image) = images.install_bundled(&reference).await? {
            sink.send(Progress::Downloaded {
                image: reference.familiar(),
            });
            images.tell_pulled(&image, &reference);
            return Ok(());
        }
        let wanted = if all {
            let credentials = &options.credentials;
            images.remote_tags(&reference, credentials).await?
        } else {
            vec![reference]
        };
        for reference in &wanted {
            let pulled = images.store().pull(reference, &options, &sink).await?;
            images.tell_pulled(&pulled.image, reference);
        }
        Ok(())
    });
    answer(news, operation, |()| None).await
}

/// Who asks, by the header that clients send along; anything else in it is nobody.
pub(super) fn credentials(headers: &HeaderMap) -> Credentials {
    let auth = headers
        .get("x-registry-auth")
        .and_then(|value| AuthConfig::from_header(value.to_str().ok()?));
    auth.map_or_else(Credentials::default, credentials_of)
}

pub(crate) fn credentials_of(auth: AuthConfig) -> Credentials {
    Credentials {
        username: auth.0.username,
        password: auth.0.password,
        identity_token: auth.0.identity_token,
        registry_token: auth.0.registry_token,
    }
}

async fn import(app: &App, query: &Query, from: &str, body: Body) -> Result<Response, ApiError> {
    let name = match (query.text("repo"), query.text("tag")) {
        (None, _) => None,
        (Some(repository), None) => Some(reference(repository)?.or_latest()),
        (Some(repository), Some(tag)) => Some(reference(&format!("{repository}:{tag}"))?),
    };
    let options = ImportOptions {
        name,
        message: query.text("message").unwrap_or_default().to_owned(),
        source: from.to_owned(),
        changes: query.all("changes").map(str::to_owned).collect(),
        platform: platform(query)?,
    };
    let (sink, news) = ProgressSink::channel();
    let engine = Arc::clone(&app.engine);
    let last = |image: Arc<Image>| Some(Message::status(image.id.to_string()));
    if from == "-" {
        let reader = BlockingBody::new(body);
        let operation =
            Operation::spawn(async move { engine.images().import(reader, options, sink).await });
        return answer(news, operation, last).await;
    }
    let url = if from.contains("://") {
        from.to_owned()
    } else {
        format!("http://{from}")
    };
    let operation = Operation::on_a_thread(move || async move {
        let images = engine.images();
        // Only what is there is told of: anything else has a status of its own.
        let reader = images.open_url(&url).await?;
        sink.send(Progress::DownloadingFrom { url });
        images.import(reader, options, sink).await
    });
    answer(news, operation, last).await
}

/// `POST /images/load`.
pub(super) async fn load(
    State(app): State<App>,
    query: Query,
    body: Body,
) -> Result<Response, ApiError> {
    let platform = json_platform(&query)?;
    let quiet = query.flag_or("quiet", true);
    let (sink, news) = ProgressSink::channel();
    let engine = Arc::clone(&app.engine);
    let reader = BlockingBody::new(body);
    let operation =
        Operation::spawn(async move { engine.images().load(reader, platform, sink).await });
    let news = told(news).filter(move |progress| {
        let wanted = !quiet || !matches!(progress, Progress::Layer { .. });
        std::future::ready(wanted)
    });
    answer_stream(news, operation, |_| None).await
}
