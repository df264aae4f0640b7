//! Connections that stop being HTTP.

use std::io::Cursor;

use bytes::Bytes;
use http::StatusCode;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::Error;
use super::response::Response;

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// A unix socket.
    Unix(UnixStream),
    /// A TCP connection.
    Tcp(TcpStream),
}

/// A connection that is now the container's input and output. Shutting down the writing side
/// of the socket ends the input; output goes on until the engine closes.
#[derive(Debug)]
pub struct Hijacked {
    /// The socket. Read [`Hijacked::leftover`] first.
    pub socket: Socket,
    /// Bytes of output that came together with the head of the answer.
    pub leftover: Bytes,
    /// Whether output is said to be in Docker's frames. Engines before 1.42 do not say so.
    pub multiplexed: bool,
}

impl Hijacked {
    /// All that comes, and where what is sent goes.
    pub fn into_stream(self) -> impl AsyncRead + AsyncWrite + Unpin + Send + 'static {
        let (read, write) = tokio::io::split(self.socket);
        tokio::io::join(Cursor::new(self.leftover).chain(read), write)
    }

    pub(super) async fn from_response(response: Response) -> Result<Self, Error> {
        let multiplexed = response.is_multiplexed();
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::NotUpgraded(response.status().as_u16()));
        }
        let upgraded = hyper::upgrade::on(response.into_inner()).await?;
        let parts = upgraded
            .downcast::<TokioIo<Socket>>()
            .map_err(|_| std::io::Error::other("the connection has an unknown type"))?;
        Ok(Self {
            socket: parts.io.into_inner(),
            leftover: parts.read_buf,
            multiplexed,
        })
    }
}
