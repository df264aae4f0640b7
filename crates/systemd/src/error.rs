//! What can go wrong.

use std::io;
use std::time::Duration;

/// What went wrong between us and systemd.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that no slice has.
    #[error("{0:?} is no slice of systemd: its name is like system.slice or a-b.slice")]
    InvalidSlice(String),
    /// A name that no scope has.
    #[error(
        "{0:?} is no scope of systemd: its name has letters, digits, \":\", \"-\", \"_\" and \".\", 255 at most"
    )]
    InvalidScope(String),
    /// The conversation could not begin.
    #[error("cannot prepare to talk to systemd")]
    Runtime(#[source] io::Error),
    /// The system bus, or systemd behind it, could not be reached.
    #[error("cannot reach systemd by the system bus, which must run (package dbus or dbus-broker)")]
    Connect(#[source] Box<zbus::Error>),
    /// systemd refused a call.
    #[error("systemd cannot {doing} {name}")]
    Refused {
        /// The verb: `make`, `stop`, `find`.
        doing: &'static str,
        /// The scope.
        name: String,
        /// Its answer.
        source: Box<zbus::Error>,
    },
    /// A job came to another end than it should.
    #[error("systemd could not {doing} {name}: its job ended as {result:?}")]
    Job {
        /// The verb.
        doing: &'static str,
        /// The scope.
        name: String,
        /// `canceled`, `timeout`, `failed`, `dependency` or `skipped`.
        result: String,
    },
    /// systemd's tree is not the one that is mounted here.
    #[error(
        "systemd has made {name} in {found}, which is not its place in the control groups that are mounted here: \
         systemd needs a cgroup namespace of its own (--cgroupns private)"
    )]
    Elsewhere {
        /// The scope.
        name: String,
        /// Where it was.
        found: String,
    },
    /// The connection ended in the middle of a conversation.
    #[error("systemd has closed the connection")]
    Closed,
    /// No answer came in time.
    #[error("systemd did not answer within {0:?}")]
    Silent(Duration),
}
