//! The engine and its host.

use std::path::PathBuf;
use std::sync::Arc;

use crate::{Error, Result};

/// What is known of the engine and its host.
#[derive(Debug, Clone, Default)]
pub struct SystemInfo {
    /// Identity of the engine, kept in its root.
    pub id: String,
    /// Containers that run.
    pub running: usize,
    /// Containers that are frozen.
    pub paused: usize,
    /// All other containers.
    pub stopped: usize,
    /// Images.
    pub images: usize,
    /// Storage driver.
    pub storage_driver: String,
    /// What the storage driver wants to tell.
    pub storage_status: Vec<(String, String)>,
    /// The host can limit memory.
    pub memory_limit: bool,
    /// The host can limit swap.
    pub swap_limit: bool,
    /// The host can limit CPU time.
    pub cpu_quota: bool,
    /// The host can weigh CPU time.
    pub cpu_shares: bool,
    /// The host can bind to CPUs.
    pub cpuset: bool,
    /// The host can limit the number of processes.
    pub pids_limit: bool,
    /// The host can switch the out-of-memory killer off.
    pub oom_kill_disable: bool,
    /// The host forwards IPv4.
    pub ipv4_forwarding: bool,
    /// Open descriptors of the engine.
    pub descriptors: usize,
    /// Clients that listen to events.
    pub event_listeners: usize,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// Release of the kernel.
    pub kernel: String,
    /// Distribution of the host, for a person.
    pub operating_system: String,
    /// Version of the distribution.
    pub os_version: String,
    /// Architecture as `uname -m` names it.
    pub machine: String,
    /// CPUs.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Host name.
    pub host_name: String,
    /// Directory of the engine's state.
    pub root: PathBuf,
    /// Version of the engine.
    pub version: String,
    /// Such as `name=seccomp,profile=builtin`.
    pub security_options: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Bytes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Of all layers.
    pub layers: u64,
    /// Of all writable layers.
    pub containers: u64,
    /// Of all volumes.
    pub volumes: u64,
}

/// Facts about the engine. A cheap clone.
#[derive(Debug, Clone)]
pub struct SystemService {
    _inner: Arc<()>,
}

#[allow(clippy::unused_async)]
impl SystemService {
    /// Returns facts about the engine and its host.
    pub async fn info(&self) -> Result<SystemInfo> {
        Err(Error::not_implemented("info"))
    }

    /// Adds up what is on disk, which takes long.
    pub async fn disk_usage(&self) -> Result<DiskUsage> {
        Err(Error::not_implemented("disk usage"))
    }
}
