//! Containers.

use super::request::encode_segment;
use super::{ByteStream, Client, Error, Hijacked, JsonStream, Response};
use crate::filters::Filters;
use crate::types::container::{
    Change, ContainerInspect, ContainerSummary, CreateRequest, CreateResponse, PathStat,
    TopResponse, UpdateRequest, UpdateResponse, WaitResponse,
};
use crate::types::stats::StatsResponse;

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Those that do not run, too.
    pub all: bool,
    /// The newest so many; 0 for all.
    pub limit: u32,
    /// With sizes.
    pub size: bool,
    /// Only those that match.
    pub filters: Filters,
}

/// What to attach.
#[derive(Debug, Clone, Default)]
pub struct AttachOptions {
    /// Input.
    pub stdin: bool,
    /// Output.
    pub stdout: bool,
    /// Errors.
    pub stderr: bool,
    /// What is written from now on.
    pub stream: bool,
    /// What was written before.
    pub logs: bool,
    /// Keys that detach; none for the engine's default.
    pub detach_keys: Option<String>,
}

/// What logs to read.
#[derive(Debug, Clone, Default)]
pub struct LogsOptions {
    /// Output.
    pub stdout: bool,
    /// Errors.
    pub stderr: bool,
    /// Go on with what is written from now on.
    pub follow: bool,
    /// Time before each line.
    pub timestamps: bool,
    /// Attributes before each line.
    pub details: bool,
    /// Seconds since 1970, with a fraction.
    pub since: Option<String>,
    /// Seconds since 1970, with a fraction.
    pub until: Option<String>,
    /// The last so many lines, or `all`.
    pub tail: Option<String>,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    /// It does not run; at once when it does not run now.
    NotRunning,
    /// It ends the next time.
    NextExit,
    /// It is removed.
    Removed,
}

impl WaitCondition {
    fn name(self) -> &'static str {
        match self {
            Self::NotRunning => "not-running",
            Self::NextExit => "next-exit",
            Self::Removed => "removed",
        }
    }
}

/// A wait that the engine has registered.
#[derive(Debug)]
pub struct PendingWait(Response);

impl PendingWait {
    /// Waits.
    pub async fn finish(self) -> Result<WaitResponse, Error> {
        self.0.json().await
    }
}

fn path(id: &str, rest: &str) -> String {
    format!("/containers/{}{rest}", encode_segment(id))
}

/// Reads the header that tells of a path.
fn path_stat(headers: &http::HeaderMap) -> Result<PathStat, Error> {
    use base64::Engine as _;
    let value = headers.get("x-docker-container-path-stat");
    let bytes = value.and_then(|value| {
        base64::engine::general_purpose::STANDARD
            .decode(value.as_bytes())
            .ok()
    });
    Ok(serde_json::from_slice(&bytes.unwrap_or_default())?)
}

/// How an image is made of a container.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Name without tag; empty for an image without a name.
    pub repository: String,
    /// Tag.
    pub tag: String,
    /// Anything else.
    pub comment: String,
    /// Who made it.
    pub author: String,
    /// Instructions on the configuration.
    pub changes: Vec<String>,
    /// Lets the container go on meanwhile.
    pub no_pause: bool,
}

impl Client {
    /// `POST /commit`; answers the new image's identity.
    pub async fn commit_container(
        &self,
        id: &str,
        options: &CommitOptions,
    ) -> Result<String, Error> {
        let mut request = self
            .post("/commit")
            .query("container", id)
            .query("repo", &options.repository)
            .query("tag", &options.tag)
            .query("comment", &options.comment)
            .query("author", &options.author);
        if options.no_pause {
            request = request.query("pause", "0");
        }
        for change in &options.changes {
            request = request.query("changes", change);
        }
        let made: crate::types::image::CommitResponse = request.send().await?.json().await?;
        Ok(made.id)
    }

    /// `HEAD /containers/{id}/archive`: what is known of a path.
    pub async fn stat_path(&self, id: &str, at: &str) -> Result<PathStat, Error> {
        let request = self
            .request(http::Method::HEAD, path(id, "/archive"))
            .query("path", at);
        path_stat(request.send().await?.headers())
    }

