//! The engine's end of a shim: starting one, finding one again, talking to it.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;
use sampan_kernel::ancillary::receive_with_descriptors;
use sampan_kernel::exec::ArgumentList;
use sampan_kernel::spawn::{Spawn, spawn};
use sampan_shim_protocol::{
    Client, Event, Failure, FailureKind, Flushed, Incoming, Launch, LaunchDescriptors, PROTOCOL,
    Preparation, Received, Reply, Request, StartFailure, UserMaps,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::users::{IdMaps, UserNamespaces};
use crate::{Error, ErrorKind, Result};

/// How long a shim may take to answer anything but a launch.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a launch may take: sources on a slow disk, a big cgroup.
const LAUNCH: Duration = Duration::from_secs(100);
/// Number of the control connection in the shim.
const CONTROL: i32 = 3;
/// File in the shim's directory that is locked as long as a shim may live.
const LOCK: &str = "lock";

/// The shim's executable in sealed memory: no container can reach a file of the host by it.
#[derive(Debug)]
pub(crate) struct Executable {
    memory: OwnedFd,
}

impl Executable {
    /// Copies the executable. Blocks.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::internal(format!("load the shim {}: {error}", path.display()))
                .with_hint("sampan-shim must lie beside the sampan executable")
        };
        let mut file = File::open(path).map_err(failed)?;
        let memory = sampan_kernel::memfd::sealed_copy("sampan-shim", &mut file).map_err(failed)?;
        Ok(Self { memory })
    }

    /// The executable, which is the init of containers, too.
    pub(crate) fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// Starts a shim that waits for its launch, in `cgroup` of the v2 tree if that is known. Blocks
    /// until it runs.
    pub(crate) fn start(&self, id: &str, cgroup: Option<BorrowedFd<'_>>) -> Result<Spawned> {
        let failed =
            |error: &dyn std::fmt::Display| Error::internal(format!("start a shim: {error}"));
        let (ours, theirs) = pair().map_err(|e| failed(&e))?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| failed(&e))?;
        let arguments = arguments(&["sampan-shim", "--control-fd", "3", id])?;
        let child = spawn(&Spawn {
            program: self.memory.as_fd(),
            arguments: &arguments,
            environment: &ArgumentList::new(Vec::new()),
            descriptors: &[
                (null.as_fd(), 0),
                (null.as_fd(), 1),
                (null.as_fd(), 2),
                (theirs.as_fd(), CONTROL),
            ],
            new_session: true,
            cgroup,
        })
        .map_err(|e| failed(&e))?;
        let mut connection = Connection::new(Client::new(ours), Some(child.pidfd))?;
        // Nobody waits for the answer: this shim is of this engine's own version.
        let hello = Request::Hello { version: PROTOCOL };
        let greeted = connection.client.send(&hello, Vec::new());
        greeted.map_err(|error| Error::because("talk to a shim", &error))?;
        Ok(Spawned {
            pid: child.pid,
            connection: Some(connection),
        })
    }

    /// Makes a namespace of users with these ids and one of its networks, in a process of its own.
    /// Blocks.
    pub(crate) fn user_namespaces(&self, maps: &IdMaps) -> Result<UserNamespaces> {
        let failed = |error: &dyn std::fmt::Display| {
            Error::internal(format!("make a user namespace: {error}"))
        };
        let (ours, theirs) = pair().map_err(|e| failed(&e))?;
        let (mut words, their_words) = io::pipe().map_err(|e| failed(&e))?;
        let maps = UserMaps {
            users: IdMaps::mappings(&maps.users),
            groups: IdMaps::mappings(&maps.groups),
        };
        let maps = serde_json::to_string(&maps).map_err(|e| failed(&e))?;
        let arguments = arguments(&["sampan-shim", "user-namespaces", &maps])?;
        let child = spawn(&Spawn {
            program: self.memory.as_fd(),
            arguments: &arguments,
            environment: &ArgumentList::new(Vec::new()),
            descriptors: &[
                (theirs.as_fd(), 0),
                (their_words.as_fd(), 1),
                (their_words.as_fd(), 2),
            ],
            new_session: true,
            cgroup: None,
        })
        .map_err(|e| failed(&e))?;
        drop((theirs, their_words));
        let mut said = String::new();
        // It ends when it has spoken.
        let read = io::Read::read_to_string(&mut words, &mut said);
        let ended = sampan_kernel::pidfd::wait(child.pidfd.as_fd());
        read.map_err(|e| failed(&e))?;
        let mut descriptors = Vec::new();
        if ended.map_err(|e| failed(&e))?.code() == 0 {
            receive_with_descriptors(ours.as_fd(), &mut [0; 1], &mut descriptors)
                .map_err(|e| failed(&e))?;
        }
        let mut descriptors = descriptors.into_iter();
        match (descriptors.next(), descriptors.next()) {
            (Some(user), Some(network)) => Ok(UserNamespaces { user, network }),
            _ => Err(failed(&said).with_hint(
                "user namespaces need a kernel that has them and lets root make them (user.max_user_namespaces)",
            )),
        }
    }
}

