//! From a container's configuration to the runtime's: pure.

use std::path::PathBuf;

use sampan_oci::runtime::{
    BlockIoResources, Capabilities, ConsoleSize, CpuResources, Device, DeviceRule, Linux,
    LinuxResources, MemoryResources, Mount, Namespace, NamespaceKind, PidsResources, Process,
    Rlimit, RootFilesystem, Spec, User,
};
use sampan_oci::ulimit::Ulimit;
use sampan_text::path::absolute;

use super::config::{
    ContainerConfig, HostConfig, IpcMode, NetworkMode, PidMode, Resources, UtsMode,
};
use super::record::Record;
use super::security::{self, SecurityOptions};
use crate::host::{DeviceNode, Host};
use crate::{Error, Result};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const SHM_SIZE: i64 = 64 << 20;
const CPU_PERIOD: u64 = 100_000;

const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Everything that the runtime's configuration follows from.
#[derive(Debug)]
pub(crate) struct SpecInput<'a> {
    pub(crate) record: &'a Record,
    pub(crate) host: &'a Host,
    /// What the record's security options come to.
    pub(crate) security: &'a SecurityOptions,
    /// Mounts of volumes, binds, memory and the container's files, resolved to paths of the host.
    pub(crate) mounts: Vec<Mount>,
    /// Devices of the host that were asked for, with the rights: looked at before.
    pub(crate) devices: Vec<(DeviceNode, String)>,
    /// Limits of block devices, with their numbers: looked at before.
    pub(crate) block_io: Option<BlockIoResources>,
    pub(crate) cgroup: String,
    /// Host name inside.
    pub(crate) hostname: String,
}

/// Builds the runtime's configuration.
pub(crate) fn build(input: SpecInput<'_>) -> Result<Spec> {
    let SpecInput {
        record,
        host,
        security,
        ..
    } = input;
    let (config, wishes) = (&*record.config, &*record.host);
    let capabilities = security::capabilities(wishes, &host.capabilities)?;
    let seccomp = security.seccomp(
        wishes.privileged,
        &capabilities,
        host.architecture(),
        host.kernel,
    );
    let open_paths = wishes.privileged || security.open_system_paths;
    let own_uts = wishes.uts_mode == UtsMode::Private && wishes.network_mode != NetworkMode::Host;
    if security.writable_cgroups && host.unified && !has_private_cgroup(wishes, host) {
        return Err(Error::invalid(
            "--security-opt writable-cgroups=true needs a cgroup namespace of the container's own: use --cgroupns \
             private",
        ));
    }
    let mut mounts = system_mounts(wishes, security.writable_cgroups);
    mounts.extend(input.mounts);
    // Whatever is mounted on a directory comes before what is mounted in it.
    mounts.sort_by_key(|mount| depth(&mount.destination));
    Ok(Spec {
        oci_version: "1.2.0".to_owned(),
        process: Some(Process {
            terminal: config.tty,
            console_size: console_size(wishes.console_size),
            user: user(config, wishes),
            args: std::iter::once(record.path.clone())
                .chain(record.args.iter().cloned())
                .collect(),
            env: environment(config, &input.hostname),
            cwd: if config.working_dir.is_empty() {
                "/".to_owned()
            } else {
                absolute(&config.working_dir)
            },
            capabilities: Some(capability_sets(&capabilities)),
            rlimits: rlimits(&wishes.resources)?,
            no_new_privileges: security.no_new_privileges,
            apparmor_profile: security
                .apparmor_profile(wishes.privileged, host.apparmor)
                .map(str::to_owned),
            oom_score_adj: Some(wishes.oom_score_adj),
            ..Process::default()
        }),
        root: Some(RootFilesystem {
            path: PathBuf::from("rootfs"),
            readonly: wishes.readonly_rootfs,
        }),
        hostname: own_uts.then_some(input.hostname),
        domainname: (own_uts && !config.domainname.is_empty()).then(|| config.domainname.clone()),
        mounts,
        annotations: wishes.annotations.clone(),
        linux: Some(Linux {
            sysctl: wishes.sysctls.clone(),
            resources: Some(resources(wishes, &input.devices, input.block_io)?),
            cgroups_path: Some(input.cgroup),
            namespaces: namespaces(wishes, host, own_uts),
            devices: input.devices.iter().map(|(node, _)| device(node)).collect(),
            seccomp,
            masked_paths: match &wishes.masked_paths {
                Some(paths) => paths.clone(),
                None if open_paths => Vec::new(),
                None => MASKED
                    .into_iter()
                    .map(str::to_owned)
                    .chain(host.thermal_files.iter().cloned())
                    .collect(),
            },
            readonly_paths: match &wishes.readonly_paths {
                Some(paths) => paths.clone(),
                None if open_paths => Vec::new(),
                None => READ_ONLY.map(str::to_owned).to_vec(),
            },
            ..Linux::default()
        }),
        ..Spec::default()
    })
}

