//! Images.

mod give;
mod message;
mod news;
mod remote;
pub(crate) mod show;
mod space;
mod take;

use axum::Router;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode};
use sampan_api::ApiVersion;
use sampan_api::types::image::ImagePruneResponse;
use sampan_engine::{ImageFilter, Intermediate, PruneFilter};
use sampan_images::RemoveOptions;

use crate::app::{App, to_the_end};
use crate::error::ApiError;
use crate::query::Query;
use crate::reply::Json;
use crate::unbuilt::refusal;

pub(crate) use take::credentials_of;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/images/json", get(list))
        .route("/images/create", post(take::create))
        .route("/images/load", post(take::load))
        .route("/images/prune", post(prune))
        .route("/sampan/images/gc", post(space::collect))
        .route("/sampan/images/tree", get(space::tree))
        .route("/sampan/images/diff", get(space::diff))
        .route("/sampan/images/verify", get(space::verify))
        .route("/images/get", get(give::save))
        .route("/images/search", get(remote::search))
        .route("/distribution/{*rest}", get(remote::distribution))
        // Names have slashes, and so the verb at the end of the path is told apart here.
        .route("/images/{*rest}", get(look).post(change).delete(remove))
}

async fn list(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    query: Query,
) -> Result<Response, ApiError> {
    let mut filters = query.filter_lists()?;
    // What old clients send in place of the filter.
    if let Some(name) = query.text("filter").filter(|_| !version.at_least(41)) {
        filters
            .entry("reference".to_owned())
            .or_default()
            .push(name.to_owned());
    }
    let intermediate = match query.flag("all") {
        true => Intermediate::Show,
        false => Intermediate::Hide,
    };
    let images = app.engine.images();
    let listed = images
        .list(ImageFilter::parse(&filters)?, intermediate)
        .await?;
    let shared = query
        .flag("shared-size")
        .then(|| images.store().shared_sizes());
    let lines: Vec<_> = listed
        .iter()
        .map(|image| {
            let shared = shared.as_ref().and_then(|shared| shared.get(&image.id));
            let containers = images.containers_of(&image.id);
            show::summary(image, containers, shared.copied(), version)
        })
        .collect();
    Ok(Json(lines).into_response())
}

async fn prune(State(app): State<App>, query: Query) -> Result<Response, ApiError> {
    let filter = PruneFilter::of_images(&query.filter_lists()?)?;
    let pruned = to_the_end(async move { app.engine.images().prune(filter).await }).await?;
    let steps: Vec<_> = pruned.removed.iter().map(show::removed).collect();
    let response = ImagePruneResponse {
        images_deleted: (!steps.is_empty()).then_some(steps),
        space_reclaimed: pruned.reclaimed,
    };
    Ok(Json(response).into_response())
}

async fn look(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    Path(rest): Path<String>,
    query: Query,
) -> Result<Response, ApiError> {
    let (name, verb) = split(&rest)?;
    let images = app.engine.images();
    match verb {
        "json" => {
            if query.flag("manifests") && query.text("platform").is_some() {
                return Err(ApiError::invalid(
                    "conflicting options: manifests and platform options cannot both be set",
                ));
            }
            let image = images.inspect(name).await?;
            let driver = app.engine.system().info().await?.storage_driver;
            Ok(Json(show::inspect(&image, &driver, version)).into_response())
        }
        "history" => {
            let steps = images.history(name).await?;
            let lines: Vec<_> = steps.iter().map(show::history).collect();
            Ok(Json(lines).into_response())
        }
        "get" => give::save_one(&app, &query, name).await,
        "attestations" => Err(refusal("attestations of images")),
        _ => Err(ApiError::no_page()),
    }
}

async fn change(
    State(app): State<App>,
    Path(rest): Path<String>,
    headers: HeaderMap,
    query: Query,
) -> Result<Response, ApiError> {
    let (name, verb) = split(&rest)?;
    match verb {
        "tag" => {
            let target = target(&query)?;
            let name = name.to_owned();
            to_the_end(async move { app.engine.images().tag(&name, &target).await }).await?;
            Ok(StatusCode::CREATED.into_response())
        }
        "push" => give::push(&app, &headers, &query, name).await,
        _ => Err(ApiError::no_page()),
    }
}

/// The name of `repo` and `tag`.
fn target(query: &Query) -> Result<String, ApiError> {
    let repository = query
        .text("repo")
        .ok_or_else(|| ApiError::invalid("repository name must have at least one component"))?;
    Ok(match query.text("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    })
}

async fn remove(
    State(app): State<App>,
    Path(name): Path<String>,
    query: Query,
) -> Result<Response, ApiError> {
    if name.trim().is_empty() {
        return Err(ApiError::invalid("image name cannot be blank"));
    }
    let platforms = query
        .all("platforms")
        .filter(|text| !text.is_empty())
        .map(|text| {
            serde_json::from_str(text)
                .map_err(|error| ApiError::invalid(format!("failed to parse platform: {error}")))
        });
    let options = RemoveOptions {
        force: query.flag("force"),
        prune: !query.flag("noprune"),
        platforms: platforms.collect::<Result<_, _>>()?,
    };
    let steps = to_the_end(async move { app.engine.images().remove(&name, options).await }).await?;
    let lines: Vec<_> = steps.iter().map(show::removed).collect();
    Ok(Json(lines).into_response())
}

/// A name and the verb behind its last slash.
fn split(rest: &str) -> Result<(&str, &str), ApiError> {
    rest.rsplit_once('/')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(ApiError::no_page)
}
