//! The flags of `run` and `create`, and the request they make.

use std::collections::BTreeMap;
use std::path::Path;

use sampan_api::types::container::{ContainerConfig, CreateRequest};
use sampan_api::types::host_config::{
    DeviceRequest, HostConfig, LogConfig, PortMap, Resources, RestartPolicy,
};
use sampan_api::types::network::{EndpointIpamConfig, EndpointSettings, NetworkingConfig};
use sampan_api::wire::{Empty, Words};

use super::command::Parsed;
use super::failure::Failure;
use super::flags::volume::Volume;
use super::flags::{
    device, environment, gpus, health, host, integer, mount, port, restart, security, size, sysctl,
    ulimit, volume,
};
use super::pull;
use super::session::variable;
use super::terminal;

/// When to pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pull {
    Always,
    Missing,
    Never,
}

/// What the flags and arguments ask for.
pub(crate) struct Wanted {
    pub(crate) name: Option<String>,
    pub(crate) platform: Option<String>,
    pub(crate) cidfile: Option<String>,
    pub(crate) pull: Pull,
    /// Tells nothing of a pull.
    pub(crate) quiet: bool,
    pub(crate) request: CreateRequest,
}

/// Reads the flags. `attached` says whether output goes to this terminal (`create` and
/// `run` without `-d`).
pub(crate) fn wanted(parsed: &Parsed<'_>, attached: bool) -> Result<Wanted, Failure> {
    let arguments = parsed.arguments();
    let (image, command) = arguments
        .split_first()
        .expect("the command requires an argument");
    let tty = parsed.switch("tty")?;
    let interactive = parsed.switch("interactive")?;
    let streams = Streams::read(parsed, attached)?;
    let attach_stdin = streams.stdin;
    // As Docker has it, input that is attached to is kept open.
    let interactive = interactive || attach_stdin;
    let directory = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let mounts = Mounts::read(parsed, &directory)?;
    let ports = Ports::read(parsed)?;
    let options = parsed.texts("security-opt");
    let security = security::parse(&options, |file| {
        std::fs::read_to_string(file)
            .map_err(|error| format!("open {file}: {}", describe_io(&error)))
    })
    .map_err(|message| Failure::Command { message, code: 125 })?;
    let words = |texts: Vec<&str>| -> Option<Words> {
        (!texts.is_empty()).then(|| Words(texts.into_iter().map(str::to_owned).collect()))
    };
    let texts =
        |texts: Vec<&str>| -> Vec<String> { texts.into_iter().map(str::to_owned).collect() };
    let config = ContainerConfig {
        hostname: owned(parsed.text("hostname")),
        user: owned(parsed.text("user")),
        attach_stdin,
        attach_stdout: streams.stdout,
        attach_stderr: streams.stderr,
        domainname: owned(parsed.text("domainname")),
        healthcheck: health::read(parsed)?,
        exposed_ports: ports.exposed,
        tty,
        open_stdin: interactive,
        stdin_once: attach_stdin,
        env: some(variables(parsed)?),
        cmd: words(command.to_vec()),
        image: (*image).to_owned(),
        volumes: Some(mounts.anonymous),
        working_dir: owned(parsed.text("workdir")),
        entrypoint: parsed
            .text("entrypoint")
            .map(|entrypoint| Words(vec![entrypoint.to_owned()])),
        labels: Some(labels(parsed)?),
        stop_signal: owned(parsed.text("stop-signal")),
        stop_timeout: parsed.value("stop-timeout", integer)?,
        ..ContainerConfig::default()
    };
    let network = network(parsed)?;
    let host_config = HostConfig {
        binds: (!mounts.binds.is_empty()).then_some(mounts.binds),
        container_id_file: owned(parsed.text("cidfile")),
        log_config: LogConfig {
            kind: owned(parsed.text("log-driver")),
            config: Some(log_options(parsed)?),
        },
        network_mode: network.clone(),
        port_bindings: Some(ports.bindings),
        restart_policy: restart_policy(parsed)?,
        auto_remove: parsed.switch("rm")?,
        annotations: pairs(parsed, "annotation"),
        cgroupns_mode: mode(parsed, "cgroupns", "CGROUP", &["host", "private"])?,
        group_add: some(texts(parsed.texts("group-add"))),
        ipc_mode: owned(parsed.text("ipc")),
        isolation: owned(parsed.text("isolation")),
        links: some(parsed.values("link", host::link)?),
        oom_score_adj: parsed.value("oom-score-adj", integer)?.unwrap_or(0),
        pid_mode: pid_mode(parsed)?,
        runtime: owned(parsed.text("runtime")),
        storage_opt: storage_options(parsed)?,
        sysctls: parsed
            .values("sysctl", sysctl::parse)?
            .into_iter()
            .collect(),
        userns_mode: owned(parsed.text("userns")),
        uts_mode: mode(parsed, "uts", "UTS", &["host"])?,
        volume_driver: owned(parsed.text("volume-driver")),
        volumes_from: some(texts(parsed.texts("volumes-from"))),
        console_size: console_size(tty),
        cap_add: capabilities(&parsed.texts("cap-add")),
        cap_drop: capabilities(&parsed.texts("cap-drop")),
        dns: Some(parsed.values("dns", host::address)?),
        dns_options: Some(texts(
            [parsed.texts("dns-opt"), parsed.texts("dns-option")].concat(),
        )),
        dns_search: Some(parsed.values("dns-search", host::search_domain)?),
        extra_hosts: some(parsed.values("add-host", host::extra_host)?),
        privileged: parsed.switch("privileged")?,
        publish_all_ports: parsed.switch("publish-all")?,
        readonly_rootfs: parsed.switch("read-only")?,
        security_opt: some(security.options),
        tmpfs: mounts.tmpfs,
        shm_size: parsed.value("shm-size", size::bytes)?.unwrap_or(0),
        resources: resources(parsed)?,
        mounts: mounts.mounts,
        masked_paths: security.unmasked.then(Vec::new),
        readonly_paths: security.unmasked.then(Vec::new),
        init: match parsed.given("init") {
            true => Some(parsed.switch("init")?),
            false => None,
        },
        ..HostConfig::default()
    };
    check_image(image)?;
    Ok(Wanted {
        name: parsed
            .text("name")
            .filter(|name| !name.is_empty())
            .map(str::to_owned),
        platform: parsed
            .text("platform")
            .map(str::to_owned)
            .or_else(|| variable("DOCKER_DEFAULT_PLATFORM")),
        cidfile: parsed
            .text("cidfile")
            .filter(|path| !path.is_empty())
            .map(str::to_owned),
        pull: when_to_pull(parsed)?,
        quiet: parsed.switch("quiet")?,
        request: CreateRequest {
            config,
            host_config: Some(host_config),
            networking_config: Some(NetworkingConfig {
                endpoints_config: endpoints(parsed, network)?,
            }),
        },
    })
}

