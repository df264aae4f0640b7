//! The standard streams of one process: output to the log and to clients, input from clients.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use sampan_logs::{Cursor, Format, Query, Stream, Writer};
use sampan_shim_protocol::AttachSpec;
use sampan_text::with_causes;

use crate::client::{Client, output_of};
use crate::poller::{Output, Poller, Readiness, Source, Watched};
use crate::queue::Queue;

/// Most input that waits for the process; beyond it clients wait as they would for a full pipe.
const INPUT_LIMIT: usize = 64 << 10;
/// Reads from one descriptor before others get their turn.
const READS_AT_ONCE: usize = 8;
/// Most that is read of an output whose process has ended: somebody else may still be filling it.
const DRAIN_LIMIT: usize = 8 << 20;

/// Something that happened on streams and that others want to know.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A client has detached by its keys.
    Detached,
    /// Log entries were lost; said once until entries can be written again.
    LogFailed(String),
}

/// A log that output is written to.
#[derive(Debug)]
pub(crate) struct Log {
    directory: PathBuf,
    name: String,
    format: Format,
    writer: Writer,
    failing: bool,
}

impl Log {
    /// Opens the log `name` in `directory`.
    pub(crate) fn open(
        directory: &Path,
        name: String,
        options: &sampan_logs::Options,
    ) -> Result<Self, sampan_logs::Error> {
        Ok(Self {
            writer: Writer::open(directory, &name, options)?,
            directory: directory.to_owned(),
            name,
            format: options.format,
            failing: false,
        })
    }

    /// What it holds, from the start.
    fn read(&self) -> Result<Cursor, sampan_logs::Error> {
        let query = Query {
            format: self.format,
            ..Query::default()
        };
        Cursor::open(&self.directory, &self.name, &query)
    }
}

#[derive(Debug)]
struct Input {
    descriptor: Watched,
    queue: Queue,
    /// Nothing more comes: it is closed after what is queued.
    ending: bool,
}

/// Ends of a process's streams that go to the process.
#[derive(Debug)]
pub(crate) struct ProcessEnds {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl ProcessEnds {
    /// Nothing to read, and output goes nowhere.
    pub(crate) fn nowhere() -> io::Result<Self> {
        Ok(Self {
            stdin: null(OFlags::RDONLY)?,
            stdout: null(OFlags::WRONLY)?,
            stderr: null(OFlags::WRONLY)?,
        })
    }
}

impl From<ProcessEnds> for sampan_runtime::Stdio {
    fn from(ends: ProcessEnds) -> Self {
        Self::Pipes {
            stdin: ends.stdin,
            stdout: ends.stdout,
            stderr: ends.stderr,
        }
    }
}

/// When standard input ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StdinPolicy {
    /// It is `/dev/null`.
    Closed,
    /// It stays open whoever leaves.
    Open,
    /// It ends when the first client that feeds it leaves.
    Once,
}

/// The standard streams of one process.
#[derive(Debug)]
pub(crate) struct Streams {
    number: u32,
    poller: Rc<Poller>,
    is_terminal: bool,
    stdin_policy: StdinPolicy,
    outputs: [Option<Watched>; 2],
    input: Option<Input>,
    /// The terminal's other side. As long as somebody holds it, the terminal does not report an
    /// end just because the process has closed its streams for a while.
    far_side: Option<OwnedFd>,
    clients: Vec<Client>,
    next_client: u32,
    log: Option<Log>,
    /// The process has ended and everything it wrote has been read.
    over: bool,
    notices: Vec<Notice>,
}

