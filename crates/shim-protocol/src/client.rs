//! The engine's end of a connection.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::server::RequestOut;
use crate::{
    Channel, Event, Flushed, Launch, LaunchDescriptors, OLDEST_PROTOCOL, PROTOCOL, ProtocolError,
    Received, Reply, Request, SOCKET_NAME,
};

/// A conversation with a shim failed.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The shim could not be started.
    #[error("starting {program}")]
    Spawn {
        /// The executable.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no shim at the socket.
    #[error("connecting to shim in {directory}")]
    Connect {
        /// The socket's directory.
        directory: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection failed.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The shim is gone.
    #[error("shim closed the connection")]
    Closed,
    /// The shim did not answer in time.
    #[error("shim did not answer within {0:?}")]
    Timeout(Duration),
    /// The shim speaks a version that this engine does not.
    #[error("shim speaks protocol {0}, which is not known here")]
    Version(u32),
    /// The shim answered something else than what was asked.
    #[error("shim gave an answer that does not belong to the request")]
    Unexpected(Box<Reply>),
}

/// One message from the shim.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// The answer to a request.
    Reply {
        /// The number that [`Client::send`] gave.
        sequence: u64,
        /// The answer.
        reply: Reply,
    },
    /// News.
    Event {
        /// The number of the journal's entry that tells the same; 0 where none does.
        entry: u64,
        /// What happened.
        event: Event,
    },
    /// Something of a newer version; to be ignored.
    Unknown,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum MessageIn<'a> {
    Reply {
        sequence: u64,
        #[serde(borrow)]
        reply: &'a RawValue,
    },
    Event {
        #[serde(default)]
        entry: u64,
        #[serde(borrow)]
        event: &'a RawValue,
    },
}

/// The engine's end of a connection to a shim.
///
/// Blocking use: [`Client::call`] and [`Client::wait_event`]. From a readiness loop (such as
/// tokio's `AsyncFd` around it): [`Client::set_nonblocking`], [`Client::send`], then
/// [`Client::flush`] when writable while [`Client::wants_write`], and [`Client::receive`] until it
/// would block followed by [`Client::next_message`] until it is empty when readable.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    sequence: u64,
    events: VecDeque<Event>,
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl AsRawFd for Client {
    fn as_raw_fd(&self) -> i32 {
        self.channel.as_fd().as_raw_fd()
    }
}

