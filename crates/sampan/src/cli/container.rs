//! The flags of `run` and `create`, and the request they make.

use std::collections::BTreeMap;
use std::path::Path;

use sampan_api::types::container::{ContainerConfig, CreateRequest};
use sampan_api::types::host_config::{HostConfig, LogConfig, PortMap, Resources, RestartPolicy};
use sampan_api::types::network::{EndpointSettings, NetworkingConfig};
use sampan_api::wire::{Empty, Words};

use super::command::{Flag, Parsed};
use super::failure::Failure;
use super::flags::volume::Volume;
use super::flags::{
    device, environment, host, integer, mount, port, security, size, ulimit, volume,
};
use super::session::variable;
use super::terminal;

/// Flags of both commands.
pub(crate) const FLAGS: &[Flag] = &[
    Flag::many(
        "add-host",
        "list",
        "Add a custom host-to-IP mapping (host:ip)",
    ),
    Flag::many("cap-add", "list", "Add Linux capabilities"),
    Flag::many("cap-drop", "list", "Drop Linux capabilities"),
    Flag::one("cidfile", "string", "Write the container ID to the file"),
    Flag::one("cpu-shares", "int", "CPU shares (relative weight)").short('c'),
    Flag::one("cpus", "decimal", "Number of CPUs"),
    Flag::one(
        "cpuset-cpus",
        "string",
        "CPUs in which to allow execution (0-3, 0,1)",
    ),
    Flag::many("device", "list", "Add a host device to the container"),
    Flag::many("dns", "list", "Set custom DNS servers"),
    Flag::one(
        "entrypoint",
        "string",
        "Overwrite the default ENTRYPOINT of the image",
    ),
    Flag::many("env", "list", "Set environment variables").short('e'),
    Flag::many(
        "env-file",
        "list",
        "Read in a file of environment variables",
    ),
    Flag::one("hostname", "string", "Container host name").short('h'),
    Flag::switch(
        "init",
        "Run an init inside the container that forwards signals and reaps processes",
    ),
    Flag::switch("interactive", "Keep STDIN open even if not attached").short('i'),
    Flag::many("label", "list", "Set meta data on a container").short('l'),
    Flag::one("memory", "bytes", "Memory limit").short('m'),
    Flag::one(
        "memory-swap",
        "bytes",
        "Swap limit equal to memory plus swap: '-1' to enable unlimited swap",
    ),
    Flag::many(
        "mount",
        "mount",
        "Attach a filesystem mount to the container",
    ),
    Flag::one("name", "string", "Assign a name to the container"),
    Flag::one("net", "network", "").hidden(),
    Flag::one("network", "network", "Connect a container to a network"),
    Flag::one(
        "pids-limit",
        "int",
        "Tune container pids limit (set -1 for unlimited)",
    ),
    Flag::one(
        "platform",
        "string",
        "Set platform if server is multi-platform capable",
    ),
    Flag::switch("privileged", "Give extended privileges to this container"),
    Flag::many(
        "publish",
        "list",
        "Publish a container's port(s) to the host",
    )
    .short('p'),
    Flag::switch("publish-all", "Publish all exposed ports to random ports").short('P'),
    Flag::switch(
        "read-only",
        "Mount the container's root filesystem as read only",
    ),
    Flag::switch(
        "rm",
        "Automatically remove the container and its associated anonymous volumes when it exits",
    ),
    Flag::many("security-opt", "list", "Security Options"),
    Flag::one("shm-size", "bytes", "Size of /dev/shm"),
    Flag::one("stop-signal", "string", "Signal to stop the container"),
    Flag::one(
        "stop-timeout",
        "int",
        "Timeout (in seconds) to stop a container",
    ),
    Flag::many("tmpfs", "list", "Mount a tmpfs directory"),
    Flag::switch("tty", "Allocate a pseudo-TTY").short('t'),
    Flag::many("ulimit", "ulimit", "Ulimit options").default("[]"),
    Flag::one(
        "user",
        "string",
        "Username or UID (format: <name|uid>[:<group|gid>])",
    )
    .short('u'),
    Flag::many("volume", "list", "Bind mount a volume").short('v'),
    Flag::many(
        "volumes-from",
        "list",
        "Mount volumes from the specified container(s)",
    ),
    Flag::one(
        "workdir",
        "string",
        "Working directory inside the container",
    )
    .short('w'),
];

/// `--pull`, which says what comes after it.
pub(crate) const PULL_BEFORE_RUNNING: Flag = Flag::one(
    "pull",
    "string",
    "Pull image before running (\"always\", \"missing\", \"never\")",
)
.default("missing");

/// `--pull`, which says what comes after it.
pub(crate) const PULL_BEFORE_CREATING: Flag = Flag::one(
    "pull",
    "string",
    "Pull image before creating (\"always\", \"missing\", \"never\")",
)
.default("missing");

