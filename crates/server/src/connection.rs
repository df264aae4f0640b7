//! One client's connection: hyper on the socket, and the way out of HTTP.
//!
//! Hyper can give a connection away only by a 101 answer to a request with an `Upgrade` header.
//! Docker's API also answers plain requests with a 200 and the raw stream, and the head must not
//! be written before the engine knows of the client. So a handler that wants the socket leaves
//! what it wants to do with it in the connection's [`Handover`] and never answers; the driver
//! waits until hyper has written what it had, takes hyper apart and goes on with that.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::crowd::Guest;
use crate::edge::Edge;
use crate::hijack::{Continuation, RawConnection};
use crate::listen::Limits;

/// How often a client that has closed only its writing side is looked after.
const GONE_CHECK: Duration = Duration::from_secs(1);

/// How long, and how much, is read and dropped after the last answer.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 64 << 20;

/// A client's socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Unix(stream) => stream.poll_read_ready(cx),
            Self::Tcp(stream) => stream.poll_read_ready(cx),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Unix(stream) => stream.poll_write_ready(cx),
            Self::Tcp(stream) => stream.poll_write_ready(cx),
        }
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.try_read(buffer),
            Self::Tcp(stream) => stream.try_read(buffer),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.try_write(bytes),
            Self::Tcp(stream) => stream.try_write(bytes),
        }
    }

    async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Unix(stream) => stream.ready(interest).await,
            Self::Tcp(stream) => stream.ready(interest).await,
        }
    }

    /// Says that nothing more will be written.
    fn end_writing(&self) -> io::Result<()> {
        let side = rustix::net::Shutdown::Write;
        match self {
            Self::Unix(stream) => rustix::net::shutdown(stream, side)?,
            Self::Tcp(stream) => rustix::net::shutdown(stream, side)?,
        }
        Ok(())
    }

    fn into_descriptor(self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(stream) => stream.into_std().map(OwnedFd::from),
            Self::Tcp(stream) => stream.into_std().map(OwnedFd::from),
        }
    }
}

/// Where a handler leaves what it wants to do with the raw socket.
#[derive(Default)]
pub(crate) struct Handover {
    wanted: Mutex<Option<Continuation>>,
    /// A write found the socket full, so hyper still holds bytes of former answers.
    blocked: AtomicBool,
}

impl Handover {
    /// Asks for the socket. The handler must not answer after this.
    pub(crate) fn request(&self, continuation: Continuation) {
        *self.lock() = Some(continuation);
    }

    fn is_due(&self) -> bool {
        !self.blocked.load(Ordering::Relaxed) && self.lock().is_some()
    }

    fn take(&self) -> Option<Continuation> {
        self.lock().take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Continuation>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The socket as hyper sees it. The driver keeps a second reference, to notice that the client
/// has gone while a handler works.
struct Io {
    socket: Arc<Socket>,
    handover: Arc<Handover>,
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            match self.socket.try_read(buffer.initialize_unfilled()) {
                Ok(length) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.socket.poll_write_ready(cx)?.is_pending() {
                self.handover.blocked.store(true, Ordering::Relaxed);
                return Poll::Pending;
            }
            match self.socket.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    /// Hyper flushes when its own buffer is empty.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.handover.blocked.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Dropping the socket says the same.
        Poll::Ready(Ok(()))
    }
}

/// Serves one connection to its end.
pub(crate) async fn drive(
    socket: Socket,
    guest: Arc<Guest>,
    edge: Edge,
    limits: Limits,
    stop: CancellationToken,
) {
    let socket = Arc::new(socket);
    let handover = Arc::new(Handover::default());
    let io = TokioIo::new(Io {
        socket: Arc::clone(&socket),
        handover: Arc::clone(&handover),
    });
    let mut http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(limits.head_bytes)
        .half_close(true)
        .serve_connection(io, service(edge, Arc::clone(&handover), Arc::clone(&guest)));

    let mut stopping = false;
    let end = loop {
        let turn = poll_fn(|cx| {
            let polled = http.poll_without_shutdown(cx);
            if handover.is_due() {
                return Poll::Ready(End::Handover);
            }
            polled.map(End::Closed)
        });
        tokio::select! {
            end = turn => break end,
            () = gone(&socket) => break End::Gone,
            () = guest.leave.cancelled() => break End::Gone,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                Pin::new(&mut http).graceful_shutdown();
            }
        }
    };
    match end {
        End::Handover => {
            let parts = http.into_parts();
            drop(parts.io);
            drop(parts.service);
            hand_over(&handover, socket, parts.read_buf.into()).await;
        }
        End::Closed(Err(error)) => tracing::debug!(%error, "connection failed"),
        End::Closed(Ok(())) => tokio::select! {
            _ = tokio::time::timeout(LINGER, linger(&socket)) => {}
            () = guest.leave.cancelled() => {}
            () = stop.cancelled() => {}
        },
        End::Gone => {}
    }
}

/// Reads what a client still sends after it was answered. One that writes its whole body before it
/// reads would otherwise find the connection broken, and never see why.
async fn linger(socket: &Socket) {
    let mut left = LINGER_BYTES;
    if socket.end_writing().is_err() {
        return;
    }
    while left > 0 && socket.ready(Interest::READABLE).await.is_ok() {
        // Not kept while the connection waits: there may be thousands.
        let read = socket.try_read(&mut [0; 16 << 10]);
        match read {
            Ok(0) => return,
            Ok(length) => left = left.saturating_sub(length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// How HTTP ended on a connection.
enum End {
    Closed(hyper::Result<()>),
    Handover,
    Gone,
}

async fn hand_over(handover: &Handover, socket: Arc<Socket>, leftover: Vec<u8>) {
    let Some(continuation) = handover.take() else {
        return;
    };
    let socket = Arc::into_inner(socket).expect("hyper and its reference were dropped before");
    match socket.into_descriptor() {
        Ok(socket) => continuation(RawConnection { socket, leftover }).await,
        Err(error) => tracing::warn!(%error, "a client's socket was lost"),
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

fn service(
    edge: Edge,
    handover: Arc<Handover>,
    guest: Arc<Guest>,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response<Body>,
    Error = Infallible,
    Future = Answer,
> + Unpin {
    service_fn(move |mut request: Request<Incoming>| -> Answer {
        request.extensions_mut().insert(Arc::clone(&handover));
        let edge = edge.clone();
        let busy = guest.busy();
        Box::pin(async move {
            let response = edge.answer(request.map(Body::new)).await;
            // Busy until the body is sent, which owns the note from here on.
            Ok(response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _ = &busy;
                    frame
                }))
            }))
        })
    })
}

/// Returns when the client has closed both directions. Hyper would end the connection already
/// when the client closes its writing side, which clients may do while they wait.
async fn gone(socket: &Socket) {
    loop {
        let Ok(_) = socket.ready(Interest::READABLE).await else {
            return;
        };
        match socket.ready(Interest::READABLE | Interest::WRITABLE).await {
            Ok(ready) if !ready.is_write_closed() => {}
            _ => return,
        }
        // Readable until hyper reads, or for ever when only one side is closed.
        tokio::time::sleep(GONE_CHECK).await;
    }
}

/// Waits for all connections, at most `limits.drain`.
pub(crate) async fn drain(tracker: &tokio_util::task::TaskTracker, limits: Limits) {
    tracker.close();
    let waiting = pin!(tracker.wait());
    if tokio::time::timeout(limits.drain, waiting).await.is_err() {
        tracing::info!(left = tracker.len(), "connections were cut");
    }
}

#[cfg(test)]
mod tests;
