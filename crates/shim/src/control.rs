//! The control socket and the engines that are connected to it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::SocketFlags;
use sampan_shim_protocol::{
    Event, Flushed, ProtocolError, Received, Reply, SOCKET_NAME, Server, ServerMessage,
    socket_path_in,
};

use crate::poller::{Poller, Readiness, Source, Watched};

/// An engine that does not read what it is told is dropped beyond this.
const QUEUE_LIMIT: usize = 1 << 20;

/// The socket at which engines find the shim.
#[derive(Debug)]
pub(crate) struct Listener {
    directory: OwnedFd,
    socket: Watched,
}

impl Listener {
    /// Makes the socket in `directory`, in place of one that a dead shim has left.
    pub(crate) fn open(poller: &Rc<Poller>, directory: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory, flags, Mode::empty())?;
        unlink(&directory)?;
        let path = socket_path_in(directory.as_fd());
        let listener = UnixListener::bind(&path)?;
        rustix::fs::chmodat(
            &directory,
            SOCKET_NAME,
            Mode::from_raw_mode(0o600),
            AtFlags::empty(),
        )?;
        listener.set_nonblocking(true)?;
        let mut socket = Watched::new(poller, Source::Listener, OwnedFd::from(listener));
        socket.watch(Some(Readiness::IN))?;
        Ok(Self { directory, socket })
    }

    /// Takes a connection that waits.
    pub(crate) fn accept(&self) -> Option<OwnedFd> {
        rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC).ok()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Whoever finds the name after this sees that nobody listens.
        let _ = unlink(&self.directory);
    }
}

fn unlink(directory: &OwnedFd) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, SOCKET_NAME, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// One connected engine.
#[derive(Debug)]
pub(crate) struct Connection {
    number: u32,
    server: Watched<Server>,
    /// Nothing more can be said or heard.
    broken: bool,
}

impl Connection {
    /// Takes over a connected socket.
    pub(crate) fn new(
        poller: &Rc<Poller>,
        number: u32,
        socket: OwnedFd,
    ) -> Result<Self, ProtocolError> {
        let server = Server::new(socket)?;
        let mut connection = Self {
            number,
            server: Watched::new(poller, Source::Connection(number), server),
            broken: false,
        };
        connection.settle();
        Ok(connection)
    }

    /// The number by which it goes.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Whether it can be forgotten.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether something is still to be written.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.broken && self.server.inner().wants_write()
    }

    /// Reads what has come; whole requests are appended to `requests`.
    pub(crate) fn ready(&mut self, readiness: Readiness, requests: &mut Vec<ServerMessage>) {
        if readiness.intersects(Readiness::IN | Readiness::HUP | Readiness::ERR) {
            self.broken |= self.receive(requests).is_err();
        }
        self.settle();
    }

    /// Reads until nothing is left; an error also at the other side's end.
    fn receive(&mut self, requests: &mut Vec<ServerMessage>) -> Result<(), ProtocolError> {
        let server = self.server.inner_mut();
        loop {
            match server.receive()? {
                Received::Bytes => {
                    while let Some(message) = server.next_request()? {
                        requests.push(message);
                    }
                }
                Received::WouldBlock => return Ok(()),
                Received::Closed => return Err(ProtocolError::Cut),
            }
        }
    }

    /// Answers a request.
    pub(crate) fn reply(&mut self, sequence: u64, reply: &Reply) {
        self.broken |= self.server.inner_mut().reply(sequence, reply).is_err();
        self.settle();
    }

    /// Tells the news.
    pub(crate) fn event(&mut self, entry: u64, event: &Event) {
        self.broken |= self.server.inner_mut().event(entry, event).is_err();
        self.settle();
    }

    fn settle(&mut self) {
        if self.broken {
            return;
        }
        let mut interest = Readiness::IN;
        match self.server.inner_mut().flush() {
            Ok(Flushed::Done) => {}
            Ok(Flushed::WouldBlock) => interest |= Readiness::OUT,
            Err(_) => self.broken = true,
        }
        self.broken |= self.server.inner().queued_bytes() > QUEUE_LIMIT;
        self.broken |= self.server.watch(Some(interest)).is_err();
    }
}
