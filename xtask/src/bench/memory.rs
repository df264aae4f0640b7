//! Memory of idle engines, and per running container.

use std::fs;

use anyhow::Result;

use super::measure::time;
use super::peers::{Peer, Peers};

const CONTAINERS: usize = 20;

pub(super) fn run(peers: &Peers) -> Result<()> {
    let peer = Peer::Sampan(&peers.sampan);
    let engine = peers.sampan.pid().as_raw_nonzero().get();
    println!("\nmemory");
    println!(
        "{:<44} {:>8} KiB",
        "engine, idle: RSS",
        field(engine, "status", "VmRSS:")
    );
    for n in 0..CONTAINERS {
        let name = format!("memory{n}");
        time(peer.command(&["run", "-d", "--name", &name, "busybox", "sleep", "100000"]))?;
    }
    let shims = processes("sampan-shim");
    let sizes: Vec<u64> = shims
        .iter()
        .map(|pid| field(*pid, "smaps_rollup", "Pss:"))
        .collect();
    let sum: u64 = sizes.iter().sum();
    println!(
        "{:<44} {:>8} KiB (largest {} KiB)",
        format!("shim, {} running: mean PSS", sizes.len()),
        sum / sizes.len().max(1) as u64,
        sizes.iter().max().unwrap_or(&0)
    );
    println!(
        "{:<44} {:>8} KiB",
        format!("engine with {CONTAINERS} containers: RSS"),
        field(engine, "status", "VmRSS:")
    );
    for (name, program) in [("docker", "dockerd"), ("docker", "containerd")] {
        for pid in processes(program) {
            let line = format!("{name}'s {program}, idle: RSS");
            println!("{line:<44} {:>8} KiB", field(pid, "status", "VmRSS:"));
        }
    }
    peers.sampan.remove_all();
    Ok(())
}

/// A number of KiB out of a file of /proc.
fn field(pid: i32, file: &str, name: &str) -> u64 {
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
        .unwrap_or(0)
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
