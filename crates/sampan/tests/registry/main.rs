//! `sampan registry serve` with real clients, and killed while they are at it.
#![allow(clippy::unwrap_used, missing_docs)]

mod bucket;
mod clients;
mod http;
mod kill;
mod server;
mod web;

/// The executable under test.
const SAMPAN: &str = env!("CARGO_BIN_EXE_sampan");
