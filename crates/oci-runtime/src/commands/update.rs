//! `update`.

use std::io::Read as _;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use sampan_oci::runtime::{LinuxResources, Status};

use crate::arguments::Update;
use crate::container::Container;

pub(crate) fn update(root: &Path, update: &Update) -> Result<()> {
    let mut container = Container::open(root, &update.id)?;
    match container.status()? {
        Status::Stopped | Status::Creating => bail!("container not running"),
        Status::Created | Status::Running | Status::Paused => {}
    }
    let resources = match &update.resources {
        Some(path) => read(path)?,
        None => single(&update.single)?,
    };
    let hierarchies = container.hierarchies.clone();
    let running = container
        .running
        .as_mut()
        .context("container not running")?;
    running.update(&hierarchies, &resources)?;
    remember(&mut container, resources)
}

/// The record says what holds from now on.
fn remember(container: &mut Container, changed: LinuxResources) -> Result<()> {
    let linux = container.record.spec.linux.get_or_insert_default();
    let of_record = linux.resources.get_or_insert_default();
    let mut before = serde_json::to_value(&*of_record)?;
    merge(&mut before, serde_json::to_value(changed)?);
    *of_record = serde_json::from_value(before)?;
    container.directory.write(&container.record)
}

/// Values of `changed` take the place of those of `of`, object by object.
fn merge(of: &mut serde_json::Value, changed: serde_json::Value) {
    match (of, changed) {
        (serde_json::Value::Object(of), serde_json::Value::Object(changed)) => {
            for (key, value) in changed {
                merge(of.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (of, changed) => *of = changed,
    }
}

fn read(path: &Path) -> Result<LinuxResources> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read the resources from standard input")?;
    } else {
        text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the resources {}", path.display()))?;
    }
    let resources: LinuxResources =
        serde_json::from_str(&text).context("cannot parse the resources")?;
    // Device rules are those of the start; runc does not change them either.
    Ok(LinuxResources {
        devices: Vec::new(),
        ..resources
    })
}

fn single(flags: &[(&'static str, String)]) -> Result<LinuxResources> {
    let mut resources = LinuxResources::default();
    for (name, value) in flags {
        set(&mut resources, name, value)?;
    }
    Ok(resources)
}

fn set(resources: &mut LinuxResources, name: &str, value: &str) -> Result<()> {
    match name {
        "blkio-weight" => {
            resources.block_io.get_or_insert_default().weight = Some(number(name, value)?);
        }
        "kernel-memory" => bail!("kernel memory cannot be limited: the kernel has given that up"),
        "kernel-memory-tcp" | "memory" | "memory-reservation" | "memory-swap" => {
            let bytes = Some(bytes(name, value)?);
            let memory = resources.memory.get_or_insert_default();
            match name {
                "memory" => memory.limit = bytes,
                "memory-reservation" => memory.reservation = bytes,
                "memory-swap" => memory.swap = bytes,
                _ => memory.kernel_tcp = bytes,
            }
        }
        "pids-limit" => resources.pids.get_or_insert_default().limit = Some(number(name, value)?),
        _ => {
            let cpu = resources.cpu.get_or_insert_default();
            match name {
                "cpu-period" => cpu.period = Some(number(name, value)?),
                "cpu-quota" => cpu.quota = Some(number(name, value)?),
                "cpu-burst" => cpu.burst = Some(number(name, value)?),
                "cpu-share" => cpu.shares = Some(number(name, value)?),
                "cpu-rt-period" => cpu.realtime_period = Some(number(name, value)?),
                "cpu-rt-runtime" => cpu.realtime_runtime = Some(number(name, value)?),
                "cpu-idle" => cpu.idle = Some(number(name, value)?),
                "cpuset-cpus" => cpu.cpus = Some(value.to_owned()),
                "cpuset-mems" => cpu.mems = Some(value.to_owned()),
                other => bail!("unknown limit {other}"),
            }
        }
    }
    Ok(())
}

fn number<T: FromStr>(name: &str, value: &str) -> Result<T> {
    let parsed = value.parse().ok();
    parsed.with_context(|| format!("invalid value for {name}: {value:?}"))
}

/// Bytes as people write them: `64m`, `1GiB`; -1 is no limit.
fn bytes(name: &str, value: &str) -> Result<i64> {
    if value == "-1" {
        return Ok(-1);
    }
    let lower = value.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = lower[digits.len()..]
        .trim_end_matches('b')
        .trim_end_matches('i');
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => bail!("invalid value for {name}: {value:?}"),
    };
    let count: i64 = number(name, digits.trim())?;
    count
        .checked_mul(1 << shift)
        .with_context(|| format!("invalid value for {name}: {value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_limits() {
        let flags = [
            ("memory", "64m".to_owned()),
            ("memory-swap", "-1".to_owned()),
            ("cpu-quota", "-1".to_owned()),
            ("pids-limit", "5".to_owned()),
            ("cpuset-cpus", "0-1".to_owned()),
        ];
        let resources = single(&flags).unwrap();
        let memory = resources.memory.unwrap();
        assert_eq!((memory.limit, memory.swap), (Some(64 << 20), Some(-1)));
        assert_eq!(resources.pids.unwrap().limit, Some(5));
        let cpu = resources.cpu.unwrap();
        assert_eq!((cpu.quota, cpu.cpus.as_deref()), (Some(-1), Some("0-1")));
        assert!(single(&[("memory", "x".to_owned())]).is_err());
        assert!(single(&[("kernel-memory", "1m".to_owned())]).is_err());
        assert_eq!(bytes("memory", "1GiB").unwrap(), 1 << 30);
    }

    #[test]
    fn a_change_leaves_what_it_does_not_name() {
        let mut of = serde_json::json!({"memory": {"limit": 1, "swap": 2}});
        merge(
            &mut of,
            serde_json::json!({"memory": {"limit": 3}, "pids": {"limit": 4}}),
        );
        let expected = serde_json::json!({"memory": {"limit": 3, "swap": 2}, "pids": {"limit": 4}});
        assert_eq!(of, expected);
    }
}
