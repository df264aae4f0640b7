//! A container's configuration between Docker's shape and the engine's.
//!
//! What Docker can be asked for and the engine cannot do is refused by name here, before
//! anything is made; only what no engine on Linux honours is dropped in silence, as Docker
//! does.

use std::collections::BTreeMap;

use sampan_api::types::container as wire;
use sampan_api::types::host_config as wire_host;
use sampan_api::types::mount as wire_mount;
use sampan_api::wire::{Empty, Words};
use sampan_engine::{
    BindSpec, ContainerConfig, ContainerPort, DeviceMapping, DeviceRate, DeviceRequest,
    HealthCheck, HostConfig, IpcMode, LogConfig, MountRequest, MountRequestKind, NetworkMode,
    PortBinding, Propagation, Resources, RestartPolicy, Ulimit,
};

use crate::error::ApiError;
use crate::unbuilt::refusal;

/// Bytes of `/dev/shm` when nobody says anything.
const SHM_SIZE: i64 = 64 * 1024 * 1024;

/// Reads what moves between hosts.
pub(crate) fn config(from: wire::ContainerConfig) -> Result<ContainerConfig, ApiError> {
    let exposed_ports = from.exposed_ports.keys().map(|port| port.parse());
    Ok(ContainerConfig {
        hostname: from.hostname,
        domainname: from.domainname,
        user: from.user,
        attach_stdin: from.attach_stdin,
        attach_stdout: from.attach_stdout,
        attach_stderr: from.attach_stderr,
        exposed_ports: exposed_ports.collect::<Result<_, _>>()?,
        tty: from.tty,
        open_stdin: from.open_stdin,
        stdin_once: from.stdin_once,
        env: from.env.unwrap_or_default(),
        cmd: from.cmd.map(|words| words.0),
        healthcheck: from.healthcheck.map(health_check),
        image: from.image,
        volumes: from.volumes.unwrap_or_default().into_keys().collect(),
        working_dir: from.working_dir,
        entrypoint: from.entrypoint.map(|words| words.0),
        network_disabled: from.network_disabled,
        labels: from.labels.unwrap_or_default(),
        stop_signal: from.stop_signal,
        stop_timeout: from.stop_timeout,
        on_build: from.on_build.unwrap_or_default(),
        shell: from.shell.map(|words| words.0),
    })
}

fn health_check(from: wire::HealthConfig) -> HealthCheck {
    HealthCheck {
        test: from.test,
        interval: from.interval,
        timeout: from.timeout,
        start_period: from.start_period,
        start_interval: from.start_interval,
        retries: from.retries,
    }
}

/// Reads what depends on the host.
pub(crate) fn host_config(from: wire_host::HostConfig) -> Result<HostConfig, ApiError> {
    if !from.cgroup.is_empty() {
        return Err(refusal("joining another container's cgroup"));
    }
    if !matches!(from.isolation.as_str(), "" | "default") {
        return Err(ApiError::invalid(format!(
            "invalid isolation '{}' on linux",
            from.isolation
        )));
    }
    let binds = from.binds.unwrap_or_default();
    let mounts = from.mounts.into_iter().map(mount_request);
    let size = from
        .console_size
        .map(|cells| u16::try_from(cells).unwrap_or(u16::MAX));
    Ok(HostConfig {
        binds: parse_all(&binds)?,
        mounts: mounts.collect::<Result<_, _>>()?,
        tmpfs: from.tmpfs,
        volumes_from: from.volumes_from.unwrap_or_default(),
        volume_driver: from.volume_driver,
        container_id_file: from.container_id_file,
        log: LogConfig {
            driver: from.log_config.kind,
            options: from.log_config.config.unwrap_or_default(),
        },
        network_mode: network_mode(&from.network_mode)?,
        port_bindings: port_bindings(from.port_bindings.unwrap_or_default())?,
        publish_all_ports: from.publish_all_ports,
        restart_policy: restart_policy(&from.restart_policy)?,
        auto_remove: from.auto_remove,
        console_size: size,
        annotations: from.annotations,
        cap_add: words(from.cap_add),
        cap_drop: words(from.cap_drop),
        cgroupns_mode: from.cgroupns_mode,
        dns: from.dns.unwrap_or_default(),
        dns_options: from.dns_options.unwrap_or_default(),
        dns_search: from.dns_search.unwrap_or_default(),
        extra_hosts: from.extra_hosts.unwrap_or_default(),
        group_add: from.group_add.unwrap_or_default(),
        ipc_mode: from.ipc_mode.parse()?,
        pid_mode: from.pid_mode.parse()?,
        uts_mode: from.uts_mode.parse()?,
        userns_mode: from.userns_mode,
        links: from.links.unwrap_or_default(),
        oom_score_adj: oom_score_adj(from.oom_score_adj)?,
        privileged: from.privileged,
        readonly_rootfs: from.readonly_rootfs,
        security_opt: from.security_opt.unwrap_or_default(),
        storage_opt: from.storage_opt,
        shm_size: shm_size(from.shm_size)?,
        sysctls: from.sysctls,
        runtime: from.runtime,
        resources: resources(from.resources)?,
        masked_paths: from.masked_paths,
        readonly_paths: from.readonly_paths,
        init: from.init,
    })
}