impl Streams {
    /// Makes pipes; the other ends are for the process.
    pub(crate) fn pipes(
        poller: &Rc<Poller>,
        number: u32,
        stdin_policy: StdinPolicy,
        log: Option<Log>,
    ) -> io::Result<(Self, ProcessEnds)> {
        let mut streams = Self::new(poller, number, stdin_policy, log);
        let stdin = match stdin_policy {
            StdinPolicy::Closed => null(OFlags::RDONLY)?,
            StdinPolicy::Open | StdinPolicy::Once => {
                let (theirs, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
                streams.set_input(ours)?;
                theirs
            }
        };
        let (ours, stdout) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        streams.set_output(Output::First, ours)?;
        let (ours, stderr) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        streams.set_output(Output::Second, ours)?;
        let ends = ProcessEnds {
            stdin,
            stdout,
            stderr,
        };
        Ok((streams, ends))
    }

    /// Streams that a terminal will stand behind.
    pub(crate) fn for_terminal(
        poller: &Rc<Poller>,
        number: u32,
        stdin_policy: StdinPolicy,
        log: Option<Log>,
    ) -> Self {
        let mut streams = Self::new(poller, number, stdin_policy, log);
        streams.is_terminal = true;
        streams
    }

    fn new(poller: &Rc<Poller>, number: u32, stdin_policy: StdinPolicy, log: Option<Log>) -> Self {
        Self {
            number,
            poller: Rc::clone(poller),
            is_terminal: false,
            stdin_policy,
            outputs: [None, None],
            input: None,
            far_side: None,
            clients: Vec::new(),
            next_client: 0,
            log,
            over: false,
            notices: Vec::new(),
        }
    }

    /// Puts the near side of a terminal behind the streams.
    pub(crate) fn set_terminal(&mut self, near_side: OwnedFd) -> io::Result<()> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        self.far_side = rustix::pty::ioctl_tiocgptpeer(&near_side, flags).ok();
        if self.stdin_policy != StdinPolicy::Closed {
            // epoll takes an open file once per descriptor.
            self.set_input(rustix::io::fcntl_dupfd_cloexec(&near_side, 3)?)?;
        }
        self.set_output(Output::First, near_side)
    }

    fn set_output(&mut self, output: Output, descriptor: OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        let source = Source::Output(self.number, output);
        self.outputs[output as usize] = Some(Watched::new(&self.poller, source, descriptor));
        Ok(())
    }

    fn set_input(&mut self, descriptor: OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        self.input = Some(Input {
            descriptor: Watched::new(&self.poller, Source::Input(self.number), descriptor),
            queue: Queue::default(),
            ending: false,
        });
        Ok(())
    }

    /// The number by which these streams go.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Number of attached clients.
    pub(crate) fn attached(&self) -> usize {
        self.clients
            .iter()
            .filter(|client| client.is_live())
            .count()
    }

    /// Whether nothing is left to be done.
    pub(crate) fn is_finished(&self) -> bool {
        self.over && self.clients.is_empty()
    }

    /// Whether every output has ended by itself.
    pub(crate) fn outputs_ended(&self) -> bool {
        self.outputs.iter().all(Option::is_none)
    }

    /// What has happened since the last call.
    pub(crate) fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Attaches a client.
    pub(crate) fn attach(&mut self, mut spec: AttachSpec, socket: OwnedFd) {
        // Keys detach from a terminal only, and only who types has keys.
        if !self.is_terminal || !spec.stdin || self.stdin_policy == StdinPolicy::Closed {
            spec.detach_keys = sampan_shim_protocol::DetachKeys::none();
        }
        spec.stdin &= self.stdin_policy != StdinPolicy::Closed;
        spec.framed &= !self.is_terminal;
        let leftover = std::mem::take(&mut spec.leftover.0);
        let (replay_logs, replay_only) = (spec.replay_logs, spec.replay_only);
        let number = self.next_client;
        self.next_client += 1;
        let mut client = Client::new(&self.poller, self.number, number, spec, socket);
        let log = self.log.as_ref().filter(|_| replay_logs);
        match log.map(Log::read) {
            Some(Ok(cursor)) => client.replay(cursor),
            Some(Err(_)) | None if replay_only => client.end(),
            Some(Err(_)) | None => {}
        }
        if self.over {
            client.end();
        }
        let mut through = Vec::new();
        let typed = client.typed(&leftover, &mut through);
        self.clients.push(client);
        self.feed(&through);
        if typed.detached {
            self.detach(number);
        }
        self.settle();
    }

    /// Sets the size of the terminal; false where there is none.
    pub(crate) fn resize(&self, height: u16, width: u16) -> io::Result<bool> {
        let Some(terminal) = self.terminal() else {
            return Ok(false);
        };
        let size = Winsize {
            ws_row: height,
            ws_col: width,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(terminal, size)?;
        Ok(true)
    }

    fn terminal(&self) -> Option<BorrowedFd<'_>> {
        let [first, _] = &self.outputs;
        first
            .as_ref()
            .filter(|_| self.is_terminal)
            .map(|first| first.as_fd())
    }

