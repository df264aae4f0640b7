//! The bytes between a person and a container: copied by threads, so that a stalled terminal
//! or pipe never keeps a signal or an exit status from being seen.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::thread;

use bytes::Bytes;
use sampan_api::client::{Hijacked, Socket};
use sampan_api::frames::{Decoder, Stream};
use tokio::sync::oneshot;

use super::flags::keys::Watch;
use super::output;

/// Bytes moved at a time.
const PIECE: usize = 64 * 1024;

/// What is copied and how.
pub(crate) struct Plan {
    /// Copy standard input to the container.
    pub(crate) stdin: bool,
    /// Output is a terminal's: not framed.
    pub(crate) raw: bool,
    /// Keys that detach, looked for when there is a terminal.
    pub(crate) keys: Option<Vec<u8>>,
}

/// How the stream ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The other side closed it.
    Closed,
    /// The person typed the keys that detach.
    Detached,
    /// It broke.
    Failed(String),
}

/// Copies in both directions until the output ends; the receiver learns how.
pub(crate) fn copy(hijacked: Hijacked, plan: Plan) -> io::Result<oneshot::Receiver<End>> {
    let Hijacked {
        socket, leftover, ..
    } = hijacked;
    let socket: OwnedFd = match socket {
        Socket::Unix(stream) => {
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            stream.into()
        }
        Socket::Tcp(stream) => {
            let stream = stream.into_std()?;
            stream.set_nonblocking(false)?;
            stream.into()
        }
    };
    let (told, end) = oneshot::channel();
    let detached = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    if plan.stdin {
        let socket = socket.try_clone()?;
        let detached = detached.clone();
        let watch = plan.keys.map(Watch::new);
        thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || copy_input(socket, watch, &detached))?;
    }
    thread::Builder::new()
        .name("output".to_owned())
        .spawn(move || {
            let result = copy_output(socket, &leftover, plan.raw);
            let end = match result {
                Ok(()) if detached.load(std::sync::atomic::Ordering::Acquire) => End::Detached,
                Ok(()) => End::Closed,
                Err(error) => End::Failed(error),
            };
            // The command may have ended for another reason.
            let _ = told.send(end);
        })?;
    Ok(end)
}

fn copy_input(socket: OwnedFd, mut watch: Option<Watch>, detached: &std::sync::atomic::AtomicBool) {
    let mut socket = std::fs::File::from(socket);
    let mut stdin = io::stdin().lock();
    let mut piece = vec![0; PIECE];
    loop {
        let read = match stdin.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => &piece[..read],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        if watch.as_mut().is_some_and(|watch| watch.sees(read)) {
            detached.store(true, std::sync::atomic::Ordering::Release);
        }
        if socket.write_all(read).is_err() {
            // The container does not want more; its output may go on.
            return;
        }
    }
    // Fails only when the other side has gone.
    let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Write);
}

fn copy_output(socket: OwnedFd, leftover: &Bytes, raw: bool) -> Result<(), String> {
    let mut socket = std::fs::File::from(socket);
    let mut printer = Printer::new(raw);
    printer.print(leftover)?;
    let mut piece = vec![0; PIECE];
    loop {
        match socket.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => printer.print(&piece[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A detached client's socket may be reset.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(format!("cannot read the container's output: {error}")),
        }
    }
}

/// Prints output, taking frames apart.
pub(crate) struct Printer {
    frames: Option<Decoder>,
}

impl Printer {
    /// Prints output that is framed unless it is `raw`.
    pub(crate) fn new(raw: bool) -> Self {
        Self {
            frames: (!raw).then(Decoder::default),
        }
    }

    /// Prints what came.
    pub(crate) fn print(&mut self, bytes: &[u8]) -> Result<(), String> {
        let Some(frames) = &mut self.frames else {
            output::bytes(rustix::stdio::stdout(), bytes);
            return Ok(());
        };
        frames.push(bytes);
        loop {
            match frames.next_frame() {
                Ok(None) => return Ok(()),
                Ok(Some(frame)) => match frame.stream {
                    Stream::Stdin | Stream::Stdout => {
                        output::bytes(rustix::stdio::stdout(), &frame.bytes);
                    }
                    Stream::Stderr => output::bytes(rustix::stdio::stderr(), &frame.bytes),
                    Stream::SystemError => {
                        return Err(format!(
                            "error from daemon in stream: {}",
                            String::from_utf8_lossy(&frame.bytes)
                        ));
                    }
                },
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}
