//! Images that come from elsewhere: pull, load and import, told as JSON messages.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::HeaderMap;
use sampan_api::types::auth::AuthConfig;
use sampan_api::types::message::Message;
use sampan_images::{Credentials, ImportOptions, Progress, ProgressSink, PullOptions};
use sampan_oci::{Platform, Reference};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use super::message::message;
use crate::app::App;
use crate::body::BlockingBody;
use crate::error::ApiError;
use crate::query::Query;
use crate::reply;
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
        Some("-") => import(&app, &query, body).await,
        Some(_) => Err(ApiError::not_implemented(
            "importing from a URL is not supported by this engine yet: \
             fetch the archive and send it with fromSrc=-",
        )),
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
fn json_platform(query: &Query) -> Result<Option<Platform>, ApiError> {
    let mut platforms = query.all("platform").filter(|text| !text.is_empty());
    let Some(text) = platforms.next() else {
        return Ok(None);
    };
    if platforms.next().is_some() {
        return Err(refusal("loading several platforms of an image"));
    }
    serde_json::from_str(text)
        .map(Some)
        .map_err(|error| ApiError::invalid(format!("failed to parse platform: {error}")))
}

fn reference(text: &str) -> Result<Reference, ApiError> {
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
    if reference.tag().is_none() && reference.digest().is_none() {
        return Err(refusal("pulling all tags of a repository"));
    }
    let auth = headers
        .get("x-registry-auth")
        .and_then(|value| AuthConfig::from_header(value.to_str().ok()?));
    let options = PullOptions {
        platform: platform(query)?,
        credentials: auth.map(credentials).unwrap_or_default(),
    };
    let (sink, news) = ProgressSink::channel();
    let engine = Arc::clone(&app.engine);
    // On a thread of its own: a pull's future borrows too much to move between threads.
    let runtime = tokio::runtime::Handle::current();
    let operation = tokio::task::spawn_blocking(move || {
        runtime.block_on(async move {
            let images = engine.images();
            if let Some(image) = images.install_bundled(&reference).await? {
                sink.send(Progress::Downloaded {
                    image: reference.familiar(),
                });
                images.tell_pulled(&image, &reference);
                return Ok(());
            }
            let pulled = images.store().pull(&reference, &options, &sink).await?;
            images.tell_pulled(&pulled.image, &reference);
            Ok(())
        })
    });
    answer(news, operation, |()| None).await
}

fn credentials(auth: AuthConfig) -> Credentials {
    Credentials {
        username: auth.0.username,
        password: auth.0.password,
        identity_token: auth.0.identity_token,
        registry_token: auth.0.registry_token,
    }
}

async fn import(app: &App, query: &Query, body: Body) -> Result<Response, ApiError> {
    let name = match (query.text("repo"), query.text("tag")) {
        (None, _) => None,
        (Some(repository), None) => Some(reference(repository)?.or_latest()),
        (Some(repository), Some(tag)) => Some(reference(&format!("{repository}:{tag}"))?),
    };
    let options = ImportOptions {
        name,
        message: query.text("message").unwrap_or_default().to_owned(),
        source: "-".to_owned(),
        changes: query.all("changes").map(str::to_owned).collect(),
        platform: platform(query)?,
    };
    let (sink, news) = ProgressSink::channel();
    let engine = Arc::clone(&app.engine);
    let reader = BlockingBody::new(body);
    let operation =
        tokio::spawn(async move { engine.images().import(reader, options, sink).await });
    answer(news, operation, |image| {
        Some(Message::status(image.id.to_string()))
    })
    .await
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
    let operation = tokio::spawn(async move { engine.images().load(reader, platform, sink).await });
    let news = told(news).filter(move |progress| {
        let wanted = !quiet || !matches!(progress, Progress::Layer { .. });
        std::future::ready(wanted)
    });
    answer_stream(news, operation, |_| None).await
}

fn told(news: UnboundedReceiver<Progress>) -> impl Stream<Item = Progress> + Send {
    stream::unfold(news, async |mut news| Some((news.recv().await?, news)))
}

async fn answer<T, L>(
    news: UnboundedReceiver<Progress>,
    operation: JoinHandle<sampan_engine::Result<T>>,
    last: L,
) -> Result<Response, ApiError>
where
    T: Send + 'static,
    L: FnOnce(T) -> Option<Message> + Send + 'static,
{
    answer_stream(told(news), operation, last).await
}

/// Answers with an operation's news and how it ended. One that fails before there are any news
/// is answered with a status of its own; one that fails later with a last message.
async fn answer_stream<S, T, L>(
    news: S,
    operation: JoinHandle<sampan_engine::Result<T>>,
    last: L,
) -> Result<Response, ApiError>
where
    S: Stream<Item = Progress> + Send + 'static,
    T: Send + 'static,
    L: FnOnce(T) -> Option<Message> + Send + 'static,
{
    // Given up when the client leaves, as Docker does.
    let operation = AbortOnDrop(operation);
    let mut news = Box::pin(news);
    let Some(first) = news.next().await else {
        // It ended: nothing more is told by what has gone.
        let message = operation.end().await?;
        let line = last(message).map(|message| Ok(line(&message)));
        return Ok(reply::stream("application/json", stream::iter(line)));
    };
    let lines = stream::iter([line(&message(&first))])
        .chain(news.map(|progress| line(&message(&progress))));
    let end = stream::once(async move {
        match operation.end().await {
            Ok(value) => last(value).map(|message| line(&message)),
            Err(error) => Some(line(&Message::error(error.message()))),
        }
    });
    let end = end.filter_map(std::future::ready);
    Ok(reply::stream("application/json", lines.chain(end).map(Ok)))
}

/// A message and the end of line that Docker writes in these streams.
fn line(message: &Message) -> Bytes {
    let mut line = serde_json::to_vec(message).expect("messages are always valid JSON");
    line.extend_from_slice(b"\r\n");
    line.into()
}

/// An operation that is given up when nobody waits for its end any more.
struct AbortOnDrop<T>(JoinHandle<sampan_engine::Result<T>>);

impl<T> AbortOnDrop<T> {
    async fn end(mut self) -> Result<T, ApiError> {
        match (&mut self.0).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(ApiError::internal("the operation broke off")),
        }
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
