//! The distribution protocol as clients see it: every endpoint, then clients that mean harm.

#![allow(clippy::unwrap_used)]

mod auth;
mod cache;
mod content;
mod hostile;
mod listing;
mod operate;
mod push;
mod support;