impl Client {
    /// Wraps a connected socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            channel: Channel::new(socket),
            sequence: 0,
            events: VecDeque::new(),
        }
    }

    /// Starts a shim that waits for its launch. The connection is the shim's standard input, so
    /// that no descriptor has to be inheritable in the calling process. The caller reaps the child.
    /// `id` is only for those who look at the list of processes.
    pub fn spawn(program: &Path, id: &str) -> Result<(Self, Child), ClientError> {
        let spawn = || -> io::Result<(UnixStream, Child)> {
            let (ours, theirs) = UnixStream::pair()?;
            let child = Command::new(program)
                .args(["--control-fd", "0", id])
                .current_dir("/")
                .env_clear()
                .stdin(OwnedFd::from(theirs))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            Ok((ours, child))
        };
        let (socket, child) = spawn().map_err(|source| ClientError::Spawn {
            program: program.to_owned(),
            source,
        })?;
        Ok((Self::new(socket.into()), child))
    }

    /// Connects to the shim whose socket directory is `directory`, of any length.
    pub fn connect(directory: &Path) -> Result<Self, ClientError> {
        let connect = || -> io::Result<UnixStream> {
            let descriptor = rustix::fs::open(
                directory,
                OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            UnixStream::connect(socket_path_in(descriptor.as_fd()))
        };
        connect()
            .map(|stream| Self::new(stream.into()))
            .map_err(|source| ClientError::Connect {
                directory: directory.to_owned(),
                source,
            })
    }

    /// Agrees on a version; the first call on a connection. Blocks for at most `timeout`.
    pub fn hello(&mut self, timeout: Duration) -> Result<u32, ClientError> {
        let request = Request::Hello { version: PROTOCOL };
        match self.call(&request, Vec::new(), timeout)? {
            Reply::Hello { version, .. } if (OLDEST_PROTOCOL..=PROTOCOL).contains(&version) => {
                Ok(version)
            }
            Reply::Hello { version, .. } => Err(ClientError::Version(version)),
            other => Err(ClientError::Unexpected(Box::new(other))),
        }
    }

    /// Starts the container. Blocks for at most `timeout`.
    pub fn launch(
        &mut self,
        mut launch: Launch,
        descriptors: LaunchDescriptors,
        timeout: Duration,
    ) -> Result<Reply, ClientError> {
        let descriptors = descriptors.declare(&mut launch);
        self.call(&Request::Launch(Box::new(launch)), descriptors, timeout)
    }

    /// Sends a request and waits for its answer, at most `timeout`. Events that come before it are
    /// kept for [`Client::wait_event`]; works on blocking and non-blocking sockets.
    pub fn call(
        &mut self,
        request: &Request,
        descriptors: Vec<OwnedFd>,
        timeout: Duration,
    ) -> Result<Reply, ClientError> {
        let deadline = Instant::now() + timeout;
        let wanted = self.send(request, descriptors)?;
        while self.flush()? == Flushed::WouldBlock {
            self.poll(PollFlags::OUT, deadline, timeout)?;
        }
        loop {
            while let Some(message) = self.next_message()? {
                match message {
                    Incoming::Reply { sequence, reply } if sequence == wanted => return Ok(reply),
                    Incoming::Event { event, .. } => self.events.push_back(event),
                    Incoming::Reply { .. } | Incoming::Unknown => {}
                }
            }
            self.read_until(deadline, timeout)?;
        }
    }

    /// Waits for the next event, at most `timeout`.
    pub fn wait_event(&mut self, timeout: Duration) -> Result<Event, ClientError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            match self.next_message()? {
                Some(Incoming::Event { event, .. }) => return Ok(event),
                Some(Incoming::Reply { .. } | Incoming::Unknown) => {}
                None => self.read_until(deadline, timeout)?,
            }
        }
    }

    /// Switches between blocking and returning [`Received::WouldBlock`].
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.channel.set_nonblocking(nonblocking)
    }

    /// Queues a request; the number is that of its answer. [`Client::flush`] writes it.
    pub fn send(
        &mut self,
        request: &Request,
        descriptors: Vec<OwnedFd>,
    ) -> Result<u64, ProtocolError> {
        self.sequence += 1;
        let sequence = self.sequence;
        self.channel
            .queue(&RequestOut { sequence, request }, descriptors)?;
        Ok(sequence)
    }

    /// Whether something is waiting to be written.
    pub fn wants_write(&self) -> bool {
        self.channel.wants_write()
    }

    /// Writes what is queued, as far as the socket takes it.
    pub fn flush(&mut self) -> Result<Flushed, ProtocolError> {
        self.channel.flush()
    }

    /// Reads once from the socket.
    pub fn receive(&mut self) -> Result<Received, ProtocolError> {
        self.channel.receive()
    }

    /// Takes the next whole message out of what has been read.
    pub fn next_message(&mut self) -> Result<Option<Incoming>, ProtocolError> {
        let Some(frame) = self.channel.next_frame()? else {
            return Ok(None);
        };
        let message = match serde_json::from_slice(&frame.body) {
            Ok(MessageIn::Reply { sequence, reply }) => Incoming::Reply {
                sequence,
                reply: serde_json::from_str(reply.get()).map_err(ProtocolError::Body)?,
            },
            Ok(MessageIn::Event { entry, event }) => serde_json::from_str(event.get())
                .map_or(Incoming::Unknown, |event| Incoming::Event { entry, event }),
            Err(error) if error.is_data() => Incoming::Unknown,
            Err(error) => return Err(ProtocolError::Body(error)),
        };
        Ok(Some(message))
    }

    fn read_until(&mut self, deadline: Instant, timeout: Duration) -> Result<(), ClientError> {
        self.poll(PollFlags::IN, deadline, timeout)?;
        match self.receive()? {
            Received::Bytes | Received::WouldBlock => Ok(()),
            Received::Closed => Err(ClientError::Closed),
        }
    }

    fn poll(
        &self,
        flags: PollFlags,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<(), ClientError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs().min(i64::MAX as u64) as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&self.channel, flags)], Some(&left)) {
            Ok(0) => Err(ClientError::Timeout(timeout)),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(ProtocolError::Socket(error.into()).into()),
        }
    }
}

