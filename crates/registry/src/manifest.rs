//! What the registry reads in a manifest, and how it keeps one.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use sampan_oci::manifest::ManifestError;
use sampan_oci::{Descriptor, Digest, Document, MediaType};
use serde::{Deserialize, Serialize};

use crate::index::{ManifestEntry, TagEntry};

/// What the registry adds to a manifest: the first line of its record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    media_type: MediaType,
    pushed: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
}

/// What a tag's record holds.
#[derive(Debug, Serialize, Deserialize)]
struct TagNote {
    digest: Digest,
    pushed: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
}

/// The fields that concern registries alone.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    #[serde(default)]
    subject: Option<Descriptor>,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// A manifest taken apart.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) entry: ManifestEntry,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Takes a manifest apart that was given as `media_type`.
pub(crate) fn parse(
    bytes: &[u8],
    media_type: &MediaType,
    by: Option<String>,
    pushed: Timestamp,
) -> Result<Parsed, ManifestError> {
    let document = Document::parse(bytes, media_type)?;
    let outline: Outline = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
    let (blobs, manifests, kind) = match &document {
        Document::Manifest(manifest) => {
            let layers = manifest.layers.iter();
            let blobs = std::iter::once(&manifest.config)
                .chain(layers)
                // Those are elsewhere by their nature.
                .filter(|blob| !blob.media_type.is_foreign_layer() || blob.urls.is_empty());
            let kind = Some(manifest.config.media_type.as_str().to_owned());
            (distinct(blobs), Box::default(), kind)
        }
        Document::Index(index) => (Box::default(), distinct(index.manifests.iter()), None),
    };
    let entry = ManifestEntry {
        media_type: document.media_type().clone(),
        size: bytes.len() as u64,
        pushed,
        by,
        blobs,
        manifests,
        subject: outline.subject.map(|subject| subject.digest),
        artifact_type: outline
            .artifact_type
            .filter(|text| !text.is_empty())
            .or(kind),
    };
    Ok(Parsed {
        entry,
        annotations: outline.annotations.unwrap_or_default(),
    })
}

fn distinct<'a>(descriptors: impl Iterator<Item = &'a Descriptor>) -> Box<[Digest]> {
    let mut digests: Vec<Digest> = descriptors.map(|descriptor| descriptor.digest).collect();
    digests.sort_unstable();
    digests.dedup();
    digests.into()
}

/// Writes a manifest's record.
pub(crate) fn to_record(entry: &ManifestEntry, bytes: &[u8]) -> Bytes {
    let note = Note {
        media_type: entry.media_type.clone(),
        pushed: entry.pushed,
        by: entry.by.clone(),
    };
    let note = serde_json::to_vec(&note).expect("texts and a time are always JSON");
    let mut record = BytesMut::with_capacity(note.len() + 1 + bytes.len());
    record.put_slice(&note);
    record.put_u8(b'\n');
    record.put_slice(bytes);
    record.freeze()
}

/// Reads a manifest's record: its bytes and what was noted about it. None if it is damaged.
pub(crate) fn from_record(record: &Bytes, digest: &Digest) -> Option<(Bytes, Parsed)> {
    let (note, bytes) = split(record)?;
    if Digest::of(&bytes) != *digest {
        return None;
    }
    let note: Note = serde_json::from_slice(&note).ok()?;
    let parsed = parse(&bytes, &note.media_type, note.by, note.pushed).ok()?;
    Some((bytes, parsed))
}

/// Returns a manifest's bytes from its record.
pub(crate) fn bytes_of(record: &Bytes) -> Option<Bytes> {
    split(record).map(|(_, bytes)| bytes)
}

fn split(record: &Bytes) -> Option<(Bytes, Bytes)> {
    let end = record.iter().position(|byte| *byte == b'\n')?;
    Some((record.slice(..end), record.slice(end + 1..)))
}

/// Writes a tag's record.
pub(crate) fn to_tag_record(entry: &TagEntry) -> Bytes {
    let note = TagNote {
        digest: entry.digest,
        pushed: entry.pushed,
        by: entry.by.clone(),
    };
    serde_json::to_vec(&note)
        .expect("texts and a time are always JSON")
        .into()
}

/// Reads a tag's record. None if it is damaged.
pub(crate) fn from_tag_record(record: &[u8]) -> Option<TagEntry> {
    let note: TagNote = serde_json::from_slice(record).ok()?;
    Some(TagEntry {
        digest: note.digest,
        pushed: note.pushed,
        by: note.by,
    })
}