/// Two ends of a connection.
fn pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
}

fn arguments(words: &[&str]) -> Result<ArgumentList> {
    let words = words.iter().map(|word| CString::new(*word));
    let words = words.collect::<Result<Vec<_>, _>>();
    let words = words.map_err(|error| Error::because("start a shim", &error))?;
    Ok(ArgumentList::new(words))
}

/// A shim that waits for its launch. Dropping it ends the shim and takes its zombie away.
#[derive(Debug)]
pub(crate) struct Spawned {
    pid: Pid,
    /// Taken by the launch.
    connection: Option<Connection>,
}

impl Drop for Spawned {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        let process = connection.process.take();
        // The shim ends when nobody holds the other end.
        drop(connection);
        if let Some(process) = process
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(reap(process));
        }
    }
}

/// Why a launch failed.
#[derive(Debug)]
pub(crate) enum LaunchError {
    /// The container could not be started; nothing of it is left.
    Failed(StartFailure),
    /// The shim could not be talked to; what it did is not known.
    Lost(Error),
}

impl Spawned {
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether the shim has not ended meanwhile.
    pub(crate) fn lives(&self) -> bool {
        let process = self.connection.as_ref().and_then(|c| c.process.as_ref());
        process.is_some_and(|p| matches!(sampan_kernel::pidfd::try_wait(p.as_fd()), Ok(None)))
    }

    /// Has the shim make ready what does not depend on what will run.
    pub(crate) async fn prepare(&mut self, preparation: Preparation) -> Result<()> {
        let connection = self.connection.as_mut().expect("a launch takes it");
        let request = Request::Prepare(Box::new(preparation));
        match connection.call(&request, Vec::new(), ANSWER).await? {
            Reply::Done => Ok(()),
            Reply::Error(failure) => Err(refusal(&failure)),
            other => Err(unexpected(&other)),
        }
    }

    /// Launches the container.
    pub(crate) async fn launch(
        mut self,
        mut launch: Launch,
        descriptors: LaunchDescriptors,
    ) -> Result<(Started, Connection), LaunchError> {
        let mut connection = self.connection.take().expect("a launch takes it once");
        let descriptors = descriptors.declare(&mut launch);
        let request = Request::Launch(Box::new(launch));
        let answer = connection.call(&request, descriptors, LAUNCH).await;
        match answer.map_err(LaunchError::Lost)? {
            Reply::Started { pid, started_at } => Ok((Started { pid, started_at }, connection)),
            Reply::StartFailed(failure) => {
                connection.reap().await;
                Err(LaunchError::Failed(failure))
            }
            Reply::Error(failure) => Err(LaunchError::Lost(refusal(&failure))),
            other => Err(LaunchError::Lost(unexpected(&other))),
        }
    }
}

/// A container that runs.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: i32,
    pub(crate) started_at: String,
}

/// A connection to a shim, used by one task.
#[derive(Debug)]
pub(crate) struct Connection {
    client: Client,
    /// Another descriptor of the client's socket, by which the runtime tells when it is ready.
    readiness: UnixStream,
    /// The shim's process, when it is a child of this engine.
    process: Option<OwnedFd>,
    /// With the numbers of the journal's entries that tell the same.
    events: Vec<(u64, Event)>,
}

impl Connection {
    fn new(client: Client, process: Option<OwnedFd>) -> Result<Self> {
        let watch = || {
            client.set_nonblocking(true)?;
            let copy = client.as_fd().try_clone_to_owned()?;
            UnixStream::from_std(copy.into())
        };
        let readiness = watch().map_err(|e| Error::because("talk to a shim", &e))?;
        Ok(Self {
            client,
            readiness,
            process,
            events: Vec::new(),
        })
    }

