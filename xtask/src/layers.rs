//! The dependencies between the workspace's crates, against the committed
//! picture: an arrow that points up, or a new one, is a decision to make.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xtask::run::{cargo, workspace};

/// What to do with the picture.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    Compare,
    Write,
}

/// The rows of the design, from the top. A crate may depend on crates of lower
/// rows, and on those of its own row that stand to its right; an arrow may
/// never point up or to the left.
const ROWS: &[&[&str]] = &[
    &[
        "sampan",
        "sampan-oci-runtime",
        "sampan-shim",
        "xtask-lab",
        "xtask",
        "sampan-testing",
    ],
    &[
        "sampan-server",
        "sampan-api",
        "sampan-buildkit",
        "sampan-registry",
    ],
    &["sampan-engine", "sampan-build", "sampan-dockerfile"],
    &[
        "sampan-images",
        "sampan-archive",
        "sampan-registry-client",
        "sampan-layers",
        "sampan-content",
        "sampan-state",
    ],
    &[
        "sampan-network",
        "sampan-logs",
        "sampan-systemd",
        "sampan-runtime",
        "sampan-shim-protocol",
        "sampan-cgroups",
    ],
    &["sampan-fs", "sampan-oci", "sampan-text", "sampan-kernel"],
];

/// Rows whose crates know nothing of each other: they meet in the engine.
const STORAGE: usize = 3;
const HOST: usize = 4;

pub(crate) fn run(mode: Mode) -> Result<()> {
    let graph = graph()?;
    for (from, targets) in &graph {
        for to in targets {
            check_arrow(from, to)?;
        }
    }
    let picture = draw(&graph);
    let path = workspace().join("docs/layers.txt");
    if mode == Mode::Write {
        std::fs::write(&path, picture)?;
        return Ok(());
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if committed != picture {
        bail!(
            "the crates depend on each other in another way than docs/layers.txt shows; \
             if that is meant, run `cargo xtask layers --write`. Now:\n{picture}"
        );
    }
    Ok(())
}

fn position(name: &str) -> Result<(usize, usize)> {
    ROWS.iter()
        .enumerate()
        .find_map(|(row, names)| Some((row, names.iter().position(|n| *n == name)?)))
        .with_context(|| format!("{name} has no place in the picture: see xtask/src/layers.rs"))
}

fn check_arrow(from: &str, to: &str) -> Result<()> {
    let (source, target) = (position(from)?, position(to)?);
    ensure!(
        target > source,
        "{from} must not depend on {to}: arrows point down"
    );
    ensure!(
        (source.0, target.0) != (STORAGE, HOST),
        "{from} must not depend on {to}: storage and host meet in the engine"
    );
    Ok(())
}

/// Each crate of the workspace with those that it uses outside of tests.
fn graph() -> Result<BTreeMap<String, Vec<String>>> {
    let output = cargo(&["metadata", "--format-version=1", "--no-deps"]).output()?;
    ensure!(output.status.success(), "cargo metadata failed");
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let mut graph = BTreeMap::new();
    for package in packages {
        let name = package["name"].as_str().context("a package has no name")?;
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        let mut own: Vec<String> = dependencies
            .filter(|dependency| !dependency["path"].is_null() && dependency["kind"].is_null())
            .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
            .collect();
        own.sort();
        graph.insert(name.to_owned(), own);
    }
    Ok(graph)
}

fn draw(graph: &BTreeMap<String, Vec<String>>) -> String {
    let mut out = String::new();
    for name in ROWS.iter().flat_map(|row| row.iter()) {
        if let Some(targets) = graph.get(*name) {
            let line = format!("{name} -> {}", targets.join(" "));
            writeln!(out, "{}", line.trim_end()).expect("writing to a string does not fail");
        }
    }
    out
}
