//! An SSH agent of a client, as a socket for commands.

use std::collections::BTreeMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use crate::secrets::Secrets;

/// Connections at the same time.
const MOST: usize = 64;

/// A socket whose connections lead to an agent.
#[derive(Debug)]
pub struct Agent {
    socket: UnixListener,
    id: String,
    open: Mutex<Open>,
}

/// Connections under way.
#[derive(Debug, Default)]
struct Open {
    made: u64,
    /// Both ends of each.
    ends: BTreeMap<u64, [UnixStream; 2]>,
}

/// Forwards connections to agents while `work` goes on.
pub fn serve_while<T>(agents: &[Agent], secrets: &dyn Secrets, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        // Also when it panics: the scope waits for the others.
        let _end = End(agents);
        for agent in agents {
            scope.spawn(move || agent.serve(scope, secrets));
        }
        work()
    })
}

/// Ends agents when it is dropped.
struct End<'a>(&'a [Agent]);

impl Drop for End<'_> {
    fn drop(&mut self) {
        for agent in self.0 {
            agent.end();
        }
    }
}

impl Agent {
    /// Of connections to `socket`, to the client's agent `id`.
    pub fn new(socket: UnixListener, id: String) -> Self {
        Self {
            socket,
            id,
            open: Mutex::default(),
        }
    }

    /// Forwards connections until [`end`](Self::end). Blocks.
    fn serve<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, secrets: &'scope dyn Secrets) {
        while let Ok((client, _)) = self.socket.accept() {
            if let Err(error) = self.connect(scope, client, secrets) {
                tracing::debug!(%error, "could not forward a connection to an SSH agent");
            }
        }
    }

    fn connect<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        client: UnixStream,
        secrets: &dyn Secrets,
    ) -> io::Result<()> {
        if self.open().ends.len() >= MOST {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let agent = secrets.agent(&self.id).map_err(io::Error::other)?;
        let Some(agent) = agent else {
            return client.shutdown(Shutdown::Both);
        };
        let number = {
            let mut open = self.open();
            open.made += 1;
            let number = open.made;
            let ends = [client.try_clone()?, agent.try_clone()?];
            open.ends.insert(number, ends);
            number
        };
        let (to_agent, to_client) = (agent.try_clone()?, client.try_clone()?);
        scope.spawn(move || {
            std::thread::scope(|both| {
                both.spawn(|| forward(client, to_agent));
                forward(agent, to_client);
            });
            self.open().ends.remove(&number);
        });
        Ok(())
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what is connected, and takes no more.
    fn end(&self) {
        // What fails is ended already.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        for stream in self.open().ends.values().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn forward(mut from: UnixStream, mut to: UnixStream) {
    // One that breaks off ends both ways.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}