    /// Connects to the shim whose directory this is; `None` when nobody listens there.
    pub(crate) async fn find(directory: &Path) -> Result<Option<Self>> {
        let path = directory.to_path_buf();
        let Ok(client) = crate::blocking(move || Ok(Client::connect(&path))).await? else {
            return Ok(None);
        };
        let mut connection = Self::new(client, None)?;
        connection.hello().await?;
        Ok(Some(connection))
    }

    async fn hello(&mut self) -> Result<()> {
        match self
            .call(&Request::Hello { version: PROTOCOL }, Vec::new(), LAUNCH)
            .await?
        {
            Reply::Hello { .. } => Ok(()),
            Reply::Error(failure) => Err(refusal(&failure)),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends a request and waits for the answer.
    pub(crate) async fn call(
        &mut self,
        request: &Request,
        descriptors: Vec<OwnedFd>,
        patience: Duration,
    ) -> Result<Reply> {
        let wanted = self
            .client
            .send(request, descriptors)
            .map_err(|e| Error::because("talk to a shim", &e))?;
        let answer = async {
            loop {
                match self.step().await? {
                    Incoming::Reply { sequence, reply } if sequence == wanted => return Ok(reply),
                    Incoming::Event { entry, event } => self.events.push((entry, event)),
                    Incoming::Reply { .. } | Incoming::Unknown => {}
                }
            }
        };
        tokio::time::timeout(patience, answer).await.map_err(|_| {
            Error::new(
                ErrorKind::Unavailable,
                format!("the container's supervisor did not answer within {patience:?}"),
            )
        })?
    }

    /// Writes what is queued and returns the next message. Cancelling loses nothing.
    async fn step(&mut self) -> Result<Incoming> {
        let failed =
            |error: &(dyn std::error::Error + 'static)| Error::because("talk to a shim", error);
        loop {
            let blocked = self.flush()? == Flushed::WouldBlock;
            if let Some(message) = self.client.next_message().map_err(|e| failed(&e))? {
                return Ok(message);
            }
            let interest = if blocked {
                Interest::READABLE | Interest::WRITABLE
            } else {
                Interest::READABLE
            };
            self.readiness
                .ready(interest)
                .await
                .map_err(|e| failed(&e))?;
            let client = &mut self.client;
            let mut received = Ok(Received::WouldBlock);
            let read = self.readiness.try_io(Interest::READABLE, || {
                received = client.receive();
                match &received {
                    // Makes the runtime wait for the socket anew.
                    Ok(Received::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
                    _ => Ok(()),
                }
            });
            match read {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Err(failed(&error));
                }
                _ => {}
            }
            match received {
                Ok(Received::Bytes | Received::WouldBlock) => {}
                Ok(Received::Closed) => {
                    return Err(Error::internal("the container's supervisor has ended"));
                }
                Err(error) => return Err(failed(&error)),
            }
        }
    }

    /// Writes what is queued, as far as the socket takes it.
    fn flush(&mut self) -> Result<Flushed> {
        let client = &mut self.client;
        if !client.wants_write() {
            return Ok(Flushed::Done);
        }
        let flushed = client
            .flush()
            .map_err(|error| Error::because("talk to a shim", &error))?;
        if flushed == Flushed::WouldBlock {
            // Makes the runtime wait for the socket anew.
            let _ = self.readiness.try_io(Interest::WRITABLE, || {
                Err::<(), _>(io::ErrorKind::WouldBlock.into())
            });
        }
        Ok(flushed)
    }

    /// Takes the zombie of an own child away, in the background of the caller.
    async fn reap(&mut self) {
        if let Some(process) = self.process.take() {
            reap(process).await;
        }
    }

    /// Serves requests of others and tells events until the shim is gone. `events` sees them in
    /// order; what it answers is awaited before the next one.
    pub(crate) async fn serve(
        mut self,
        mut requests: mpsc::Receiver<Ask>,
        events: mpsc::UnboundedSender<(u64, Event)>,
    ) {
        let mut pending: HashMap<u64, oneshot::Sender<Reply>> = HashMap::new();
        for event in std::mem::take(&mut self.events) {
            // The receiver lives as long as this task.
            let _ = events.send(event);
        }
        let mut open = true;
        loop {
            tokio::select! {
                ask = requests.recv(), if open => match ask {
                    None => open = false,
                    Some(ask) => match self.client.send(&ask.request, ask.descriptors) {
                        Ok(sequence) => {
                            pending.insert(sequence, ask.answer);
                        }
                        Err(_) => break,
                    },
                },
                message = self.step() => match message {
                    Ok(Incoming::Reply { sequence, reply }) => {
                        if let Some(answer) = pending.remove(&sequence) {
                            // The asker went away.
                            let _ = answer.send(reply);
                        }
                    }
                    Ok(Incoming::Event { entry, event }) => {
                        let _ = events.send((entry, event));
                    }
                    Ok(Incoming::Unknown) => {}
                    Err(_) => break,
                },
            }
        }
        drop(events);
        drop(pending);
        self.reap().await;
    }
}

/// Takes the zombie of a child away that has ended, or is about to.
async fn reap(process: OwnedFd) {
    let mut pause = Duration::from_millis(1);
    while let Ok(None) = sampan_kernel::pidfd::try_wait(process.as_fd()) {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

/// A request of somebody and where its answer goes.
#[derive(Debug)]
pub(crate) struct Ask {
    request: Request,
    descriptors: Vec<OwnedFd>,
    answer: oneshot::Sender<Reply>,
}

/// A shim that runs a container. A cheap clone.
#[derive(Debug, Clone)]
pub(crate) struct Shim {
    requests: mpsc::Sender<Ask>,
}

impl Shim {
    /// Makes the handle, and the end from which [`Connection::serve`] takes requests.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (requests, receiver) = mpsc::channel(16);
        (Self { requests }, receiver)
    }

    /// Sends a request and waits for the answer.
    pub(crate) async fn ask(&self, request: Request, descriptors: Vec<OwnedFd>) -> Result<Reply> {
        let gone = || Error::conflict("the container is not running");
        let (answer, receiver) = oneshot::channel();
        let ask = Ask {
            request,
            descriptors,
            answer,
        };
        let asked = async {
            self.requests.send(ask).await.map_err(|_| gone())?;
            receiver.await.map_err(|_| gone())
        };
        tokio::time::timeout(ANSWER, asked).await.map_err(|_| {
            Error::new(
                ErrorKind::Unavailable,
                format!("the container's supervisor did not answer within {ANSWER:?}"),
            )
        })?
    }

    /// Sends a request whose only good answer is that it was done.
    pub(crate) async fn tell(&self, request: Request, descriptors: Vec<OwnedFd>) -> Result<()> {
        match self.ask(request, descriptors).await? {
            Reply::Done => Ok(()),
            Reply::Error(failure) => Err(refusal(&failure)),
            Reply::StartFailed(failure) => Err(Error::invalid(failure.message)),
            other => Err(unexpected(&other)),
        }
    }
}

/// What a shim's refusal means for the caller.
pub(crate) fn refusal(failure: &Failure) -> Error {
    let kind = match failure.kind {
        FailureKind::NotFound => ErrorKind::NotFound,
        FailureKind::NotRunning | FailureKind::Paused | FailureKind::Exists => ErrorKind::Conflict,
        FailureKind::Invalid => ErrorKind::Invalid,
        FailureKind::Unsupported => ErrorKind::NotImplemented,
        FailureKind::System | FailureKind::Other => ErrorKind::Internal,
    };
    Error::new(kind, failure.message.clone())
}

pub(crate) fn unexpected(reply: &Reply) -> Error {
    Error::internal(format!(
        "the container's supervisor gave an unexpected answer: {reply:?}"
    ))
}

/// A lock that lives as long as the engine or the shim that was sent it.
///
/// It is on an open file, copies of which travel: a message that no shim has read yet holds it,
/// too. So whoever gets it knows that no shim is there and none is on its way.
#[derive(Debug)]
pub(crate) struct LifeLock {
    pub(crate) file: OwnedFd,
}

impl LifeLock {
    /// Takes the lock of a shim's directory; `None` when a shim may live. Blocks only for the disk.
    pub(crate) fn try_take(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(LOCK);
        let failed = |e: Errno| Error::internal(format!("lock {}: {e}", path.display()));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }
}
