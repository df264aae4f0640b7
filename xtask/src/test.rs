//! All tests, as CI and a new contributor run them.

use anyhow::Result;

use crate::packages;
use crate::run::{cargo, run as command};

/// Installs, builds, tests. `filters` are handed to the test programs.
pub(crate) fn run(filters: &[&str]) -> Result<()> {
    packages::install()?;
    // The end-to-end tests drive these executables.
    command(cargo(&["build", "--workspace", "--bins"]))?;
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast", "--"]);
    tests.args(filters);
    command(tests)
}
