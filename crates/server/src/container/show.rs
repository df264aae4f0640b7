//! A container as lists and inspect show it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use sampan_api::ApiVersion;
use sampan_api::types::container as wire;
use sampan_api::types::host_config::{PortBinding, PortMap};
use sampan_api::types::mount::MountPoint as WireMountPoint;
use sampan_api::types::network::{EndpointIpamConfig, EndpointSettings};
use sampan_engine::{
    ContainerView, Endpoint, Health, HealthStatus, Lifecycle, MountKind, MountPoint, NetworkMode,
    NetworkState, Status,
};

use super::config::{show_config, show_host_config};
use crate::text::{ago, command_line, time};

/// What `GET /containers/{id}/json` answers.
pub(crate) fn inspect(view: &ContainerView, version: ApiVersion) -> wire::ContainerInspect {
    let sizes = view.sizes.as_ref();
    let execs = view.execs.iter().map(ToString::to_string);
    let mut config = show_config(&view.config);
    if config.hostname.is_empty() && view.network_mode().is_private() {
        view.id.short().clone_into(&mut config.hostname);
    }
    wire::ContainerInspect {
        id: view.id.to_string(),
        created: view.created.to_string(),
        path: view.path.clone(),
        args: view.args.clone(),
        state: state(&view.lifecycle, view.health.as_ref()),
        image: view.image_id.to_string(),
        resolv_conf_path: path(&view.resolv_conf_path),
        hostname_path: path(&view.hostname_path),
        hosts_path: path(&view.hosts_path),
        log_path: path(&view.log_path),
        name: format!("/{}", view.name),
        restart_count: view.restart_count.into(),
        driver: view.driver.clone(),
        app_armor_profile: view.apparmor_profile.clone(),
        platform: "linux".to_owned(),
        exec_ids: (!view.execs.is_empty()).then(|| execs.collect()),
        host_config: show_host_config(&view.host),
        graph_driver: wire::GraphDriver {
            data: None,
            name: view.driver.clone(),
        },
        size_rw: sizes.map(|sizes| signed(sizes.writable)),
        size_root_fs: sizes.map(|sizes| signed(sizes.root)),
        mounts: mounts(&view.mounts),
        config,
        network_settings: network_settings(view, version),
        ..wire::ContainerInspect::default()
    }
}

/// One line of `GET /containers/json`.
pub(crate) fn summary(view: &ContainerView, version: ApiVersion) -> wire::ContainerSummary {
    let sizes = view.sizes.as_ref();
    let image_id = view.image_id.to_string();
    wire::ContainerSummary {
        id: view.id.to_string(),
        names: vec![format!("/{}", view.name)],
        image: if view.image_name_is_current {
            view.image.clone()
        } else {
            image_id.clone()
        },
        image_id,
        command: command_line(&view.path, &view.args),
        created: view.created.as_second(),
        ports: ports(view),
        size_rw: sizes.map_or(0, |sizes| signed(sizes.writable)),
        size_root_fs: sizes.map_or(0, |sizes| signed(sizes.root)),
        labels: view.config.labels.clone(),
        state: view.lifecycle.status().as_str().to_owned(),
        status: status_text(&view.lifecycle, view.health.as_ref()),
        host_config: wire::HostConfigSummary {
            network_mode: match view.network_mode() {
                NetworkMode::Default => NetworkMode::Bridge.to_string(),
                other => other.to_string(),
            },
            annotations: view.host.annotations.clone(),
        },
        network_settings: wire::NetworkSettingsSummary {
            networks: endpoints(&view.network, version),
        },
        mounts: mounts(&view.mounts),
    }
}

/// Docker's set of flags, computed from the one state.
fn state(lifecycle: &Lifecycle, health: Option<&Health>) -> wire::ContainerState {
    let run = lifecycle.run();
    let last = lifecycle.last();
    let status = lifecycle.status();
    wire::ContainerState {
        status: status.as_str().to_owned(),
        running: lifecycle.is_running(),
        paused: status == Status::Paused,
        restarting: status == Status::Restarting,
        oom_killed: last.is_some_and(|last| last.oom_killed),
        dead: status == Status::Dead,
        pid: run.map_or(0, |run| run.pid.into()),
        exit_code: last.map_or(0, |last| last.code.into()),
        error: last.and_then(|last| last.error.clone()).unwrap_or_default(),
        started_at: time(match run {
            Some(run) => Some(run.started_at),
            None => last.and_then(|last| last.started_at),
        }),
        finished_at: time(last.and_then(|last| last.finished_at)),
        health: health.map(show_health),
    }
}

fn show_health(health: &Health) -> wire::Health {
    let log = health.log.iter().map(|probe| wire::HealthResult {
        start: probe.start.clone(),
        end: probe.end.clone(),
        exit_code: probe.exit_code.into(),
        output: probe.output.clone(),
    });
    wire::Health {
        status: health_word(health.status).to_owned(),
        failing_streak: health.failing_streak.into(),
        log: Some(log.collect()),
    }
}

/// Docker's word.
fn health_word(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Starting => "starting",
        HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "unhealthy",
    }
}

