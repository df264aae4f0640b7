//! What images take and are made of: this engine's own endpoints.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use sampan_api::types::sampan as wire;
use sampan_engine::CollectRequest;
use sampan_images::{Change, Damage, ImageTree, Item, Kept, Mark, Subject};

use crate::app::{App, to_the_end};
use crate::error::ApiError;
use crate::query::Query;
use crate::reply::Json;

/// `POST /sampan/images/gc`: `dry-run`, `to` (a size or a percentage), `tagged`, `min-age` (in
/// seconds).
pub(super) async fn collect(State(app): State<App>, query: Query) -> Result<Response, ApiError> {
    let mark = |text: &str| -> Result<Mark, ApiError> {
        text.parse()
            .map_err(|error: sampan_images::Error| ApiError::invalid(error.to_string()))
    };
    let request = CollectRequest {
        dry_run: query.flag("dry-run"),
        to: query.text("to").map(mark).transpose()?,
        tagged: query.get("tagged").map(|_| query.flag("tagged")),
        min_age: query.number("min-age")?.map(Duration::from_secs),
    };
    let budget = app.engine.images().collector_config().budget;
    let engine = app.engine.clone();
    let done = to_the_end(async move { engine.images().collect(request).await }).await?;
    let label = |id: &sampan_oci::ImageId| {
        let image = app.engine.images().store().get(id);
        let tag = image.and_then(|image| image.repo_tags().into_iter().next());
        tag.unwrap_or_else(|| id.short())
    };
    let item = |item: &Item, why: String| {
        let (kind, id, names) = match &item.subject {
            Subject::Blob { digest, images } => {
                let names = images.iter().map(label).collect();
                ("blob", digest.to_string(), names)
            }
            Subject::Image { id, names } => ("image", id.to_string(), names.clone()),
        };
        wire::Collected {
            kind: kind.to_owned(),
            id,
            names,
            size: signed(item.disk),
            last_used: item.last_use.to_string(),
            why,
        }
    };
    let kept = done.kept.iter();
    let answer = wire::Collection {
        dry_run: request.dry_run,
        high: budget.map_or(String::new(), |budget| budget.high.to_string()),
        low: budget.map_or(String::new(), |budget| budget.low.to_string()),
        wanted: done.wanted,
        freed: done.freed,
        removed: done
            .removed
            .iter()
            .map(|i| item(i, String::new()))
            .collect(),
        kept: kept
            .map(|Kept { item: kept, why }| item(kept, why.to_string()))
            .collect(),
    };
    Ok(Json(answer).into_response())
}

/// `GET /sampan/images/tree?image=NAME`.
pub(super) async fn tree(State(app): State<App>, query: Query) -> Result<Response, ApiError> {
    let tree = app.engine.images().tree(named(&query, "image")?).await?;
    Ok(Json(show_tree(&tree)).into_response())
}

fn show_tree(tree: &ImageTree) -> wire::ImageTree {
    let layers = tree.layers.iter().map(|layer| wire::LayerTree {
        diff_id: layer.diff_id.to_string(),
        created_by: layer.created_by.clone(),
        size: signed(layer.size),
        disk_size: signed(layer.disk),
        shared_with: layer.shared_with.clone(),
        files: layer
            .files
            .iter()
            .map(|file| wire::LayerFile {
                path: file.path.clone(),
                kind: file.kind.to_owned(),
                size: signed(file.size),
                change: file.change.to_string(),
            })
            .collect(),
    });
    wire::ImageTree {
        id: tree.image.id.to_string(),
        repo_tags: tree.image.repo_tags(),
        size: signed(tree.image.size),
        layers: layers.collect(),
    }
}

/// `GET /sampan/images/diff?from=NAME&to=NAME`.
pub(super) async fn diff(State(app): State<App>, query: Query) -> Result<Response, ApiError> {
    let (from, to) = (named(&query, "from")?, named(&query, "to")?);
    let diff = app.engine.images().diff(from, to).await?;
    let changes = diff.changes.iter().map(|changed| wire::Changed {
        path: changed.path.clone(),
        change: match changed.change {
            Change::Added => "added",
            Change::Deleted => "deleted",
            Change::Content => "content",
            Change::Metadata => "metadata",
        }
        .to_owned(),
        kind: changed.kind.to_owned(),
        old_size: signed(changed.old_size),
        new_size: signed(changed.new_size),
    });
    let answer = wire::ImageDiff {
        old: diff.old.id.to_string(),
        new: diff.new.id.to_string(),
        changes: changes.collect(),
    };
    Ok(Json(answer).into_response())
}

/// `GET /sampan/images/verify?image=NAME&image=NAME`; all images when none is named.
pub(super) async fn verify(State(app): State<App>, query: Query) -> Result<Response, ApiError> {
    let images = query.all("image").map(str::to_owned).collect();
    let (proofs, set_aside) = app.engine.images().verify(images).await?;
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let images = proofs.iter().map(|proof| wire::ImageProof {
        id: proof.image.id.to_string(),
        repo_tags: proof.image.repo_tags(),
        layers: count(proof.layers),
        blobs: count(proof.blobs),
        damages: proof.damages.iter().map(damage).collect(),
    });
    let answer = wire::Verification {
        images: images.collect(),
        set_aside: set_aside.iter().map(damage).collect(),
    };
    Ok(Json(answer).into_response())
}

fn damage(damage: &Damage) -> wire::Damage {
    wire::Damage {
        what: damage.what.clone(),
        why: damage.why.clone(),
    }
}

fn named<'q>(query: &'q Query, name: &str) -> Result<&'q str, ApiError> {
    query
        .text(name)
        .ok_or_else(|| ApiError::invalid(format!("the parameter {name} must name an image")))
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
