//! What runs the commands of a build.

use sampan_images::HeldLayer;
use sampan_oci::DiffId;
use tokio_util::sync::CancellationToken;

use crate::cache::{Key, KeyMaker};

/// One command, and all that it may see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunStep {
    /// The layers below, bottom first.
    pub layers: Vec<DiffId>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    /// `name|uid[:group|gid]`, empty for root.
    pub user: String,
    /// Where it starts; empty for `/`.
    pub directory: String,
    /// The network it has.
    pub network: Network,
    /// `name:address`.
    pub extra_hosts: Vec<String>,
    /// Bytes of `/dev/shm`, 0 for the usual.
    pub shm_size: i64,
    /// Places for empty file systems in memory, each with its size; 0 is no limit.
    pub memory_files: Vec<(String, u64)>,
    /// Later times of files that it changes become this one, in seconds since 1970.
    pub latest: Option<i64>,
}

impl RunStep {
    /// Names all that decides what comes of the command on the files that `below` names.
    pub(crate) fn key(&self, below: Key) -> Key {
        let Self {
            // They are what `below` names.
            layers: _,
            command,
            environment,
            user,
            directory,
            network,
            extra_hosts,
            // Limits decide whether a command ends well, not what it makes.
            shm_size: _,
            memory_files,
            latest,
        } = self;
        let mut key = KeyMaker::new("run");
        key.text("below", &below.0.hex());
        key.texts("command", command);
        key.texts("environment", environment);
        key.text("user", user);
        key.text("directory", directory);
        key.text("network", &format!("{network:?}"));
        key.texts("hosts", extra_hosts);
        key.number("memory", memory_files.len() as u64);
        for (place, size) in memory_files {
            key.text("place", place);
            key.number("size", *size);
        }
        if let Some(latest) = latest {
            key.text("latest", &latest.to_string());
        }
        key.key()
    }
}

/// The network of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// What containers have.
    #[default]
    Default,
    /// None but the loopback.
    None,
    /// The host's.
    Host,
}

/// What a command came to.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it has changed; only looked at when it ended well.
    pub changes: Option<HeldLayer>,
}

/// Why a command could not be run.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SandboxError(pub String);

/// Runs commands as containers are run. Nothing is left of a command when [`run`](Self::run)
/// returns, however it does, but the layer of its changes.
pub trait Sandbox: Sync {
    /// Runs a command to its end and hands on what it writes. Ends it when `cancel` is set. Blocks.
    fn run(
        &self,
        step: &RunStep,
        output: &mut (dyn FnMut(&[u8]) + Send),
        cancel: &CancellationToken,
    ) -> Result<Ran, SandboxError>;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn step() -> impl Strategy<Value = RunStep> {
        let words = || proptest::collection::vec("[ab=/]{0,3}", 0..3);
        let place = ("[ab/]{0,2}", 0..3u64);
        let memory = proptest::collection::vec(place, 0..2);
        let network = prop_oneof![
            Just(Network::Default),
            Just(Network::None),
            Just(Network::Host)
        ];
        let texts = ("[ab]{0,2}", "[ab]{0,2}");
        (words(), words(), texts, network, words(), memory).prop_map(
            |(command, environment, (user, directory), network, extra_hosts, memory_files)| {
                RunStep {
                    command,
                    environment,
                    user,
                    directory,
                    network,
                    extra_hosts,
                    memory_files,
                    ..RunStep::default()
                }
            },
        )
    }

    proptest! {
        #[test]
        fn any_other_input_has_another_key(one in step(), other in step()) {
            let below = KeyMaker::new("below").key();
            prop_assert_eq!(one == other, one.key(below) == other.key(below));
            prop_assert_ne!(one.key(below), one.key(KeyMaker::new("else").key()));
        }
    }
}
