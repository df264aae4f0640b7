//! What a container is asked to be: plain data, as it is stored and shown again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::mount::{BindSpec, MountRequest};
use crate::{Error, Result};

/// The part of a container's configuration that moves between hosts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Host name; empty for the short identity.
    pub hostname: String,
    /// NIS domain.
    pub domainname: String,
    /// `name|uid[:group|gid]`; empty for the image's.
    pub user: String,
    /// The creating client attaches to standard input.
    pub attach_stdin: bool,
    /// The creating client attaches to standard output.
    pub attach_stdout: bool,
    /// The creating client attaches to standard error.
    pub attach_stderr: bool,
    /// Ports that are exposed without being published.
    pub exposed_ports: BTreeSet<ContainerPort>,
    /// Gives the process a terminal.
    pub tty: bool,
    /// Gives the process a standard input.
    pub open_stdin: bool,
    /// Ends standard input when the first client that feeds it leaves.
    pub stdin_once: bool,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Command, or arguments of the entry point.
    pub cmd: Option<Vec<String>>,
    /// Health check; absent for the image's.
    pub healthcheck: Option<HealthCheck>,
    /// Image, as it was asked for.
    pub image: String,
    /// Destinations of anonymous volumes.
    pub volumes: BTreeSet<String>,
    /// Working directory.
    pub working_dir: String,
    /// Entry point.
    pub entrypoint: Option<Vec<String>>,
    /// No network but loopback.
    pub network_disabled: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the process to end, by name or number; empty for SIGTERM.
    pub stop_signal: String,
    /// Seconds to wait after that signal; -1 for ever.
    pub stop_timeout: Option<i64>,
    /// Triggers of images.
    pub on_build: Vec<String>,
    /// Shell for the shell form of commands.
    pub shell: Option<Vec<String>>,
}

/// A health check; durations in nanoseconds, 0 to inherit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// `[]` inherits, `["NONE"]`, `["CMD", ...]`, `["CMD-SHELL", text]`.
    pub test: Vec<String>,
    /// Between checks.
    pub interval: i64,
    /// Of one check.
    pub timeout: i64,
    /// In which failures do not count.
    pub start_period: i64,
    /// Between checks in the start period.
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    pub retries: i64,
}

/// The part of a container's configuration that depends on the host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostConfig {
    /// `-v`.
    pub binds: Vec<BindSpec>,
    /// `--mount`.
    pub mounts: Vec<MountRequest>,
    /// `--tmpfs`: destination to options.
    pub tmpfs: BTreeMap<String, String>,
    /// `container[:ro|rw]`.
    pub volumes_from: Vec<String>,
    /// Driver of volumes that `binds` names; empty for `local`.
    pub volume_driver: String,
    /// Where a client wrote the identity; only remembered.
    pub container_id_file: String,
    /// Log driver.
    pub log: LogConfig,
    /// Network mode.
    pub network_mode: NetworkMode,
    /// Published ports.
    pub port_bindings: BTreeMap<ContainerPort, Vec<PortBinding>>,
    /// Publishes each exposed port on some host port.
    pub publish_all_ports: bool,
    /// When to start again.
    pub restart_policy: RestartPolicy,
    /// Removes the container at its end.
    pub auto_remove: bool,
    /// Rows and columns of the terminal at the start; zeros when unknown.
    pub console_size: [u16; 2],
    /// Metadata for the runtime.
    pub annotations: BTreeMap<String, String>,
    /// Capabilities beyond the default (`NET_ADMIN`, `CAP_NET_ADMIN`, `ALL`).
    pub cap_add: Vec<String>,
    /// Capabilities of the default that are dropped.
    pub cap_drop: Vec<String>,
    /// `private`, `host` or empty for the default of the host's cgroup version.
    pub cgroupns_mode: String,
    /// Name servers.
    pub dns: Vec<String>,
    /// Resolver options.
    pub dns_options: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// `name:address`.
    pub extra_hosts: Vec<String>,
    /// Supplementary groups.
    pub group_add: Vec<String>,
    /// IPC namespace.
    pub ipc_mode: IpcMode,
    /// PID namespace.
    pub pid_mode: PidMode,
    /// UTS namespace.
    pub uts_mode: UtsMode,
    /// `host` or empty.
    pub userns_mode: String,
    /// Legacy links.
    pub links: Vec<String>,
    /// -1000 to 1000.
    pub oom_score_adj: i32,
    /// All of the host's powers.
    pub privileged: bool,
    /// Root file system read-only.
    pub readonly_rootfs: bool,
    /// `seccomp=...`, `no-new-privileges`, `systempaths=unconfined`, ...
    pub security_opt: Vec<String>,
    /// Options of the storage driver.
    pub storage_opt: BTreeMap<String, String>,
    /// Bytes of `/dev/shm`; 0 for 64 MiB.
    pub shm_size: i64,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// OCI runtime; empty for the built-in one.
    pub runtime: String,
    /// Limits.
    pub resources: Resources,
    /// Hidden paths; absent for the default.
    pub masked_paths: Option<Vec<String>>,
    /// Read-only paths; absent for the default.
    pub readonly_paths: Option<Vec<String>>,
    /// Runs an init that reaps.
    pub init: Option<bool>,
}

