//! Resource limits, by the names of the specification.

use rustix::process::{Resource, Rlimit as KernelLimit, setrlimit};
use sampan_oci::runtime::Rlimit;

use crate::Error;

/// One limit to set.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    pub(crate) name: String,
    resource: Resource,
    soft: u64,
    hard: u64,
}

impl Limit {
    pub(crate) fn parse(from: &Rlimit) -> Result<Self, Error> {
        let resource = match from.kind.to_ascii_uppercase().trim_start_matches("RLIMIT_") {
            "AS" => Resource::As,
            "CORE" => Resource::Core,
            "CPU" => Resource::Cpu,
            "DATA" => Resource::Data,
            "FSIZE" => Resource::Fsize,
            "LOCKS" => Resource::Locks,
            "MEMLOCK" => Resource::Memlock,
            "MSGQUEUE" => Resource::Msgqueue,
            "NICE" => Resource::Nice,
            "NOFILE" => Resource::Nofile,
            "NPROC" => Resource::Nproc,
            "RSS" => Resource::Rss,
            "RTPRIO" => Resource::Rtprio,
            "RTTIME" => Resource::Rttime,
            "SIGPENDING" => Resource::Sigpending,
            "STACK" => Resource::Stack,
            _ => {
                return Err(Error::Invalid(format!(
                    "unknown resource limit: {}",
                    from.kind
                )));
            }
        };
        if from.soft > from.hard {
            return Err(Error::Invalid(format!(
                "the soft limit of {} is above the hard one",
                from.kind
            )));
        }
        Ok(Self {
            name: from.kind.clone(),
            resource,
            soft: from.soft,
            hard: from.hard,
        })
    }

    /// Child code.
    pub(crate) fn apply(&self) -> rustix::io::Result<()> {
        let finite = |value: u64| (value != u64::MAX).then_some(value);
        setrlimit(
            self.resource,
            KernelLimit {
                current: finite(self.soft),
                maximum: finite(self.hard),
            },
        )
    }
}
