//! Blobs over HTTP.

use std::ops::Range;

use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap,
    IF_NONE_MATCH, LOCATION, RANGE,
};
use http::{Response, StatusCode};
use sampan_oci::Digest;

use super::body::{self, Body};
use super::reply::{CONTENT_DIGEST, Reply};
use super::request::{Ask, Method};
use crate::cache::Found;
use crate::error::Result;
use crate::name::RepositoryName;
use crate::storage::Content;

/// What of a blob is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Some(Range<u64>),
    Nothing,
}

pub(super) async fn get(
    ask: &Ask,
    repository: &RepositoryName,
    digest: Digest,
) -> Result<Response<Body>> {
    let registry = &ask.service.registry;
    let tag = format!("\"{digest}\"");
    let reply = |status, length: u64| {
        Reply::new(status)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, length.to_string())
            .header(CONTENT_DIGEST, digest.to_string())
            .header(ACCEPT_RANGES, "bytes")
            .header(CACHE_CONTROL, "private, max-age=31536000, immutable")
            .header(ETAG, &tag)
    };
    let coming = match ask
        .service
        .caches
        .blob(registry, repository, &digest)
        .await?
    {
        Found::Here => None,
        Found::Coming(coming) => Some(coming),
    };
    if ask.method == Method::Head {
        let size = match &coming {
            Some(coming) => coming.size(),
            None => registry.promise_blob(repository, &digest)?,
        };
        return Ok(reply(StatusCode::OK, size).build());
    }
    let size = match &coming {
        Some(coming) => coming.size(),
        None => registry.blob_size(repository, &digest)?,
    };
    if matches_tag(&ask.headers, &tag) {
        return Ok(Reply::new(StatusCode::NOT_MODIFIED)
            .header(ETAG, tag)
            .build());
    }
    let (status, range) = match part(&ask.headers, size) {
        Part::Whole => (StatusCode::OK, 0..size),
        Part::Some(range) => (StatusCode::PARTIAL_CONTENT, range),
        Part::Nothing => {
            return Ok(Reply::new(StatusCode::RANGE_NOT_SATISFIABLE)
                .header(CONTENT_RANGE, format!("bytes */{size}"))
                .build());
        }
    };
    let content = match coming {
        Some(coming) => Content::Stream(coming.pieces(range.clone())),
        None => {
            let open = registry.open_blob(repository, &digest, range.clone());
            open.await?.content
        }
    };
    let mut reply = reply(status, range.end - range.start);
    if status == StatusCode::PARTIAL_CONTENT {
        let last = range.end - 1;
        reply = reply.header(
            CONTENT_RANGE,
            format!("bytes {}-{last}/{size}", range.start),
        );
    }
    Ok(match content {
        Content::Stream(pieces) => reply.stream(body::streamed(pieces)).build(),
        Content::File(file) => match &ask.handover {
            Some(handover) if !ask.has_body => {
                // Nobody comes back here to count it.
                let took = ask.start.elapsed();
                let metrics = &ask.service.metrics;
                metrics.request("blob", "GET", status.as_u16(), took);
                handover
                    .send_file(super::finish(reply.build()), file, range)
                    .await
            }
            _ => reply.stream(body::file(file, range)).build(),
        },
    })
}

/// Whether the client has just what it asks for.
pub(super) fn matches_tag(headers: &HeaderMap, tag: &str) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().trim_start_matches("W/") == tag)
}

/// Reads a `Range` header. Several ranges, and what is none, are answered by the whole.
fn part(headers: &HeaderMap, size: u64) -> Part {
    let range = headers
        .get(RANGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.trim().strip_prefix("bytes="))
        .and_then(|range| range.split_once('-'));
    let Some((first, last)) = range else {
        return Part::Whole;
    };
    let range = match (first.trim(), last.trim()) {
        ("", suffix) => match suffix.parse::<u64>() {
            Ok(0) => return Part::Nothing,
            Ok(length) => size.saturating_sub(length)..size,
            Err(_) => return Part::Whole,
        },
        (first, last) => {
            let Ok(first) = first.parse::<u64>() else {
                return Part::Whole;
            };
            let end = match last {
                "" => size,
                last => match last.parse::<u64>() {
                    Ok(last) if last >= first => size.min(last.saturating_add(1)),
                    _ => return Part::Whole,
                },
            };
            first..end
        }
    };
    if range.is_empty() {
        return Part::Nothing;
    }
    Part::Some(range)
}

pub(super) async fn delete(
    ask: &Ask,
    repository: &RepositoryName,
    digest: Digest,
) -> Result<Response<Body>> {
    ask.service.registry.delete_blob(repository, digest).await?;
    ask.service.collect_soon();
    Ok(Reply::new(StatusCode::ACCEPTED)
        .header(CONTENT_LENGTH, "0")
        .build())
}

/// Answers that a blob is in the repository now.
pub(super) fn created(repository: &RepositoryName, digest: &Digest) -> Response<Body> {
    Reply::new(StatusCode::CREATED)
        .header(LOCATION, format!("/v2/{repository}/blobs/{digest}"))
        .header(CONTENT_DIGEST, digest.to_string())
        .header(CONTENT_LENGTH, "0")
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_http_has_them() {
        for (text, expected) in [
            ("bytes=0-4", Part::Some(0..5)),
            ("bytes=5-", Part::Some(5..10)),
            ("bytes=-3", Part::Some(7..10)),
            ("bytes=-30", Part::Some(0..10)),
            ("bytes=0-99", Part::Some(0..10)),
            ("bytes=9-9", Part::Some(9..10)),
            ("bytes=10-", Part::Nothing),
            ("bytes=-0", Part::Nothing),
            ("bytes=4-2", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=18446744073709551615-", Part::Nothing),
            ("bytes=0-18446744073709551615", Part::Some(0..10)),
            ("lines=0-4", Part::Whole),
            ("bytes=", Part::Whole),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, text.parse().unwrap());
            assert_eq!(part(&headers, 10), expected, "{text}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, "bytes=0-".parse().unwrap());
        assert_eq!(part(&headers, 0), Part::Nothing);
    }
}
