//! The root file system of a container that is being started: layers, mounts, devices.

use std::os::fd::OwnedFd;
use std::path::Path;

use sampan_layers::{Durability, InitEntry, LayerMount, Writable};
use sampan_oci::DiffId;
use sampan_oci::runtime::{BlockIoResources, Mount, NamespaceKind};

use crate::cdi::Injection;
use crate::container::block;
use crate::container::mount::{MountKind, MountPoint};
use crate::container::record::Record;
use crate::container::service::Inner;
use crate::container::spec::bind;
use crate::host::{DeviceNode, device_at, devices_below};
use crate::{Error, Result};

/// What every container has between its image and its changes, as Docker has it: what is mounted
/// over leaves no trace among the changes, and no link of an image leads a mount elsewhere.
pub(crate) const INIT_LAYER: [InitEntry; 8] = [
    InitEntry::File(".dockerenv"),
    InitEntry::Directory("dev"),
    InitEntry::Directory("proc"),
    InitEntry::Directory("sys"),
    InitEntry::File("etc/hostname"),
    InitEntry::File("etc/hosts"),
    InitEntry::File("etc/resolv.conf"),
    InitEntry::Symlink("etc/mtab", "/proc/mounts"),
];

pub(super) struct Root {
    pub(super) mount: OwnedFd,
    /// Kept until the shim holds the overlay.
    pub(super) _layers: Vec<LayerMount>,
    /// The init's executable, where the shim cannot make a copy of its own.
    pub(super) init: Option<OwnedFd>,
    pub(super) devices: Vec<(DeviceNode, String)>,
    pub(super) block_io: Option<BlockIoResources>,
    pub(super) mounts: Vec<Mount>,
    /// What else goes with devices.
    pub(super) injection: Injection,
    /// Of other containers.
    pub(super) namespaces: Vec<(NamespaceKind, OwnedFd)>,
}

impl Inner {
    pub(crate) fn mount_layers(&self, layers: &[DiffId]) -> Result<Vec<LayerMount>> {
        let store = self.images.store().layers();
        layers.iter().map(|layer| Ok(store.mount(layer)?)).collect()
    }

    /// Mounts what a container sees of its image and its changes, to be changed further.
    pub(crate) fn mount_changes(
        &self,
        record: &Record,
        layers: &[LayerMount],
        durability: Durability,
    ) -> Result<OwnedFd> {
        let directory = self.paths.container(&record.id);
        let writable = Writable {
            upper: directory.join("upper"),
            work: directory.join("work"),
        };
        let owners = self.mount_users(record.users.as_ref())?;
        let store = self.images.store().layers();
        store
            .init_layer(layers, &INIT_LAYER)
            .and_then(|init| {
                let owners = owners.as_ref().map(|owners| owners.owners());
                store.overlay_owned(layers, Some(&init), Some(&writable), durability, owners)
            })
            .map_err(|error| not_mounted(&directory, &error))
    }

    pub(super) fn prepare_root(&self, record: &Record, users: Option<OwnedFd>) -> Result<Root> {
        let layers = self.mount_layers(&record.layers)?;
        let durability = if record.is_fleeting() {
            Durability::Volatile
        } else {
            Durability::Durable
        };
        let mount = self.mount_changes(record, &layers, durability)?;
        let mut namespaces: Vec<_> = users
            .map(|users| (NamespaceKind::User, users))
            .into_iter()
            .collect();
        let shared = self.join(record, &mut namespaces)?;
        let mounts = record.mounts.iter().enumerate();
        let mounts = mounts.map(|(number, point)| self.carry_out(record, number, point));
        let mounts = mounts.chain(shared.map(Ok));
        let init = match record.host.init {
            Some(true) => self
                .images
                .store()
                .layers()
                .attached_program(self.executable.memory())
                .map_err(|error| Error::because("mount the init", &error))?,
            Some(false) | None => None,
        };
        let mut injection = self.cdi.injection(&record.host.resources.device_requests)?;
        if record.users.is_some() && injection.has_hooks() {
            return Err(Error::not_implemented(
                "CDI device injection failed: hooks of devices are not supported in a user namespace: use --userns host",
            ));
        }
        let mut devices = devices(record)?;
        devices.append(&mut injection.devices);
        let mut mounts: Vec<Mount> = mounts.collect::<Result<_>>()?;
        mounts.append(&mut injection.mounts);
        Ok(Root {
            mount,
            _layers: layers,
            init,
            mounts,
            devices,
            injection,
            block_io: block::limits(&record.host.resources)?,
            namespaces,
        })
    }

