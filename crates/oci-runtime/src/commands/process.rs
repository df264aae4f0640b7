//! `kill` and `ps`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use sampan_oci::runtime::{NamespaceKind, Status};

use super::print;
use crate::container::Container;

pub(crate) fn kill(root: &Path, id: &str, signal: &str, all: bool) -> Result<()> {
    let number = match signal {
        // What asks whether there is a process at all.
        "0" => 0,
        signal => sampan_oci::signal::parse(signal)
            .with_context(|| format!("unknown signal {signal:?}"))?,
    };
    let container = Container::open(root, id)?;
    let status = container.status()?;
    if all {
        return container.kill(number, true);
    }
    ensure!(
        !matches!(status, Status::Stopped | Status::Creating),
        "container not running"
    );
    if number == 0 {
        return Ok(());
    }
    // The kernel ends the other processes with the first only where it is the first of a
    // namespace of its own.
    let everybody = number == sampan_oci::signal::KILL && !has_own_pids(&container);
    container.kill(number, everybody)?;
    if number == sampan_oci::signal::KILL && status == Status::Paused {
        // On cgroup v1 a frozen process does not die.
        return Ok(container.running()?.resume()?);
    }
    Ok(())
}

fn has_own_pids(container: &Container) -> bool {
    let linux = container.record.spec.linux.as_ref();
    linux.is_some_and(|linux| {
        linux.namespaces.iter().any(|namespace| {
            let path = namespace.path.as_ref();
            namespace.kind == NamespaceKind::Pid
                && path.is_none_or(|path| path.as_os_str().is_empty())
        })
    })
}

pub(crate) fn ps(root: &Path, id: &str, json: bool, options: &[String]) -> Result<()> {
    let container = Container::open(root, id)?;
    let mut processes: Vec<i32> = match container.open_cgroup()? {
        Some(cgroup) => {
            let found = cgroup.procs()?;
            found.iter().map(|pid| pid.as_raw_nonzero().get()).collect()
        }
        None => Vec::new(),
    };
    processes.sort_unstable();
    if json {
        return print(&format!("{}\n", serde_json::to_string(&processes)?));
    }
    let default = ["-ef".to_owned()];
    let options = if options.is_empty() {
        &default
    } else {
        options
    };
    let output = Command::new("ps")
        .args(options)
        .output()
        .context("cannot run ps")?;
    if !output.status.success() {
        bail!("ps: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    print(&only(&text, &processes)?)
}

/// The lines of ps' table that are of these processes, with its head.
fn only(table: &str, processes: &[i32]) -> Result<String> {
    let mut lines = table.lines();
    let head = lines.next().unwrap_or_default();
    let column = head.split_whitespace().position(|title| title == "PID");
    let column = column.context("couldn't find PID field in ps output")?;
    let lines = lines.filter(|line| {
        let pid = line.split_whitespace().nth(column);
        pid.and_then(|pid| pid.parse().ok())
            .is_some_and(|pid: i32| processes.contains(&pid))
    });
    Ok(std::iter::once(head)
        .chain(lines)
        .map(|line| format!("{line}\n"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_container_s_lines_are_shown() {
        let table = "UID   PID  CMD\nroot    1  init 22\nroot   22  sh\n";
        assert_eq!(
            only(table, &[22]).unwrap(),
            "UID   PID  CMD\nroot   22  sh\n"
        );
        assert!(only("CMD\nsh\n", &[22]).is_err());
    }
}
