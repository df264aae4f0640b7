//! Volumes.

use std::collections::BTreeMap;

use crate::wire;

wire! {
    /// Body of `POST /volumes/create`.
    pub struct VolumeCreateRequest {
        /// Name; empty for one of 64 digits.
        omitempty "Name" name: String,
        /// Driver; empty for `local`.
        omitempty "Driver" driver: String,
        /// Options of the driver.
        omitempty "DriverOpts" driver_opts: BTreeMap<String, String>,
        /// Labels.
        omitempty "Labels" labels: BTreeMap<String, String>,
    }

    /// A volume.
    pub struct Volume {
        /// RFC 3339.
        omitempty "CreatedAt" created_at: String,
        /// Driver.
        "Driver" driver: String,
        /// Labels; null when none were given.
        "Labels" labels: Option<BTreeMap<String, String>>,
        /// Path on the host.
        "Mountpoint" mountpoint: String,
        /// Name.
        "Name" name: String,
        /// Options of the driver; null when none were given.
        "Options" options: Option<BTreeMap<String, String>>,
        /// `local`.
        "Scope" scope: String,
        /// Only in the answer of `GET /system/df`.
        omitempty "UsageData" usage_data: Option<VolumeUsage>,
    }

    /// Use of a volume.
    pub struct VolumeUsage {
        /// Bytes, -1 when unknown.
        "Size" size: i64,
        /// Containers, -1 when unknown.
        "RefCount" ref_count: i64,
    }

    /// Answer of `POST /volumes/prune`.
    pub struct VolumePruneResponse {
        /// Names; never null.
        "VolumesDeleted" volumes_deleted: Vec<String>,
        /// Bytes.
        "SpaceReclaimed" space_reclaimed: u64,
    }

    /// Answer of `GET /volumes`.
    pub struct VolumeList {
        /// Volumes; never null.
        "Volumes" volumes: Vec<Volume>,
        /// Warnings; null when there are none.
        "Warnings" warnings: Option<Vec<String>>,
    }
}
