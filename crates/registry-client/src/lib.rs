//! The client's side of the distribution protocol.
//!
//! Fetches and sends manifests and blobs by streams, follows redirects and token services without letting
//! credentials go where they do not belong, and goes on where a connection broke. Knows nothing
//! of what is done with the bytes, where they are kept, or of the user's configuration files:
//! credentials and proxies are given by the caller.
//!
//! * [`Client`]: connections, tokens and what registries turned out to speak; shared by clones.
//! * [`Client::manifest`]: a verified manifest or index.
//! * [`Client::download`]: a [`Download`], piece by piece.
//! * [`Client::mount`], [`Client::upload`], [`Client::put_manifest`]: the same the other way.
//! * [`Client::tags`], [`Client::catalog`], [`Client::search`]: what there is.
//! * [`Client::fetch`]: any file, for imports.
//! * [`settings`]: mirrors, certificates and insecure registries, as the user wants them.
//! * [`Error`]: in Docker's words.
//!
//! Why not an existing client: `docs/adr/0001-registry-client.md`.

mod address;
mod blob;
mod challenge;
mod client;
mod config;
mod credentials;
mod error;
mod fetch;
mod list;
mod login;
mod manifest;
mod payload;
pub mod settings;
mod token;
mod upload;

pub use blob::{Download, Piece};
pub use client::{Access, Client, Source};
pub use config::{Config, Proxies};
pub use credentials::Credentials;
pub use error::{Cause, Error, ErrorKind};
pub use fetch::Fetched;
pub use list::Found;
pub use manifest::{FetchedManifest, Target};
pub use upload::{Content, Mounted, Session};

/// Result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;
