//! Memory of idle engines, and per running container.

use std::fs;

use anyhow::Result;

use super::measure::time;
use super::peers::Peers;
use super::table::Table;

const CONTAINERS: usize = 20;

pub(super) fn run(peers: &Peers, table: &mut Table) -> Result<()> {
    let engine = resident(&[peers.sampan.pid().as_raw_nonzero().get()]);
    let docker = resident(&[processes("dockerd"), processes("containerd")].concat());
    table.quantities(
        "engine, idle: resident",
        "MB",
        &[("sampan", engine / 1024.0), ("docker", docker / 1024.0)],
    );
    let mut supervisors = Vec::new();
    for (peer, supervisor) in
        peers
            .all()
            .into_iter()
            .zip(["sampan-shim", "containerd-shim-runc-v2", "conmon"])
    {
        let names: Vec<String> = (0..CONTAINERS).map(|n| format!("memory{n}")).collect();
        for name in &names {
            let arguments = ["run", "-d", "--name", name, "busybox", "sleep", "100000"];
            time(peer.command(&arguments))?;
        }
        supervisors.push((peer.name(), mean_share(&processes(supervisor))));
        let mut remove = peer.command(&["rm", "-f"]);
        remove.args(&names);
        time(remove)?;
    }
    let title = format!("supervisor of each of {CONTAINERS} containers: proportional share");
    table.quantities(&title, "KiB", &supervisors);
    Ok(())
}

/// Resident memory of processes, in KiB.
fn resident(processes: &[i32]) -> f64 {
    let each = processes.iter();
    each.map(|pid| field(*pid, "status", "VmRSS:")).sum()
}

/// The mean of what processes have in memory, where a page that several share counts in parts.
#[allow(clippy::cast_precision_loss)]
fn mean_share(processes: &[i32]) -> f64 {
    let each = processes.iter();
    let sum: f64 = each.map(|pid| field(*pid, "smaps_rollup", "Pss:")).sum();
    sum / processes.len().max(1) as f64
}

/// A number of KiB out of a file of /proc.
pub(super) fn field(pid: i32, file: &str, name: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    text.lines()
        .find_map(|line| {
            line.strip_prefix(name)?
                .trim()
                .split(' ')
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0.0)
}

fn processes(name: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
            let first = String::from_utf8_lossy(first).into_owned();
            first.rsplit('/').next() == Some(name)
        })
        .collect()
}
