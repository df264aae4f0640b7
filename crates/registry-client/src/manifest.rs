//! Manifests and indexes.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use sampan_oci::manifest::MAX_MANIFEST;
use sampan_oci::{Digest, MediaType};

use crate::client::{Ask, Client, Failure, Source, read_bounded, refusal};
use crate::payload::Payload;
use crate::{Error, Result};

/// Which manifest of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// The one a tag points to now.
    Tag(&'a str),
    /// The one of this digest.
    Digest(&'a Digest),
}

/// A manifest or index as a registry gave it, verified if it was asked for by digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedManifest {
    /// Its bytes.
    pub bytes: Bytes,
    /// What the registry says it is.
    pub media_type: MediaType,
    /// The digest of its bytes.
    pub digest: Digest,
}

fn accept() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for media_type in &MediaType::MANIFESTS {
        if let Ok(value) = HeaderValue::from_str(media_type.as_str()) {
            headers.append(ACCEPT, value);
        }
    }
    headers
}

impl Client {
    /// Fetches a manifest or index.
    pub async fn manifest(&self, source: &Source, target: Target<'_>) -> Result<FetchedManifest> {
        if source.is_mirror {
            let once = self.manifest_once(source, target).await;
            return once
                .map_err(|failure| failure.error)
                .inspect_err(|error| self.note_failure(source, error));
        }
        self.retry(async || self.manifest_once(source, target).await)
            .await
    }

    /// Whether the repository has a manifest of this digest.
    pub async fn manifest_exists(&self, source: &Source, digest: &Digest) -> Result<bool> {
        self.exists(source, format!("manifests/{digest}"), accept())
            .await
    }

    /// Sends a manifest or index, under a tag or under its digest alone.
    pub async fn put_manifest(
        &self,
        source: &Source,
        tag: Option<&str>,
        media_type: &MediaType,
        bytes: &Bytes,
    ) -> Result<()> {
        let digest = Digest::of(bytes);
        let reference = tag.map_or_else(|| digest.to_string(), str::to_owned);
        self.retry(async || {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_str(media_type.as_str())
                .map_err(|_| Error::Protocol(format!("media type {media_type}")))?;
            headers.insert(CONTENT_TYPE, value);
            let response = self
                .ask(&Ask {
                    headers,
                    payload: Payload::Bytes(bytes.clone()),
                    ..Ask::new(source, Method::PUT, format!("manifests/{reference}"))
                })
                .await?;
            if !response.status().is_success() {
                return Err(refusal(self, source, response).await);
            }
            let announced = response
                .headers()
                .get(HeaderName::from_static("docker-content-digest"))
                .and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
            match announced {
                Some(actual) if actual != digest => Err(Error::DigestMismatch {
                    expected: digest,
                    actual,
                }
                .into()),
                _ => Ok(()),
            }
        })
        .await
    }

    async fn manifest_once(
        &self,
        source: &Source,
        target: Target<'_>,
    ) -> std::result::Result<FetchedManifest, Failure> {
        let reference = match target {
            Target::Tag(tag) => tag.to_owned(),
            Target::Digest(digest) => digest.to_string(),
        };
        let response = self
            .ask(&Ask {
                headers: accept(),
                ..Ask::new(source, Method::GET, format!("manifests/{reference}"))
            })
            .await?;
        if response.status() != StatusCode::OK {
            return Err(refusal(self, source, response).await);
        }
        let header = |name: HeaderName| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let media_type = MediaType::from_header(&header(CONTENT_TYPE).unwrap_or_default());
        let announced = header(HeaderName::from_static("docker-content-digest"));
        let bytes = read_bounded(self, response, "manifest", MAX_MANIFEST).await?;
        let actual = Digest::of(&bytes);
        let expected = match target {
            Target::Digest(digest) => Some(*digest),
            // A registry may announce a digest of an algorithm that means nothing here.
            Target::Tag(_) => announced.and_then(|text| text.parse().ok()),
        };
        if let Some(expected) = expected
            && expected != actual
        {
            return Err(Error::DigestMismatch { expected, actual }.into());
        }
        Ok(FetchedManifest {
            bytes,
            media_type,
            digest: actual,
        })
    }
}