/// Refuses what can be neither a name nor an identity of an image, before anybody is asked.
fn check_image(image: &str) -> Result<(), Failure> {
    let digits = image.strip_prefix("sha256:").unwrap_or(image);
    if digits.len() == 64 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    match pull::parse(image) {
        Ok(_) => Ok(()),
        Err(failure) => Err(in_command(failure.text())),
    }
}

/// What a client is attached to.
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

impl Streams {
    /// `-a`; without it everything, where anything at all is attached.
    fn read(parsed: &Parsed<'_>, attached: bool) -> Result<Self, Failure> {
        let wanted = parsed.texts("attach");
        let mut streams = Self {
            stdin: false,
            stdout: false,
            stderr: false,
        };
        if wanted.is_empty() {
            return Ok(Self {
                stdin: attached && parsed.switch("interactive")?,
                stdout: attached,
                stderr: attached,
            });
        }
        for stream in wanted {
            match stream.to_ascii_lowercase().as_str() {
                "stdin" => streams.stdin = true,
                "stdout" => streams.stdout = true,
                "stderr" => streams.stderr = true,
                _ => {
                    let why = "valid streams are STDIN, STDOUT and STDERR";
                    return Err(parsed.invalid("attach", stream, why));
                }
            }
        }
        if !attached {
            return Err(Failure::message(
                "conflicting options: cannot specify both --attach and --detach",
            ));
        }
        Ok(streams)
    }
}

fn in_command(message: impl Into<String>) -> Failure {
    Failure::Command {
        message: message.into(),
        code: 125,
    }
}

/// `key=value` of a flag that is given several times; a key alone has an empty value.
fn pairs(parsed: &Parsed<'_>, flag: &str) -> BTreeMap<String, String> {
    let pair = |text: &str| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), value.to_owned())
    };
    parsed.texts(flag).into_iter().map(pair).collect()
}

