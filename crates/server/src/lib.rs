//! The HTTP edge: Docker's Engine API on a socket, answered by an engine.
//!
//! Everything that is Docker's (routes, field names, status codes, frames, what changed in which
//! version) stops in this crate and in `sampan-api`; the engine sees its own types and none of
//! HTTP. A request goes through these steps:
//!
//! 1. `connection`: hyper on the socket, bounds on heads, and the way out of HTTP: a handler can
//!    take the raw socket from under hyper and hand it on (attach, exec).
//! 2. `edge`: version prefix, headers of every reply, unknown routes.
//! 3. `routes` and one module per noun: query and body to the engine's types and back.
//! 4. `error`: the engine's error kinds to status codes, in one place.
//!
//! This crate knows nothing of containers' processes, files or networks, holds no state beside
//! connections, and reads neither environment nor configuration.

mod app;
mod body;
mod build;
mod buildkit;
mod connection;
mod container;
mod crowd;
mod disk;
mod edge;
mod error;
mod event;
mod hijack;
mod image;
mod listen;
mod network;
mod query;
mod reply;
mod routes;
mod system;
mod text;
mod tls;
mod unbuilt;
mod volume;

pub use listen::{Limits, serve, serve_tcp, serve_tls};
pub use tls::{Tls, TlsError, TlsFiles};
