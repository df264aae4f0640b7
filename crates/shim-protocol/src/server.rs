//! The shim's end of one connection.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Channel, Event, Flushed, ProtocolError, Received, Reply, Request};

#[derive(Serialize)]
pub(crate) struct RequestOut<'a> {
    pub(crate) sequence: u64,
    pub(crate) request: &'a Request,
}

#[derive(Deserialize)]
struct RequestIn<'a> {
    sequence: u64,
    #[serde(borrow)]
    request: &'a RawValue,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum MessageOut<'a> {
    Reply { sequence: u64, reply: &'a Reply },
    Event { entry: u64, event: &'a Event },
}

/// One request as it arrived.
#[derive(Debug)]
pub struct ServerMessage {
    /// Number to answer with.
    pub sequence: u64,
    /// The request, or why it cannot be understood (a newer engine's).
    pub request: Result<Request, serde_json::Error>,
    /// Descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

/// The shim's end of one connection.
#[derive(Debug)]
pub struct Server {
    channel: Channel,
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl Server {
    /// Wraps an accepted socket, which becomes non-blocking.
    pub fn new(socket: OwnedFd) -> Result<Self, ProtocolError> {
        let channel = Channel::new(socket);
        channel
            .set_nonblocking(true)
            .map_err(ProtocolError::Socket)?;
        Ok(Self { channel })
    }

    /// Reads once from the socket.
    pub fn receive(&mut self) -> Result<Received, ProtocolError> {
        self.channel.receive()
    }

    /// Takes the next whole request out of what has been read.
    pub fn next_request(&mut self) -> Result<Option<ServerMessage>, ProtocolError> {
        let Some(frame) = self.channel.next_frame()? else {
            return Ok(None);
        };
        let envelope: RequestIn<'_> =
            serde_json::from_slice(&frame.body).map_err(ProtocolError::Body)?;
        Ok(Some(ServerMessage {
            sequence: envelope.sequence,
            request: serde_json::from_str(envelope.request.get()),
            descriptors: frame.descriptors,
        }))
    }

    /// Queues the answer to request `sequence`.
    pub fn reply(&mut self, sequence: u64, reply: &Reply) -> Result<(), ProtocolError> {
        self.channel
            .queue(&MessageOut::Reply { sequence, reply }, Vec::new())
    }

    /// Queues an event, which the entry `entry` of the journal tells, too; 0 where none does.
    pub fn event(&mut self, entry: u64, event: &Event) -> Result<(), ProtocolError> {
        let message = MessageOut::Event { entry, event };
        self.channel.queue(&message, Vec::new())
    }

    /// Whether something is waiting to be written.
    pub fn wants_write(&self) -> bool {
        self.channel.wants_write()
    }

    /// Number of bytes waiting to be written.
    pub fn queued_bytes(&self) -> usize {
        self.channel.queued_bytes()
    }

    /// Writes what is queued, as far as the socket takes it.
    pub fn flush(&mut self) -> Result<Flushed, ProtocolError> {
        self.channel.flush()
    }
}
