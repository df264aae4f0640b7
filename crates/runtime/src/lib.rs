//! Starts containers: the OCI runtime as a library.
//!
//! [`create`] plans everything in the calling process (paths, mounts, filters,
//! user names, arguments), starts the container's first process with clone3(2)
//! and returns when that process has built its world and waits; [`Created::start`]
//! lets it run the user's program. [`Running`] signals, pauses and ends it, and
//! starts further processes in it.
//!
//! What the crate must not know: images, networks, records, the engine, the
//! shim. It never prints, reads no environment variable of the caller, and runs
//! no program of the host but the hooks that the specification names. The caller
//! has one thread (see [`sampan_kernel::clone`]).
//!
//! How a hostile root file system is kept from the host: the child enters the
//! root and detaches the host's tree *before* it mounts anything, so that no
//! path can lead out; what the mounts need of the host are descriptors that the
//! parent opened before. Every destination is resolved by openat2(2) inside the
//! root without magic links and is from then on a descriptor. Masks and kernel
//! parameters are reached through the descriptors of our own /proc and /sys
//! mounts, not through what the image calls /proc.
//!
//! * [`Bundle`], [`Root`], [`Stdio`]: what to start;
//! * [`Created`], [`Running`], [`ExecProcess`]: the phases;
//! * [`Error`], [`ErrorKind`]: what went wrong, with the exit code that follows.

mod agent;
mod attach;
mod attributes;
mod bundle;
mod capabilities;
mod child;
mod command;
mod container;
mod copy_up;
mod create;
mod created;
mod devices;
mod error;
mod exec;
mod failure;
mod file_system;
mod hooks;
mod identity;
mod limits;
mod mounts;
mod namespaces;
mod options;
mod process;
mod report;
mod resolve;
mod root;
mod streams;
mod sysctl;
mod terminal;
mod trees;
mod user_namespace;

pub mod seccomp;

pub use agent::Agent;
pub use bundle::{Bundle, ExecRequest, Root, Stdio};
pub use child::{Gate, RootEntry};
pub use container::{ExecProcess, ProcessStatus, Running, delete, process_status};
pub use create::create;
pub use created::{Created, start_at};
pub use error::{Error, ErrorKind};
pub use hooks::{run_hooks, state};
pub use identity::numeric_user;
pub use sampan_kernel::pidfd::Ending;
pub use sampan_kernel::seccomp::SeccompProgram;
pub use user_namespace::UserNamespaces;