    /// Ends standard input after what is queued for it. A terminal's cannot be ended.
    pub(crate) fn close_stdin(&mut self) {
        if let Some(input) = &mut self.input
            && !self.is_terminal
        {
            input.ending = true;
        }
        self.settle();
    }

    /// Opens the log anew.
    pub(crate) fn reopen_log(&mut self) -> Result<(), sampan_logs::Error> {
        self.log.as_mut().map_or(Ok(()), |log| log.writer.reopen())
    }

    /// An output can be read.
    pub(crate) fn output_ready(&mut self, output: Output, scratch: &mut [u8]) {
        for _ in 0..READS_AT_ONCE {
            if self.is_congested() || self.read_output(output, scratch).is_none() {
                break;
            }
        }
        self.settle();
    }

    /// The input takes more, or the process has closed it.
    pub(crate) fn input_ready(&mut self, readiness: Readiness) {
        if readiness.contains(Readiness::ERR) && !self.is_terminal {
            self.input = None;
        }
        self.settle();
    }

    /// Something happened at a client's socket.
    pub(crate) fn client_ready(&mut self, number: u32, readiness: Readiness, scratch: &mut [u8]) {
        let Some(index) = self
            .clients
            .iter()
            .position(|client| client.number == number)
        else {
            return;
        };
        let gone = readiness.intersects(Readiness::HUP | Readiness::ERR);
        if self.clients[index].feeds() {
            // What a client sent before it left is still there to be read.
            while self.read_client(index, scratch) && gone {}
        } else if readiness.contains(Readiness::IN) {
            self.clients[index].discard();
        }
        if gone {
            self.clients[index].vanish();
        }
        self.settle();
    }

    /// The process has ended: its terminal ends when nobody else of its kind holds it.
    pub(crate) fn process_ended(&mut self) {
        self.far_side = None;
    }

    /// Reads what is there at the moment, however slow the clients are. Called when the process has
    /// ended: what it wrote is all there then.
    pub(crate) fn drain(&mut self, scratch: &mut [u8]) {
        for output in [Output::First, Output::Second] {
            let mut total = 0;
            while let Some(read) = self.read_output(output, scratch) {
                total += read;
                if total > DRAIN_LIMIT {
                    break;
                }
            }
        }
        self.settle();
    }

    /// Ends the streams: clients get what is queued, then the end.
    pub(crate) fn finish(&mut self, scratch: &mut [u8]) {
        if self.over {
            return;
        }
        self.drain(scratch);
        self.close_output(Output::First);
        self.close_output(Output::Second);
        self.input = None;
        self.over = true;
        for client in &mut self.clients {
            client.end();
        }
        self.settle();
    }

    /// Ends the streams with a message of ours to each client.
    pub(crate) fn finish_with(&mut self, text: &str, scratch: &mut [u8]) {
        // What a runtime has said of it is part of the message.
        self.outputs = [None, None];
        for client in &mut self.clients {
            client.say(text);
        }
        self.finish(scratch);
    }

