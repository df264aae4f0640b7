//! The composition root: builds the engine and serves it.

use super::arguments::Settings;

/// Runs the engine until a signal asks to stop.
pub(super) fn run(settings: &Settings) -> anyhow::Result<()> {
    let _ = settings;
    anyhow::bail!("the engine is not wired yet")
}