    /// `GET /containers/{id}/archive`: a tar of what is at a path.
    pub async fn copy_from(&self, id: &str, at: &str) -> Result<(PathStat, ByteStream), Error> {
        let request = self.get(path(id, "/archive")).query("path", at);
        let response = request.send().await?;
        let stat = path_stat(response.headers())?;
        Ok((stat, response.into_stream()))
    }

    /// `PUT /containers/{id}/archive`: extracts a tar into a directory, without replacing
    /// directories by files or the other way round.
    pub async fn copy_to<B>(
        &self,
        id: &str,
        at: &str,
        as_container_user: bool,
        tar: B,
    ) -> Result<(), Error>
    where
        B: hyper::body::Body<Data = bytes::Bytes, Error = std::io::Error> + Send + 'static,
    {
        let request = self
            .request(http::Method::PUT, path(id, "/archive"))
            .query("path", at)
            .query("noOverwriteDirNonDir", "true")
            .flag("copyUIDGID", as_container_user)
            .body(tar, "application/x-tar");
        request.send().await.map(drop)
    }

    /// `GET /containers/{id}/changes`.
    pub async fn container_changes(&self, id: &str) -> Result<Vec<Change>, Error> {
        let response = self.get(path(id, "/changes")).send().await?;
        let changes: Option<Vec<Change>> = response.json().await?;
        Ok(changes.unwrap_or_default())
    }

    /// `GET /containers/{id}/top`; no arguments are `-ef`.
    pub async fn container_top(&self, id: &str, arguments: &str) -> Result<TopResponse, Error> {
        let arguments = (!arguments.is_empty()).then_some(arguments);
        let request = self.get(path(id, "/top")).maybe("ps_args", arguments);
        request.send().await?.json().await
    }

    /// `POST /containers/{id}/update`; answers warnings.
    pub async fn update_container(
        &self,
        id: &str,
        changes: &UpdateRequest,
    ) -> Result<Vec<String>, Error> {
        let request = self.post(path(id, "/update")).json(changes)?;
        let answer: UpdateResponse = request.send().await?.json().await?;
        Ok(answer.warnings.unwrap_or_default())
    }

    /// `GET /containers/{id}/stats`: one reading with the one before it.
    pub async fn container_stats(&self, id: &str) -> Result<StatsResponse, Error> {
        let request = self.get(path(id, "/stats")).query("stream", "0");
        request.send().await?.json().await
    }

    /// `GET /containers/{id}/stats`: a reading each second.
    pub async fn follow_stats(&self, id: &str) -> Result<JsonStream<StatsResponse>, Error> {
        let request = self.get(path(id, "/stats")).query("stream", "1");
        Ok(request.send().await?.into_json_stream())
    }

    /// `GET /containers/{id}/export`: a tar of its files.
    pub async fn export_container(&self, id: &str) -> Result<ByteStream, Error> {
        let path = format!("/containers/{}/export", encode_segment(id));
        Ok(self.get(path).send().await?.into_stream())
    }

    /// `POST /containers/create`.
    pub async fn create_container(
        &self,
        name: Option<&str>,
        platform: Option<&str>,
        request: &CreateRequest,
    ) -> Result<CreateResponse, Error> {
        self.post("/containers/create")
            .maybe("name", name)
            .maybe("platform", platform)
            .json(request)?
            .send()
            .await?
            .json()
            .await
    }

    /// `GET /containers/json`.
    pub async fn list_containers(
        &self,
        options: &ListOptions,
    ) -> Result<Vec<ContainerSummary>, Error> {
        let limit = (options.limit > 0).then(|| options.limit.to_string());
        self.get("/containers/json")
            .flag("all", options.all)
            .flag("size", options.size)
            .maybe("limit", limit)
            .filters(&options.filters)
            .send()
            .await?
            .json()
            .await
    }

    /// `GET /containers/{id}/json`.
    pub async fn inspect_container(&self, id: &str) -> Result<ContainerInspect, Error> {
        self.inspect_container_raw(id, false).await?.json().await
    }

    /// `GET /containers/{id}/json`, as it came.
    pub async fn inspect_container_raw(&self, id: &str, size: bool) -> Result<Response, Error> {
        self.get(path(id, "/json")).flag("size", size).send().await
    }

