//! What registries and other servers have, without an image coming of it.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use sampan_oci::config::MAX_CONFIG;
use sampan_oci::{Descriptor, Document, ImageConfig, Platform, Reference};
use sampan_registry_client::{Access, Credentials, Found, Source, Target};
use tokio::sync::mpsc;

use crate::store::ImageStore;
use crate::{Error, Result};

/// Pieces that wait for a reader.
const QUEUE: usize = 8;
/// Docker Hub, and where it answers searches.
const HUB: &str = "docker.io";
const HUB_INDEX: &str = "index.docker.io";
/// Repositories that a registry is asked for when it cannot search itself.
const CATALOG: usize = 10_000;

/// What a name stands for in its registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteImage {
    /// The manifest or index.
    pub descriptor: Descriptor,
    /// The machines that it has images for.
    pub platforms: Vec<Platform>,
}

impl ImageStore {
    /// Lists the tags that a repository has in its registry.
    pub async fn remote_tags(
        &self,
        repository: &Reference,
        credentials: &Credentials,
    ) -> Result<Vec<Reference>> {
        let source = self.0.registry.origin(repository, credentials);
        let tags = self.0.registry.tags(&source).await?;
        if tags.is_empty() {
            return Err(Error::Registry(
                sampan_registry_client::Error::RepositoryNotFound {
                    repository: repository.familiar_name(),
                    cause: sampan_registry_client::Cause {
                        code: "MANIFEST_UNKNOWN".into(),
                        message: "no tags".into(),
                    },
                },
            ));
        }
        tags.iter()
            .map(|tag| Ok(repository.with_tag(tag)?))
            .collect()
    }

    /// Looks up what a name stands for in its registry.
    pub async fn remote_image(
        &self,
        reference: &Reference,
        credentials: &Credentials,
    ) -> Result<RemoteImage> {
        let reference = reference.clone().or_latest();
        let source = self.0.registry.origin(&reference, credentials);
        let target = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => Target::Digest(digest),
            (None, tag) => Target::Tag(tag.unwrap_or("latest")),
        };
        let client = &self.0.registry;
        let fetched = client.manifest(&source, target).await?;
        let document = Document::parse(&fetched.bytes, &fetched.media_type).map_err(|source| {
            Error::Manifest {
                image: reference.familiar(),
                source,
            }
        })?;
        let size = fetched.bytes.len() as u64;
        let descriptor = Descriptor::new(document.media_type().clone(), fetched.digest, size);
        let platforms = match document {
            Document::Index(index) => index
                .manifests
                .into_iter()
                .filter_map(|entry| entry.platform)
                .collect(),
            Document::Manifest(manifest) => {
                let config = &manifest.config;
                let bytes = client
                    .blob(&source, config.digest, config.size, MAX_CONFIG)
                    .await?;
                vec![ImageConfig::parse(&bytes)?.platform()]
            }
        };
        Ok(RemoteImage {
            descriptor,
            platforms,
        })
    }

    /// Searches for repositories: in Docker Hub, or in the registry that the term begins with. A
    /// registry without a search of its own is asked for all repositories that it has.
    pub async fn search(
        &self,
        term: &str,
        limit: usize,
        credentials: &Credentials,
    ) -> Result<Vec<Found>> {
        if term.contains("://") {
            return Err(Error::Invalid(format!(
                "invalid repository name: repository name ({term}) should not have a scheme"
            )));
        }
        let (registry, term) = split(term);
        let hub = registry == HUB;
        let source = Source {
            registry: if hub { HUB_INDEX } else { registry }.to_owned(),
            repository: String::new(),
            credentials: credentials.clone(),
            title: term.to_owned(),
            name: term.to_owned(),
            access: Access::Catalog,
            is_mirror: false,
        };
        let client = &self.0.registry;
        let named = |name: &str| {
            if hub {
                name.to_owned()
            } else {
                format!("{registry}/{name}")
            }
        };
        if let Some(mut found) = client.search(&source, term, limit).await? {
            for one in &mut found {
                one.name = named(&one.name);
            }
            return Ok(found);
        }
        let all = client.catalog(&source, CATALOG).await?;
        let term = term.to_lowercase();
        let fitting = all.iter().filter(|name| name.contains(&term)).take(limit);
        let found = fitting.map(|name| Found {
            name: named(name),
            ..Found::default()
        });
        Ok(found.collect())
    }

    /// Opens a file on another server. `authorization` is the header of that name. Must be called on a runtime; the reader
    /// blocks and must be read elsewhere.
    pub async fn open_url(&self, url: &str, authorization: Option<&str>) -> Result<UrlReader> {
        let mut fetched = self.0.registry.fetch(url, authorization).await?;
        let header = |name| fetched.header(name).map(str::to_owned);
        let head = UrlHead {
            last_modified: header("last-modified"),
        };
        let (sender, pieces) = mpsc::channel(QUEUE);
        // Ends with the file, or with the reader.
        tokio::spawn(async move {
            loop {
                let piece = match fetched.next().await {
                    Ok(Some(piece)) => Ok(piece),
                    Ok(None) => break,
                    Err(error) => Err(error),
                };
                let failed = piece.is_err();
                if sender.send(piece.map_err(Error::from)).await.is_err() || failed {
                    return;
                }
            }
            let _ = sender.send(Ok(Bytes::new())).await;
        });
        Ok(UrlReader {
            head,
            pieces,
            piece: Bytes::new(),
            ended: false,
        })
    }
}

/// Splits off the registry as in the name of an image.
fn split(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
            let registry = if first == HUB_INDEX { HUB } else { first };
            (registry, rest)
        }
        _ => (HUB, term.strip_prefix("library/").unwrap_or(term)),
    }
}

/// What a server says of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UrlHead {
    /// When it changed, as the server writes it (RFC 9110, section 8.8.2).
    pub last_modified: Option<String>,
}

/// A file on another server.
#[derive(Debug)]
pub struct UrlReader {
    head: UrlHead,
    pieces: mpsc::Receiver<Result<Bytes>>,
    piece: Bytes,
    ended: bool,
}

impl UrlReader {
    /// What the server says of the file.
    pub fn head(&self) -> &UrlHead {
        &self.head
    }
}

impl Read for UrlReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            if self.ended {
                return Ok(0);
            }
            match self.pieces.blocking_recv() {
                // The end is told, so that a task that is gone is not taken for it.
                Some(Ok(piece)) if piece.is_empty() => self.ended = true,
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let length = self.piece.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.piece[..length]);
        self.piece.advance(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_may_begin_with_a_registry() {
        assert_eq!(split("redis"), ("docker.io", "redis"));
        assert_eq!(split("library/redis"), ("docker.io", "redis"));
        assert_eq!(split("me/redis"), ("docker.io", "me/redis"));
        assert_eq!(split("docker.io/me/x"), ("docker.io", "me/x"));
        assert_eq!(split("127.0.0.1:5000/x"), ("127.0.0.1:5000", "x"));
        assert_eq!(split("localhost/x/y"), ("localhost", "x/y"));
    }
}
