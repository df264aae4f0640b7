//! `sampan system dial-stdio`: this process as a connection to the engine, for `ssh`.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use sampan_api::client::Socket;

use super::command::{Arguments, Command, Parsed};
use super::failure::Failure;
use super::session::Session;

const PIECE: usize = 64 << 10;

pub(crate) const COMMAND: Command = Command {
    names: &["system dial-stdio"],
    usage: "",
    about: "Proxy the stdio stream to the daemon connection. Should not be invoked manually.",
    arguments: Arguments::None,
    hidden: true,
    run,
    ..Command::PLAIN
};

fn run(session: &Session, _: &Parsed<'_>) -> Result<u8, Failure> {
    let client = session.client()?;
    let failed = |error: io::Error| Failure::message(format!("cannot copy: {error}"));
    let socket = session.wait(async {
        let descriptor: OwnedFd = match client.connect().await? {
            Socket::Unix(stream) => stream.into_std().map_err(failed)?.into(),
            Socket::Tcp(stream) => stream.into_std().map_err(failed)?.into(),
        };
        Ok::<_, Failure>(descriptor)
    })?;
    // The standard library reads and writes a TCP socket through this type just as well.
    let socket = UnixStream::from(socket);
    socket.set_nonblocking(false).map_err(failed)?;
    let outward = socket.try_clone().map_err(failed)?;
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            let _ = copy(&mut io::stdin(), &mut &outward);
            // The engine may still answer.
            let _ = TcpStream::from(OwnedFd::from(outward)).shutdown(Shutdown::Write);
        })
        .map_err(failed)?;
    copy(&mut &socket, &mut io::stdout()).map_err(failed)?;
    Ok(0)
}

/// Copies piece by piece, so that nothing waits for more.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                to.write_all(&piece[..length])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
