//! Manifests over HTTP.

use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, LOCATION};
use http::{Response, StatusCode};
use sampan_oci::{Digest, Document, MediaType, Platform};

use super::blob::matches_tag;
use super::body::{self, Body};
use super::reply::{CONTENT_DIGEST, Reply};
use super::request::{Ask, Method};
use crate::error::{Error, Invalid, Result};
use crate::name::{RepositoryName, Target};
use crate::registry::{ByteStream, FoundManifest};

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// What a client that reads no indexes is given of one, as Docker's registry does.
const USUAL: &str = "linux/amd64";

pub(super) async fn get(
    ask: &Ask,
    repository: &RepositoryName,
    reference: &str,
) -> Result<Response<Body>> {
    let registry = &ask.service.registry;
    let target = target(reference).map_err(|_| Error::ManifestUnknown {
        repository: repository.clone(),
        target: reference.chars().take(200).collect(),
    })?;
    let caches = &ask.service.caches;
    caches.manifest(registry, repository, &target).await?;
    let found = registry.manifest(repository, &target)?;
    let accepted = Accepted::of(&ask.headers);
    let found = match &target {
        // Whoever knows the digest knows what it is.
        Target::Digest(_) => found,
        Target::Tag(_) if accepted.takes(&found.entry.media_type) => found,
        Target::Tag(_) => {
            let only = usual(ask, repository, &found, &accepted).await?;
            only.ok_or_else(|| Error::NotAcceptable {
                target: target.clone(),
                media_type: found.entry.media_type.to_string(),
            })?
        }
    };
    let tag = format!("\"{}\"", found.digest);
    if matches_tag(&ask.headers, &tag) {
        return Ok(Reply::new(StatusCode::NOT_MODIFIED)
            .header(ETAG, tag)
            .build());
    }
    let reply = Reply::new(StatusCode::OK)
        .header(CONTENT_TYPE, found.entry.media_type.as_str())
        .header(CONTENT_LENGTH, found.entry.size.to_string())
        .header(CONTENT_DIGEST, found.digest.to_string())
        .header(ETAG, tag);
    if ask.method == Method::Head {
        return Ok(reply.build());
    }
    let bytes = registry.manifest_bytes(repository, &found.digest).await?;
    Ok(reply.body(bytes).build())
}

/// Picks the manifest of the usual platform out of an index.
async fn usual(
    ask: &Ask,
    repository: &RepositoryName,
    found: &FoundManifest,
    accepted: &Accepted,
) -> Result<Option<FoundManifest>> {
    if !found.entry.media_type.is_index() {
        return Ok(None);
    }
    let registry = &ask.service.registry;
    let bytes = registry.manifest_bytes(repository, &found.digest).await?;
    let Document::Index(index) = Document::parse(&bytes, &found.entry.media_type)? else {
        return Ok(None);
    };
    let platform: Platform = USUAL.parse().expect("a constant platform");
    let Some(entry) = index.select(&platform) else {
        return Ok(None);
    };
    let target = Target::Digest(entry.digest);
    let caches = &ask.service.caches;
    caches.manifest(registry, repository, &target).await?;
    let Ok(only) = registry.manifest(repository, &target) else {
        return Ok(None);
    };
    Ok(Some(only).filter(|only| accepted.takes(&only.entry.media_type)))
}

/// The types that a client reads.
struct Accepted(Vec<MediaType>);

impl Accepted {
    fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(ACCEPT).iter();
        let types = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(MediaType::from_header)
            .filter(|media_type| !media_type.is_unset());
        Self(types.collect())
    }

    fn takes(&self, media_type: &MediaType) -> bool {
        let any = |accepted: &MediaType| matches!(accepted.as_str(), "*/*" | "application/*");
        self.0.is_empty()
            || self
                .0
                .iter()
                .any(|accepted| accepted == media_type || any(accepted))
    }
}

pub(super) async fn put(
    ask: &Ask,
    repository: &RepositoryName,
    reference: &str,
    body: ByteStream,
) -> Result<Response<Body>> {
    let registry = &ask.service.registry;
    let target = target(reference)?;
    let media_type = ask
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(MediaType::from_header)
        .unwrap_or_default();
    let limit = registry.settings().max_manifest;
    let bytes = body::read(body, "manifest", limit).await?;
    let by = ask.access.user().map(str::to_owned);
    let pushed = registry
        .put_manifest(repository, &target, &media_type, bytes, by)
        .await?;
    let digest = pushed.digest;
    let mut reply = Reply::new(StatusCode::CREATED)
        .header(LOCATION, format!("/v2/{repository}/manifests/{digest}"))
        .header(CONTENT_DIGEST, digest.to_string())
        .header(CONTENT_LENGTH, "0");
    if let Some(subject) = pushed.subject {
        reply = reply.header(SUBJECT, subject.to_string());
    }
    Ok(reply.build())
}

pub(super) async fn delete(
    ask: &Ask,
    repository: &RepositoryName,
    reference: &str,
) -> Result<Response<Body>> {
    let target = target(reference)?;
    let registry = &ask.service.registry;
    registry.delete_manifest(repository, &target).await?;
    ask.service.collect_soon();
    Ok(Reply::new(StatusCode::ACCEPTED)
        .header(CONTENT_LENGTH, "0")
        .build())
}

/// Reads what a path says of a manifest: a digest has a colon, a tag never.
fn target(reference: &str) -> Result<Target> {
    if reference.contains(':') {
        let digest: Digest = crate::registry::parse_digest(reference)?;
        return Ok(Target::Digest(digest));
    }
    match reference.parse() {
        Ok(tag) => Ok(Target::Tag(tag)),
        Err(_) => Err(Error::Invalid(Invalid::Tag(
            reference.chars().take(200).collect(),
        ))),
    }
}
