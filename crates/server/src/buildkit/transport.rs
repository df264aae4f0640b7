//! HTTP/2 on a socket that was taken from under HTTP/1.

use std::io::{self, Cursor};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;

use crate::hijack::{RawConnection, write_now};

/// Calls at once on one connection; further ones wait at the client.
const CALLS: u32 = 128;
/// Bytes of the headers of a call.
const HEADERS: u32 = 64 << 10;
/// A peer that does not answer for so long is gone.
const ALIVE: Duration = Duration::from_secs(20);

const SWITCHING: &[u8] = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";

/// Tells the client to go on in HTTP/2, and makes a stream of the socket.
pub(super) fn switch(raw: RawConnection) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send> {
    write_now(&raw.socket, SWITCHING)?;
    let RawConnection { socket, leftover } = raw;
    let (read, write) = stream(socket)?.into_split();
    Ok(tokio::io::join(Cursor::new(leftover).chain(read), write))
}

fn stream(socket: OwnedFd) -> io::Result<UnixStream> {
    // TCP sockets are read and written through this type just as well.
    UnixStream::from_std(StdStream::from(socket))
}

/// Answers calls until the client leaves or `stop` is set.
pub(super) async fn serve(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    services: Router,
    stop: CancellationToken,
) {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(ALIVE)
        .keep_alive_timeout(ALIVE)
        .max_concurrent_streams(CALLS)
        .max_header_list_size(HEADERS);
    let service = TowerToHyperService::new(services);
    let connection = builder.serve_connection(TokioIo::new(io), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client of the build interface left");
    }
}

/// Calls to the peer of a connection. A cheap clone.
#[derive(Clone, Debug)]
pub(super) struct Channel(SendRequest<Body>);

impl Channel {
    /// Begins to talk, and ends the connection when `gone` is set; sets it when the peer leaves.
    pub(super) async fn open(
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        gone: CancellationToken,
    ) -> hyper::Result<Self> {
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(HEADERS);
        let (sender, connection) = builder.handshake(TokioIo::new(io)).await?;
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "a client's session broke off");
                    }
                    gone.cancel();
                }
                () = gone.cancelled() => {}
            }
        });
        Ok(Self(sender))
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
