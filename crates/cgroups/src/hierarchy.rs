use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

/// A cgroup controller that the engine makes use of.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Controller {
    /// CPU time: shares and quota.
    Cpu,
    /// CPU time accounting (v1 only; part of `cpu` on v2).
    CpuAccounting,
    /// Processors and memory nodes.
    CpuSet,
    /// Memory and swap.
    Memory,
    /// Number of processes.
    Pids,
    /// Device access (v1 only; an eBPF program on v2).
    Devices,
    /// Block input and output (`blkio` on v1).
    Io,
    /// Stop and continue (v1 only; built in on v2).
    Freezer,
    /// Huge pages.
    HugePages,
    /// Remote direct memory access.
    Rdma,
    /// Class of network packets (v1 only).
    NetworkClass,
    /// Priority of network packets by interface (v1 only).
    NetworkPriority,
}

impl Controller {
    /// The controller's name in a v1 mount.
    fn v1_name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::CpuAccounting => "cpuacct",
            Self::CpuSet => "cpuset",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Devices => "devices",
            Self::Io => "blkio",
            Self::Freezer => "freezer",
            Self::HugePages => "hugetlb",
            Self::Rdma => "rdma",
            Self::NetworkClass => "net_cls",
            Self::NetworkPriority => "net_prio",
        }
    }

    /// The controller's name in `cgroup.controllers`, `None` where v2 has the
    /// function without a controller.
    fn v2_name(self) -> Option<&'static str> {
        match self {
            Self::Cpu => Some("cpu"),
            Self::CpuSet => Some("cpuset"),
            Self::Memory => Some("memory"),
            Self::Pids => Some("pids"),
            Self::Io => Some("io"),
            Self::HugePages => Some("hugetlb"),
            Self::Rdma => Some("rdma"),
            Self::CpuAccounting
            | Self::Devices
            | Self::Freezer
            | Self::NetworkClass
            | Self::NetworkPriority => None,
        }
    }

    pub(crate) const ALL: [Self; 12] = [
        Self::Cpu,
        Self::CpuAccounting,
        Self::CpuSet,
        Self::Memory,
        Self::Pids,
        Self::Devices,
        Self::Io,
        Self::Freezer,
        Self::HugePages,
        Self::Rdma,
        Self::NetworkClass,
        Self::NetworkPriority,
    ];
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.v1_name())
    }
}

/// One mounted cgroup hierarchy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Its name in a container's `/sys/fs/cgroup`: the mount point's last
    /// part, `memory` or `cpu,cpuacct` or `systemd`.
    pub name: String,
    /// What it controls; empty for a named hierarchy and for a v2 tree
    /// without controllers.
    pub controllers: Vec<Controller>,
    /// Whether it is the v2 tree.
    pub unified: bool,
}

/// The kind of set-up of a host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Layout {
    /// Only v1 hierarchies.
    V1,
    /// v1 hierarchies with the controllers and a v2 tree beside them.
    Hybrid,
    /// One v2 tree.
    V2,
}

/// The cgroup hierarchies of this host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hierarchies {
    hierarchies: Vec<Hierarchy>,
}

