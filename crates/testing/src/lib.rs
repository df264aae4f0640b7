//! What the end-to-end tests and the benchmarks share: an engine with state of
//! its own, registries, real images made from Debian's packages, and the
//! ledger of what a test must not leave behind.
//!
//! Nothing here is part of the product. Failures panic with what the failed
//! program printed: the callers are tests.
#![allow(clippy::missing_panics_doc, clippy::unwrap_used)]

mod bucket;
mod command;
mod engine;
mod fixtures;
mod ledger;
mod plugins;
mod registry;
mod scripted;

pub use bucket::Bucket;
pub use command::{Ran, free_port, run, run_in, slowness, until};
pub use engine::TestEngine;
pub use fixtures::{Fixture, fixture};
pub use ledger::Ledger;
pub use plugins::docker_plugins;
pub use registry::{Certificates, Login, Registry};
pub use scripted::{Answer, Asked, ScriptedServer};
