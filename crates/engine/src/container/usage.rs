//! What a container uses.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sampan_cgroups::{Cgroup, Statistics};

use super::config::NetworkMode;
use super::id::ContainerId;
use super::record::Record;
use super::registry::Container;
use super::service::Inner;
use crate::Result;

/// A tick of `/proc/stat` (`USER_HZ`, fixed by the kernel's interface), in nanoseconds.
const TICK: u64 = 10_000_000;

/// What a container used when it was looked at.
#[derive(Debug, Clone)]
pub struct Usage {
    /// The container.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// Absent when it does not run.
    pub sample: Option<Sample>,
}

/// One reading of the counters of a running container.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When they were read.
    pub at: Timestamp,
    /// Counters of the control group.
    pub group: Statistics,
    /// Whether they are those of control groups of version 2.
    pub unified: bool,
    /// CPU time that all processors of the host have spent in anything, idle included, in
    /// nanoseconds.
    pub system: u64,
    /// Processors of the host that are online.
    pub processors: u32,
    /// Memory of the host in bytes.
    pub host_memory: u64,
    /// Interfaces by name; absent where the container has the host's.
    pub interfaces: Option<BTreeMap<String, Traffic>>,
}

/// What went through an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// What came in.
    pub received: Counters,
    /// What went out.
    pub sent: Counters,
}

/// One direction of an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were damaged.
    pub errors: u64,
    /// Packets that found no room.
    pub dropped: u64,
}

impl Inner {
    /// Reads the counters of a container. Blocks for moments.
    pub(crate) fn usage(&self, container: &Container) -> Usage {
        let record = container.record();
        Usage {
            id: container.id.clone(),
            name: record.name.to_string(),
            // A group that is going away is that of a container that has ended.
            sample: self.sample(container, &record).ok().flatten(),
        }
    }

    fn sample(&self, container: &Container, record: &Record) -> Result<Option<Sample>> {
        let Some(run) = record.lifecycle.run() else {
            return Ok(None);
        };
        let group = self.open_cgroup(container)?.statistics();
        let (system, processors) =
            processor_time(&std::fs::read_to_string("/proc/stat").unwrap_or_default());
        let private = match record.host.network_mode {
            NetworkMode::Host | NetworkMode::None => false,
            NetworkMode::Default
            | NetworkMode::Bridge
            | NetworkMode::Container(_)
            | NetworkMode::Network(_) => true,
        };
        let interfaces = private.then(|| {
            // The kernel shows each process the interfaces of its own namespace.
            let table = std::fs::read_to_string(format!("/proc/{}/net/dev", run.pid));
            traffic(&table.unwrap_or_default())
        });
        Ok(Some(Sample {
            at: Timestamp::now(),
            group,
            unified: self.host.unified,
            system,
            processors,
            host_memory: crate::system::memory_total(),
            interfaces,
        }))
    }

    /// Opens the control group of a container that runs.
    pub(crate) fn open_cgroup(&self, container: &Container) -> Result<Cgroup> {
        let failed =
            |error: sampan_cgroups::Error| crate::Error::because("open the control group", &error);
        let groups = self.control_groups(&container.record());
        let path = groups.container().parse().map_err(failed)?;
        Cgroup::open(&self.host.hierarchies, &path).map_err(failed)
    }
}

/// Reads `/proc/stat`: time of all processors in nanoseconds, and how many there are.
fn processor_time(text: &str) -> (u64, u32) {
    let mut total = 0;
    let mut processors = 0;
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            // User, nice, system, idle, iowait, irq and softirq, as Docker adds up.
            Some("cpu") => {
                total = words
                    .take(7)
                    .filter_map(|word| word.parse::<u64>().ok())
                    .sum();
            }
            Some(name) if name.starts_with("cpu") => processors += 1,
            _ => {}
        }
    }
    (total.saturating_mul(TICK), processors)
}

/// Reads `/proc/net/dev`, without the loopback.
fn traffic(table: &str) -> BTreeMap<String, Traffic> {
    let lines = table.lines().filter_map(|line| {
        let (name, counts) = line.split_once(':')?;
        let counts: Vec<u64> = counts
            .split_ascii_whitespace()
            .map_while(|number| number.parse().ok())
            .collect();
        let side = |at: usize| {
            Some(Counters {
                bytes: *counts.get(at)?,
                packets: *counts.get(at + 1)?,
                errors: *counts.get(at + 2)?,
                dropped: *counts.get(at + 3)?,
            })
        };
        let traffic = Traffic {
            received: side(0)?,
            sent: side(8)?,
        };
        Some((name.trim().to_owned(), traffic))
    });
    lines.filter(|(name, _)| name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_the_kernel_are_read() {
        let (time, processors) =
            processor_time("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 1 1 1\ncpu1 1 1 1 1\nintr 5\n");
        assert_eq!((time, processors), (28 * TICK, 2));
        let table = "Inter-|   Receive\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n";
        let traffic = traffic(table);
        assert_eq!(traffic.len(), 1);
        let eth0 = traffic["eth0"];
        assert_eq!((eth0.received.bytes, eth0.received.dropped), (10, 4));
        assert_eq!((eth0.sent.bytes, eth0.sent.packets), (50, 6));
    }
}
