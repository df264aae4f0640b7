//! Further processes in a running container.

use std::io::Write as _;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use sampan_shim_protocol::{
    AttachSpec, Bytes, ExecStart, OutputStream, Reply, Request, StartFailure, StartFailureKind,
    frame_head,
};

use super::id::ExecId;
use super::lifecycle::Lifecycle;
use super::registry::{Container, Exec};
use super::request::{ClientStream, ExecConfig, ExecStartOptions, TerminalSize, detach_keys};
use super::service::Inner;
use super::spec;
use super::start::{restarting, terminal_size};
use super::view::{ExecState, ExecView};
use crate::apparmor::AppArmor;
use crate::shim::{refusal, unexpected};
use crate::{Action, Error, ErrorKind, Result};

/// How long a resize waits for the exec to start.
const RESIZE_PATIENCE: Duration = Duration::from_secs(10);
/// How long an inspect waits for the shim.
const INSPECT_PATIENCE: Duration = Duration::from_millis(500);

/// An exec start that has been checked: the head of the answer may be written.
#[derive(Debug)]
pub struct ExecStarter {
    /// Whether the exec has a terminal: the stream is raw, without frames.
    pub tty: bool,
    inner: Arc<Inner>,
    container: Arc<Container>,
    id: ExecId,
    config: Arc<ExecConfig>,
    console_size: Option<[u16; 2]>,
    /// Taken back where the start is given up.
    armed: bool,
}

impl Drop for ExecStarter {
    fn drop(&mut self) {
        if self.armed {
            self.set_state(ExecState::Exited { pid: 0, code: 126 });
        }
    }
}

