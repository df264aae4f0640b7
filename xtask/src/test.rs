//! All tests, as CI and a new contributor run them.

use std::env;
use std::thread::available_parallelism;

use anyhow::Result;
use xtask::packages;
use xtask::run::{cargo, run as command};

/// How many tests of a program run at a time.
const THREADS: &str = "RUST_TEST_THREADS";

/// Installs, builds, tests. `filters` are handed to the test programs.
pub(crate) fn run(filters: &[&str]) -> Result<()> {
    packages::install()?;
    // Builds the executables, too, which the end-to-end tests drive.
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast", "--"]);
    tests.args(filters);
    if env::var_os(THREADS).is_none() {
        // They wait for a third of their time.
        let processors = available_parallelism()?.get();
        tests.env(THREADS, (processors + processors.div_ceil(2)).to_string());
    }
    command(tests)
}