/// Builds the process of an exec from its container's.
pub(crate) fn exec_process(
    record: &Record,
    exec: &super::request::ExecConfig,
    host: &Host,
) -> Result<Process> {
    let (config, wishes) = (&*record.config, &*record.host);
    let security = SecurityOptions::parse(&wishes.security_opt)?;
    let capabilities = if exec.privileged {
        host.capabilities
            .iter()
            .map(|cap| (*cap).to_owned())
            .collect()
    } else {
        security::capabilities(wishes, &host.capabilities)?
    };
    let mut who = user(config, wishes);
    if !exec.user.is_empty() {
        who.username = Some(exec.user.clone());
    }
    let mut env = environment(config, &hostname(record, host));
    if exec.tty && !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    for variable in &exec.env {
        set(&mut env, variable);
    }
    let directory = [&exec.working_dir, &config.working_dir]
        .into_iter()
        .find(|directory| !directory.is_empty());
    Ok(Process {
        terminal: exec.tty,
        console_size: exec.console_size.and_then(console_size),
        user: who,
        args: exec.cmd.clone(),
        env,
        cwd: directory.map_or_else(|| "/".to_owned(), |directory| absolute(directory)),
        capabilities: Some(capability_sets(&capabilities)),
        rlimits: rlimits(&wishes.resources)?,
        no_new_privileges: security.no_new_privileges,
        apparmor_profile: security
            .apparmor_profile(wishes.privileged || exec.privileged, host.apparmor)
            .map(str::to_owned),
        oom_score_adj: Some(wishes.oom_score_adj),
        ..Process::default()
    })
}

/// Returns the host name that a container sees.
pub(crate) fn hostname(record: &Record, host: &Host) -> String {
    let shares =
        record.host.network_mode == NetworkMode::Host || record.host.uts_mode == UtsMode::Host;
    match record.config.hostname.as_str() {
        "" if shares => host.name.clone(),
        "" => record.id.short().to_owned(),
        name => name.to_owned(),
    }
}

fn depth(destination: &str) -> usize {
    destination
        .split('/')
        .filter(|part| !part.is_empty())
        .count()
}

fn mount(kind: &str, destination: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        kind: Some(kind.to_owned()),
        source: Some(match kind {
            "tmpfs" if destination == "/dev/shm" => "shm".into(),
            kind => kind.into(),
        }),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Mount::default()
    }
}

/// Makes a bind mount.
pub(crate) fn bind(source: impl Into<PathBuf>, destination: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        kind: Some("bind".to_owned()),
        source: Some(source.into()),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Mount::default()
    }
}