/// The path of the control socket by way of an open descriptor of its directory: however long the
/// directory's own path is, this one fits into a socket address (108 bytes).
pub fn socket_path_in(directory: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!(
        "/proc/self/fd/{}/{SOCKET_NAME}",
        directory.as_raw_fd()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Failure, FailureKind, Server};

    const SOON: Duration = Duration::from_secs(10);

    fn serve(mut server: Server, answer: impl Fn(u64, &mut Server) + Send + 'static) {
        std::thread::spawn(move || {
            loop {
                match server.receive().unwrap() {
                    Received::Closed => return,
                    Received::Bytes => {}
                    Received::WouldBlock => std::thread::sleep(Duration::from_millis(1)),
                }
                while let Some(message) = server.next_request().unwrap() {
                    answer(message.sequence, &mut server);
                    server.flush().unwrap();
                }
            }
        });
    }

    fn pair() -> (Client, Server) {
        let (a, b) = UnixStream::pair().unwrap();
        (Client::new(a.into()), Server::new(b.into()).unwrap())
    }

    #[test]
    fn events_before_the_answer_are_kept() {
        let (mut client, server) = pair();
        serve(server, |sequence, server| {
            server.event(0, &Event::Oom).unwrap();
            server.reply(sequence, &Reply::Done).unwrap();
        });
        assert!(matches!(
            client.call(&Request::State, Vec::new(), SOON).unwrap(),
            Reply::Done
        ));
        assert_eq!(client.wait_event(SOON).unwrap(), Event::Oom);
    }

    #[test]
    fn an_unknown_version_is_refused() {
        let (mut client, server) = pair();
        serve(server, |sequence, server| {
            let version = PROTOCOL + 1;
            server
                .reply(
                    sequence,
                    &Reply::Hello {
                        version,
                        shim_pid: 1,
                    },
                )
                .unwrap();
        });
        assert!(matches!(client.hello(SOON), Err(ClientError::Version(_))));
    }

    #[test]
    fn requests_of_a_newer_engine_keep_the_connection() {
        let (client, mut server) = pair();
        let mut channel = client.channel;
        channel
            .queue(
                &serde_json::json!({"sequence": 7, "request": {"teleport": {"to": "mars"}}}),
                Vec::new(),
            )
            .unwrap();
        channel.flush().unwrap();
        server.receive().unwrap();
        let message = server.next_request().unwrap().unwrap();
        assert_eq!(message.sequence, 7);
        assert!(message.request.is_err());
    }

    #[test]
    fn events_of_a_newer_shim_are_skipped() {
        let (mut client, server) = pair();
        let (_, mut raw) = (client.as_raw_fd(), Channel::new(server_socket(server)));
        raw.queue(
            &serde_json::json!({"event": {"entry": 4, "event": {"teleported": {}}}}),
            Vec::new(),
        )
        .unwrap();
        raw.queue(&serde_json::json!({"omen": 1}), Vec::new())
            .unwrap();
        raw.queue(
            &serde_json::json!({"event": {"entry": 5, "event": "oom"}}),
            Vec::new(),
        )
        .unwrap();
        raw.flush().unwrap();
        assert_eq!(client.wait_event(SOON).unwrap(), Event::Oom);
    }

    fn server_socket(server: Server) -> OwnedFd {
        rustix::io::fcntl_dupfd_cloexec(server.as_fd(), 3).unwrap()
    }

    #[test]
    fn failures_survive_the_wire() {
        let reply = Reply::Error(Failure {
            kind: FailureKind::Paused,
            message: "container is paused".into(),
        });
        let text = serde_json::to_string(&reply).unwrap();
        assert_eq!(
            text,
            r#"{"error":{"kind":"paused","message":"container is paused"}}"#
        );
    }
}