/// Docker's flags of both commands that do not work yet.
pub(crate) const REFUSED: &[(&str, Option<char>)] = &[
    ("annotation", None),
    ("attach", Some('a')),
    ("blkio-weight", None),
    ("blkio-weight-device", None),
    ("cgroup-parent", None),
    ("cgroupns", None),
    ("cpu-count", None),
    ("cpu-percent", None),
    ("cpu-period", None),
    ("cpu-quota", None),
    ("cpu-rt-period", None),
    ("cpu-rt-runtime", None),
    ("cpuset-mems", None),
    ("detach", Some('d')),
    ("detach-keys", None),
    ("device-cgroup-rule", None),
    ("device-read-bps", None),
    ("device-read-iops", None),
    ("device-write-bps", None),
    ("device-write-iops", None),
    ("disable-content-trust", None),
    ("dns-opt", None),
    ("dns-option", None),
    ("dns-search", None),
    ("domainname", None),
    ("expose", None),
    ("gpus", None),
    ("group-add", None),
    ("health-cmd", None),
    ("health-interval", None),
    ("health-retries", None),
    ("health-start-interval", None),
    ("health-start-period", None),
    ("health-timeout", None),
    ("io-maxbandwidth", None),
    ("io-maxiops", None),
    ("ip", None),
    ("ip6", None),
    ("ipc", None),
    ("isolation", None),
    ("kernel-memory", None),
    ("label-file", None),
    ("link", None),
    ("link-local-ip", None),
    ("log-driver", None),
    ("log-opt", None),
    ("mac-address", None),
    ("memory-reservation", None),
    ("memory-swappiness", None),
    ("net-alias", None),
    ("network-alias", None),
    ("no-healthcheck", None),
    ("oom-kill-disable", None),
    ("oom-score-adj", None),
    ("pid", None),
    ("quiet", Some('q')),
    ("restart", None),
    ("runtime", None),
    ("sig-proxy", None),
    ("storage-opt", None),
    ("sysctl", None),
    ("use-api-socket", None),
    ("userns", None),
    ("uts", None),
    ("volume-driver", None),
];

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
    let attach_stdin = interactive && attached;
    let directory = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let mounts = Mounts::read(parsed, &directory)?;
    let ports = Ports::read(parsed)?;
    let options = parsed.texts("security-opt");
    let security = security::parse(&options, |file| {
        std::fs::read_to_string(file).map_err(|error| describe_io(&error))
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
        attach_stdout: attached,
        attach_stderr: attached,
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
        labels: Some(
            parsed
                .values("label", environment::label)?
                .into_iter()
                .collect(),
        ),
        stop_signal: owned(parsed.text("stop-signal")),
        stop_timeout: parsed.value("stop-timeout", integer)?,
        ..ContainerConfig::default()
    };
    let network = network(parsed)?;
    let host_config = HostConfig {
        binds: (!mounts.binds.is_empty()).then_some(mounts.binds),
        container_id_file: owned(parsed.text("cidfile")),
        log_config: LogConfig {
            config: Some(BTreeMap::new()),
            ..LogConfig::default()
        },
        network_mode: network.clone(),
        port_bindings: Some(ports.bindings),
        restart_policy: RestartPolicy {
            name: "no".to_owned(),
            maximum_retry_count: 0,
        },
        auto_remove: parsed.switch("rm")?,
        volumes_from: some(texts(parsed.texts("volumes-from"))),
        console_size: console_size(tty),
        cap_add: capabilities(&parsed.texts("cap-add")),
        cap_drop: capabilities(&parsed.texts("cap-drop")),
        dns: Some(parsed.values("dns", host::address)?),
        dns_options: Some(Vec::new()),
        dns_search: Some(Vec::new()),
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
        pull: pull(parsed)?,
        request: CreateRequest {
            config,
            host_config: Some(host_config),
            networking_config: Some(NetworkingConfig {
                // What is asked of a network's own settings stands here; a mode has none.
                endpoints_config: (network == "default")
                    .then(|| (network, EndpointSettings::default()))
                    .into_iter()
                    .collect(),
            }),
        },
    })
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

fn pull(parsed: &Parsed<'_>) -> Result<Pull, Failure> {
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
        variables.extend(environment::file(&content, path, &lookup).map_err(in_command)?);
    }
    let given = parsed.values("env", |text| environment::variable(text, &lookup))?;
    variables.extend(given.into_iter().flatten());
    Ok(variables)
}

fn network(parsed: &Parsed<'_>) -> Result<String, Failure> {
    let Some(text) = parsed.text("network").or_else(|| parsed.text("net")) else {
        return Ok("default".to_owned());
    };
    let mut name = None;
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("name", value)) => name = Some(value),
            None if name.is_none() => name = Some(field),
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
    let devices: Result<Vec<_>, String> = parsed
        .texts("device")
        .into_iter()
        .map(device::parse)
        .collect();
    let devices = devices.map_err(|message| Failure::Command { message, code: 125 })?;
    let mut ulimits = parsed.values("ulimit", ulimit::parse)?;
    // As Docker sends them.
    ulimits.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Resources {
        cpu_shares: parsed.value("cpu-shares", integer)?.unwrap_or(0),
        memory: parsed.value("memory", size::bytes)?.unwrap_or(0),
        nano_cpus: parsed.value("cpus", size::cpus)?.unwrap_or(0),
        blkio_weight_device: Some(Vec::new()),
        blkio_device_read_bps: Some(Vec::new()),
        blkio_device_write_bps: Some(Vec::new()),
        blkio_device_read_iops: Some(Vec::new()),
        blkio_device_write_iops: Some(Vec::new()),
        cpuset_cpus: owned(parsed.text("cpuset-cpus")),
        devices: Some(devices),
        memory_swap: parsed.value("memory-swap", size::swap)?.unwrap_or(0),
        memory_swappiness: Some(-1),
        oom_kill_disable: Some(false),
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
        for volume in parsed.values("volume", |text| volume::parse(text, directory, &home))? {
            match volume {
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
        Ok(Self {
            exposed: bindings.keys().map(|port| (port.clone(), Empty)).collect(),
            bindings,
        })
    }
}
