//! The engine and its host.

use std::collections::BTreeMap;

use super::container::ContainerSummary;
use super::image::ImageSummary;
use super::sampan::DiskReport;
use super::volume::Volume;
use crate::wire;

wire! {
    /// Answer of `GET /version`.
    pub struct Version {
        /// Name of the product.
        omitempty "Platform" platform: Option<PlatformName>,
        /// Parts and their versions.
        omitempty "Components" components: Vec<Component>,
        /// Version of the engine.
        "Version" version: String,
        /// Newest version of the API.
        "ApiVersion" api_version: String,
        /// Oldest version of the API.
        omitempty "MinAPIVersion" min_api_version: String,
        /// Commit it was built from.
        "GitCommit" git_commit: String,
        /// Compiler.
        "GoVersion" go_version: String,
        /// `linux`.
        "Os" os: String,
        /// Such as `amd64`.
        "Arch" arch: String,
        /// Kernel of the host.
        omitempty "KernelVersion" kernel_version: String,
        /// Experimental features are on.
        omitempty "Experimental" experimental: bool,
        /// RFC 3339.
        omitempty "BuildTime" build_time: String,
    }

    /// Name of the product.
    pub struct PlatformName {
        /// Name.
        "Name" name: String,
    }

    /// A part and its version.
    pub struct Component {
        /// Name.
        "Name" name: String,
        /// Version.
        "Version" version: String,
        /// Anything else.
        omitempty "Details" details: BTreeMap<String, String>,
    }

    /// Answer of `GET /info`.
    pub struct Info {
        /// Identity of the engine.
        "ID" id: String,
        /// Containers in all.
        "Containers" containers: i64,
        /// Containers that run.
        "ContainersRunning" containers_running: i64,
        /// Containers that are paused.
        "ContainersPaused" containers_paused: i64,
        /// All other containers.
        "ContainersStopped" containers_stopped: i64,
        /// Images.
        "Images" images: i64,
        /// Storage driver.
        "Driver" driver: String,
        /// What the storage driver wants to tell.
        "DriverStatus" driver_status: Vec<[String; 2]>,
        /// Drivers by type.
        "Plugins" plugins: Plugins,
        /// The host can limit it.
        "MemoryLimit" memory_limit: bool,
        /// The host can limit it.
        "SwapLimit" swap_limit: bool,
        /// The host can limit it.
        "CpuCfsPeriod" cpu_cfs_period: bool,
        /// The host can limit it.
        "CpuCfsQuota" cpu_cfs_quota: bool,
        /// The host can limit it.
        "CPUShares" cpu_shares: bool,
        /// The host can limit it.
        "CPUSet" cpu_set: bool,
        /// The host can limit it.
        "PidsLimit" pids_limit: bool,
        /// The host forwards.
        "IPv4Forwarding" ipv4_forwarding: bool,
        /// The engine tells more.
        "Debug" debug: bool,
        /// Open descriptors.
        "NFd" nfd: i64,
        /// The host can switch it off.
        "OomKillDisable" oom_kill_disable: bool,
        /// Tasks of the engine.
        "NGoroutines" ngoroutines: i64,
        /// RFC 3339.
        "SystemTime" system_time: String,
        /// Default log driver.
        "LoggingDriver" logging_driver: String,
        /// `cgroupfs`, `systemd`, `none`.
        "CgroupDriver" cgroup_driver: String,
        /// `1` or `2`.
        omitempty "CgroupVersion" cgroup_version: String,
        /// Clients that listen to events.
        "NEventsListener" nevents_listener: i64,
        /// Kernel of the host.
        "KernelVersion" kernel_version: String,
        /// Distribution of the host.
        "OperatingSystem" operating_system: String,
        /// Version of the distribution.
        "OSVersion" os_version: String,
        /// `linux`.
        "OSType" os_type: String,
        /// Such as `x86_64`.
        "Architecture" architecture: String,
        /// Docker Hub's index.
        "IndexServerAddress" index_server_address: String,
        /// Registries.
        "RegistryConfig" registry_config: RegistryConfig,
        /// CPUs.
        "NCPU" ncpu: i64,
        /// Bytes.
        "MemTotal" mem_total: i64,
        /// Null.
        "GenericResources" generic_resources: Option<Vec<String>>,
        /// Directory of the engine's state.
        "DockerRootDir" docker_root_dir: String,
        /// Proxy.
        "HttpProxy" http_proxy: String,
        /// Proxy.
        "HttpsProxy" https_proxy: String,
        /// Hosts without proxy.
        "NoProxy" no_proxy: String,
        /// Name of the host.
        "Name" name: String,
        /// Labels of the engine.
        "Labels" labels: Vec<String>,
        /// Experimental features are on.
        "ExperimentalBuild" experimental_build: bool,
        /// Version of the engine.
        "ServerVersion" server_version: String,
        /// Runtimes by name.
        "Runtimes" runtimes: BTreeMap<String, Runtime>,
        /// The one that is used when none is named.
        "DefaultRuntime" default_runtime: String,
        /// Cluster.
        "Swarm" swarm: Swarm,
        /// Containers live on without the engine.
        "LiveRestoreEnabled" live_restore_enabled: bool,
        /// Windows only.
        "Isolation" isolation: String,
        /// What `--init` runs.
        "InitBinary" init_binary: String,
        /// Commit of a part.
        "ContainerdCommit" containerd_commit: Commit,
        /// Commit of a part.
        "RuncCommit" runc_commit: Commit,
        /// Commit of a part.
        "InitCommit" init_commit: Commit,
        /// Such as `name=seccomp,profile=builtin`.
        "SecurityOptions" security_options: Vec<String>,
        /// What the firewall is programmed with. Absent before 1.49.
        omitempty "FirewallBackend" firewall_backend: Option<Firewall>,
        /// Directories of device specifications.
        "CDISpecDirs" cdi_spec_dirs: Vec<String>,
        /// Devices that specifications describe. Absent before 1.50.
        omitempty "DiscoveredDevices" discovered_devices: Vec<DiscoveredDevice>,
        /// Warnings for a person; null when there are none.
        "Warnings" warnings: Option<Vec<String>>,
    }

    /// Answer of `GET /system/df`. Lists of types that were not asked for are null.
    pub struct DiskUsage {
        /// Sum of the files in all layers.
        "LayersSize" layers_size: i64,
        /// Images.
        "Images" images: Option<Vec<ImageSummary>>,
        /// Containers.
        "Containers" containers: Option<Vec<ContainerSummary>>,
        /// Volumes.
        "Volumes" volumes: Option<Vec<Volume>>,
        /// Build cache.
        "BuildCache" build_cache: Option<Vec<BuildCacheRecord>>,
        /// More of this engine, when it is asked for.
        omitempty "Sampan" sampan: Option<DiskReport>,
    }

    /// Something that is kept for builds.
    pub struct BuildCacheRecord {
        /// Identity.
        "ID" id: String,
        /// The records that it was made on.
        omitempty "Parents" parents: Vec<String>,
        /// Such as `regular` and `source.local`.
        "Type" kind: String,
        /// What it came from.
        "Description" description: String,
        /// A build uses it.
        "InUse" in_use: bool,
        /// An image has it, too.
        "Shared" shared: bool,
        /// Bytes on disk.
        "Size" size: i64,
        /// RFC 3339.
        "CreatedAt" created_at: String,
        /// RFC 3339; null when that is not known.
        "LastUsedAt" last_used_at: Option<String>,
        /// So many builds used it.
        "UsageCount" usage_count: i64,
    }

    /// Answer of `POST /build/prune`.
    pub struct BuildPruneResponse {
        /// What was removed; null when nothing was.
        "CachesDeleted" caches_deleted: Option<Vec<String>>,
        /// Bytes.
        "SpaceReclaimed" space_reclaimed: u64,
    }

    /// Drivers by type.
    pub struct Plugins {
        /// Volume drivers.
        "Volume" volume: Vec<String>,
        /// Network drivers.
        "Network" network: Vec<String>,
        /// Authorization plugins; null when there are none.
        "Authorization" authorization: Option<Vec<String>>,
        /// Log drivers.
        "Log" log: Vec<String>,
    }

    /// Registries.
    pub struct RegistryConfig {
        /// Networks of registries that may be insecure.
        "InsecureRegistryCIDRs" insecure_registry_cidrs: Vec<String>,
        /// By registry.
        "IndexConfigs" index_configs: BTreeMap<String, Index>,
        /// Mirrors of Docker Hub; null when there are none.
        "Mirrors" mirrors: Option<Vec<String>>,
    }

    /// A registry.
    pub struct Index {
        /// Name.
        "Name" name: String,
        /// Mirrors.
        "Mirrors" mirrors: Vec<String>,
        /// TLS is asked for.
        "Secure" secure: bool,
        /// Is Docker Hub.
        "Official" official: bool,
    }

    /// A device that containers can be given.
    pub struct DiscoveredDevice {
        /// Who describes it: `cdi`.
        "Source" source: String,
        /// Such as `vendor.com/class=name`.
        "ID" id: String,
    }

    /// An OCI runtime.
    pub struct Runtime {
        /// Program.
        omitempty "path" path: String,
        /// Arguments.
        omitempty "runtimeArgs" runtime_args: Vec<String>,
        /// What it can do.
        omitempty "status" status: BTreeMap<String, String>,
    }

    /// Cluster; there is none.
    pub struct Swarm {
        /// Identity.
        "NodeID" node_id: String,
        /// Address.
        "NodeAddr" node_addr: String,
        /// `inactive`.
        "LocalNodeState" local_node_state: String,
        /// Is a manager.
        "ControlAvailable" control_available: bool,
        /// Error.
        "Error" error: String,
        /// Null.
        "RemoteManagers" remote_managers: Option<Vec<String>>,
    }

    /// Commit of a part.
    pub struct Commit {
        /// Commit.
        "ID" id: String,
    }

    /// What the firewall is programmed with.
    pub struct Firewall {
        /// Such as `nftables`.
        "Driver" driver: String,
        /// Rows of two words.
        omitempty "Info" info: Vec<[String; 2]>,
    }
}
