//! From HTTP/1 to HTTP/2 on one socket.

use std::io::{self, Cursor};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::UnixStream;

use crate::hijack::{RawConnection, write_now};

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
