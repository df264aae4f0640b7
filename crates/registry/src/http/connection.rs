//! One client's connection: hyper on the socket, and the way out of HTTP for files.
//!
//! A blob that lies in a file goes from the page cache to the socket by `sendfile`, which hyper
//! cannot do. So a handler leaves head and file in the connection's [`Handover`] and never
//! answers; the driver waits until hyper has written what it had, takes hyper apart, sends head
//! and file, and lets hyper go on with what the client has sent meanwhile.

use std::convert::Infallible;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Peer;
use super::body::Body;

/// Bytes that a thread sends before others have their turn.
const TURN: u64 = 4 << 20;

/// A file on its way to a client.
pub(crate) struct Transfer {
    head: Vec<u8>,
    file: File,
    range: Range<u64>,
}

/// Where a handler leaves what is to be sent past hyper.
#[derive(Default)]
pub(crate) struct Handover {
    wanted: Mutex<Option<Transfer>>,
    /// A write found the socket full, so hyper still holds bytes of former answers.
    blocked: AtomicBool,
}

impl Handover {
    /// Sends the response's head and a part of a file. Never returns: the connection's driver
    /// takes over.
    pub(crate) async fn send_file(
        &self,
        response: Response<Body>,
        file: File,
        range: Range<u64>,
    ) -> Response<Body> {
        let head = head(&response);
        *self.lock() = Some(Transfer { head, file, range });
        std::future::pending().await
    }

    fn is_due(&self) -> bool {
        !self.blocked.load(Ordering::Relaxed) && self.lock().is_some()
    }

    fn take(&self) -> Option<Transfer> {
        self.lock().take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Transfer>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn head(response: &Response<Body>) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    let status = response.status();
    let reason = status.canonical_reason().unwrap_or_default();
    // Writing to a Vec cannot fail.
    let _ = write!(head, "HTTP/1.1 {} {reason}\r\n", status.as_u16());
    for (name, value) in response.headers() {
        let _ = write!(head, "{name}: ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    let now = jiff::Timestamp::now();
    if let Ok(date) = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&now) {
        let _ = write!(head, "date: {date}\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// How long a client may leave no room for what it asked for.
struct Patience {
    stall: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn new(stall: Duration) -> Self {
        let waiting = None;
        Self { stall, waiting }
    }

    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let stall = self.stall;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        let late = || Err(io::ErrorKind::TimedOut.into());
        waiting.as_mut().poll(cx).map(|()| late())
    }

    fn end(&mut self) {
        self.waiting = None;
    }
}

/// The socket as hyper sees it.
struct Io {
    /// What an earlier hyper read already.
    early: Bytes,
    socket: Arc<TcpStream>,
    handover: Arc<Handover>,
    patience: Patience,
}

impl Io {
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if self.socket.poll_write_ready(cx)?.is_pending() {
                self.handover.blocked.store(true, Ordering::Relaxed);
                return self.patience.wait(cx);
            }
            match write(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    self.patience.end();
                    return Poll::Ready(written);
                }
            }
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let length = self.early.len().min(buffer.remaining());
            buffer.put_slice(&self.early[..length]);
            self.early.advance(length);
            return Poll::Ready(Ok(()));
        }
        loop {
            std::task::ready!(self.socket.poll_read_ready(cx))?;
            match self.socket.try_read_buf(buffer) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |socket| socket.try_write(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |socket| socket.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Hyper flushes when its own buffer is empty.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.handover.blocked.store(false, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The writing side alone: the client may still have to read the answer to a request that
        // it has not finished sending.
        Poll::Ready(
            rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Write).map_err(Into::into),
        )
    }
}

/// How HTTP ended on a connection.
enum End {
    Closed(hyper::Result<()>),
    Transfer,
}

/// What answers requests.
pub(crate) trait Answer: Clone + Send + Sync + 'static {
    /// Notes that so many bytes of a file went out.
    fn sent(&self, bytes: u64);
    /// Answers a request.
    fn answer(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        handover: Option<Arc<Handover>>,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// Bounds of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) head_timeout: Duration,
    pub(crate) head_bytes: usize,
    pub(crate) stall: Duration,
}

/// Serves a connection without encryption to its end.
pub(crate) async fn drive(
    socket: TcpStream,
    peer: Peer,
    answer: impl Answer,
    bounds: Bounds,
    stop: CancellationToken,
) {
    let socket = Arc::new(socket);
    let mut early = Bytes::new();
    loop {
        let handover = Arc::new(Handover::default());
        let io = Io {
            early,
            socket: Arc::clone(&socket),
            handover: Arc::clone(&handover),
            patience: Patience::new(bounds.stall),
        };
        let service = service_fn(|request: Request<Incoming>| {
            let (answer, peer, handover) = (answer.clone(), peer.clone(), Arc::clone(&handover));
            // Boxed: hyper polls it by a plain reference.
            Box::pin(async move {
                Ok::<_, Infallible>(answer.answer(request, peer, Some(handover)).await)
            })
        });
        let mut http = builder(bounds).serve_connection(TokioIo::new(io), service);
        let mut stopping = false;
        let end = loop {
            let turn = poll_fn(|cx| {
                let polled = http.poll_without_shutdown(cx);
                if handover.is_due() {
                    return Poll::Ready(End::Transfer);
                }
                polled.map(End::Closed)
            });
            tokio::select! {
                end = turn => break end,
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    Pin::new(&mut http).graceful_shutdown();
                }
            }
        };
        match end {
            End::Closed(result) => {
                if let Err(error) = result {
                    tracing::debug!(%error, "connection failed");
                }
                let _ = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Write);
                linger(&socket).await;
                return;
            }
            End::Transfer => {}
        }
        let Some(transfer) = handover.take() else {
            return;
        };
        early = http.into_parts().read_buf;
        answer.sent(transfer.range.end - transfer.range.start);
        if let Err(error) = send(&socket, transfer, bounds.stall).await {
            tracing::debug!(%error, "a client did not take a blob to its end");
            return;
        }
        if stop.is_cancelled() {
            return;
        }
    }
}

/// Serves a connection with encryption to its end. The client has as long for the greeting as for
/// a head.
pub(crate) async fn drive_encrypted(
    socket: TcpStream,
    acceptor: TlsAcceptor,
    peer: Peer,
    answer: impl Answer,
    bounds: Bounds,
    stop: CancellationToken,
) {
    let io = Io {
        early: Bytes::new(),
        socket: Arc::new(socket),
        handover: Arc::default(),
        patience: Patience::new(bounds.stall),
    };
    let greeting = tokio::time::timeout(bounds.head_timeout, acceptor.accept(io));
    let stream = match greeting.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "no encryption with a client");
            return;
        }
        Err(_) => return,
    };
    let service = service_fn(|request: Request<Incoming>| {
        let (answer, peer) = (answer.clone(), peer.clone());
        async move { Ok::<_, Infallible>(answer.answer(request, peer, None).await) }
    });
    let http = builder(bounds).serve_connection(TokioIo::new(stream), service);
    let mut http = std::pin::pin!(http);
    let ended = tokio::select! {
        ended = http.as_mut() => ended,
        () = stop.cancelled() => {
            http.as_mut().graceful_shutdown();
            http.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection failed");
    }
}

