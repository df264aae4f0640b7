//! Builds images: from the stages of a Dockerfile to layers and a configuration.
//!
//! Knows nothing of containers (a [`Sandbox`] runs commands), of Docker's wire formats, of clients
//! or of how a context came here, and never prints.
//!
//! * [`Build`]: one build; [`Build::run`] solves it. Stages that do not need each other run at
//!   the same time, those that nothing needs do not run.
//! * [`Cache`]: what steps came to, by everything that they depend on.
//! * [`Contexts`]: files that clients send, of which only those are sent again that changed;
//!   [`Context`]: files to build from.
//! * [`Import`], [`Export`]: caches of other builders.
//! * [`Sandbox`]: runs the commands. [`Secrets`]: what the client lends them.
//! * [`CacheMounts`]: the directories that stay between builds.
//! * [`Event`]: what a build tells while it runs.
//!
//! Files are never unpacked. A context is a layer like any other (see
//! [`ImageStore::take_archive`](sampan_images::ImageStore::take_archive)): sources and
//! destinations are looked at in read-only mounts of layers, through a rooted resolver, and what
//! is copied is written straight as the tar of the new layer.
//!
//! ```text
//! ROOT/build/steps/<key>.json       what a step came to: crate state
//! ROOT/build/sources/<key>.json     what is in files that have a name: crate state
//! ROOT/build/contexts/<key>/        files of clients, see [`Contexts`]
//! ROOT/build/history/<name>/        builds that have ended, see [`History`]
//! ROOT/build/use/last.json          when each of these was last used: crate state
//! ROOT/build/mounts/                cache mounts, see [`CacheMounts`]
//! ROOT/build/scratch/               repositories while they are fetched
//! ```

mod agent;
mod cache;
mod cache_mount;
mod config;
mod context;
mod copy;
mod error;
mod exchange;
mod fetch;
mod files;
mod git;
mod history;
mod manifest;
mod mounts;
mod output;
mod owner;
mod progress;
mod prune;
mod remote;
mod running;
mod sandbox;
mod secrets;
mod solve;
mod stage;
mod times;
mod uses;
mod wait;
mod web;

pub use agent::{Agent, serve_while};
pub use cache::Cache;
pub use cache_mount::{CacheMount, CacheMounts};
pub use context::{Context, Contexts, Entry, EntryKind, Sync};
pub use error::{Error, ErrorKind, Result};
pub use exchange::{CACHE_CONFIG, CACHE_SOURCES, Export, ExportMode, FetchLayer, Import, Trail};
pub use fetch::Fetcher;
pub use git::GitSource;
pub use history::{BuildRecord, History, Pinned};
pub use output::{Output, OutputEntry, OutputKind};
pub use owner::find_owner;
pub use progress::{BaseNews, Event, EventSink, Failure, InOrder, Place};
pub use prune::{CacheKind, CacheRecord, PrunePolicy, Pruned};
pub use remote::Remote;
pub use sandbox::{
    Access, Confinement, Limits, MountSource, Network, Ran, RunStep, Sandbox, SandboxError,
    SecretVariable, StepMount, Stub, Ulimit,
};
pub use secrets::{NoSecrets, Secrets};
pub use solve::{
    Base, Build, Built, Entitlement, Failed, NamedContext, NoCache, Settings, Written,
};
pub use times::SOURCE_DATE_EPOCH;
pub use tokio_util::sync::CancellationToken;
pub use web::Web;
