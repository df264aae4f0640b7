//! Handing clients over to the supervisor of a container.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use sampan_logs::{Query, Reader};
use sampan_shim_protocol::{AttachSpec, Bytes, OutputStream, Request, frame_head};

use super::lifecycle::Lifecycle;
use super::registry::Container;
use super::request::{AttachOptions, ClientStream, detach_keys};
use super::service::Inner;
use crate::{Action, Error, Result};

/// An attach that has been checked: the head of the answer may be written.
#[derive(Debug)]
pub struct Attachment {
    /// Whether the container has a terminal: the stream is raw, without frames.
    pub tty: bool,
    inner: Arc<Inner>,
    container: Arc<Container>,
    spec: AttachSpec,
    stream: bool,
}

impl Inner {
    pub(crate) fn check_attach(
        self: &Arc<Self>,
        container: Arc<Container>,
        options: &AttachOptions,
    ) -> Result<Attachment> {
        let record = container.record();
        if matches!(record.lifecycle, Lifecycle::Paused(_)) {
            return Err(Error::conflict(format!(
                "container {} is paused, unpause the container before attach",
                container.id
            )));
        }
        if matches!(record.lifecycle, Lifecycle::Restarting(_)) {
            return Err(super::start::restarting(&container.id));
        }
        let tty = record.config.tty;
        let spec = AttachSpec {
            stdin: options.stdin && options.stream && record.config.open_stdin,
            stdout: options.stdout,
            stderr: options.stderr,
            framed: !tty && !options.raw,
            detach_keys: detach_keys(options.detach_keys.as_deref())?,
            leftover: Bytes::default(),
            replay_logs: options.logs,
            replay_only: options.logs && !options.stream,
        };
        Ok(Attachment {
            tty,
            inner: self.clone(),
            container,
            spec,
            stream: options.stream,
        })
    }
}

impl Attachment {
    /// Hands the client over. Returns when the container's supervisor, or for a container that has
    /// not been started the engine, has it; the stream goes on without the caller.
    pub async fn connect(self, client: ClientStream) -> Result<()> {
        let Self {
            inner,
            container,
            mut spec,
            stream,
            ..
        } = self;
        spec.leftover = Bytes(client.leftover);
        let record = container.record();
        inner.tell(&record, Action::Attach, []);
        if !stream && !spec.replay_only {
            return Ok(());
        }
        let shim = {
            let mut live = container.live();
            // Looked at under the lock: a start takes those who wait after it has shown that the
            // container runs.
            let running = container.record().lifecycle.is_running();
            let shim = live.shim.clone().filter(|_| running);
            if shim.is_none() && !spec.replay_only {
                live.waiting_clients.push((spec, client.socket));
                return Ok(());
            }
            shim
        };
        match shim {
            Some(shim) => shim.tell(Request::Attach(spec), vec![client.socket]).await,
            None => replay(&inner, &container, spec, client.socket).await,
        }
    }
}

/// Writes the log of a container that does not run to a client, and leaves.
async fn replay(
    inner: &Inner,
    container: &Container,
    spec: AttachSpec,
    socket: OwnedFd,
) -> Result<()> {
    let Some(place) = inner.log_of(&container.record())? else {
        return Ok(());
    };
    crate::blocking(move || {
        use std::io::Write;
        let stream = std::os::unix::net::UnixStream::from(socket);
        let failed =
            |error: std::io::Error| Error::internal(format!("write to the client: {error}"));
        stream.set_nonblocking(false).map_err(failed)?;
        stream
            .set_write_timeout(Some(std::time::Duration::from_secs(30)))
            .map_err(failed)?;
        let query = Query {
            format: place.format,
            ..Query::default()
        };
        let reader = Reader::open(&place.directory, &place.name, &query)
            .map_err(|error| Error::because("read the log", &error))?;
        for entry in reader {
            let entry = entry.map_err(|error| Error::because("read the log", &error))?;
            let (kind, wanted) = match entry.stream {
                sampan_logs::Stream::Stdout => (OutputStream::Stdout, spec.stdout),
                sampan_logs::Stream::Stderr => (OutputStream::Stderr, spec.stderr),
            };
            if !wanted {
                continue;
            }
            let mut bytes = Vec::with_capacity(entry.bytes.len() + 8);
            if spec.framed {
                // An entry is 16 KiB at most.
                bytes.extend(frame_head(kind, entry.bytes.len() as u32));
            }
            bytes.extend(&entry.bytes);
            (&stream).write_all(&bytes).map_err(failed)?;
        }
        Ok(())
    })
    .await
}
