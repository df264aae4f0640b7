//! The part of a container's configuration that depends on the host.

use std::collections::BTreeMap;

use super::mount::Mount;
use crate::wire;
use crate::wire::Words;

/// Published ports by container port, such as `80/tcp`.
pub type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

wire! {
    /// The part of a container's configuration that depends on the host.
    pub struct HostConfig {
        /// `source:destination[:options]`.
        "Binds" binds: Option<Vec<String>>,
        /// Where a client wrote the identity; only remembered.
        "ContainerIDFile" container_id_file: String,
        /// Log driver.
        "LogConfig" log_config: LogConfig,
        /// `bridge`, `host`, `none`, `container:NAME` or a network.
        "NetworkMode" network_mode: String,
        /// Published ports.
        "PortBindings" port_bindings: Option<PortMap>,
        /// When to start again.
        "RestartPolicy" restart_policy: RestartPolicy,
        /// Remove at exit.
        "AutoRemove" auto_remove: bool,
        /// Driver of volumes that `Binds` names.
        "VolumeDriver" volume_driver: String,
        /// `container[:ro]`.
        "VolumesFrom" volumes_from: Option<Vec<String>>,
        /// Rows and columns of the terminal at start.
        "ConsoleSize" console_size: [u32; 2],
        /// Metadata for the runtime.
        omitempty "Annotations" annotations: BTreeMap<String, String>,
        /// Capabilities beyond the default.
        "CapAdd" cap_add: Option<Words>,
        /// Capabilities of the default that are dropped.
        "CapDrop" cap_drop: Option<Words>,
        /// `private` or `host`.
        "CgroupnsMode" cgroupns_mode: String,
        /// Name servers.
        "Dns" dns: Option<Vec<String>>,
        /// Resolver options.
        "DnsOptions" dns_options: Option<Vec<String>>,
        /// Search domains.
        "DnsSearch" dns_search: Option<Vec<String>>,
        /// `name:address`.
        "ExtraHosts" extra_hosts: Option<Vec<String>>,
        /// Supplementary groups.
        "GroupAdd" group_add: Option<Vec<String>>,
        /// `none`, `private`, `shareable`, `host`, `container:NAME`.
        "IpcMode" ipc_mode: String,
        /// Cgroup to join.
        "Cgroup" cgroup: String,
        /// `container:alias`.
        "Links" links: Option<Vec<String>>,
        /// -1000 to 1000.
        "OomScoreAdj" oom_score_adj: i64,
        /// `host`, `container:NAME` or empty.
        "PidMode" pid_mode: String,
        /// All of the host's powers.
        "Privileged" privileged: bool,
        /// Publish each exposed port on some host port.
        "PublishAllPorts" publish_all_ports: bool,
        /// Root file system read-only.
        "ReadonlyRootfs" readonly_rootfs: bool,
        /// `seccomp=...`, `no-new-privileges`, ...
        "SecurityOpt" security_opt: Option<Vec<String>>,
        /// Options of the storage driver.
        omitempty "StorageOpt" storage_opt: BTreeMap<String, String>,
        /// tmpfs mounts: path to options.
        omitempty "Tmpfs" tmpfs: BTreeMap<String, String>,
        /// `host` or empty.
        "UTSMode" uts_mode: String,
        /// `host` or empty.
        "UsernsMode" userns_mode: String,
        /// Bytes of `/dev/shm`.
        "ShmSize" shm_size: i64,
        /// Kernel parameters.
        omitempty "Sysctls" sysctls: BTreeMap<String, String>,
        /// OCI runtime.
        omitempty "Runtime" runtime: String,
        /// Windows only.
        "Isolation" isolation: String,
        /// In the same object.
        flatten "Resources" resources: Resources,
        /// Mounts as `--mount` asks for them.
        omitempty "Mounts" mounts: Vec<Mount>,
        /// Hidden paths; absent for the default.
        "MaskedPaths" masked_paths: Option<Vec<String>>,
        /// Read-only paths; absent for the default.
        "ReadonlyPaths" readonly_paths: Option<Vec<String>>,
        /// Run an init that reaps; absent for the engine's default.
        omitempty "Init" init: Option<bool>,
    }

    /// Limits. Zero is "not set" unless said otherwise.
    pub struct Resources {
        /// Relative weight.
        "CpuShares" cpu_shares: i64,
        /// Bytes.
        "Memory" memory: i64,
        /// Billionths of a CPU.
        "NanoCpus" nano_cpus: i64,
        /// Cgroup above the container's.
        "CgroupParent" cgroup_parent: String,
        /// 10 to 1000.
        "BlkioWeight" blkio_weight: u16,
        /// Weight per device.
        "BlkioWeightDevice" blkio_weight_device: Option<Vec<WeightDevice>>,
        /// Bytes per second.
        "BlkioDeviceReadBps" blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
        /// Bytes per second.
        "BlkioDeviceWriteBps" blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
        /// Operations per second.
        "BlkioDeviceReadIOps" blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
        /// Operations per second.
        "BlkioDeviceWriteIOps" blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
        /// Microseconds.
        "CpuPeriod" cpu_period: i64,
        /// Microseconds per period.
        "CpuQuota" cpu_quota: i64,
        /// Microseconds.
        "CpuRealtimePeriod" cpu_realtime_period: i64,
        /// Microseconds.
        "CpuRealtimeRuntime" cpu_realtime_runtime: i64,
        /// Such as `0-2,4`.
        "CpusetCpus" cpuset_cpus: String,
        /// Such as `0`.
        "CpusetMems" cpuset_mems: String,
        /// Devices.
        "Devices" devices: Option<Vec<DeviceMapping>>,
        /// Rules such as `c 42:* rmw`.
        "DeviceCgroupRules" device_cgroup_rules: Option<Vec<String>>,
        /// Devices from drivers, such as GPUs.
        "DeviceRequests" device_requests: Option<Vec<DeviceRequest>>,
        /// Soft limit in bytes.
        "MemoryReservation" memory_reservation: i64,
        /// Memory and swap in bytes, -1 for no limit.
        "MemorySwap" memory_swap: i64,
        /// 0 to 100.
        "MemorySwappiness" memory_swappiness: Option<i64>,
        /// Do not kill when memory is short.
        "OomKillDisable" oom_kill_disable: Option<bool>,
        /// Number of processes; 0 or less for no limit.
        "PidsLimit" pids_limit: Option<i64>,
        /// Resource limits of processes.
        "Ulimits" ulimits: Option<Vec<Ulimit>>,
        /// Windows only.
        "CpuCount" cpu_count: i64,
        /// Windows only.
        "CpuPercent" cpu_percent: i64,
        /// Windows only.
        "IOMaximumIOps" io_maximum_iops: u64,
        /// Windows only.
        "IOMaximumBandwidth" io_maximum_bandwidth: u64,
    }

    /// Log driver of a container.
    pub struct LogConfig {
        /// Name; empty for the engine's default.
        "Type" kind: String,
        /// Options.
        "Config" config: Option<BTreeMap<String, String>>,
    }

    /// When a container is started again.
    pub struct RestartPolicy {
        /// `no`, `always`, `unless-stopped`, `on-failure` or empty.
        "Name" name: String,
        /// For `on-failure`; 0 for ever.
        "MaximumRetryCount" maximum_retry_count: i64,
    }

    /// A host address and port.
    pub struct PortBinding {
        /// Address; empty for all.
        "HostIp" host_ip: String,
        /// Port or range; empty for any.
        "HostPort" host_port: String,
    }

    /// Weight of a block device.
    pub struct WeightDevice {
        /// Path.
        "Path" path: String,
        /// Weight.
        "Weight" weight: u16,
    }

    /// Limit of a block device.
    pub struct ThrottleDevice {
        /// Path.
        "Path" path: String,
        /// Bytes or operations per second.
        "Rate" rate: u64,
    }

    /// A device of the host in the container.
    pub struct DeviceMapping {
        /// Path on the host.
        "PathOnHost" path_on_host: String,
        /// Path in the container.
        "PathInContainer" path_in_container: String,
        /// Some of `rwm`.
        "CgroupPermissions" cgroup_permissions: String,
    }

    /// A request to a device driver.
    pub struct DeviceRequest {
        /// Driver, such as `nvidia`.
        "Driver" driver: String,
        /// How many; -1 for all.
        "Count" count: i64,
        /// Which.
        "DeviceIDs" device_ids: Option<Vec<String>>,
        /// One of these lists must be had entirely.
        "Capabilities" capabilities: Option<Vec<Vec<String>>>,
        /// Options of the driver.
        "Options" options: Option<BTreeMap<String, String>>,
    }

    /// A resource limit of processes.
    pub struct Ulimit {
        /// Such as `nofile`.
        "Name" name: String,
        /// Hard limit, -1 for none.
        "Hard" hard: i64,
        /// Soft limit, -1 for none.
        "Soft" soft: i64,
    }
}
