//! Containers: what they are, and the service that runs them.

pub(crate) mod config;
pub(crate) mod filter;
pub(crate) mod id;
pub(crate) mod lifecycle;
pub(crate) mod mount;
pub(crate) mod names;
pub(crate) mod request;
pub(crate) mod service;
pub(crate) mod view;
