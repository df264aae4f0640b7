//! Uploads over HTTP: monolithic, in chunks, streamed, mounted from another repository.

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, LOCATION, RANGE};
use http::{Response, StatusCode};
use sampan_oci::Digest;

use super::blob::created;
use super::body::Body;
use super::reply::{Reply, UPLOAD_UUID, failure};
use super::request::{Ask, Method};
use crate::access::Right;
use crate::error::{Error, Invalid, Result};
use crate::name::RepositoryName;
use crate::registry::{ByteStream, Progress, UploadId};

/// Begins an upload, or does all of it at once.
pub(super) async fn start(
    ask: &Ask,
    repository: &RepositoryName,
    body: ByteStream,
) -> Result<Response<Body>> {
    let registry = &ask.service.registry;
    if let Some(mount) = ask.query("mount") {
        let digest = digest(&mount)?;
        let from = ask.query("from").and_then(|from| from.parse().ok());
        let asked = ask.query("from").is_none_or(|_| from.is_some());
        let may_see = |name: &RepositoryName| ask.access.may(name, Right::Pull);
        if asked
            && registry
                .mount(repository, digest, from.as_ref(), may_see)
                .await?
        {
            return Ok(created(repository, &digest));
        }
        // The client uploads it instead.
        return begun(ask, repository).await;
    }
    let Some(digest_text) = ask.query("digest") else {
        return begun(ask, repository).await;
    };
    let digest = digest(&digest_text)?;
    let upload = registry.begin_upload(repository).await?;
    let length = content_length(&ask.headers);
    let finished = registry
        .finish(repository, &upload.id, digest, None, length, body)
        .await;
    if let Err(error) = finished {
        // Nobody knows its name.
        let _ = registry.cancel_upload(&upload.id).await;
        return Err(error);
    }
    Ok(created(repository, &digest))
}

async fn begun(ask: &Ask, repository: &RepositoryName) -> Result<Response<Body>> {
    let progress = ask.service.registry.begin_upload(repository).await?;
    Ok(at(StatusCode::ACCEPTED, repository, &progress))
}

/// An upload that exists.
pub(super) async fn go_on(
    ask: &Ask,
    repository: &RepositoryName,
    id: &str,
    body: ByteStream,
) -> Result<Response<Body>> {
    let registry = &ask.service.registry;
    let id = UploadId::parse(id, repository)?;
    match ask.method {
        Method::Get | Method::Head => {
            let progress = registry.upload_progress(&id).await?;
            Ok(at(StatusCode::NO_CONTENT, repository, &progress))
        }
        Method::Delete => {
            registry.cancel_upload(&id).await?;
            Ok(Reply::new(StatusCode::NO_CONTENT).build())
        }
        Method::Patch => {
            let (offset, length) = chunk(&ask.headers)?;
            let appended = registry.append(repository, &id, offset, length, body).await;
            match appended {
                Ok(progress) => Ok(at(StatusCode::ACCEPTED, repository, &progress)),
                Err(error) => Ok(out_of_order(repository, &id, &error)),
            }
        }
        Method::Put => {
            let text = ask
                .query("digest")
                .ok_or(Error::Invalid(Invalid::NoDigest))?;
            let digest = digest(&text)?;
            let (offset, length) = chunk(&ask.headers)?;
            let finished = registry
                .finish(repository, &id, digest, offset, length, body)
                .await;
            match finished {
                Ok(blob) => Ok(created(repository, &blob.digest)),
                Err(error) => Ok(out_of_order(repository, &id, &error)),
            }
        }
        Method::Post => Ok(super::not_allowed()),
    }
}

fn digest(text: &str) -> Result<Digest> {
    crate::registry::parse_digest(text)
}

/// Answers how far an upload is.
fn at(status: StatusCode, repository: &RepositoryName, progress: &Progress) -> Response<Body> {
    let id = progress.id.as_str();
    let reply = Reply::new(status)
        .header(LOCATION, format!("/v2/{repository}/blobs/uploads/{id}"))
        .header(RANGE, range(progress.size))
        .header(UPLOAD_UUID, id);
    if status == StatusCode::NO_CONTENT {
        return reply.build();
    }
    reply.header(CONTENT_LENGTH, "0").build()
}

/// The inclusive range of what is there, as the protocol has it; for nothing it says the same as
/// for one byte.
fn range(size: u64) -> String {
    format!("0-{}", size.saturating_sub(1))
}

fn out_of_order(repository: &RepositoryName, id: &UploadId, error: &Error) -> Response<Body> {
    let reply = failure(error);
    let Error::OutOfOrder { size, .. } = error else {
        return reply.build();
    };
    let id = id.as_str();
    reply
        .header(LOCATION, format!("/v2/{repository}/blobs/uploads/{id}"))
        .header(RANGE, range(*size))
        .header(UPLOAD_UUID, id)
        .build()
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Where a chunk begins and how long it is, as far as the request says so.
fn chunk(headers: &HeaderMap) -> Result<(Option<u64>, Option<u64>)> {
    let length = content_length(headers);
    let Some(value) = headers.get(CONTENT_RANGE) else {
        return Ok((None, length));
    };
    let text = value.to_str().unwrap_or_default();
    let invalid = || Error::Invalid(Invalid::ContentRange(text.chars().take(100).collect()));
    // HTTP's form has a unit and a total, the protocol's has neither.
    let range = text.trim().strip_prefix("bytes ").unwrap_or(text);
    let range = range.split('/').next().unwrap_or_default();
    let (first, last) = range.split_once('-').ok_or_else(invalid)?;
    let first: u64 = first.trim().parse().map_err(|_| invalid())?;
    let last: u64 = last.trim().parse().map_err(|_| invalid())?;
    let expected = last
        .checked_sub(first)
        .and_then(|length| length.checked_add(1));
    let expected = match (expected, length) {
        (Some(expected), _) => expected,
        // What some clients say of nothing at all.
        (None, Some(0)) => 0,
        (None, _) => return Err(invalid()),
    };
    match length {
        Some(0) => Ok((Some(first), Some(0))),
        Some(length) if length != expected => Err(invalid()),
        _ => Ok((Some(first), Some(expected))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(range: &str, length: Option<u64>) -> Result<(Option<u64>, Option<u64>)> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_RANGE, range.parse().unwrap());
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        chunk(&headers)
    }

    #[test]
    fn chunks_say_where_they_belong() {
        assert_eq!(of("0-9", Some(10)).unwrap(), (Some(0), Some(10)));
        assert_eq!(of("bytes 5-9/10", Some(5)).unwrap(), (Some(5), Some(5)));
        assert_eq!(of("5-9", None).unwrap(), (Some(5), Some(5)));
        assert_eq!(of("0-0", Some(0)).unwrap(), (Some(0), Some(0)));
        assert_eq!(chunk(&HeaderMap::new()).unwrap(), (None, None));
        for (bad, length) in [
            ("0-9", Some(9)),
            ("9-0", Some(9)),
            ("a-b", None),
            ("5", None),
            ("-5", None),
            ("0-18446744073709551615", None),
            ("", None),
        ] {
            assert!(of(bad, length).is_err(), "{bad}");
        }
    }
}
