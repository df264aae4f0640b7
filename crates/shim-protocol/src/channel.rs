//! Messages with descriptors over a stream socket.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use thiserror::Error;

const HEAD: usize = 8;
const MAGIC: [u8; 2] = *b"sp";
/// Largest body. A specification with a large environment stays well below it.
const MAX_BODY: usize = 16 << 20;
/// Most descriptors with one message (published port ranges are the large case).
const MAX_DESCRIPTORS: usize = 16 << 10;
/// The kernel takes 253 descriptors at once (`SCM_MAX_FD`).
const DESCRIPTORS_AT_ONCE: usize = 250;
/// `CMSG_SPACE` of the above, with room for alignment.
const CONTROL_SPACE: usize = DESCRIPTORS_AT_ONCE * 4 + 64;
const READ_SIZE: usize = 16 << 10;

/// The other side broke the rules, or is gone.
#[derive(Debug, Error)]
pub enum ProtocolError {
    /// The socket failed.
    #[error("control socket failed")]
    Socket(#[source] io::Error),
    /// The other side closed the connection inside a message.
    #[error("control connection was cut inside a message")]
    Cut,
    /// The head of a message is not one of ours.
    #[error("control message has a wrong head")]
    Head,
    /// A message is larger than allowed.
    #[error("control message of {0} bytes is too large")]
    TooLarge(usize),
    /// Descriptors were lost or are more than declared.
    #[error("control message came without its descriptors")]
    Descriptors,
    /// A body is not what it should be.
    #[error("control message cannot be read")]
    Body(#[source] serde_json::Error),
}

/// What one read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// More bytes; [`Channel::next_frame`] may have something now.
    Bytes,
    /// Nothing at the moment.
    WouldBlock,
    /// The other side has closed its end.
    Closed,
}

/// Whether everything queued has been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Nothing is left.
    Done,
    /// The socket takes no more at the moment.
    WouldBlock,
}

/// One message as it came from the socket.
#[derive(Debug)]
pub struct Frame {
    /// The JSON text.
    pub body: Vec<u8>,
    /// The descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    written: usize,
    descriptors: VecDeque<OwnedFd>,
}

/// A connection that carries whole messages. It reads and writes only when told to.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    incoming: Vec<u8>,
    received: VecDeque<OwnedFd>,
    outgoing: VecDeque<Outgoing>,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Channel {
    /// Wraps a connected stream socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            incoming: Vec::new(),
            received: VecDeque::new(),
            outgoing: VecDeque::new(),
        }
    }

    /// Switches between blocking and returning [`Received::WouldBlock`].
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.socket, nonblocking)?)
    }

    /// Puts a message into the queue; [`Channel::flush`] writes it.
    pub fn queue<T: Serialize>(
        &mut self,
        message: &T,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), ProtocolError> {
        let mut bytes = vec![0; HEAD];
        serde_json::to_writer(&mut bytes, message).map_err(ProtocolError::Body)?;
        let length = bytes.len() - HEAD;
        if length > MAX_BODY {
            return Err(ProtocolError::TooLarge(length));
        }
        if descriptors.len() > MAX_DESCRIPTORS {
            return Err(ProtocolError::Descriptors);
        }
        let [a, b, c, d] = (length as u32).to_be_bytes();
        let [e, f] = (descriptors.len() as u16).to_be_bytes();
        bytes[..HEAD].copy_from_slice(&[a, b, c, d, e, f, MAGIC[0], MAGIC[1]]);
        self.outgoing.push_back(Outgoing {
            bytes,
            written: 0,
            descriptors: descriptors.into(),
        });
        Ok(())
    }

    /// Whether something is waiting to be written.
    pub fn wants_write(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Number of bytes waiting to be written.
    pub fn queued_bytes(&self) -> usize {
        self.outgoing
            .iter()
            .map(|message| message.bytes.len() - message.written)
            .sum()
    }

    /// Writes what is queued, as far as the socket takes it.
    pub fn flush(&mut self) -> Result<Flushed, ProtocolError> {
        while let Some(message) = self.outgoing.front_mut() {
            match write_some(self.socket.as_fd(), message) {
                Ok(()) if message.written == message.bytes.len() => {
                    self.outgoing.pop_front();
                }
                Ok(()) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Flushed::WouldBlock),
                Err(error) => return Err(ProtocolError::Socket(error.into())),
            }
        }
        Ok(Flushed::Done)
    }

    /// Reads once from the socket.
    pub fn receive(&mut self) -> Result<Received, ProtocolError> {
        let mut space = [MaybeUninit::<u8>::uninit(); CONTROL_SPACE];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let start = self.incoming.len();
        self.incoming.resize(start + READ_SIZE, 0);
        let result = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut self.incoming[start..])],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        let read = result.as_ref().map_or(0, |message| message.bytes);
        self.incoming.truncate(start + read);
        let message = match result {
            Ok(message) => message,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Received::WouldBlock),
            Err(Errno::CONNRESET) => return Ok(Received::Closed),
            Err(error) => return Err(ProtocolError::Socket(error.into())),
        };
        for item in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = item {
                self.received.extend(descriptors);
            }
        }
        // Descriptors are cut off silently where the process may not open more of them.
        if message.flags.contains(ReturnFlags::CTRUNC) || self.received.len() > 2 * MAX_DESCRIPTORS
        {
            return Err(ProtocolError::Descriptors);
        }
        if message.bytes > 0 {
            return Ok(Received::Bytes);
        }
        if self.incoming.is_empty() {
            Ok(Received::Closed)
        } else {
            Err(ProtocolError::Cut)
        }
    }

    /// Takes the next whole message out of what has been read.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, ProtocolError> {
        let Some((head, rest)) = self.incoming.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let [a, b, c, d, e, f, magic @ ..] = *head;
        if magic != MAGIC {
            return Err(ProtocolError::Head);
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let count = usize::from(u16::from_be_bytes([e, f]));
        if length > MAX_BODY {
            return Err(ProtocolError::TooLarge(length));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        if self.received.len() < count {
            return Err(ProtocolError::Descriptors);
        }
        let body = body.to_vec();
        self.incoming.drain(..HEAD + length);
        if self.incoming.is_empty() {
            // A launch is large and comes once; a shim must not keep its memory for good.
            self.incoming = Vec::new();
        }
        Ok(Some(Frame {
            body,
            descriptors: self.received.drain(..count).collect(),
        }))
    }
}