impl Inner {
    pub(crate) fn exec_create(&self, container: &Container, config: ExecConfig) -> Result<ExecId> {
        check_runs(container)?;
        if config.cmd.is_empty() || config.cmd[0].is_empty() {
            return Err(Error::invalid("No exec command specified"));
        }
        if config
            .cmd
            .iter()
            .chain(&config.env)
            .any(|text| text.contains('\0'))
        {
            return Err(Error::invalid("invalid exec: a text contains a NUL byte"));
        }
        detach_keys(config.detach_keys.as_deref())?;
        if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
            return Err(Error::invalid(format!(
                "the working directory '{}' is invalid, it needs to be an absolute path",
                config.working_dir
            )));
        }
        let id = ExecId::random();
        let command = config.cmd.join(" ");
        let exec = Exec::new(Arc::new(config), ExecState::Created);
        if !container.live().remember(id.clone(), exec) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "container {} has too many execs that have not ended",
                    container.id
                ),
            ));
        }
        let more = [("execID", id.to_string())];
        self.tell(&container.record(), Action::ExecCreate(command), more);
        Ok(id)
    }

    pub(crate) fn exec_prepare(
        self: &Arc<Self>,
        (container, id, exec): (Arc<Container>, ExecId, Exec),
        options: ExecStartOptions,
    ) -> Result<ExecStarter> {
        match exec.state() {
            ExecState::Created => {}
            ExecState::Starting | ExecState::Running { .. } => {
                return Err(Error::conflict(format!(
                    "Error: Exec command {id} is already running"
                )));
            }
            ExecState::Exited { .. } => {
                return Err(Error::conflict(format!(
                    "Error: Exec command {id} has already run"
                )));
            }
        }
        check_runs(&container)?;
        if options.tty.is_some_and(|tty| tty != exec.config.tty) {
            return Err(Error::invalid(format!(
                "exec {id} was created {} a terminal, and its start must say the same",
                if exec.config.tty { "with" } else { "without" }
            )));
        }
        {
            let mut live = container.live();
            let Some(stored) = live.execs.get_mut(&id) else {
                return Err(no_such_exec(id.as_str()));
            };
            if stored.state() != ExecState::Created {
                return Err(Error::conflict(format!(
                    "Error: Exec command {id} is already running"
                )));
            }
            stored.change(ExecState::Starting);
        }
        Ok(ExecStarter {
            tty: exec.config.tty,
            inner: self.clone(),
            container,
            id,
            console_size: options.console_size.or(exec.config.console_size),
            config: exec.config,
            armed: true,
        })
    }

    /// Finds an exec by its identity or a prefix of it.
    pub(crate) fn find_exec(&self, text: &str) -> Result<(Arc<Container>, ExecId, Exec)> {
        let mut found = None;
        for container in self.registry.all() {
            let live = container.live();
            for (id, exec) in &live.execs {
                if id.as_str() == text || (text.len() >= 4 && id.as_str().starts_with(text)) {
                    found = Some((container.clone(), id.clone(), exec.clone()));
                }
            }
        }
        found.ok_or_else(|| no_such_exec(text))
    }

    pub(crate) fn exec_view(&self, text: &str) -> Result<ExecView> {
        let (container, id, exec) = self.find_exec(text)?;
        Ok(ExecView {
            id,
            container: container.id.clone(),
            config: (*exec.config).clone(),
            state: exec.state(),
        })
    }

    /// Returns an exec. A client that saw its stream end asks at once for the exit code, when the
    /// news of the end may still be on their way: one that seems to run is asked for at its shim.
    pub(crate) async fn exec_inspect(&self, text: &str) -> Result<ExecView> {
        let deadline = tokio::time::Instant::now() + INSPECT_PATIENCE;
        let mut view = self.exec_view(text)?;
        // The client of one that cannot be started may hear so before the engine does.
        while view.state == ExecState::Starting && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
            view = self.exec_view(text)?;
        }
        if !matches!(view.state, ExecState::Running { .. }) {
            return Ok(view);
        }
        let (container, id, _) = self.find_exec(text)?;
        let Ok(shim) = self.shim_of(&container) else {
            return Ok(view);
        };
        let asked = shim.ask(Request::ExecState { id: id.to_string() }, Vec::new());
        // A shim that does not answer delays no query for long.
        if let Ok(Ok(Reply::ExecState(state))) = tokio::time::timeout(INSPECT_PATIENCE, asked).await
            && let Some(code) = state.exit_code
        {
            view.state = ExecState::Exited {
                pid: state.pid,
                code,
            };
        }
        Ok(view)
    }

    pub(crate) async fn exec_resize(&self, text: &str, size: TerminalSize) -> Result<()> {
        let deadline = tokio::time::Instant::now() + RESIZE_PATIENCE;
        loop {
            let (container, id, exec) = self.find_exec(text)?;
            match exec.state() {
                ExecState::Running { .. } => {
                    let request = Request::Resize {
                        height: size.height,
                        width: size.width,
                        exec: Some(id.to_string()),
                    };
                    return self.shim_of(&container)?.tell(request, Vec::new()).await;
                }
                ExecState::Created | ExecState::Starting
                    if tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                ExecState::Created | ExecState::Starting | ExecState::Exited { .. } => {
                    return Err(Error::conflict(format!("exec {id} is not running")));
                }
            }
        }
    }
}

impl ExecStarter {
    /// Starts it for a client and hands the client over. A failure to start is told to the client
    /// on its stream, as Docker does, and also returned.
    pub async fn attached(self, client: ClientStream) -> Result<()> {
        let spec = AttachSpec {
            stdin: self.config.attach_stdin,
            stdout: self.config.attach_stdout,
            stderr: self.config.attach_stderr,
            framed: !self.tty,
            detach_keys: detach_keys(self.config.detach_keys.as_deref())?,
            leftover: Bytes(client.leftover),
            replay_logs: false,
            replay_only: false,
        };
        // The socket is gone with the request; this end of it tells of a failure.
        let copy = client
            .socket
            .try_clone()
            .map_err(|error| Error::because("keep the client", &error))?;
        let framed = !self.tty;
        let started = self.run(Some((spec, client.socket))).await;
        if let Err(error) = &started {
            let text = format!("{}\r\n", error.message());
            // The client may have left.
            let _ = crate::blocking(move || {
                tell_failure(copy, &text, framed);
                Ok(())
            })
            .await;
        }
        started
    }

    /// Starts it for nobody.
    pub async fn detached(self) -> Result<()> {
        self.run(None).await
    }

