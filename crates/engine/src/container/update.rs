//! Changing the limits of a container, whether it runs or not.

use std::sync::Arc;

use sampan_oci::runtime::{BlockIoResources, LinuxResources};
use sampan_state::Sync;

use super::config::{HostConfig, Resources, RestartPolicy};
use super::lifecycle::Lifecycle;
use super::record::Record;
use super::registry::Container;
use super::service::Inner;
use super::{block, spec, validate};
use crate::{Action, Error, Result, blocking};

/// What changes. What is zero, empty or absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResourceChanges {
    /// Limits.
    pub resources: Resources,
    /// When the container is started again.
    pub restart_policy: Option<RestartPolicy>,
}

/// What came of an update.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Updated {
    /// What a person should know.
    pub warnings: Vec<String>,
}

impl Inner {
    /// Changes limits: first those of the running processes, so that nothing is noted that the
    /// kernel refuses. The operation lock is held.
    pub(crate) async fn update(
        self: &Arc<Self>,
        container: &Arc<Container>,
        changes: ResourceChanges,
    ) -> Result<Updated> {
        let record = container.record();
        if matches!(
            record.lifecycle,
            Lifecycle::Removing { .. } | Lifecycle::Dead { .. }
        ) {
            return Err(Error::conflict(
                "container is marked for removal and cannot be \"update\"",
            ));
        }
        let host = merged(&record.host, &changes)?;
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        validate::check_update(&host, cpus)?;
        let limits = LinuxResources {
            block_io: block_limits(&host.resources).await?,
            ..spec::limits(&host.resources)
        };
        if record.lifecycle.run().is_some() {
            let (inner, container) = (self.clone(), container.clone());
            let limits = limits.clone();
            blocking(move || {
                let mut group = inner.open_cgroup(&container)?;
                let set = group.update(&inner.host.hierarchies, &limits);
                set.map_err(|error| {
                    Error::because(format!("Cannot update container {}", container.id), &error)
                })
            })
            .await?;
        }
        let host = Arc::new(host);
        let stored = self
            .registry
            .update_async(container, Sync::Durable, move |record| {
                Some(Record {
                    host,
                    ..record.clone()
                })
            })
            .await?;
        let warning = self
            .hand_to_shim(container, stored.host.restart_policy, limits)
            .await?;
        self.tell(&stored, Action::Update, []);
        Ok(Updated {
            warnings: warning.into_iter().collect(),
        })
    }
}

/// The limits of block devices, whose numbers are looked up.
async fn block_limits(resources: &Resources) -> Result<Option<BlockIoResources>> {
    let resources = resources.clone();
    blocking(move || block::limits(&resources)).await
}

