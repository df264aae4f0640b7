//! What runs the commands of a build.

use std::path::PathBuf;

use sampan_images::HeldLayer;
use sampan_oci::{DiffId, Digest, Platform};
use tokio_util::sync::CancellationToken;

use crate::cache::{Key, KeyMaker};
use crate::secrets::Secrets;

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
    /// What is mounted meanwhile, in order.
    pub mounts: Vec<StepMount>,
    /// Variables whose values are secrets.
    pub secret_environment: Vec<SecretVariable>,
    /// How it is confined.
    pub confinement: Confinement,
    /// What it may use.
    pub limits: Limits,
    /// Later times of files that it changes become this one, in seconds since 1970.
    pub latest: Option<i64>,
    /// What mounts will have made in the file system that is no change of the command's: deepest
    /// first.
    pub stubs: Vec<Stub>,
    /// What it has changed is wanted also when it fails.
    pub keep_failed: bool,
}

/// How a command is confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Confinement {
    /// As containers are.
    #[default]
    Sandbox,
    /// Not at all: all of the host's powers.
    None,
}

/// What commands may use; zero and empty are the usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of memory and swap together; -1 for no limit.
    pub memory_swap: i64,
    /// Relative weight.
    pub cpu_shares: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds in each period.
    pub cpu_quota: i64,
    /// Such as `0-2,4`.
    pub cpuset_cpus: String,
    /// Such as `0`.
    pub cpuset_mems: String,
    /// The cgroup above the container's.
    pub cgroup_parent: String,
    /// Bytes of `/dev/shm`.
    pub shm_size: i64,
    /// Limits of processes.
    pub ulimits: Vec<Ulimit>,
}

/// A limit of processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ulimit {
    /// Such as `nofile`.
    pub name: String,
    /// The soft limit; -1 for none.
    pub soft: i64,
    /// The hard limit; -1 for none.
    pub hard: i64,
}

/// Something that is mounted for a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepMount {
    /// Absolute, without `.`, `..` and symbolic links of the file system below.
    pub target: String,
    /// Whether the command may not write to it.
    pub read_only: bool,
    /// What it is.
    pub source: MountSource,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// An empty file system in memory, of at most so many bytes; 0 is no limit.
    Memory {
        /// Bytes.
        size: u64,
    },
    /// A file or a directory of layers. What is written to it is dropped.
    Layers {
        /// Bottom first.
        layers: Vec<DiffId>,
        /// The path in them, without links and without a slash in front.
        path: Vec<u8>,
        /// Names what is there.
        content: Digest,
    },
    /// A directory that stays with the builder.
    Cache {
        /// Names what a new one is filled with.
        seed: Option<Digest>,
        /// Where it is on the host; known when the command is about to run.
        directory: PathBuf,
    },
    /// A file with a secret, never on a disk.
    Secret {
        /// Which.
        id: String,
        /// Whether the step fails if there is none; else nothing is mounted.
        required: bool,
        /// Of the file.
        access: Access,
    },
    /// A socket of an SSH agent.
    Agent {
        /// Which.
        id: String,
        /// Whether the step fails if there is none; else nothing is mounted.
        required: bool,
        /// Of the socket.
        access: Access,
    },
    /// A directory with one file that can be run.
    Script {
        /// The file's name.
        name: String,
        /// Its content.
        content: String,
    },
}

/// Who may use a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A variable whose value is a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretVariable {
    /// Its name.
    pub name: String,
    /// Which secret.
    pub id: String,
    /// Whether the step fails if there is none; else the variable is not set.
    pub required: bool,
}

/// Something that is there for a mount alone, or only looks changed because of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stub {
    /// Without a slash in front.
    pub path: Vec<u8>,
    /// The mode, owner and group of a directory that was there before.
    pub was: Option<Access>,
}

impl RunStep {
    /// Whether it has secrets or an agent of the client, which its key does not name.
    pub(crate) fn is_private(&self) -> bool {
        let is_client_s = |source: &MountSource| {
            matches!(
                source,
                MountSource::Secret { .. } | MountSource::Agent { .. }
            )
        };
        !self.secret_environment.is_empty()
            || self.mounts.iter().any(|mount| is_client_s(&mount.source))
    }

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
            mounts,
            secret_environment,
            confinement,
            // Limits decide whether a command ends well, not what it makes.
            limits: _,
            latest,
            // They follow from the mounts.
            stubs: _,
            keep_failed: _,
        } = self;
        let mut key = KeyMaker::new("run");
        key.text("below", &below.0.hex());
        key.texts("command", command);
        key.texts("environment", environment);
        key.text("user", user);
        key.text("directory", directory);
        key.text("network", &format!("{network:?}"));
        key.texts("hosts", extra_hosts);
        key.number("mounts", mounts.len() as u64);
        for mount in mounts {
            mount.describe(&mut key);
        }
        key.number("secrets", secret_environment.len() as u64);
        for variable in secret_environment {
            key.text("variable", &variable.name);
            key.text("secret", &variable.id);
        }
        if *confinement != Confinement::default() {
            key.text("confinement", &format!("{confinement:?}"));
        }
        if let Some(latest) = latest {
            key.text("latest", &latest.to_string());
        }
        key.key()
    }
}

