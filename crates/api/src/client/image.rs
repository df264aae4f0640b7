//! Images.

use bytes::Bytes;

use super::request::encode_name;
use super::{ByteStream, Client, Error, JsonStream, Request, Response};
use crate::filters::Filters;
use crate::types::auth::AuthConfig;
use crate::types::image::{
    DeleteItem, HistoryItem, ImageInspect, ImagePruneResponse, ImageSummary,
};
use crate::types::message::Message;

const REGISTRY_AUTH: http::HeaderName = http::HeaderName::from_static("x-registry-auth");

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

/// What to push.
#[derive(Debug, Clone, Default)]
pub struct PushOptions {
    /// Name without tag.
    pub name: String,
    /// Tag; empty for all that there are.
    pub tag: String,
    /// Push only the image of this machine.
    pub platform: Option<String>,
    /// How layers are to be packed; not in Docker's API.
    pub compression: Option<String>,
    /// Credentials.
    pub auth: Option<AuthConfig>,
}

/// What an import makes of a tar.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Name without tag; empty for an image without a name.
    pub repository: String,
    /// Tag.
    pub tag: String,
    /// Message of the image.
    pub message: Option<String>,
    /// `os[/architecture[/variant]]`.
    pub platform: Option<String>,
    /// Instructions on the configuration.
    pub changes: Vec<String>,
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
            request = request.header(REGISTRY_AUTH, auth.to_header());
        }
        Ok(request.send().await?.into_json_stream())
    }

    /// `POST /images/{name}/push`. The last message may be an error.
    pub async fn push_image(&self, options: &PushOptions) -> Result<JsonStream<Message>, Error> {
        let auth = options.auth.clone().unwrap_or_default();
        let request = self
            .post(path(&options.name, "/push"))
            .query("tag", &options.tag)
            .maybe("platform", options.platform.as_ref())
            .maybe("compression", options.compression.as_ref())
            .header(REGISTRY_AUTH, auth.to_header());
        Ok(request.send().await?.into_json_stream())
    }

    /// `POST /images/create` with `fromSrc`: makes an image of a file system's tar.
    pub async fn import_image<B>(
        &self,
        options: &ImportOptions,
        tar: B,
    ) -> Result<JsonStream<Message>, Error>
    where
        B: hyper::body::Body<Data = Bytes, Error = std::io::Error> + Send + 'static,
    {
        let request = self.import("-", options).body(tar, "application/x-tar");
        Ok(request.send().await?.into_json_stream())
    }

    /// `POST /images/load`.
    pub async fn load_images<B>(
        &self,
        quiet: bool,
        platform: Option<&str>,
        tar: B,
    ) -> Result<JsonStream<Message>, Error>
    where
        B: hyper::body::Body<Data = Bytes, Error = std::io::Error> + Send + 'static,
    {
        let response = self
            .post("/images/load")
            .query("quiet", if quiet { "1" } else { "0" })
            .maybe("platform", platform)
            .body(tar, "application/x-tar")
            .send()
            .await?;
        Ok(response.into_json_stream())
    }

    /// `GET /images/search`.
    pub async fn search_images(
        &self,
        term: &str,
        limit: Option<&str>,
        filters: &Filters,
        auth: Option<&AuthConfig>,
    ) -> Result<Response, Error> {
        let mut request = self
            .get("/images/search")
            .query("term", term)
            .maybe("limit", limit)
            .filters(filters);
        if let Some(auth) = auth {
            request = request.header(REGISTRY_AUTH, auth.to_header());
        }
        request.send().await
    }

    /// `POST /images/create` with a URL as `fromSrc`.
    pub async fn import_url(
        &self,
        url: &str,
        options: &ImportOptions,
    ) -> Result<JsonStream<Message>, Error> {
        let response = self.import(url, options).send().await?;
        Ok(response.into_json_stream())
    }

    fn import(&self, from: &str, options: &ImportOptions) -> Request<'_> {
        let mut request = self
            .post("/images/create")
            .query("fromSrc", from)
            .query("repo", &options.repository)
            .query("tag", &options.tag)
            .maybe("message", options.message.as_ref())
            .maybe("platform", options.platform.as_ref());
        for change in &options.changes {
            request = request.query("changes", change);
        }
        request
    }

    /// `GET /images/get`: an archive of these images.
    pub async fn save_images(
        &self,
        names: &[String],
        platform: Option<&str>,
    ) -> Result<ByteStream, Error> {
        let mut request = self.get("/images/get").maybe("platform", platform);
        for name in names {
            request = request.query("names", name);
        }
        Ok(request.send().await?.into_stream())
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