/// The configuration with what changes.
fn merged(host: &HostConfig, changes: &ResourceChanges) -> Result<HostConfig> {
    let mut merged = host.clone();
    if let Some(policy) = changes.restart_policy {
        if host.auto_remove && policy != RestartPolicy::No {
            return Err(Error::invalid(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        merged.restart_policy = policy;
    }
    let new = &changes.resources;
    let limits = &mut merged.resources;
    check_processor(limits, new)?;
    if new.memory_swap == 0 && limits.memory_swap > 0 && new.memory > limits.memory_swap {
        return Err(Error::invalid(
            "Memory limit should be smaller than already set memoryswap limit, update the \
             memoryswap at the same time",
        ));
    }
    let number = |old: &mut i64, new: i64| {
        if new != 0 {
            *old = new;
        }
    };
    let text = |old: &mut String, new: &str| {
        if !new.is_empty() {
            new.clone_into(old);
        }
    };
    number(&mut limits.cpu_shares, new.cpu_shares);
    number(&mut limits.cpu_period, new.cpu_period);
    number(&mut limits.cpu_quota, new.cpu_quota);
    number(&mut limits.nano_cpus, new.nano_cpus);
    number(&mut limits.cpu_realtime_period, new.cpu_realtime_period);
    number(&mut limits.cpu_realtime_runtime, new.cpu_realtime_runtime);
    number(&mut limits.memory, new.memory);
    number(&mut limits.memory_swap, new.memory_swap);
    number(&mut limits.memory_reservation, new.memory_reservation);
    text(&mut limits.cpuset_cpus, &new.cpuset_cpus);
    text(&mut limits.cpuset_mems, &new.cpuset_mems);
    if new.blkio_weight != 0 {
        limits.blkio_weight = new.blkio_weight;
    }
    for (old, new) in [
        (&mut limits.blkio_weight_device, &new.blkio_weight_device),
        (&mut limits.blkio_read_bps, &new.blkio_read_bps),
        (&mut limits.blkio_write_bps, &new.blkio_write_bps),
        (&mut limits.blkio_read_iops, &new.blkio_read_iops),
        (&mut limits.blkio_write_iops, &new.blkio_write_iops),
    ] {
        for limit in new {
            old.retain(|other| other.path != limit.path);
            old.push(limit.clone());
        }
    }
    if new.pids_limit.is_some_and(|limit| limit != 0) {
        limits.pids_limit = new.pids_limit;
    }
    Ok(merged)
}

/// A share of the processors is said in one way only.
fn check_processor(old: &Resources, new: &Resources) -> Result<()> {
    let conflict = |what: &str, with: &str| {
        Err(Error::invalid(format!(
            "Conflicting options: {what} cannot be updated as {with} has already been set"
        )))
    };
    if new.nano_cpus > 0 && old.cpu_period > 0 {
        return conflict("Nano CPUs", "CPU Period");
    }
    if new.nano_cpus > 0 && old.cpu_quota > 0 {
        return conflict("Nano CPUs", "CPU Quota");
    }
    if old.nano_cpus > 0 && new.cpu_period > 0 {
        return conflict("CPU Period", "NanoCPUs");
    }
    if old.nano_cpus > 0 && new.cpu_quota > 0 {
        return conflict("CPU Quota", "NanoCPUs");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::config::DeviceRate;

    fn with(change: impl FnOnce(&mut Resources)) -> ResourceChanges {
        let mut changes = ResourceChanges::default();
        change(&mut changes.resources);
        changes
    }

    fn rate(path: &str, rate: u64) -> DeviceRate {
        DeviceRate {
            path: path.into(),
            rate,
        }
    }

    #[test]
    fn what_is_not_named_stays() {
        let mut host = HostConfig::default();
        host.resources.memory = 64 << 20;
        host.resources.cpuset_cpus = "0".into();
        let changed = merged(&host, &with(|r| r.cpu_shares = 512)).unwrap();
        assert_eq!(changed.resources.memory, 64 << 20);
        assert_eq!(changed.resources.cpuset_cpus, "0");
        assert_eq!(changed.resources.cpu_shares, 512);
        host.resources.blkio_read_bps = vec![rate("/dev/a", 1), rate("/dev/b", 2)];
        let changed = merged(
            &host,
            &with(|r| {
                r.blkio_read_bps = vec![rate("/dev/b", 3)];
                r.cpu_realtime_runtime = 1000;
            }),
        );
        let changed = changed.unwrap().resources;
        assert_eq!(
            changed.blkio_read_bps,
            [rate("/dev/a", 1), rate("/dev/b", 3)]
        );
        assert_eq!(changed.cpu_realtime_runtime, 1000);
        let unlimited = merged(&host, &with(|r| r.pids_limit = Some(-1))).unwrap();
        assert_eq!(unlimited.resources.pids_limit, Some(-1));
    }

    #[test]
    fn conflicts_with_what_is_set_are_told_in_dockers_words() {
        let mut host = HostConfig::default();
        host.resources.memory_swap = 64 << 20;
        host.resources.nano_cpus = 500_000_000;
        let message = |changes| merged(&host, &changes).unwrap_err().message().to_owned();
        assert!(
            message(with(|r| r.memory = 65 << 20)).contains("update the memoryswap at the same")
        );
        assert_eq!(
            message(with(|r| r.cpu_quota = 5000)),
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set"
        );
        host.auto_remove = true;
        let policy = ResourceChanges {
            restart_policy: Some(RestartPolicy::Always),
            ..ResourceChanges::default()
        };
        assert!(merged(&host, &policy).is_err());
    }
}
