//! What must hold before a change is handed on.

use anyhow::Result;
use xtask::run::{cargo, is_installed, run as command};

use crate::layers;

pub(crate) fn run() -> Result<()> {
    command(cargo(&["fmt", "--all", "--check"]))?;
    command(cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    layers::run(layers::Mode::Compare)?;
    if is_installed("cargo-deny") {
        command(cargo(&[
            "deny",
            "--offline",
            "check",
            "licenses",
            "bans",
            "sources",
        ]))?;
    } else {
        eprintln!("SKIP: cargo-deny is not installed: cargo install cargo-deny");
    }
    Ok(())
}
