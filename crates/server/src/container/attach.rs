//! `POST /containers/{id}/attach`.

use axum::extract::{Extension, Path, State};
use axum::response::Response;
use sampan_api::ApiVersion;
use sampan_engine::{AttachOptions, ClientStream};

use crate::app::App;
use crate::error::ApiError;
use crate::hijack::Hijack;
use crate::query::Query;

/// Hands the client's connection to the container.
pub(super) async fn attach(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    Path(id): Path<String>,
    query: Query,
    hijack: Hijack,
) -> Result<Response, ApiError> {
    let options = options(&query);
    let containers = app.engine.containers();
    let full = containers.inspect(&id).await?.id.to_string();
    let attachment = containers.attach(&full, options).await?;
    let note = app.attaching(&full);
    let head = hijack.head(content_type(attachment.tty, hijack.upgrade, version));
    let response = hijack.take(async move |raw| {
        if let Err(error) = head.write(&raw.socket).await {
            tracing::debug!(%error, "a client left before it was attached");
            return;
        }
        let client = ClientStream {
            socket: raw.socket,
            leftover: raw.leftover,
        };
        if let Err(error) = attachment.connect(client).await {
            tracing::warn!(%error, "a client could not be attached");
        }
        drop(note);
    });
    Ok(response.await)
}

/// What a client wishes for, with Docker's frames.
pub(super) fn options(query: &Query) -> AttachOptions {
    AttachOptions {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        logs: query.flag("logs"),
        stream: query.flag("stream"),
        detach_keys: query.text("detachKeys").map(str::to_owned),
        raw: false,
    }
}

/// The type of a stream that is attached. Old clients know one type only, and so do those that
/// did not ask for an upgrade.
pub(super) fn content_type(tty: bool, upgrade: bool, version: ApiVersion) -> &'static str {
    if !tty && upgrade && version.at_least(42) {
        "application/vnd.docker.multiplexed-stream"
    } else {
        "application/vnd.docker.raw-stream"
    }
}
