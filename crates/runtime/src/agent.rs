//! The agent that answers for system calls (`SCMP_ACT_NOTIFY`, seccomp_unotify(2)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use sampan_kernel::ancillary::send_with_descriptors;
use sampan_oci::runtime::{ContainerProcessState, Seccomp, State};

use crate::Error;

/// Where an agent listens and what it is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Agent {
    path: PathBuf,
    metadata: String,
}

impl Agent {
    /// The agent of a specification, if it has one.
    #[must_use]
    pub fn of(seccomp: &Seccomp) -> Option<Self> {
        Some(Self {
            path: seccomp.listener_path.clone()?,
            metadata: seccomp.listener_metadata.clone().unwrap_or_default(),
        })
    }

    /// Takes the descriptor of this number from a process and hands it to the agent.
    pub(crate) fn hand_over(
        &self,
        process: BorrowedFd<'_>,
        pid: i32,
        number: i32,
        state: State,
    ) -> Result<(), Error> {
        let listener = pidfd_getfd(process, number, PidfdGetfdFlags::empty())
            .map_err(Error::step("take over the descriptor of the seccomp agent"))?;
        self.send(&listener, pid, state)
            .map_err(Error::io_step(format!(
                "hand the system call filter to the seccomp agent at {}",
                self.path.display()
            )))
    }

    fn send(&self, listener: &OwnedFd, pid: i32, state: State) -> io::Result<()> {
        let told = ContainerProcessState {
            oci_version: state.oci_version.clone(),
            fds: vec!["seccompFd".to_owned()],
            pid,
            metadata: self.metadata.clone(),
            state,
        };
        let told = serde_json::to_vec(&told)?;
        let socket = UnixStream::connect(&self.path)?;
        let mut sent = send_with_descriptors(socket.as_fd(), &told, &[listener.as_fd()])?;
        while sent < told.len() {
            sent += send_with_descriptors(socket.as_fd(), &told[sent..], &[])?;
        }
        Ok(())
    }
}
