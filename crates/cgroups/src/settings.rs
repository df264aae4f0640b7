//! From resource limits to control files: pure tables of what is written
//! where (Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst).

mod devices;

use sampan_oci::runtime::LinuxResources;

use crate::{Controller, Error};

/// One write of a control file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Setting {
    pub(crate) controller: Controller,
    pub(crate) file: String,
    pub(crate) value: String,
    /// A file that some kernels do not have, and whose absence changes
    /// nothing that the user asked for by name.
    pub(crate) optional: bool,
    /// Another file and value that say the same where there is no such file.
    pub(crate) otherwise: Option<(String, String)>,
}

impl Setting {
    fn new(controller: Controller, file: &str, value: impl ToString) -> Self {
        Self {
            controller,
            file: file.to_owned(),
            value: value.to_string(),
            optional: false,
            otherwise: None,
        }
    }

    fn or(self, file: &str, value: impl ToString) -> Self {
        Self {
            otherwise: Some((file.to_owned(), value.to_string())),
            ..self
        }
    }

    fn optional(self) -> Self {
        Self {
            optional: true,
            ..self
        }
    }
}

/// The version of the hierarchy that a controller lies in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// The controllers that a container with these limits joins on v1.
pub(crate) fn controllers(resources: &LinuxResources) -> Vec<Controller> {
    let mut needed = vec![
        Controller::Devices,
        Controller::Memory,
        Controller::Pids,
        Controller::CpuAccounting,
    ];
    for setting in settings(resources, Version::V1).unwrap_or_default() {
        if !needed.contains(&setting.controller) {
            needed.push(setting.controller);
        }
    }
    needed
}

/// The writes that bring `resources` about, in order.
///
/// # Errors
/// [`Error::InvalidLimit`] for limits that contradict themselves or that
/// cannot be set yet.
pub(crate) fn settings(
    resources: &LinuxResources,
    version: Version,
) -> Result<Vec<Setting>, Error> {
    let mut out = Vec::new();
    memory(resources, version, &mut out)?;
    cpu(resources, version, &mut out)?;
    if let Some(limit) = resources.pids.as_ref().and_then(|pids| pids.limit) {
        out.push(Setting::new(
            Controller::Pids,
            "pids.max",
            limit_or_max(limit),
        ));
    }
    if let Some(block_io) = &resources.block_io {
        devices::block_io(block_io, version, &mut out);
    }
    devices::huge_pages(&resources.hugepage_limits, version, &mut out)?;
    devices::rdma(&resources.rdma, &mut out);
    if let Some(network) = &resources.network {
        devices::network(network, version, &mut out)?;
    }
    if version == Version::V1 && !resources.unified.is_empty() {
        return Err(Error::InvalidLimit(
            "invalid configuration: cannot use unified on cgroup v1".into(),
        ));
    }
    for (file, value) in &resources.unified {
        out.push(unified(file, value)?);
    }
    Ok(out)
}

fn memory(
    resources: &LinuxResources,
    version: Version,
    out: &mut Vec<Setting>,
) -> Result<(), Error> {
    let Some(memory) = &resources.memory else {
        return Ok(());
    };
    if let (Some(limit), Some(swap)) = (memory.limit, memory.swap)
        && swap > 0
        && limit > 0
        && swap < limit
    {
        return Err(Error::InvalidLimit(
            "the limit of memory and swap together is below the memory limit".into(),
        ));
    }
    match version {
        Version::V1 => {
            if let Some(limit) = memory.limit {
                out.push(Setting::new(
                    Controller::Memory,
                    "memory.limit_in_bytes",
                    limit,
                ));
            }
            if let Some(swap) = memory.swap {
                out.push(
                    Setting::new(Controller::Memory, "memory.memsw.limit_in_bytes", swap)
                        .optional(),
                );
            }
            if let Some(reservation) = memory.reservation {
                out.push(Setting::new(
                    Controller::Memory,
                    "memory.soft_limit_in_bytes",
                    reservation,
                ));
            }
            if let Some(swappiness) = memory.swappiness {
                out.push(Setting::new(
                    Controller::Memory,
                    "memory.swappiness",
                    swappiness,
                ));
            }
            if let Some(limit) = memory.kernel_tcp.filter(|limit| *limit != 0) {
                let file = "memory.kmem.tcp.limit_in_bytes";
                out.push(Setting::new(Controller::Memory, file, limit));
            }
            if memory.disable_oom_killer == Some(true) {
                out.push(Setting::new(Controller::Memory, "memory.oom_control", 1));
            }
        }
        Version::V2 => {
            if let Some(limit) = memory.limit {
                out.push(Setting::new(
                    Controller::Memory,
                    "memory.max",
                    limit_or_max(limit),
                ));
            }
            if let Some(swap) = memory.swap {
                let limit = memory.limit.filter(|limit| *limit > 0).unwrap_or(0);
                let value = if swap < 0 { -1 } else { swap - limit };
                let value = if value == 0 {
                    "0".into()
                } else {
                    limit_or_max(value)
                };
                out.push(Setting::new(Controller::Memory, "memory.swap.max", value).optional());
            }
            if let Some(reservation) = memory.reservation {
                out.push(Setting::new(
                    Controller::Memory,
                    "memory.low",
                    limit_or_max(reservation),
                ));
            }
        }
    }
    Ok(())
}

