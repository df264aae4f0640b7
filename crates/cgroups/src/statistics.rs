//! What a control group has used.

use std::collections::BTreeMap;

use crate::cgroup::Directory;
use crate::{Cgroup, Controller};

/// Ticks of a second in which v1 counts user and kernel time (`USER_HZ`, fixed by the kernel's
/// interface).
const NANOSECONDS_OF_TICK: u64 = 10_000_000;

/// What a control group has used. What the host does not count is zero or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statistics {
    /// CPU time.
    pub cpu: CpuStatistics,
    /// Memory; absent where the cgroup has no such controller.
    pub memory: Option<MemoryStatistics>,
    /// Number of processes and threads.
    pub pids: u64,
    /// Highest number of them; absent for no limit.
    pub pids_limit: Option<u64>,
    /// Bytes read from and written to devices.
    pub io_bytes: Vec<IoCount>,
    /// The same in operations.
    pub io_operations: Vec<IoCount>,
}

/// CPU time, in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStatistics {
    /// All of it.
    pub total: u64,
    /// In programs.
    pub user: u64,
    /// In the kernel.
    pub kernel: u64,
    /// By processor; empty where that is not counted (v2).
    pub of_each: Vec<u64>,
    /// Periods of the quota that have passed.
    pub periods: u64,
    /// Those in which the quota was used up.
    pub throttled_periods: u64,
    /// How long processes had to wait for the next one.
    pub throttled: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStatistics {
    /// In use, page cache included.
    pub usage: u64,
    /// The most that has ever been in use; absent where that is not told.
    pub peak: Option<u64>,
    /// The limit; absent for none.
    pub limit: Option<u64>,
    /// How often the limit was hit.
    pub failures: u64,
    /// `memory.stat` as the kernel names its parts.
    pub parts: BTreeMap<String, u64>,
}

/// What was moved from or to one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoCount {
    /// Major number of the device.
    pub major: u32,
    /// Minor number of the device.
    pub minor: u32,
    /// `read` or `write`; on v1 as the kernel writes it, such as `Read` or `Total`.
    pub operation: String,
    /// Bytes or operations.
    pub value: u64,
}

impl Cgroup {
    /// Reads what the cgroup and those below it have used. What cannot be read is taken for zero:
    /// the cgroup may be going away.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let (io_bytes, io_operations) = self.io();
        let pids = self.with(Controller::Pids);
        let number = |file: &str| pids.and_then(|pids| number(pids, file));
        Statistics {
            cpu: self.cpu(),
            memory: self.with(Controller::Memory).map(memory),
            pids: number("pids.current").unwrap_or(0),
            pids_limit: number("pids.max"),
            io_bytes,
            io_operations,
        }
    }

    fn cpu(&self) -> CpuStatistics {
        // The v2 tree counts time without any controller.
        let v2 = self
            .with(Controller::Cpu)
            .filter(|cpu| cpu.hierarchy.unified);
        let accounting = self.with(Controller::CpuAccounting);
        if let (None, Some(accounting)) = (v2, accounting) {
            return self.cpu_v1(accounting);
        }
        let Some(tree) = v2.or(self.unified()) else {
            return CpuStatistics::default();
        };
        let counts = pairs(tree, "cpu.stat");
        let nanoseconds = |key: &str| counts.get(key).copied().unwrap_or(0).saturating_mul(1000);
        let count = |key: &str| counts.get(key).copied().unwrap_or(0);
        CpuStatistics {
            total: nanoseconds("usage_usec"),
            user: nanoseconds("user_usec"),
            kernel: nanoseconds("system_usec"),
            of_each: Vec::new(),
            periods: count("nr_periods"),
            throttled_periods: count("nr_throttled"),
            throttled: nanoseconds("throttled_usec"),
        }
    }

    fn cpu_v1(&self, accounting: &Directory) -> CpuStatistics {
        let ticks = pairs(accounting, "cpuacct.stat");
        let time = |key: &str| {
            let ticks = ticks.get(key).copied().unwrap_or(0);
            ticks.saturating_mul(NANOSECONDS_OF_TICK)
        };
        let of_each = accounting.read("cpuacct.usage_percpu").unwrap_or_default();
        let quota = self.with(Controller::Cpu).map(|cpu| pairs(cpu, "cpu.stat"));
        let count = |key: &str| {
            let found = quota.as_ref().and_then(|quota| quota.get(key));
            found.copied().unwrap_or(0)
        };
        CpuStatistics {
            total: number(accounting, "cpuacct.usage").unwrap_or(0),
            user: time("user"),
            kernel: time("system"),
            of_each: of_each
                .split_ascii_whitespace()
                .filter_map(|number| number.parse().ok())
                .collect(),
            periods: count("nr_periods"),
            throttled_periods: count("nr_throttled"),
            throttled: count("throttled_time"),
        }
    }

    fn io(&self) -> (Vec<IoCount>, Vec<IoCount>) {
        let Some(io) = self.with(Controller::Io) else {
            return (Vec::new(), Vec::new());
        };
        if io.hierarchy.unified {
            return io_v2(&io.read("io.stat").unwrap_or_default());
        }
        let file = |name: &str| io_v1(&io.read(name).unwrap_or_default());
        (
            file("blkio.throttle.io_service_bytes_recursive"),
            file("blkio.throttle.io_serviced_recursive"),
        )
    }
}

