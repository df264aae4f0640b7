//! Execs.

use super::request::encode_segment;
use super::{Client, Error, Hijacked, Response};
use crate::types::IdResponse;
use crate::types::exec::{ExecCreateRequest, ExecInspect, ExecStartRequest};

fn path(id: &str, verb: &str) -> String {
    format!("/exec/{}{verb}", encode_segment(id))
}

impl Client {
    /// `POST /containers/{id}/exec`.
    pub async fn create_exec(
        &self,
        container: &str,
        request: &ExecCreateRequest,
    ) -> Result<IdResponse, Error> {
        self.post(format!("/containers/{}/exec", encode_segment(container)))
            .json(request)?
            .send()
            .await?
            .json()
            .await
    }

    /// `POST /exec/{id}/start`, taking the connection.
    pub async fn start_exec(
        &self,
        id: &str,
        request: &ExecStartRequest,
    ) -> Result<Hijacked, Error> {
        self.post(path(id, "/start")).json(request)?.hijack().await
    }

    /// `POST /exec/{id}/start` with nobody attached; returns when it has started.
    pub async fn start_exec_detached(&self, id: &str, tty: bool) -> Result<(), Error> {
        let request = ExecStartRequest {
            detach: true,
            tty,
            console_size: None,
        };
        let sent = self.post(path(id, "/start")).json(&request)?.send();
        sent.await.map(drop)
    }

    /// `POST /exec/{id}/resize`.
    pub async fn resize_exec(&self, id: &str, rows: u16, columns: u16) -> Result<(), Error> {
        let request = self
            .post(path(id, "/resize"))
            .query("h", rows.to_string())
            .query("w", columns.to_string());
        request.send().await.map(drop)
    }

    /// `GET /exec/{id}/json`.
    pub async fn inspect_exec(&self, id: &str) -> Result<ExecInspect, Error> {
        self.inspect_exec_raw(id).await?.json().await
    }

    /// `GET /exec/{id}/json`, as it came.
    pub async fn inspect_exec_raw(&self, id: &str) -> Result<Response, Error> {
        self.get(path(id, "/json")).send().await
    }
}
