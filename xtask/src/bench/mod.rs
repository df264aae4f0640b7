//! `cargo xtask bench`: Sampan against what people would use instead, in one
//! run on the same images. Machines are noisy and differ: the samples of all
//! are taken in turn, and ratios of medians are what counts.

mod burst;
mod measure;
mod memory;
mod peers;
mod pull;
mod runtime;
mod single;

use anyhow::{Result, bail};
use sampan_testing::TestEngine;

use crate::packages;
use crate::run::{cargo, run as command, workspace};

/// The benchmarks by name, in the order in which they run.
const NAMES: [&str; 6] = ["runtime", "start", "exec", "burst", "pull", "memory"];

/// Runs the named benchmarks, all if none is named.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let (flags, names): (Vec<&str>, Vec<&str>) = arguments
        .iter()
        .partition(|argument| argument.starts_with("--"));
    if let Some(unknown) = names.iter().find(|name| !NAMES.contains(name)) {
        bail!("no benchmark {unknown}: there are {}", NAMES.join(", "));
    }
    if let Some(unknown) = flags.first() {
        bail!("unknown flag {unknown}");
    }
    packages::install()?;
    packages::install_peers()?;
    command(cargo(&["build", "--release", "--workspace", "--bins"]))?;
    command(cargo(&[
        "build",
        "--release",
        "-p",
        "sampan-runtime",
        "--examples",
    ]))?;
    let wanted = |name: &str| names.is_empty() || names.contains(&name);
    if wanted("runtime") {
        runtime::run()?;
    }
    let peers = peers::Peers::start()?;
    if wanted("start") {
        single::start(&peers)?;
    }
    if wanted("exec") {
        single::exec(&peers)?;
    }
    if wanted("burst") {
        burst::run(&peers)?;
    }
    if wanted("pull") {
        pull::run(&peers)?;
    }
    if wanted("memory") {
        memory::run(&peers)?;
    }
    Ok(())
}

/// Where the release build puts its programs.
fn release(program: &str) -> std::path::PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), std::path::PathBuf::from);
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    target.join(host).join("release").join(program)
}

fn engine() -> TestEngine {
    TestEngine::with_busybox(release("sampan"))
}
