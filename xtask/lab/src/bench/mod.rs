//! `cargo xtask bench`: Sampan against what people would use instead, in one
//! run on the same images. Machines are noisy and differ: the samples of all
//! are taken in turn, and ratios of medians are what counts.

mod archive;
mod breakdown;
mod build;
mod burst;
mod delete;
mod measure;
mod memory;
mod peers;
mod pull;
mod push;
mod registry;
mod runtime;
mod single;
mod table;
mod world;

use anyhow::{Result, bail};
use sampan_testing::{Fixture, TestEngine, fixture};
use table::Table;
use xtask::packages;
use xtask::run::{cargo, run as command, workspace};

/// The benchmarks by name, in the order in which they run.
const NAMES: [&str; 12] = [
    "runtime", "registry", "start", "exec", "burst", "pull", "push", "save", "load", "delete",
    "memory", "build",
];
/// Those that need no engine.
const WITHOUT_ENGINES: [&str; 2] = ["runtime", "registry"];

/// Runs the named benchmarks, all if none is named.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let (flags, names): (Vec<&str>, Vec<&str>) = arguments
        .iter()
        .partition(|argument| argument.starts_with("--"));
    if let Some(unknown) = names.iter().find(|name| !NAMES.contains(name)) {
        bail!("no benchmark {unknown}: there are {}", NAMES.join(", "));
    }
    match flags.as_slice() {
        [] => {}
        [world::INSIDE] => return inside(&names),
        [world::INSIDE, breakdown::FLAG] => return breakdown::run(),
        [breakdown::FLAG] => {}
        [unknown, ..] => bail!("unknown flag {unknown}"),
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
    // Made where packages can be downloaded.
    for image in [Fixture::Busybox, Fixture::FiveLayers] {
        let _ = fixture(image).archive();
    }
    if names.is_empty() || names.contains(&"build") {
        build::prepare()?;
    }
    world::run(arguments)
}

fn inside(names: &[&str]) -> Result<()> {
    let wanted = |name: &str| names.is_empty() || names.contains(&name);
    let mut table = Table::default();
    if wanted("runtime") {
        runtime::run(&mut table)?;
    }
    if wanted("registry") {
        registry::run()?;
    }
    if names.is_empty() || names.iter().any(|name| !WITHOUT_ENGINES.contains(name)) {
        let peers = peers::Peers::start()?;
        if wanted("start") {
            single::start(&peers, &mut table)?;
        }
        if wanted("exec") {
            single::exec(&peers, &mut table)?;
        }
        if wanted("burst") {
            burst::run(&peers, &mut table)?;
        }
        if wanted("pull") {
            pull::run(&peers, &mut table)?;
        }
        if wanted("push") {
            push::run(&peers, &mut table)?;
        }
        if wanted("save") {
            archive::save(&peers, &mut table)?;
        }
        if wanted("load") {
            archive::load(&peers, &mut table)?;
        }
        if wanted("delete") {
            delete::run(&peers, &mut table)?;
        }
        if wanted("memory") {
            memory::run(&peers, &mut table)?;
        }
        if wanted("build") {
            build::run(&peers, &mut table)?;
        }
    }
    println!("\n{table}");
    Ok(())
}

/// Where the release build puts its programs.
fn release(program: &str) -> std::path::PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), std::path::PathBuf::from);
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    target.join(host).join("release").join(program)
}

/// An engine that has the busybox image.
fn engine(level: &str) -> TestEngine {
    let engine = TestEngine::start_with(release("sampan"), &["--log-level", level]);
    engine.load(Fixture::Busybox);
    engine
}