fn words(words: Option<Words>) -> Vec<String> {
    words.map(|words| words.0).unwrap_or_default()
}

fn parse_all<T>(texts: &[String]) -> Result<Vec<T>, ApiError>
where
    T: std::str::FromStr<Err = sampan_engine::Error>,
{
    texts.iter().map(|text| Ok(text.parse()?)).collect()
}

fn network_mode(text: &str) -> Result<NetworkMode, ApiError> {
    if text.is_empty() {
        return Ok(NetworkMode::Default);
    }
    Ok(text.parse()?)
}

fn oom_score_adj(score: i64) -> Result<i32, ApiError> {
    i32::try_from(score)
        .ok()
        .filter(|score| (-1000..=1000).contains(score))
        .ok_or_else(|| {
            ApiError::invalid(format!(
                "Invalid value {score}, range for oom score adj is [-1000, 1000]"
            ))
        })
}

fn shm_size(size: i64) -> Result<i64, ApiError> {
    if size < 0 {
        return Err(ApiError::invalid("SHM size can not be less than 0"));
    }
    Ok(size)
}

/// Reads when a container is started again.
pub(crate) fn restart_policy(from: &wire_host::RestartPolicy) -> Result<RestartPolicy, ApiError> {
    let count = from.maximum_retry_count;
    if count != 0 && from.name != "on-failure" {
        let message = if matches!(from.name.as_str(), "" | "no") {
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
                .to_owned()
        } else {
            format!(
                "invalid restart policy: maximum retry count can only be used with 'on-failure', \
                 not '{}'",
                from.name
            )
        };
        return Err(ApiError::invalid(message));
    }
    match from.name.as_str() {
        "" | "no" => Ok(RestartPolicy::No),
        "always" => Ok(RestartPolicy::Always),
        "unless-stopped" => Ok(RestartPolicy::UnlessStopped),
        "on-failure" => u32::try_from(count)
            .map(RestartPolicy::OnFailure)
            .map_err(|_| {
                ApiError::invalid("invalid restart policy: maximum retry count cannot be negative")
            }),
        other => Err(ApiError::invalid(format!(
            "invalid restart policy: unknown policy '{other}'; \
             use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        ))),
    }
}

fn port_bindings(
    from: wire_host::PortMap,
) -> Result<BTreeMap<ContainerPort, Vec<PortBinding>>, ApiError> {
    from.into_iter()
        .map(|(port, bindings)| {
            let bindings = bindings.unwrap_or_default().into_iter();
            let bindings = bindings.map(|binding| PortBinding {
                host_ip: binding.host_ip,
                host_port: binding.host_port,
            });
            Ok((port.parse()?, bindings.collect()))
        })
        .collect()
}

/// Reads limits.
pub(crate) fn resources(from: wire_host::Resources) -> Result<Resources, ApiError> {
    let requests = from.device_requests.unwrap_or_default().into_iter();
    let requests = requests.map(|request| DeviceRequest {
        driver: request.driver,
        count: request.count,
        ids: request.device_ids.unwrap_or_default(),
        capabilities: request.capabilities.unwrap_or_default(),
        options: request.options.unwrap_or_default(),
    });
    let weights = from.blkio_weight_device.unwrap_or_default().into_iter();
    let weights = weights.map(|weight| DeviceRate {
        path: weight.path,
        rate: weight.weight.into(),
    });
    let rates = |list: Option<Vec<wire_host::ThrottleDevice>>| {
        let list = list.unwrap_or_default().into_iter();
        list.map(|limit| DeviceRate {
            path: limit.path,
            rate: limit.rate,
        })
        .collect()
    };
    let devices = from.devices.unwrap_or_default().into_iter();
    let ulimits = from.ulimits.unwrap_or_default().into_iter();
    Ok(Resources {
        cpu_shares: from.cpu_shares,
        memory: from.memory,
        nano_cpus: from.nano_cpus,
        cgroup_parent: from.cgroup_parent,
        blkio_weight: from.blkio_weight,
        blkio_weight_device: weights.collect(),
        blkio_read_bps: rates(from.blkio_device_read_bps),
        blkio_write_bps: rates(from.blkio_device_write_bps),
        blkio_read_iops: rates(from.blkio_device_read_iops),
        blkio_write_iops: rates(from.blkio_device_write_iops),
        cpu_realtime_period: from.cpu_realtime_period,
        cpu_realtime_runtime: from.cpu_realtime_runtime,
        cpu_period: from.cpu_period,
        cpu_quota: from.cpu_quota,
        cpuset_cpus: from.cpuset_cpus,
        cpuset_mems: from.cpuset_mems,
        devices: devices
            .map(|device| DeviceMapping {
                path_on_host: device.path_on_host,
                path_in_container: device.path_in_container,
                cgroup_permissions: device.cgroup_permissions,
            })
            .collect(),
        device_cgroup_rules: from.device_cgroup_rules.unwrap_or_default(),
        device_requests: requests.collect(),
        memory_reservation: from.memory_reservation,
        memory_swap: from.memory_swap,
        // Docker's CLI sends -1 when nothing was asked for.
        memory_swappiness: from
            .memory_swappiness
            .filter(|swappiness| *swappiness != -1),
        oom_kill_disable: from.oom_kill_disable,
        pids_limit: from.pids_limit,
        ulimits: ulimits
            .map(|limit| Ulimit {
                name: limit.name,
                soft: limit.soft,
                hard: limit.hard,
            })
            .collect(),
    })
}

fn mount_request(from: wire_mount::Mount) -> Result<MountRequest, ApiError> {
    let kind = match from.kind.as_str() {
        "bind" => bind_request(from.source, from.bind_options.unwrap_or_default())?,
        "volume" | "" => {
            let options = from.volume_options.unwrap_or_default();
            let driver = options.driver_config.unwrap_or_default();
            MountRequestKind::Volume {
                source: from.source,
                no_copy: options.no_copy,
                subpath: options.subpath,
                labels: options.labels,
                driver: driver.name,
                driver_options: driver.options,
            }
        }
        "tmpfs" => {
            if !from.source.is_empty() {
                return Err(ApiError::invalid(
                    "invalid mount config for type \"tmpfs\": field Source must not be specified",
                ));
            }
            let options = from.tmpfs_options.unwrap_or_default();
            MountRequestKind::Tmpfs {
                size: options.size_bytes,
                mode: options.mode,
                options: options.options,
            }
        }
        "image" => MountRequestKind::Image {
            source: from.source,
            subpath: from.image_options.unwrap_or_default().subpath,
        },
        other => {
            return Err(ApiError::invalid(format!(
                "invalid mount config for type {other:?}: mount type unknown"
            )));
        }
    };
    Ok(MountRequest {
        kind,
        target: from.target,
        read_only: from.read_only,
    })
}

fn bind_request(
    source: String,
    options: wire_mount::BindOptions,
) -> Result<MountRequestKind, ApiError> {
    let propagation = match options.propagation.as_str() {
        "" => None,
        text => Some(text.parse::<Propagation>()?),
    };
    if options.read_only_non_recursive {
        return Err(refusal("a bind mount that is read-only only at its top"));
    }
    Ok(MountRequestKind::Bind {
        source,
        propagation,
        non_recursive: options.non_recursive,
        create: options.create_mountpoint,
    })
}

/// Shows what moves between hosts.
pub(crate) fn show_config(config: &ContainerConfig) -> wire::ContainerConfig {
    wire::ContainerConfig {
        hostname: config.hostname.clone(),
        domainname: config.domainname.clone(),
        user: config.user.clone(),
        attach_stdin: config.attach_stdin,
        attach_stdout: config.attach_stdout,
        attach_stderr: config.attach_stderr,
        exposed_ports: set(config.exposed_ports.iter().map(ToString::to_string)),
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        env: Some(config.env.clone()),
        cmd: config.cmd.clone().map(Words),
        healthcheck: config.healthcheck.as_ref().map(show_health_check),
        args_escaped: false,
        image: config.image.clone(),
        volumes: nil_when_empty(&config.volumes).map(|volumes| set(volumes.into_iter())),
        working_dir: config.working_dir.clone(),
        entrypoint: config.entrypoint.clone().map(Words),
        network_disabled: config.network_disabled,
        mac_address: String::new(),
        on_build: nil_when_empty(&config.on_build),
        labels: Some(config.labels.clone()),
        stop_signal: config.stop_signal.clone(),
        stop_timeout: config.stop_timeout,
        shell: config.shell.clone().map(Words),
    }
}

fn show_health_check(check: &HealthCheck) -> wire::HealthConfig {
    wire::HealthConfig {
        test: check.test.clone(),
        interval: check.interval,
        timeout: check.timeout,
        start_period: check.start_period,
        start_interval: check.start_interval,
        retries: check.retries,
    }
}

/// Shows what depends on the host.
pub(crate) fn show_host_config(host: &HostConfig) -> wire_host::HostConfig {
    let bindings = host.port_bindings.iter().map(|(port, bindings)| {
        let bindings = bindings.iter().map(|binding| wire_host::PortBinding {
            host_ip: binding.host_ip.clone(),
            host_port: binding.host_port.clone(),
        });
        (port.to_string(), Some(bindings.collect()))
    });
    wire_host::HostConfig {
        binds: nil_when_empty(&host.binds)
            .map(|binds| binds.iter().map(BindSpec::to_string).collect()),
        container_id_file: host.container_id_file.clone(),
        log_config: wire_host::LogConfig {
            kind: or_default(&host.log.driver, "json-file"),
            config: Some(host.log.options.clone()),
        },
        network_mode: match &host.network_mode {
            NetworkMode::Default => NetworkMode::Bridge.to_string(),
            other => other.to_string(),
        },
        port_bindings: Some(bindings.collect()),
        restart_policy: show_restart_policy(host.restart_policy),
        auto_remove: host.auto_remove,
        volume_driver: host.volume_driver.clone(),
        volumes_from: nil_when_empty(&host.volumes_from),
        console_size: host.console_size.map(u32::from),
        annotations: host.annotations.clone(),
        cap_add: nil_when_empty(&host.cap_add).map(Words),
        cap_drop: nil_when_empty(&host.cap_drop).map(Words),
        cgroupns_mode: host.cgroupns_mode.clone(),
        dns: Some(host.dns.clone()),
        dns_options: Some(host.dns_options.clone()),
        dns_search: Some(host.dns_search.clone()),
        extra_hosts: nil_when_empty(&host.extra_hosts),
        group_add: nil_when_empty(&host.group_add),
        ipc_mode: match &host.ipc_mode {
            IpcMode::Default => IpcMode::Private.to_string(),
            other => other.to_string(),
        },
        cgroup: String::new(),
        links: nil_when_empty(&host.links),
        oom_score_adj: host.oom_score_adj.into(),
        pid_mode: host.pid_mode.to_string(),
        privileged: host.privileged,
        publish_all_ports: host.publish_all_ports,
        readonly_rootfs: host.readonly_rootfs,
        security_opt: nil_when_empty(&host.security_opt),
        storage_opt: host.storage_opt.clone(),
        tmpfs: host.tmpfs.clone(),
        uts_mode: host.uts_mode.to_string(),
        userns_mode: host.userns_mode.clone(),
        shm_size: if host.shm_size == 0 {
            SHM_SIZE
        } else {
            host.shm_size
        },
        sysctls: host.sysctls.clone(),
        runtime: or_default(&host.runtime, "sampan"),
        isolation: String::new(),
        resources: show_resources(&host.resources),
        mounts: host.mounts.iter().map(show_mount_request).collect(),
        masked_paths: host.masked_paths.clone(),
        readonly_paths: host.readonly_paths.clone(),
        init: host.init,
    }
}

fn show_restart_policy(policy: RestartPolicy) -> wire_host::RestartPolicy {
    let (name, count) = match policy {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
        RestartPolicy::OnFailure(count) => ("on-failure", count),
    };
    wire_host::RestartPolicy {
        name: name.to_owned(),
        maximum_retry_count: count.into(),
    }
}

fn show_resources(from: &Resources) -> wire_host::Resources {
    let devices = from.devices.iter().map(|device| wire_host::DeviceMapping {
        path_on_host: device.path_on_host.clone(),
        path_in_container: device.path_in_container.clone(),
        cgroup_permissions: device.cgroup_permissions.clone(),
    });
    let requests = from
        .device_requests
        .iter()
        .map(|request| wire_host::DeviceRequest {
            driver: request.driver.clone(),
            count: request.count,
            device_ids: nil_when_empty(&request.ids),
            capabilities: nil_when_empty(&request.capabilities),
            options: Some(request.options.clone()),
        });
    let requests: Vec<_> = requests.collect();
    let ulimits = from.ulimits.iter().map(|limit| wire_host::Ulimit {
        name: limit.name.clone(),
        hard: limit.hard,
        soft: limit.soft,
    });
    let weights = from.blkio_weight_device.iter();
    let weights = weights.map(|weight| wire_host::WeightDevice {
        path: weight.path.clone(),
        weight: u16::try_from(weight.rate).unwrap_or(u16::MAX),
    });
    let rates = |list: &[DeviceRate]| {
        let rates = list.iter().map(|limit| wire_host::ThrottleDevice {
            path: limit.path.clone(),
            rate: limit.rate,
        });
        Some(rates.collect())
    };
    wire_host::Resources {
        cpu_shares: from.cpu_shares,
        memory: from.memory,
        nano_cpus: from.nano_cpus,
        cgroup_parent: from.cgroup_parent.clone(),
        blkio_weight: from.blkio_weight,
        blkio_weight_device: Some(weights.collect()),
        blkio_device_read_bps: rates(&from.blkio_read_bps),
        blkio_device_write_bps: rates(&from.blkio_write_bps),
        blkio_device_read_iops: rates(&from.blkio_read_iops),
        blkio_device_write_iops: rates(&from.blkio_write_iops),
        cpu_realtime_period: from.cpu_realtime_period,
        cpu_realtime_runtime: from.cpu_realtime_runtime,
        cpu_period: from.cpu_period,
        cpu_quota: from.cpu_quota,
        cpuset_cpus: from.cpuset_cpus.clone(),
        cpuset_mems: from.cpuset_mems.clone(),
        devices: Some(devices.collect()),
        device_cgroup_rules: nil_when_empty(&from.device_cgroup_rules),
        device_requests: (!requests.is_empty()).then_some(requests),
        memory_reservation: from.memory_reservation,
        memory_swap: from.memory_swap,
        memory_swappiness: from.memory_swappiness,
        oom_kill_disable: from.oom_kill_disable,
        // What means "no limit" is not repeated.
        pids_limit: from.pids_limit.filter(|limit| *limit > 0),
        ulimits: Some(ulimits.collect()),
        ..wire_host::Resources::default()
    }
}

fn show_mount_request(from: &MountRequest) -> wire_mount::Mount {
    let mut mount = wire_mount::Mount {
        target: from.target.clone(),
        read_only: from.read_only,
        ..wire_mount::Mount::default()
    };
    match &from.kind {
        MountRequestKind::Bind {
            source,
            propagation,
            non_recursive,
            create,
        } => {
            let options = wire_mount::BindOptions {
                propagation: propagation
                    .map(|p| p.as_str().to_owned())
                    .unwrap_or_default(),
                non_recursive: *non_recursive,
                create_mountpoint: *create,
                ..wire_mount::BindOptions::default()
            };
            "bind".clone_into(&mut mount.kind);
            mount.source.clone_from(source);
            mount.bind_options = some_unless_default(options);
        }
        MountRequestKind::Volume {
            source,
            no_copy,
            subpath,
            labels,
            driver,
            driver_options,
        } => {
            let driver = wire_mount::VolumeDriver {
                name: driver.clone(),
                options: driver_options.clone(),
            };
            let options = wire_mount::VolumeOptions {
                no_copy: *no_copy,
                labels: labels.clone(),
                subpath: subpath.clone(),
                driver_config: some_unless_default(driver),
            };
            "volume".clone_into(&mut mount.kind);
            mount.source.clone_from(source);
            mount.volume_options = some_unless_default(options);
        }
        MountRequestKind::Tmpfs {
            size,
            mode,
            options,
        } => {
            let options = wire_mount::TmpfsOptions {
                size_bytes: *size,
                mode: *mode,
                options: options.clone(),
            };
            "tmpfs".clone_into(&mut mount.kind);
            mount.tmpfs_options = some_unless_default(options);
        }
        MountRequestKind::Image { source, subpath } => {
            let options = wire_mount::ImageOptions {
                subpath: subpath.clone(),
            };
            "image".clone_into(&mut mount.kind);
            mount.source.clone_from(source);
            mount.image_options = some_unless_default(options);
        }
    }
    mount
}

fn some_unless_default<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

fn or_default(text: &str, default: &str) -> String {
    if text.is_empty() { default } else { text }.to_owned()
}

/// A list that Docker's own client leaves null when it is empty.
fn nil_when_empty<T: Clone, C>(list: &C) -> Option<C>
where
    for<'a> &'a C: IntoIterator<Item = &'a T>,
    C: Clone,
{
    list.into_iter().next().is_some().then(|| list.clone())
}

fn set(names: impl Iterator<Item = String>) -> BTreeMap<String, Empty> {
    names.map(|name| (name, Empty)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<HostConfig, ApiError> {
        host_config(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn what_was_asked_for_is_shown_again() {
        let json = r#"{"Binds":["/a:/b:ro","vol:/c"],"NetworkMode":"none",
            "PortBindings":{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"}]},
            "RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3},
            "CapAdd":["NET_ADMIN"],"Memory":1024,"PidsLimit":7,"Init":false,
            "Mounts":[{"Type":"bind","Source":"/x","Target":"/y","BindOptions":{"Propagation":"rslave"}},
                      {"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":9}}],
            "Ulimits":[{"Name":"nofile","Soft":1,"Hard":2}]}"#;
        let shown = show_host_config(&read(json).unwrap());
        let asked: wire_host::HostConfig = serde_json::from_str(json).unwrap();
        assert_eq!(shown.binds, asked.binds);
        assert_eq!(shown.port_bindings, asked.port_bindings);
        assert_eq!(shown.restart_policy, asked.restart_policy);
        assert_eq!(shown.mounts, asked.mounts);
        assert_eq!(shown.resources.ulimits, asked.resources.ulimits);
        assert_eq!(shown.resources.memory, 1024);
        assert_eq!(shown.init, Some(false));
        assert_eq!(shown.network_mode, "none");
    }

    #[test]
    fn silence_is_shown_with_dockers_defaults() {
        let shown = show_host_config(&read("{}").unwrap());
        assert_eq!(shown.network_mode, "bridge");
        assert_eq!(shown.ipc_mode, "private");
        assert_eq!(shown.shm_size, 67_108_864);
        assert_eq!(shown.log_config.kind, "json-file");
        assert_eq!(shown.restart_policy.name, "no");
        assert_eq!(shown.binds, None);
        assert_eq!(shown.port_bindings, Some(BTreeMap::new()));
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let error = read(r#"{"Cgroup":"x"}"#).unwrap_err();
        assert!(
            error
                .message()
                .ends_with("is not supported by this engine yet")
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for json in [
            r#"{"RestartPolicy":{"Name":"weird"}}"#,
            r#"{"RestartPolicy":{"Name":"always","MaximumRetryCount":1}}"#,
            r#"{"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":-1}}"#,
            r#"{"Binds":["../x:/y"]}"#,
            r#"{"PortBindings":{"0/tcp":[]}}"#,
            r#"{"IpcMode":"weird"}"#,
            r#"{"OomScoreAdj":1001}"#,
            r#"{"ShmSize":-1}"#,
            r#"{"Mounts":[{"Type":"npipe","Target":"/x"}]}"#,
            r#"{"Mounts":[{"Type":"tmpfs","Source":"/x","Target":"/x"}]}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
    }
}
