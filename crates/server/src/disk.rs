//! What is on disk, and why.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sampan_api::ApiVersion;
use sampan_api::types::sampan as own;
use sampan_api::types::system as wire;
use sampan_api::types::volume::{Volume, VolumeUsage};
use sampan_engine::building::CacheRecord;
use sampan_engine::{ContainerView, DiskParts, ListOptions, VolumeView};
use sampan_images::{Keeper, Space};

use crate::app::App;
use crate::error::ApiError;
use crate::query::Query;
use crate::reply::Json;
use crate::{container, image, volume};

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/system/df", get(usage))
}

/// Which types of objects a request is about.
struct Wanted {
    images: bool,
    containers: bool,
    volumes: bool,
    builds: bool,
}

impl Wanted {
    fn read(query: &Query) -> Result<Self, ApiError> {
        let mut wanted = Self {
            images: false,
            containers: false,
            volumes: false,
            builds: false,
        };
        let mut any = false;
        for kind in query.all("type") {
            any = true;
            match kind {
                "image" => wanted.images = true,
                "container" => wanted.containers = true,
                "volume" => wanted.volumes = true,
                "build-cache" => wanted.builds = true,
                other => {
                    return Err(ApiError::invalid(format!("unknown object type: {other}")));
                }
            }
        }
        Ok(match any {
            true => wanted,
            false => Self {
                images: true,
                containers: true,
                volumes: true,
                builds: true,
            },
        })
    }
}

async fn usage(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    query: Query,
) -> Result<Response, ApiError> {
    let wanted = Wanted::read(&query)?;
    let report = query.flag("sampan");
    let engine = &app.engine;
    let mut usage = wire::DiskUsage::default();
    let space = match wanted.images || report {
        true => Some(engine.images().space().await?),
        false => None,
    };
    if let Some(space) = space.as_ref().filter(|_| wanted.images) {
        usage.layers_size = signed(space.unpacked);
        let lines = space.images.iter().map(|found| {
            let shared = Some(found.shared);
            image::show::summary(&found.image, found.containers, shared, version)
        });
        usage.images = Some(lines.collect());
    }
    let mut containers = Vec::new();
    if wanted.containers || report {
        let options = ListOptions {
            all: true,
            sizes: true,
            ..ListOptions::default()
        };
        containers = engine.containers().list(options).await?;
    }
    if wanted.containers {
        let lines = containers.iter();
        let lines = lines.map(|view| container::show::summary(view, version));
        usage.containers = Some(lines.collect());
    }
    let mut volumes = Vec::new();
    if wanted.volumes || report {
        volumes = engine.volumes().sizes().await?;
    }
    if wanted.volumes {
        usage.volumes = Some(volumes.iter().map(measured).collect());
    }
    let mut cache = Vec::new();
    if wanted.builds || report {
        cache = engine.builds().cache().await?;
    }
    if wanted.builds {
        usage.build_cache = Some(cache.iter().map(kept_for_builds).collect());
    }
    if let Some(space) = space.filter(|_| report) {
        let disk = engine.system().disk().await?;
        usage.sampan = Some(explain(&app, &space, &containers, &volumes, &cache, disk));
    }
    Ok(Json(usage).into_response())
}

fn measured((view, size): &(VolumeView, u64)) -> Volume {
    Volume {
        usage_data: Some(VolumeUsage {
            size: signed(*size),
            ref_count: i64::try_from(view.references).unwrap_or(i64::MAX),
        }),
        ..volume::show(view)
    }
}

fn kept_for_builds(record: &CacheRecord) -> wire::BuildCacheRecord {
    wire::BuildCacheRecord {
        id: record.id.clone(),
        parents: record.parent.iter().cloned().collect(),
        kind: record.kind.as_str().to_owned(),
        description: record.description.clone(),
        in_use: record.in_use,
        shared: record.shared,
        size: signed(record.size),
        created_at: record.created.to_string(),
        last_used_at: record.last_used.map(|used| used.to_string()),
        usage_count: signed(record.uses),
    }
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Says what everything takes on disk and what keeps it.
fn explain(
    app: &App,
    space: &Space,
    containers: &[ContainerView],
    volumes: &[(VolumeView, u64)],
    cache: &[CacheRecord],
    disk: DiskParts,
) -> own::DiskReport {
    let containers_by_id: BTreeMap<&str, &str> = containers
        .iter()
        .map(|view| (view.id.as_str(), view.name.as_str()))
        .collect();
    let container = |id: &str| {
        let name = containers_by_id.get(id).copied().unwrap_or(id);
        format!("container {name}")
    };
    let name_of = |id: &sampan_oci::ImageId| {
        let found = space.images.iter().find(|found| found.image.id == *id);
        let tag = found.and_then(|found| found.image.repo_tags().into_iter().next());
        tag.unwrap_or_else(|| id.short())
    };
    let keeper = |keeper: &Keeper| match keeper {
        Keeper::Container(id) => container(id),
        Keeper::Image(id) => format!("image {}", name_of(id)),
        Keeper::Name(name) => format!("tag {name}"),
    };
    let kept = |kind: &str, id: String, mut by: Vec<String>| {
        by.sort();
        let kind = kind.to_owned();
        own::KeptBy { kind, id, by }
    };
    let images = space.images.iter().map(|found| {
        let by = found.kept_by.iter().map(keeper).collect();
        kept("image", found.image.id.to_string(), by)
    });
    // A layer of an image is kept by the image, which says the rest.
    let layers = space.layers.iter().filter(|layer| {
        let mut keepers = layer.kept_by.iter();
        !keepers.any(|keeper| matches!(keeper, Keeper::Image(_)))
    });
    let layers = layers.map(|layer| {
        let builds = cache.iter().filter(|r| r.layers.contains(&layer.diff_id));
        let builds = builds.map(|record| format!("build cache {}", short(&record.id)));
        let by = layer.kept_by.iter().map(keeper).chain(builds).collect();
        kept("layer", layer.diff_id.to_string(), by)
    });
    let of_containers = containers.iter().map(|view| {
        let by = view.lifecycle.is_running().then(|| "it runs".to_owned());
        kept("container", view.id.to_string(), by.into_iter().collect())
    });
    let of_volumes = volumes.iter().map(|(view, _)| {
        let users = app.engine.volumes().containers_of(&view.name);
        let by = users.iter().map(|id| container(id)).collect();
        kept("volume", view.name.clone(), by)
    });
    let reclaimable = space.blobs.iter().filter(|blob| blob.layer && blob.held);
    own::DiskReport {
        disk: own::DiskParts {
            layers: disk.layers,
            blobs: disk.blobs,
            containers: disk.containers,
            volumes: disk.volumes,
            other: disk.other,
            total: disk.total(),
        },
        layers_reclaimable: signed(space.reclaimable),
        blobs_reclaimable: signed(reclaimable.map(|blob| blob.disk).sum()),
        blobs: space
            .blobs
            .iter()
            .map(|blob| own::Blob {
                digest: blob.digest.to_string(),
                kind: if blob.layer { "layer" } else { "manifest" }.to_owned(),
                size: signed(blob.disk),
                images: blob.images.iter().map(name_of).collect(),
                reclaimable: blob.layer && blob.held,
            })
            .collect(),
        kept: images
            .chain(layers)
            .chain(of_containers)
            .chain(of_volumes)
            .collect(),
    }
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
