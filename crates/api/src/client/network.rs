//! Networks.

use super::request::encode_segment;
use super::{Client, Error};
use crate::filters::Filters;
use crate::types::network::Network;

impl Client {
    /// `GET /networks`.
    pub async fn list_networks(&self, filters: &Filters) -> Result<Vec<Network>, Error> {
        self.get("/networks")
            .filters(filters)
            .send()
            .await?
            .json()
            .await
    }

    /// `GET /networks/{id}`.
    pub async fn inspect_network(&self, name: &str) -> Result<Network, Error> {
        let path = format!("/networks/{}", encode_segment(name));
        self.get(path).send().await?.json().await
    }
}
