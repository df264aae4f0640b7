//! Accepting connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use sampan_engine::Engine;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::connection::{Socket, drain, drive};
use crate::crowd::Crowd;
use crate::edge::Edge;
use crate::routes::routes;
use crate::tls::{Tls, carry};

/// How long accepting rests when descriptors or memory are short.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Bounds on what one client can make the server hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// For a whole head to come, also on a connection that is kept alive.
    pub head_timeout: Duration,
    /// Connections at once. For a further one the oldest that asks nothing is closed; when all
    /// are busy it waits to be accepted.
    pub connections: usize,
    /// For open connections to end when the server stops.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 256 * 1024,
            head_timeout: Duration::from_secs(60),
            connections: 4096,
            drain: Duration::from_secs(2),
        }
    }
}

/// Answers on `listener` until `stop` is cancelled; then lets open requests end, at most
/// [`Limits::drain`] long. The listener stays open for the next engine.
pub async fn serve(
    listener: std::os::unix::net::UnixListener,
    engine: impl Into<Arc<Engine>>,
    limits: Limits,
    stop: CancellationToken,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = Listener::Unix(UnixListener::from_std(listener)?);
    accept_loop(listener, edge(engine.into(), &stop), limits, stop).await;
    Ok(())
}

/// Answers on a TCP listener, as [`serve`] does. There is neither encryption nor any check who
/// the client is: whoever can connect has all powers over the host.
pub async fn serve_tcp(
    listener: std::net::TcpListener,
    engine: impl Into<Arc<Engine>>,
    limits: Limits,
    stop: CancellationToken,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = Listener::Tcp(TcpListener::from_std(listener)?);
    accept_loop(listener, edge(engine.into(), &stop), limits, stop).await;
    Ok(())
}

/// Answers on a TCP listener, encrypted, as [`serve`] does.
pub async fn serve_tls(
    listener: std::net::TcpListener,
    tls: Arc<Tls>,
    engine: impl Into<Arc<Engine>>,
    limits: Limits,
    stop: CancellationToken,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = Listener::Tls(TcpListener::from_std(listener)?, tls);
    accept_loop(listener, edge(engine.into(), &stop), limits, stop).await;
    Ok(())
}

fn edge(engine: Arc<Engine>, stop: &CancellationToken) -> Edge {
    Edge::new(routes(App::new(engine, stop.child_token())))
}

/// Where clients come from.
pub(crate) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
    Tls(TcpListener, Arc<Tls>),
}

impl Listener {
    async fn accept(&self) -> io::Result<Accepted> {
        let tcp = async |listener: &TcpListener| {
            let (stream, _) = listener.accept().await?;
            // Keystrokes of a hijacked terminal must not wait for each other.
            stream.set_nodelay(true)?;
            Ok::<_, io::Error>(stream)
        };
        match self {
            Self::Unix(listener) => listener
                .accept()
                .await
                .map(|(stream, _)| Accepted::Plain(Socket::Unix(stream))),
            Self::Tcp(listener) => Ok(Accepted::Plain(Socket::Tcp(tcp(listener).await?))),
            Self::Tls(listener, tls) => Ok(Accepted::Tls(tcp(listener).await?, Arc::clone(tls))),
        }
    }
}

/// A client that has come.
enum Accepted {
    Plain(Socket),
    /// Its hands are still to be shaken.
    Tls(TcpStream, Arc<Tls>),
}

impl Accepted {
    /// Serves the client to its end.
    async fn serve<F: Future<Output = ()>>(self, drive: impl FnOnce(Socket) -> F) {
        match self {
            Self::Plain(socket) => drive(socket).await,
            Self::Tls(stream, tls) => {
                let opened = async {
                    let client = tls.accept(stream).await?;
                    Ok::<_, io::Error>((client, UnixStream::pair()?))
                };
                match opened.await {
                    Ok((client, (inside, socket))) => {
                        let driven = drive(Socket::Unix(socket));
                        tokio::join!(carry(client, inside), driven);
                    }
                    Err(error) => tracing::info!(%error, "a client was not let in"),
                }
            }
        }
    }
}

pub(crate) async fn accept_loop(
    listener: Listener,
    edge: Edge,
    limits: Limits,
    stop: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let crowd = Crowd::default();
    let slots = Arc::new(Semaphore::new(limits.connections));
    loop {
        let next = async {
            let slot = free_slot(&slots, &crowd).await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            next = next => next,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok(accepted) => {
                let guest = crowd.enter();
                let (edge, stop) = (edge.clone(), stop.child_token());
                tracker.spawn(async move {
                    accepted
                        .serve(|socket| drive(socket, guest, edge, limits, stop))
                        .await;
                    drop(slot);
                });
            }
            Err(error) => {
                // The connection is gone, or descriptors are short for a while; either way the
                // listener itself is fine.
                tracing::warn!(%error, "a connection could not be accepted");
                crowd.make_room();
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
    drain(&tracker, limits).await;
}

/// Waits for a slot. When there is none, a connection on which nothing is asked gives way.
async fn free_slot(slots: &Arc<Semaphore>, crowd: &Crowd) -> Option<OwnedSemaphorePermit> {
    if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
        return Some(slot);
    }
    if !crowd.make_room() {
        tracing::warn!("all connections are in use");
    }
    // The semaphore is never closed.
    Arc::clone(slots).acquire_owned().await.ok()
}
