//! The engine and its host.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use sampan_cgroups::Controller;

use crate::Cdi;
use crate::apparmor::AppArmor;
use crate::container::lifecycle::Status;
use crate::container::registry::Registry;
use crate::host::Host;
use crate::{CgroupDriver, Error, EventBus, ImageService, Result, RuntimeProgram, Runtimes};

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
    /// Who makes containers' control groups.
    pub cgroup_driver: CgroupDriver,
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
    /// What is said of registries.
    pub registries: Arc<sampan_images::settings::Settings>,
    /// Such as `name=seccomp,profile=builtin`.
    pub security_options: Vec<String>,
    /// What containers can be made by.
    pub runtimes: BTreeMap<String, RuntimeProgram>,
    /// What they are made by where they name none.
    pub default_runtime: String,
    /// Where vendors' descriptions of devices are looked for.
    pub device_directories: Vec<String>,
    /// The devices described there.
    pub devices: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Bytes that the file system has set aside for what is in the root directory. The parts add up
/// to what `du` says of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskParts {
    /// Layers with their indexes.
    pub layers: u64,
    /// Packed layers and manifests.
    pub blobs: u64,
    /// Containers: writable layers, logs and records, and what of them waits for its removal.
    pub containers: u64,
    /// Volumes.
    pub volumes: u64,
    /// Everything else: records of images, locks.
    pub other: u64,
}

impl DiskParts {
    /// Returns the sum.
    pub fn total(&self) -> u64 {
        self.layers + self.blobs + self.containers + self.volumes + self.other
    }
}

/// Facts about the engine. A cheap clone.
#[derive(Debug, Clone)]
pub struct SystemService {
    shared: Arc<Shared>,
}

/// What the engine was told of itself.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) root: PathBuf,
    pub(crate) version: String,
    pub(crate) runtimes: Runtimes,
    /// Whether containers have users of their own.
    pub(crate) own_users: bool,
    pub(crate) cdi: Cdi,
    pub(crate) cgroup_driver: CgroupDriver,
}

#[derive(Debug)]
struct Shared {
    id: String,
    about: About,
    host: Host,
    registry: Registry,
    images: ImageService,
    events: EventBus,
}

impl SystemService {
    pub(crate) fn new(
        about: About,
        host: Host,
        registry: Registry,
        images: ImageService,
        events: EventBus,
    ) -> Result<Self> {
        let id = identity(&about.root)?;
        Ok(Self {
            shared: Arc::new(Shared {
                id,
                about,
                host,
                registry,
                images,
                events,
            }),
        })
    }

    /// Returns facts about the engine and its host.
    pub async fn info(&self) -> Result<SystemInfo> {
        let shared = self.shared.clone();
        crate::blocking(move || Ok(shared.info())).await
    }

    /// Adds up what is on disk, which takes long.
    pub async fn disk(&self) -> Result<DiskParts> {
        let root = self.shared.about.root.clone();
        crate::blocking(move || measure(&root)).await
    }
}

fn measure(root: &std::path::Path) -> Result<DiskParts> {
    let failed = |error: std::io::Error| Error::because("measure the root directory", &error);
    let mut parts = DiskParts {
        other: sampan_fs::blocks_of(root)?,
        ..DiskParts::default()
    };
    for entry in std::fs::read_dir(root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let part = match entry.file_name().to_str() {
            Some("layers") => &mut parts.layers,
            Some("content") => &mut parts.blobs,
            Some("containers" | "trash") => &mut parts.containers,
            Some("volumes") => &mut parts.volumes,
            _ => &mut parts.other,
        };
        *part += sampan_fs::usage(entry.path())?.disk;
    }
    Ok(parts)
}

