//! Requests to the kernel over synchronous netlink sockets.
//!
//! A socket belongs to the network namespace its thread was in when it was
//! opened, for good; whoever uses it afterwards speaks to that namespace.
//! The kernel answers route and nftables requests inside `send`, so that
//! nothing here ever waits for long.

use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_sys::{Socket, SocketAddr};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};

use crate::error::Fault;

/// Larger than any datagram the kernel sends (dumps grow to 32 KiB).
const RECEIVE: usize = 64 * 1024;
/// Far beyond what an answer takes; guards against a hang should one be lost.
const PATIENCE: Duration = Duration::from_secs(10);
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;
const NLMSGERR_ATTR_MSG: u16 = 1;
const HEADER: usize = 16;

/// The kernel subsystem a socket speaks to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subsystem {
    /// Links, addresses, routes.
    Route,
    /// nftables and connection tracking.
    Netfilter,
}

/// A request and its flags beside `NLM_F_REQUEST`.
pub(crate) type Request<M> = (M, u16);

/// Which request of a batch was refused, and why.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Position in the batch; 0 when the batch as a whole failed.
    pub(crate) index: usize,
    pub(crate) fault: Fault,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self { index: 0, fault }
    }
}

#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    socket: Socket,
    sequence: u32,
    send_buffer: usize,
}

impl NetlinkSocket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(subsystem: Subsystem) -> std::io::Result<Self> {
        let protocol = match subsystem {
            Subsystem::Route => netlink_sys::protocols::NETLINK_ROUTE,
            Subsystem::Netfilter => netlink_sys::protocols::NETLINK_NETFILTER,
        };
        let socket = Socket::new(protocol)?;
        // Connected to the kernel, other processes' messages are refused.
        socket.connect(&SocketAddr::new(0, 0))?;
        // Without the first an error repeats the whole request; the second
        // brings the kernel's sentence. Neither is vital.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        let send_buffer = sockopt::socket_send_buffer_size(&socket)?;
        Ok(Self {
            socket,
            sequence: 0,
            send_buffer,
        })
    }

    /// Sends all requests at once and waits for the answer to each.
    ///
    /// The kernel goes on after a refused request; the first refusal is returned.
    pub(crate) fn execute<M: NetlinkSerializable>(
        &mut self,
        requests: Vec<Request<M>>,
    ) -> Result<(), Refusal> {
        let first = self.sequence;
        let count = requests.len();
        let mut bytes = Vec::new();
        for (message, flags) in requests {
            self.push(&mut bytes, message, flags | NLM_F_ACK);
        }
        self.send(&bytes)?;

        let mut refusal: Option<Refusal> = None;
        let mut answered = 0;
        let mut buffer = Vec::with_capacity(RECEIVE);
        while answered < count {
            self.receive(&mut buffer, RecvFlags::empty())?;
            for message in Datagram(&buffer) {
                let index = message.sequence().wrapping_sub(first) as usize;
                let Some(answer) = message.acknowledgement().filter(|_| index < count) else {
                    continue;
                };
                answered += 1;
                if let Err(fault) = answer
                    && refusal.as_ref().is_none_or(|earlier| index < earlier.index)
                {
                    refusal = Some(Refusal { index, fault });
                }
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    /// Sends one request and returns the objects it is answered with.
    ///
    /// `Ok(None)` says that the list changed while it was read. An object of
    /// a shape that the codec does not know is left out: it is none of ours.
    pub(crate) fn dump<M>(&mut self, message: M) -> Result<Option<Vec<M>>, Fault>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut objects = Vec::new();
        let steady = self.dump_each(message, |message| objects.extend(message.decode()))?;
        Ok(steady.then_some(objects))
    }

    /// Sends one request and hands the payload of every object it is answered
    /// with to `each`; returns whether the list held still meanwhile.
    pub(crate) fn dump_payloads<M: NetlinkSerializable>(
        &mut self,
        message: M,
        mut each: impl FnMut(&[u8]),
    ) -> Result<bool, Fault> {
        self.dump_each(message, |message| each(&message.0[HEADER..]))
    }

    fn dump_each<M: NetlinkSerializable>(
        &mut self,
        message: M,
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<bool, Fault> {
        let sequence = self.sequence;
        let mut bytes = Vec::new();
        self.push(&mut bytes, message, NLM_F_DUMP);
        self.send(&bytes)?;
        let mut steady = true;
        let mut buffer = Vec::with_capacity(RECEIVE);
        loop {
            self.receive(&mut buffer, RecvFlags::empty())?;
            for message in Datagram(&buffer) {
                if message.sequence() != sequence {
                    continue;
                }
                steady &= message.flags() & netlink_packet_core::NLM_F_DUMP_INTR == 0;
                if let Some(answer) = message.acknowledgement() {
                    return answer.map(|()| steady);
                }
                each(&message);
            }
        }
    }

    /// Sends one request that is answered with one object.
    pub(crate) fn get<M>(&mut self, message: M) -> Result<M, Fault>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        let sequence = self.sequence;
        let mut bytes = Vec::new();
        self.push(&mut bytes, message, NLM_F_ACK);
        self.send(&bytes)?;
        let mut object = None;
        let mut buffer = Vec::with_capacity(RECEIVE);
        loop {
            self.receive(&mut buffer, RecvFlags::empty())?;
            for message in Datagram(&buffer) {
                if message.sequence() != sequence {
                    continue;
                }
                if let Some(answer) = message.acknowledgement() {
                    answer?;
                    return object.ok_or_else(|| Fault::malformed("an empty answer"));
                }
                object = message.decode().or(object);
            }
        }
    }

    /// Sends requests that the kernel carries out as one transaction, and
    /// only the last of which is to be acknowledged. `requests` includes the
    /// messages that begin and end it.
    pub(crate) fn transact<M: NetlinkSerializable>(
        &mut self,
        requests: Vec<Request<M>>,
        acknowledged: usize,
    ) -> Result<(), Refusal> {
        let first = self.sequence;
        let mut bytes = Vec::new();
        for (index, (message, flags)) in requests.into_iter().enumerate() {
            let ack = if index == acknowledged { NLM_F_ACK } else { 0 };
            self.push(&mut bytes, message, flags | ack);
        }
        self.send(&bytes)?;

        // Everything is answered by now: read until nothing is left, because
        // a failed transaction has an error for each message at fault.
        let mut outcome: Option<Result<(), Refusal>> = None;
        let mut buffer = Vec::with_capacity(RECEIVE);
        loop {
            let wait = if outcome.is_none() {
                RecvFlags::empty()
            } else {
                RecvFlags::DONTWAIT
            };
            match self.receive(&mut buffer, wait) {
                Err(fault) if fault.is(Errno::AGAIN) && outcome.is_some() => break,
                other => other?,
            }
            for message in Datagram(&buffer) {
                let Some(answer) = message.acknowledgement() else {
                    continue;
                };
                if message.sequence().wrapping_sub(first) >= self.sequence.wrapping_sub(first) {
                    continue;
                }
                let index = message.sequence().wrapping_sub(first) as usize;
                let answer = answer.map_err(|fault| Refusal { index, fault });
                if !matches!(outcome, Some(Err(_))) {
                    outcome = Some(answer);
                }
            }
        }
        outcome.unwrap_or(Ok(()))
    }

    fn push<M: NetlinkSerializable>(&mut self, bytes: &mut Vec<u8>, message: M, flags: u16) {
        let mut message = NetlinkMessage::new(
            netlink_packet_core::NetlinkHeader::default(),
            NetlinkPayload::InnerMessage(message),
        );
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        self.sequence = self.sequence.wrapping_add(1);
        message.finalize();
        let start = bytes.len();
        // Messages of a batch begin at multiples of four.
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let needed = bytes.len() + 4096;
        if needed > self.send_buffer {
            sockopt::set_socket_send_buffer_size_force(&self.socket, needed)?;
            self.send_buffer = needed;
        }
        loop {
            match send(&self.socket, bytes, SendFlags::empty()) {
                Err(Errno::INTR) => {}
                other => return Ok(other.map(|_| ())?),
            }
        }
    }

    fn receive(&mut self, buffer: &mut Vec<u8>, flags: RecvFlags) -> Result<(), Fault> {
        loop {
            buffer.clear();
            match recv(
                &self.socket,
                spare_capacity(buffer),
                flags | RecvFlags::TRUNC,
            ) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok((_, length)) if length > buffer.len() => {
                    return Err(Fault::malformed("a message of more than 64 KiB"));
                }
                Ok(_) => return Ok(()),
            }
        }
    }
}

