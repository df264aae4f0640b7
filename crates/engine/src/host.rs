//! What the host is and can do, looked at once.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use sampan_cgroups::{Controller, Hierarchies, Layout};

use crate::apparmor::AppArmor;

/// What the host is and can do.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) hierarchies: Hierarchies,
    /// Only the unified tree.
    pub(crate) unified: bool,
    /// Major and minor version of the kernel.
    pub(crate) kernel: (u32, u32),
    pub(crate) release: String,
    pub(crate) machine: String,
    pub(crate) name: String,
    pub(crate) time_namespaces: bool,
    pub(crate) apparmor: AppArmor,
    /// Capabilities that the engine can give.
    pub(crate) capabilities: Vec<&'static str>,
    /// Files that tell the temperature of a neighbour's work.
    pub(crate) thermal_files: Vec<String>,
}

/// A device node of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceNode {
    pub(crate) path: String,
    /// `c` or `b`.
    pub(crate) kind: &'static str,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Host {
    /// Looks at the host, for an engine with the directory `run`. Blocks for moments.
    pub(crate) fn look(run: &Path) -> crate::Result<Self> {
        let hierarchies = Hierarchies::detect()
            .map_err(|error| crate::Error::because("look for control groups", &error))?;
        let names = rustix::system::uname();
        let text = |name: &std::ffi::CStr| name.to_string_lossy().into_owned();
        let release = text(names.release());
        Ok(Self {
            unified: hierarchies.layout() == Layout::V2,
            hierarchies,
            kernel: kernel_version(&release),
            release,
            machine: text(names.machine()),
            name: text(names.nodename()),
            time_namespaces: Path::new("/proc/self/ns/time").exists(),
            apparmor: AppArmor::open(run),
            capabilities: crate::container::security::allowed(bounding_set()),
            thermal_files: thermal_files(),
        })
    }

    /// Returns the architecture as Go names it.
    pub(crate) fn architecture(&self) -> &str {
        match self.machine.as_str() {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    }

    pub(crate) fn supports(&self, controller: Controller) -> bool {
        self.hierarchies.supports(controller)
    }
}

fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The engine's bounding set; all where it is not told.
fn bounding_set() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or(u64::MAX)
}

fn thermal_files() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu") else {
        return Vec::new();
    };
    let mut files: Vec<String> = entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let digits = name.to_str().and_then(|name| name.strip_prefix("cpu"));
            digits.is_some_and(|digits| {
                !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
            })
        })
        .map(|entry| entry.path().join("thermal_throttle"))
        .filter(|path| path.exists())
        .filter_map(|path| path.into_os_string().into_string().ok())
        .collect();
    files.sort();
    files
}

/// Looks at one device node.
pub(crate) fn device_at(path: &Path) -> std::io::Result<Option<DeviceNode>> {
    let metadata = fs::metadata(path)?;
    let kind = metadata.file_type();
    let kind = if kind.is_char_device() {
        "c"
    } else if kind.is_block_device() {
        "b"
    } else {
        return Ok(None);
    };
    Ok(Some(DeviceNode {
        path: path.display().to_string(),
        kind,
        major: rustix::fs::major(metadata.rdev()),
        minor: rustix::fs::minor(metadata.rdev()),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    }))
}

/// Lists the device nodes below a directory, without those that a container has of its own.
pub(crate) fn devices_below(directory: &Path) -> Vec<DeviceNode> {
    const SKIPPED: [&str; 8] = [
        "pts",
        "shm",
        "fd",
        "mqueue",
        ".lxc",
        ".lxd-mounts",
        ".udev",
        "console",
    ];
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else {
        return found;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| SKIPPED.contains(&name)) {
            continue;
        }
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() {
            found.extend(devices_below(&entry.path()));
        } else if let Ok(Some(device)) = device_at(&entry.path())
            && !kind.is_symlink()
        {
            found.push(device);
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_are_read() {
        assert_eq!(kernel_version("6.18.5-foo"), (6, 18));
        assert_eq!(kernel_version("5.10.0-9-amd64"), (5, 10));
        assert_eq!(kernel_version("odd"), (0, 0));
    }

    #[test]
    fn null_is_a_device() {
        let null = device_at(Path::new("/dev/null")).unwrap().unwrap();
        assert_eq!((null.kind, null.major, null.minor), ("c", 1, 3));
        assert!(device_at(Path::new("/etc")).unwrap().is_none());
    }
}
