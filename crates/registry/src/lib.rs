//! A registry server: the distribution protocol of the OCI over a store of files.
//!
//! * [`Registry`]: repositories, manifests, tags, blobs and uploads, without HTTP.
//! * [`storage::Storage`]: the contract of a store, and [`storage::Files`], which keeps it.
//! * [`serve`]: HTTP, from the socket to the registry.
//!
//! This crate knows nothing of containers, layers or the engine, and reads neither environment
//! nor arguments.

mod access;
mod audit;
pub mod auth;
mod cache;
pub mod config;
mod error;
mod http;
mod index;
mod manifest;
mod metrics;
mod name;
mod rate;
mod registry;
mod start;
pub mod storage;
mod tls;

pub use crate::http::{Limits, Parts, Service, serve, serve_metrics};
pub use access::{Pattern, Policy, Right, Rule, Subject};
pub use audit::AuditLog;
pub use cache::Upstream;
pub use config::Config;
pub use error::{Error, ErrorKind, Invalid, Result};
pub use index::{ManifestEntry, TagEntry, Totals};
pub use name::{RepositoryName, Tag, Target};
pub use registry::{
    ByteStream, Collected, FoundManifest, OpenBlob, Progress, Pushed, Referrer, Registry, Settings,
    UploadId,
};
pub use sampan_registry_client::Credentials;
pub use start::StartError;
pub use tls::{Certificate, TlsError};