fn cpu(resources: &LinuxResources, version: Version, out: &mut Vec<Setting>) -> Result<(), Error> {
    let Some(cpu) = &resources.cpu else {
        return Ok(());
    };
    let shares = cpu.shares.filter(|shares| *shares > 0);
    let period = cpu.period.filter(|period| *period > 0);
    let quota = cpu.quota.filter(|quota| *quota != 0);
    match version {
        Version::V1 => {
            if let Some(shares) = shares {
                out.push(Setting::new(Controller::Cpu, "cpu.shares", shares));
            }
            if let Some(period) = period {
                out.push(Setting::new(Controller::Cpu, "cpu.cfs_period_us", period));
            }
            if let Some(quota) = quota {
                out.push(Setting::new(Controller::Cpu, "cpu.cfs_quota_us", quota));
            }
            if let Some(burst) = cpu.burst {
                out.push(Setting::new(Controller::Cpu, "cpu.cfs_burst_us", burst));
            }
            if let Some(period) = cpu.realtime_period.filter(|period| *period > 0) {
                out.push(Setting::new(Controller::Cpu, "cpu.rt_period_us", period));
            }
            if let Some(runtime) = cpu.realtime_runtime.filter(|runtime| *runtime != 0) {
                out.push(Setting::new(Controller::Cpu, "cpu.rt_runtime_us", runtime));
            }
        }
        Version::V2 => {
            if let Some(shares) = shares {
                out.push(Setting::new(Controller::Cpu, "cpu.weight", weight(shares)));
            }
            if quota.is_some() || period.is_some() {
                let quota = quota.map_or("max".into(), limit_or_max);
                let period = period.unwrap_or(100_000);
                out.push(Setting::new(
                    Controller::Cpu,
                    "cpu.max",
                    format!("{quota} {period}"),
                ));
            }
            if let Some(burst) = cpu.burst {
                out.push(Setting::new(Controller::Cpu, "cpu.max.burst", burst));
            }
            let real_time = (cpu.realtime_period, cpu.realtime_runtime);
            if real_time.0.unwrap_or(0) != 0 || real_time.1.unwrap_or(0) != 0 {
                return Err(Error::InvalidLimit(
                    "limits of real-time CPU use are for cgroup v1 only".into(),
                ));
            }
        }
    }
    if let Some(idle) = cpu.idle {
        out.push(Setting::new(Controller::Cpu, "cpu.idle", idle));
    }
    for (file, value) in [("cpuset.cpus", &cpu.cpus), ("cpuset.mems", &cpu.mems)] {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            out.push(Setting::new(Controller::CpuSet, file, value));
        }
    }
    Ok(())
}

/// The v2 weight (1 to 10000) for v1 shares (2 to 262144), as the runtime
/// specification converts them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// A number, or `max` for what v1 and Docker write as a negative one.
fn limit_or_max(limit: i64) -> String {
    if limit <= 0 {
        "max".to_owned()
    } else {
        limit.to_string()
    }
}

/// A v2 file that the specification names itself.
fn unified(file: &str, value: &str) -> Result<Setting, Error> {
    let controller = Controller::ALL
        .into_iter()
        .find(|c| file.split('.').next() == Some(c.to_string().as_str()))
        .or_else(|| file.starts_with("io.").then_some(Controller::Io));
    match controller {
        Some(controller) if !file.contains('/') => Ok(Setting::new(controller, file, value)),
        _ => Err(Error::InvalidLimit(format!(
            "{file:?} is not a file of a cgroup v2 controller"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use sampan_oci::runtime::{CpuResources, MemoryResources, PidsResources};

    use super::*;

    fn limits() -> LinuxResources {
        LinuxResources {
            memory: Some(MemoryResources {
                limit: Some(64 << 20),
                swap: Some(96 << 20),
                ..MemoryResources::default()
            }),
            cpu: Some(CpuResources {
                shares: Some(1024),
                quota: Some(50_000),
                period: Some(100_000),
                cpus: Some("0".into()),
                ..CpuResources::default()
            }),
            pids: Some(PidsResources { limit: Some(-1) }),
            ..LinuxResources::default()
        }
    }

    fn written(version: Version) -> Vec<String> {
        let settings = settings(&limits(), version).unwrap();
        settings
            .into_iter()
            .map(|s| format!("{}={}", s.file, s.value))
            .collect()
    }

    #[test]
    fn v1_and_v2_get_the_same_limits_in_their_own_words() {
        assert_eq!(
            written(Version::V1),
            [
                "memory.limit_in_bytes=67108864",
                "memory.memsw.limit_in_bytes=100663296",
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "cpuset.cpus=0",
                "pids.max=max",
            ]
        );
        assert_eq!(
            written(Version::V2),
            [
                "memory.max=67108864",
                "memory.swap.max=33554432",
                "cpu.weight=39",
                "cpu.max=50000 100000",
                "cpuset.cpus=0",
                "pids.max=max",
            ]
        );
    }

    #[test]
    fn only_hierarchies_with_a_purpose_are_joined() {
        let none = controllers(&LinuxResources::default());
        assert!(!none.contains(&Controller::Cpu) && !none.contains(&Controller::CpuSet));
        let some = controllers(&limits());
        assert!(some.contains(&Controller::Cpu) && some.contains(&Controller::CpuSet));
    }

    #[test]
    fn swap_below_memory_is_refused() {
        let mut resources = limits();
        resources.memory.as_mut().unwrap().swap = Some(1 << 20);
        assert!(settings(&resources, Version::V1).is_err());
    }

    #[test]
    fn weights_span_the_whole_range() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }
}