fn memory(memory: &Directory) -> MemoryStatistics {
    let parts = pairs(memory, "memory.stat");
    if memory.hierarchy.unified {
        let events = pairs(memory, "memory.events");
        return MemoryStatistics {
            usage: number(memory, "memory.current").unwrap_or(0),
            peak: None,
            limit: number(memory, "memory.max"),
            failures: events.get("oom").copied().unwrap_or(0),
            parts,
        };
    }
    MemoryStatistics {
        usage: number(memory, "memory.usage_in_bytes").unwrap_or(0),
        peak: number(memory, "memory.max_usage_in_bytes"),
        limit: number(memory, "memory.limit_in_bytes"),
        failures: number(memory, "memory.failcnt").unwrap_or(0),
        parts,
    }
}

/// A file of one number; none for `max` and for what cannot be read.
fn number(directory: &Directory, file: &str) -> Option<u64> {
    directory.read(file).ok()?.trim().parse().ok()
}

/// A file of lines `key number`.
fn pairs(directory: &Directory, file: &str) -> BTreeMap<String, u64> {
    let text = directory.read(file).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .filter_map(|(key, number)| Some((key.to_owned(), number.trim().parse().ok()?)))
        .collect()
}

/// Reads `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn io_v2(text: &str) -> (Vec<IoCount>, Vec<IoCount>) {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(device) else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, operation) = match key {
                "rbytes" => (&mut bytes, "read"),
                "wbytes" => (&mut bytes, "write"),
                "rios" => (&mut operations, "read"),
                "wios" => (&mut operations, "write"),
                _ => continue,
            };
            let Ok(value) = value.parse() else { continue };
            list.push(IoCount {
                major,
                minor,
                operation: operation.to_owned(),
                value,
            });
        }
    }
    (bytes, operations)
}

/// Reads lines `8:0 Read 4096`; the sum at the end has no device.
fn io_v1(text: &str) -> Vec<IoCount> {
    let count = |line: &str| {
        let mut words = line.split(' ');
        let (major, minor) = device(words.next()?)?;
        Some(IoCount {
            major,
            minor,
            operation: words.next()?.to_owned(),
            value: words.next()?.parse().ok()?,
        })
    };
    text.lines().filter_map(count).collect()
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_is_read_in_both_forms() {
        let (bytes, operations) = io_v2("8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0\n7:1 \n");
        let shown = |counts: &[IoCount]| -> Vec<String> {
            let show = |c: &IoCount| format!("{}:{} {} {}", c.major, c.minor, c.operation, c.value);
            counts.iter().map(show).collect()
        };
        assert_eq!(shown(&bytes), ["8:0 read 10", "8:0 write 20"]);
        assert_eq!(shown(&operations), ["8:0 read 1", "8:0 write 2"]);
        let v1 = io_v1("8:0 Read 4096\n8:0 Total 4096\nTotal 4096\n");
        assert_eq!(shown(&v1), ["8:0 Read 4096", "8:0 Total 4096"]);
    }
}