/// The messages of one datagram.
struct Datagram<'a>(&'a [u8]);

impl<'a> Iterator for Datagram<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header = NetlinkBuffer::new_checked(self.0).ok()?;
        let length = header.length() as usize;
        let message = Message(self.0.get(..length)?);
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

struct Message<'a>(&'a [u8]);

impl Message<'_> {
    fn header(&self) -> NetlinkBuffer<&[u8]> {
        NetlinkBuffer::new(self.0)
    }

    fn sequence(&self) -> u32 {
        self.header().sequence_number()
    }

    fn flags(&self) -> u16 {
        self.header().flags()
    }

    /// Returns the verdict when this message is one (an error, an
    /// acknowledgement, or the end of a dump).
    fn acknowledgement(&self) -> Option<Result<(), Fault>> {
        let payload = &self.0[HEADER..];
        let code = payload
            .get(..4)
            .map(|code| i32::from_ne_bytes([code[0], code[1], code[2], code[3]]));
        match (self.header().message_type(), code) {
            (NLMSG_DONE, None | Some(0..)) | (NLMSG_ERROR, Some(0)) => Some(Ok(())),
            (NLMSG_DONE | NLMSG_ERROR, Some(code)) => Some(Err(Fault {
                error: std::io::Error::from_raw_os_error(code.saturating_neg()),
                detail: self.detail(),
            })),
            (NLMSG_ERROR, None) => Some(Err(Fault::malformed("a short error"))),
            _ => None,
        }
    }

    /// Finds the kernel's sentence behind an error.
    fn detail(&self) -> Option<String> {
        if self.flags() & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let original = self.0.get(HEADER + 4..)?;
        let skipped = if self.flags() & NLM_F_CAPPED == 0 {
            NetlinkBuffer::new_checked(original).ok()?.length() as usize
        } else {
            HEADER
        };
        NlasIterator::new(original.get(skipped.next_multiple_of(4)..)?)
            .filter_map(Result::ok)
            .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
            .map(|attribute| {
                String::from_utf8_lossy(attribute.value())
                    .trim_end_matches('\0')
                    .to_owned()
            })
    }

    /// Decodes the object, if the codec knows its shape.
    fn decode<M: NetlinkDeserializable>(&self) -> Option<M> {
        match NetlinkMessage::<M>::deserialize(self.0).ok()?.payload {
            NetlinkPayload::InnerMessage(object) => Some(object),
            _ => None,
        }
    }
}
