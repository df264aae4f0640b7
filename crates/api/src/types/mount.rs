//! Mounts, as asked for and as shown.

use std::collections::BTreeMap;

use crate::wire;

wire! {
    /// A mount as `--mount` asks for it.
    pub struct Mount {
        /// `bind`, `volume`, `tmpfs`, `image`, ...
        omitempty "Type" kind: String,
        /// Volume name, host path or image.
        omitempty "Source" source: String,
        /// Path in the container.
        omitempty "Target" target: String,
        /// Mount read-only.
        omitempty "ReadOnly" read_only: bool,
        /// Ignored on Linux.
        omitempty "Consistency" consistency: String,
        /// For `bind`.
        omitempty "BindOptions" bind_options: Option<BindOptions>,
        /// For `volume`.
        omitempty "VolumeOptions" volume_options: Option<VolumeOptions>,
        /// For `image`.
        omitempty "ImageOptions" image_options: Option<ImageOptions>,
        /// For `tmpfs`.
        omitempty "TmpfsOptions" tmpfs_options: Option<TmpfsOptions>,
    }

    /// Options of a bind mount.
    pub struct BindOptions {
        /// `rprivate`, `rslave`, `rshared`, ...
        omitempty "Propagation" propagation: String,
        /// Leave out what is mounted below the source.
        omitempty "NonRecursive" non_recursive: bool,
        /// Make the source when it is missing.
        omitempty "CreateMountpoint" create_mountpoint: bool,
        /// Read-only only at the top.
        omitempty "ReadOnlyNonRecursive" read_only_non_recursive: bool,
        /// Fail when it cannot be made read-only all the way down.
        omitempty "ReadOnlyForceRecursive" read_only_force_recursive: bool,
    }

    /// Options of a volume mount.
    pub struct VolumeOptions {
        /// Do not fill an empty volume from the image.
        omitempty "NoCopy" no_copy: bool,
        /// Labels of a volume that is made for this mount.
        omitempty "Labels" labels: BTreeMap<String, String>,
        /// A directory in the volume.
        omitempty "Subpath" subpath: String,
        /// Driver of a volume that is made for this mount.
        omitempty "DriverConfig" driver_config: Option<VolumeDriver>,
    }

    /// Driver of a volume.
    pub struct VolumeDriver {
        /// Name, such as `local`.
        omitempty "Name" name: String,
        /// What the driver understands.
        omitempty "Options" options: BTreeMap<String, String>,
    }

    /// Options of an image mount.
    pub struct ImageOptions {
        /// A directory in the image.
        omitempty "Subpath" subpath: String,
    }

    /// Options of a tmpfs mount.
    pub struct TmpfsOptions {
        /// Bytes, 0 for the kernel's default.
        omitempty "SizeBytes" size_bytes: i64,
        /// Mode bits.
        omitempty "Mode" mode: u32,
        /// One or two words each.
        omitempty "Options" options: Vec<Vec<String>>,
    }

    /// A mount as inspect and list show it.
    pub struct MountPoint {
        /// `bind`, `volume`, `tmpfs`, ...
        omitempty "Type" kind: String,
        /// Name of the volume.
        omitempty "Name" name: String,
        /// Path on the host.
        "Source" source: String,
        /// Path in the container.
        "Destination" destination: String,
        /// Driver of the volume.
        omitempty "Driver" driver: String,
        /// Options as they were given, such as `ro,z`.
        "Mode" mode: String,
        /// Writable.
        "RW" writable: bool,
        /// Propagation.
        "Propagation" propagation: String,
    }
}