/// Limits. Zero is "not set" unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Relative weight.
    pub cpu_shares: i64,
    /// Bytes.
    pub memory: i64,
    /// Billionths of a CPU.
    pub nano_cpus: i64,
    /// Cgroup above the container's.
    pub cgroup_parent: String,
    /// 10 to 1000.
    pub blkio_weight: u16,
    /// The same for some devices.
    pub blkio_weight_device: Vec<DeviceRate>,
    /// Bytes a second.
    pub blkio_read_bps: Vec<DeviceRate>,
    /// Bytes a second.
    pub blkio_write_bps: Vec<DeviceRate>,
    /// Operations a second.
    pub blkio_read_iops: Vec<DeviceRate>,
    /// Operations a second.
    pub blkio_write_iops: Vec<DeviceRate>,
    /// Microseconds.
    pub cpu_realtime_period: i64,
    /// Microseconds per period.
    pub cpu_realtime_runtime: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds per period.
    pub cpu_quota: i64,
    /// Such as `0-2,4`.
    pub cpuset_cpus: String,
    /// Such as `0`.
    pub cpuset_mems: String,
    /// Devices of the host.
    pub devices: Vec<DeviceMapping>,
    /// Rules such as `c 42:* rmw`.
    pub device_cgroup_rules: Vec<String>,
    /// Devices that vendors describe.
    pub device_requests: Vec<DeviceRequest>,
    /// Soft limit in bytes.
    pub memory_reservation: i64,
    /// Memory and swap together in bytes; -1 for no limit.
    pub memory_swap: i64,
    /// 0 to 100.
    pub memory_swappiness: Option<i64>,
    /// Does not kill when memory is short.
    pub oom_kill_disable: Option<bool>,
    /// Number of processes; 0 or less for no limit.
    pub pids_limit: Option<i64>,
    /// Resource limits of processes.
    pub ulimits: Vec<Ulimit>,
}

/// A number for one block device of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRate {
    /// Path on the host.
    pub path: String,
    /// The number.
    pub rate: u64,
}

/// A device of the host in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    /// Path on the host.
    pub path_on_host: String,
    /// Path in the container; empty for the same.
    pub path_in_container: String,
    /// Some of `rwm`; empty for all.
    pub cgroup_permissions: String,
}

/// Devices that were asked for by what they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// `cdi`, or empty or `nvidia` for graphics processors.
    pub driver: String,
    /// How many; -1 for all.
    pub count: i64,
    /// Which.
    pub ids: Vec<String>,
    /// One of these lists must be had entirely.
    pub capabilities: Vec<Vec<String>>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

/// A resource limit of processes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Such as `nofile`.
    pub name: String,
    /// Soft limit; -1 for none.
    pub soft: i64,
    /// Hard limit; -1 for none.
    pub hard: i64,
}

/// Log driver of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// Name; empty for `json-file`.
    pub driver: String,
    /// Options.
    pub options: BTreeMap<String, String>,
}

/// A host address and port that was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// Address; empty for all.
    pub host_ip: String,
    /// Port or range; empty or `0` for any.
    pub host_port: String,
}

/// Transport of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port of a container: `80/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerPort {
    /// Number.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
}

impl fmt::Display for ContainerPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

impl FromStr for ContainerPort {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Err(Error::invalid(format!("invalid proto: {protocol}"))),
        };
        match port.parse::<u16>() {
            Ok(port) if port > 0 && !text.starts_with('+') => Ok(Self { port, protocol }),
            _ => Err(Error::invalid(format!(
                "invalid port specification: {text:?}"
            ))),
        }
    }
}

