//! Connections that stop being HTTP: attach and exec.

use std::future::Future;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, header};

use crate::connection::Handover;
use crate::error::ApiError;

/// A socket that was taken from under HTTP. Not blocking.
pub(crate) struct RawConnection {
    /// The client's socket. Nothing was written to it yet.
    pub(crate) socket: OwnedFd,
    /// What the client sent behind its request.
    pub(crate) leftover: Vec<u8>,
}

/// What is done with the socket, to its end.
pub(crate) type Continuation =
    Box<dyn FnOnce(RawConnection) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// Leave to take the connection.
pub(crate) struct Hijack {
    handover: Arc<Handover>,
    /// The client asked for an upgrade and gets a 101; the others get a 200.
    pub(crate) upgrade: bool,
}

impl Hijack {
    /// Takes the socket and goes on with `continuation`, which writes the head of the answer
    /// (see [`head`]) and everything after. Never returns: the future is dropped instead.
    pub(crate) async fn take<F, R>(self, continuation: F) -> Response
    where
        F: FnOnce(RawConnection) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.handover
            .request(Box::new(move |raw| Box::pin(continuation(raw))));
        std::future::pending().await
    }
}

impl<S: Sync> FromRequestParts<S> for Hijack {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let handover = parts
            .extensions
            .get::<Arc<Handover>>()
            .ok_or_else(|| ApiError::internal("error attaching to stream: no raw connection"))?;
        Ok(Self {
            handover: Arc::clone(handover),
            upgrade: wants_upgrade(&parts.headers),
        })
    }
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
}

/// The head of a hijacked answer.
pub(crate) fn head(upgrade: bool, content_type: &str) -> Vec<u8> {
    let head = if upgrade {
        format!(
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\n\
             Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        )
    } else {
        format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n")
    };
    head.into_bytes()
}

/// Writes a short text to a socket whose buffer is empty, and so without waiting.
pub(crate) fn write_now(socket: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    // The standard library writes to a TCP socket through this type just as well.
    let mut stream = UnixStream::from(socket.try_clone()?);
    stream.write_all(bytes)
}
