//! The world in which the benchmarks run: namespaces of their own for mounts, the network and
//! process ids. What the other engines do to a host (bridges, a firewall that forwards nothing,
//! mounts, processes that outlive them) happens there and ends with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use xtask::run::workspace;

/// The word after `bench` with which this program calls itself inside.
pub(super) const INSIDE: &str = "--inside";
/// The parent of docker's cgroups.
pub(super) const CGROUP: &str = "sampan-bench";

const HIERARCHIES: &str = "/sys/fs/cgroup";
/// Cgroups that the other engines leave behind.
const LEFT: [&str; 3] = [CGROUP, "libpod_parent", "conmon"];

/// The first process: furnishes the world, runs the program and takes the zombies of orphans
/// away.
const FIRST: &str = r#"
set -e
ip link set lo up
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/upper /run/work
mount -t overlay -o lowerdir=/var/lib,upperdir=/run/upper,workdir=/run/work overlay /var/lib
# A sysfs mount shows the interfaces of the network it was made in.
mkdir /run/cgroup
mount --move /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --move /run/cgroup /sys/fs/cgroup
set +e
"$@"
exit $?"#;

/// Runs the benchmarks inside.
pub(super) fn run(arguments: &[&str]) -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let before = cgroups();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "--", "sh", "-c", FIRST, "sh"])
        .arg(program)
        .args(["bench", INSIDE])
        .args(arguments)
        .current_dir(workspace());
    let status = command.status().context("cannot run unshare")?;
    for directory in cgroups().iter().filter(|path| !before.contains(path)) {
        remove_cgroup(directory);
    }
    ensure!(status.success(), "the benchmarks ended with {status}");
    Ok(())
}

/// The other engines' cgroups that are there now.
fn cgroups() -> Vec<PathBuf> {
    let hierarchies = fs::read_dir(HIERARCHIES).into_iter().flatten().flatten();
    let roots = hierarchies
        .map(|entry| entry.path())
        .chain([PathBuf::from(HIERARCHIES)]);
    roots
        .flat_map(|root| LEFT.map(|name| root.join(name)))
        .filter(|path| path.is_dir())
        .collect()
}

/// Removes a cgroup that nobody is in, and those below.
fn remove_cgroup(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    if let Err(error) = fs::remove_dir(directory) {
        eprintln!("xtask: cannot remove {}: {error}", directory.display());
    }
}