impl StepMount {
    /// What a command can know of it. Of secrets and of what stays with the builder that is only
    /// where they are.
    fn describe(&self, key: &mut KeyMaker) {
        key.text("target", &self.target);
        key.number("read-only", u64::from(self.read_only));
        match &self.source {
            MountSource::Memory { size } => key.number("memory", *size),
            MountSource::Layers { content, .. } => key.text("content", &content.hex()),
            MountSource::Cache { seed, .. } => {
                let seed = seed.as_ref().map(Digest::hex).unwrap_or_default();
                key.text("cache", &seed);
            }
            MountSource::Secret { access, .. } => access.describe("secret", key),
            MountSource::Agent { access, .. } => access.describe("agent", key),
            MountSource::Script { name, content } => {
                key.text("script", name);
                key.text("content", content);
            }
        }
    }
}

impl Access {
    fn describe(self, what: &str, key: &mut KeyMaker) {
        for number in [self.mode, self.uid, self.gid] {
            key.number(what, u64::from(number));
        }
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
    /// What it has changed; only looked at when it ended well, or is kept when it fails.
    pub changes: Option<HeldLayer>,
}

/// Why a command could not be run.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SandboxError(pub String);

/// Runs commands as containers are run. Nothing is left of a command when [`run`](Self::run)
/// returns, however it does, but the layer of its changes.
pub trait Sandbox: Sync {
    /// Says whether programs for a machine can be run.
    fn check_platform(&self, platform: &Platform) -> Result<(), SandboxError> {
        let host = Platform::host();
        match platform.architecture.is_empty() || host.rank(platform).is_some() {
            true => Ok(()),
            false => Err(SandboxError(format!(
                "commands for {platform} cannot be run on {host}"
            ))),
        }
    }

    /// Runs a command to its end and hands on what it writes. Ends it when `cancel` is set. Blocks.
    fn run(
        &self,
        step: &RunStep,
        secrets: &dyn Secrets,
        output: &mut (dyn FnMut(&[u8]) + Send),
        cancel: &CancellationToken,
    ) -> Result<Ran, SandboxError>;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source() -> impl Strategy<Value = MountSource> {
        let access = (0..2u32, 0..2u32).prop_map(|(mode, uid)| Access { mode, uid, gid: 0 });
        let digest = prop_oneof![Just(Digest::of(b"a")), Just(Digest::of(b"b"))];
        prop_oneof![
            (0..3u64).prop_map(|size| MountSource::Memory { size }),
            digest.clone().prop_map(|content| MountSource::Layers {
                layers: Vec::new(),
                path: Vec::new(),
                content,
            }),
            proptest::option::of(digest).prop_map(|seed| MountSource::Cache {
                seed,
                directory: PathBuf::new(),
            }),
            access.clone().prop_map(|access| MountSource::Secret {
                id: String::new(),
                required: false,
                access,
            }),
            access.prop_map(|access| MountSource::Agent {
                id: String::new(),
                required: false,
                access,
            }),
            ("[ab]{0,1}", "[ab]{0,1}")
                .prop_map(|(name, content)| MountSource::Script { name, content }),
        ]
    }

    fn step() -> impl Strategy<Value = RunStep> {
        let words = || proptest::collection::vec("[ab=/]{0,3}", 0..3);
        let mount = ("[ab/]{0,2}", proptest::bool::ANY, source()).prop_map(
            |(target, read_only, source)| StepMount {
                target,
                read_only,
                source,
            },
        );
        let mounts = proptest::collection::vec(mount, 0..2);
        let network = prop_oneof![
            Just(Network::Default),
            Just(Network::None),
            Just(Network::Host)
        ];
        let confinement = prop_oneof![Just(Confinement::Sandbox), Just(Confinement::None)];
        let texts = ("[ab]{0,2}", "[ab]{0,2}");
        (
            words(),
            words(),
            texts,
            network,
            words(),
            mounts,
            confinement,
        )
            .prop_map(
                |(
                    command,
                    environment,
                    (user, directory),
                    network,
                    extra_hosts,
                    mounts,
                    confinement,
                )| {
                    RunStep {
                        command,
                        environment,
                        user,
                        directory,
                        network,
                        extra_hosts,
                        mounts,
                        confinement,
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
