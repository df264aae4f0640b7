//! An image as lists, inspect and history show it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use sampan_api::ApiVersion;
use sampan_api::types::container::{GraphDriver, HealthConfig};
use sampan_api::types::image as wire;
use sampan_api::wire::{Empty, Words};
use sampan_images::{HistoryEntry, Image, Removed};
use sampan_oci::config::RunConfig;

/// One line of `GET /images/json`.
pub(crate) fn summary(
    image: &Image,
    containers: usize,
    shared: Option<u64>,
    version: ApiVersion,
) -> wire::ImageSummary {
    let size = signed(image.size);
    let mut repo_tags = image.repo_tags();
    let mut repo_digests = image.repo_digests();
    if !version.at_least(43) && repo_tags.is_empty() && repo_digests.is_empty() {
        repo_tags.push("<none>:<none>".to_owned());
        repo_digests.push("<none>@<none>".to_owned());
    }
    let labels = &image.config.config.labels;
    wire::ImageSummary {
        containers: i64::try_from(containers).unwrap_or(i64::MAX),
        created: seconds(image.created()),
        id: image.id.to_string(),
        labels: (!labels.is_empty()).then(|| labels.clone()),
        parent_id: parent(image),
        repo_digests,
        repo_tags,
        shared_size: shared.map_or(-1, signed),
        size,
        virtual_size: (!version.at_least(44)).then_some(size),
    }
}

/// What `GET /images/{name}/json` answers.
pub(super) fn inspect(image: &Image, driver: &str, version: ApiVersion) -> wire::ImageInspect {
    let config = &image.config;
    let size = signed(image.size);
    wire::ImageInspect {
        id: image.id.to_string(),
        repo_tags: image.repo_tags(),
        repo_digests: image.repo_digests(),
        parent: parent(image),
        comment: config.comment.clone(),
        created: config.created.clone().unwrap_or_default(),
        container: (!version.at_least(45)).then(|| config.container.clone()),
        container_config: (!version.at_least(45)).then(Box::default),
        docker_version: config.docker_version.clone(),
        author: config.author.clone(),
        config: run_config(&config.config, version),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        os: config.os.clone(),
        os_version: config.os_version.clone(),
        size,
        virtual_size: (!version.at_least(44)).then_some(size),
        graph_driver: GraphDriver {
            data: None,
            name: driver.to_owned(),
        },
        root_fs: wire::RootFs {
            kind: "layers".to_owned(),
            layers: image.diff_ids().iter().map(ToString::to_string).collect(),
        },
        metadata: wire::Metadata {
            last_tag_time: if image.tags.is_empty() {
                String::new()
            } else {
                image.stored.clone()
            },
        },
    }
}

fn run_config(config: &RunConfig, version: ApiVersion) -> wire::ImageConfig {
    let set = |names: &std::collections::BTreeSet<String>| -> BTreeMap<String, Empty> {
        names.iter().map(|name| (name.clone(), Empty)).collect()
    };
    let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    wire::ImageConfig {
        legacy: if version.at_least(50) {
            wire::LegacyImageConfig::default()
        } else {
            wire::LegacyImageConfig::present()
        },
        user: config.user.clone(),
        exposed_ports: set(&config.exposed_ports),
        env: list(&config.env),
        cmd: config.cmd.clone().map(Words),
        healthcheck: config.healthcheck.as_ref().map(|check| HealthConfig {
            test: check.test.clone(),
            interval: check.interval,
            timeout: check.timeout,
            start_period: check.start_period,
            start_interval: check.start_interval,
            retries: check.retries,
        }),
        args_escaped: config.args_escaped,
        volumes: (!config.volumes.is_empty()).then(|| set(&config.volumes)),
        working_dir: config.working_dir.clone(),
        entrypoint: config.entrypoint.clone().map(Words),
        on_build: list(&config.on_build),
        labels: (!config.labels.is_empty()).then(|| config.labels.clone()),
        stop_signal: config.stop_signal.clone(),
        shell: list(&config.shell).map(Words),
    }
}

/// One line of `GET /images/{name}/history`.
pub(super) fn history(entry: &HistoryEntry) -> wire::HistoryItem {
    let missing = || "<missing>".to_owned();
    wire::HistoryItem {
        comment: entry.comment.clone(),
        created: seconds(entry.created.as_deref()),
        created_by: entry.created_by.clone(),
        id: entry.id.map_or_else(missing, |id| id.to_string()),
        size: signed(entry.size),
        tags: (!entry.tags.is_empty()).then(|| entry.tags.clone()),
    }
}

/// One line of the answer of `DELETE /images/{name}`.
pub(super) fn removed(step: &Removed) -> wire::DeleteItem {
    let untagged = |name: String| wire::DeleteItem {
        untagged: name,
        ..wire::DeleteItem::default()
    };
    let deleted = |id: String| wire::DeleteItem {
        deleted: id,
        ..wire::DeleteItem::default()
    };
    match step {
        Removed::Untagged { name, .. } => untagged(name.clone()),
        Removed::Deleted(id) => deleted(id.to_string()),
        Removed::DeletedLayer(id) => deleted(id.to_string()),
    }
}

fn parent(image: &Image) -> String {
    image.parent.map(|id| id.to_string()).unwrap_or_default()
}

/// Seconds since 1970 of an RFC 3339 time; 0 for what is none.
fn seconds(time: Option<&str>) -> i64 {
    let parsed = time.and_then(|time| time.parse::<Timestamp>().ok());
    parsed.map_or(0, Timestamp::as_second)
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
