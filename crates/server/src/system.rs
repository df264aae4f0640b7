//! The engine itself.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, header};
use jiff::Timestamp;
use sampan_api::ApiVersion;
use sampan_api::types::auth::{AuthConfig, AuthFields, AuthResponse};
use sampan_api::types::system as wire;
use sampan_engine::{ErrorKind, RuntimeProgram, SystemInfo};
use sampan_images::settings::{Insecure, Security, Settings};

use crate::app::App;
use crate::error::ApiError;
use crate::event;
use crate::reply::Json;

/// Docker Hub's index, which clients show and use as a key for its credentials.
const INDEX: &str = "https://index.docker.io/v1/";

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/_ping", get(ping))
        .route("/version", get(version))
        .route("/info", get(info))
        .route("/events", get(event::events))
        .route("/auth", post(auth))
}

async fn ping(method: Method) -> Response {
    let body = if method == Method::HEAD { "" } else { "OK" };
    let headers = [
        (HeaderName::from_static("builder-version"), "2"),
        (HeaderName::from_static("swarm"), "inactive"),
        (header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
        (header::PRAGMA, "no-cache"),
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
    ];
    (headers, body).into_response()
}

/// Asks the registry whether it knows the user; Docker Hub where none is named.
async fn auth(State(app): State<App>, body: Bytes) -> Result<Json<AuthResponse>, ApiError> {
    let fields: AuthFields = serde_json::from_slice(&body)
        .map_err(|_| ApiError::invalid("invalid JSON: it is no AuthConfig"))?;
    let server = fields.server_address.clone();
    let host = server.split_once("://").map_or(&*server, |(_, rest)| rest);
    let registry = match host.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    };
    let credentials = super::image::credentials_of(AuthConfig(fields));
    match app.engine.images().log_in(registry, &credentials).await {
        Ok(token) => Ok(Json(AuthResponse {
            status: "Login Succeeded".to_owned(),
            identity_token: token,
        })),
        Err(error) if error.kind() == ErrorKind::Forbidden => Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            error.message().to_owned(),
        )),
        Err(error) => Err(error.into()),
    }
}

async fn version(State(app): State<App>) -> Result<Json<wire::Version>, ApiError> {
    let info = app.engine.system().info().await?;
    let architecture = go_architecture(&info.machine).to_owned();
    let details = [
        ("ApiVersion", ApiVersion::NEWEST.to_string()),
        ("Arch", architecture.clone()),
        ("Experimental", "false".to_owned()),
        ("KernelVersion", info.kernel.clone()),
        ("MinAPIVersion", ApiVersion::OLDEST.to_string()),
        ("Os", "linux".to_owned()),
    ];
    let details = details.map(|(name, value)| (name.to_owned(), value));
    Ok(Json(wire::Version {
        platform: Some(wire::PlatformName {
            name: "Sampan".to_owned(),
        }),
        components: vec![wire::Component {
            name: "Engine".to_owned(),
            version: info.version.clone(),
            details: BTreeMap::from(details),
        }],
        version: info.version,
        api_version: ApiVersion::NEWEST.to_string(),
        min_api_version: ApiVersion::OLDEST.to_string(),
        os: "linux".to_owned(),
        arch: architecture,
        kernel_version: info.kernel,
        ..wire::Version::default()
    }))
}

/// Go's name for what `uname -m` says.
fn go_architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i686" => "386",
        "armv6l" | "armv7l" => "arm",
        other => other,
    }
}

async fn info(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
) -> Result<Json<wire::Info>, ApiError> {
    let info = app.engine.system().info().await?;
    Ok(Json(show(info, version)))
}

fn show(info: SystemInfo, version: ApiVersion) -> wire::Info {
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let storage = info.storage_status.into_iter();
    wire::Info {
        id: info.id,
        containers: count(info.running + info.paused + info.stopped),
        containers_running: count(info.running),
        containers_paused: count(info.paused),
        containers_stopped: count(info.stopped),
        images: count(info.images),
        driver: info.storage_driver,
        driver_status: storage.map(|(name, value)| [name, value]).collect(),
        plugins: wire::Plugins {
            volume: names(&["local"]),
            network: names(&["bridge", "host", "null"]),
            authorization: None,
            log: names(&["json-file", "local", "none"]),
        },
        memory_limit: info.memory_limit,
        swap_limit: info.swap_limit,
        cpu_cfs_period: info.cpu_quota,
        cpu_cfs_quota: info.cpu_quota,
        cpu_shares: info.cpu_shares,
        cpu_set: info.cpuset,
        pids_limit: info.pids_limit,
        ipv4_forwarding: info.ipv4_forwarding,
        nfd: count(info.descriptors),
        oom_kill_disable: info.oom_kill_disable,
        system_time: Timestamp::now().to_string(),
        logging_driver: "json-file".to_owned(),
        cgroup_driver: info.cgroup_driver.to_string(),
        cgroup_version: info.cgroup_version.to_string(),
        nevents_listener: count(info.event_listeners),
        kernel_version: info.kernel,
        operating_system: info.operating_system,
        os_version: info.os_version,
        os_type: "linux".to_owned(),
        architecture: info.machine,
        index_server_address: INDEX.to_owned(),
        registry_config: registry_config(&info.registries),
        ncpu: count(info.cpus),
        mem_total: i64::try_from(info.memory).unwrap_or(i64::MAX),
        docker_root_dir: info.root.to_string_lossy().into_owned(),
        name: info.host_name,
        server_version: info.version,
        runtimes: show_runtimes(info.runtimes),
        default_runtime: info.default_runtime,
        swarm: wire::Swarm {
            local_node_state: "inactive".to_owned(),
            ..wire::Swarm::default()
        },
        live_restore_enabled: true,
        init_binary: "sampan-shim".to_owned(),
        security_options: info.security_options,
        firewall_backend: version.at_least(49).then(|| wire::Firewall {
            driver: "nftables".to_owned(),
            info: Vec::new(),
        }),
        cdi_spec_dirs: info.device_directories,
        discovered_devices: if version.at_least(50) {
            info.devices.into_iter().map(discovered).collect()
        } else {
            Vec::new()
        },
        warnings: (!info.warnings.is_empty()).then_some(info.warnings),
        ..wire::Info::default()
    }
}

