//! Containers.

use std::collections::BTreeMap;

use super::host_config::{HostConfig, PortMap, Resources, RestartPolicy};
use super::mount::MountPoint;
use super::network::{EndpointSettings, NetworkingConfig};
use crate::wire;
use crate::wire::{Empty, Words};

wire! {
    /// The part of a container's configuration that moves between hosts.
    pub struct ContainerConfig {
        /// Host name.
        "Hostname" hostname: String,
        /// Domain.
        "Domainname" domainname: String,
        /// `user[:group]`.
        "User" user: String,
        /// Attach stdin.
        "AttachStdin" attach_stdin: bool,
        /// Attach stdout.
        "AttachStdout" attach_stdout: bool,
        /// Attach stderr.
        "AttachStderr" attach_stderr: bool,
        /// Ports such as `80/tcp`.
        omitempty "ExposedPorts" exposed_ports: BTreeMap<String, Empty>,
        /// Give it a terminal.
        "Tty" tty: bool,
        /// Keep stdin open.
        "OpenStdin" open_stdin: bool,
        /// Close stdin when the first attached client leaves.
        "StdinOnce" stdin_once: bool,
        /// `NAME=value`.
        "Env" env: Option<Vec<String>>,
        /// Command or arguments of the entry point.
        "Cmd" cmd: Option<Words>,
        /// Health check.
        omitempty "Healthcheck" healthcheck: Option<HealthConfig>,
        /// Windows only.
        omitempty "ArgsEscaped" args_escaped: bool,
        /// Image, as it was asked for.
        "Image" image: String,
        /// Paths that are volumes.
        "Volumes" volumes: Option<BTreeMap<String, Empty>>,
        /// Working directory.
        "WorkingDir" working_dir: String,
        /// Entry point.
        "Entrypoint" entrypoint: Option<Words>,
        /// No network.
        omitempty "NetworkDisabled" network_disabled: bool,
        /// Deprecated: in the endpoint since 1.44.
        omitempty "MacAddress" mac_address: String,
        /// Triggers of images.
        "OnBuild" on_build: Option<Vec<String>>,
        /// Labels.
        "Labels" labels: Option<BTreeMap<String, String>>,
        /// Signal that asks it to end.
        omitempty "StopSignal" stop_signal: String,
        /// Seconds to wait after that signal; -1 for ever.
        omitempty "StopTimeout" stop_timeout: Option<i64>,
        /// Shell for the shell form of commands.
        omitempty "Shell" shell: Option<Words>,
    }

    /// Health check; durations in nanoseconds, 0 to inherit.
    pub struct HealthConfig {
        /// `[]` inherit, `["NONE"]`, `["CMD", ...]`, `["CMD-SHELL", text]`.
        omitempty "Test" test: Vec<String>,
        /// Between checks.
        omitempty "Interval" interval: i64,
        /// Of one check.
        omitempty "Timeout" timeout: i64,
        /// In which failures do not count.
        omitempty "StartPeriod" start_period: i64,
        /// Between checks in the start period.
        omitempty "StartInterval" start_interval: i64,
        /// Failures in a row that make it unhealthy.
        omitempty "Retries" retries: i64,
    }

    /// Body of `POST /containers/create`.
    pub struct CreateRequest {
        /// In the same object.
        flatten "ContainerConfig" config: ContainerConfig,
        /// What depends on the host.
        "HostConfig" host_config: Option<HostConfig>,
        /// Networks.
        "NetworkingConfig" networking_config: Option<NetworkingConfig>,
    }

    /// Answer of `POST /containers/create`.
    pub struct CreateResponse {
        /// Identity.
        "Id" id: String,
        /// Warnings; never null.
        "Warnings" warnings: Vec<String>,
    }

    /// One line of `GET /containers/json`.
    pub struct ContainerSummary {
        /// Identity.
        "Id" id: String,
        /// Names with a leading slash.
        "Names" names: Vec<String>,
        /// Image as it was asked for, or its identity when that name has moved.
        "Image" image: String,
        /// Identity of the image.
        "ImageID" image_id: String,
        /// Command as one line.
        "Command" command: String,
        /// Seconds since 1970.
        "Created" created: i64,
        /// Ports; never null.
        "Ports" ports: Vec<Port>,
        /// Bytes of the writable layer, when asked for.
        omitempty "SizeRw" size_rw: i64,
        /// Bytes of all layers, when asked for.
        omitempty "SizeRootFs" size_root_fs: i64,
        /// Labels.
        "Labels" labels: BTreeMap<String, String>,
        /// State in a word.
        "State" state: String,
        /// State for a person, such as `Up 2 hours`.
        "Status" status: String,
        /// A little of the host configuration.
        "HostConfig" host_config: HostConfigSummary,
        /// Networks.
        "NetworkSettings" network_settings: NetworkSettingsSummary,
        /// Mounts; never null.
        "Mounts" mounts: Vec<MountPoint>,
    }

    /// The host configuration in a list.
    pub struct HostConfigSummary {
        /// Network mode.
        omitempty "NetworkMode" network_mode: String,
        /// Annotations.
        omitempty "Annotations" annotations: BTreeMap<String, String>,
    }

    /// The networks in a list.
    pub struct NetworkSettingsSummary {
        /// By network.
        "Networks" networks: BTreeMap<String, EndpointSettings>,
    }

    /// A port in a list.
    pub struct Port {
        /// Host address.
        omitempty "IP" ip: String,
        /// Port in the container.
        "PrivatePort" private_port: u16,
        /// Port on the host.
        omitempty "PublicPort" public_port: u16,
        /// `tcp`, `udp`, `sctp`.
        "Type" kind: String,
    }

    /// Answer of `GET /containers/{id}/json`.
    pub struct ContainerInspect {
        /// Identity.
        "Id" id: String,
        /// Time of creation, RFC 3339 with nanoseconds.
        "Created" created: String,
        /// The program.
        "Path" path: String,
        /// Its arguments; never null.
        "Args" args: Vec<String>,
        /// State.
        "State" state: ContainerState,
        /// Identity of the image.
        "Image" image: String,
        /// File on the host.
        "ResolvConfPath" resolv_conf_path: String,
        /// File on the host.
        "HostnamePath" hostname_path: String,
        /// File on the host.
        "HostsPath" hosts_path: String,
        /// File on the host, or empty.
        "LogPath" log_path: String,
        /// Name with a leading slash.
        "Name" name: String,
        /// Automatic restarts.
        "RestartCount" restart_count: i64,
        /// Storage driver.
        "Driver" driver: String,
        /// `linux`.
        "Platform" platform: String,
        /// SELinux label.
        "MountLabel" mount_label: String,
        /// SELinux label.
        "ProcessLabel" process_label: String,
        /// AppArmor profile.
        "AppArmorProfile" app_armor_profile: String,
        /// Execs that are running; null when there are none.
        "ExecIDs" exec_ids: Option<Vec<String>>,
        /// What depends on the host.
        "HostConfig" host_config: HostConfig,
        /// Storage.
        "GraphDriver" graph_driver: GraphDriver,
        /// Bytes of the writable layer, when asked for.
        omitempty "SizeRw" size_rw: Option<i64>,
        /// Bytes of all layers, when asked for.
        omitempty "SizeRootFs" size_root_fs: Option<i64>,
        /// Mounts; never null.
        "Mounts" mounts: Vec<MountPoint>,
        /// What moves between hosts.
        "Config" config: ContainerConfig,
        /// Networks.
        "NetworkSettings" network_settings: NetworkSettings,
    }

    /// State of a container. More than one flag may be true: a paused container runs, too.
    pub struct ContainerState {
        /// In a word.
        "Status" status: String,
        /// Has a process.
        "Running" running: bool,
        /// Is frozen.
        "Paused" paused: bool,
        /// Waits to be started again.
        "Restarting" restarting: bool,
        /// The kernel killed something in it for want of memory.
        "OOMKilled" oom_killed: bool,
        /// Could not be removed entirely.
        "Dead" dead: bool,
        /// Process on the host, 0 for none.
        "Pid" pid: i64,
        /// Of the last run.
        "ExitCode" exit_code: i64,
        /// Why the last start failed.
        "Error" error: String,
        /// Of the last run, RFC 3339.
        "StartedAt" started_at: String,
        /// Of the last run, RFC 3339.
        "FinishedAt" finished_at: String,
        /// When there is a health check.
        omitempty "Health" health: Option<Health>,
    }

    /// Health of a container.
    pub struct Health {
        /// `starting`, `healthy`, `unhealthy`, `none`.
        "Status" status: String,
        /// Failures in a row.
        "FailingStreak" failing_streak: i64,
        /// The last few results, oldest first.
        "Log" log: Option<Vec<HealthResult>>,
    }

    /// One run of a health check.
    pub struct HealthResult {
        /// RFC 3339.
        "Start" start: String,
        /// RFC 3339.
        "End" end: String,
        /// 0 healthy, -1 timed out.
        "ExitCode" exit_code: i64,
        /// The first bytes of its output.
        "Output" output: String,
    }

    /// Storage of a container or an image.
    pub struct GraphDriver {
        /// What the driver wants to tell.
        "Data" data: Option<BTreeMap<String, String>>,
        /// Driver.
        "Name" name: String,
    }

    /// Networks of a container.
    pub struct NetworkSettings {
        /// Empty.
        "Bridge" bridge: String,
        /// Identity of the network namespace.
        "SandboxID" sandbox_id: String,
        /// File of the network namespace.
        "SandboxKey" sandbox_key: String,
        /// Published ports; null for an exposed port that is not published.
        "Ports" ports: PortMap,
        /// Unused.
        "HairpinMode" hairpin_mode: bool,
        /// Unused.
        "LinkLocalIPv6Address" link_local_ipv6_address: String,
        /// Unused.
        "LinkLocalIPv6PrefixLen" link_local_ipv6_prefix_len: i64,
        /// Unused.
        "SecondaryIPAddresses" secondary_ip_addresses: Option<Vec<Address>>,
        /// Unused.
        "SecondaryIPv6Addresses" secondary_ipv6_addresses: Option<Vec<Address>>,
        /// Of the default bridge.
        "EndpointID" endpoint_id: String,
        /// Of the default bridge.
        "Gateway" gateway: String,
        /// Of the default bridge.
        "GlobalIPv6Address" global_ipv6_address: String,
        /// Of the default bridge.
        "GlobalIPv6PrefixLen" global_ipv6_prefix_len: i64,
        /// Of the default bridge.
        "IPAddress" ip_address: String,
        /// Of the default bridge.
        "IPPrefixLen" ip_prefix_len: i64,
        /// Of the default bridge.
        "IPv6Gateway" ipv6_gateway: String,
        /// Of the default bridge.
        "MacAddress" mac_address: String,
        /// By network.
        "Networks" networks: BTreeMap<String, EndpointSettings>,
    }

    /// An address with its prefix.
    pub struct Address {
        /// Address.
        "Addr" addr: String,
        /// Bits of the prefix.
        "PrefixLen" prefix_len: i64,
    }

    /// Answer of `POST /containers/{id}/wait`.
    pub struct WaitResponse {
        /// Exit code.
        "StatusCode" status_code: i64,
        /// Why there is no exit code.
        omitempty "Error" error: Option<WaitError>,
    }

    /// Why a wait failed.
    pub struct WaitError {
        /// One sentence.
        omitempty "Message" message: String,
    }

    /// Answer of `GET /containers/{id}/top`.
    pub struct TopResponse {
        /// Column names.
        "Titles" titles: Vec<String>,
        /// Rows.
        "Processes" processes: Vec<Vec<String>>,
    }

    /// A path that differs from the image.
    pub struct Change {
        /// Path.
        "Path" path: String,
        /// 0 changed, 1 added, 2 deleted.
        "Kind" kind: u32,
    }

    /// What is known of a path in a container: the header of `/containers/{id}/archive`, in
    /// base64.
    pub struct PathStat {
        /// Last part of the path.
        "name" name: String,
        /// Bytes.
        "size" size: i64,
        /// As Go's `io/fs.FileMode`.
        "mode" mode: u32,
        /// RFC 3339.
        "mtime" mtime: String,
        /// Where a link leads.
        "linkTarget" link_target: String,
    }

    /// Body of `POST /containers/{id}/update`.
    pub struct UpdateRequest {
        /// Limits.
        flatten "Resources" resources: Resources,
        /// When the container is started again.
        "RestartPolicy" restart_policy: Option<RestartPolicy>,
    }

    /// Answer of `POST /containers/{id}/update`.
    pub struct UpdateResponse {
        /// Warnings.
        "Warnings" warnings: Option<Vec<String>>,
    }

    /// Answer of `POST /containers/prune`.
    pub struct ContainerPruneResponse {
        /// Identities.
        "ContainersDeleted" containers_deleted: Option<Vec<String>>,
        /// Bytes.
        "SpaceReclaimed" space_reclaimed: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_request_of_the_docker_cli_is_read() {
        let body = r#"{"Hostname":"","AttachStdout":true,"Tty":false,"Env":null,
            "Cmd":["true"],"Image":"busybox","Volumes":{},"Entrypoint":null,"Labels":{},
            "HostConfig":{"Binds":null,"NetworkMode":"default","PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}]},
              "RestartPolicy":{"Name":"no","MaximumRetryCount":0},"AutoRemove":true,"ConsoleSize":[24,80],
              "Memory":67108864,"PidsLimit":0,"Init":true},
            "NetworkingConfig":{"EndpointsConfig":{"default":{}}}}"#;
        let request: CreateRequest = serde_json::from_str(body).unwrap();
        assert_eq!(request.config.image, "busybox");
        assert!(request.config.attach_stdout);
        let host = request.host_config.unwrap();
        assert_eq!(host.resources.memory, 67_108_864);
        assert_eq!(host.console_size, [24, 80]);
        assert_eq!(host.init, Some(true));
        assert_eq!(
            host.port_bindings.unwrap()["80/tcp"].as_ref().unwrap()[0].host_port,
            "8080"
        );
        assert!(
            request
                .networking_config
                .unwrap()
                .endpoints_config
                .contains_key("default")
        );
    }

    #[test]
    fn empty_configuration_has_dockers_nulls() {
        assert_eq!(
            serde_json::to_string(&ContainerConfig::default()).unwrap(),
            concat!(
                r#"{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"#,
                r#""AttachStdout":false,"AttachStderr":false,"Tty":false,"OpenStdin":false,"#,
                r#""StdinOnce":false,"Env":null,"Cmd":null,"Image":"","Volumes":null,"#,
                r#""WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":null}"#
            )
        );
    }

    #[test]
    fn unpublished_port_is_null() {
        let settings = NetworkSettings {
            ports: BTreeMap::from([("80/tcp".to_owned(), None)]),
            ..NetworkSettings::default()
        };
        assert!(
            serde_json::to_string(&settings)
                .unwrap()
                .contains(r#""Ports":{"80/tcp":null}"#)
        );
    }
}
