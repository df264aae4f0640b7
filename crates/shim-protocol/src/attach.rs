//! What an attached client wants, and the pieces of Docker's stream format.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// How one client is attached. Its socket travels as a descriptor of the same message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachSpec {
    /// Whether what the client sends goes to the process.
    pub stdin: bool,
    /// Whether the client gets standard output (with a terminal: everything).
    pub stdout: bool,
    /// Whether the client gets standard error.
    pub stderr: bool,
    /// Whether output is cut into Docker's frames (8 bytes of head each). Never with a terminal.
    pub framed: bool,
    /// Key sequence that detaches a client of a terminal; empty switches it off.
    pub detach_keys: DetachKeys,
    /// What had been read from the client before the socket was handed over.
    pub leftover: Bytes,
    /// Whether everything logged so far comes first, without gap or repetition.
    pub replay_logs: bool,
    /// Whether the client is let go after the replay instead of following the output.
    pub replay_only: bool,
}

/// Bytes that are carried as base64 text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD
            .decode(&text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// The key sequence that detaches a client from a terminal.
///
/// Written as Docker writes it: single characters, `ctrl-a` to `ctrl-z`, `ctrl-@`, `ctrl-[`,
/// `ctrl-\`, `ctrl-]`, `ctrl-^`, `ctrl-_` and `DEL`, separated by commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DetachKeys(Bytes);

/// A key name that is not known.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("Unknown character: '{0}'")]
pub struct DetachKeysError(String);

impl DetachKeys {
    /// The sequence that is used where nobody asks for another: `ctrl-p,ctrl-q`.
    pub fn docker_default() -> Self {
        Self(Bytes(vec![0x10, 0x11]))
    }

    /// No sequence: the client cannot detach by keys.
    pub fn none() -> Self {
        Self::default()
    }

    /// The bytes a terminal sends for the sequence.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0.0
    }
}

impl FromStr for DetachKeys {
    type Err = DetachKeysError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',')
            .map(key_code)
            .collect::<Result<Vec<u8>, _>>()
            .map(|codes| Self(Bytes(codes)))
    }
}

fn key_code(name: &str) -> Result<u8, DetachKeysError> {
    let unknown = || DetachKeysError(name.to_owned());
    match name.as_bytes() {
        [single] => Ok(*single),
        b"DEL" => Ok(127),
        [b'c', b't', b'r', b'l', b'-', key] => match key {
            b'@' => Ok(0),
            b'a'..=b'z' => Ok(key - b'a' + 1),
            b'[' => Ok(27),
            b'\\' => Ok(28),
            b']' => Ok(29),
            b'^' => Ok(30),
            b'_' => Ok(31),
            _ => Err(unknown()),
        },
        _ => Err(unknown()),
    }
}

/// An output stream, with the number that Docker's frames give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Standard output; with a terminal: everything.
    Stdout,
    /// Standard error.
    Stderr,
}

impl fmt::Display for OutputStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        })
    }
}

/// The head of one frame of Docker's multiplexed stream, for `length` bytes of payload.
pub fn frame_head(stream: OutputStream, length: u32) -> [u8; 8] {
    let number = match stream {
        OutputStream::Stdout => 1,
        OutputStream::Stderr => 2,
    };
    let [a, b, c, d] = length.to_be_bytes();
    [number, 0, 0, 0, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_read_as_docker_reads_them() {
        for (text, bytes) in [
            ("ctrl-p,ctrl-q", vec![16, 17]),
            ("a", vec![b'a']),
            ("ctrl-@,ctrl-a,ctrl-z,ctrl-[", vec![0, 1, 26, 27]),
            ("ctrl-\\,ctrl-],ctrl-^,ctrl-_", vec![28, 29, 30, 31]),
            ("DEL,x", vec![127, b'x']),
        ] {
            assert_eq!(text.parse::<DetachKeys>().unwrap().as_bytes(), bytes);
        }
        for text in ["", "ctrl-", "ctrl-A", "ctrl-1", "ab", "a,,b", "ctrl-p,"] {
            assert!(text.parse::<DetachKeys>().is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_survive_json() {
        let spec = AttachSpec {
            leftover: Bytes(vec![0, 255, 10]),
            detach_keys: DetachKeys::docker_default(),
            ..AttachSpec::default()
        };
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<AttachSpec>(&text).unwrap(), spec);
    }
}
