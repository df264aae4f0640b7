//! What registries have.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use sampan_api::types::image as wire;

use super::news::on_a_thread;
use super::take::{credentials, reference};
use crate::app::App;
use crate::error::ApiError;
use crate::query::Query;
use crate::reply::Json;

/// What a search brings at most, and when nothing is said.
const MOST: usize = 100;
const USUAL: usize = 25;

/// `GET /images/search`.
pub(super) async fn search(
    State(app): State<App>,
    headers: HeaderMap,
    query: Query,
) -> Result<Response, ApiError> {
    let term = query
        .text("term")
        .ok_or_else(|| ApiError::invalid("no term to search for"))?
        .to_owned();
    let limit = query.number::<i64>("limit")?.unwrap_or(0);
    let limit = match usize::try_from(limit) {
        Ok(0) => USUAL,
        Ok(limit) if limit <= MOST => limit,
        _ => {
            return Err(ApiError::invalid(format!(
                "limit {limit} is outside the range of [1, {MOST}]"
            )));
        }
    };
    let filter = Filter::read(&query)?;
    let credentials = credentials(&headers);
    let found =
        on_a_thread(
            move || async move { app.engine.images().search(&term, limit, &credentials).await },
        )
        .await?;
    let lines: Vec<_> = found
        .into_iter()
        .map(|one| wire::SearchResult {
            star_count: i64::try_from(one.stars).unwrap_or(i64::MAX),
            is_official: one.is_official,
            name: one.name,
            is_automated: false,
            description: one.description,
        })
        .filter(|line| filter.fits(line))
        .collect();
    Ok(Json(lines).into_response())
}

#[derive(Default)]
struct Filter {
    stars: i64,
    official: Option<bool>,
    automated: Option<bool>,
}

impl Filter {
    fn read(query: &Query) -> Result<Self, ApiError> {
        let mut filter = Self::default();
        for (key, values) in query.filter_lists()? {
            for value in values {
                let bad = || ApiError::invalid(format!("invalid filter '{key}={value}'"));
                let yes = || match value.as_str() {
                    "true" | "1" => Ok(Some(true)),
                    "false" | "0" => Ok(Some(false)),
                    _ => Err(bad()),
                };
                match key.as_str() {
                    "stars" => filter.stars = value.parse().map_err(|_| bad())?,
                    "is-official" => filter.official = yes()?,
                    "is-automated" => filter.automated = yes()?,
                    _ => return Err(ApiError::invalid(format!("invalid filter '{key}'"))),
                }
            }
        }
        Ok(filter)
    }

    fn fits(&self, line: &wire::SearchResult) -> bool {
        line.star_count >= self.stars
            && self.official.is_none_or(|wanted| line.is_official == wanted)
            // Nothing is any more.
            && self.automated != Some(true)
    }
}

/// `GET /distribution/{name}/json`.
pub(super) async fn distribution(
    State(app): State<App>,
    Path(rest): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let name = rest.strip_suffix("/json").ok_or_else(ApiError::no_page)?;
    let reference = reference(name)?;
    let credentials = credentials(&headers);
    let remote = on_a_thread(move || async move {
        app.engine
            .images()
            .remote_image(&reference, &credentials)
            .await
    })
    .await?;
    Ok(Json(serde_json::json!({
        "Descriptor": remote.descriptor,
        "Platforms": remote.platforms,
    }))
    .into_response())
}