fn system_mounts(wishes: &HostConfig, writable_cgroups: bool) -> Vec<Mount> {
    let access = |writable| if writable { "rw" } else { "ro" };
    let system = access(wishes.privileged);
    let cgroups = access(wishes.privileged || writable_cgroups);
    let safe = ["nosuid", "noexec", "nodev"];
    let mut mounts = vec![
        mount("proc", "/proc", &safe),
        mount(
            "tmpfs",
            "/dev",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "devpts",
            "/dev/pts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount("sysfs", "/sys", &["nosuid", "noexec", "nodev", system]),
        mount(
            "cgroup",
            "/sys/fs/cgroup",
            &[cgroups, "nosuid", "noexec", "nodev"],
        ),
    ];
    match wishes.ipc_mode {
        IpcMode::Host => {
            // Made in the host's IPC namespace it is the host's, whether the host has it mounted or not.
            mounts.push(mount("mqueue", "/dev/mqueue", &safe));
            mounts.push(bind(
                "/dev/shm",
                "/dev/shm",
                &["rbind", "nosuid", "noexec", "nodev"],
            ));
        }
        IpcMode::None => mounts.push(mount("mqueue", "/dev/mqueue", &safe)),
        // What others may share, or is another's, is bound by the service, which knows where it is.
        IpcMode::Container(_) | IpcMode::Shareable => {
            mounts.push(mount("mqueue", "/dev/mqueue", &safe));
        }
        IpcMode::Default | IpcMode::Private => {
            mounts.push(mount("mqueue", "/dev/mqueue", &safe));
            let size = if wishes.shm_size > 0 {
                wishes.shm_size
            } else {
                SHM_SIZE
            };
            mounts.push(mount(
                "tmpfs",
                "/dev/shm",
                &[
                    "nosuid",
                    "noexec",
                    "nodev",
                    "mode=1777",
                    &format!("size={size}"),
                ],
            ));
        }
    }
    mounts
}

/// Whose control groups a container sees that asks for nothing.
pub(crate) fn default_cgroup_namespace(host: &Host, wishes: &HostConfig) -> &'static str {
    if host.unified && !wishes.privileged {
        "private"
    } else {
        "host"
    }
}

fn has_private_cgroup(wishes: &HostConfig, host: &Host) -> bool {
    let mode = match wishes.cgroupns_mode.as_str() {
        "" => default_cgroup_namespace(host, wishes),
        mode => mode,
    };
    mode == "private"
}

fn namespaces(wishes: &HostConfig, host: &Host, own_uts: bool) -> Vec<Namespace> {
    let mut kinds = vec![NamespaceKind::Mount];
    if wishes.network_mode != NetworkMode::Host {
        kinds.push(NamespaceKind::Network);
    }
    if own_uts {
        kinds.push(NamespaceKind::Uts);
    }
    if wishes.ipc_mode != IpcMode::Host {
        kinds.push(NamespaceKind::Ipc);
    }
    if wishes.pid_mode != PidMode::Host {
        kinds.push(NamespaceKind::Pid);
    }
    if has_private_cgroup(wishes, host) {
        kinds.push(NamespaceKind::Cgroup);
    }
    if host.time_namespaces {
        kinds.push(NamespaceKind::Time);
    }
    kinds.into_iter().map(Namespace::new).collect()
}

fn console_size([height, width]: [u16; 2]) -> Option<ConsoleSize> {
    (height > 0 && width > 0).then_some(ConsoleSize {
        height: height.into(),
        width: width.into(),
    })
}

/// The user, also when it is root for want of another: its groups are those of the container's files.
fn user(config: &ContainerConfig, wishes: &HostConfig) -> User {
    let (mut additional_gids, mut additional_groups) = (Vec::new(), Vec::new());
    for group in &wishes.group_add {
        match group.parse() {
            Ok(gid) => additional_gids.push(gid),
            Err(_) => additional_groups.push(group.clone()),
        }
    }
    User {
        additional_gids,
        additional_groups,
        username: Some(config.user.clone()),
        ..User::default()
    }
}

fn environment(config: &ContainerConfig, hostname: &str) -> Vec<String> {
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if config.tty {
        env.push("TERM=xterm".to_owned());
    }
    for variable in &config.env {
        set(&mut env, variable);
    }
    env
}

