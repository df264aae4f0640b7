//! Control groups of containers, on v1, v2 and the hybrid of both.
//!
//! A container has one [`Cgroup`]: a directory of the same relative path
//! ([`CgroupPath`]) in each hierarchy that is in use for it. [`Hierarchies`]
//! says which exist on this host. On v2 everything lies in one tree; on the
//! hybrid the v2 tree carries no controllers but still kills and freezes
//! atomically, and v1 hierarchies do the limiting.
//!
//! Only those v1 hierarchies are joined that do something for the container
//! (devices, memory, pids and cpuacct always; cpu, cpuset and blkio when
//! limits ask for them): every join costs a directory and a write at start.
//!
//! This crate knows nothing of images, engines or processes beyond their
//! ids. It works on files below the cgroup mounts and nowhere else.

mod cgroup;
mod devices;
mod error;
mod hierarchy;
mod path;
mod settings;
mod statistics;

pub use cgroup::{
    AttachPlan, Cgroup, CgroupReach, ControllerMount, birthplace, move_process, remove_parent,
};
pub use error::{Error, ErrorKind};
pub use hierarchy::{Controller, Hierarchies, Hierarchy, Layout};
pub use path::CgroupPath;
pub use statistics::{CpuStatistics, IoCount, MemoryStatistics, Statistics};
