//! Volumes.

use super::request::encode_segment;
use super::{Client, Error};
use crate::filters::Filters;
use crate::types::volume::{Volume, VolumeCreateRequest, VolumeList, VolumePruneResponse};

impl Client {
    /// `GET /volumes`.
    pub async fn list_volumes(&self, filters: &Filters) -> Result<VolumeList, Error> {
        self.get("/volumes")
            .filters(filters)
            .send()
            .await?
            .json()
            .await
    }

    /// `GET /volumes/{name}`.
    pub async fn inspect_volume(&self, name: &str) -> Result<Volume, Error> {
        let path = format!("/volumes/{}", encode_segment(name));
        self.get(path).send().await?.json().await
    }

    /// `POST /volumes/create`.
    pub async fn create_volume(&self, request: &VolumeCreateRequest) -> Result<Volume, Error> {
        let sent = self.post("/volumes/create").json(request)?.send();
        sent.await?.json().await
    }

    /// `POST /volumes/prune`.
    pub async fn prune_volumes(&self, filters: &Filters) -> Result<VolumePruneResponse, Error> {
        let request = self.post("/volumes/prune").filters(filters);
        request.send().await?.json().await
    }

    /// `DELETE /volumes/{name}`.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<(), Error> {
        let path = format!("/volumes/{}", encode_segment(name));
        let request = self.delete(path).flag("force", force);
        request.send().await.map(drop)
    }
}
