//! What containers use: `GET /containers/{id}/stats`.

use std::collections::BTreeMap;

use crate::wire;

wire! {
    /// One reading, with the one before it.
    pub struct StatsResponse {
        /// Identity.
        omitempty "id" id: String,
        /// Name with a slash in front.
        omitempty "name" name: String,
        /// `linux`.
        "os_type" os_type: String,
        /// When it was read, RFC 3339.
        "read" read: String,
        /// CPU time.
        "cpu_stats" cpu_stats: CpuStats,
        /// Memory.
        "memory_stats" memory_stats: MemoryStats,
        /// By interface.
        omitempty "networks" networks: BTreeMap<String, NetworkStats>,
        /// Processes and threads.
        "pids_stats" pids_stats: PidsStats,
        /// Devices.
        "blkio_stats" blkio_stats: BlkioStats,
        /// Windows only.
        "num_procs" num_procs: u32,
        /// Windows only.
        "storage_stats" storage_stats: StorageStats,
        /// When the one before was read.
        "preread" preread: String,
        /// CPU time of the one before.
        "precpu_stats" precpu_stats: CpuStats,
    }

    /// CPU time.
    pub struct CpuStats {
        /// Of the container.
        "cpu_usage" cpu_usage: CpuUsage,
        /// Of the host, in nanoseconds over all processors.
        omitempty "system_cpu_usage" system_cpu_usage: u64,
        /// Processors.
        omitempty "online_cpus" online_cpus: u32,
        /// How the quota was used up.
        "throttling_data" throttling_data: ThrottlingData,
    }

    /// CPU time in nanoseconds.
    pub struct CpuUsage {
        /// All of it.
        "total_usage" total_usage: u64,
        /// By processor; v1 only.
        omitempty "percpu_usage" percpu_usage: Vec<u64>,
        /// In the kernel.
        "usage_in_kernelmode" usage_in_kernelmode: u64,
        /// In programs.
        "usage_in_usermode" usage_in_usermode: u64,
    }

    /// How the quota was used up.
    pub struct ThrottlingData {
        /// Periods.
        "periods" periods: u64,
        /// Those with nothing left.
        "throttled_periods" throttled_periods: u64,
        /// Nanoseconds.
        "throttled_time" throttled_time: u64,
    }

    /// Memory in bytes.
    pub struct MemoryStats {
        /// In use, page cache included.
        omitempty "usage" usage: u64,
        /// The most that was; v1 only.
        omitempty "max_usage" max_usage: u64,
        /// `memory.stat`.
        omitempty "stats" stats: BTreeMap<String, u64>,
        /// How often the limit was hit.
        omitempty "failcnt" failcnt: u64,
        /// The limit, or what the host has.
        omitempty "limit" limit: u64,
    }

    /// An interface.
    pub struct NetworkStats {
        /// Bytes.
        "rx_bytes" rx_bytes: u64,
        /// Packets.
        "rx_packets" rx_packets: u64,
        /// Packets.
        "rx_errors" rx_errors: u64,
        /// Packets.
        "rx_dropped" rx_dropped: u64,
        /// Bytes.
        "tx_bytes" tx_bytes: u64,
        /// Packets.
        "tx_packets" tx_packets: u64,
        /// Packets.
        "tx_errors" tx_errors: u64,
        /// Packets.
        "tx_dropped" tx_dropped: u64,
    }

    /// Processes and threads.
    pub struct PidsStats {
        /// How many there are.
        omitempty "current" current: u64,
        /// How many there may be; the highest number for any number (v2).
        omitempty "limit" limit: u64,
    }

    /// Devices. What the host does not count is null.
    pub struct BlkioStats {
        /// Bytes.
        "io_service_bytes_recursive" io_service_bytes_recursive: Option<Vec<BlkioEntry>>,
        /// Operations.
        "io_serviced_recursive" io_serviced_recursive: Option<Vec<BlkioEntry>>,
        /// Unused.
        "io_queue_recursive" io_queue_recursive: Option<Vec<BlkioEntry>>,
        /// Unused.
        "io_service_time_recursive" io_service_time_recursive: Option<Vec<BlkioEntry>>,
        /// Unused.
        "io_wait_time_recursive" io_wait_time_recursive: Option<Vec<BlkioEntry>>,
        /// Unused.
        "io_merged_recursive" io_merged_recursive: Option<Vec<BlkioEntry>>,
        /// Unused.
        "io_time_recursive" io_time_recursive: Option<Vec<BlkioEntry>>,
        /// Unused.
        "sectors_recursive" sectors_recursive: Option<Vec<BlkioEntry>>,
    }

    /// A count of one device.
    pub struct BlkioEntry {
        /// Of the device.
        "major" major: u64,
        /// Of the device.
        "minor" minor: u64,
        /// `read`, `write`, on v1 `Read` and others.
        "op" op: String,
        /// Bytes or operations.
        "value" value: u64,
    }

    /// Windows only.
    pub struct StorageStats {
        /// Windows only.
        omitempty "read_count_normalized" read_count_normalized: u64,
    }
}