fn discovered(id: String) -> wire::DiscoveredDevice {
    wire::DiscoveredDevice {
        source: "cdi".to_owned(),
        id,
    }
}

/// Runtimes as Docker shows them; the one that is linked in has no path.
fn show_runtimes(programs: BTreeMap<String, RuntimeProgram>) -> BTreeMap<String, wire::Runtime> {
    let linked = ("sampan".to_owned(), wire::Runtime::default());
    let programs = programs.into_iter().map(|(name, program)| {
        let runtime = wire::Runtime {
            path: program.path.to_string_lossy().into_owned(),
            runtime_args: program.arguments,
            ..wire::Runtime::default()
        };
        (name, runtime)
    });
    programs.chain([linked]).collect()
}

/// Registries as Docker shows them: every one of which something is said.
fn registry_config(settings: &Settings) -> wire::RegistryConfig {
    let networks = settings.insecure.iter();
    let networks = networks.filter(|entry| matches!(entry, Insecure::Network { .. }));
    let mut insecure_registry_cidrs: Vec<_> = networks.map(Insecure::to_string).collect();
    for loopback in ["::1/128", "127.0.0.0/8"] {
        if !insecure_registry_cidrs
            .iter()
            .any(|known| known == loopback)
        {
            insecure_registry_cidrs.push(loopback.to_owned());
        }
    }
    let hosts = settings.insecure.iter().filter_map(|entry| match entry {
        Insecure::Host(host) => Some(host.as_str()),
        Insecure::Network { .. } => None,
    });
    let names = hosts
        .chain(settings.hosts.keys().map(String::as_str))
        .chain(settings.rules.iter().map(|rule| rule.prefix.host()))
        .chain(["docker.io"]);
    let index_configs = names.map(|name| {
        let mirrors = settings.mirrors_of(name).iter();
        let index = wire::Index {
            name: name.to_owned(),
            mirrors: mirrors.map(ToString::to_string).collect(),
            secure: settings.security(name) == Security::Verified,
            official: name == "docker.io",
        };
        (name.to_owned(), index)
    });
    let mirrors = settings.mirrors_of("docker.io").iter();
    let mirrors: Vec<_> = mirrors.map(ToString::to_string).collect();
    wire::RegistryConfig {
        insecure_registry_cidrs,
        index_configs: index_configs.collect(),
        mirrors: (!mirrors.is_empty()).then_some(mirrors),
    }
}

#[cfg(test)]
mod tests {
    use sampan_images::settings::Rule;

    use super::*;

    #[test]
    fn registries_are_shown_as_by_docker() {
        let settings = Settings {
            rules: vec![Rule {
                prefix: "docker.io".parse().unwrap(),
                location: None,
                mirrors: vec!["https://m.io".parse().unwrap()],
            }],
            insecure: vec!["r.io:5000".parse().unwrap(), "10.0.0.0/8".parse().unwrap()],
            ..Settings::default()
        };
        let shown = registry_config(&settings);
        assert_eq!(
            shown.insecure_registry_cidrs,
            ["10.0.0.0/8", "::1/128", "127.0.0.0/8"]
        );
        assert_eq!(shown.mirrors.unwrap(), ["https://m.io/"]);
        assert!(!shown.index_configs["r.io:5000"].secure);
        assert!(shown.index_configs["docker.io"].secure);
        assert_eq!(shown.index_configs["docker.io"].mirrors, ["https://m.io/"]);
        assert_eq!(shown.index_configs.len(), 2);
        let plain = registry_config(&Settings::default());
        assert_eq!(plain.mirrors, None);
        assert_eq!(plain.index_configs.len(), 1);
    }
}
