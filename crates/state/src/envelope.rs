//! The form of a record's file.

use std::fmt::Write as _;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    format: u32,
    checksum: String,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// Why a file is not a record.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Not JSON, or not of a record.
    #[error("not a record: {0}")]
    Json(#[from] serde_json::Error),
    /// Of a later version.
    #[error("written in format {0}, which this version does not know")]
    Format(u32),
    /// Changed or cut off since it was written.
    #[error("checksum does not match")]
    Checksum,
}

/// The bytes of a record's file, for whoever keeps a single one without a
/// [`Store`](crate::Store).
///
/// # Errors
/// When the value cannot be written as JSON.
pub fn seal<T: Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    let record = serde_json::value::to_raw_value(value)?;
    let mut bytes = serde_json::to_vec(&Envelope {
        format: FORMAT,
        checksum: checksum(record.get().as_bytes()),
        record: &record,
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The record that [`seal`] has made a file of.
///
/// # Errors
/// [`Unreadable`].
pub fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    let envelope: Envelope<'_> = serde_json::from_slice(bytes)?;
    if envelope.format != FORMAT {
        return Err(Unreadable::Format(envelope.format));
    }
    if envelope.checksum != checksum(envelope.record.get().as_bytes()) {
        return Err(Unreadable::Checksum);
    }
    Ok(serde_json::from_str(envelope.record.get())?)
}

fn checksum(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for byte in Sha256::digest(bytes) {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
