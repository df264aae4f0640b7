//! Content digests and the four things they name.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::digest::common::hazmat::{SerializableState, SerializedState};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest, written `sha256:<64 lower-case hex digits>`.
///
/// Other algorithms are refused: nothing that registries hold uses them, and one
/// algorithm makes a digest a plain value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is not a [`Digest`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:` in front or no well-formed one.
    #[error("invalid checksum digest format")]
    Format,
    /// The algorithm is not SHA-256.
    #[error("unsupported digest algorithm")]
    Algorithm,
    /// There are not exactly 64 digits.
    #[error("invalid checksum digest length")]
    Length,
}

impl Digest {
    /// Returns the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Wraps the 32 bytes that a hash function gave.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Parses the 64 hex digits without the `sha256:` in front.
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        let text = hex.as_bytes();
        if text.len() != 64 {
            return Err(DigestError::Length);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }

    /// Returns the 64 hex digits: the name of the content's file in every store.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = String::with_capacity(64);
        for byte in self.0 {
            text.push(char::from(DIGITS[usize::from(byte >> 4)]));
            text.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
        text
    }

    /// Returns the first 12 hex digits, as people see them.
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }

    /// Returns the raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

fn digit(c: u8) -> Result<u8, DigestError> {
    match c {
        b'0'..=b'9' => Ok(c - b'0'),
        b'a'..=b'f' => Ok(c - b'a' + 10),
        _ => Err(DigestError::Format),
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Format)?;
        if algorithm == "sha256" {
            return Self::from_hex(hex);
        }
        let named = !algorithm.is_empty()
            && algorithm
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+._-".contains(&b));
        Err(if named {
            DigestError::Algorithm
        } else {
            DigestError::Format
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Digest;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a digest such as sha256:<64 hex digits>")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Digest, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

macro_rules! role {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl $name {
            /// Returns the digest itself.
            pub const fn digest(&self) -> &Digest {
                &self.0
            }
            /// Returns the 64 hex digits.
            pub fn hex(&self) -> String {
                self.0.hex()
            }
            /// Returns the first 12 hex digits.
            pub fn short(&self) -> String {
                self.0.short()
            }
        }
        impl From<Digest> for $name {
            fn from(digest: Digest) -> Self {
                Self(digest)
            }
        }
        impl FromStr for $name {
            type Err = DigestError;
            fn from_str(text: &str) -> Result<Self, DigestError> {
                text.parse().map(Self)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

role! {
    /// Names an image: the digest of its configuration's bytes.
    ImageId
}
role! {
    /// Names a layer by its uncompressed tar.
    DiffId
}
role! {
    /// Names a layer by its blob as a registry holds it, mostly compressed.
    LayerDigest
}
role! {
    /// Names a layer together with everything below it.
    ChainId
}

impl ChainId {
    /// Returns the chain of the layers given bottom first, none for no layers.
    pub fn of(diff_ids: &[DiffId]) -> Option<Self> {
        let (first, rest) = diff_ids.split_first()?;
        Some(
            rest.iter()
                .fold(Self(first.0), |below, diff_id| below.push(diff_id)),
        )
    }

    /// Returns the chain with one more layer on top.
    pub fn push(&self, diff_id: &DiffId) -> Self {
        Self(Digest::of(format!("{self} {diff_id}").as_bytes()))
    }
}

/// An incremental SHA-256.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Starts with no bytes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of all bytes taken.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }

    /// Returns what [`Hasher::from_state`] goes on with, in another process too.
    pub fn state(&self) -> Vec<u8> {
        self.0.serialize().to_vec()
    }

    /// Goes on where another one was; none if these bytes are no state.
    pub fn from_state(state: &[u8]) -> Option<Self> {
        let state = SerializedState::<Sha256>::try_from(state).ok()?;
        Sha256::deserialize(&state).ok().map(Self)
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

/// Passes bytes on to `inner` and hashes and counts those that it accepted.
#[derive(Debug)]
pub struct DigestWriter<W> {
    inner: W,
    hasher: Hasher,
    written: u64,
}

impl<W: Write> DigestWriter<W> {
    /// Wraps a writer to which nothing was written yet.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Hasher::new(),
            written: 0,
        }
    }

    /// Returns how many bytes were written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Returns the inner writer, the digest and the number of bytes.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, self.hasher.finish(), self.written)
    }
}

impl<W: Write> Write for DigestWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn text_form_round_trips() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest, Digest::of(b""));
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(digest.short(), "e3b0c44298fc");
        assert_eq!(
            serde_json::to_string(&digest).unwrap(),
            format!("\"{EMPTY}\"")
        );
        assert_eq!(
            serde_json::from_str::<Digest>(&format!("\"{EMPTY}\"")).unwrap(),
            digest
        );
    }

    #[test]
    fn only_the_canonical_form_parses() {
        for (text, error) in [
            ("", DigestError::Format),
            ("sha256", DigestError::Format),
            (":", DigestError::Format),
            ("../../etc:abc", DigestError::Format),
            ("sha256:", DigestError::Length),
            ("sha256:../../../etc/passwd", DigestError::Length),
            (&EMPTY.to_uppercase(), DigestError::Algorithm),
            (&EMPTY[..70], DigestError::Length),
            (&EMPTY.replace("sha256", "sha512"), DigestError::Algorithm),
            (&EMPTY.replace("e3b", "E3B"), DigestError::Format),
            (&EMPTY.replace("e3b", "é3"), DigestError::Format),
            (&format!("{EMPTY}0"), DigestError::Length),
        ] {
            assert_eq!(text.parse::<Digest>().unwrap_err(), error, "{text:?}");
        }
    }

    #[test]
    fn chain_follows_the_specification() {
        let a = DiffId(Digest::of(b"a"));
        let b = DiffId(Digest::of(b"b"));
        assert_eq!(ChainId::of(&[]), None);
        assert_eq!(ChainId::of(&[a]).unwrap().0, a.0);
        assert_eq!(
            ChainId::of(&[a, b]).unwrap().0,
            Digest::of(format!("{a} {b}").as_bytes())
        );
    }

    #[test]
    fn a_hasher_goes_on_from_its_state() {
        let bytes: Vec<u8> = (0..=255).collect();
        for middle in [0, 1, 63, 64, 65, 128, 256] {
            let mut first = Hasher::new();
            first.update(&bytes[..middle]);
            let mut second = Hasher::from_state(&first.state()).unwrap();
            second.update(&bytes[middle..]);
            assert_eq!(second.finish(), Digest::of(&bytes), "{middle}");
        }
        assert!(Hasher::from_state(b"short").is_none());
    }

    #[test]
    fn writer_hashes_what_was_accepted() {
        let mut writer = DigestWriter::new(Vec::new());
        writer.write_all(b"hello ").unwrap();
        writer.write_all(b"world").unwrap();
        let (bytes, digest, written) = writer.finish();
        assert_eq!(digest, Digest::of(&bytes));
        assert_eq!(written, 11);
    }
}