    /// Lets go of clients whose time is over; the next moment at which one's will be.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Instant> {
        let next = self
            .clients
            .iter_mut()
            .filter_map(|client| client.expire(now))
            .min();
        self.settle();
        next
    }

    /// Reads once; the number of bytes, `None` where there is nothing or no more.
    fn read_output(&mut self, output: Output, scratch: &mut [u8]) -> Option<usize> {
        let descriptor = self.outputs[output as usize].as_ref()?;
        match rustix::io::read(descriptor, &mut *scratch) {
            Ok(read) if read > 0 => {
                self.take_output(output, &scratch[..read]);
                Some(read)
            }
            Err(Errno::AGAIN) => None,
            Err(Errno::INTR) => Some(0),
            // A terminal whose other side is gone answers EIO.
            Ok(_) | Err(_) => {
                self.close_output(output);
                None
            }
        }
    }

    fn take_output(&mut self, output: Output, bytes: &[u8]) {
        let stream = stream_of(output);
        // Into the log first: a replay that has read the log to its end must have missed nothing.
        self.write_log(|writer| writer.write(stream, bytes));
        for client in &mut self.clients {
            client.deliver(output_of(stream), bytes);
        }
    }

    fn close_output(&mut self, output: Output) {
        if self.outputs[output as usize].take().is_some() {
            let stream = stream_of(output);
            self.write_log(|writer| writer.finish(stream));
        }
    }

    fn write_log(&mut self, write: impl FnOnce(&mut Writer) -> Result<(), sampan_logs::Error>) {
        let Some(log) = &mut self.log else {
            return;
        };
        match write(&mut log.writer) {
            Ok(()) => log.failing = false,
            Err(error) if !log.failing => {
                log.failing = true;
                self.notices.push(Notice::LogFailed(with_causes(&error)));
            }
            Err(_) => {}
        }
    }

    /// Reads once from a client; false where there is nothing or no more.
    fn read_client(&mut self, index: usize, scratch: &mut [u8]) -> bool {
        let mut through = Vec::new();
        let client = &mut self.clients[index];
        let number = client.number;
        let Some(typed) = client.read(scratch, &mut through) else {
            return false;
        };
        self.feed(&through);
        if typed.detached {
            self.detach(number);
        }
        if typed.ended {
            self.client_ended(index);
        }
        !typed.ended && !typed.detached
    }

    fn detach(&mut self, number: u32) {
        if let Some(client) = self
            .clients
            .iter_mut()
            .find(|client| client.number == number)
        {
            client.end_now();
            self.notices.push(Notice::Detached);
        }
    }

    /// A client sends nothing more. Docker's rule: where its end is the input's end, output goes
    /// on; otherwise it is let go.
    fn client_ended(&mut self, index: usize) {
        let client = &mut self.clients[index];
        client.stop_feeding();
        if self.stdin_policy == StdinPolicy::Once && !self.is_terminal {
            if let Some(input) = &mut self.input {
                input.ending = true;
            }
        } else {
            client.end_now();
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        if let Some(input) = &mut self.input
            && !input.ending
            && !bytes.is_empty()
        {
            input.queue.push(bytes);
        }
    }

    fn flush_input(&mut self) {
        let Some(input) = &mut self.input else {
            return;
        };
        while !input.queue.is_empty() {
            match rustix::io::write(&input.descriptor, input.queue.front()) {
                Ok(written) => input.queue.consume(written),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // The process does not read any more.
                Err(_) => {
                    self.input = None;
                    return;
                }
            }
        }
        if input.ending {
            self.input = None;
        }
    }

    fn is_congested(&self) -> bool {
        self.clients.iter().any(Client::is_full)
    }

    /// Brings everything forward as far as it goes, then watches for what can happen next.
    pub(crate) fn settle(&mut self) {
        let log = self.log.as_ref();
        for client in &mut self.clients {
            client.advance(|stream| {
                log.map_or_else(Vec::new, |log| log.writer.pending(stream).to_vec())
            });
        }
        if self.stdin_policy == StdinPolicy::Once
            && !self.is_terminal
            && let Some(input) = &mut self.input
        {
            let gone = |client: &Client| client.has_stdin() && client.is_gone();
            input.ending |= self.clients.iter().any(gone);
        }
        self.clients.retain(|client| !client.is_gone());
        self.flush_input();
        self.watch();
    }

    fn watch(&mut self) {
        let input_open = self
            .input
            .as_ref()
            .is_none_or(|input| input.queue.len() < INPUT_LIMIT);
        for client in &mut self.clients {
            client.watch(input_open);
        }
        if let Some(input) = &mut self.input {
            let interest = if !input.queue.is_empty() {
                Some(Readiness::OUT)
            } else if self.is_terminal {
                None
            } else {
                // Only to hear that the process has closed it.
                Some(Readiness::empty())
            };
            if input.descriptor.watch(interest).is_err() {
                self.input = None;
            }
        }
        let interest = (!self.is_congested()).then_some(Readiness::IN);
        for descriptor in self.outputs.iter_mut().flatten() {
            // A pipe or a terminal can always be watched, short of memory; it is tried again with
            // the next thing that happens.
            let _ = descriptor.watch(interest);
        }
    }
}

fn stream_of(output: Output) -> Stream {
    match output {
        Output::First => Stream::Stdout,
        Output::Second => Stream::Stderr,
    }
}

fn null(flags: OFlags) -> io::Result<OwnedFd> {
    let mode = rustix::fs::Mode::empty();
    Ok(rustix::fs::open(
        "/dev/null",
        flags | OFlags::CLOEXEC,
        mode,
    )?)
}
