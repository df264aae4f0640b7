//! News: what happened to which object, kept in a journal and told to whoever listens.
//!
//! Every event is in the journal before anybody hears of it, so that it survives the death of the
//! engine, and the journal says what has been told of each container. What happened while no
//! engine was there to tell it (an end, a process killed for want of memory, an exec's end) is in
//! the journals of the supervisors; the next engine compares and tells what is missing, once.

mod bus;
mod filter;
mod told;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use bus::{EventBus, Subscription};
pub use filter::EventFilter;
pub(crate) use told::{Mark, Told};

/// What kind of object an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
    /// What is kept for builds.
    Builder,
    /// The engine.
    Daemon,
}

impl EventKind {
    /// Returns Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
            Self::Builder => "builder",
            Self::Daemon => "daemon",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Files were copied out of a container.
    ArchivePath,
    /// A client attached.
    Attach,
    /// An image was made of a container.
    Commit,
    /// A container was connected to a network.
    Connect,
    /// Made.
    Create,
    /// An image, or its last name, was removed.
    Delete,
    /// Gone.
    Destroy,
    /// A client left by its keys.
    Detach,
    /// A container's process ended.
    Die,
    /// A container left a network.
    Disconnect,
    /// An exec was made, of this command.
    ExecCreate(String),
    /// A client left an exec by its keys.
    ExecDetach,
    /// An exec ended.
    ExecDie,
    /// An exec started, of this command.
    ExecStart(String),
    /// A container's files were given away.
    Export,
    /// Files were copied into a container.
    ExtractToDir,
    /// Health checks have found another status: this.
    HealthStatus(String),
    /// An image was imported.
    Import,
    /// A signal was sent.
    Kill,
    /// An image was loaded.
    Load,
    /// A volume came into use by a container.
    Mount,
    /// A process was killed for want of memory.
    Oom,
    /// Frozen.
    Pause,
    /// Unused objects were removed.
    Prune,
    /// An image was pulled.
    Pull,
    /// An image was pushed.
    Push,
    /// Renamed.
    Rename,
    /// A terminal changed its size.
    Resize,
    /// Restarted.
    Restart,
    /// An image was written to an archive.
    Save,
    /// Started.
    Start,
    /// Stopped by request.
    Stop,
    /// An image was given a name.
    Tag,
    /// A volume went out of use by a container.
    Unmount,
    /// The processes of a container were listed.
    Top,
    /// Thawed.
    Unpause,
    /// An image lost a name.
    Untag,
    /// The limits of a container were changed.
    Update,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::ExecCreate(command) => return write!(f, "exec_create: {command}"),
            Self::ExecStart(command) => return write!(f, "exec_start: {command}"),
            Self::ArchivePath => "archive-path",
            Self::HealthStatus(status) => return write!(f, "health_status: {status}"),
            Self::Attach => "attach",
            Self::Commit => "commit",
            Self::Connect => "connect",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Destroy => "destroy",
            Self::Detach => "detach",
            Self::Die => "die",
            Self::Disconnect => "disconnect",
            Self::ExecDetach => "exec_detach",
            Self::ExecDie => "exec_die",
            Self::Export => "export",
            Self::ExtractToDir => "extract-to-dir",
            Self::Import => "import",
            Self::Kill => "kill",
            Self::Load => "load",
            Self::Mount => "mount",
            Self::Oom => "oom",
            Self::Pause => "pause",
            Self::Prune => "prune",
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Rename => "rename",
            Self::Resize => "resize",
            Self::Restart => "restart",
            Self::Save => "save",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Tag => "tag",
            Self::Top => "top",
            Self::Unmount => "unmount",
            Self::Unpause => "unpause",
            Self::Untag => "untag",
            Self::Update => "update",
        };
        f.write_str(word)
    }
}

/// One piece of news.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Kind of the object.
    pub kind: EventKind,
    /// What happened to it.
    pub action: Action,
    /// Identity of the object; the name of a volume, the identity or name of an image.
    pub actor: String,
    /// Name, image, labels, exit code and so on.
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub at: Timestamp,
}