fn storage_options(parsed: &Parsed<'_>) -> Result<BTreeMap<String, String>, Failure> {
    if parsed
        .texts("storage-opt")
        .iter()
        .any(|text| !text.contains('='))
    {
        return Err(in_command("invalid storage option"));
    }
    Ok(pairs(parsed, "storage-opt"))
}

/// A namespace of one of these kinds, or the usual one.
fn mode(parsed: &Parsed<'_>, flag: &str, kind: &str, known: &[&str]) -> Result<String, Failure> {
    match parsed.text(flag).unwrap_or_default() {
        text if text.is_empty() || known.contains(&text) => Ok(text.to_owned()),
        _ => Err(in_command(format!("--{flag}: invalid {kind} mode"))),
    }
}

fn pid_mode(parsed: &Parsed<'_>) -> Result<String, Failure> {
    match parsed
        .text("pid")
        .and_then(|text| text.strip_prefix("container:"))
    {
        Some(other) if !other.is_empty() => Ok(format!("container:{other}")),
        _ => mode(parsed, "pid", "PID", &["host"]),
    }
}

fn log_options(parsed: &Parsed<'_>) -> Result<BTreeMap<String, String>, Failure> {
    let options = pairs(parsed, "log-opt");
    if parsed.text("log-driver") == Some("none") && !options.is_empty() {
        return Err(in_command("invalid logging opts for driver none"));
    }
    Ok(options)
}

/// The labels of `--label-file` and then those of `-l`.
fn labels(parsed: &Parsed<'_>) -> Result<BTreeMap<String, String>, Failure> {
    let mut labels = BTreeMap::new();
    for path in parsed.texts("label-file") {
        let content = std::fs::read(path)
            .map_err(|error| in_command(format!("open {path}: {}", describe_io(&error))))?;
        // A label without a value is empty.
        let lines = environment::file(&content, path, &|_| Some(String::new()));
        for line in lines.map_err(|why| wrong_file(path, &why))? {
            let label = environment::label(&line).map_err(in_command)?;
            labels.insert(label.0, label.1);
        }
    }
    labels.extend(parsed.values("label", environment::label)?);
    Ok(labels)
}

/// Of a file of variables or labels, both of which Docker calls so.
fn wrong_file(path: &str, why: &str) -> Failure {
    in_command(format!("invalid env file ({path}): {why}"))
}

fn restart_policy(parsed: &Parsed<'_>) -> Result<RestartPolicy, Failure> {
    let policy = restart::parse(parsed.text("restart").unwrap_or("no")).map_err(in_command)?;
    if parsed.switch("rm")? && !matches!(policy.name.as_str(), "" | "no") {
        return Err(in_command(
            "conflicting options: cannot specify both --restart and --rm",
        ));
    }
    Ok(policy)
}

/// What is asked of the container's place in its network.
fn endpoints(
    parsed: &Parsed<'_>,
    network: String,
) -> Result<BTreeMap<String, EndpointSettings>, Failure> {
    let (ipv4, ipv6) = (owned(parsed.text("ip")), owned(parsed.text("ip6")));
    let aliases = [parsed.texts("net-alias"), parsed.texts("network-alias")].concat();
    let has_no_names = ["default", "bridge", "host", "none"].contains(&network.as_str())
        || network.starts_with("container:");
    if !aliases.is_empty() && has_no_names {
        return Err(Failure::Command {
            message: "network-scoped aliases are only supported for user-defined networks"
                .to_owned(),
            code: 125,
        });
    }
    let mac = parsed.text("mac-address").filter(|text| !text.is_empty());
    let mac = mac.map(host::mac_address).transpose().map_err(in_command)?;
    let asks = !ipv4.is_empty() || !ipv6.is_empty() || !aliases.is_empty() || mac.is_some();
    // A mode has no settings; where some are asked for, the engine says so.
    if network != "default" && !asks {
        return Ok(BTreeMap::new());
    }
    let settings = EndpointSettings {
        ipam_config: (!ipv4.is_empty() || !ipv6.is_empty()).then(|| EndpointIpamConfig {
            ipv4_address: ipv4,
            ipv6_address: ipv6,
            ..EndpointIpamConfig::default()
        }),
        aliases: some(aliases.into_iter().map(str::to_owned).collect()),
        mac_address: mac.unwrap_or_default(),
        ..EndpointSettings::default()
    };
    Ok(BTreeMap::from([(network, settings)]))
}

/// Names of capabilities as the kernel has them.
fn capabilities(names: &[&str]) -> Option<Words> {
    let full = |name: &&str| {
        let name = name.trim().to_ascii_uppercase();
        if name == "ALL" || name.starts_with("CAP_") {
            name
        } else {
            format!("CAP_{name}")
        }
    };
    (!names.is_empty()).then(|| Words(names.iter().map(full).collect()))
}