/// The state for a person, as in `Up 2 hours (Paused)`.
fn status_text(lifecycle: &Lifecycle, health: Option<&Health>) -> String {
    match lifecycle {
        Lifecycle::Created { .. } => "Created".to_owned(),
        Lifecycle::Running(run) => match health.map(|health| health.status) {
            None => format!("Up {}", ago(run.started_at)),
            Some(HealthStatus::Starting) => {
                format!("Up {} (health: starting)", ago(run.started_at))
            }
            Some(status) => format!("Up {} ({})", ago(run.started_at), health_word(status)),
        },
        Lifecycle::Restarting(ended) => {
            let then = ended.finished_at.unwrap_or(Timestamp::UNIX_EPOCH);
            format!("Restarting ({}) {} ago", ended.code, ago(then))
        }
        Lifecycle::Paused(run) => format!("Up {} (Paused)", ago(run.started_at)),
        Lifecycle::Exited(ended) => {
            let then = ended.finished_at.unwrap_or(Timestamp::UNIX_EPOCH);
            format!("Exited ({}) {} ago", ended.code, ago(then))
        }
        Lifecycle::Removing { .. } => "Removal In Progress".to_owned(),
        Lifecycle::Dead { .. } => "Dead".to_owned(),
    }
}

fn mounts(mounts: &[MountPoint]) -> Vec<WireMountPoint> {
    let shown = mounts
        .iter()
        .filter(|mount| !(mount.kind == MountKind::Tmpfs && mount.carry_out.hidden));
    shown
        .map(|mount| WireMountPoint {
            kind: mount.kind.as_str().to_owned(),
            name: mount.name.clone(),
            source: path(&mount.source),
            destination: mount.destination.clone(),
            driver: mount.driver.clone(),
            mode: mount.mode.clone(),
            writable: mount.writable,
            propagation: mount
                .propagation
                .map(|propagation| propagation.as_str().to_owned())
                .unwrap_or_default(),
        })
        .collect()
}

fn ports(view: &ContainerView) -> Vec<wire::Port> {
    let mut ports = Vec::new();
    for (port, bindings) in &view.network.ports {
        for binding in bindings {
            ports.push(wire::Port {
                ip: binding.ip.to_string(),
                private_port: port.port,
                public_port: binding.port,
                kind: port.protocol.to_string(),
            });
        }
    }
    // Exposed and not published. Those of a container that does not run are not shown.
    if view.lifecycle.is_running() {
        for port in &view.config.exposed_ports {
            if view.network.ports.get(port).is_none_or(Vec::is_empty) {
                ports.push(wire::Port {
                    ip: String::new(),
                    private_port: port.port,
                    public_port: 0,
                    kind: port.protocol.to_string(),
                });
            }
        }
    }
    ports
}

fn port_map(view: &ContainerView) -> PortMap {
    let mut map = PortMap::new();
    if view.lifecycle.is_running() {
        for port in &view.config.exposed_ports {
            map.insert(port.to_string(), None);
        }
    }
    for (port, bindings) in &view.network.ports {
        let bindings = bindings.iter().map(|binding| PortBinding {
            host_ip: binding.ip.to_string(),
            host_port: binding.port.to_string(),
        });
        let bindings: Vec<_> = bindings.collect();
        map.insert(port.to_string(), (!bindings.is_empty()).then_some(bindings));
    }
    map
}

fn network_settings(view: &ContainerView, version: ApiVersion) -> wire::NetworkSettings {
    let networks = endpoints(&view.network, version);
    // The same once more at the top, from before containers had several networks.
    let bridge = networks.get("bridge").cloned().unwrap_or_default();
    wire::NetworkSettings {
        sandbox_id: view.network.sandbox_id.clone(),
        sandbox_key: view.network.sandbox_key.clone(),
        ports: port_map(view),
        endpoint_id: bridge.endpoint_id,
        gateway: bridge.gateway,
        global_ipv6_address: bridge.global_ipv6_address,
        global_ipv6_prefix_len: bridge.global_ipv6_prefix_len,
        ip_address: bridge.ip_address,
        ip_prefix_len: bridge.ip_prefix_len,
        ipv6_gateway: bridge.ipv6_gateway,
        mac_address: bridge.mac_address,
        networks,
        ..wire::NetworkSettings::default()
    }
}

fn endpoints(network: &NetworkState, version: ApiVersion) -> BTreeMap<String, EndpointSettings> {
    let endpoints = network.endpoints.iter();
    endpoints
        .map(|(name, endpoint)| (name.clone(), endpoint_settings(endpoint, version)))
        .collect()
}

fn endpoint_settings(endpoint: &Endpoint, version: ApiVersion) -> EndpointSettings {
    let ip = |address: Option<IpAddr>| address.map(|ip| ip.to_string()).unwrap_or_default();
    let mut settings = EndpointSettings {
        ipam_config: endpoint.wanted_address.map(|address| EndpointIpamConfig {
            ipv4_address: if address.is_ipv4() {
                address.to_string()
            } else {
                String::new()
            },
            ipv6_address: if address.is_ipv6() {
                address.to_string()
            } else {
                String::new()
            },
            link_local_ips: Vec::new(),
        }),
        aliases: (!endpoint.aliases.is_empty()).then(|| endpoint.aliases.clone()),
        mac_address: endpoint.mac.clone(),
        driver_opts: (!endpoint.driver_options.is_empty()).then(|| endpoint.driver_options.clone()),
        gw_priority: version.at_least(48).then_some(endpoint.gateway_priority),
        network_id: endpoint.network_id.clone(),
        endpoint_id: endpoint.endpoint_id.clone(),
        dns_names: (!endpoint.dns_names.is_empty()).then(|| endpoint.dns_names.clone()),
        ..EndpointSettings::default()
    };
    if endpoint.address.is_some_and(|address| address.is_ipv6()) {
        settings.global_ipv6_address = ip(endpoint.address);
        settings.global_ipv6_prefix_len = endpoint.prefix.into();
        settings.ipv6_gateway = ip(endpoint.gateway);
    } else {
        settings.ip_address = ip(endpoint.address);
        settings.ip_prefix_len = endpoint.prefix.into();
        settings.gateway = ip(endpoint.gateway);
    }
    settings
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
