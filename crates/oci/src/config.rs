//! The image configuration, with Docker's additions.
//!
//! Go writes `null` for an empty list and reads it back; so does this. The bytes that an image
//! came with are kept by the caller: the image's ID is their digest.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::{DiffId, ImageId};
use crate::null_default;
use crate::platform::Platform;

/// The largest configuration that is read.
pub const MAX_CONFIG: u64 = 8 << 20;

/// What an image is made of and how to run it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// The processor, as in `amd64`.
    #[serde(deserialize_with = "null_default")]
    pub architecture: String,
    /// The processor's variant.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub variant: String,
    /// The system, as in `linux`.
    #[serde(deserialize_with = "null_default")]
    pub os: String,
    /// The system's version.
    #[serde(
        rename = "os.version",
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// What the system must have.
    #[serde(
        rename = "os.features",
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// When it was made, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub author: String,
    /// The message of a commit or import.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub comment: String,
    /// The image it was built on, in images of old builders.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub parent: String,
    /// The container it was committed from.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub container: String,
    /// The engine that made it.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub docker_version: String,
    /// How to run it.
    #[serde(deserialize_with = "null_default")]
    pub config: RunConfig,
    /// Its layers.
    pub rootfs: RootFs,
    /// How it was made, oldest first.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub history: Vec<History>,
}

/// The layers of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    /// The uncompressed layers' digests, bottom first.
    #[serde(deserialize_with = "null_default")]
    pub diff_ids: Vec<DiffId>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self {
            kind: "layers".into(),
            diff_ids: Vec::new(),
        }
    }
}

/// One step in the making of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which command.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub created_by: String,
    /// By whom.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub author: String,
    /// Anything else.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub comment: String,
    /// Whether the step made no layer.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub empty_layer: bool,
}

/// The defaults of containers made from an image.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// `name|uid[:group|gid]`, empty for root.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// Ports, as in `80/tcp`.
    #[serde(with = "keys", skip_serializing_if = "BTreeSet::is_empty")]
    pub exposed_ports: BTreeSet<String>,
    /// `NAME=value`. An entry without `=` names nothing: it must never be filled from the host.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<String>,
    /// What is always run.
    #[serde(deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Its arguments, or what is run when there is no entry point.
    #[serde(deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Paths that get a volume each.
    #[serde(with = "keys", skip_serializing_if = "BTreeSet::is_empty")]
    pub volumes: BTreeSet<String>,
    /// Where the process starts.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    /// Labels.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the process to stop.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub stop_signal: String,
    /// Seconds between that signal and SIGKILL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// How to tell whether the process is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// The shell of the shell forms of instructions.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub shell: Vec<String>,
    /// Instructions for builds on this image.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub on_build: Vec<String>,
    /// Whether the command is already escaped, on Windows.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub args_escaped: bool,
    /// Host name of the container it was committed from; means nothing to new containers.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub hostname: String,
    /// Domain name, likewise.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub domainname: String,
    /// The image that the committed container ran.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub image: String,
}

/// How to tell whether a container is well. Durations are nanoseconds, 0 inherits or defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// Empty inherits; `NONE`, `CMD` and words, or `CMD-SHELL` and a command.
    #[serde(
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub test: Vec<String>,
    /// Between probes.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// For one probe.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// In which failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between probes in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make the container unhealthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

/// Why bytes are no image configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is larger than any real one.
    #[error("image configuration is larger than {MAX_CONFIG} bytes")]
    TooLarge,
    /// It is not the JSON it should be.
    #[error("image configuration is not valid")]
    Json(#[source] serde_json::Error),
    /// It describes its file system in another way than by layers.
    #[error("image configuration has a root file system of unknown type {0:?}")]
    RootFs(String),
}

impl ImageConfig {
    /// Parses the bytes that an image's ID is the digest of.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.len() as u64 > MAX_CONFIG {
            return Err(ConfigError::TooLarge);
        }
        let config: Self = crate::json_object(bytes).map_err(ConfigError::Json)?;
        if config.rootfs.kind != "layers" && !config.rootfs.kind.is_empty() {
            return Err(ConfigError::RootFs(config.rootfs.kind));
        }
        Ok(config)
    }

    /// Returns the ID of the image whose configuration these bytes are.
    pub fn id(bytes: &[u8]) -> ImageId {
        ImageId(crate::digest::Digest::of(bytes))
    }

    /// Returns the platform that the image is for.
    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
            variant: self.variant.clone(),
        }
    }
}

// Serde hands the field by reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// Reads a list of words, or one word as old images have it.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        List(Vec<String>),
        One(String),
    }
    Ok(
        Option::<Words>::deserialize(deserializer)?.map(|words| match words {
            Words::List(list) => list,
            Words::One(one) => vec![one],
        }),
    )
}

/// A Go set: an object whose values are empty objects.
mod keys {
    use super::{BTreeMap, BTreeSet, Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        set: &BTreeSet<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(set.iter().map(|key| (key, BTreeMap::<(), ()>::new())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeSet<String>, D::Error> {
        let map = Option::<BTreeMap<String, serde::de::IgnoredAny>>::deserialize(deserializer)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_configuration_with_nulls_is_read() {
        let text = r#"{"architecture":"amd64","author":null,"config":{"Hostname":"","Domainname":"",
            "User":"","AttachStdin":false,"ExposedPorts":{"80/tcp":{}},"Tty":false,
            "Env":["PATH=/bin"],"Cmd":["sh"],"Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":30000000000},
            "Image":"","Volumes":null,"WorkingDir":"/w","Entrypoint":null,"OnBuild":null,"Labels":null},
            "container_config":{"Cmd":null},"created":"2024-01-01T00:00:00.5Z","docker_version":"20",
            "history":[{"created":"2024-01-01T00:00:00Z","created_by":"x","empty_layer":true}],"os":"linux",
            "rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(
            config.config.exposed_ports.iter().collect::<Vec<_>>(),
            ["80/tcp"]
        );
        assert_eq!(config.config.cmd.as_deref().unwrap(), ["sh"]);
        assert_eq!(config.config.entrypoint, None);
        assert_eq!(
            config.config.healthcheck.as_ref().unwrap().interval,
            30_000_000_000
        );
        assert!(config.history[0].empty_layer);
        assert_eq!(config.rootfs.diff_ids.len(), 1);
        let again = ImageConfig::parse(&serde_json::to_vec(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn everything_may_be_left_out() {
        let config = ImageConfig::parse(b"{}").unwrap();
        assert_eq!(config, ImageConfig::default());
        let config = ImageConfig::parse(br#"{"config":null,"history":null}"#).unwrap();
        assert_eq!(config, ImageConfig::default());
        let config =
            ImageConfig::parse(br#"{"rootfs":{"type":"layers","diff_ids":null}}"#).unwrap();
        assert!(config.rootfs.diff_ids.is_empty());
    }

    #[test]
    fn a_command_of_one_word_may_be_a_string() {
        let config = ImageConfig::parse(br#"{"config":{"Cmd":"true"}}"#).unwrap();
        assert_eq!(config.config.cmd.unwrap(), ["true"]);
    }

    #[test]
    fn bad_configurations_are_refused() {
        for text in [
            "",
            "[]",
            "null",
            r#"{"rootfs":{"type":"layers","diff_ids":["../x"]}}"#,
            r#"{"rootfs":{"type":"zip"}}"#,
            r#"{"config":{"Env":{"a":1}}}"#,
        ] {
            assert!(ImageConfig::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
