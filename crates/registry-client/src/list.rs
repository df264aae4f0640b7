//! What a registry has: tags of a repository, repositories, and Hub's search.

use http::header::{HeaderMap, LINK};
use http::{Method, StatusCode};
use serde::Deserialize;

use crate::client::{Ask, Client, Place, Source, printable, read_bounded, refusal};
use crate::{Error, Result};

/// Bytes of one page.
const MAX_PAGE: u64 = 4 << 20;
/// Names of one list.
const MAX_NAMES: usize = 100_000;
/// Names that are asked for at once.
const PAGE: usize = 1000;

/// A repository that a search found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Its name, with neither registry nor tag.
    pub name: String,
    /// What its owner says of it.
    pub description: String,
    /// How many people like it.
    pub stars: u64,
    /// Whether the registry vouches for it.
    pub is_official: bool,
}

#[derive(Deserialize)]
struct Names {
    #[serde(default, alias = "repositories")]
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Results {
    #[serde(default)]
    results: Vec<ResultLine>,
}

#[derive(Deserialize)]
struct ResultLine {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    star_count: u64,
    #[serde(default)]
    is_official: bool,
}

impl Client {
    /// Lists the tags of a repository.
    pub async fn tags(&self, source: &Source) -> Result<Vec<String>> {
        let first = Place::Repository(format!("tags/list?n={PAGE}"));
        self.names(source, first, MAX_NAMES).await
    }

    /// Lists the repositories of a registry, at most `limit` of them. The source's access must
    /// be [`Access::Catalog`](crate::Access::Catalog).
    pub async fn catalog(&self, source: &Source, limit: usize) -> Result<Vec<String>> {
        self.settings();
        let first = Place::Registry(format!("v2/_catalog?n={PAGE}"));
        self.names(source, first, limit.min(MAX_NAMES)).await
    }

    async fn names(&self, source: &Source, first: Place, limit: usize) -> Result<Vec<String>> {
        let mut place = Some(first);
        let mut names: Vec<String> = Vec::new();
        while let Some(at) = place.take() {
            let ask = Ask {
                place: at,
                ..Ask::new(source, Method::GET, "")
            };
            let fetched = self.retry(async || {
                let response = self.ask(&ask).await?;
                if response.status() != StatusCode::OK {
                    return Err(refusal(self, source, response).await);
                }
                let next = next_page(response.headers());
                let bytes = read_bounded(self, response, "list", MAX_PAGE).await?;
                let page: Names = serde_json::from_slice(&bytes)
                    .map_err(|e| Error::Protocol(format!("a list that is none: {e}")))?;
                Ok((page.tags.unwrap_or_default(), next))
            });
            let (page, next) = fetched.await?;
            // A registry that gives the same page for ever comes to no end otherwise.
            if page.is_empty() {
                break;
            }
            names.extend(page.iter().map(|name| printable(name)));
            if names.len() >= limit {
                names.truncate(limit);
                break;
            }
            place = next.map(Place::Registry);
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Asks a registry that has Docker Hub's first search for repositories. `None` where the
    /// registry has none.
    pub async fn search(
        &self,
        source: &Source,
        term: &str,
        limit: usize,
    ) -> Result<Option<Vec<Found>>> {
        self.settings();
        let mut query = reqwest::Url::parse("http://query/").expect("a constant URL");
        query
            .query_pairs_mut()
            .append_pair("q", term)
            .append_pair("n", &limit.to_string());
        let ask = Ask {
            place: Place::Registry(format!("v1/search?{}", query.query().unwrap_or_default())),
            ..Ask::new(source, Method::GET, "")
        };
        self.retry(async || {
            let response = self.ask(&ask).await?;
            match response.status() {
                StatusCode::OK => {}
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => return Ok(None),
                _ => return Err(refusal(self, source, response).await),
            }
            let bytes = read_bounded(self, response, "search result", MAX_PAGE).await?;
            let Ok(results) = serde_json::from_slice::<Results>(&bytes) else {
                // A page for people, most likely.
                return Ok(None);
            };
            let found = results.results.into_iter().take(limit).map(|line| Found {
                name: printable(&line.name),
                description: printable(&line.description.unwrap_or_default()),
                stars: line.star_count,
                is_official: line.is_official,
            });
            Ok(Some(found.collect()))
        })
        .await
    }
}

/// The path and query of the next page. Only those count: the registry stays the same.
fn next_page(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(LINK)?.to_str().ok()?;
    let (target, rest) = text.trim().strip_prefix('<')?.split_once('>')?;
    if !rest.contains("rel=\"next\"") && !rest.contains("rel=next") {
        return None;
    }
    let base = reqwest::Url::parse("http://registry/v2/").expect("a constant URL");
    let url = base.join(target).ok()?;
    let path = url.path().trim_start_matches('/');
    Some(match url.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_path_of_the_next_page_counts() {
        let next = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, value.parse().unwrap());
            next_page(&headers)
        };
        assert_eq!(
            next("</v2/_catalog?last=b&n=2>; rel=\"next\"").as_deref(),
            Some("v2/_catalog?last=b&n=2")
        );
        assert_eq!(
            next("<http://evil/v2/x/tags/list?n=1>; rel=\"next\"").as_deref(),
            Some("v2/x/tags/list?n=1")
        );
        assert_eq!(next("</x>; rel=\"prev\""), None);
    }
}