impl TryFrom<String> for ContainerPort {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ContainerPort> for String {
    fn from(port: ContainerPort) -> Self {
        port.to_string()
    }
}

/// When a container is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// Whenever it ends, also after a start of the engine.
    Always,
    /// Whenever it ends, unless it was stopped by hand.
    UnlessStopped,
    /// When it ends with a code other than 0, at most so often; 0 is for ever.
    OnFailure(u32),
}

macro_rules! mode {
    (
        $(#[$doc:meta])* $name:ident {
            $($(#[$variant_doc:meta])* $variant:ident = $text:literal),* $(,)?
        }
        $(container: $(#[$container_doc:meta])* $container:ident;)?
        $(other: $(#[$other_doc:meta])* $other:ident;)?
        $(error: $error:literal;)?
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
            $($(#[$container_doc])* $container(String),)?
            $($(#[$other_doc])* $other(String),)?
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($text),)*
                    $(Self::$container(name) => write!(f, "container:{name}"),)?
                    $(Self::$other(name) => f.write_str(name),)?
                }
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($text => return Ok(Self::$variant),)*
                    _ => {}
                }
                $(
                    if let Some(name) = text.strip_prefix("container:") {
                        if name.is_empty() {
                            return Err(Error::invalid(format!(
                                "invalid mode {text:?}: the container is not named"
                            )));
                        }
                        return Ok(Self::$container(name.to_owned()));
                    }
                )?
                $(return Ok(Self::$other(text.to_owned()));)?
                $(Err(Error::invalid(format!("invalid {} mode: {text}", $error))))?
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(mode: $name) -> Self {
                mode.to_string()
            }
        }
    };
}

mode!(
    /// Where a container's network namespace comes from.
    NetworkMode {
        /// The default network. Also written as the empty text, which is shown as `default`.
        #[default]
        Default = "default",
        /// The default network, by its name.
        Bridge = "bridge",
        /// The host's.
        Host = "host",
        /// Only loopback.
        None = "none",
    }
    container: /// That of another container.
        Container;
    other: /// A network of that name.
        Network;
);

impl NetworkMode {
    /// Returns whether the container gets a place on the default bridge.
    pub fn is_bridge(&self) -> bool {
        matches!(self, Self::Default | Self::Bridge)
    }

    /// Returns whether the container has a network namespace of its own.
    pub fn is_private(&self) -> bool {
        !matches!(self, Self::Host | Self::Container(_))
    }
}

mode!(
    /// IPC namespace of a container.
    IpcMode {
        /// The engine's default, which is `private`.
        #[default]
        Default = "",
        /// No `/dev/shm`.
        None = "none",
        /// Own.
        Private = "private",
        /// Own, may be joined.
        Shareable = "shareable",
        /// The host's.
        Host = "host",
    }
    container: /// That of another container.
        Container;
    error: "IPC";
);

mode!(
    /// PID namespace of a container.
    PidMode {
        /// Own.
        #[default]
        Private = "",
        /// The host's.
        Host = "host",
    }
    container: /// That of another container.
        Container;
    error: "PID";
);

mode!(
    /// UTS namespace of a container.
    UtsMode {
        /// Own.
        #[default]
        Private = "",
        /// The host's.
        Host = "host",
    }
    error: "UTS";
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_docker_writes_them() {
        assert_eq!(
            "80/tcp".parse::<ContainerPort>().unwrap().to_string(),
            "80/tcp"
        );
        assert_eq!(
            "53/UDP".parse::<ContainerPort>().unwrap().to_string(),
            "53/udp"
        );
        assert_eq!(
            "80".parse::<ContainerPort>().unwrap().protocol,
            Protocol::Tcp
        );
        for text in [
            "",
            "/tcp",
            "0/tcp",
            "65536/tcp",
            "80/icmp",
            "-1",
            "+80",
            "80-90/tcp",
        ] {
            assert!(text.parse::<ContainerPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn modes_are_read_and_written_the_same() {
        for text in ["default", "bridge", "host", "none", "container:db", "mynet"] {
            assert_eq!(text.parse::<NetworkMode>().unwrap().to_string(), text);
        }
        for text in ["", "none", "private", "shareable", "host", "container:x"] {
            assert_eq!(text.parse::<IpcMode>().unwrap().to_string(), text);
        }
        assert!("container:".parse::<NetworkMode>().is_err());
        assert!("nonsense".parse::<IpcMode>().is_err());
        assert!("container:x".parse::<UtsMode>().is_err());
    }
}