fn owned(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

fn some(texts: Vec<String>) -> Option<Vec<String>> {
    (!texts.is_empty()).then_some(texts)
}

/// An error of a file in Go's words.
pub(crate) fn describe_io(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

fn when_to_pull(parsed: &Parsed<'_>) -> Result<Pull, Failure> {
    match parsed.text("pull").unwrap_or("missing") {
        "always" => Ok(Pull::Always),
        "missing" | "" => Ok(Pull::Missing),
        "never" => Ok(Pull::Never),
        other => Err(Failure::Command {
            message: format!(
                "invalid pull option: '{other}': must be one of \"always\", \"missing\" or \"never\""
            ),
            code: 125,
        }),
    }
}

fn console_size(tty: bool) -> [u32; 2] {
    match terminal::size() {
        Some((rows, columns)) if tty => [rows.into(), columns.into()],
        _ => [0, 0],
    }
}

/// The variables of `--env-file` and then those of `-e`.
pub(crate) fn variables(parsed: &Parsed<'_>) -> Result<Vec<String>, Failure> {
    let lookup = |name: &str| std::env::var(name).ok();
    let mut variables = Vec::new();
    for path in parsed.texts("env-file") {
        let in_command = |message: String| Failure::Command { message, code: 125 };
        let content = std::fs::read(path)
            .map_err(|error| in_command(format!("open {path}: {}", describe_io(&error))))?;
        let lines = environment::file(&content, path, &lookup);
        variables.extend(lines.map_err(|why| wrong_file(path, &why))?);
    }
    let given = parsed.values("env", |text| environment::variable(text, &lookup))?;
    variables.extend(given.into_iter().flatten());
    Ok(variables)
}

/// What Docker takes of a network beside its name.
const NETWORK_OPTIONS: &[&str] = &[
    "alias",
    "driver-opt",
    "gw-priority",
    "ip",
    "ip6",
    "link-local-ip",
    "mac-address",
];

fn network(parsed: &Parsed<'_>) -> Result<String, Failure> {
    let given = [parsed.texts("network"), parsed.texts("net")].concat();
    let Some(text) = given.last() else {
        return Ok("default".to_owned());
    };
    let is_mode = |name: &&str| {
        ["default", "bridge", "host", "none"].contains(name) || name.starts_with("container:")
    };
    if given.len() > 1 && given.iter().any(is_mode) {
        return Err(in_command(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
        ));
    }
    let mut name = None;
    let names = |field: &str| !field.contains('=') || field.starts_with("name=");
    let known = |field: &str| NETWORK_OPTIONS.contains(&field.split('=').next().unwrap_or(field));
    if !text.split(',').any(names) && text.split(',').all(known) {
        return Err(parsed.invalid("network", text, "network name/id is not specified"));
    }
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("name", value)) => name = Some(value),
            None if name.is_none() => name = Some(field),
            Some((key, _)) if !NETWORK_OPTIONS.contains(&key) => {
                return Err(parsed.invalid("network", text, &format!("invalid field key {key}")));
            }
            _ => {
                let option = field.split('=').next().unwrap_or(field);
                return Err(parsed.invalid(
                    "network",
                    text,
                    &format!("the option {option:?} is not supported yet by sampan"),
                ));
            }
        }
    }
    match name {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(Failure::Command {
            message: "no name set for network".to_owned(),
            code: 125,
        }),
    }
}