    async fn run(mut self, client: Option<(AttachSpec, std::os::fd::OwnedFd)>) -> Result<()> {
        let (attach, socket) = client.unzip();
        let record = self.container.record();
        let process = spec::exec_process(&record, &self.config, &self.inner.host)?;
        let more = [("execID", self.id.to_string())];
        let command = self.config.cmd.join(" ");
        self.inner.tell(&record, Action::ExecStart(command), more);
        let request = Request::ExecStart(Box::new(ExecStart {
            id: self.id.to_string(),
            process,
            terminal_size: self.console_size.and_then(terminal_size),
            attach,
        }));
        if self.inner.host.apparmor == AppArmor::DefaultProfile {
            let inner = self.inner.clone();
            crate::blocking(move || inner.host.apparmor.ensure(inner.paths.run())).await?;
        }
        let shim = self.inner.shim_of(&self.container)?;
        let answer = shim.ask(request, socket.into_iter().collect()).await?;
        self.armed = false;
        match answer {
            Reply::ExecStarted { pid } => {
                self.set_state(ExecState::Running { pid });
                Ok(())
            }
            Reply::StartFailed(failure) => {
                let code = match failure.kind {
                    // Docker looks the user up before the runtime is asked.
                    StartFailureKind::BadUser => 126,
                    _ => failure.exit_code,
                };
                self.set_state(ExecState::Exited { pid: 0, code });
                Err(start_error(&failure))
            }
            Reply::Error(failure) => {
                self.set_state(ExecState::Exited { pid: 0, code: 126 });
                Err(refusal(&failure))
            }
            other => {
                self.set_state(ExecState::Exited { pid: 0, code: 126 });
                Err(unexpected(&other))
            }
        }
    }

    /// Moves the exec on; one that has ended stays ended, since its end may be heard first.
    fn set_state(&self, state: ExecState) {
        if let Some(exec) = self.container.live().execs.get_mut(&self.id)
            && !matches!(exec.state(), ExecState::Exited { .. })
        {
            exec.change(state);
        }
    }
}

fn start_error(failure: &StartFailure) -> Error {
    let kind = match failure.kind {
        StartFailureKind::CommandNotFound
        | StartFailureKind::NotExecutable
        | StartFailureKind::BadUser
        | StartFailureKind::Invalid => ErrorKind::Invalid,
        StartFailureKind::Unsupported
        | StartFailureKind::OutOfMemory
        | StartFailureKind::System
        | StartFailureKind::Other => ErrorKind::Internal,
    };
    let message = match failure.kind {
        StartFailureKind::BadUser => failure.message.clone(),
        _ => format!(
            "OCI runtime exec failed: exec failed: unable to start container process: {}",
            failure.message
        ),
    };
    Error::new(kind, message)
}

fn check_runs(container: &Container) -> Result<()> {
    match container.record().lifecycle {
        Lifecycle::Running(_) => Ok(()),
        Lifecycle::Paused(_) => Err(Error::conflict(format!(
            "container {} is paused, unpause the container before exec",
            container.id
        ))),
        Lifecycle::Restarting(_) => Err(restarting(&container.id)),
        Lifecycle::Created { .. }
        | Lifecycle::Exited(_)
        | Lifecycle::Removing { .. }
        | Lifecycle::Dead { .. } => Err(Error::conflict(format!(
            "container {} is not running",
            container.id
        ))),
    }
}

fn no_such_exec(text: &str) -> Error {
    Error::not_found(format!("No such exec instance: {text}"))
}

/// Writes a sentence to a client that has nobody else to tell it anything.
fn tell_failure(socket: std::os::fd::OwnedFd, text: &str, framed: bool) {
    let mut bytes = Vec::new();
    if framed {
        bytes.extend(frame_head(OutputStream::Stdout, text.len() as u32));
    }
    bytes.extend(text.as_bytes());
    let stream = std::os::unix::net::UnixStream::from(socket);
    // Best effort: the failure is an answer of its own, too.
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_write_timeout(Some(Duration::from_secs(5)));
    let _ = (&stream).write_all(&bytes);
    let _ = rustix::net::shutdown(stream.as_fd(), rustix::net::Shutdown::Both);
}
