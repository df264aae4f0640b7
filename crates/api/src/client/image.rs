//! Images.

use bytes::Bytes;

use super::request::encode_name;
use super::{Client, Error, JsonStream, Response};
use crate::filters::Filters;
use crate::types::auth::AuthConfig;
use crate::types::image::{
    DeleteItem, HistoryItem, ImageInspect, ImagePruneResponse, ImageSummary,
};
use crate::types::message::Message;

/// What to pull.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Name without tag.
    pub name: String,
    /// Tag or digest.
    pub tag: String,
    /// `os[/architecture[/variant]]`.
    pub platform: Option<String>,
    /// Credentials.
    pub auth: Option<AuthConfig>,
}

fn path(name: &str, verb: &str) -> String {
    format!("/images/{}{verb}", encode_name(name))
}

impl Client {
    /// `GET /images/json`.
    pub async fn list_images(
        &self,
        all: bool,
        filters: &Filters,
    ) -> Result<Vec<ImageSummary>, Error> {
        self.get("/images/json")
            .flag("all", all)
            .filters(filters)
            .send()
            .await?
            .json()
            .await
    }

    /// `GET /images/{name}/json`.
    pub async fn inspect_image(&self, name: &str) -> Result<ImageInspect, Error> {
        self.inspect_image_raw(name).await?.json().await
    }

    /// `GET /images/{name}/json`, as it came.
    pub async fn inspect_image_raw(&self, name: &str) -> Result<Response, Error> {
        self.get(path(name, "/json")).send().await
    }

    /// `GET /images/{name}/history`.
    pub async fn image_history(&self, name: &str) -> Result<Vec<HistoryItem>, Error> {
        self.get(path(name, "/history")).send().await?.json().await
    }

    /// `POST /images/create` with `fromImage`. The last message may be an error.
    pub async fn pull_image(&self, options: &PullOptions) -> Result<JsonStream<Message>, Error> {
        let mut request = self
            .post("/images/create")
            .query("fromImage", &options.name)
            .query("tag", &options.tag)
            .maybe("platform", options.platform.as_ref());
        if let Some(auth) = &options.auth {
            let header = http::HeaderName::from_static("x-registry-auth");
            request = request.header(header, auth.to_header());
        }
        Ok(request.send().await?.into_json_stream())
    }

    /// `POST /images/create` with `fromSrc`: makes an image of a file system's tar.
    pub async fn import_image<B>(
        &self,
        repository: &str,
        tag: &str,
        message: Option<&str>,
        platform: Option<&str>,
        changes: &[String],
        tar: B,
    ) -> Result<JsonStream<Message>, Error>
    where
        B: hyper::body::Body<Data = Bytes, Error = std::io::Error> + Send + 'static,
    {
        let mut request = self
            .post("/images/create")
            .query("fromSrc", "-")
            .query("repo", repository)
            .query("tag", tag)
            .maybe("message", message)
            .maybe("platform", platform);
        for change in changes {
            request = request.query("changes", change);
        }
        let response = request.body(tar, "application/x-tar").send().await?;
        Ok(response.into_json_stream())
    }

    /// `POST /images/load`.
    pub async fn load_images<B>(&self, quiet: bool, tar: B) -> Result<JsonStream<Message>, Error>
    where
        B: hyper::body::Body<Data = Bytes, Error = std::io::Error> + Send + 'static,
    {
        let response = self
            .post("/images/load")
            .query("quiet", if quiet { "1" } else { "0" })
            .body(tar, "application/x-tar")
            .send()
            .await?;
        Ok(response.into_json_stream())
    }

    /// `POST /images/{name}/tag`.
    pub async fn tag_image(&self, name: &str, repository: &str, tag: &str) -> Result<(), Error> {
        let request = self
            .post(path(name, "/tag"))
            .query("repo", repository)
            .query("tag", tag);
        request.send().await.map(drop)
    }

    /// `DELETE /images/{name}`.
    pub async fn remove_image(
        &self,
        name: &str,
        force: bool,
        no_prune: bool,
        platforms: &[String],
    ) -> Result<Vec<DeleteItem>, Error> {
        let mut request = self
            .delete(path(name, ""))
            .flag("force", force)
            .flag("noprune", no_prune);
        for platform in platforms {
            request = request.query("platforms", platform);
        }
        request.send().await?.json().await
    }

    /// `POST /images/prune`.
    pub async fn prune_images(&self, filters: &Filters) -> Result<ImagePruneResponse, Error> {
        let request = self.post("/images/prune").filters(filters);
        request.send().await?.json().await
    }
}
