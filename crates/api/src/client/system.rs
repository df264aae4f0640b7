//! The engine itself.

use http::Method;

use super::{Client, Error, JsonStream};
use crate::filters::Filters;
use crate::types::auth::{AuthConfig, AuthResponse};
use crate::types::event::Event;
use crate::types::system::{Info, Version};
use crate::version::ApiVersion;

impl Client {
    /// `HEAD /_ping`: the newest version the engine speaks, if it says.
    pub async fn ping(&self) -> Result<Option<ApiVersion>, Error> {
        let response = self.unversioned(Method::HEAD, "/_ping").send().await?;
        let version = response.headers().get("api-version");
        Ok(version.and_then(|value| value.to_str().ok()?.parse().ok()))
    }

    /// `GET /version`.
    pub async fn engine_version(&self) -> Result<Version, Error> {
        self.get("/version").send().await?.json().await
    }

    /// `GET /info`.
    pub async fn info(&self) -> Result<Info, Error> {
        self.get("/info").send().await?.json().await
    }

    /// `GET /events`. Times are seconds since 1970 with a fraction; the stream ends at `until`.
    pub async fn events(
        &self,
        since: Option<&str>,
        until: Option<&str>,
        filters: &Filters,
    ) -> Result<JsonStream<Event>, Error> {
        let request = self
            .get("/events")
            .maybe("since", since)
            .maybe("until", until)
            .filters(filters);
        Ok(request.send().await?.into_json_stream())
    }

    /// `POST /auth`.
    pub async fn check_auth(&self, auth: &AuthConfig) -> Result<AuthResponse, Error> {
        self.post("/auth").json(&auth.0)?.send().await?.json().await
    }
}
