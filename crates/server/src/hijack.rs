//! Connections that stop being HTTP: attach and exec.

use std::future::Future;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

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
    /// Nothing may come in one piece with the head.
    head_alone: bool,
}

impl Hijack {
    /// The head of the answer.
    pub(crate) fn head(&self, content_type: &str) -> Head {
        let head = if self.upgrade {
            format!(
                "HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\n\
                 Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
            )
        } else {
            format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n")
        };
        Head {
            bytes: head.into_bytes(),
            alone: self.head_alone,
        }
    }

    /// Takes the socket and goes on with `continuation`, which writes the head of the answer
    /// (see [`Hijack::head`]) and everything after. Never returns: the future is dropped instead.
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
            head_alone: !keeps_what_it_read(&parts.headers),
        })
    }
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
}

/// Whether a client is known to keep what it read behind a head. Some, docker-py among them, read
/// with a buffer and go on with the bare socket, and what was in the buffer is lost.
fn keeps_what_it_read(headers: &HeaderMap) -> bool {
    let agent = headers
        .get(header::USER_AGENT)
        .map(http::HeaderValue::as_bytes);
    agent.is_some_and(|agent| agent.starts_with(b"sampan/") || agent.starts_with(b"Docker-Client/"))
}

/// How long a client may take to read the head that must come alone.
const HEAD_PATIENCE: Duration = Duration::from_millis(200);

/// The head of a hijacked answer.
#[derive(Debug)]
pub(crate) struct Head {
    bytes: Vec<u8>,
    alone: bool,
}

impl Head {
    /// Writes it to a socket whose buffer is empty, and returns when more may follow.
    pub(crate) async fn write(&self, socket: &OwnedFd) -> io::Result<()> {
        write_now(socket, &self.bytes)?;
        if self.alone {
            // A client that does not read is not waited for.
            let _ = tokio::time::timeout(HEAD_PATIENCE, read_by_peer(socket)).await;
        }
        Ok(())
    }
}

async fn read_by_peer(socket: &OwnedFd) {
    while !sampan_kernel::descriptors::all_read(socket.as_fd()).unwrap_or(true) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Writes a short text to a socket whose buffer is empty, and so without waiting.
pub(crate) fn write_now(socket: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    // The standard library writes to a TCP socket through this type just as well.
    let mut stream = UnixStream::from(socket.try_clone()?);
    stream.write_all(bytes)
}
