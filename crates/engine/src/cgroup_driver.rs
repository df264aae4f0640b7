//! Who makes containers' control groups.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Who makes containers' control groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The engine and its shims, below a group of the engine's own.
    #[default]
    Cgroupfs,
    /// systemd makes a delegated scope for each; what lies below it is made as ever.
    Systemd,
}

impl CgroupDriver {
    /// Whether this host has it.
    pub fn check(self) -> Result<()> {
        match self {
            Self::Systemd if !sampan_systemd::is_running() => Err(Error::invalid(
                "the control groups cannot be made by systemd, which does not run this system: leave --exec-opt \
                 native.cgroupdriver=systemd out",
            )),
            Self::Cgroupfs | Self::Systemd => Ok(()),
        }
    }

    /// The name that Docker has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }
}

impl fmt::Display for CgroupDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CgroupDriver {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "cgroupfs" => Ok(Self::Cgroupfs),
            "systemd" => Ok(Self::Systemd),
            other => Err(Error::invalid(format!(
                "there is no cgroup driver {other}: use cgroupfs or systemd"
            ))),
        }
    }
}
