//! The container service: everything that can be done to containers.

use std::sync::Arc;

use super::id::ExecId;
use super::request::{
    AttachOptions, ClientStream, CreateContainer, Created, ExecConfig, ExecStartOptions,
    ListOptions, LogOptions, Logs, RemoveOptions, StopOptions, TerminalSize, Wait, WaitCondition,
};
use super::view::{ContainerView, ExecView};
use crate::{Error, Result};

/// Everything that can be done to containers. A cheap clone.
///
/// A `container` argument is a full identity, a name (with or without a leading slash) or a
/// prefix of an identity that only one container has. Queries never wait for operations;
/// operations on one container wait for each other, with a deadline.
#[derive(Debug, Clone)]
pub struct ContainerService {
    _inner: Arc<()>,
}

/// An attach that has been checked: the head of the answer may be written.
#[derive(Debug)]
pub struct Attachment {
    /// Whether the container has a terminal: the stream is raw, without frames.
    pub tty: bool,
}

impl Attachment {
    /// Hands the client over. Returns when the container's supervisor, or for a container that has
    /// not been started the engine, has it; the stream goes on without the caller.
    #[allow(clippy::unused_async)]
    pub async fn connect(self, client: ClientStream) -> Result<()> {
        drop(client);
        Err(Error::not_implemented("attach"))
    }
}

/// An exec start that has been checked: the head of the answer may be written.
#[derive(Debug)]
pub struct ExecStarter {
    /// Whether the exec has a terminal: the stream is raw, without frames.
    pub tty: bool,
}

impl ExecStarter {
    /// Starts it for a client and hands the client over. A failure to start is told to the client
    /// on its stream, as Docker does, and also returned.
    #[allow(clippy::unused_async)]
    pub async fn attached(self, client: ClientStream) -> Result<()> {
        drop(client);
        Err(Error::not_implemented("exec"))
    }

    /// Starts it for nobody.
    #[allow(clippy::unused_async)]
    pub async fn detached(self) -> Result<()> {
        Err(Error::not_implemented("exec"))
    }
}

#[allow(clippy::unused_async, clippy::needless_pass_by_value)]
impl ContainerService {
    /// Makes a container. Its record is on disk when this returns.
    pub async fn create(&self, request: CreateContainer) -> Result<Created> {
        drop(request);
        Err(Error::not_implemented("create"))
    }

    /// Starts a container. Not modified when it runs.
    pub async fn start(&self, container: &str) -> Result<()> {
        Err(Error::not_implemented(container))
    }

    /// Asks a container to end and kills it when it does not. Not modified when it does not run.
    pub async fn stop(&self, container: &str, options: StopOptions) -> Result<()> {
        drop(options);
        Err(Error::not_implemented(container))
    }

    /// Stops a container if it runs, and starts it.
    pub async fn restart(&self, container: &str, options: StopOptions) -> Result<()> {
        drop(options);
        Err(Error::not_implemented(container))
    }

    /// Sends a signal, by name (with or without `SIG`) or number; absent is SIGKILL.
    pub async fn kill(&self, container: &str, signal: Option<&str>) -> Result<()> {
        let _ = signal;
        Err(Error::not_implemented(container))
    }

    /// Freezes a container's processes.
    pub async fn pause(&self, container: &str) -> Result<()> {
        Err(Error::not_implemented(container))
    }

    /// Thaws a container's processes.
    pub async fn unpause(&self, container: &str) -> Result<()> {
        Err(Error::not_implemented(container))
    }

    /// Registers a wait.
    pub async fn wait(&self, container: &str, condition: WaitCondition) -> Result<Wait> {
        let _ = condition;
        Err(Error::not_implemented(container))
    }

    /// Gives a container another name.
    pub async fn rename(&self, container: &str, name: &str) -> Result<()> {
        let _ = name;
        Err(Error::not_implemented(container))
    }

    /// Removes a container.
    pub async fn remove(&self, container: &str, options: RemoveOptions) -> Result<()> {
        let _ = options;
        Err(Error::not_implemented(container))
    }

    /// Checks an attach.
    pub async fn attach(&self, container: &str, options: AttachOptions) -> Result<Attachment> {
        drop(options);
        Err(Error::not_implemented(container))
    }

    /// Sets the size of a container's terminal.
    pub async fn resize(&self, container: &str, size: TerminalSize) -> Result<()> {
        let _ = size;
        Err(Error::not_implemented(container))
    }

    /// Opens a container's log.
    pub async fn logs(&self, container: &str, options: LogOptions) -> Result<Logs> {
        drop(options);
        Err(Error::not_implemented(container))
    }

    /// Makes an exec.
    pub async fn exec_create(&self, container: &str, config: ExecConfig) -> Result<ExecId> {
        drop(config);
        Err(Error::not_implemented(container))
    }

    /// Checks the start of an exec (an identity or a prefix of one).
    pub async fn exec_start(&self, exec: &str, options: ExecStartOptions) -> Result<ExecStarter> {
        let _ = options;
        Err(Error::not_implemented(exec))
    }

    /// Sets the size of an exec's terminal; waits for the exec to start, up to 10 s.
    pub async fn exec_resize(&self, exec: &str, size: TerminalSize) -> Result<()> {
        let _ = size;
        Err(Error::not_implemented(exec))
    }

    /// Returns an exec.
    pub async fn exec_inspect(&self, exec: &str) -> Result<ExecView> {
        Err(Error::not_implemented(exec))
    }

    /// Returns a container.
    pub async fn inspect(&self, container: &str) -> Result<ContainerView> {
        Err(Error::not_implemented(container))
    }

    /// Returns a container with its sizes, which takes long.
    pub async fn inspect_with_sizes(&self, container: &str) -> Result<ContainerView> {
        Err(Error::not_implemented(container))
    }

    /// Returns containers, newest first.
    pub async fn list(&self, options: ListOptions) -> Result<Vec<ContainerView>> {
        drop(options);
        Err(Error::not_implemented("list"))
    }
}