    /// Turns a mount into the runtime's form, making a missing source where that is allowed.
    fn carry_out(&self, record: &Record, number: usize, point: &MountPoint) -> Result<Mount> {
        let access = if point.writable { "rw" } else { "ro" };
        match point.kind {
            MountKind::Tmpfs => {
                let mut options = point.carry_out.tmpfs_options.clone();
                options.push(access.to_owned());
                Ok(Mount {
                    destination: point.destination.clone(),
                    kind: Some("tmpfs".to_owned()),
                    source: Some("tmpfs".into()),
                    options,
                    ..Mount::default()
                })
            }
            MountKind::Bind | MountKind::Volume | MountKind::Image => {
                let source = self.source_of(record, number, point)?;
                self.check_source(point, &source)?;
                let reach = if point.carry_out.non_recursive {
                    "bind"
                } else {
                    "rbind"
                };
                let propagation = point.propagation.unwrap_or_default().as_str();
                let mut options = vec![reach, access, propagation];
                if !point.writable && !point.carry_out.non_recursive {
                    // All that is mounted below it, too.
                    options.push("rro");
                }
                Ok(bind(source, &point.destination, &options))
            }
        }
    }

    fn check_source(&self, point: &MountPoint, source: &Path) -> Result<()> {
        match std::fs::metadata(source) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Error::invalid(format!(
                    "error while looking at mount source path '{}': {error}",
                    source.display()
                )));
            }
        }
        if point.kind == MountKind::Volume && !self.volumes.exists(&point.name) {
            return Err(Error::not_found(format!(
                "get {}: no such volume",
                point.name
            )));
        }
        if !point.carry_out.create_source {
            return Err(Error::invalid(format!(
                "invalid mount config for type \"bind\": bind source path does not exist: {}",
                source.display()
            )));
        }
        make_source(source).map_err(|error| {
            Error::internal(format!(
                "error while creating mount source path '{}': {error}",
                source.display()
            ))
        })
    }
}

/// Why a root file system could not be mounted.
fn not_mounted(directory: &Path, error: &sampan_layers::Error) -> Error {
    /// `OVERLAYFS_SUPER_MAGIC` (linux/magic.h).
    const OVERLAY: u64 = 0x794c_7630;
    let failed = Error::because("mount the root file system", error);
    #[allow(clippy::cast_lossless, clippy::unnecessary_cast, trivial_numeric_casts)]
    // differs between architectures
    let on_overlay = rustix::fs::statfs(directory)
        .is_ok_and(|status| status.f_type as u64 & 0xffff_ffff == OVERLAY);
    if on_overlay {
        return failed.with_hint(
            "the engine's root directory lies in a container's own files, which cannot carry another \
             container's: put it on a volume (-v /var/lib/sampan)",
        );
    }
    failed
}

/// Makes the missing source of a bind mount as a directory, as Docker does.
fn make_source(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
}

/// Looks at the devices that were asked for.
fn devices(record: &Record) -> Result<Vec<(DeviceNode, String)>> {
    let mut found = Vec::new();
    if record.host.privileged {
        let all = devices_below(Path::new("/dev"));
        found.extend(all.into_iter().map(|node| (node, "rwm".to_owned())));
    }
    for mapping in &record.host.resources.devices {
        let inside = match mapping.path_in_container.as_str() {
            "" => &mapping.path_on_host,
            path => path,
        };
        let access = match mapping.cgroup_permissions.as_str() {
            "" => "rwm",
            access => access,
        };
        if access.len() > 3 || !access.bytes().all(|b| matches!(b, b'r' | b'w' | b'm')) {
            return Err(Error::invalid(format!("invalid device mode: {access}")));
        }
        let gathering = |error: &dyn std::fmt::Display| {
            Error::invalid(format!(
                "error gathering device information while adding custom device {:?}: {error}",
                mapping.path_on_host
            ))
        };
        let path = Path::new(&mapping.path_on_host);
        let nodes = match device_at(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => gathering(&"no such file or directory"),
            _ => gathering(&error),
        })? {
            Some(node) => vec![node],
            None if path.is_dir() => devices_below(path),
            None => Vec::new(),
        };
        if nodes.is_empty() {
            return Err(gathering(&"not a device node"));
        }
        for mut node in nodes {
            if let Some(rest) = node.path.strip_prefix(mapping.path_on_host.as_str()) {
                node.path = format!("{}{rest}", inside.trim_end_matches('/'));
            }
            found.push((node, access.to_owned()));
        }
    }
    Ok(found)
}
