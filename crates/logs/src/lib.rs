//! Containers' log files in Docker's formats: written by the shim, read by anybody.
//!
//! Knows files only: not who writes them, nor what a container is. One writer at a time; any
//! number of readers in other processes, which need no help from the writer.
//!
//! * [`Writer`] cuts output into entries and rotates.
//! * [`Reader`] iterates over what is there, from the start or from the last N entries.
//! * [`Follower`] goes on with what is still to come, across rotations, until told to end.
//! * [`Cursor`] is the part that both share: it never waits.
//!
//! On disk: `<name>` is written to, `<name>.1` is the file before it, up to `<name>.<max_file-1>`;
//! rotated files may be packed (`<name>.1.gz`). [`Format`] says what is in them. In the format
//! `json-file` each line is one entry, `{"log":"text\n","stream":"stdout","attrs":{..},"time":".."}`. An entry
//! holds at most 16 KiB of output; one that does not end a line has no `\n` at its end. Bytes that
//! are not UTF-8 are replaced. A line that cannot be parsed (torn by a crash) is skipped.

mod cursor;
mod entry;
mod error;
mod follow;
mod format;
mod local;
mod packed;
mod reader;
mod writer;

pub use cursor::Cursor;
pub use entry::{Entry, Stream};
pub use error::{Error, ErrorKind};
pub use follow::{FollowControl, Follower, Next};
pub use format::Format;
pub use reader::{Query, Reader, Streams, Tail};
pub use writer::{Options, Writer};

/// Most bytes of output in one entry.
pub const CHUNK: usize = 16 << 10;
