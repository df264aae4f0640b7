//! `events`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sampan_cgroups::{Cgroup, IoCount, Statistics};
use sampan_oci::runtime::Status;
use serde_json::{Value, json};

use super::print;
use crate::container::Container;

pub(crate) fn events(root: &Path, id: &str, once: bool, interval: u64) -> Result<()> {
    ensure!(interval > 0, "duration interval must be greater than 0");
    let mut killed = None;
    loop {
        let container = match Container::open(root, id) {
            // It was deleted while it was watched.
            Err(_) if killed.is_some() => return Ok(()),
            other => other?,
        };
        match container.status()? {
            Status::Stopped | Status::Creating if killed.is_some() => return Ok(()),
            Status::Stopped | Status::Creating => {
                anyhow::bail!("container with id {id} is not running")
            }
            Status::Created | Status::Running | Status::Paused => {}
        }
        let cgroup = container
            .open_cgroup()?
            .context("the container has no cgroup")?;
        let count = cgroup.oom_kill_count();
        if killed.is_some_and(|before| before < count) {
            line(id, "oom", None)?;
        }
        killed = Some(count);
        line(id, "stats", Some(data(&cgroup)))?;
        if once {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(interval));
    }
}

fn line(id: &str, kind: &str, data: Option<Value>) -> Result<()> {
    let mut line = json!({"type": kind, "id": id});
    if let Some(data) = data {
        line["data"] = data;
    }
    print(&format!("{line}\n"))
}

/// What runc says a container uses.
fn data(cgroup: &Cgroup) -> Value {
    let Statistics {
        cpu,
        memory,
        pids,
        pids_limit,
        io_bytes,
        io_operations,
    } = cgroup.statistics();
    let memory = memory.unwrap_or_default();
    let part = |name: &str| memory.parts.get(name).copied();
    let counts = |counts: &[IoCount]| -> Value {
        let shown = counts.iter().map(|count| {
            let mut operation = count.operation.clone();
            if let Some(first) = operation.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            json!({
                "major": count.major, "minor": count.minor, "op": operation, "value": count.value,
            })
        });
        shown.collect()
    };
    json!({
        "cpu": {
            "usage": {
                "total": cpu.total, "percpu": cpu.of_each, "kernel": cpu.kernel, "user": cpu.user,
            },
            "throttling": {
                "periods": cpu.periods, "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled,
            },
        },
        "cpuset": {},
        "memory": {
            // v1's word for it, or v2's.
            "cache": part("cache").or(part("file")).unwrap_or(0),
            "usage": {
                "limit": memory.limit.unwrap_or(u64::MAX), "usage": memory.usage,
                "max": memory.peak.unwrap_or(0), "failcnt": memory.failures,
            },
            "swap": {}, "kernel": {}, "kernelTCP": {},
            "raw": memory.parts,
        },
        "pids": {"current": pids, "limit": pids_limit.unwrap_or(0)},
        "blkio": {
            "ioServiceBytesRecursive": counts(&io_bytes),
            "ioServicedRecursive": counts(&io_operations),
        },
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    })
}