fn resources(parsed: &Parsed<'_>) -> Result<Resources, Failure> {
    let texts = parsed.texts("device").into_iter();
    let (described, devices): (Vec<&str>, Vec<&str>) =
        texts.partition(|text| gpus::is_described(text));
    let devices: Result<Vec<_>, String> = devices.into_iter().map(device::parse).collect();
    let devices = devices.map_err(|message| Failure::Command { message, code: 125 })?;
    let mut requests = parsed.values("gpus", gpus::parse)?;
    if !described.is_empty() {
        requests.push(DeviceRequest {
            driver: "cdi".to_owned(),
            device_ids: Some(described.into_iter().map(str::to_owned).collect()),
            ..DeviceRequest::default()
        });
    }
    let swappiness = parsed.value("memory-swappiness", integer)?.unwrap_or(-1);
    if !(-1..=100).contains(&swappiness) {
        return Err(in_command(format!(
            "invalid value: {swappiness}. Valid memory swappiness range is 0-100"
        )));
    }
    let mut ulimits = parsed.values("ulimit", ulimit::parse)?;
    // As Docker sends them.
    ulimits.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Resources {
        blkio_weight: parsed.value("blkio-weight", device::weight)?.unwrap_or(0),
        cgroup_parent: owned(parsed.text("cgroup-parent")),
        cpu_period: parsed.value("cpu-period", integer)?.unwrap_or(0),
        cpu_quota: parsed.value("cpu-quota", integer)?.unwrap_or(0),
        cpu_realtime_period: parsed.value("cpu-rt-period", integer)?.unwrap_or(0),
        cpu_realtime_runtime: parsed.value("cpu-rt-runtime", integer)?.unwrap_or(0),
        cpuset_mems: owned(parsed.text("cpuset-mems")),
        device_cgroup_rules: some(parsed.values("device-cgroup-rule", device::rule)?),
        memory_reservation: parsed
            .value("memory-reservation", size::bytes)?
            .unwrap_or(0),
        cpu_shares: parsed.value("cpu-shares", integer)?.unwrap_or(0),
        memory: parsed.value("memory", size::bytes)?.unwrap_or(0),
        nano_cpus: parsed.value("cpus", size::cpus)?.unwrap_or(0),
        blkio_weight_device: Some(parsed.values("blkio-weight-device", device::device_weight)?),
        blkio_device_read_bps: Some(parsed.values("device-read-bps", device::byte_rate)?),
        blkio_device_write_bps: Some(parsed.values("device-write-bps", device::byte_rate)?),
        blkio_device_read_iops: Some(parsed.values("device-read-iops", device::rate)?),
        blkio_device_write_iops: Some(parsed.values("device-write-iops", device::rate)?),
        cpuset_cpus: owned(parsed.text("cpuset-cpus")),
        devices: Some(devices),
        device_requests: (!requests.is_empty()).then_some(requests),
        memory_swap: parsed.value("memory-swap", size::swap)?.unwrap_or(0),
        memory_swappiness: Some(swappiness),
        oom_kill_disable: Some(parsed.switch("oom-kill-disable")?),
        pids_limit: Some(parsed.value("pids-limit", integer)?.unwrap_or(0)),
        ulimits: Some(ulimits),
        ..Resources::default()
    })
}

struct Mounts {
    binds: Vec<String>,
    anonymous: BTreeMap<String, Empty>,
    tmpfs: BTreeMap<String, String>,
    mounts: Vec<sampan_api::types::mount::Mount>,
}

impl Mounts {
    fn read(parsed: &Parsed<'_>, directory: &Path) -> Result<Self, Failure> {
        let home = variable("HOME").unwrap_or_else(|| "/root".to_owned());
        let mut binds = Vec::new();
        let mut anonymous = BTreeMap::new();
        for text in parsed.texts("volume") {
            match volume::parse(text, directory, &home).map_err(in_command)? {
                Volume::Bind(bind) => binds.push(bind),
                Volume::Anonymous(path) => {
                    anonymous.insert(path, Empty);
                }
            }
        }
        let tmpfs = parsed.texts("tmpfs").into_iter().map(|text| {
            let (path, options) = text.split_once(':').unwrap_or((text, ""));
            (path.to_owned(), options.to_owned())
        });
        Ok(Self {
            binds,
            anonymous,
            tmpfs: tmpfs.collect(),
            mounts: parsed.values("mount", |text| mount::parse(text, directory))?,
        })
    }
}

struct Ports {
    exposed: BTreeMap<String, Empty>,
    bindings: PortMap,
}

impl Ports {
    fn read(parsed: &Parsed<'_>) -> Result<Self, Failure> {
        let mut bindings = PortMap::new();
        for text in parsed.texts("publish") {
            let published =
                port::parse(text).map_err(|message| Failure::Command { message, code: 125 })?;
            for (port, binding) in published {
                bindings
                    .entry(port)
                    .or_default()
                    .get_or_insert_default()
                    .push(binding);
            }
        }
        let mut exposed: BTreeMap<_, _> =
            bindings.keys().map(|port| (port.clone(), Empty)).collect();
        for text in parsed.texts("expose") {
            let ports =
                port::exposed(text).map_err(|message| Failure::Command { message, code: 125 })?;
            exposed.extend(ports.into_iter().map(|port| (port, Empty)));
        }
        Ok(Self { exposed, bindings })
    }
}
