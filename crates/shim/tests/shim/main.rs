//! Drives the built shim with the protocol's client, on a root file system made of busybox.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test's preparation fails the test"
)]

mod attach;
mod engine_death;
mod exec;
mod harness;
mod init;
mod life;
