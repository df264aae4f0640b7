//! Execs.

use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use sampan_api::ApiVersion;
use sampan_api::types::IdResponse;
use sampan_api::types::exec::{ExecCreateRequest, ExecInspect, ExecStartRequest, ProcessConfig};
use sampan_engine::{ClientStream, ExecConfig, ExecStartOptions, ExecState, ExecView};

use super::attach::content_type;
use super::terminal_size;
use crate::app::{App, to_the_end};
use crate::body::JsonBody;
use crate::error::ApiError;
use crate::hijack::Hijack;
use crate::query::Query;
use crate::reply::{self, Json};

fn cells(size: Option<[u32; 2]>) -> Option<[u16; 2]> {
    size.map(|size| size.map(|cells| u16::try_from(cells).unwrap_or(u16::MAX)))
}

/// `POST /containers/{id}/exec`.
pub(super) async fn create(
    State(app): State<App>,
    Path(id): Path<String>,
    JsonBody(body): JsonBody<ExecCreateRequest>,
) -> Result<Response, ApiError> {
    let cmd = body.cmd.map(|words| words.0).unwrap_or_default();
    if cmd.is_empty() {
        return Err(ApiError::invalid("No exec command specified"));
    }
    let config = ExecConfig {
        user: body.user,
        privileged: body.privileged,
        tty: body.tty,
        console_size: cells(body.console_size),
        attach_stdin: body.attach_stdin,
        attach_stdout: body.attach_stdout,
        attach_stderr: body.attach_stderr,
        detach_keys: Some(body.detach_keys).filter(|keys| !keys.is_empty()),
        env: body.env.unwrap_or_default(),
        working_dir: body.working_dir,
        cmd,
    };
    let id = app.engine.containers().exec_create(&id, config).await?;
    let response = IdResponse { id: id.to_string() };
    Ok(reply::json(StatusCode::CREATED, &response))
}

/// `POST /exec/{id}/start`.
pub(super) async fn start(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    Path(id): Path<String>,
    hijack: Hijack,
    JsonBody(body): JsonBody<ExecStartRequest>,
) -> Result<Response, ApiError> {
    let options = ExecStartOptions {
        // Nobody looks at the stream of one that is detached, whatever its form.
        tty: (!body.detach).then_some(body.tty),
        console_size: cells(body.console_size),
    };
    let starter = app.engine.containers().exec_start(&id, options).await?;
    if body.detach {
        to_the_end(starter.detached()).await?;
        return Ok(StatusCode::OK.into_response());
    }
    let head = hijack.head(content_type(starter.tty, hijack.upgrade, version));
    let response = hijack.take(async move |raw| {
        // Written even when the client has left: the exec is started as it was asked for.
        if let Err(error) = head.write(&raw.socket).await {
            tracing::debug!(%error, "a client left before its exec started");
        }
        let client = ClientStream {
            socket: raw.socket,
            leftover: raw.leftover,
        };
        if let Err(error) = starter.attached(client).await {
            // The client was told on its stream.
            tracing::debug!(%error, "an exec did not start");
        }
    });
    Ok(response.await)
}

/// `POST /exec/{id}/resize`.
pub(super) async fn resize(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
) -> Result<StatusCode, ApiError> {
    let size = terminal_size(&query)?;
    app.engine.containers().exec_resize(&id, size).await?;
    Ok(StatusCode::OK)
}

/// `GET /exec/{id}/json`.
pub(super) async fn inspect(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Json<ExecInspect>, ApiError> {
    let view = app.engine.containers().exec_inspect(&id).await?;
    Ok(Json(show(&view)))
}

fn show(view: &ExecView) -> ExecInspect {
    let config = &view.config;
    let (running, pid, exit_code) = match view.state {
        ExecState::Created => (false, 0, None),
        ExecState::Starting => (true, 0, None),
        ExecState::Running { pid } => (true, pid, None),
        ExecState::Exited { pid, code } => (false, pid, Some(code.into())),
    };
    let (program, arguments) = match config.cmd.split_first() {
        Some((program, arguments)) => (program.clone(), arguments.to_vec()),
        None => (String::new(), Vec::new()),
    };
    ExecInspect {
        id: view.id.to_string(),
        running,
        exit_code,
        process_config: ProcessConfig {
            tty: config.tty,
            entrypoint: program,
            arguments,
            privileged: Some(config.privileged),
            user: config.user.clone(),
        },
        open_stdin: config.attach_stdin,
        open_stderr: config.attach_stderr,
        open_stdout: config.attach_stdout,
        can_remove: exit_code.is_some(),
        container_id: view.container.to_string(),
        detach_keys: String::new(),
        pid: pid.into(),
    }
}