impl Hierarchies {
    /// Reads which hierarchies are mounted in the caller's mount namespace.
    ///
    /// # Errors
    /// [`Error::NoHierarchy`] when none is, [`Error::Detect`] when `/proc`
    /// cannot be read.
    pub fn detect() -> Result<Self, Error> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(Error::Detect)?;
        let mut found = Self::parse(&mounts);
        for hierarchy in &mut found.hierarchies {
            if hierarchy.unified {
                let path = hierarchy.mount_point.join("cgroup.controllers");
                let names = fs::read_to_string(path).map_err(Error::Detect)?;
                hierarchy.controllers = v2_controllers(&names);
            }
        }
        if found.layout() == Layout::Hybrid {
            // There limits are written in v1's words, which the v2 tree does not take.
            for hierarchy in found.hierarchies.iter_mut().filter(|h| h.unified) {
                let foreign = [Controller::HugePages, Controller::Rdma];
                hierarchy.controllers.retain(|c| !foreign.contains(c));
            }
        }
        if found.hierarchies.is_empty() {
            return Err(Error::NoHierarchy);
        }
        Ok(found)
    }

    /// Takes the cgroup mounts out of a `mountinfo` table (proc(5)). Of
    /// several mounts of one hierarchy the first counts.
    fn parse(mountinfo: &str) -> Self {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let mut right = right.split(' ');
            let kind = right.next().unwrap_or_default();
            let options = right.nth(1).unwrap_or_default();
            let unified = match kind {
                "cgroup" => false,
                "cgroup2" => true,
                _ => continue,
            };
            let Some(mount_point) = left.split(' ').nth(4) else {
                continue;
            };
            let mount_point = PathBuf::from(unescape(mount_point));
            let controllers: Vec<Controller> = Controller::ALL
                .into_iter()
                .filter(|c| !unified && options.split(',').any(|o| o == c.v1_name()))
                .collect();
            let known = hierarchies.iter().any(|known| {
                known.unified == unified
                    && (unified || (!controllers.is_empty() && known.controllers == controllers))
            });
            if known {
                continue;
            }
            let name = mount_point
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            hierarchies.push(Hierarchy {
                mount_point,
                name,
                controllers,
                unified,
            });
        }
        Self { hierarchies }
    }

    /// The kind of set-up.
    #[must_use]
    pub fn layout(&self) -> Layout {
        let unified = self.unified();
        match unified {
            None => Layout::V1,
            Some(_)
                if self
                    .hierarchies
                    .iter()
                    .any(|h| !h.controllers.is_empty() && !h.unified) =>
            {
                Layout::Hybrid
            }
            Some(_) => Layout::V2,
        }
    }

    /// All hierarchies, in the order of the mount table.
    #[must_use]
    pub fn all(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    /// The v2 tree, if there is one.
    #[must_use]
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|h| h.unified)
    }

    /// The hierarchy that has `controller`, if any.
    #[must_use]
    pub fn with(&self, controller: Controller) -> Option<&Hierarchy> {
        self.hierarchies
            .iter()
            .find(|h| h.controllers.contains(&controller))
    }

    /// Whether limits of `controller` can be set here, be it by a controller
    /// or, on v2, by what is built in.
    #[must_use]
    pub fn supports(&self, controller: Controller) -> bool {
        use Controller::{CpuAccounting, Devices, Freezer};
        self.with(controller).is_some()
            || (matches!(controller, CpuAccounting | Devices | Freezer)
                && self.layout() == Layout::V2)
    }
}

/// The v2 controllers named in `cgroup.controllers`.
fn v2_controllers(names: &str) -> Vec<Controller> {
    Controller::ALL
        .into_iter()
        .filter(|c| {
            c.v2_name()
                .is_some_and(|name| names.split_whitespace().any(|n| n == name))
        })
        .collect()
}

/// The words of `cgroup.subtree_control` that hand `controllers` down.
pub(crate) fn subtree_control(controllers: &[Controller]) -> String {
    let names: Vec<String> = controllers
        .iter()
        .filter_map(|c| c.v2_name())
        .map(|name| format!("+{name}"))
        .collect();
    names.join(" ")
}

/// Undoes the octal escapes of mountinfo (`\040` for a blank).
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3)).flatten();
        let value = octal
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(value) = value {
            bytes.push(value);
            rest = &tail[3..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Hierarchy {
    /// The directory of `path` in this hierarchy.
    pub(crate) fn directory(&self, path: &str) -> PathBuf {
        let mount: &Path = &self.mount_point;
        mount.join(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 1 0:22 / /sys rw - sysfs sysfs rw
30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
35 30 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
99 30 0:31 / /mnt/again rw - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_host_is_told_from_its_mounts() {
        let found = Hierarchies::parse(HYBRID);
        assert_eq!(found.layout(), Layout::Hybrid);
        assert_eq!(found.all().len(), 4);
        let cpu = found.with(Controller::CpuAccounting).unwrap();
        assert_eq!(cpu.name, "cpu,cpuacct");
        assert!(found.with(Controller::Cpu).is_some());
        assert!(!found.supports(Controller::Pids));
        assert_eq!(
            found.unified().unwrap().mount_point,
            Path::new("/sys/fs/cgroup/unified")
        );
    }

    #[test]
    fn a_v2_host_offers_device_rules_without_a_controller() {
        let mut found = Hierarchies::parse("31 25 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        found.hierarchies[0].controllers = v2_controllers("cpuset cpu io memory hugetlb pids\n");
        assert_eq!(found.layout(), Layout::V2);
        assert!(found.supports(Controller::Devices));
        assert!(found.supports(Controller::Io));
        assert_eq!(
            subtree_control(&found.hierarchies[0].controllers),
            "+cpu +cpuset +memory +pids +io +hugetlb"
        );
    }

    #[test]
    fn mount_points_with_blanks_are_unescaped() {
        assert_eq!(unescape(r"/a\040b\134c\"), r"/a b\c\");
    }
}
