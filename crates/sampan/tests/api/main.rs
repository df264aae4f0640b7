//! The Engine API on the wire: raw HTTP against the built executables, and docker-py. Every
//! test has an engine of its own and leaves nothing on the machine.
#![allow(clippy::unwrap_used, missing_docs)]

mod docker_py;
mod effects;
mod endpoints;
mod events;
mod hostile;
mod http;
mod images;
mod parameters;
mod shapes;
mod streams;
mod system;
mod websocket;

use sampan_testing::TestEngine;

/// The executable under test.
const SAMPAN: &str = env!("CARGO_BIN_EXE_sampan");

fn engine() -> TestEngine {
    TestEngine::start(SAMPAN)
}

fn engine_with_busybox() -> TestEngine {
    TestEngine::with_busybox(SAMPAN)
}
