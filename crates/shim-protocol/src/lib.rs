//! The conversation between the engine and a shim: messages, their encoding, and both ends of it.
//!
//! A shim outlives engines, so the messages are versioned ([`PROTOCOL`]) and unknown fields are
//! ignored. This crate knows nothing of containers beyond the data it carries, starts no thread
//! and has no async runtime: a [`Channel`] can be driven blocking or by any readiness loop, since
//! it is [`std::os::fd::AsFd`] and never reads or writes unless asked.
//!
//! * [`Client`]: the engine's end. [`Client::spawn`] starts a shim, [`Client::connect`] finds one.
//! * [`Server`]: the shim's end of one connection.
//! * [`Request`], [`Reply`], [`Event`]: what is said.
//! * [`Launch`] and its [`LaunchDescriptors`]: the first and largest request.
//! * [`Exit`], [`JournalEntry`]: what the shim leaves on disk for an engine that was not there.
//!
//! On the wire a message is an 8-byte head (`be32` length of the body, `be16` number of
//! descriptors, two magic bytes) and a JSON body; descriptors travel by `SCM_RIGHTS` with it.

mod attach;
mod channel;
mod client;
mod launch;
mod message;
mod record;
mod server;

pub use attach::{AttachSpec, Bytes, DetachKeys, DetachKeysError, OutputStream, frame_head};
pub use channel::{Channel, Flushed, Frame, ProtocolError, Received};
pub use client::{Client, ClientError, Incoming, socket_path_in};
pub use launch::{
    DescriptorError, Filter, ForeignRuntime, HealthCheck, Launch, LaunchDescriptors, LogConfig,
    LogDriver, Preparation, RestartPolicy, RootSource, UserMaps,
};
pub use message::{
    Event, ExecStart, ExecState, Failure, FailureKind, Health, HealthStatus, Probe, Reply, Request,
    StartFailure, StartFailureKind, State, Status, Step,
};
pub use record::{Exit, JournalEntry, JournalEvent};
pub use server::{Server, ServerMessage};

/// Version of the messages that this crate speaks.
pub const PROTOCOL: u32 = 1;
/// Oldest version that this crate still speaks.
pub const OLDEST_PROTOCOL: u32 = 1;
/// Name of a shim's control socket inside its socket directory.
pub const SOCKET_NAME: &str = "shim.sock";
/// Name of the directory beside the socket where the root is mounted if it has to be.
pub const ROOT_DIRECTORY: &str = "root";
/// Name of the file beside it that the init's executable is mounted on, for a runtime that takes
/// paths only.
pub const INIT_FILE: &str = "init";
/// Name of the shim's directory inside the container's.
pub const SHIM_DIRECTORY: &str = "shim";
/// Name of the exit file inside the shim's directory.
pub const EXIT_FILE: &str = "exit.json";
/// Name of the journal inside the shim's directory.
pub const JOURNAL_FILE: &str = "journal.jsonl";
/// Name of what the journal held before it became too long.
pub const OLD_JOURNAL_FILE: &str = "journal-old.jsonl";