/// Sets a variable in the place of one of the same name. One without `=` takes it away: the name
/// alone never means a variable of the host.
pub(crate) fn set(env: &mut Vec<String>, variable: &str) {
    let name = variable.split('=').next().unwrap_or(variable);
    let is_same = |other: &String| other.split('=').next() == Some(name);
    if !variable.contains('=') {
        env.retain(|other| !is_same(other));
        return;
    }
    match env.iter_mut().find(|other| is_same(other)) {
        Some(other) => variable.clone_into(other),
        None => env.push(variable.to_owned()),
    }
}

fn capability_sets(capabilities: &[String]) -> Capabilities {
    Capabilities {
        bounding: capabilities.to_vec(),
        effective: capabilities.to_vec(),
        permitted: capabilities.to_vec(),
        inheritable: Vec::new(),
        ambient: Vec::new(),
    }
}

fn rlimits(resources: &Resources) -> Result<Vec<Rlimit>> {
    let limits = resources.ulimits.iter();
    limits
        .map(|limit| {
            Ulimit::new(&limit.name, limit.soft, limit.hard)
                .map(|limit| limit.rlimit())
                .map_err(|error| Error::invalid(error.to_string()))
        })
        .collect()
}

fn resources(
    wishes: &HostConfig,
    devices: &[(DeviceNode, String)],
    block_io: Option<BlockIoResources>,
) -> Result<LinuxResources> {
    Ok(LinuxResources {
        devices: device_rules(wishes, devices)?,
        block_io,
        ..limits(&wishes.resources)
    })
}

/// The limits of a container of which nothing is asked.
pub(crate) fn usual_limits() -> LinuxResources {
    // Without them it is found out at the start where cgroups are needed.
    resources(&HostConfig::default(), &[], None).unwrap_or_default()
}

/// Limits in the form of the runtime, without devices.
pub(crate) fn limits(limits: &Resources) -> LinuxResources {
    LinuxResources {
        memory: memory(limits),
        cpu: cpu(limits),
        pids: limits
            .pids_limit
            .filter(|limit| *limit != 0)
            .map(|limit| PidsResources { limit: Some(limit) }),
        block_io: (limits.blkio_weight > 0).then(|| BlockIoResources {
            weight: Some(limits.blkio_weight),
            ..BlockIoResources::default()
        }),
        ..LinuxResources::default()
    }
}

fn memory(limits: &Resources) -> Option<MemoryResources> {
    let positive = |value: i64| (value > 0).then_some(value);
    let memory = MemoryResources {
        limit: positive(limits.memory),
        reservation: positive(limits.memory_reservation),
        swap: match limits.memory_swap {
            0 => positive(limits.memory).map(|limit| limit.saturating_mul(2)),
            swap => Some(swap),
        },
        swappiness: limits
            .memory_swappiness
            .and_then(|value| u64::try_from(value).ok()),
        disable_oom_killer: limits.oom_kill_disable.filter(|disable| *disable),
        ..MemoryResources::default()
    };
    (memory != MemoryResources::default()).then_some(memory)
}

fn cpu(limits: &Resources) -> Option<CpuResources> {
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let text = |value: &str| (!value.is_empty()).then(|| value.to_owned());
    let mut cpu = CpuResources {
        shares: positive(limits.cpu_shares),
        quota: (limits.cpu_quota != 0).then_some(limits.cpu_quota),
        period: positive(limits.cpu_period),
        cpus: text(&limits.cpuset_cpus),
        mems: text(&limits.cpuset_mems),
        realtime_period: positive(limits.cpu_realtime_period),
        realtime_runtime: (limits.cpu_realtime_runtime != 0).then_some(limits.cpu_realtime_runtime),
        ..CpuResources::default()
    };
    if limits.nano_cpus > 0 {
        let quota = i128::from(limits.nano_cpus) * i128::from(CPU_PERIOD) / 1_000_000_000;
        cpu.quota = i64::try_from(quota).ok();
        cpu.period = Some(CPU_PERIOD);
    }
    (cpu != CpuResources::default()).then_some(cpu)
}

