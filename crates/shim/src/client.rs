//! One attached client.

use std::io::IoSlice;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};
use sampan_logs::{Cursor, Stream};
use sampan_shim_protocol::{AttachSpec, OutputStream, frame_head};

use crate::detach::DetachScanner;
use crate::poller::{Poller, Readiness, Source, Watched};
use crate::queue::Queue;

/// Most output that waits for a client; beyond it the container waits as it would for a full pipe.
pub(crate) const QUEUE_LIMIT: usize = 256 << 10;
/// A replay of the log is read ahead up to this.
const REPLAY_AHEAD: usize = 64 << 10;
/// How long a client on a network gets to close after its stream has ended.
const LINGER: Duration = Duration::from_secs(2);
/// A client that takes nothing for so long after its stream has ended is let go.
const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Gets output as it comes.
    Live,
    /// Gets what is queued, then the end.
    Ending,
    /// Has been sent the end; may still be sending.
    Lingering(Instant),
    /// Can be forgotten.
    Gone,
}

/// What a client has sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Typed {
    /// It will send nothing more.
    pub(crate) ended: bool,
    /// It has typed its detach sequence.
    pub(crate) detached: bool,
}

/// One attached client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) number: u32,
    socket: Watched,
    spec: AttachSpec,
    /// Whether what it sends still goes to the process.
    feeds: bool,
    scanner: Option<DetachScanner>,
    queue: Queue,
    /// The log, while it is read to the client in place of live output.
    replay: Option<Cursor>,
    phase: Phase,
    /// When it last took something.
    progress: Instant,
}

impl Client {
    /// Takes over a client's socket.
    pub(crate) fn new(
        poller: &Rc<Poller>,
        streams: u32,
        number: u32,
        spec: AttachSpec,
        socket: OwnedFd,
    ) -> Self {
        Self {
            number,
            socket: Watched::new(poller, Source::Client(streams, number), socket),
            feeds: spec.stdin,
            scanner: DetachScanner::new(&spec.detach_keys),
            spec,
            queue: Queue::default(),
            replay: None,
            phase: Phase::Live,
            progress: Instant::now(),
        }
    }

    /// Whether what it sends goes to the process.
    pub(crate) fn feeds(&self) -> bool {
        self.feeds && self.phase == Phase::Live
    }

    /// From here on nothing it sends goes to the process.
    pub(crate) fn stop_feeding(&mut self) {
        self.feeds = false;
    }

    /// Whether it was attached to standard input.
    pub(crate) fn has_stdin(&self) -> bool {
        self.spec.stdin
    }

    pub(crate) fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    /// Whether the process has to wait for it.
    pub(crate) fn is_full(&self) -> bool {
        self.is_live() && self.replay.is_none() && self.queue.len() >= QUEUE_LIMIT
    }

    /// Begins with what the log holds.
    pub(crate) fn replay(&mut self, log: Cursor) {
        self.replay = Some(log);
    }

    /// Gives it output of the process.
    pub(crate) fn deliver(&mut self, stream: OutputStream, bytes: &[u8]) {
        if self.is_live() && self.replay.is_none() {
            self.send(stream, bytes);
        }
    }

    /// Gives it a message of ours, as the last thing on its stream.
    pub(crate) fn say(&mut self, text: &str) {
        self.send(OutputStream::Stdout, text.as_bytes());
    }

    /// Its stream ends, after what is queued and after the replay.
    pub(crate) fn end(&mut self) {
        if self.phase == Phase::Live {
            self.phase = Phase::Ending;
            self.progress = Instant::now();
        }
    }

    /// Its stream ends, after what is queued: it has detached.
    pub(crate) fn end_now(&mut self) {
        self.replay = None;
        self.end();
    }

    /// It is not there any more.
    pub(crate) fn vanish(&mut self) {
        self.phase = Phase::Gone;
    }

    /// Reads what it has sent, at most as much as fits into `scratch`; appends what is for the
    /// process to `through`. `None` where there is nothing at the moment.
    pub(crate) fn read(&mut self, scratch: &mut [u8], through: &mut Vec<u8>) -> Option<Typed> {
        match rustix::net::recv(&self.socket, &mut *scratch, RecvFlags::DONTWAIT) {
            Ok((read, _)) if read > 0 => Some(self.typed(&scratch[..read], through)),
            Err(Errno::AGAIN | Errno::INTR) => None,
            Ok(_) => Some(Typed {
                ended: true,
                detached: false,
            }),
            Err(_) => {
                self.vanish();
                Some(Typed {
                    ended: true,
                    detached: false,
                })
            }
        }
    }

    /// Takes what it has sent, read by us or by the engine before it handed the client over.
    pub(crate) fn typed(&mut self, bytes: &[u8], through: &mut Vec<u8>) -> Typed {
        if !self.feeds() {
            return Typed::default();
        }
        let detached = match &mut self.scanner {
            Some(scanner) => scanner.feed(bytes, through),
            None => {
                through.extend_from_slice(bytes);
                false
            }
        };
        Typed {
            ended: false,
            detached,
        }
    }

