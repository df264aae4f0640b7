//! The formats of the Open Container Initiative, and Docker's additions to them, as plain data.
//!
//! Parsers and values only: this crate opens no file, makes no connection and knows nothing of
//! where content is kept. What is parsed here comes from strangers, so every parser refuses what
//! two readers could understand differently, and has a bound.
//!
//! * [`digest`]: [`digest::Digest`] and the four things it names.
//! * [`reference`]: names of images.
//! * [`manifest`], [`config`], [`media_type`], [`platform`]: what a registry holds of an image.
//! * [`runtime`]: the `config.json` of a bundle.
//! * [`signal`]: signals by name.
//! * [`sysctl`]: parameters of the kernel that namespaces have for themselves.
//! * [`ulimit`]: resource limits by Docker's names.

pub mod config;
pub mod digest;
pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod reference;
pub mod runtime;
pub mod seccomp;
pub mod signal;
pub mod sysctl;
pub mod ulimit;

pub use config::ImageConfig;
pub use digest::{ChainId, DiffId, Digest, ImageId, LayerDigest};
pub use manifest::{Descriptor, Document, Index, Manifest};
pub use media_type::MediaType;
pub use platform::Platform;
pub use reference::Reference;

/// Reads a JSON `null` as the type's default, as Go's decoder does.
pub(crate) fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + serde::Deserialize<'de>,
{
    Ok(<Option<T> as serde::Deserialize>::deserialize(deserializer)?.unwrap_or_default())
}

/// Parses a JSON object. Serde would also take an array of the fields' values in order.
pub(crate) fn json_object<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
) -> Result<T, serde_json::Error> {
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(serde::de::Error::custom(
            "expected an object, found an array",
        ));
    }
    serde_json::from_slice(bytes)
}