fn builder(bounds: Bounds) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head_timeout)
        .max_buf_size(bounds.head_bytes);
    builder
}

/// How long and how much is read of a client that goes on sending after its answer. Closing at
/// once would make its kernel throw the answer away.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 64 << 20;

async fn linger(socket: &TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    let drain = async {
        let mut left = LINGER_BYTES;
        while left > 0 {
            if socket.readable().await.is_err() {
                return;
            }
            match socket.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => left = left.saturating_sub(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, drain).await;
}

async fn send(socket: &Arc<TcpStream>, transfer: Transfer, stall: Duration) -> io::Result<()> {
    let mut head = transfer.head.as_slice();
    while !head.is_empty() {
        writable(socket, stall).await?;
        match socket.try_write(head) {
            Ok(length) => head = &head[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let file = Arc::new(transfer.file);
    let mut range = transfer.range;
    while !range.is_empty() {
        writable(socket, stall).await?;
        let (to, from, part) = (Arc::clone(socket), Arc::clone(&file), range.clone());
        // Reading a file may wait for the disk.
        let turn = tokio::task::spawn_blocking(move || turn(&to, &from, part));
        range.start = turn.await.map_err(io::Error::other)??;
    }
    Ok(())
}

async fn writable(socket: &TcpStream, stall: Duration) -> io::Result<()> {
    match tokio::time::timeout(stall, socket.writable()).await {
        Ok(ready) => ready,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Sends as much as the socket takes; answers where it stopped.
fn turn(socket: &TcpStream, file: &File, range: Range<u64>) -> io::Result<u64> {
    let mut offset = range.start;
    let end = range.end.min(range.start.saturating_add(TURN));
    while offset < end {
        let count = usize::try_from(end - offset).unwrap_or(usize::MAX);
        // Within `try_io`, so that the runtime tells a socket that was full before from one that
        // the client has emptied since.
        let sent = socket.try_io(Interest::WRITABLE, || {
            rustix::fs::sendfile(socket, file, Some(&mut offset), count).map_err(io::Error::from)
        });
        match sent {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(offset)
}