    /// Moves on as far as the socket takes it. `pending` tells what the log's writer holds back of
    /// an unfinished line.
    pub(crate) fn advance(&mut self, pending: impl Fn(Stream) -> Vec<u8>) {
        loop {
            self.flush();
            if self.phase == Phase::Gone || self.replay.is_none() {
                break;
            }
            if !self.queue.is_empty() {
                return;
            }
            self.read_ahead(&pending);
        }
        if self.phase == Phase::Ending && self.queue.is_empty() {
            self.close();
        }
    }

    /// Lets go of it when its time is over; otherwise when that will be.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Instant> {
        let end = match self.phase {
            Phase::Live | Phase::Gone => return None,
            Phase::Ending => self.progress + PATIENCE,
            Phase::Lingering(until) => until,
        };
        if now >= end {
            self.phase = Phase::Gone;
            return None;
        }
        Some(end)
    }

    /// Watches for what can happen next; `input_open` tells whether there is room for what it sends.
    pub(crate) fn watch(&mut self, input_open: bool) {
        let mut interest = Readiness::empty();
        match self.phase {
            Phase::Gone => return,
            Phase::Lingering(_) => interest |= Readiness::IN,
            Phase::Live if self.feeds && input_open => interest |= Readiness::IN,
            Phase::Live | Phase::Ending => {}
        }
        if !self.queue.is_empty() {
            interest |= Readiness::OUT;
        }
        if self.socket.watch(Some(interest)).is_err() {
            // Not something that can be polled: not a socket.
            self.vanish();
        }
    }

    fn wants(&self, stream: OutputStream) -> bool {
        match stream {
            OutputStream::Stdout => self.spec.stdout,
            OutputStream::Stderr => self.spec.stderr,
        }
    }

    fn send(&mut self, stream: OutputStream, bytes: &[u8]) {
        if bytes.is_empty() || !self.wants(stream) {
            return;
        }
        let head = frame_head(stream, u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        let head = if self.spec.framed { &head[..] } else { &[] };
        let mut sent = 0;
        if self.queue.is_empty() {
            let parts = [IoSlice::new(head), IoSlice::new(bytes)];
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let mut control = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(&self.socket, &parts, &mut control, flags) {
                Ok(count) => {
                    sent = count;
                    self.progress = Instant::now();
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return self.vanish(),
            }
        }
        if let Some(rest) = head.get(sent..) {
            self.queue.push(rest);
            sent = head.len();
        }
        self.queue.push(&bytes[sent - head.len()..]);
    }

    fn flush(&mut self) {
        while !self.queue.is_empty() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.socket, self.queue.front(), flags) {
                Ok(count) => {
                    self.queue.consume(count);
                    self.progress = Instant::now();
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.queue.clear();
                    return self.vanish();
                }
            }
        }
    }

    /// Queues more of the log. Where it has been read to its end, the client is where live output
    /// goes on: the log is written before output is delivered.
    fn read_ahead(&mut self, pending: &impl Fn(Stream) -> Vec<u8>) {
        while self.queue.len() < REPLAY_AHEAD {
            let Some(log) = &mut self.replay else {
                return;
            };
            match log.next_entry() {
                Ok(Some(entry)) => self.send(output_of(entry.stream), &entry.bytes),
                // A log that cannot be read must not keep the client from what comes.
                Ok(None) | Err(_) => {
                    self.replay = None;
                    for stream in [Stream::Stdout, Stream::Stderr] {
                        self.send(output_of(stream), &pending(stream));
                    }
                    if self.spec.replay_only {
                        self.end();
                    }
                }
            }
        }
    }

    /// Sends the end of the stream.
    fn close(&mut self) {
        if rustix::net::shutdown(&self.socket, Shutdown::Write).is_err() {
            return self.vanish();
        }
        self.discard();
        if self.phase == Phase::Gone {
            return;
        }
        let address = rustix::net::getsockname(&self.socket);
        if address.is_ok_and(|address| address.address_family() == AddressFamily::UNIX) {
            // What lies in its socket stays there for it to read, as long as we leave nothing
            // unread in ours; nothing can come any more after this.
            let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
            self.discard();
            self.phase = Phase::Gone;
        } else {
            // On a network an early close would take back what is still on its way.
            self.phase = Phase::Lingering(Instant::now() + LINGER);
        }
    }

    /// Reads and drops what it still sends.
    pub(crate) fn discard(&mut self) {
        let mut scratch = [0; 4096];
        loop {
            match rustix::net::recv(self.socket.as_fd(), &mut scratch, RecvFlags::DONTWAIT) {
                Ok((read, _)) if read > 0 => {}
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Ok(_) | Err(_) => {
                    if matches!(self.phase, Phase::Lingering(_)) {
                        self.phase = Phase::Gone;
                    }
                    return;
                }
            }
        }
    }
}

/// The stream's number in frames.
pub(crate) fn output_of(stream: Stream) -> OutputStream {
    match stream {
        Stream::Stdout => OutputStream::Stdout,
        Stream::Stderr => OutputStream::Stderr,
    }
}
