//! `spec`: a configuration to start from, runc's own.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use sampan_oci::runtime::{
    Capabilities, DeviceRule, IdMapping, Linux, LinuxResources, Mount, Namespace, NamespaceKind,
    Process, Rlimit, RootFilesystem, Spec,
};

use crate::bundle::SPECIFICATION;

pub(crate) fn spec(bundle: Option<&Path>, rootless: bool) -> Result<()> {
    let path = bundle.unwrap_or_else(|| Path::new(".")).join("config.json");
    let text = serde_json::to_string_pretty(&example(rootless))?;
    let mut file = match File::options().write(true).create_new(true).open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            anyhow::bail!("file {} exists. Remove it first", path.display())
        }
        other => other.with_context(|| format!("cannot write {}", path.display()))?,
    };
    writeln!(file, "{text}").with_context(|| format!("cannot write {}", path.display()))
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        kind: Some(kind.to_owned()),
        source: Some(source.into()),
        options: strings(options),
        ..Mount::default()
    }
}

fn example(rootless: bool) -> Spec {
    let capabilities = strings(&["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mut spec = Spec {
        oci_version: SPECIFICATION.to_owned(),
        process: Some(Process {
            terminal: true,
            args: strings(&["sh"]),
            env: strings(&[
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ]),
            cwd: "/".to_owned(),
            capabilities: Some(Capabilities {
                bounding: capabilities.clone(),
                effective: capabilities.clone(),
                permitted: capabilities,
                ..Capabilities::default()
            }),
            rlimits: vec![Rlimit {
                kind: "RLIMIT_NOFILE".to_owned(),
                soft: 1024,
                hard: 1024,
            }],
            no_new_privileges: true,
            ..Process::default()
        }),
        root: Some(RootFilesystem {
            path: "rootfs".into(),
            readonly: true,
        }),
        hostname: Some("sampan".to_owned()),
        mounts: mounts(),
        linux: Some(Linux {
            resources: Some(LinuxResources {
                devices: vec![DeviceRule {
                    allow: false,
                    access: Some("rwm".to_owned()),
                    ..DeviceRule::default()
                }],
                ..LinuxResources::default()
            }),
            namespaces: [
                NamespaceKind::Pid,
                NamespaceKind::Network,
                NamespaceKind::Ipc,
                NamespaceKind::Uts,
                NamespaceKind::Mount,
                NamespaceKind::Cgroup,
            ]
            .map(Namespace::new)
            .to_vec(),
            masked_paths: strings(&[
                "/proc/acpi",
                "/proc/asound",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/sys/firmware",
                "/proc/scsi",
            ]),
            readonly_paths: strings(&[
                "/proc/bus",
                "/proc/fs",
                "/proc/irq",
                "/proc/sys",
                "/proc/sysrq-trigger",
            ]),
            ..Linux::default()
        }),
        ..Spec::default()
    };
    if rootless {
        map_own_user(&mut spec);
    }
    spec
}

fn mounts() -> Vec<Mount> {
    vec![
        mount("/proc", "proc", "proc", &[]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", "ro"],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
    ]
}

/// A user namespace in which the caller is root and nobody else is anybody.
fn map_own_user(spec: &mut Spec) {
    let own = |id: u32| IdMapping {
        container_id: 0,
        host_id: id,
        size: 1,
    };
    let linux = spec.linux.get_or_insert_default();
    linux.namespaces.push(Namespace::new(NamespaceKind::User));
    linux.uid_mappings = vec![own(rustix::process::geteuid().as_raw())];
    linux.gid_mappings = vec![own(rustix::process::getegid().as_raw())];
    linux
        .namespaces
        .retain(|namespace| namespace.kind != NamespaceKind::Network);
    linux.resources = None;
    // Group 5 is nobody there, and the host's network has the host's /sys.
    for mount in &mut spec.mounts {
        mount.options.retain(|option| option != "gid=5");
    }
    spec.mounts
        .retain(|mount| mount.destination != "/sys/fs/cgroup");
}