/// One `sendmsg`: the descriptors still to go travel with the first bytes, 250 at a time.
fn write_some(socket: BorrowedFd<'_>, message: &mut Outgoing) -> Result<(), Errno> {
    let rest = &message.bytes[message.written..];
    let batch = message.descriptors.len().min(DESCRIPTORS_AT_ONCE);
    // Each batch needs a byte to ride on, so only the last one takes all that is left.
    let rest = if message.descriptors.len() > batch {
        &rest[..1]
    } else {
        rest
    };
    let mut space = [MaybeUninit::<u8>::uninit(); CONTROL_SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let borrowed: Vec<BorrowedFd<'_>> = message
        .descriptors
        .iter()
        .take(batch)
        .map(AsFd::as_fd)
        .collect();
    if !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(Errno::NOBUFS);
    }
    let written = sendmsg(
        socket,
        &[IoSlice::new(rest)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    drop(borrowed);
    message.descriptors.drain(..batch);
    message.written += written;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (Channel, Channel) {
        let (a, b) = UnixStream::pair().unwrap();
        let (a, b) = (Channel::new(a.into()), Channel::new(b.into()));
        a.set_nonblocking(true).unwrap();
        b.set_nonblocking(true).unwrap();
        (a, b)
    }

    fn exchange(a: &mut Channel, b: &mut Channel) -> Frame {
        loop {
            let flushed = a.flush().unwrap();
            while b.receive().unwrap() == Received::Bytes {}
            if let Some(frame) = b.next_frame().unwrap() {
                assert_eq!(flushed, Flushed::Done);
                return frame;
            }
        }
    }

    #[test]
    fn large_messages_pass_through_a_full_socket() {
        let (mut a, mut b) = pair();
        let text = "x".repeat(3 << 20);
        a.queue(&text, Vec::new()).unwrap();
        let frame = exchange(&mut a, &mut b);
        assert_eq!(serde_json::from_slice::<String>(&frame.body).unwrap(), text);
        assert!(frame.descriptors.is_empty());
    }

    #[test]
    fn descriptors_arrive_with_their_message_in_order() {
        let (mut a, mut b) = pair();
        let mut readers = Vec::new();
        let mut writers = Vec::new();
        for _ in 0..300 {
            let (reader, writer) = rustix::pipe::pipe().unwrap();
            readers.push(reader);
            writers.push(writer);
        }
        a.queue(&"before", Vec::new()).unwrap();
        a.queue(&"with", writers).unwrap();
        a.queue(&"after", Vec::new()).unwrap();
        assert!(exchange(&mut a, &mut b).descriptors.is_empty());
        let frame = b
            .next_frame()
            .unwrap()
            .unwrap_or_else(|| exchange(&mut a, &mut b));
        assert_eq!(frame.body, b"\"with\"");
        assert_eq!(frame.descriptors.len(), 300);
        for (number, writer) in frame.descriptors.into_iter().enumerate() {
            std::fs::File::from(writer)
                .write_all(&[number as u8])
                .unwrap();
        }
        for (number, reader) in readers.into_iter().enumerate() {
            let mut text = Vec::new();
            std::fs::File::from(reader).read_to_end(&mut text).unwrap();
            assert_eq!(text, [number as u8]);
        }
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let (a, mut b) = pair();
        rustix::io::write(&a, b"GET / HTTP/1.1\r\n\r\n").unwrap();
        b.receive().unwrap();
        assert!(matches!(b.next_frame(), Err(ProtocolError::Head)));
    }

    #[test]
    fn a_cut_message_is_told_from_an_end() {
        let (mut a, mut b) = pair();
        a.queue(&"hello", Vec::new()).unwrap();
        a.flush().unwrap();
        drop(a);
        assert_eq!(b.receive().unwrap(), Received::Bytes);
        assert!(b.next_frame().unwrap().is_some());
        assert_eq!(b.receive().unwrap(), Received::Closed);

        let (a, mut b) = pair();
        rustix::io::write(&a, &[0, 0, 0, 9, 0, 0, b's', b'p', b'"']).unwrap();
        drop(a);
        assert_eq!(b.receive().unwrap(), Received::Bytes);
        assert!(b.next_frame().unwrap().is_none());
        assert!(matches!(b.receive(), Err(ProtocolError::Cut)));
    }
}
