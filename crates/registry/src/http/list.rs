//! Lists: repositories, tags, referrers.

use std::collections::BTreeMap;

use http::header::{CONTENT_TYPE, HeaderName, LINK};
use http::{Response, StatusCode};
use sampan_oci::{Digest, MediaType};
use serde::Serialize;

use super::body::Body;
use super::reply::Reply;
use super::request::Ask;
use crate::access::Right;
use crate::error::{Error, Invalid, Result};
use crate::name::RepositoryName;
use crate::registry::Referrer;

const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Names in an answer when the client names no number, and the most when it does.
const PAGE: usize = 1000;
const MAX_PAGE: usize = 10_000;

#[derive(Serialize)]
struct Catalog {
    repositories: Vec<String>,
}

#[derive(Serialize)]
struct Tags<'a> {
    name: &'a str,
    tags: Vec<String>,
}

/// How much of a list is asked for.
struct Page {
    count: usize,
    last: Option<String>,
}

impl Page {
    fn of(ask: &Ask, usual: usize) -> Result<Self> {
        let count = match ask.query("n") {
            None => usual,
            Some(text) => text
                .parse::<usize>()
                .map_err(|_| Error::Invalid(Invalid::Number("n")))?
                .min(MAX_PAGE),
        };
        Ok(Self {
            count,
            last: ask.query("last"),
        })
    }
}

/// Where the rest of a list is.
fn next(path: &str, page: &Page, last: &str, filter: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("last", last);
    query.append_pair("n", &page.count.to_string());
    if let Some(filter) = filter {
        query.append_pair("artifactType", filter);
    }
    format!("<{path}?{}>; rel=\"next\"", query.finish())
}

/// Cuts a list that may have one more than the page and answers with it.
fn paged<T: Serialize>(
    names: Vec<String>,
    page: &Page,
    path: &str,
    value: impl FnOnce(Vec<String>) -> T,
) -> Response<Body> {
    let more = names.len() > page.count;
    let mut names = names;
    names.truncate(page.count);
    let last = names.last().filter(|_| more).cloned();
    let mut reply = Reply::json(StatusCode::OK, &value(names));
    if let Some(last) = last {
        reply = reply.header(LINK, next(path, page, &last, None));
    }
    reply.build()
}

pub(super) fn catalog(ask: &Ask) -> Result<Response<Body>> {
    let page = Page::of(ask, PAGE)?;
    // A token for the catalog names no repositories.
    let may_see = |name: &RepositoryName| ask.access.may_ever(name.as_str(), Right::Pull);
    let registry = &ask.service.registry;
    let names = registry.repositories(page.last.as_deref(), page.count + 1, may_see);
    let names = names.iter().map(ToString::to_string).collect();
    Ok(paged(names, &page, "/v2/_catalog", |repositories| {
        Catalog { repositories }
    }))
}

pub(super) fn tags(ask: &Ask, repository: &RepositoryName) -> Result<Response<Body>> {
    // Many clients take the first answer for all there is.
    let page = Page::of(ask, MAX_PAGE)?;
    let registry = &ask.service.registry;
    let tags = registry.tags(repository, page.last.as_deref(), page.count + 1)?;
    let tags = tags.iter().map(|(tag, _)| tag.to_string()).collect();
    let path = format!("/v2/{repository}/tags/list");
    Ok(paged(tags, &page, &path, |tags| Tags {
        name: repository.as_str(),
        tags,
    }))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Referrers {
    schema_version: u32,
    media_type: MediaType,
    manifests: Vec<ReferrerEntry>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReferrerEntry {
    media_type: MediaType,
    digest: Digest,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl From<Referrer> for ReferrerEntry {
    fn from(referrer: Referrer) -> Self {
        Self {
            media_type: referrer.entry.media_type,
            digest: referrer.digest,
            size: referrer.entry.size,
            artifact_type: referrer.entry.artifact_type,
            annotations: referrer.annotations,
        }
    }
}

pub(super) async fn referrers(
    ask: &Ask,
    repository: &RepositoryName,
    subject: &str,
) -> Result<Response<Body>> {
    let subject = crate::registry::parse_digest(subject)?;
    let page = Page::of(ask, PAGE)?;
    let filter = ask.query("artifactType");
    let registry = &ask.service.registry;
    let mut found = registry.referrers(repository, &subject).await?;
    found.sort_by_key(|referrer| referrer.digest);
    found.retain(|referrer| {
        let wanted = filter.is_none() || referrer.entry.artifact_type == filter;
        let behind = |last: &String| referrer.digest.to_string() > *last;
        wanted && page.last.as_ref().is_none_or(behind)
    });
    let more = found.len() > page.count;
    found.truncate(page.count);
    let last = found
        .last()
        .filter(|_| more)
        .map(|last| last.digest.to_string());
    let list = Referrers {
        schema_version: 2,
        media_type: MediaType::OciIndex,
        manifests: found.into_iter().map(ReferrerEntry::from).collect(),
    };
    let bytes = serde_json::to_vec(&list).unwrap_or_default();
    let mut reply = Reply::new(StatusCode::OK)
        .header(CONTENT_TYPE, MediaType::OciIndex.as_str())
        .body(bytes);
    if filter.is_some() {
        reply = reply.header(FILTERS_APPLIED, "artifactType");
    }
    if let Some(last) = last {
        let path = format!("/v2/{repository}/referrers/{subject}");
        reply = reply.header(LINK, next(&path, &page, &last, filter.as_deref()));
    }
    Ok(reply.build())
}
