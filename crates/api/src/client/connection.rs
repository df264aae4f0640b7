//! Opening connections.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::hijack::Socket;
use super::tls::Tls;
use super::{Endpoint, Error};

/// Connects to `endpoint`.
pub(super) async fn connect(endpoint: &Endpoint, tls: Option<&Tls>) -> Result<Socket, Error> {
    let connected = match (endpoint, tls) {
        (Endpoint::Unix(path), _) => UnixStream::connect(path).await.map(Socket::Unix),
        (Endpoint::Tcp(address), None) => tcp(address).await.map(Socket::Tcp),
        (Endpoint::Tcp(address), Some(tls)) => encrypted(address, tls).await.map(Socket::Unix),
        (Endpoint::Program(words), _) => program(words).map(Socket::Unix),
    };
    connected.map_err(|source| Error::Connect {
        endpoint: endpoint.to_string(),
        source,
    })
}

async fn tcp(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Keystrokes of a hijacked terminal must not wait for each other.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A socket of this process, whose other end a task encrypts: who takes a connection over from HTTP
/// needs a socket.
async fn encrypted(address: &str, tls: &Tls) -> io::Result<UnixStream> {
    let mut outside = tls.connect(address, tcp(address).await?).await?;
    let (ours, mut theirs) = UnixStream::pair()?;
    tokio::spawn(async move {
        // A connection that breaks ends both ways, which is all that can be told.
        let _ = tokio::io::copy_bidirectional(&mut theirs, &mut outside).await;
    });
    Ok(ours)
}

/// Starts a program that has one end of a pair of sockets as its input and output. It ends when the
/// other end is closed.
fn program(words: &[String]) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = theirs.into_std()?;
    theirs.set_nonblocking(false)?;
    let theirs = std::os::fd::OwnedFd::from(theirs);
    let mut words = words.iter();
    let name = words.next().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = tokio::process::Command::new(name);
    command
        .args(words)
        .stdin(theirs.try_clone()?)
        .stdout(theirs);
    let mut child = command
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("cannot run {name}: {error}")))?;
    tokio::spawn(async move {
        let _ = child.wait().await;
    });
    Ok(ours)
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