    /// `POST /containers/{id}/start`. One that runs already is [`Kind::NotModified`].
    ///
    /// [`Kind::NotModified`]: super::Kind::NotModified
    pub async fn start_container(&self, id: &str, detach_keys: Option<&str>) -> Result<(), Error> {
        let request = self
            .post(path(id, "/start"))
            .maybe("detachKeys", detach_keys);
        request.send().await.map(drop)
    }

    /// `POST /containers/{id}/stop`. `seconds` of -1 waits for ever.
    pub async fn stop_container(
        &self,
        id: &str,
        signal: Option<&str>,
        seconds: Option<i64>,
    ) -> Result<(), Error> {
        self.end("/stop", id, signal, seconds).await
    }

    /// `POST /containers/{id}/restart`. `seconds` of -1 waits for ever.
    pub async fn restart_container(
        &self,
        id: &str,
        signal: Option<&str>,
        seconds: Option<i64>,
    ) -> Result<(), Error> {
        self.end("/restart", id, signal, seconds).await
    }

    async fn end(
        &self,
        verb: &str,
        id: &str,
        signal: Option<&str>,
        seconds: Option<i64>,
    ) -> Result<(), Error> {
        let request = self
            .post(path(id, verb))
            .maybe("signal", signal)
            .maybe("t", seconds.map(|seconds| seconds.to_string()));
        request.send().await.map(drop)
    }

    /// `POST /containers/{id}/kill`.
    pub async fn kill_container(&self, id: &str, signal: Option<&str>) -> Result<(), Error> {
        let request = self.post(path(id, "/kill")).maybe("signal", signal);
        request.send().await.map(drop)
    }

    /// `POST /containers/{id}/pause`.
    pub async fn pause_container(&self, id: &str) -> Result<(), Error> {
        self.post(path(id, "/pause")).send().await.map(drop)
    }

    /// `POST /containers/{id}/unpause`.
    pub async fn unpause_container(&self, id: &str) -> Result<(), Error> {
        self.post(path(id, "/unpause")).send().await.map(drop)
    }

    /// `POST /containers/{id}/rename`.
    pub async fn rename_container(&self, id: &str, name: &str) -> Result<(), Error> {
        let request = self.post(path(id, "/rename")).query("name", name);
        request.send().await.map(drop)
    }

    /// `POST /containers/{id}/resize`.
    pub async fn resize_container(&self, id: &str, rows: u16, columns: u16) -> Result<(), Error> {
        let request = self
            .post(path(id, "/resize"))
            .query("h", rows.to_string())
            .query("w", columns.to_string());
        request.send().await.map(drop)
    }

    /// `DELETE /containers/{id}`.
    pub async fn remove_container(
        &self,
        id: &str,
        force: bool,
        volumes: bool,
    ) -> Result<(), Error> {
        let request = self
            .delete(path(id, ""))
            .flag("force", force)
            .flag("v", volumes);
        request.send().await.map(drop)
    }

    /// `POST /containers/{id}/wait`. When this returns, the engine has registered the wait, so
    /// that no exit after it is missed.
    pub async fn wait_container(
        &self,
        id: &str,
        condition: WaitCondition,
    ) -> Result<PendingWait, Error> {
        let request = self
            .post(path(id, "/wait"))
            .query("condition", condition.name());
        request.send().await.map(PendingWait)
    }

    /// `POST /containers/{id}/attach`.
    pub async fn attach_container(
        &self,
        id: &str,
        options: &AttachOptions,
    ) -> Result<Hijacked, Error> {
        self.post(path(id, "/attach"))
            .flag("stdin", options.stdin)
            .flag("stdout", options.stdout)
            .flag("stderr", options.stderr)
            .flag("stream", options.stream)
            .flag("logs", options.logs)
            .maybe("detachKeys", options.detach_keys.as_ref())
            .hijack()
            .await
    }

    /// `GET /containers/{id}/logs`.
    pub async fn container_logs(
        &self,
        id: &str,
        options: &LogsOptions,
    ) -> Result<ByteStream, Error> {
        let response = self
            .get(path(id, "/logs"))
            .flag("stdout", options.stdout)
            .flag("stderr", options.stderr)
            .flag("follow", options.follow)
            .flag("timestamps", options.timestamps)
            .flag("details", options.details)
            .maybe("since", options.since.as_ref())
            .maybe("until", options.until.as_ref())
            .maybe("tail", options.tail.as_ref())
            .send()
            .await?;
        Ok(response.into_stream())
    }
}
