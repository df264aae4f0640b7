//! The engine: services over containers, images, volumes and networks.
//!
//! It knows nothing of HTTP, of Docker's JSON, of command lines, the environment or configuration
//! files, and it never prints.
//!
//! * [`Engine::open`] wires the services from a [`Config`] and repairs what the last engine left.
//! * [`BuildService`], [`ContainerService`], [`ImageService`], [`VolumeService`], [`NetworkService`],
//!   [`SystemService`], [`EventBus`]: cheap clones, for the edge.
//! * [`Lifecycle`]: where in its life a container is; one pure function says what may follow.
//!
//! The process of a container belongs to its shim, not to the engine: an engine may be killed at
//! any instant, and the next one reads records, asks the shims that are there and reads the exit
//! files of those that are not.
//!
//! ```text
//! ROOT/containers/<id>/record.json            this crate's record
//!                      upper, work            the writable layer
//!                      hosts, hostname, resolv.conf
//!                      <id>-json.log*, local-logs/   written by the shim
//!                      shim/                  written by the shim
//! ROOT/events/                                 the journal of what was told
//! ROOT/volumes/<name>/{record.json,_data}
//! RUN/shims/<id>/shim.sock
//! ```

mod apparmor;
mod build;
mod cdi;
mod cgroup_driver;
mod collector;
mod config;
mod container;
mod copy;
mod engine;
mod error;
mod event;
mod fail_point;
mod filter;
mod glob;
mod host;
mod image;
mod moment;
mod network;
mod prune;
mod rest;
mod runtimes;
mod shim;
mod signal;
mod system;
mod users;
mod volume;

pub use build::{
    BlobStore, BuildRequest, BuildService, CacheFilter, CacheSource, Layout, Logins, Sent,
};
pub use cdi::Cdi;
pub use cgroup_driver::CgroupDriver;
pub use collector::{CollectRequest, CollectorConfig};
pub use config::Config;
pub use container::archive::{ExtractOptions, ExtractOwner, FileArchive, PathStat};
pub use container::attach::Attachment;
pub use container::changes::{ChangedPath, FileChange};
pub use container::commit::CommitOptions;
pub use container::config::*;
pub use container::exec::ExecStarter;
pub use container::files::Export;
pub use container::filter::{ContainerFilter, NamePattern, PortRange};
pub use container::id::{ContainerId, ContainerName, ExecId, NetworkId};
pub use container::lifecycle::{Change, Ended, Lifecycle, Run, Status};
pub use container::mount::{
    BindSource, BindSpec, MountDetail, MountKind, MountPoint, MountRequest, MountRequestKind,
    MountedImage, Propagation,
};
pub use container::request::{
    AttachOptions, ClientStream, CreateContainer, Created, ExecConfig, ExecStartOptions,
    ListOptions, LogEntries, LogOptions, Logs, RemoveOptions, RemoveRunning, RemoveVolumes,
    StopOptions, StopTimeout, TerminalSize, Wait, WaitCondition, WaitOutcome,
};
pub use container::restart::begin_session;
pub use container::service::ContainerService;
pub use container::slots::WARM_SLOTS;
pub use container::top::Processes;
pub use container::update::{ResourceChanges, Updated};
pub use container::usage::{Counters, Sample, Traffic, Usage};
pub use container::view::{
    ContainerSizes, ContainerView, Endpoint, ExecState, ExecView, NetworkState, PublishedPort,
};
pub use engine::Engine;
pub use error::{Error, ErrorKind, Result};
pub use event::{Action, Event, EventBus, EventFilter, EventKind, Subscription};
pub use fail_point::{FailPoints, Failure};
pub use image::{Bundled, ImageFilter, ImageService, Intermediate};
pub use network::{NetworkService, NetworkView};
pub use prune::{PruneFilter, Pruned};
pub use runtimes::{RuntimeProgram, Runtimes};
pub use sampan_archive::Replace;
/// The builder's own words, which [`BuildService`] speaks.
pub use sampan_build as building;
pub use sampan_cgroups::IoCount;
/// The image store's own words, which [`ImageService`] speaks.
pub use sampan_images as images;
pub use sampan_logs::{Entry as LogEntry, Stream as LogStream};
pub use sampan_shim_protocol::{Health, HealthStatus, Probe};
pub use system::{DiskParts, SystemInfo, SystemService};
pub use users::{IdMaps, IdRange};
pub use volume::{CreateVolume, VolumeService, VolumeView};

/// How long an operation on a container waits for the one before it.
pub(crate) const OPERATION_DEADLINE: std::time::Duration = std::time::Duration::from_secs(120);

/// Does what may wait for the kernel or the disk on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::because("an operation broke off", &error))?
}
