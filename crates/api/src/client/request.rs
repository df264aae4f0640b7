//! Building and sending a request.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::hijack::Hijacked;
use super::response::Response;
use super::{Client, Error};
use crate::filters::Filters;

/// A request body: empty, bytes or a stream.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A request under construction.
#[must_use = "a request does nothing until it is sent"]
pub struct Request<'c> {
    client: &'c Client,
    method: Method,
    target: String,
    has_query: bool,
    headers: Vec<(header::HeaderName, String)>,
    body: Body,
}

impl<'c> Request<'c> {
    pub(super) fn new(client: &'c Client, method: Method, target: String) -> Self {
        Self {
            client,
            method,
            target,
            has_query: false,
            headers: Vec::new(),
            body: empty(),
        }
    }

    /// Adds a query argument.
    pub fn query(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.target.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.target.push_str(&encode_segment(name));
        self.target.push('=');
        self.target.push_str(&encode_segment(value.as_ref()));
        self
    }

    /// Adds a query argument when there is a value.
    pub fn maybe(self, name: &str, value: Option<impl AsRef<str>>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// Adds `name=1` when `wanted`.
    pub fn flag(self, name: &str, wanted: bool) -> Self {
        if wanted { self.query(name, "1") } else { self }
    }

    /// Adds the filters when there are any.
    pub fn filters(self, filters: &Filters) -> Self {
        if filters.is_empty() {
            self
        } else {
            self.query("filters", filters.encode())
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sends a value as JSON.
    pub fn json(mut self, value: &impl serde::Serialize) -> Result<Self, Error> {
        let json = serde_json::to_vec(value)?;
        self.body = Full::new(Bytes::from(json))
            .map_err(|never| match never {})
            .boxed_unsync();
        Ok(self.header(header::CONTENT_TYPE, "application/json"))
    }

    /// Sends a stream.
    pub fn body<B>(mut self, body: B, content_type: &str) -> Self
    where
        B: hyper::body::Body<Data = Bytes, Error = std::io::Error> + Send + 'static,
    {
        self.body = body.boxed_unsync();
        self.header(header::CONTENT_TYPE, content_type)
    }

    /// Sends it and waits for the head of the answer. An error status is an error.
    pub async fn send(self) -> Result<Response, Error> {
        self.exchange().await?.or_error().await
    }

    /// Sends it, asking for the connection. The engine's answer before that may be an error.
    pub async fn hijack(self) -> Result<Hijacked, Error> {
        self.upgrade("tcp").await
    }

    /// Sends it, asking for the connection for another protocol.
    pub async fn upgrade(self, protocol: &str) -> Result<Hijacked, Error> {
        let request = self
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, protocol);
        let response = request.exchange().await?.or_error().await?;
        Hijacked::from_response(response).await
    }

    async fn exchange(self) -> Result<Response, Error> {
        let mut request = http::Request::builder()
            .method(self.method)
            .uri(&self.target)
            .header(header::HOST, HeaderValue::from_static("docker"))
            .header(
                header::USER_AGENT,
                concat!("sampan/", env!("CARGO_PKG_VERSION")),
            );
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(self.body)?;
        let socket = self.client.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        // The task ends with the connection: when the answer is read or dropped, or when the
        // upgrade takes the socket out of it.
        tokio::spawn(connection.with_upgrades());
        Ok(Response::new(sender.send_request(request).await?))
    }
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Writes `text` so that it can stand between two slashes or as a query's name or value.
#[must_use]
pub fn encode_segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a string never fails");
        }
    }
    encoded
}

/// Writes an image's name for a path: slashes stay.
pub(super) fn encode_name(name: &str) -> String {
    name.split('/')
        .map(encode_segment)
        .collect::<Vec<_>>()
        .join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_cannot_leave_their_place() {
        assert_eq!(encode_segment("a/b?c&d=e %"), "a%2Fb%3Fc%26d%3De%20%25");
        assert_eq!(encode_name("h:5000/a/b:t"), "h%3A5000/a/b%3At");
    }
}
