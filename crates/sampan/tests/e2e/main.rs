//! The built executables, end to end, against the real `docker` client, real
//! images and real registries. Every test has an engine of its own and leaves
//! nothing on the machine: dropping the engine checks that.
#![allow(clippy::unwrap_used, missing_docs)]

mod apparmor;
mod breakout;
mod build;
mod build_cache;
mod build_client;
mod build_fetch;
mod build_hostile;
mod build_kills;
mod build_layouts;
mod build_mounts;
mod build_real;
mod build_secrets;
mod build_sources;
mod build_ssh;
mod buildkit;
mod commands;
mod copy;
mod daemon;
mod devices;
mod every_flag;
mod failures;
mod flags;
mod health;
mod hostile;
mod images;
mod inside;
mod kills;
mod layers;
mod limits;
mod login;
mod logs;
mod nested;
mod network;
mod output;
mod raw;
mod registries;
mod remote;
mod restarts;
mod runtimes;
mod services;
mod sessions;
mod space;
mod storage;
mod systemd;
mod table;
mod transcripts;
mod users;

use sampan_testing::TestEngine;

/// The executable under test.
const SAMPAN: &str = env!("CARGO_BIN_EXE_sampan");

fn engine() -> TestEngine {
    TestEngine::start(SAMPAN)
}

fn engine_with_busybox() -> TestEngine {
    TestEngine::with_busybox(SAMPAN)
}