fn rule(
    allow: bool,
    kind: &str,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> DeviceRule {
    DeviceRule {
        allow,
        kind: Some(kind.to_owned()),
        major,
        minor,
        access: Some(access.to_owned()),
    }
}

fn device_rules(wishes: &HostConfig, devices: &[(DeviceNode, String)]) -> Result<Vec<DeviceRule>> {
    if wishes.privileged {
        return Ok(vec![rule(true, "a", None, None, "rwm")]);
    }
    let mut rules = vec![rule(false, "a", None, None, "rwm")];
    rules.push(rule(true, "c", None, None, "m"));
    rules.push(rule(true, "b", None, None, "m"));
    for (major, minor) in [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(1)),
        (5, Some(2)),
        (136, None),
    ] {
        rules.push(rule(true, "c", Some(major), minor, "rwm"));
    }
    for (node, access) in devices.iter().filter(|(_, access)| !access.is_empty()) {
        rules.push(rule(
            true,
            node.kind,
            Some(node.major.into()),
            Some(node.minor.into()),
            access,
        ));
    }
    for text in &wishes.resources.device_cgroup_rules {
        rules.push(parse_rule(text)?);
    }
    Ok(rules)
}

/// Reads `c 42:* rmw`.
fn parse_rule(text: &str) -> Result<DeviceRule> {
    let invalid = || Error::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let parts: Vec<&str> = text.split(' ').collect();
    let [kind, numbers, access] = parts[..] else {
        return Err(invalid());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(invalid)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse().map(Some).map_err(|_| invalid())
        }
        _ => Err(invalid()),
    };
    let fits = matches!(kind, "a" | "b" | "c")
        && !access.is_empty()
        && access.len() <= 3
        && access.bytes().all(|b| matches!(b, b'r' | b'w' | b'm'));
    if !fits {
        return Err(invalid());
    }
    Ok(rule(true, kind, number(major)?, number(minor)?, access))
}

fn device(node: &DeviceNode) -> Device {
    Device {
        path: node.path.clone(),
        kind: node.kind.to_owned(),
        major: node.major.into(),
        minor: node.minor.into(),
        file_mode: Some(node.mode),
        uid: Some(node.uid),
        gid: Some(node.gid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_replace_and_take_away() {
        let mut env = vec!["A=1".to_owned(), "B=2".to_owned()];
        set(&mut env, "A=3=4");
        set(&mut env, "C=");
        set(&mut env, "B");
        set(&mut env, "NEVER");
        assert_eq!(env, ["A=3=4", "C="]);
    }

    #[test]
    fn device_rules_are_read() {
        let rule = parse_rule("c 42:* rmw").unwrap();
        assert_eq!((rule.major, rule.minor), (Some(42), None));
        for text in [
            "",
            "c",
            "d 1:1 r",
            "c 1 r",
            "c 1:1 x",
            "c 1:1 ",
            "c -1:1 r",
            "c 1:1 r w",
            "c 1:1 rwmr",
        ] {
            assert!(parse_rule(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn limits_become_the_kernels() {
        let limits = Resources {
            memory: 64 << 20,
            nano_cpus: 1_500_000_000,
            pids_limit: Some(10),
            ..Resources::default()
        };
        assert_eq!(memory(&limits).unwrap().swap, Some(128 << 20));
        let cpu = cpu(&limits).unwrap();
        assert_eq!((cpu.quota, cpu.period), (Some(150_000), Some(100_000)));
        assert!(memory(&Resources::default()).is_none());
        let unlimited = Resources {
            memory: 64 << 20,
            memory_swap: -1,
            ..Resources::default()
        };
        assert_eq!(memory(&unlimited).unwrap().swap, Some(-1));
    }

    #[test]
    fn ulimits_are_checked() {
        let limit = |name: &str, soft, hard| Resources {
            ulimits: vec![super::super::config::Ulimit {
                name: name.into(),
                soft,
                hard,
            }],
            ..Resources::default()
        };
        assert!(rlimits(&limit("nofile", 10, -1)).is_ok());
        assert!(rlimits(&limit("nofile", 10, 5)).is_err());
        assert!(rlimits(&limit("wings", 1, 1)).is_err());
    }
}