impl Shared {
    fn info(&self) -> SystemInfo {
        let records = self.registry.records();
        let count = |status| {
            records
                .iter()
                .filter(|r| r.lifecycle.status() == status)
                .count()
        };
        let (running, paused) = (count(Status::Running), count(Status::Paused));
        let host = &self.host;
        let release = read("/etc/os-release");
        let field = |name: &str| {
            release
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .map(|value| value.trim_matches('"').to_owned())
                .unwrap_or_default()
        };
        let mut warnings = Vec::new();
        let forwarding = read("/proc/sys/net/ipv4/ip_forward").trim() == "1";
        let mut can = |controller, what: &str| {
            let supported = host.supports(controller);
            if !supported {
                warnings.push(format!("WARNING: No {what} support"));
            }
            supported
        };
        let memory = can(Controller::Memory, "memory limit");
        let cpu = can(Controller::Cpu, "cpu cfs quota");
        let cpuset = can(Controller::CpuSet, "cpuset");
        let pids = can(Controller::Pids, "pids limit");
        if host.apparmor == AppArmor::NamedProfiles {
            warnings.push(
                "WARNING: Containers have no AppArmor profile: the default one could not be loaded (see the engine's \
                 log)"
                    .to_owned(),
            );
        }
        SystemInfo {
            id: self.id.clone(),
            running,
            paused,
            stopped: records.len() - running - paused,
            images: self.images.store().list().len(),
            storage_driver: "overlayfs".to_owned(),
            storage_status: vec![("layer driver".to_owned(), self.layer_driver())],
            memory_limit: memory,
            swap_limit: memory && swap_is_counted(host),
            cpu_quota: cpu,
            cpu_shares: cpu,
            cpuset,
            pids_limit: pids,
            oom_kill_disable: memory && !host.unified,
            ipv4_forwarding: forwarding,
            descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            event_listeners: self.events.listeners(),
            cgroup_driver: self.about.cgroup_driver,
            cgroup_version: if host.unified { 2 } else { 1 },
            kernel: host.release.clone(),
            operating_system: field("PRETTY_NAME"),
            os_version: field("VERSION_ID"),
            machine: host.machine.clone(),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory: memory_total(),
            host_name: host.name.clone(),
            root: self.about.root.clone(),
            version: self.about.version.clone(),
            registries: self.images.store().registry_settings(),
            security_options: self.security_options(),
            runtimes: self.about.runtimes.programs(),
            default_runtime: self.about.runtimes.default.clone(),
            device_directories: self.device_directories(),
            devices: self.about.cdi.devices(),
            warnings,
        }
    }

    fn device_directories(&self) -> Vec<String> {
        let directories = self.about.cdi.directories.iter();
        directories.map(|path| path.display().to_string()).collect()
    }

    fn security_options(&self) -> Vec<String> {
        let mut options = Vec::new();
        if self.host.apparmor.is_there() {
            options.push("name=apparmor".to_owned());
        }
        options.push("name=seccomp,profile=builtin".to_owned());
        if self.about.own_users {
            options.push("name=userns".to_owned());
        }
        if self.host.unified {
            options.push("name=cgroupns".to_owned());
        }
        options
    }

    fn layer_driver(&self) -> String {
        match self.images.store().layers().driver() {
            Ok(sampan_layers::Driver::Directory) => "directory".to_owned(),
            Ok(_) => "tar-index".to_owned(),
            Err(error) => format!("none: {error}"),
        }
    }
}

/// The identity of an engine: drawn once, kept in its root.
fn identity(root: &std::path::Path) -> Result<String> {
    let path = root.join("engine-id");
    let known = read(&path);
    let known = known.trim();
    if known.len() == 36 {
        return Ok(known.to_owned());
    }
    let drawn = crate::container::id::random_hex();
    let parts = [
        &drawn[..8],
        &drawn[8..12],
        &drawn[12..16],
        &drawn[16..20],
        &drawn[20..32],
    ];
    let id = parts.join("-");
    sampan_fs::write_file(&path, id.as_bytes(), sampan_fs::Sync::Volatile)?;
    Ok(id)
}

fn swap_is_counted(host: &Host) -> bool {
    host.hierarchies
        .with(Controller::Memory)
        .is_some_and(|hierarchy| {
            hierarchy.unified
                || hierarchy
                    .mount_point
                    .join("memory.memsw.limit_in_bytes")
                    .exists()
        })
}

pub(crate) fn memory_total() -> u64 {
    let text = read("/proc/meminfo");
    let kilobytes = text.lines().find_map(|line| {
        let rest = line.strip_prefix("MemTotal:")?;
        rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    kilobytes.unwrap_or_default() * 1024
}

/// A file that says nothing when it is missing.
fn read(path: impl AsRef<std::path::Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
