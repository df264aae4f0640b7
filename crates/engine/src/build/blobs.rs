//! Stores of blobs that clients offer: OCI layouts in directories of theirs. What comes from there
//! is whatever a client likes, so nothing is taken that is not what its digest says.

use std::io::{self, Read};
use std::sync::Arc;

use sampan_images::{HeldLayer, Image, ImageStore, MAX_DOCUMENT};
use sampan_oci::manifest::MAX_MANIFEST;
use sampan_oci::{Descriptor, Digest, Document, ImageConfig, Manifest, MediaType, Platform};
use sampan_text::with_causes;

use crate::{Error, Result};

/// Blobs by their digests. All of it blocks.
pub trait BlobStore: Send + Sync {
    /// The size that the store says a blob has; none where it has no such blob.
    fn size(&self, digest: &Digest) -> io::Result<Option<u64>>;

    /// Reads a blob. Its bytes may be any.
    fn read(&self, digest: &Digest) -> io::Result<Box<dyn Read + Send>>;

    /// Puts a blob that is not there yet.
    fn write(&self, blob: &Descriptor, bytes: &mut dyn Read) -> io::Result<()>;
}

/// Puts a blob unless it is there.
pub(super) fn put(store: &dyn BlobStore, blob: &Descriptor, bytes: &mut dyn Read) -> Result<()> {
    let failed = |error: io::Error| Error::because(format!("write {}", blob.digest), &error);
    match store.size(&blob.digest).map_err(failed)? {
        Some(size) if size == blob.size => Ok(()),
        _ => store.write(blob, bytes).map_err(failed),
    }
}

/// Reads a whole document of at most `limit` bytes.
pub(super) fn document(store: &dyn BlobStore, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
    let failed = |error: io::Error| Error::invalid(format!("read {digest}: {error}"));
    let mut bytes = Vec::new();
    let reader = store.read(digest).map_err(failed)?;
    reader
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(Error::invalid(format!(
            "{digest} is longer than {limit} bytes"
        )));
    }
    if Digest::of(&bytes) != *digest {
        return Err(Error::invalid(format!(
            "what comes as {digest} is something else"
        )));
    }
    Ok(bytes)
}

/// Reads a manifest or an index.
pub(super) fn manifest(store: &dyn BlobStore, digest: &Digest) -> Result<Document> {
    let bytes = document(store, digest, MAX_MANIFEST)?;
    let parsed = Document::parse(&bytes, &MediaType::from(""));
    parsed.map_err(|error| Error::invalid(format!("{digest}: {}", with_causes(&error))))
}

/// Takes the image for a machine that is in a store, by the digest of its manifest or of an index.
/// It is no image of the engine: its layers are there as long as they are held.
pub(super) fn image(
    images: &ImageStore,
    store: &dyn BlobStore,
    digest: &Digest,
    platform: &Platform,
) -> Result<(Arc<Image>, Vec<HeldLayer>)> {
    let manifest = match manifest(store, digest)? {
        Document::Manifest(manifest) => manifest,
        Document::Index(index) => match index.select(platform) {
            Some(entry) => only_manifest(store, &entry.digest)?,
            None => {
                let why = format!("no match for platform in manifest: {platform} in {digest}");
                return Err(Error::invalid(why));
            }
        },
    };
    let bytes = document(store, &manifest.config.digest, MAX_DOCUMENT)?;
    let wrong = |why: String| Error::invalid(format!("the image {digest}: {why}"));
    let config = ImageConfig::parse(&bytes).map_err(|error| wrong(with_causes(&error)))?;
    let diff_ids = config.rootfs.diff_ids.clone();
    if diff_ids.len() != manifest.layers.len() {
        return Err(wrong(format!(
            "its configuration names {} layers but its manifest {}",
            diff_ids.len(),
            manifest.layers.len()
        )));
    }
    let mut layers = Vec::new();
    for (layer, diff_id) in manifest.layers.iter().zip(&diff_ids) {
        if layer.media_type.is_foreign_layer() || layer.media_type.layer_compression().is_none() {
            return Err(wrong(format!("{} is no layer", layer.media_type)));
        }
        let held = match images.hold_layer(diff_id) {
            Some(held) => held,
            None => {
                let reader = store.read(&layer.digest);
                let reader = reader.map_err(|error| wrong(format!("{}: {error}", layer.digest)))?;
                images.take_packed_layer(reader, layer, diff_id)?
            }
        };
        layers.push(held);
    }
    let id = ImageConfig::id(&bytes);
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| wrong("its configuration is not UTF-8".to_owned()))?;
    let image = Image {
        id,
        config: Arc::new(config),
        config_bytes: text.into(),
        ..Image::of_layers(diff_ids.into_iter())
    };
    Ok((Arc::new(image), layers))
}

fn only_manifest(store: &dyn BlobStore, digest: &Digest) -> Result<Manifest> {
    match manifest(store, digest)? {
        Document::Manifest(manifest) => Ok(manifest),
        // An index in an index is nothing that builders make.
        Document::Index(_) => Err(Error::invalid(format!("{digest} is an index in an index"))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Blobs under names that need not be theirs.
    struct Blobs(BTreeMap<Digest, Vec<u8>>);

    impl BlobStore for Blobs {
        fn size(&self, digest: &Digest) -> io::Result<Option<u64>> {
            Ok(self.0.get(digest).map(|bytes| bytes.len() as u64))
        }

        fn read(&self, digest: &Digest) -> io::Result<Box<dyn Read + Send>> {
            let bytes = self.0.get(digest).cloned();
            Ok(Box::new(io::Cursor::new(
                bytes.ok_or(io::ErrorKind::NotFound)?,
            )))
        }

        fn write(&self, _: &Descriptor, _: &mut dyn Read) -> io::Result<()> {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        }
    }

    #[test]
    fn what_is_too_long_or_not_what_its_digest_says_is_refused() {
        let right = Digest::of(b"text");
        let wrong = Digest::of(b"other");
        let blobs = Blobs([right, wrong].map(|d| (d, b"text".to_vec())).into());
        assert_eq!(document(&blobs, &right, 4).unwrap(), b"text");
        let refused = |digest: &Digest, limit| {
            let error = document(&blobs, digest, limit).unwrap_err();
            error.message().to_owned()
        };
        assert!(refused(&right, 3).contains("longer than 3 bytes"));
        assert!(refused(&wrong, 4).contains("is something else"));
        assert!(refused(&Digest::of(b""), 4).contains("read sha256:"));
        assert!(manifest(&blobs, &right).is_err());
    }

    #[test]
    fn what_is_there_is_not_written_again() {
        let descriptor = |bytes: &[u8]| Descriptor::of(MediaType::OciLayer, bytes);
        let blobs = Blobs([(Digest::of(b"text"), b"text".to_vec())].into());
        put(&blobs, &descriptor(b"text"), &mut &b"text"[..]).unwrap();
        assert!(put(&blobs, &descriptor(b"new"), &mut &b"new"[..]).is_err());
    }
}
