//! Containers: what they are, and the service that runs them.
//!
//! A file per noun (what a container is) and per verb (what is done to it). [`registry`] holds what
//! there is; [`service::Inner`] is what the verbs work with; [`spec`], [`validate`], [`filter`],
//! [`lifecycle`] and [`recovery::plan`] are pure.

pub(crate) mod archive;
pub(crate) mod attach;
pub(crate) mod block;
pub(crate) mod cgroup_parent;
pub(crate) mod changes;
pub(crate) mod commit;
pub(crate) mod config;
pub(crate) mod control_groups;
pub(crate) mod create;
pub(crate) mod end;
pub(crate) mod exec;
pub(crate) mod files;
pub(crate) mod filter;
pub(crate) mod health;
pub(crate) mod id;
pub(crate) mod inner_mount;
pub(crate) mod join;
pub(crate) mod lifecycle;
pub(crate) mod link;
pub(crate) mod log_config;
pub(crate) mod logs;
pub(crate) mod mount;
pub(crate) mod names;
pub(crate) mod news;
mod own_users;
pub(crate) mod prune;
pub(crate) mod record;
pub(crate) mod recovery;
pub(crate) mod registry;
pub(crate) mod remove;
pub(crate) mod request;
mod resolver_file;
pub(crate) mod restart;
pub(crate) mod security;
pub(crate) mod service;
pub(crate) mod slots;
pub(crate) mod spec;
pub(crate) mod start;
pub(crate) mod stop;
#[cfg(test)]
pub(crate) mod test_record;
pub(crate) mod top;
pub(crate) mod update;
pub(crate) mod usage;
pub(crate) mod validate;
pub(crate) mod view;
